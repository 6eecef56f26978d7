//! This transformer as the rest of the program sees any.

use super::stages::CogVideoXStages;
use super::{CogVideoXConfig, CogVideoXTransformer};
use crate::models::LinearShape;
use crate::models::denoiser::{
    BlockTensors, Denoiser, DenoiserConfig, PassOps, Stages, TextContext, TimestepContext,
    UsualCall,
};
use crate::nn::{AttentionPrecision, Limits, RunClock, Trace, WeightError, Weights};
use burn::tensor::Tensor;
use std::sync::Arc;

impl DenoiserConfig for CogVideoXConfig {
    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    fn text_dim(&self) -> usize {
        self.text_embed_dim
    }

    fn dim(&self) -> usize {
        Self::dim(self)
    }

    fn ffn_dim(&self) -> usize {
        Self::ffn_dim(self)
    }

    fn heads(&self) -> usize {
        self.num_attention_heads
    }

    fn num_layers(&self) -> usize {
        self.num_layers
    }

    fn with_num_layers(&self, num_layers: usize) -> Arc<dyn DenoiserConfig> {
        Arc::new(Self { num_layers, ..self.clone() })
    }

    fn block_prefix(&self) -> &'static str {
        "transformer_blocks"
    }

    fn patch(&self) -> [usize; 3] {
        Self::patch(self)
    }

    fn max_grid(&self) -> [usize; 3] {
        Self::max_grid(self)
    }

    fn linears(&self) -> Vec<LinearShape> {
        Self::linears(self)
    }

    fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        Self::parameter_shapes(self)
    }

    fn sensitive_layers(&self) -> &'static [&'static str] {
        // The timestep's layers in the blocks are a fifth of the weights of CogVideoX-2B, but each
        // is read once per step, for one row.
        &[
            "time_embedding.*",
            "ofs_embedding.*",
            "patch_embed.*",
            "*.norm1.linear",
            "*.norm2.linear",
            "norm_out.linear",
            "proj_out",
        ]
    }

    fn timestep_projections(&self) -> &'static [&'static str] {
        &["*.norm1.linear", "*.norm2.linear"]
    }

    fn starts_at_zero(&self, name: &str) -> bool {
        name == "proj_out.weight" || name.ends_with(".linear.weight")
    }

    fn usual_call(&self, pixels_per_latent: usize) -> UsualCall {
        // The latent size that 1.5 states is that of its table of positions: its videos are made at
        // 1360×768 pixels and twice the frame rate.
        let (width, height, fps) = match self.patch_size_t {
            None => {
                (self.sample_width * pixels_per_latent, self.sample_height * pixels_per_latent, 8.0)
            }
            Some(_) => (1360, 768, 16.0),
        };
        UsualCall {
            frames: self.sample_frames,
            width,
            height,
            steps: 50,
            guidance_scale: 6.0,
            fps,
            text_tokens: self.max_text_seq_length,
        }
    }

    fn sequence_tokens(&self, tokens: usize, text_tokens: usize) -> usize {
        tokens + text_tokens
    }

    fn ops(&self, tokens: usize, text_tokens: usize) -> PassOps {
        let (mut ops, sequence) = (PassOps::default(), (tokens + text_tokens) as f64);
        for layer in self.linears() {
            let per_row = 2.0 * layer.out_features as f64 * layer.in_features as f64;
            let sees_timestep = layer.name.ends_with(".linear");
            match self.block_of(&layer.name) {
                Some(0) if !sees_timestep => ops.block_linears += sequence * per_row,
                None if ["proj_out", "patch_embed.proj"].contains(&&*layer.name) => {
                    ops.rest += tokens as f64 * per_row;
                }
                // Once per prompt.
                None if layer.name == "patch_embed.text_proj" => {}
                Some(_) if !sees_timestep => {}
                _ => ops.rest += per_row,
            }
        }
        ops.block_attention = 4.0 * sequence * sequence * self.dim() as f64;
        ops
    }

    /// Hidden state, its normed copy, q, k, v, the attention's result and the feed-forward layer's
    /// chunk; element-wise operations hold about two more of the hidden size. Of a prompt its tokens
    /// are kept.
    fn activation_bytes(
        &self,
        tokens: usize,
        text_tokens: usize,
        prompts: usize,
        max_elements: usize,
    ) -> u64 {
        let (dim, sequence) = (self.dim() as u64, (tokens + text_tokens) as u64);
        let hidden = sequence.saturating_mul(dim);
        let chunk = Limits { max_elements }.wide_tokens(self.dim(), self.ffn_dim());
        let chunk = (chunk as u64).min(sequence).saturating_mul(self.ffn_dim() as u64);
        let text = (prompts * text_tokens) as u64 * dim;
        let feed_forward = hidden.saturating_mul(3).saturating_add(2 * chunk);
        hidden.saturating_mul(7).max(feed_forward).saturating_add(text).saturating_mul(4)
    }

    /// What is kept was measured, see `tests/train_memory.rs`.
    fn block_tensors(&self) -> BlockTensors {
        BlockTensors { kept: [16, 6], live: [9, 2], kept_of_text: 0 }
    }

    fn load_streamed(
        &self,
        weights: &Weights<'_>,
        limits: Limits,
        resident_blocks: usize,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Box<dyn Denoiser>, WeightError> {
        let transformer =
            CogVideoXTransformer::load_streamed(weights, self, limits, resident_blocks, loaded)?;
        Ok(Box::new(transformer))
    }

    fn stages<'a>(
        &'a self,
        weights: &'a Weights<'a>,
        limits: Limits,
        grid: [usize; 3],
    ) -> Box<dyn Stages + 'a> {
        Box::new(CogVideoXStages::new(self, weights, limits, grid))
    }
}

