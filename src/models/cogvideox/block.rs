//! One block: attention over text and video together, then a feed-forward layer.
//!
//! ```text
//! h += gate₁ · attn1( norm1(h) · (1 + scale₁) + shift₁ )
//! h += gate₂ · ff(    norm2(h) · (1 + scale₂) + shift₂ )
//! ```
//!
//! Tokens come in parts: those of the text, then those of the video in one tensor or more. Weights
//! are the same for all; shift, scale and gate are not the same for text and video.
//!
//! # Passes over the tokens
//!
//! What reads or writes tokens besides the products and the attention, in bytes per token of
//! packed 4-bit layers, `D` the width of a token. Bias, gate and sum are part of the products.
//!
//! | pass | bytes |
//! |---|---|
//! | norm₁, modulation, codes for q, k and v | 4.5 D |
//! | q and k: norm per head, rotation, text and video into one tensor | 16 D |
//! | values of text and video into one tensor | 8 D |
//! | codes of the attention's result | 4.5 D |
//! | norm₂, modulation, codes | 4.5 D |
//! | GELU and codes, of tokens 4 D wide | 18 D |
//!
//! In one tensor, keys are attended to in one go: the results over two would have to be weighed and
//! added, which reads and writes them more often than joining values does. Counted, not timed.

use super::CogVideoXConfig;
use super::modulation::{AdaptiveNorm, TokenTimestep};
use super::positions::Positions;
use crate::models::blocks::Block;
use crate::nn::{
    AttentionPrecision, FrameTokens, HeadNorm, KeysValues, Limits, Linear, LinearInput,
    MultiHeadAttention, Rotation, Trace, WeightError, Weights, map_token_chunks,
};
use burn::tensor::Tensor;

/// Added to the variances of queries and keys: fixed in the published code.
const HEAD_NORM_EPS: f64 = 1e-6;

/// What a timestep does in one block: it is the same for all tokens of a kind and both branches of
/// guidance.
#[derive(Clone, Debug)]
pub struct BlockTimestep {
    attention: Kinds,
    feed_forward: Kinds,
}

/// For the two kinds of tokens.
#[derive(Clone, Debug)]
struct Kinds {
    text: TokenTimestep,
    video: TokenTimestep,
}

impl Kinds {
    fn of(norm: &AdaptiveNorm, conditioning: &Tensor<2>) -> Self {
        let rows = norm.rows(conditioning);
        Self { video: norm.token_timestep(&rows, 0), text: norm.token_timestep(&rows, 3) }
    }

    fn at(&self, part: usize) -> &TokenTimestep {
        if part == 0 { &self.text } else { &self.video }
    }
}

/// The frames of part `part` of the tokens; the first part is text and has none.
fn frames(part: usize, positions: &[Positions]) -> Option<FrameTokens> {
    positions.get(part.checked_sub(1)?).map(Positions::frames)
}

/// What the tokens of a part are called in a trace.
fn kind(part: usize) -> &'static str {
    if part == 0 { "text" } else { "hidden" }
}

/// What their gates are called.
fn kind_of_gate(part: usize) -> &'static str {
    if part == 0 { "text_gate" } else { "gate" }
}

/// Tokens that are attended to as one tensor: a part of the video, the first with the text before.
struct Group {
    text: Option<LinearInput>,
    video: LinearInput,
    rotation: Option<Rotation>,
}

impl Group {
    fn project(&self, layer: &Linear) -> (Option<Tensor<2>>, Tensor<2>) {
        let text = self.text.as_ref().map(|text| layer.forward_input(text));
        (text, layer.forward_input(&self.video))
    }

    fn text_tokens(&self) -> usize {
        self.text.as_ref().map_or(0, LinearInput::tokens)
    }
}

/// The attention with its projections.
#[derive(Debug)]
struct JointAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: HeadNorm,
    norm_k: HeadNorm,
    attention: MultiHeadAttention,
}

