//! The autoencoder of a pocket model: reading, writing, and what its latents look like.

use super::folder::write_component;
use super::{host, pocket, values_of};
use crate::kernels::device::OpenDevice;
use crate::models::wan_vae::{WanVaeConfig, WanVaeEncoder};
use crate::nn::Weights;
use crate::pipeline::PipelineError;
use crate::pipeline::checkpoint::{Checkpoint, config_from_json, read_json};
use crate::train::TrainError;
use crate::train::parameters::Parameters;
use crate::train::random::{Purpose, key, uniform};
use crate::train::source::ParameterSource;
use crate::world::{Scene, Split, render};
use burn::tensor::{Tensor, TensorData};
use std::path::Path;

/// An autoencoder and its sizes.
#[derive(Debug)]
pub(super) struct Autoencoder {
    pub(super) config: WanVaeConfig,
    pub(super) parameters: Parameters,
}

impl Autoencoder {
    pub(super) fn read(folder: &Path, device: &OpenDevice) -> Result<Self, TrainError> {
        let path = folder.join("config.json");
        let json = read_json(&path)?;
        let config: WanVaeConfig = config_from_json(&json, &path)?;
        let ours = pocket::vae_config();
        let sizes = |c: &WanVaeConfig| (c.base_dim, c.z_dim, c.num_res_blocks, c.dim_mult.clone());
        if sizes(&config) != sizes(&ours) {
            return Err(TrainError::Setting(format!(
                "the autoencoder has other sizes than the pocket model's: {}",
                path.display()
            )));
        }
        let checkpoint = Checkpoint::open(&folder.join("diffusion_pytorch_model.safetensors"))?;
        let mut shapes = config.encoder_parameter_shapes();
        shapes.extend(config.decoder_parameter_shapes());
        let parameters = Parameters::load(&checkpoint, &shapes, &device.device)?;
        Ok(Self { config, parameters })
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let config = pocket::vae_config_json(&self.config);
        write_component(folder, &config, "diffusion_pytorch_model", &values_of(&self.parameters)?)
    }

    /// The normalized latent of a video.
    fn encode(
        &self,
        planes: Vec<f32>,
        shape: [usize; 4],
        device: &OpenDevice,
    ) -> Result<Tensor<4>, TrainError> {
        let source = ParameterSource::plain(&self.parameters, None);
        let encoder = WanVaeEncoder::load(&Weights::new(&source, &device.device), &self.config)
            .map_err(PipelineError::from)?;
        let video = Tensor::from_data(TensorData::new(planes, shape), &device.device);
        Ok(encoder.encode_normalized(video).map_err(PipelineError::from)?)
    }

    /// Sets mean and standard deviation of the latents' channels from some clips.
    pub(super) fn measure(&mut self, seed: u64, device: &OpenDevice) -> Result<(), TrainError> {
        const CLIPS: usize = 96;
        let z_dim = self.config.z_dim;
        let (mut sums, mut squares, mut count) = (vec![0.0; z_dim], vec![0.0; z_dim], 0.0);
        for index in 0..CLIPS {
            let scene = Scene::random(Split::Training, key(seed, Purpose::Example, 2, index));
            let [frames, height, width] = pocket::SIZE;
            let planes = render(&scene, frames, height, width).to_planes();
            let latent = self.encode(planes, [3, frames, height, width], device)?;
            let values = host(latent)?;
            let per_channel = values.len() / z_dim;
            for (channel, values) in values.chunks(per_channel).enumerate() {
                sums[channel] += values.iter().map(|&v| f64::from(v)).sum::<f64>();
                squares[channel] += values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
            }
            count += per_channel as f64;
        }
        let mean = |channel: usize| sums[channel] / count;
        let std =
            |channel: usize| (squares[channel] / count - mean(channel).powi(2)).max(1e-12).sqrt();
        let (means, stds) = (0..z_dim).map(|c| (mean(c) as f32, std(c) as f32)).unzip();
        (self.config.latents_mean, self.config.latents_std) = (means, stds);
        Ok(())
    }
}

/// A clip for item `index` of `step`, or a frame of it, which takes a ninth of the time.
pub(super) fn clip_or_frame(
    seed: u64,
    step: usize,
    one_frame: bool,
    index: usize,
) -> (Vec<f32>, [usize; 4]) {
    let key = |n: usize| key(seed, Purpose::Example, 3 + step, index * 2 + n);
    let scene = Scene::random(Split::All, key(0));
    let [frames, height, width] = pocket::SIZE;
    let planes = render(&scene, frames, height, width).to_planes();
    if !one_frame {
        return (planes, [3, frames, height, width]);
    }
    let frame = (uniform(key(1)) * frames as f64) as usize;
    let picture = height * width;
    let of_channel = |channel: &[f32]| channel[frame * picture..(frame + 1) * picture].to_vec();
    (planes.chunks(frames * picture).flat_map(of_channel).collect(), [3, 1, height, width])
}