impl Denoiser for CogVideoXTransformer {
    fn config(&self) -> &dyn DenoiserConfig {
        Self::config(self)
    }

    fn clock(&self) -> &RunClock {
        Self::clock(self)
    }

    fn with_attention(self: Box<Self>, precision: AttentionPrecision) -> Box<dyn Denoiser> {
        Box::new(Self::with_attention(*self, precision))
    }

    fn text_context(&self, embeds: Tensor<2>, trace: &mut Trace<'_>) -> TextContext {
        TextContext::new(Self::text_context(self, embeds, trace))
    }

    fn timestep_context(&self, timestep: f32, trace: &mut Trace<'_>) -> TimestepContext {
        TimestepContext::new(Self::timestep_context(self, timestep, trace))
    }

    fn forward_at(
        &self,
        latent: Tensor<4>,
        timestep: &TimestepContext,
        text: &TextContext,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        Self::forward_at(self, latent, timestep.of(), text.of(), trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_calls_take_what_was_counted() {
        // Of diffusers' own passes, by torch's counter, in tera-operations.
        let tera = |config: &CogVideoXConfig, tokens| {
            let ops = config.ops(tokens, 226);
            ops.total(config.num_layers) / 1e12
        };
        let small = tera(&CogVideoXConfig::cogvideox_2b(), 13 * 30 * 45);
        assert!((small - 120.0).abs() < 0.1, "{small}");
        let large = tera(&CogVideoXConfig::cogvideox1_5_5b(), 11 * 48 * 85);
        assert!((large - 1479.0).abs() < 1.0, "{large}");
    }

    #[test]
    fn a_video_is_as_the_models_were_published() {
        let call = CogVideoXConfig::cogvideox_2b().usual_call(8);
        assert_eq!((call.width, call.height, call.frames, call.fps), (720, 480, 49, 8.0));
        let call = CogVideoXConfig::cogvideox1_5_5b().usual_call(8);
        assert_eq!((call.width, call.height, call.frames, call.fps), (1360, 768, 81, 16.0));
        assert_eq!(CogVideoXConfig::cogvideox1_5_5b().padded_frames(21), 22);
    }
}
