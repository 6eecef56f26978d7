//! What a run will take, estimated from configurations before anything is loaded.

use super::PipelineError;
use super::checkpoint::ComponentKind;
use super::memory::{TransformerBytes, parameter_bytes, text_encoder_bytes};
use super::model::{ComponentWeights, VideoModel};
use super::settings::{SampleSettings, TilingChoice};
use crate::kernels::device::{Adapter, OpenDevice};
use crate::models::{LinearShape, Tiling};
use serde::Serialize;

/// Sizes, work and memory of a run; bytes unless said otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Class of the pipeline.
    pub model: String,
    /// Precision of the transformer's linear layers.
    pub precision: String,
    /// Where it runs.
    pub device: String,
    /// Frames of the video.
    pub frames: usize,
    /// `[channels, frames, height, width]` of what is sampled.
    pub latent_shape: [usize; 4],
    /// Tokens of the video that the transformer sees.
    pub tokens: usize,
    /// Forward passes of the transformer.
    pub forwards: usize,
    /// Floating-point or integer operations of all of them.
    pub denoise_ops: f64,
    /// The transformer's parameters that are on the device at once.
    pub weight_bytes: u64,
    /// Blocks of the transformer.
    pub blocks: usize,
    /// Blocks that stay on the device; the others visit it in every pass.
    pub resident_blocks: usize,
    /// Parameters of the other blocks, in host memory.
    pub streamed_bytes: u64,
    /// The transformer's largest set of live activations, the text's keys and values included.
    pub activation_bytes: u64,
    /// The text encoder: one block and the prompts.
    pub text_bytes: u64,
    /// The VAE decoder: parameters and largest set of live tensors.
    pub vae_bytes: u64,
    /// `[height, width]` in pixels of a VAE tile; `None` for whole frames.
    pub vae_tile: Option<[usize; 2]>,
    /// The largest of the stages on the device: text, denoising, decoding.
    pub peak_bytes: u64,
    /// The video on its way, in host memory.
    pub host_bytes: u64,
    /// Host memory that is free, where the system tells; wgpu does not tell a card's.
    pub available_host_bytes: Option<u64>,
    /// Whether device and host share their memory: the CPU and software adapters.
    pub shares_host_memory: bool,
    /// Most elements that a tensor may have.
    #[serde(skip)]
    max_elements: u64,
    /// The VAE's tiles.
    #[serde(skip)]
    pub tiling: Option<Tiling>,
}

impl Plan {
    /// The plan of a run with the transformer's `weights` on `device`.
    pub fn new(
        model: &VideoModel,
        settings: &SampleSettings,
        weights: &ComponentWeights,
        device: &OpenDevice,
        limit_bytes: Option<u64>,
    ) -> Self {
        let latent_shape = settings.sampled_shape(model);
        let [_, _, height, width] = latent_shape;
        let config = &*model.transformer;
        let tokens = config.grid(latent_shape).iter().product();
        let branches = if settings.uses_guidance() { 2 } else { 1 };
        let forwards = settings.forwards();
        let tiling = tiling(model, settings, [height, width], device, limit_bytes);
        let tile = tiling.map_or([height, width], |tiling| tiling.latent_size());
        let [tile_height, tile_width] = [tile[0].min(height), tile[1].min(width)];
        let parameters = TransformerBytes::of(config, &|layer| weights.weight_bytes(layer));
        let activation_bytes =
            config.activation_bytes(tokens, model.text_tokens, branches, device.max_elements());
        // Without an adapter there is no second memory to stream from.
        let limit = limit_bytes.filter(|_| device.adapter.is_some());
        let resident_blocks = parameters.resident_blocks(limit, activation_bytes);
        let weight_bytes = parameters.on_device(resident_blocks, activation_bytes);
        let text_bytes = text_bytes(model, branches);
        // One byte and one or, in tiles, two floats per value.
        let host_bytes = [settings.video_frames(model), settings.height, settings.width, 3]
            .iter()
            .fold(if tiling.is_some() { 9 } else { 5 }, |n: u64, &d| n.saturating_mul(d as u64));
        // All but a few of them are factors of convolutions.
        let vae_parameters = parameter_bytes(&model.vae.decoder_parameter_shapes())
            / (4 / settings.vae_precision.dtype().size() as u64);
        let vae_bytes = vae_parameters + model.vae.decode_peak_bytes(tile_height, tile_width);
        Self {
            model: model.folder.class_name().to_owned(),
            precision: weights.precision(&config.linears()),
            device: device.describe(),
            frames: settings.video_frames(model),
            latent_shape,
            tokens,
            forwards,
            denoise_ops: config.ops(tokens, model.text_tokens).total(config.num_layers())
                * forwards as f64,
            weight_bytes,
            blocks: parameters.blocks,
            resident_blocks,
            streamed_bytes: parameters.in_host_memory(resident_blocks),
            activation_bytes,
            text_bytes,
            vae_bytes,
            vae_tile: tiling.map(|tiling| {
                tiling.latent_size().map(|latents| latents * model.vae.spatial_factor())
            }),
            peak_bytes: text_bytes.max(weight_bytes + activation_bytes).max(vae_bytes),
            host_bytes,
            available_host_bytes: host_memory("MemAvailable:"),
            shares_host_memory: device.adapter.as_ref().is_none_or(Adapter::is_software),
            max_elements: device.max_elements() as u64,
            tiling,
        }
    }

