//! One block: self-attention, cross-attention to the text, feed-forward.
//!
//! ```text
//! h += gate₁ · attn1( norm1(h) · (1 + scale₁) + shift₁ )
//! h +=         attn2( norm2(h), text )
//! h += gate₂ · ffn(   norm3(h) · (1 + scale₂) + shift₂ )
//! ```
//!
//! Tokens come as one or more tensors in token order; every step but self-attention treats them
//! one by one.
//!
//! # Passes over the tokens
//!
//! What reads or writes tokens besides the products and the attention, in bytes per token of
//! packed 4-bit layers, `D` the width and `F` that of the feed-forward layer. Bias, gate and sum are
//! part of the products. The share is of the time that Wan 1.3B's 32 760 tokens need at least for
//! the arithmetic of a block (8.1 ms at 1979 tera-operations per second in 8 bits and 990 in 16-bit
//! floats), at 4.8 TB/s; where arithmetic is slower relative to memory, shares are smaller.
//!
//! | pass | bytes | of the floor |
//! |---|---|---|
//! | norm₁, modulation, codes for q, k and v | 4.5 D | 0.6 % |
//! | q and k: RMS norm and rotation | 16 D | 2.1 % |
//! | codes of the attention's result, twice | 9 D | 1.2 % |
//! | norm₂ and codes for q | 4.5 D | 0.6 % |
//! | q of the cross-attention: RMS norm | 8 D | 1.0 % |
//! | norm₃, modulation, codes | 4.5 D | 0.6 % |
//! | GELU and codes | 4.5 F | 3.4 % |
//! | results of layers that were split over dispatches copied together, 8 D each | ≤ 56 D | ≤ 7.2 % |
//!
//! In separate steps, norms, rotations, modulations, sums and codes would be 281 D more and GELU
//! 72 F, which is 90 % of the floor. (On lavapipe, where products took nearly all the time, fusing them saved 3 % of a
//! block of 390 tokens: 6.6 s of processor time before, 6.4 s after.)

use super::WanConfig;
use crate::models::blocks::Block;
use crate::nn::{
    AttentionPrecision, FrameTokens, KeysValues, LayerNorm, Limits, Linear, LinearInput,
    Modulation, MultiHeadAttention, RmsNorm, Rotation, Trace, WeightError, Weights,
    map_token_chunks,
};
use burn::tensor::Tensor;
use std::fmt::Arguments;

/// The projections of an attention; queries and keys are normalized over all heads together.
#[derive(Debug)]
struct Projections {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    attention: MultiHeadAttention,
}

impl Projections {
    fn load(weights: &Weights<'_>, config: &WanConfig) -> Result<Self, WeightError> {
        let (dim, heads) = (config.dim(), config.num_attention_heads);
        Ok(Self {
            to_q: weights.linear("to_q", dim, dim)?,
            to_k: weights.linear("to_k", dim, dim)?,
            to_v: weights.linear("to_v", dim, dim)?,
            to_out: weights.linear("to_out.0", dim, dim)?,
            norm_q: RmsNorm::load(&weights.at("norm_q"), dim, config.eps)?,
            norm_k: RmsNorm::load(&weights.at("norm_k"), dim, config.eps)?,
            attention: MultiHeadAttention::new(heads, config.attention_head_dim),
        })
    }

    fn q(&self, x: &LinearInput, rotation: Option<&Rotation>) -> Tensor<2> {
        let dtype = self.attention.dtype();
        self.norm_q.forward_rotated(self.to_q.forward_input(x), rotation, dtype)
    }

    fn keys_values(&self, x: &LinearInput, rotation: Option<&Rotation>) -> KeysValues {
        let dtype = self.attention.dtype();
        let k = self.norm_k.forward_rotated(self.to_k.forward_input(x), rotation, dtype);
        let v = self.to_v.forward_input(x);
        KeysValues { v: if v.is_autodiff() { v } else { v.cast(dtype) }, k }
    }

    /// `hidden`, plus what its queries `q` find times `gate`; shown under the block's `name`.
    fn attend(
        &self,
        hidden: Tensor<2>,
        q: Tensor<2>,
        keys_values: &[KeysValues],
        gate: Option<&Tensor<2>>,
        frames: FrameTokens,
        (name, trace): (Arguments<'_>, &mut Trace<'_>),
    ) -> Tensor<2> {
        let found = self.attention.forward(q, keys_values);
        let found = LinearInput::new(found).of_frames(Some(frames));
        trace.record_with(name, || self.to_out.forward_input(&found));
        self.to_out.forward_add(&found, hidden, gate)
    }
}