impl JointAttention {
    fn load(weights: &Weights<'_>, config: &CogVideoXConfig) -> Result<Self, WeightError> {
        let (dim, head_dim) = (config.dim(), config.attention_head_dim);
        let head_norm = |name| HeadNorm::load(&weights.at(name), head_dim, HEAD_NORM_EPS);
        Ok(Self {
            to_q: weights.linear("to_q", dim, dim)?,
            to_k: weights.linear("to_k", dim, dim)?,
            to_v: weights.linear("to_v", dim, dim)?,
            to_out: weights.linear("to_out.0", dim, dim)?,
            norm_q: head_norm("norm_q")?,
            norm_k: head_norm("norm_k")?,
            attention: MultiHeadAttention::new(config.num_attention_heads, head_dim),
        })
    }

    fn q(&self, group: &Group) -> Tensor<2> {
        let (text, video) = group.project(&self.to_q);
        let dtype = self.attention.dtype();
        self.norm_q.forward_rotated(text, video, group.rotation.as_ref(), dtype)
    }

    fn keys_values(&self, group: &Group) -> KeysValues {
        let dtype = self.attention.dtype();
        let (text, video) = group.project(&self.to_k);
        let k = self.norm_k.forward_rotated(text, video, group.rotation.as_ref(), dtype);
        let cast = |v: Tensor<2>| if v.is_autodiff() { v } else { v.cast(dtype) };
        let v = match group.project(&self.to_v) {
            (Some(text), video) => Tensor::cat(vec![cast(text), cast(video)], 0),
            (None, video) => cast(video),
        };
        KeysValues { k, v }
    }

    /// What the tokens of `group` find in all keys and values, in parts as the tokens are.
    fn found(&self, group: Group, keys_values: &[KeysValues]) -> Vec<Tensor<2>> {
        let (q, text_tokens) = (self.q(&group), group.text_tokens());
        drop(group);
        let found = self.attention.forward(q, keys_values);
        if text_tokens == 0 {
            return vec![found];
        }
        let video_tokens = found.dims()[0] - text_tokens;
        let text = found.clone().narrow(0, 0, text_tokens);
        vec![text, found.narrow(0, text_tokens, video_tokens)]
    }
}

/// One transformer block.
#[derive(Debug)]
pub struct CogVideoXBlock {
    index: usize,
    norm1: AdaptiveNorm,
    attn1: JointAttention,
    norm2: AdaptiveNorm,
    ff_up: Linear,
    ff_down: Linear,
    /// Most tokens whose feed-forward layer is computed at once: it is the widest.
    ff_tokens: usize,
}

impl Block for CogVideoXBlock {
    type Config = CogVideoXConfig;

    fn count(config: &CogVideoXConfig) -> usize {
        config.num_layers
    }

    fn load(
        weights: &Weights<'_>,
        config: &CogVideoXConfig,
        limits: Limits,
        index: usize,
    ) -> Result<Self, WeightError> {
        Self::load(weights, config, limits, index)
    }

    fn with_attention(self, precision: AttentionPrecision) -> Self {
        self.with_attention(precision)
    }
}

