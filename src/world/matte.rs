//! Object from background: what is where in a clip, before any of it has a name.

use super::clip::Clip;

/// Least distance from the background, in RGB levels, of a pixel that may be the object. Objects
/// and backgrounds of the world are 100 and more apart; noise of 12 levels reaches this in one
/// pixel of 65 000.
const CONTRAST: f64 = 60.0;
/// Least area of an object as a share of the frame: a tenth of what the world draws.
const LEAST_AREA: f64 = 0.005;
/// How far around the solid part of an object, in pixels, its soft edge is looked for.
const EDGE: usize = 2;

/// The object in one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Blob {
    /// Centroid `[x, y]` in pixels; the first pixel's middle is at a half.
    pub(super) center: [f64; 2],
    /// Area in pixels.
    pub(super) area: f64,
    /// Rows and columns that may hold some of it, `[[first, end]; 2]`.
    pub(super) bounds: [[usize; 2]; 2],
}

/// A clip taken apart.
#[derive(Debug)]
pub(super) struct Matte {
    /// Background colour of each row.
    pub(super) rows: Vec<[f64; 3]>,
    /// Colour of the object.
    pub(super) color: Option<[f64; 3]>,
    /// Opacity of the object, `[frames, height, width]`: 0 to 1, and a little beyond where there
    /// is noise, so that its sums are not biased.
    pub(super) alpha: Vec<f64>,
    /// The object in every frame where there is one.
    pub(super) blobs: Vec<Option<Blob>>,
}

impl Matte {
    /// Takes a clip apart. An object must cover less than half of every row.
    pub(super) fn of(clip: &Clip) -> Self {
        let rows = background_rows(clip);
        let color = object_color(clip, &rows);
        let alpha = color.map_or_else(Vec::new, |color| opacity(clip, &rows, color));
        let size = clip.height() * clip.width();
        let blobs = (0..clip.frames())
            .map(|frame| alpha.get(frame * size..(frame + 1) * size))
            .map(|plane| plane.and_then(|plane| largest_blob(plane, clip.width())))
            .collect();
        Self { rows, color, alpha, blobs }
    }

    /// Colour of the whole background.
    pub(super) fn background(&self) -> Option<[f64; 3]> {
        let middle = |c: usize| median(self.rows.iter().map(|row| row[c]).collect());
        Some([middle(0)?, middle(1)?, middle(2)?])
    }
}

/// The median; of two middle values, their mean.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let high = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { (values[middle - 1] + high) / 2.0 } else { high })
}

/// Median of bytes, by counting.
#[derive(Clone)]
struct Histogram([u32; 256], u32);

impl Histogram {
    const fn new() -> Self {
        Self([0; 256], 0)
    }

    const fn add(&mut self, byte: u8) {
        self.0[byte as usize] += 1;
        self.1 += 1;
    }

    fn median(&self) -> f64 {
        let mut below = 0;
        let at = self.0.iter().position(|count| {
            below += count;
            2 * below > self.1
        });
        at.unwrap_or(0) as f64
    }
}

/// The median of each row over all frames: the object covers less than half of it, and a
/// background may change from top to bottom.
fn background_rows(clip: &Clip) -> Vec<[f64; 3]> {
    if clip.frames() == 0 || clip.width() == 0 {
        return Vec::new();
    }
    let row_len = clip.width() * 3;
    let row_median = |y: usize| {
        let mut channels = [const { Histogram::new() }; 3];
        for frame in 0..clip.frames() {
            for pixel in clip.frame(frame)[y * row_len..(y + 1) * row_len].chunks_exact(3) {
                channels.iter_mut().zip(pixel).for_each(|(channel, byte)| channel.add(*byte));
            }
        }
        channels.map(|channel| channel.median())
    };
    (0..clip.height()).map(row_median).collect()
}

/// Every pixel of the clip with the background of its row, in order.
fn pixels_over<'a>(
    clip: &'a Clip,
    rows: &'a [[f64; 3]],
) -> impl Iterator<Item = (&'a [u8], &'a [f64; 3])> {
    let lines = clip.pixels().chunks_exact((clip.width() * 3).max(1));
    lines
        .zip(rows.iter().cycle())
        .flat_map(|(line, row)| line.chunks_exact(3).map(move |p| (p, row)))
}

fn difference(pixel: &[u8], row: &[f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|c| f64::from(pixel[c]) - row[c])
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Distance of two colours.
pub(super) fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    let d = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    dot(d, d).sqrt()
}