/// What a timestep does in one block: it is the same for all tokens and both branches of guidance.
#[derive(Clone, Debug)]
pub struct BlockTimestep {
    attention: Modulation,
    /// `[1, dim]`, as the other gate.
    attention_gate: Tensor<2>,
    feed_forward: Modulation,
    feed_forward_gate: Tensor<2>,
}

/// `shift` and `scale` in rows `first` and `first + 1` of a table.
pub(super) fn modulation(table: &Tensor<2>, first: usize) -> Modulation {
    Modulation { offset: row(table, first), factor: row(table, first + 1) + 1.0 }
}

fn row(table: &Tensor<2>, index: usize) -> Tensor<2> {
    table.clone().narrow(0, index, 1)
}

/// One transformer block.
#[derive(Debug)]
pub struct WanBlock {
    index: usize,
    /// `[6, dim]`.
    scale_shift_table: Tensor<2>,
    /// `norm1` and `norm3`, which have no parameters.
    plain_norm: LayerNorm,
    attn1: Projections,
    /// Before cross-attention; not in every model.
    norm2: Option<LayerNorm>,
    attn2: Projections,
    ffn_up: Linear,
    ffn_down: Linear,
    /// Most tokens whose feed-forward layer is computed at once: it is the widest.
    ffn_tokens: usize,
}

impl Block for WanBlock {
    type Config = WanConfig;

    fn count(config: &WanConfig) -> usize {
        config.num_layers
    }

    fn load(
        weights: &Weights<'_>,
        config: &WanConfig,
        limits: Limits,
        index: usize,
    ) -> Result<Self, WeightError> {
        Self::load(weights, config, limits, index)
    }

    fn with_attention(self, precision: AttentionPrecision) -> Self {
        self.with_attention(precision)
    }
}

