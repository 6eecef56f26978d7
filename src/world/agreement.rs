//! How far one clip agrees with another, pixel for pixel: a student with its teacher, a low-bit
//! model with the model it was made from, given the same noise and the same text.

use super::clip::{Clip, ClipError};

/// Peak signal-to-noise ratio of equal clips, in decibels; the highest value there is.
pub const MAX_PSNR: f64 = 100.0;

/// Side of the window of the structural similarity.
const WINDOW: usize = 11;
/// Standard deviation of that window in pixels.
const SIGMA: f64 = 1.5;
/// `(0.01 · 255)²` and `(0.03 · 255)²`.
const C1: f64 = 6.5025;
const C2: f64 = 58.5225;

/// Both measures of one pair of clips.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Agreement {
    /// See [`psnr`].
    pub psnr: f64,
    /// See [`ssim`].
    pub ssim: f64,
}

impl Agreement {
    /// Compares two clips.
    ///
    /// # Errors
    /// Those of [`psnr`] and [`ssim`].
    pub fn of(left: &Clip, right: &Clip) -> Result<Self, ClipError> {
        Ok(Self { psnr: psnr(left, right)?, ssim: ssim(left, right)? })
    }
}

/// Peak signal-to-noise ratio on luma in decibels: `10 lg(255² / mean squared difference)` over
/// all frames together, at most [`MAX_PSNR`], so that means over clips stay finite.
///
/// # Errors
/// [`ClipError::Shapes`] if the clips differ in shape, [`ClipError::Empty`] without pixels.
pub fn psnr(left: &Clip, right: &Clip) -> Result<f64, ClipError> {
    comparable(left, right)?;
    let squares = lumas(left.pixels()).zip(lumas(right.pixels())).map(|(a, b)| (a - b) * (a - b));
    let mean = squares.sum::<f64>() / (left.pixels().len() / 3) as f64;
    Ok((10.0 * (255.0 * 255.0 / mean).log10()).min(MAX_PSNR))
}

/// Mean structural similarity (Wang et al., 2004) on luma: a Gaussian window of 11x11 pixels and
/// standard deviation 1.5, constants 0.01 and 0.03, where the window lies within the frame; mean
/// over all frames. 1 for equal clips. The same as scikit-image's `structural_similarity` with
/// `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`.
///
/// # Errors
/// [`ClipError::Shapes`] if the clips differ in shape, [`ClipError::Empty`] without pixels,
/// [`ClipError::Small`] if a side is shorter than the window.
pub fn ssim(left: &Clip, right: &Clip) -> Result<f64, ClipError> {
    comparable(left, right)?;
    let [frames, height, width] = left.shape();
    if height.min(width) < WINDOW {
        return Err(ClipError::Small { height, width, least: WINDOW });
    }
    let window = gaussian();
    let one = |t: usize| {
        let [a, b] = [left, right].map(|clip| lumas(clip.frame(t)).collect::<Vec<_>>());
        frame_ssim(&a, &b, width, &window)
    };
    Ok((0..frames).map(one).sum::<f64>() / frames as f64)
}

fn comparable(left: &Clip, right: &Clip) -> Result<(), ClipError> {
    if left.shape() != right.shape() {
        return Err(ClipError::Shapes { left: left.shape(), right: right.shape() });
    }
    if left.pixels().is_empty() { Err(ClipError::Empty) } else { Ok(()) }
}

/// Luma of RGB pixels, 0 to 255 (ITU-R BT.601, full range).
fn lumas(pixels: &[u8]) -> impl Iterator<Item = f64> + '_ {
    let luma = |rgb: &[u8]| {
        (299.0 * f64::from(rgb[0]) + 587.0 * f64::from(rgb[1]) + 114.0 * f64::from(rgb[2])) / 1000.0
    };
    pixels.chunks_exact(3).map(luma)
}

fn gaussian() -> [f64; WINDOW] {
    let raw: [f64; WINDOW] = std::array::from_fn(|i| {
        let distance = i as f64 - (WINDOW / 2) as f64;
        (-distance * distance / (2.0 * SIGMA * SIGMA)).exp()
    });
    let sum: f64 = raw.iter().sum();
    raw.map(|weight| weight / sum)
}

