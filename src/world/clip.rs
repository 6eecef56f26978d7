//! A clip: pixels with their shape.

/// Frames of RGB pixels, `[frames, height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    frames: usize,
    height: usize,
    width: usize,
    pixels: Vec<u8>,
}

/// Why numbers are not a clip, or two clips cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClipError {
    /// The count of values does not fit the shape.
    #[error(
        "a clip of {shape:?} (frames, height, width) has three values per pixel, not {values} in all"
    )]
    Length {
        /// Frames, height, width.
        shape: [usize; 3],
        /// Values that were given.
        values: usize,
    },
    /// A model's output that is no picture.
    #[error(
        "{count} of {values} values of the clip are NaN or infinite; the model that made them has diverged"
    )]
    NotFinite {
        /// Values that are not finite.
        count: usize,
        /// Values in all.
        values: usize,
    },
    /// Two clips of different shapes.
    #[error(
        "clips of {left:?} and {right:?} (frames, height, width) cannot be compared; render both at one size"
    )]
    Shapes {
        /// Frames, height, width of the first.
        left: [usize; 3],
        /// Frames, height, width of the second.
        right: [usize; 3],
    },
    /// Too small for the measure.
    #[error(
        "frames of {height}x{width} are too small: the structural similarity needs {least}x{least} pixels"
    )]
    Small {
        /// Height of the frames.
        height: usize,
        /// Width of the frames.
        width: usize,
        /// Least side.
        least: usize,
    },
    /// A clip without a pixel.
    #[error("a clip without pixels cannot be compared; ask for at least one frame of one pixel")]
    Empty,
}

impl Clip {
    /// A clip of RGB bytes, `[frames, height, width, 3]`.
    ///
    /// # Errors
    /// [`ClipError::Length`] unless there are three values per pixel.
    pub fn new(
        frames: usize,
        height: usize,
        width: usize,
        pixels: Vec<u8>,
    ) -> Result<Self, ClipError> {
        let clip = Self { frames, height, width, pixels };
        clip.check(clip.pixels.len())?;
        Ok(clip)
    }

    /// The clip of a model's output: planes `[3, frames, height, width]` of -1 (black) to 1;
    /// what lies outside is cut off.
    ///
    /// # Errors
    /// [`ClipError::Length`] unless there are three values per pixel, [`ClipError::NotFinite`] if
    /// one is NaN or infinite.
    pub fn from_planes(
        frames: usize,
        height: usize,
        width: usize,
        planes: &[f32],
    ) -> Result<Self, ClipError> {
        let mut clip = Self { frames, height, width, pixels: Vec::new() };
        clip.check(planes.len())?;
        let count = planes.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            return Err(ClipError::NotFinite { count, values: planes.len() });
        }
        let plane = planes.len() / 3;
        let byte = |value: f32| (value.clamp(-1.0, 1.0) * 127.5 + 127.5).round() as u8;
        clip.pixels = (0..planes.len()).map(|i| byte(planes[i % 3 * plane + i / 3])).collect();
        Ok(clip)
    }

    /// The clip as a model sees it: planes `[3, frames, height, width]` of -1 to 1.
    pub fn to_planes(&self) -> Vec<f32> {
        let channel = |c: usize| self.pixels.iter().skip(c).step_by(3);
        (0..3).flat_map(channel).map(|byte| f32::from(*byte) / 127.5 - 1.0).collect()
    }

    /// A clip from whoever has counted the pixels.
    pub(super) fn from_rendered([frames, height, width]: [usize; 3], pixels: Vec<u8>) -> Self {
        debug_assert_eq!(pixels.len(), frames * height * width * 3);
        Self { frames, height, width, pixels }
    }

    fn check(&self, values: usize) -> Result<(), ClipError> {
        let shape = self.shape();
        let expected = shape.iter().try_fold(3_usize, |product, side| product.checked_mul(*side));
        if expected == Some(values) { Ok(()) } else { Err(ClipError::Length { shape, values }) }
    }

    /// Frames, height, width.
    pub const fn shape(&self) -> [usize; 3] {
        [self.frames, self.height, self.width]
    }

    /// Number of frames.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// Rows of a frame.
    pub const fn height(&self) -> usize {
        self.height
    }

    /// Columns of a frame.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// All bytes, `[frames, height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes of one frame, `[height, width, 3]`.
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn frame(&self, index: usize) -> &[u8] {
        let size = self.height * self.width * 3;
        &self.pixels[index * size..(index + 1) * size]
    }

    /// Red, green and blue of one pixel.
    ///
    /// # Panics
    /// If there is no such pixel.
    pub fn rgb(&self, frame: usize, row: usize, column: usize) -> [f64; 3] {
        let at = ((frame * self.height + row) * self.width + column) * 3;
        [0, 1, 2].map(|c| f64::from(self.pixels[at + c]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_there_and_back() {
        let pixels: Vec<u8> = (0..2 * 3 * 4 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let clip = Clip::new(2, 3, 4, pixels).expect("a clip");
        let planes = clip.to_planes();
        assert_eq!(planes[1], f32::from(clip.pixels()[3]) / 127.5 - 1.0);
        assert_eq!(Clip::from_planes(2, 3, 4, &planes), Ok(clip));
    }

    #[test]
    fn what_is_no_clip_is_refused() {
        let length = ClipError::Length { shape: [1, 2, 2], values: 11 };
        assert_eq!(Clip::new(1, 2, 2, vec![0; 11]), Err(length));
        assert!(Clip::new(usize::MAX, 2, 2, Vec::new()).is_err());
        let mut planes = vec![0.0; 12];
        planes[3] = f32::NAN;
        planes[5] = f32::INFINITY;
        let error = Clip::from_planes(1, 2, 2, &planes).expect_err("not finite");
        assert_eq!(error, ClipError::NotFinite { count: 2, values: 12 });
    }
}
