//! Latent frames before the first of a video: a transformer whose patches span several frames takes
//! whole patches of them.
//!
//! Sampling makes more frames than the video has and drops the first ones; training repeats the
//! first frame of a clip in their place.

use burn::tensor::Tensor;

/// The last `kept` frames of a latent `[channels, frames, height, width]`.
///
/// # Panics
///
/// If there are fewer.
pub fn last_frames(
    latent: Vec<f32>,
    [channels, frames, height, width]: [usize; 4],
    kept: usize,
) -> Vec<f32> {
    assert!(kept <= frames, "{kept} of {frames} frames");
    if kept == frames {
        return latent;
    }
    let (frame, of_channel) = (height * width, frames * height * width);
    (0..channels)
        .flat_map(|channel| {
            let end = (channel + 1) * of_channel;
            latent[end - kept * frame..end].iter().copied()
        })
        .collect()
}

/// `latent [channels, frames, height, width]` with copies of its first frame in front, `frames` in
/// all; as it is if it has as many.
pub fn repeat_first_frame(latent: Tensor<4>, frames: usize) -> Tensor<4> {
    let missing = frames.saturating_sub(latent.dims()[1]);
    if missing == 0 {
        return latent;
    }
    let first = latent.clone().narrow(1, 0, 1);
    let mut parts = vec![first; missing];
    parts.push(latent);
    Tensor::cat(parts, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn what_is_put_in_front_is_dropped_from_there() {
        let values: Vec<f32> = (0..12_u8).map(f32::from).collect();
        let latent = TensorData::new(values.clone(), [2, 3, 1, 2]);
        let latent = Tensor::<4>::from_data(latent, &Device::flex());
        let padded = repeat_first_frame(latent, 4);
        assert_eq!(padded.dims(), [2, 4, 1, 2]);
        let padded: Vec<f32> = padded.into_data().try_to_vec().expect("f32 values");
        assert_eq!(padded[..4], [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(last_frames(padded, [2, 4, 1, 2], 3), values);
        assert_eq!(last_frames(values.clone(), [2, 3, 1, 2], 3), values);
    }
}
