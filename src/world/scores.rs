//! How well a clip does what its caption says, in numbers from its pixels alone.
//!
//! The names are those of common video benchmarks, the definitions are this world's own: they use
//! its known geometry where benchmarks use large networks, and their values are comparable with
//! each other and with nothing else. Score rendered clips too: they are the best one can get.

use super::caption::Caption;
use super::clip::Clip;
use super::matte::{Blob, Matte};
use super::read::observe;
use super::words::{Motion, Speed};

/// Points along each side of the patch that [`Scores::subject_consistency`] compares.
const PATCH: usize = 24;
/// Half the side of that patch in square roots of the object's area.
const PATCH_REACH: f64 = 0.9;

/// Scores of one clip against its caption; `None` for what cannot be measured.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Scores {
    /// The shape is the caption's.
    pub shape: bool,
    /// The object's colour is the caption's.
    pub color: bool,
    /// The object goes the caption's way, or stays still if it says so; at any speed.
    pub direction: bool,
    /// The motion is the caption's, speed included.
    pub speed: bool,
    /// The background is the caption's.
    pub background: bool,
    /// All of the above.
    pub all: bool,
    /// Clearness of the reading, see [`super::Observation::confidence`].
    pub confidence: f64,
    /// Length of the object's way, in whichever direction, divided by the way the caption asks
    /// for: 1 is right, 0 is a picture that stands still. For an object that is to stay still,
    /// the length of its way in frames: 0 is right.
    pub dynamic_degree: Option<f64>,
    /// How even the object's motion is: `1 − a/(a + v + v₀)`, where `a` is the mean length of the
    /// second difference of its track, `v` that of the first, and `v₀` a slow object's step, so
    /// that tiny tremors of a still object count little. 1 is a straight line at one speed. `None` unless three frames in a row show an object.
    pub motion_smoothness: Option<f64>,
    /// How little a frame differs from the mean of its neighbours: one minus the mean absolute
    /// difference over all pixels, as a share of the largest possible. It sees flicker anywhere;
    /// a perfect clip is below 1 when something moves. `None` below three frames.
    pub frame_smoothness: Option<f64>,
    /// How far the object stays itself: mean over the frames after the first of the cosines with
    /// the first frame and with the one before, of patches about the object's centroid from which
    /// the background is subtracted. It sees changes of colour, shape and area, not of place. A
    /// frame without an object counts 0. `None` if fewer than two frames show one.
    pub subject_consistency: Option<f64>,
    /// How far the background stays the same: one minus the mean absolute difference between
    /// neighbouring frames, as a share of the largest possible, over the pixels that are away
    /// from the object in both. `None` below two frames, or without such pixels.
    pub background_consistency: Option<f64>,
}

impl Scores {
    /// Scores a clip against the caption it was made from.
    pub fn of(caption: Caption, clip: &Clip) -> Self {
        let matte = Matte::of(clip);
        let seen = observe(clip, &matte);
        let shape = seen.shape == Some(caption.shape);
        let color = seen.color == Some(caption.color);
        let speed = seen.motion == Some(caption.motion);
        let direction =
            seen.motion.is_some_and(|motion| motion.direction() == caption.motion.direction());
        let background = seen.background == Some(caption.background);
        Self {
            shape,
            color,
            direction,
            speed,
            background,
            all: shape && color && speed && background,
            confidence: seen.confidence,
            dynamic_degree: seen.travel.map(|travel| dynamic_degree(caption.motion, travel)),
            motion_smoothness: motion_smoothness(&seen.track),
            frame_smoothness: frame_smoothness(clip),
            subject_consistency: subject_consistency(clip, &matte),
            background_consistency: background_consistency(clip, &matte),
        }
    }
}

