//! The pictures of a video in memory, and whether they show anything at all.

use super::VideoError;
use std::fmt;

/// Frame rates that can be written, frames per second.
pub const FRAME_RATES: std::ops::RangeInclusive<f64> = 0.1..=1000.0;

/// No channel of a black video exceeds this level, of 255.
pub const BLACK_LEVEL: u8 = 2;

/// A frame whose channels all deviate less than this from their mean (standard deviation, levels
/// of 255) is one flat color: rounding noise stays below it, the dimmest picture above.
pub const FLAT_STD_DEV: f64 = 1.0;

/// A video: RGB pictures of one size, shown at a constant rate.
#[derive(Clone, PartialEq)]
pub struct Frames {
    width: usize,
    height: usize,
    fps: f64,
    data: Vec<u8>,
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, fps, .. } = self;
        write!(f, "Frames({} of {width}x{height} at {fps} fps)", self.len())
    }
}

impl Frames {
    /// Frames from `data`, RGB8 `[frames, height, width, 3]`, shown at `fps` frames per second.
    ///
    /// # Errors
    ///
    /// If there is no frame, `data` is no whole number of frames, or `fps` is not in
    /// [`FRAME_RATES`].
    pub fn new(width: usize, height: usize, fps: f64, data: Vec<u8>) -> Result<Self, VideoError> {
        if !FRAME_RATES.contains(&fps) {
            return Err(VideoError::FrameRate { fps });
        }
        if data.is_empty() || width == 0 || height == 0 {
            return Err(VideoError::NoFrames);
        }
        let frame_len = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if !frame_len.is_some_and(|len| data.len().is_multiple_of(len)) {
            return Err(VideoError::Shape { width, height, values: data.len() });
        }
        Ok(Self { width, height, fps, data })
    }

    /// Frames from what a decoder returns: `values` in 0..1, `[frames, height, width, 3]`.
    ///
    /// A value becomes `round(255·v)`; values outside 0..1 are clamped, as decoders overshoot.
    ///
    /// # Errors
    ///
    /// If a value is NaN or infinite, and as [`Frames::new`].
    pub fn from_unit_values(
        values: &[f32],
        [frames, height, width]: [usize; 3],
        fps: f64,
    ) -> Result<Self, VideoError> {
        let len = [frames, height, width, 3].iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        if len != Some(values.len()) {
            return Err(VideoError::Shape { width, height, values: values.len() });
        }
        if let Some(first) = values.iter().position(|v| !v.is_finite()) {
            return Err(VideoError::NotFinite {
                frame: first / (height * width * 3),
                bad: values.iter().filter(|v| !v.is_finite()).count(),
                values: values.len(),
            });
        }
        // `as` saturates, which is the clamp.
        let data = values.iter().map(|v| (v * 255.0).round() as u8).collect();
        Self::new(width, height, fps, data)
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Frames per second.
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// Number of frames, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a video without frames cannot be made")]
    pub fn len(&self) -> usize {
        self.data.len() / self.frame_len()
    }

    /// Duration in seconds.
    pub fn seconds(&self) -> f64 {
        self.len() as f64 / self.fps
    }

    /// The frames in order, each RGB8 `[height, width, 3]`.
    pub fn iter(&self) -> std::slice::ChunksExact<'_, u8> {
        self.data.chunks_exact(self.frame_len())
    }

    /// All values, RGB8 `[frames, height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Refuses a video that shows nothing, the usual result of broken weights or settings.
    ///
    /// # Errors
    ///
    /// [`VideoError::Degenerate`], which says what was found.
    pub fn require_content(&self) -> Result<(), VideoError> {
        match self.degenerate() {
            Some(finding) => Err(VideoError::Degenerate(finding)),
            None => Ok(()),
        }
    }

    /// What makes this video one that shows nothing, if anything does.
    pub fn degenerate(&self) -> Option<Degenerate> {
        if self.data.iter().all(|&level| level <= BLACK_LEVEL) {
            return Some(Degenerate::Black);
        }
        let color = [self.data[0], self.data[1], self.data[2]];
        if self.data.chunks_exact(3).all(|pixel| pixel == color) {
            return Some(Degenerate::OneColor(color));
        }
        let std_dev = self.iter().map(widest_std_dev).fold(0.0, f64::max);
        (std_dev < FLAT_STD_DEV).then_some(Degenerate::Flat { std_dev })
    }

    /// The frame rate as a fraction that containers can store.
    pub(super) fn rate(&self) -> Rate {
        let whole = self.fps.round();
        if (self.fps - whole).abs() < 1e-6 {
            return Rate { frames: whole as u32, seconds: 1 };
        }
        // 23.976, 29.97 and 59.94 stand for n·1000/1001.
        let ntsc = (self.fps * 1.001).round();
        if (self.fps - ntsc / 1.001).abs() < 5e-4 {
            return Rate { frames: ntsc as u32 * 1000, seconds: 1001 };
        }
        Rate { frames: (self.fps * 1000.0).round() as u32, seconds: 1000 }
    }

    fn frame_len(&self) -> usize {
        self.width * self.height * 3
    }
}

/// A frame rate: `frames` in `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) frames: u32,
    pub(super) seconds: u32,
}

/// Why a video shows nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Degenerate {
    /// No channel of any pixel exceeds [`BLACK_LEVEL`].
    Black,
    /// Every pixel of every frame has this RGB color.
    OneColor([u8; 3]),
    /// Every frame is flat.
    Flat {
        /// Largest standard deviation of a channel within a frame, levels of 255.
        std_dev: f64,
    },
}

impl fmt::Display for Degenerate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Black => {
                write!(f, "every frame is black: no value exceeds {BLACK_LEVEL} of 255")
            }
            Self::OneColor([r, g, b]) => {
                write!(f, "every pixel of every frame has the color #{r:02x}{g:02x}{b:02x}")
            }
            Self::Flat { std_dev } => write!(
                f,
                "every frame is one flat color: the largest standard deviation within a frame is \
                 {std_dev:.2} of 255, a picture has at least {FLAT_STD_DEV}"
            ),
        }
    }
}

/// The largest standard deviation of the three channels of one frame, levels of 255.
fn widest_std_dev(rgb: &[u8]) -> f64 {
    let (mut sum, mut squares) = ([0_u64; 3], [0_u64; 3]);
    for pixel in rgb.chunks_exact(3) {
        for (channel, &level) in pixel.iter().enumerate() {
            sum[channel] += u64::from(level);
            squares[channel] += u64::from(level) * u64::from(level);
        }
    }
    let count = (rgb.len() / 3) as f64;
    let variance = |channel: usize| {
        let mean = sum[channel] as f64 / count;
        squares[channel] as f64 / count - mean * mean
    };
    (0..3).map(variance).fold(0.0, f64::max).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate_of(fps: f64) -> (u32, u32) {
        let rate = Frames::new(1, 1, fps, vec![0; 3]).unwrap().rate();
        (rate.frames, rate.seconds)
    }

    #[test]
    fn a_rate_is_the_fraction_that_its_decimal_stands_for() {
        assert_eq!(rate_of(16.0), (16, 1));
        assert_eq!(rate_of(23.976), (24_000, 1001));
        assert_eq!(rate_of(29.97), (30_000, 1001));
        assert_eq!(rate_of(12.5), (12_500, 1000));
        assert_eq!(rate_of(0.5), (500, 1000));
    }
}
