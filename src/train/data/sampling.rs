//! The frames of a clip that are used, while it is being decoded.

use super::{Buckets, Resizer};
use crate::pipeline::video::read::Picture;
use std::ops::ControlFlow;

/// Pictures that are kept while the length of the clip is unknown, in the longest bucket's lengths:
/// distances between frames are exact below, and at most an eighth too small above.
const KEPT_LENGTHS: usize = 8;

/// A clip as the autoencoder takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct SampledClip {
    /// `[width, height]` in pixels.
    pub size: [usize; 2],
    /// RGB8 `[height, width, 3]` each.
    pub frames: Vec<Vec<u8>>,
}

impl std::fmt::Debug for SampledClip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [width, height] = self.size;
        write!(f, "SampledClip({} of {width}x{height})", self.frames.len())
    }
}

impl SampledClip {
    /// Values in −1…1, `[3, frames, height, width]`.
    pub fn values(&self) -> Vec<f32> {
        let channel = |channel: usize| {
            let pixels = self.frames.iter().flat_map(|frame| frame.chunks_exact(3));
            pixels.map(move |pixel| f32::from(pixel[channel]) / 127.5 - 1.0)
        };
        (0..3).flat_map(channel).collect()
    }
}

/// Takes the pictures of a clip one by one and keeps those that may be needed.
#[derive(Debug)]
pub struct Collector<'a> {
    buckets: &'a Buckets,
    resizer: Option<(Resizer, [usize; 2])>,
    kept: Vec<Vec<u8>>,
    /// One picture of so many is kept.
    every: usize,
    seen: usize,
}

impl<'a> Collector<'a> {
    /// For one clip.
    pub fn new(buckets: &'a Buckets) -> Self {
        let every = buckets.stride.unwrap_or(1).max(1);
        Self { buckets, resizer: None, kept: Vec::new(), every, seen: 0 }
    }

    /// The next picture; breaks when no further one is needed.
    pub fn push(&mut self, picture: Picture<'_>) -> ControlFlow<()> {
        let (index, most) = (self.seen, self.buckets.most_frames());
        self.seen += 1;
        if !index.is_multiple_of(self.every) {
            return ControlFlow::Continue(());
        }
        let (resizer, _) = self.resizer.get_or_insert_with(|| {
            let size = self.buckets.size_for(picture.width, picture.height);
            (Resizer::new([picture.width, picture.height], size), size)
        });
        self.kept.push(resizer.apply(picture.rgb));
        if self.buckets.stride.is_some() {
            return if self.kept.len() == most {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            };
        }
        if self.kept.len() >= most.saturating_mul(KEPT_LENGTHS).max(2) {
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every *= 2;
        }
        ControlFlow::Continue(())
    }

    /// The frames of the longest bucket that the clip fills, at an even distance from the first on.
    ///
    /// # Errors
    ///
    /// In words, if the clip is too short for all buckets.
    pub fn finish(mut self) -> Result<SampledClip, String> {
        let available = self.kept.len();
        let (Some(frames), Some((_, size))) = (self.buckets.frames_for(available), self.resizer)
        else {
            let stride = self.buckets.stride.unwrap_or(1);
            let of = if stride > 1 { format!(" at a stride of {stride}") } else { String::new() };
            return Err(format!(
                "it is too short: it has {available} frames{of}, the shortest bucket {}",
                self.buckets.fewest_frames()
            ));
        };
        let step = match self.buckets.stride {
            None if frames > 1 => (available - 1) / (frames - 1),
            _ => 1,
        };
        let picked = (0..frames).map(|i| std::mem::take(&mut self.kept[i * step]));
        Ok(SampledClip { size, frames: picked.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Indices of the frames taken from a clip of `len` pictures, each of which shows its index.
    fn taken(buckets: &Buckets, len: usize) -> Result<Vec<usize>, String> {
        let mut collector = Collector::new(buckets);
        for index in 0..len {
            let rgb: Vec<u8> =
                [index / 250, index % 250, 0].repeat(256).iter().map(|&v| v as u8).collect();
            if collector.push(Picture { width: 16, height: 16, rgb: &rgb }).is_break() {
                break;
            }
        }
        let clip = collector.finish()?;
        let index = |frame: &Vec<u8>| usize::from(frame[0]) * 250 + usize::from(frame[1]);
        Ok(clip.frames.iter().map(index).collect())
    }

    fn buckets(frames: &[usize], stride: Option<usize>) -> Buckets {
        Buckets { sizes: vec![[16, 16]], frames: frames.to_vec(), stride }
    }

    #[test]
    fn frames_are_spread_evenly_over_the_clip() {
        assert_eq!(taken(&buckets(&[5], None), 5).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(taken(&buckets(&[5], None), 8).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(taken(&buckets(&[5], None), 22).unwrap(), [0, 5, 10, 15, 20]);
        assert_eq!(taken(&buckets(&[5, 9], None), 8).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(taken(&buckets(&[5, 9], None), 9).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(taken(&buckets(&[1], None), 40).unwrap(), [0]);
    }

    #[test]
    fn long_clips_keep_an_even_distance_and_most_of_their_length() {
        for len in [39, 40, 41, 79, 80, 100, 641, 5000] {
            let frames = taken(&buckets(&[5], None), len).unwrap();
            let step = frames[1] - frames[0];
            assert!(frames.windows(2).all(|pair| pair[1] - pair[0] == step), "{frames:?}");
            let ideal = (len - 1) / 4;
            assert!(step <= ideal && step * 5 > ideal * 4 - 5, "{len}: {step} of {ideal}");
        }
    }

    #[test]
    fn a_fixed_stride_takes_every_nth_frame() {
        assert_eq!(taken(&buckets(&[5], Some(3)), 100).unwrap(), [0, 3, 6, 9, 12]);
        assert_eq!(taken(&buckets(&[5, 9], Some(2)), 16).unwrap(), [0, 2, 4, 6, 8]);
        let short = taken(&buckets(&[5, 9], Some(2)), 8).unwrap_err();
        assert!(short.contains("4 frames at a stride of 2") && short.contains('5'), "{short}");
    }

    #[test]
    fn values_are_planar_and_centered() {
        let clip = SampledClip { size: [2, 1], frames: vec![vec![0, 51, 255, 255, 51, 0]; 2] };
        let values = clip.values();
        assert_eq!(values[..4], [-1.0, 1.0, -1.0, 1.0]);
        assert!(values[4..8].iter().all(|value| (value + 0.6).abs() < 1e-6));
        assert_eq!(values[8..], [1.0, -1.0, 1.0, -1.0]);
    }
}
