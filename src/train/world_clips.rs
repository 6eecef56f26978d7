//! Clips of the procedural world as latents with embedded captions.

use super::TrainError;
use super::dataset::InMemory;
use super::random::{Purpose, key};
use crate::kernels::device::OpenDevice;
use crate::models::Encoder;
use crate::nn::Weights;
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::model::VideoModel;
use crate::pipeline::sample::Sampler;
use crate::world::{Caption, Scene, Split, render};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use std::collections::HashMap;

/// Scenes that are encoded between two looks at the cancel flag.
const GROUP: usize = 64;

/// Embedded captions of the world.
#[derive(Clone, Debug)]
pub struct WorldTexts {
    embeds: Vec<Tensor<2>>,
    empty: Tensor<2>,
    places: HashMap<Caption, usize>,
}

impl WorldTexts {
    /// The captions as an encoder embedded them, in the order of [`Caption::all`], and behind them
    /// the embedding of no caption.
    ///
    /// # Panics
    ///
    /// If there is not one embedding per caption and one more.
    pub fn new(mut embeds: Vec<Tensor<2>>) -> Self {
        assert_eq!(embeds.len(), Caption::COUNT + 1, "embedded captions");
        let empty = embeds.remove(Caption::COUNT);
        let places = Caption::all().enumerate().map(|(place, caption)| (caption, place)).collect();
        Self { embeds, empty, places }
    }

    /// The sentences to embed.
    pub fn sentences() -> Vec<String> {
        Caption::all().map(|caption| caption.to_string()).chain([String::new()]).collect()
    }
}

/// Latents and captions of `count` scenes that training may see, as `model` encodes them, in clips
/// of `size` (frames, height, width).
///
/// # Errors
///
/// If a component cannot be loaded, the device fails, or the work is canceled.
pub fn world_clips(
    model: &VideoModel,
    device: &OpenDevice,
    cancel: &Cancel,
    size: [usize; 3],
    (count, seed): (usize, u64),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<InMemory, TrainError> {
    let sampler = Sampler { model, device, cancel: cancel.clone() };
    let sentences = WorldTexts::sentences();
    let sentences: Vec<&str> = sentences.iter().map(String::as_str).collect();
    let texts = WorldTexts::new(sampler.encode(&sentences, &mut |_, _, _| ())?);
    let weights = model.weights(ComponentKind::Vae, None, device.max_elements())?;
    let weights = Weights::new(weights.source(), &device.device);
    let encoder = model.vae.load_encoder(&weights).map_err(PipelineError::from)?;
    encode_scenes(&*encoder, texts, device, cancel, size, (count, seed), progress)
}

/// As [`world_clips`], with an encoder that is loaded already.
///
/// # Errors
///
/// If the device fails or the work is canceled.
pub(super) fn encode_scenes(
    encoder: &dyn Encoder,
    texts: WorldTexts,
    device: &OpenDevice,
    cancel: &Cancel,
    size: [usize; 3],
    (count, seed): (usize, u64),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<InMemory, TrainError> {
    let [frames, height, width] = size;
    let encode = |index: usize| {
        let scene = Scene::random(Split::Training, key(seed, Purpose::Example, 1, index));
        let planes = render(&scene, frames, height, width).to_planes();
        let data = TensorData::new(planes, [3, frames, height, width]);
        let video = Tensor::<4>::from_data(data, &device.device);
        let latent = encoder.encode_normalized(video).map_err(PipelineError::from)?;
        Ok((latent, texts.places[&scene.caption]))
    };
    let mut clips = Vec::with_capacity(count);
    for start in (0..count).step_by(GROUP) {
        cancel.check()?;
        let group = start..(start + GROUP).min(count);
        let encoded: Result<Vec<_>, TrainError> = if device.adapter.is_none() {
            group.into_par_iter().map(encode).collect()
        } else {
            group.map(encode).collect()
        };
        clips.extend(encoded?);
        progress(clips.len(), count);
    }
    Ok(InMemory { clips, texts: texts.embeds, empty_text: texts.empty })
}
