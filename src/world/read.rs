//! Pixels become words again.

use super::caption::Caption;
use super::clip::Clip;
use super::matte::{Blob, Matte, distance, median};
use super::words::{Background, Color, Motion, Shape};

/// Largest distance from a palette colour, in RGB levels, that still has its name.
const COLOR_REACH: f64 = 70.0;
/// Least agreement with an outline (1 is perfect) for an object to have a shape.
const LEAST_LIKENESS: f64 = 0.88;
/// Share of the frames in which an object must be seen.
const LEAST_SEEN: f64 = 0.5;
/// Of a moving object, largest part of its way across the direction it has.
const MOST_SLANT: f64 = 0.5;

/// What a clip shows; `None` for what cannot be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// What is behind the object.
    pub background: Option<Background>,
    /// Colour of the object.
    pub color: Option<Color>,
    /// Shape of the object.
    pub shape: Option<Shape>,
    /// What the object does; `None` also if it goes slantwise, or there is only one frame.
    pub motion: Option<Motion>,
    /// Centroid `[x, y]` of the object in each frame, in widths and heights of the frame.
    pub track: Vec<Option<[f64; 2]>>,
    /// Way `[x, y]` of the object from the first frame to the last, in widths and heights of the
    /// frame: the slope of a line through the track that outliers do not bend (Theil–Sen).
    pub travel: Option<[f64; 2]>,
    /// How clear the case is, 0 to 1: least of the share of frames that show an object and, for
    /// each word, `1 − d₁/d₂` with the distances of the best and of the second-best word. 0 if
    /// anything cannot be told.
    pub confidence: f64,
}

impl Observation {
    /// The sentence for what is shown, if all of it can be told.
    pub fn caption(&self) -> Option<Caption> {
        Some(Caption {
            shape: self.shape?,
            color: self.color?,
            motion: self.motion?,
            background: self.background?,
        })
    }
}

/// Says what a clip shows.
///
/// The background is the median of each row over all frames; the object is the largest connected
/// region that differs from it, its colour the median of the pixels that differ most. Names are
/// those of the nearest colour, outline (compared at the measured centroid and area) and way.
pub fn read(clip: &Clip) -> Observation {
    observe(clip, &Matte::of(clip))
}

/// [`read`] for a clip that has been taken apart.
pub(super) fn observe(clip: &Clip, matte: &Matte) -> Observation {
    let background = matte.background().and_then(|rgb| {
        let distances = Background::ALL.map(|one| (one, distance(rgb, one.rgb().map(f64::from))));
        nearest(distances).filter(|best| best.distance <= COLOR_REACH)
    });
    let seen: Vec<(usize, Blob)> =
        matte.blobs.iter().enumerate().filter_map(|(t, blob)| Some((t, (*blob)?))).collect();
    let share = seen.len() as f64 / clip.frames().max(1) as f64;
    let there = !seen.is_empty() && share >= LEAST_SEEN;
    let color = matte.color.filter(|_| there).and_then(|rgb| {
        let distances = Color::ALL.map(|one| (one, distance(rgb, one.rgb().map(f64::from))));
        nearest(distances).filter(|best| best.distance <= COLOR_REACH)
    });
    let shape = there.then(|| name_shape(clip, matte, &seen)).flatten();
    let sides = [clip.width() as f64, clip.height() as f64];
    let relative = |blob: Blob| [0, 1].map(|axis| blob.center[axis] / sides[axis]);
    let track: Vec<_> = matte.blobs.iter().map(|blob| blob.map(relative)).collect();
    let travel = if there { fit_travel(&track) } else { None };
    let motion = travel.and_then(name_motion);
    let clear = [
        background.as_ref().map(Nearest::clearness),
        color.as_ref().map(Nearest::clearness),
        shape.as_ref().map(Nearest::clearness),
        motion.as_ref().map(Nearest::clearness),
    ];
    Observation {
        background: background.map(|best| best.name),
        color: color.map(|best| best.name),
        shape: shape.map(|best| best.name),
        motion: motion.map(|best| best.name),
        track,
        travel,
        confidence: clear.into_iter().fold(share, |least, one| least.min(one.unwrap_or(0.0))),
    }
}

/// The best of several names.
#[derive(Clone, Copy, Debug)]
struct Nearest<T> {
    name: T,
    distance: f64,
    second: f64,
}

impl<T> Nearest<T> {
    fn clearness(&self) -> f64 {
        if self.second > 0.0 { 1.0 - self.distance / self.second } else { 0.0 }
    }
}

fn nearest<T>(distances: impl IntoIterator<Item = (T, f64)>) -> Option<Nearest<T>> {
    let mut best: Option<Nearest<T>> = None;
    for (name, distance) in distances {
        best = match best {
            Some(found) if found.distance <= distance => {
                Some(Nearest { second: found.second.min(distance), ..found })
            }
            found => {
                let second = found.map_or(f64::INFINITY, |found| found.distance);
                Some(Nearest { name, distance, second })
            }
        };
    }
    best.filter(|best| best.distance.is_finite())
}

/// The outline that is most like the object, over all frames, when it is put at the object's
/// centroid and given its area. Likeness is the cosine between the two opacities.
fn name_shape(clip: &Clip, matte: &Matte, seen: &[(usize, Blob)]) -> Option<Nearest<Shape>> {
    let [_, height, width] = clip.shape();
    let likeness = |shape: Shape| {
        let [mut both, mut own, mut drawn] = [0.0; 3];
        for (frame, blob) in seen {
            let size = (blob.area / shape.area()).sqrt();
            for y in blob.bounds[0][0]..blob.bounds[0][1] {
                for x in blob.bounds[1][0]..blob.bounds[1][1] {
                    let share = matte.alpha[(frame * height + y) * width + x];
                    let at = [x as f64 + 0.5 - blob.center[0], y as f64 + 0.5 - blob.center[1]];
                    let ideal = shape.coverage(size, at);
                    both += share * ideal;
                    own += share * share;
                    drawn += ideal * ideal;
                }
            }
        }
        both / (own * drawn).sqrt()
    };
    nearest(Shape::ALL.map(|shape| (shape, 1.0 - likeness(shape))))
        .filter(|best| best.distance <= 1.0 - LEAST_LIKENESS)
}

/// Way over the whole clip along each axis: the median of the slopes between all pairs of frames
/// that show the object.
fn fit_travel(track: &[Option<[f64; 2]>]) -> Option<[f64; 2]> {
    let points: Vec<(f64, [f64; 2])> =
        track.iter().enumerate().filter_map(|(t, point)| Some((t as f64, (*point)?))).collect();
    let slope = |axis: usize| {
        let pairs = points.iter().enumerate().flat_map(|(i, first)| {
            let rest = points[i + 1..].iter();
            rest.map(move |second| (second.1[axis] - first.1[axis]) / (second.0 - first.0))
        });
        median(pairs.collect())
    };
    let steps = track.len() as f64 - 1.0;
    Some([slope(0)? * steps, slope(1)? * steps])
}

fn name_motion(travel: [f64; 2]) -> Option<Nearest<Motion>> {
    let best = nearest(Motion::all().map(|motion| {
        let [x, y] = motion.travel();
        (motion, (travel[0] - x).hypot(travel[1] - y))
    }))?;
    let [along, across] = match best.name {
        Motion::Still => return Some(best),
        Motion::Moves(direction, _) if direction.unit()[0] == 0.0 => [travel[1], travel[0]],
        Motion::Moves(..) => travel,
    };
    (across.abs() <= MOST_SLANT * along.abs()).then_some(best)
}
