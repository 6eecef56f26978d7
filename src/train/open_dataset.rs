//! From the `[data]` of a configuration to clips, and the part of them that is held out.

use super::TrainError;
use super::config::DataSettings;
use super::data::CachedDataset;
use super::dataset::{Dataset, InMemory};
use super::random::{Purpose, key, normal};
use super::world_clips::world_clips;
use crate::kernels::device::OpenDevice;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::model::VideoModel;
use crate::pipeline::settings::{check_frames, check_size};
use burn::tensor::{Device, Tensor, TensorData};
use std::ops::Range;

/// Opens the clips that `settings` name, for `model` on `device`; those of the world are encoded
/// anew, which `progress(done, total)` is told of.
///
/// # Errors
///
/// If they cannot be read or do not fit the model, or the work is canceled.
pub fn open_dataset(
    settings: &DataSettings,
    model: &VideoModel,
    device: &OpenDevice,
    cancel: &Cancel,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn Dataset>, TrainError> {
    if let Some(count) = settings.random {
        return Ok(Box::new(random_clips(count, settings, model, &device.device, seed)?));
    }
    if let Some(folder) = &settings.cache {
        return Ok(Box::new(CachedDataset::open(folder, model, &device.device, true)?));
    }
    let Some(count) = settings.world else {
        return Err(TrainError::Setting(
            "no clips to train on: give one of data.cache, data.world and data.random".into(),
        ));
    };
    let latent = latent_shape(settings, model)?;
    let spatial = model.vae.spatial_factor();
    let size = [model.vae.frames(latent[1]), latent[2] * spatial, latent[3] * spatial];
    Ok(Box::new(world_clips(model, device, cancel, size, (count, seed), progress)?))
}

/// `[channels, frames, height, width]` of a clip's latent.
///
/// # Errors
///
/// If the sizes in `settings` do not fit the model.
pub fn latent_shape(settings: &DataSettings, model: &VideoModel) -> Result<[usize; 4], TrainError> {
    let defaults = &model.defaults;
    let frames = settings.frames.unwrap_or(defaults.frames);
    let width = settings.width.unwrap_or(defaults.width);
    let height = settings.height.unwrap_or(defaults.height);
    let refused = |key: &str, problem: String| TrainError::Setting(format!("{key}: {problem}"));
    check_size([width, height], model)
        .map_err(|problem| refused("data.width and data.height", problem))?;
    check_frames(frames, model).map_err(|problem| refused("data.frames", problem))?;
    Ok(model.latent_shape([frames, height, width]))
}

/// Clips of noise under captions of noise.
fn random_clips(
    count: usize,
    settings: &DataSettings,
    model: &VideoModel,
    device: &Device,
    seed: u64,
) -> Result<InMemory, TrainError> {
    let shape = latent_shape(settings, model)?;
    let values = |index, stream, len| normal(key(seed, Purpose::Latents, index, stream), 0, len);
    let clip = |index| {
        let data = TensorData::new(values(index, 0, shape.iter().product()), shape);
        (Tensor::from_data(data, device), index)
    };
    let text_shape = [model.text_tokens, model.transformer.text_dim()];
    let text = |index| {
        let data = TensorData::new(values(index, 1, text_shape[0] * text_shape[1]), text_shape);
        Tensor::from_data(data, device)
    };
    Ok(InMemory {
        clips: (0..count).map(clip).collect(),
        texts: (0..count).map(text).collect(),
        empty_text: Tensor::zeros(text_shape, device),
    })
}

/// Some of the clips of a dataset.
#[derive(Clone)]
pub struct Part<'a> {
    data: &'a dyn Dataset,
    range: Range<usize>,
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("range", &self.range).finish_non_exhaustive()
    }
}

impl<'a> Part<'a> {
    /// The clips to train on and those held out: the last `hold_out`, but at most a quarter.
    pub fn split(data: &'a dyn Dataset, hold_out: usize) -> [Self; 2] {
        let len = data.len();
        let middle = len - hold_out.min(len / 4);
        [Self { data, range: 0..middle }, Self { data, range: middle..len }]
    }
}

impl Dataset for Part<'_> {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn clip(&self, index: usize) -> Result<(Tensor<4>, Tensor<2>), TrainError> {
        self.data.clip(self.range.start + index)
    }

    fn empty_text(&self) -> Tensor<2> {
        self.data.empty_text()
    }
}