fn dynamic_degree(asked: Motion, [x, y]: [f64; 2]) -> f64 {
    match asked {
        Motion::Still => x.hypot(y),
        Motion::Moves(_, speed) => x.hypot(y) / speed.travel(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_usize, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

fn motion_smoothness(track: &[Option<[f64; 2]>]) -> Option<f64> {
    let steps: Vec<Option<[f64; 2]>> = track
        .windows(2)
        .map(|pair| Some([pair[1]?[0] - pair[0]?[0], pair[1]?[1] - pair[0]?[1]]))
        .collect();
    let changes = steps.windows(2).filter_map(|pair| {
        let [a, b] = [pair[0]?, pair[1]?];
        Some((b[0] - a[0]).hypot(b[1] - a[1]))
    });
    let change = mean(changes)?;
    let step = mean(steps.iter().flatten().map(|step| step[0].hypot(step[1])))?;
    let least = Speed::Slow.travel() / (track.len() as f64 - 1.0);
    Some(1.0 - change / (change + step + least))
}

fn frame_smoothness(clip: &Clip) -> Option<f64> {
    let differences = (1..clip.frames().saturating_sub(1)).flat_map(|t| {
        let around = clip.frame(t - 1).iter().zip(clip.frame(t + 1));
        let differs = |(byte, (before, after)): (&u8, (&u8, &u8))| {
            f64::from((2 * i32::from(*byte) - i32::from(*before) - i32::from(*after)).abs())
        };
        clip.frame(t).iter().zip(around).map(differs)
    });
    mean(differences).map(|difference| 1.0 - difference / (2.0 * 255.0))
}

/// Difference from the background on a grid around the object, between pixels linearly.
fn patch(clip: &Clip, matte: &Matte, frame: usize, blob: Blob, reach: f64) -> Vec<f64> {
    let limit = [clip.width() as f64 - 1.0, clip.height() as f64 - 1.0];
    let place = |axis: usize, i: usize| {
        let offset = reach * ((2 * i + 1) as f64 / PATCH as f64 - 1.0);
        (blob.center[axis] + offset - 0.5).clamp(0.0, limit[axis])
    };
    let mut values = Vec::with_capacity(PATCH * PATCH * 3);
    for i in 0..PATCH {
        let y = place(1, i);
        for j in 0..PATCH {
            let x = place(0, j);
            let mut sum = [0.0; 3];
            for (row, wy) in [(y as usize, 1.0 - y.fract()), (y.ceil() as usize, y.fract())] {
                for (column, wx) in [(x as usize, 1.0 - x.fract()), (x.ceil() as usize, x.fract())]
                {
                    let rgb = clip.rgb(frame, row, column);
                    for c in 0..3 {
                        sum[c] += wy * wx * (rgb[c] - matte.rows[row][c]);
                    }
                }
            }
            values.extend(sum);
        }
    }
    values
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if norm > 0.0 { (dot(a, b) / norm).max(0.0) } else { 0.0 }
}

fn subject_consistency(clip: &Clip, matte: &Matte) -> Option<f64> {
    let seen = matte.blobs.iter().flatten();
    if seen.clone().count() < 2 {
        return None;
    }
    let reach = PATCH_REACH * mean(seen.map(|blob| blob.area))?.sqrt();
    let patches: Vec<Option<Vec<f64>>> = matte
        .blobs
        .iter()
        .enumerate()
        .map(|(t, blob)| blob.map(|blob| patch(clip, matte, t, blob, reach)))
        .collect();
    let like = |a: &Option<Vec<f64>>, b: &Option<Vec<f64>>| match (a, b) {
        (Some(a), Some(b)) => cosine(a, b),
        _ => 0.0,
    };
    let both = |t: usize| like(&patches[t], &patches[0]) + like(&patches[t], &patches[t - 1]);
    mean((1..patches.len()).map(|t| both(t) / 2.0))
}

fn background_consistency(clip: &Clip, matte: &Matte) -> Option<f64> {
    let width = clip.width();
    let away = |t: usize, y: usize, x: usize| {
        matte.blobs[t].is_none_or(|Blob { bounds: [rows, columns], .. }| {
            !(rows[0]..rows[1]).contains(&y) || !(columns[0]..columns[1]).contains(&x)
        })
    };
    let mut differences = [0_u64; 2];
    for t in 1..clip.frames() {
        let pairs = clip.frame(t).chunks_exact(3).zip(clip.frame(t - 1).chunks_exact(3));
        for (at, (after, before)) in pairs.enumerate() {
            let (y, x) = (at / width, at % width);
            if away(t, y, x) && away(t - 1, y, x) {
                let difference = |(a, b): (&u8, &u8)| u64::from(a.abs_diff(*b));
                differences[0] += after.iter().zip(before).map(difference).sum::<u64>();
                differences[1] += 3;
            }
        }
    }
    let [sum, count] = differences.map(|number| number as f64);
    (count > 0.0).then(|| 1.0 - sum / (255.0 * count))
}