/// The median colour of the pixels that differ most from the background, if there are enough.
fn object_color(clip: &Clip, rows: &[[f64; 3]]) -> Option<[f64; 3]> {
    let far = |pixel: &[u8], row: &[f64; 3]| {
        let d = difference(pixel, row);
        dot(d, d)
    };
    let mut contrasts: Vec<f64> = pixels_over(clip, rows)
        .map(|(pixel, row)| far(pixel, row))
        .filter(|square| *square > CONTRAST * CONTRAST)
        .collect();
    let pixels = clip.frames() * clip.height() * clip.width();
    if contrasts.len() as f64 <= LEAST_AREA / 2.0 * pixels as f64 {
        return None;
    }
    // The soft edge of the object would tint its colour: only the fuller half of the contrast.
    let at = contrasts.len() * 3 / 4;
    let (_, upper, _) = contrasts.select_nth_unstable_by(at, f64::total_cmp);
    let least = (0.7 * 0.7 * *upper).max(CONTRAST * CONTRAST);
    let mut channels = [const { Histogram::new() }; 3];
    for (pixel, _) in pixels_over(clip, rows).filter(|(pixel, row)| far(pixel, row) >= least) {
        channels.iter_mut().zip(pixel).for_each(|(channel, byte)| channel.add(*byte));
    }
    Some(channels.map(|channel| channel.median()))
}

/// How far each pixel has come from its background towards the object's colour.
fn opacity(clip: &Clip, rows: &[[f64; 3]], color: [f64; 3]) -> Vec<f64> {
    let one = |(pixel, row): (&[u8], &[f64; 3])| {
        let way = [color[0] - row[0], color[1] - row[1], color[2] - row[2]];
        let length = dot(way, way);
        // A row whose background has the object's colour has no object that could be seen.
        let share = if length > 1.0 { dot(difference(pixel, row), way) / length } else { 0.0 };
        share.clamp(-1.0, 2.0)
    };
    pixels_over(clip, rows).map(one).collect()
}

/// The largest connected part of a plane that is more than half opaque, with its soft edge.
fn largest_blob(alpha: &[f64], width: usize) -> Option<Blob> {
    let height = alpha.len() / width.max(1);
    let mut seen: Vec<bool> = alpha.iter().map(|value| *value < 0.5).collect();
    let mut largest = (0, [[0; 2]; 2]);
    let mut open = Vec::new();
    for start in 0..alpha.len() {
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        let mut count = 0;
        let mut bounds = [[height, 0], [width, 0]];
        open.push(start);
        while let Some(at) = open.pop() {
            count += 1;
            let (y, x) = (at / width, at % width);
            for (side, place) in bounds.iter_mut().zip([y, x]) {
                *side = [side[0].min(place), side[1].max(place + 1)];
            }
            let near = [
                (y > 0).then(|| at - width),
                (y + 1 < height).then(|| at + width),
                (x > 0).then(|| at - 1),
                (x + 1 < width).then(|| at + 1),
            ];
            open.extend(
                near.into_iter()
                    .flatten()
                    .filter(|next| !std::mem::replace(&mut seen[*next], true)),
            );
        }
        if count > largest.0 {
            largest = (count, bounds);
        }
    }
    let enough = largest.0 as f64 >= LEAST_AREA * alpha.len() as f64;
    (largest.0 > 0 && enough).then(|| measure(alpha, [height, width], largest.1))
}

/// Area and centroid of what lies within the bounds and a little around them.
fn measure(alpha: &[f64], [height, width]: [usize; 2], solid: [[usize; 2]; 2]) -> Blob {
    let grow = |[first, end]: [usize; 2], limit: usize| {
        [first.saturating_sub(EDGE), (end + EDGE).min(limit)]
    };
    let bounds = [grow(solid[0], height), grow(solid[1], width)];
    let [mut area, mut sum_x, mut sum_y] = [0.0; 3];
    for y in bounds[0][0]..bounds[0][1] {
        for x in bounds[1][0]..bounds[1][1] {
            let share = alpha[y * width + x];
            area += share;
            sum_x += share * (x as f64 + 0.5);
            sum_y += share * (y as f64 + 0.5);
        }
    }
    Blob { center: [sum_x / area, sum_y / area], area, bounds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_largest_part_wins_and_specks_are_nothing() {
        // 20x20: a block of 4x3 at (5, 10), and a speck.
        let mut alpha = vec![0.0; 400];
        for y in 5..9 {
            for x in 10..13 {
                alpha[y * 20 + x] = 1.0;
            }
        }
        alpha[0] = 1.0;
        let blob = largest_blob(&alpha, 20).expect("a blob");
        assert_eq!(blob, Blob { center: [11.5, 7.0], area: 12.0, bounds: [[3, 11], [8, 15]] });
        let mut speck = vec![0.0; 400];
        speck[0] = 1.0;
        assert_eq!(largest_blob(&speck, 20), None);
        assert_eq!(largest_blob(&[], 0), None);
    }
}