/// Weighted mean around every pixel whose window lies within the plane.
fn blur(plane: &[f64], width: usize, window: &[f64; WINDOW]) -> Vec<f64> {
    let weigh = |values: &[f64]| values.iter().zip(window).map(|(v, w)| v * w).sum::<f64>();
    let lines = plane.chunks_exact(width);
    let across: Vec<f64> = lines.flat_map(|line| line.windows(WINDOW).map(weigh)).collect();
    let narrow = width + 1 - WINDOW;
    let height = plane.len() / width;
    let mut out = vec![0.0; (height + 1 - WINDOW) * narrow];
    for (y, line) in out.chunks_exact_mut(narrow).enumerate() {
        for (i, weight) in window.iter().enumerate() {
            let row = &across[(y + i) * narrow..(y + i + 1) * narrow];
            line.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    out
}

fn frame_ssim(a: &[f64], b: &[f64], width: usize, window: &[f64; WINDOW]) -> f64 {
    let product =
        |p: &[f64], q: &[f64]| -> Vec<f64> { p.iter().zip(q).map(|(x, y)| x * y).collect() };
    let [mean_a, mean_b] = [a, b].map(|plane| blur(plane, width, window));
    let [square_a, square_b, cross] =
        [product(a, a), product(b, b), product(a, b)].map(|plane| blur(&plane, width, window));
    let one = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb, vab) = (square_a[i] - ma * ma, square_b[i] - mb * mb, cross[i] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * vab + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    };
    (0..mean_a.len()).map(one).sum::<f64>() / mean_a.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two frames of 24x31 by a formula that the Python below repeats.
    fn clip(byte: impl Fn(usize, usize, usize, usize) -> usize) -> Clip {
        let mut pixels = Vec::new();
        for (t, y) in (0..2).flat_map(|t| (0..24).map(move |y| (t, y))) {
            for (x, c) in (0..31).flat_map(|x| (0..3).map(move |c| (x, c))) {
                pixels.push((byte(t, y, x, c) % 256) as u8);
            }
        }
        Clip::new(2, 24, 31, pixels).expect("a clip")
    }

    fn ramp(t: usize, y: usize, x: usize, c: usize) -> usize {
        (7 * x + 5 * y + 40 * c + x * y / 4 + 30 * t) / 2
    }

    fn rough(t: usize, y: usize, x: usize, c: usize) -> usize {
        ramp(t, y, x, c) + (x * x + 3 * y * y + 5 * t + c * 11) % 19
    }

    fn close(value: Result<f64, ClipError>, expected: f64) {
        let value = value.expect("comparable clips");
        assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
    }

    /// Expected values by scikit-image 0.26.0 on the luma planes of the same formulas, in float64:
    /// `peak_signal_noise_ratio(a, b, data_range=255)` and the mean over frames of
    /// `structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
    /// use_sample_covariance=False, data_range=255)`.
    #[test]
    fn both_measures_are_those_of_scikit_image() {
        let [a, b] = [clip(ramp), clip(rough)];
        close(psnr(&a, &b), 24.039_267_608_691_887);
        close(ssim(&a, &b), 0.963_308_240_392_012_3);
        let upside_down = clip(|t, y, x, c| ramp(t, 23 - y, x, c));
        close(ssim(&a, &upside_down), 0.308_319_678_298_741_1);
    }

    #[test]
    fn equal_clips_have_the_highest_values() {
        let a = clip(ramp);
        let agreement = Agreement::of(&a, &a).expect("comparable clips");
        assert_eq!(agreement.psnr, MAX_PSNR);
        assert!((agreement.ssim - 1.0).abs() < 1e-12);
        let black = Clip::new(1, 11, 11, vec![0; 363]).expect("a clip");
        let white = Clip::new(1, 11, 11, vec![255; 363]).expect("a clip");
        close(psnr(&black, &white), 0.0);
        // Only the constants are left: C1 / (255² + C1).
        close(ssim(&black, &white), C1 / (255.0 * 255.0 + C1));
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let clip = |frames, side: usize| {
            Clip::new(frames, side, side, vec![0; frames * side * side * 3]).expect("a clip")
        };
        assert!(matches!(psnr(&clip(1, 12), &clip(2, 12)), Err(ClipError::Shapes { .. })));
        assert!(matches!(ssim(&clip(1, 10), &clip(1, 10)), Err(ClipError::Small { .. })));
        assert_eq!(Agreement::of(&clip(0, 12), &clip(0, 12)), Err(ClipError::Empty));
    }
}