impl CogVideoXBlock {
    /// Block `index` of the transformer at `weights`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(
        weights: &Weights<'_>,
        config: &CogVideoXConfig,
        limits: Limits,
        index: usize,
    ) -> Result<Self, WeightError> {
        let weights = weights.at(format_args!("transformer_blocks.{index}"));
        let (dim, ffn_dim) = (config.dim(), config.ffn_dim());
        let ff_up = weights.linear("ff.net.0.proj", ffn_dim, dim)?;
        let ff_down = weights.linear("ff.net.2", dim, ffn_dim)?;
        let ff_tokens = limits.feed_forward_tokens(&ff_up, dim, ffn_dim);
        Ok(Self {
            index,
            norm1: AdaptiveNorm::load(&weights.at("norm1"), config, 6)?,
            attn1: JointAttention::load(&weights.at("attn1"), config)?,
            norm2: AdaptiveNorm::load(&weights.at("norm2"), config, 6)?,
            ff_up,
            ff_down,
            ff_tokens,
        })
    }

    /// The same with attention in another precision.
    #[must_use]
    pub fn with_attention(mut self, precision: AttentionPrecision) -> Self {
        self.attn1.attention = self.attn1.attention.with_precision(precision);
        self
    }

    /// What a timestep does in this block; `conditioning` is `[1, time_embed_dim]`.
    ///
    /// # Panics
    ///
    /// If it has another shape.
    pub fn timestep(&self, conditioning: &Tensor<2>) -> BlockTimestep {
        BlockTimestep {
            attention: Kinds::of(&self.norm1, conditioning),
            feed_forward: Kinds::of(&self.norm2, conditioning),
        }
    }

    /// `hidden` is `[tokens, dim]` in parts, text first, as is the result; there is a position per
    /// part of the video.
    ///
    /// # Panics
    ///
    /// If shapes do not fit the configuration, or there is no part of a video.
    pub fn forward(
        &self,
        hidden: Vec<Tensor<2>>,
        timestep: &BlockTimestep,
        positions: &[Positions],
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        assert_eq!(hidden.len(), positions.len() + 1, "parts of the video and their positions");
        let hidden = self.attend(hidden, &timestep.attention, positions, trace);
        let finish = |(part, hidden)| {
            let shown = (part, frames(part, positions), &mut *trace);
            self.feed_forward(hidden, timestep.feed_forward.at(part), shown)
        };
        hidden.into_iter().enumerate().map(finish).collect()
    }

    fn attend(
        &self,
        hidden: Vec<Tensor<2>>,
        timestep: &Kinds,
        positions: &[Positions],
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        let mut normed = hidden.iter().enumerate().map(|(part, hidden)| {
            let TokenTimestep { modulation, gate } = timestep.at(part);
            let normed = self.norm1.normed(hidden.clone(), modulation);
            self.show("norm1", part, &normed, gate, trace);
            normed
        });
        let mut text = normed.next();
        let groups: Vec<Group> = normed
            .zip(positions)
            .map(|(video, positions)| Group {
                text: text.take(),
                video: video.of_frames(Some(positions.frames())),
                rotation: positions.rotation().cloned(),
            })
            .collect();
        // A query attends to all tokens, so all keys and values come first.
        let keys_values: Vec<_> =
            groups.iter().map(|group| self.attn1.keys_values(group)).collect();
        let found = groups.into_iter().flat_map(|group| self.attn1.found(group, &keys_values));
        let add = |(part, (hidden, found)): (usize, (Tensor<2>, Tensor<2>))| {
            let found = LinearInput::new(found).of_frames(frames(part, positions));
            let name = format_args!("block{}.attn1.{}", self.index, kind(part));
            trace.record_with(name, || self.attn1.to_out.forward_input(&found));
            self.attn1.to_out.forward_add(&found, hidden, Some(&timestep.at(part).gate))
        };
        hidden.into_iter().zip(found).enumerate().map(add).collect()
    }

    fn feed_forward(
        &self,
        hidden: Tensor<2>,
        TokenTimestep { modulation, gate }: &TokenTimestep,
        (part, frames, trace): (usize, Option<FrameTokens>, &mut Trace<'_>),
    ) -> Tensor<2> {
        let mut done = 0;
        let hidden = map_token_chunks(hidden, self.ff_tokens, |hidden| {
            let frames = frames.map(|frames| frames.skip(done));
            done += hidden.dims()[0];
            let normed = self.norm2.normed(hidden.clone(), modulation).of_frames(frames);
            self.show("norm2", part, &normed, gate, trace);
            let wide = self.ff_up.forward_input(&normed);
            let wide = LinearInput::gelu_tanh(wide).of_frames(frames);
            let name = format_args!("block{}.ff.{}", self.index, kind(part));
            trace.record_with(name, || self.ff_down.forward_input(&wide));
            self.ff_down.forward_add(&wide, hidden, Some(gate))
        });
        trace.record(format_args!("block{}.{}", self.index, kind(part)), &hidden);
        hidden
    }

    /// Shows the tokens of a part that a normalization called `name` returns, and their gate.
    fn show(
        &self,
        name: &str,
        part: usize,
        normed: &LinearInput,
        gate: &Tensor<2>,
        trace: &mut Trace<'_>,
    ) {
        let block = self.index;
        let shown = format_args!("block{block}.{name}.{}", kind(part));
        trace.record_with(shown, || normed.values());
        trace.record(format_args!("block{block}.{name}.{}", kind_of_gate(part)), gate);
    }
}