    /// Refuses a run that cannot fit.
    ///
    /// # Errors
    ///
    /// Says how much is missing and what to change.
    pub fn check(&self, limit_bytes: Option<u64>) -> Result<(), PipelineError> {
        let latents = self.latent_shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d as u64));
        if latents > self.max_elements {
            return Err(PipelineError::Memory(format!(
                "the latent has {latents} values but the device can bind {}; use fewer --frames or \
                 a smaller --size",
                self.max_elements
            )));
        }
        let on_host = if self.shares_host_memory { self.peak_bytes } else { 0 };
        let needed_on_host = self.host_bytes.saturating_add(self.streamed_bytes + on_host);
        let (needed, available, source) = match (limit_bytes, self.available_host_bytes) {
            (Some(limit), _) if self.peak_bytes > limit => {
                (self.peak_bytes, limit, "--max-memory allows")
            }
            (_, Some(free)) if needed_on_host > free => (needed_on_host, free, "is free"),
            _ => return Ok(()),
        };
        let gib = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
        Err(PipelineError::Memory(format!(
            "the run needs about {:.1} GiB (transformer {:.1} weights and {:.1} activations, text \
             encoder {:.1}, VAE {:.1}, video {:.1}) but {:.1} GiB {source}; {}",
            gib(needed),
            gib(self.weight_bytes),
            gib(self.activation_bytes),
            gib(self.text_bytes),
            gib(self.vae_bytes),
            gib(self.host_bytes),
            gib(available),
            self.advice()
        )))
    }

    /// What makes the largest stage smaller.
    fn advice(&self) -> &'static str {
        if self.peak_bytes == self.text_bytes {
            "pack the text encoder with `qvgen quantize --text-encoder-bits w8a16`"
        } else if self.peak_bytes == self.vae_bytes {
            "decode in tiles with --vae-tile 256, or use a smaller --size"
        } else if self.weight_bytes > self.activation_bytes {
            "use --bits w4a4"
        } else {
            "use fewer --frames or a smaller --size"
        }
    }
}

/// The VAE's tiles for frames of `latent_size` (height, width) latents.
pub fn tiling(
    model: &VideoModel,
    settings: &SampleSettings,
    latent_size: [usize; 2],
    device: &OpenDevice,
    limit_bytes: Option<u64>,
) -> Option<Tiling> {
    match settings.tiling {
        TilingChoice::Off => None,
        TilingChoice::Tiles(tiling) => Some(tiling),
        TilingChoice::Auto => {
            // Not what happens to be free: tiles change pixels, and a seed must mean one video.
            let (elements, bytes) = (device.max_elements() as u64, limit_bytes.unwrap_or(u64::MAX));
            Tiling::within(&*model.vae, latent_size, elements, bytes)
        }
    }
}

/// Of prompts as long as they may be: how long they are is not known yet.
fn text_bytes(model: &VideoModel, prompts: usize) -> u64 {
    // Files that cannot be read are named by what reads them.
    let weights = model.weights(ComponentKind::TextEncoder, None, usize::MAX).ok();
    let weight_bytes = |layer: &LinearShape| match &weights {
        Some(weights) => weights.weight_bytes(layer),
        None => 4 * layer.out_features as u64 * layer.in_features as u64,
    };
    text_encoder_bytes(&model.text_encoder, model.text_tokens, prompts, &weight_bytes)
}

/// An entry of the system's table of memory, bytes.
fn host_memory(entry: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(entry))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The most memory this process has held on the host, where the system tells.
pub fn peak_host_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
