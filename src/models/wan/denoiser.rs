//! This transformer as the rest of the program sees any.

use super::config::PATCH;
use super::stages::WanStages;
use super::{WanConfig, WanTransformer};
use crate::models::LinearShape;
use crate::models::denoiser::{
    BlockTensors, Denoiser, DenoiserConfig, PassOps, Stages, TextContext, TimestepContext,
    UsualCall,
};
use crate::nn::{AttentionPrecision, Limits, RunClock, Trace, WeightError, Weights};
use burn::tensor::Tensor;
use std::sync::Arc;

impl DenoiserConfig for WanConfig {
    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    fn text_dim(&self) -> usize {
        self.text_dim
    }

    fn dim(&self) -> usize {
        Self::dim(self)
    }

    fn ffn_dim(&self) -> usize {
        self.ffn_dim
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
        "blocks"
    }

    fn patch(&self) -> [usize; 3] {
        PATCH
    }

    fn max_grid(&self) -> [usize; 3] {
        [self.rope_max_seq_len; 3]
    }

    fn linears(&self) -> Vec<LinearShape> {
        Self::linears(self)
    }

    fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        Self::parameter_shapes(self)
    }

    fn sensitive_layers(&self) -> &'static [&'static str] {
        // 1.2 % of the weights of Wan 1.3B.
        &["condition_embedder.*", "proj_out"]
    }

    fn timestep_projections(&self) -> &'static [&'static str] {
        &["condition_embedder.time_proj"]
    }

    fn starts_at_zero(&self, name: &str) -> bool {
        let ends = ["scale_shift_table", "time_proj.weight"];
        name == "proj_out.weight" || ends.iter().any(|end| name.ends_with(end))
    }

    fn usual_call(&self, _pixels_per_latent: usize) -> UsualCall {
        // Wan 2.1 at 480p.
        UsualCall {
            frames: 81,
            width: 832,
            height: 480,
            steps: 50,
            guidance_scale: 5.0,
            fps: 16.0,
            text_tokens: 512,
        }
    }

    fn sequence_tokens(&self, tokens: usize, _text_tokens: usize) -> usize {
        tokens
    }

    fn ops(&self, tokens: usize, text_tokens: usize) -> PassOps {
        let mut ops = PassOps::default();
        for layer in self.linears() {
            let per_row = 2.0 * layer.out_features as f64 * layer.in_features as f64;
            let of_tokens = per_row * tokens as f64;
            match self.block_of(&layer.name) {
                // Once per prompt.
                Some(0) if layer.name.ends_with("attn2.to_k") => {}
                Some(0) if layer.name.ends_with("attn2.to_v") => {}
                Some(0) => ops.block_linears += of_tokens,
                Some(_) => {}
                None if layer.name == "proj_out" => ops.rest += of_tokens,
                None => ops.rest += per_row,
            }
        }
        let keys = (tokens + text_tokens) as f64;
        ops.block_attention = 4.0 * tokens as f64 * keys * self.dim() as f64;
        ops
    }

    /// Before attention, the hidden state, its normed copy, k, v, and q before and after its norm; in
    /// the feed-forward layer, a chunk before and after its activation beside the hidden state, the
    /// chunks that are done, and all of them in a row. Every block keeps the keys and values of the
    /// texts.
    fn activation_bytes(
        &self,
        tokens: usize,
        text_tokens: usize,
        prompts: usize,
        max_elements: usize,
    ) -> u64 {
        let dim = self.dim() as u64;
        let hidden = (tokens as u64).saturating_mul(dim);
        let chunk = Limits { max_elements }.wide_tokens(self.dim(), self.ffn_dim).min(tokens);
        let chunk = (chunk as u64).saturating_mul(self.ffn_dim as u64);
        let text = (2 * self.num_layers * prompts * text_tokens) as u64 * dim;
        let feed_forward = hidden.saturating_mul(3).saturating_add(2 * chunk);
        hidden.saturating_mul(6).max(feed_forward).saturating_add(text).saturating_mul(4)
    }

    /// What is kept was measured, see `tests/train_memory.rs`.
    fn block_tensors(&self) -> BlockTensors {
        BlockTensors { kept: [23, 6], live: [9, 2], kept_of_text: 4 }
    }

    fn load_streamed(
        &self,
        weights: &Weights<'_>,
        limits: Limits,
        resident_blocks: usize,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Box<dyn Denoiser>, WeightError> {
        let transformer =
            WanTransformer::load_streamed(weights, self, limits, resident_blocks, loaded)?;
        Ok(Box::new(transformer))
    }

    fn stages<'a>(
        &'a self,
        weights: &'a Weights<'a>,
        limits: Limits,
        grid: [usize; 3],
    ) -> Box<dyn Stages + 'a> {
        Box::new(WanStages::new(self, weights, limits, grid))
    }
}

impl Denoiser for WanTransformer {
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
        // Of diffusers' own passes, by torch's counter, in tera-operations; it counts the text's keys
        // and values in every pass.
        let tera = |config: &WanConfig| config.ops(32_760, 512).total(config.num_layers) / 1e12;
        let small = tera(&WanConfig::wan2_1_t2v_1_3b());
        assert!((small - 282.9).abs() < 0.1, "{small}");
        let large = tera(&WanConfig::wan2_1_t2v_14b());
        assert!((large - 1676.0).abs() < 1.0, "{large}");
    }
}
