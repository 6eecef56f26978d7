//! The few sizes and lengths that clips are brought to.

use crate::pipeline::model::VideoModel;
use crate::pipeline::settings::{check_frames, check_size};
use crate::train::TrainError;
use serde::{Deserialize, Serialize};

/// Sizes and lengths of clips as the autoencoder sees them.
///
/// Any mixture will do, because the gradients of a batch are summed clip by clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buckets {
    /// `[width, height]` in pixels; a clip takes the nearest aspect ratio.
    pub sizes: Vec<[usize; 2]>,
    /// Numbers of frames; a clip takes the largest that it has.
    pub frames: Vec<usize>,
    /// Takes every n-th frame from the first; without it, frames are spread over the whole clip at
    /// the largest even distance.
    #[serde(default)]
    pub stride: Option<usize>,
}

impl Buckets {
    /// Checks that `model` can encode and denoise every size and length.
    ///
    /// # Errors
    ///
    /// Names the value, what is wrong and what is expected.
    pub fn check(&self, model: &VideoModel) -> Result<(), TrainError> {
        let setting = |message| Err(TrainError::Setting(message));
        if self.sizes.is_empty() || self.frames.is_empty() {
            return setting("the buckets need at least one size and one number of frames".into());
        }
        if self.stride == Some(0) {
            return setting("a stride of 0 never reaches the second frame; use 1 or more".into());
        }
        for &size in &self.sizes {
            let [width, height] = size;
            check_size(size, model)
                .or_else(|problem| setting(format!("a size of {width}x{height}: {problem}")))?;
        }
        for &frames in &self.frames {
            check_frames(frames, model)
                .or_else(|problem| setting(format!("a clip of {frames} frames: {problem}")))?;
        }
        Ok(())
    }

    /// The size for pictures of `width` by `height`: the nearest aspect ratio, of several the
    /// largest that needs no enlarging, or else the smallest.
    ///
    /// # Panics
    ///
    /// If there are no sizes.
    pub fn size_for(&self, width: usize, height: usize) -> [usize; 2] {
        let ratio = |[width, height]: [usize; 2]| (width as f64 / height as f64).ln();
        let rank = |&[w, h]: &[usize; 2]| {
            // In steps that rounding cannot tell apart.
            let distance = (ratio([w, h]) - ratio([width, height])).abs();
            let distance = (distance * 1e6).round() as i64;
            let area = (w * h) as i64;
            let enlarges = w > width || h > height;
            (distance, enlarges, if enlarges { area } else { -area })
        };
        *self.sizes.iter().min_by_key(|size| rank(size)).expect("buckets have a size")
    }

    /// The most frames that a clip of `available` can give; `None` if it is too short for all.
    pub fn frames_for(&self, available: usize) -> Option<usize> {
        self.frames.iter().copied().filter(|&frames| frames <= available).max()
    }

    /// The most frames of any bucket.
    pub fn most_frames(&self) -> usize {
        self.frames.iter().copied().max().unwrap_or(0)
    }

    /// The fewest frames of any bucket.
    pub fn fewest_frames(&self) -> usize {
        self.frames.iter().copied().min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_go_to_the_nearest_aspect_without_enlarging() {
        let sizes = vec![[832, 480], [480, 832], [640, 640], [416, 240], [1664, 960]];
        let buckets = Buckets { sizes, frames: vec![81, 17, 49], stride: None };
        assert_eq!(buckets.size_for(1920, 1080), [1664, 960]);
        assert_eq!(buckets.size_for(1000, 570), [832, 480]);
        assert_eq!(buckets.size_for(500, 290), [416, 240]);
        assert_eq!(buckets.size_for(100, 58), [416, 240]);
        assert_eq!(buckets.size_for(1080, 1920), [480, 832]);
        assert_eq!(buckets.size_for(512, 500), [640, 640]);
        let frames: Vec<_> = [16, 17, 48, 49, 1000].map(|n| buckets.frames_for(n)).into();
        assert_eq!(frames, [None, Some(17), Some(17), Some(49), Some(81)]);
        assert_eq!((buckets.most_frames(), buckets.fewest_frames()), (81, 17));
    }
}
