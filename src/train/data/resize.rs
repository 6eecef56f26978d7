//! Pictures brought to a size: scaled until they cover it, then cut evenly on both sides.
//!
//! The filter is a triangle as wide as the pixels are apart, in whichever picture that is more: an
//! average when shrinking, bilinear when enlarging, nothing at all when the size stays.

use rayon::prelude::*;

/// Scales and cuts pictures of one size to another.
#[derive(Clone, Debug)]
pub struct Resizer {
    source: [usize; 2],
    target: [usize; 2],
    across: Vec<Taps>,
    down: Vec<Taps>,
}

/// Source pixels that make one pixel.
#[derive(Clone, Debug)]
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

impl Resizer {
    /// From `source` to `target`, `[width, height]` each.
    ///
    /// # Panics
    ///
    /// If a size is 0.
    pub fn new(source: [usize; 2], target: [usize; 2]) -> Self {
        assert!(!source.contains(&0) && !target.contains(&0), "{source:?} to {target:?}");
        // Source pixels per target pixel, the same along both axes.
        let step = |axis: usize| source[axis] as f64 / target[axis] as f64;
        let step = step(0).min(step(1));
        let [across, down] = [0, 1].map(|axis| taps(source[axis], target[axis], step));
        Self { source, target, across, down }
    }

    /// The picture `rgb` `[height, width, 3]` of the source's size in the target's.
    ///
    /// # Panics
    ///
    /// If `rgb` has another size.
    pub fn apply(&self, rgb: &[u8]) -> Vec<u8> {
        let [width, height] = self.source;
        assert_eq!(rgb.len(), 3 * width * height, "a picture of {width}x{height}");
        if self.source == self.target {
            return rgb.to_vec();
        }
        let row_len = 3 * self.target[0];
        let first = self.down[0].first;
        let end = self.down.iter().map(|taps| taps.first + taps.weights.len()).max();
        let mut rows = vec![0.0_f32; row_len * (end.unwrap_or(height) - first)];
        rows.par_chunks_exact_mut(row_len).enumerate().for_each(|(row, target)| {
            let source = &rgb[3 * width * (first + row)..][..3 * width];
            for (pixel, taps) in target.chunks_exact_mut(3).zip(&self.across) {
                let source = source[3 * taps.first..].chunks_exact(3);
                for (source, weight) in source.zip(&taps.weights) {
                    for c in 0..3 {
                        pixel[c] += weight * f32::from(source[c]);
                    }
                }
            }
        });
        let mut result = vec![0; row_len * self.target[1]];
        let by_row = result.par_chunks_exact_mut(row_len).zip(&self.down);
        by_row.for_each(|(target, taps)| {
            let mut sum = vec![0.0_f32; row_len];
            for (row, weight) in
                rows[row_len * (taps.first - first)..].chunks_exact(row_len).zip(&taps.weights)
            {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
            // `as` saturates; the weights are positive, so only rounding could exceed the range.
            target.iter_mut().zip(&sum).for_each(|(t, &value)| *t = value.round() as u8);
        });
        result
    }
}

/// The taps of `target` pixels, `step` of `source` apart, in the middle of the axis.
fn taps(source: usize, target: usize, step: f64) -> Vec<Taps> {
    let mut start = (source as f64 - step * target as f64) / 2.0;
    if step == 1.0 {
        // Half a pixel to the side would blur what only has to be cut.
        start = start.floor();
    }
    let support = step.max(1.0);
    let tap = |index: usize| {
        let center = start + step * (index as f64 + 0.5);
        let low = (center - support).floor().max(0.0) as usize;
        let high = ((center + support).ceil().max(0.0) as usize).min(source);
        let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - center) / support).abs()).max(0.0);
        let first = (low..high).find(|&at| weight(at) > 0.0).unwrap_or(low.min(source - 1));
        let mut weights: Vec<f64> = (first..high).map(weight).collect();
        while weights.len() > 1 && weights.last() == Some(&0.0) {
            weights.pop();
        }
        let sum: f64 = weights.iter().sum();
        let weights = weights.iter().map(|weight| (weight / sum) as f32).collect();
        Taps { first, weights }
    };
    (0..target).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Vec<u8> {
        (0..3 * width * height).map(|i| (i * 37 % 251) as u8).collect()
    }

    #[test]
    fn the_same_size_changes_nothing_and_the_same_scale_only_cuts() {
        let rgb = picture(7, 5);
        assert_eq!(Resizer::new([7, 5], [7, 5]).apply(&rgb), rgb);
        for (target, left) in [([5, 5], 1), ([4, 5], 1), ([3, 5], 2)] {
            let cut = Resizer::new([7, 5], target).apply(&rgb);
            for (row, line) in cut.chunks_exact(3 * target[0]).enumerate() {
                let at = 3 * (7 * row + left);
                assert_eq!(line, &rgb[at..at + 3 * target[0]], "{target:?}");
            }
        }
    }

    #[test]
    fn flat_pictures_stay_flat_and_gradients_stay_even() {
        for (source, target) in [([64, 36], [16, 16]), ([5, 9], [32, 16]), ([1, 1], [48, 32])] {
            let flat = vec![77; 3 * source[0] * source[1]];
            let resized = Resizer::new(source, target).apply(&flat);
            assert_eq!(resized, vec![77; 3 * target[0] * target[1]], "{source:?} to {target:?}");
        }
        let ramp: Vec<u8> = (0..8 * 64).flat_map(|i| [(i % 64 * 4) as u8; 3]).collect();
        let half = Resizer::new([64, 8], [32, 4]).apply(&ramp);
        for (x, pixel) in half[..3 * 32].chunks_exact(3).enumerate().skip(1).take(30) {
            assert_eq!(usize::from(pixel[0]), 8 * x + 2, "column {x}");
        }
    }

    #[test]
    fn what_sticks_out_is_cut_evenly() {
        // Thirds of red, green and blue, each a square: green is what remains.
        let color = |x: usize| [[255, 0, 0], [0, 255, 0], [0, 0, 255]][x / 30];
        let rgb: Vec<u8> = (0..30 * 90).flat_map(|i| color(i % 90)).collect();
        let square = Resizer::new([90, 30], [16, 16]).apply(&rgb);
        let middle = &square[3 * (16 * 8 + 8)..][..3];
        assert_eq!(middle, [0, 255, 0]);
        let edges = [0, 15].map(|x| square[3 * (16 * 8 + x) + 1]);
        assert!(edges.iter().all(|&green| green > 150), "{edges:?}");
    }
}