impl WanBlock {
    /// Block `index` of the transformer at `weights`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(
        weights: &Weights<'_>,
        config: &WanConfig,
        limits: Limits,
        index: usize,
    ) -> Result<Self, WeightError> {
        let weights = weights.at(format_args!("blocks.{index}"));
        let (dim, ffn_dim, eps) = (config.dim(), config.ffn_dim, config.eps);
        let norm2 = || LayerNorm::load(&weights.at("norm2"), dim, eps);
        let attn1 = Projections::load(&weights.at("attn1"), config)?;
        let attn2 = Projections::load(&weights.at("attn2"), config)?;
        let ffn_up = weights.linear("ffn.net.0.proj", ffn_dim, dim)?;
        let ffn_down = weights.linear("ffn.net.2", dim, ffn_dim)?;
        let ffn_tokens = limits.feed_forward_tokens(&ffn_up, dim, ffn_dim);
        Ok(Self {
            index,
            attn1,
            attn2,
            ffn_up,
            ffn_down,
            scale_shift_table: weights.tensor("scale_shift_table", [1, 6, dim])?.reshape([6, dim]),
            plain_norm: LayerNorm::plain(eps),
            norm2: config.cross_attn_norm.then(norm2).transpose()?,
            ffn_tokens,
        })
    }

    /// The same with attention in another precision.
    #[must_use]
    pub fn with_attention(mut self, precision: AttentionPrecision) -> Self {
        for projections in [&mut self.attn1, &mut self.attn2] {
            projections.attention = projections.attention.with_precision(precision);
        }
        self
    }

    /// Keys and values of the cross-attention to `text` `[tokens, dim]`.
    ///
    /// # Panics
    ///
    /// If `text` has not the model's width.
    pub fn text_keys_values(&self, text: &Tensor<2>) -> KeysValues {
        let text = LinearInput::new(text.clone());
        self.attn2.keys_values(&text, None)
    }

    /// Whether the text has other keys and values at another step of a run.
    pub fn text_depends_on_step(&self) -> bool {
        self.attn2.to_k.depends_on_step() || self.attn2.to_v.depends_on_step()
    }

    /// What a timestep does in this block; `timestep_proj` is `[6, dim]`.
    ///
    /// # Panics
    ///
    /// If it has another shape.
    pub fn timestep(&self, timestep_proj: &Tensor<2>) -> BlockTimestep {
        let table = self.scale_shift_table.clone() + timestep_proj.clone();
        BlockTimestep {
            attention: modulation(&table, 0),
            attention_gate: row(&table, 2),
            feed_forward: modulation(&table, 3),
            feed_forward_gate: row(&table, 5),
        }
    }

    /// `hidden` is `[tokens, dim]` in parts, as is the result, and there is a rotation per part.
    ///
    /// # Panics
    ///
    /// If shapes do not fit the configuration.
    pub fn forward(
        &self,
        hidden: Vec<Tensor<2>>,
        timestep: &BlockTimestep,
        rotations: &[Rotation],
        text: &KeysValues,
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        let hidden = self.self_attention(hidden, timestep, rotations, trace);
        let finish = |(hidden, rotation): (Tensor<2>, &Rotation)| {
            let hidden = self.cross_attention(hidden, text, rotation.frames, trace);
            self.feed_forward(hidden, timestep, rotation.frames, trace)
        };
        hidden.into_iter().zip(rotations).map(finish).collect()
    }

    fn self_attention(
        &self,
        hidden: Vec<Tensor<2>>,
        timestep: &BlockTimestep,
        rotations: &[Rotation],
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        // A query attends to all tokens, so all keys and values come first.
        let (normed, keys_values): (Vec<_>, Vec<_>) = hidden
            .iter()
            .zip(rotations)
            .map(|(hidden, rotation)| {
                let normed = self.normed(
                    "norm1",
                    &self.plain_norm,
                    hidden,
                    Some(&timestep.attention),
                    trace,
                );
                let normed = normed.of_frames(Some(rotation.frames));
                let keys_values = self.attn1.keys_values(&normed, Some(rotation));
                (normed, keys_values)
            })
            .unzip();
        let gate = Some(&timestep.attention_gate);
        let attend = |((hidden, normed), rotation): ((Tensor<2>, LinearInput), &Rotation)| {
            let q = self.attn1.q(&normed, Some(rotation));
            drop(normed);
            let shown = (format_args!("block{}.attn1", self.index), &mut *trace);
            self.attn1.attend(hidden, q, &keys_values, gate, rotation.frames, shown)
        };
        hidden.into_iter().zip(normed).zip(rotations).map(attend).collect()
    }

    fn cross_attention(
        &self,
        hidden: Tensor<2>,
        text: &KeysValues,
        frames: FrameTokens,
        trace: &mut Trace<'_>,
    ) -> Tensor<2> {
        let normed = match &self.norm2 {
            Some(norm) => self.normed("norm2", norm, &hidden, None, trace),
            None => {
                trace.record(format_args!("block{}.norm2", self.index), &hidden);
                LinearInput::new(hidden.clone())
            }
        };
        let normed = normed.of_frames(Some(frames));
        let q = self.attn2.q(&normed, None);
        drop(normed);
        let shown = (format_args!("block{}.attn2", self.index), trace);
        self.attn2.attend(hidden, q, std::slice::from_ref(text), None, frames, shown)
    }

    fn feed_forward(
        &self,
        hidden: Tensor<2>,
        timestep: &BlockTimestep,
        frames: FrameTokens,
        trace: &mut Trace<'_>,
    ) -> Tensor<2> {
        let mut done = 0;
        let (modulation, gate) = (&timestep.feed_forward, &timestep.feed_forward_gate);
        let hidden = map_token_chunks(hidden, self.ffn_tokens, |hidden| {
            let frames = Some(frames.skip(done));
            done += hidden.dims()[0];
            let normed = self.normed("norm3", &self.plain_norm, &hidden, Some(modulation), trace);
            let wide = self.ffn_up.forward_input(&normed.of_frames(frames));
            let wide = LinearInput::gelu_tanh(wide).of_frames(frames);
            let name = format_args!("block{}.ffn", self.index);
            trace.record_with(name, || self.ffn_down.forward_input(&wide));
            self.ffn_down.forward_add(&wide, hidden, Some(gate))
        });
        trace.record(format_args!("block{}", self.index), &hidden);
        hidden
    }

    /// `hidden` normalized, which is shown as `name`, and modulated.
    fn normed(
        &self,
        name: &str,
        norm: &LayerNorm,
        hidden: &Tensor<2>,
        modulation: Option<&Modulation>,
        trace: &mut Trace<'_>,
    ) -> LinearInput {
        let name = format_args!("block{}.{name}", self.index);
        trace.record_with(name, || norm.forward(hidden.clone()));
        LinearInput::normed(hidden.clone(), norm, modulation)
    }
}
