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

use super::WanConfig;
use crate::nn::{
    KeysValues, LayerNorm, Limits, Linear, MultiHeadAttention, RmsNorm, Rotation, Trace,
    WeightError, Weights, gelu_tanh, map_token_chunks,
};
use burn::tensor::Tensor;

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

    fn q(&self, x: Tensor<2>) -> Tensor<2> {
        self.norm_q.forward(self.to_q.forward(x))
    }

    fn k(&self, x: Tensor<2>) -> Tensor<2> {
        self.norm_k.forward(self.to_k.forward(x))
    }

    fn attend(&self, q: Tensor<2>, keys_values: &[KeysValues]) -> Tensor<2> {
        self.to_out.forward(self.attention.forward(q, keys_values))
    }
}

/// What the timestep does to a normalized token: `1 + scale` and `shift`, `[1, dim]` each.
#[derive(Debug)]
pub(super) struct Modulation {
    shift: Tensor<2>,
    scale: Tensor<2>,
}

impl Modulation {
    /// `shift` and `scale` in rows `first` and `first + 1` of a table.
    pub(super) fn of(table: &Tensor<2>, first: usize) -> Self {
        Self { shift: row(table, first), scale: row(table, first + 1) + 1.0 }
    }

    /// `x · (1 + scale) + shift`.
    pub(super) fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        x * self.scale.clone() + self.shift.clone()
    }
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
        Ok(Self {
            index,
            attn1: Projections::load(&weights.at("attn1"), config)?,
            attn2: Projections::load(&weights.at("attn2"), config)?,
            ffn_up: weights.linear("ffn.net.0.proj", ffn_dim, dim)?,
            ffn_down: weights.linear("ffn.net.2", dim, ffn_dim)?,
            scale_shift_table: weights.tensor("scale_shift_table", [1, 6, dim])?.reshape([6, dim]),
            plain_norm: LayerNorm::plain(eps),
            norm2: config.cross_attn_norm.then(norm2).transpose()?,
            ffn_tokens: limits.tokens(ffn_dim),
        })
    }

    /// Keys and values of the cross-attention to `text` `[tokens, dim]`.
    ///
    /// # Panics
    ///
    /// If `text` has not the model's width.
    pub fn text_keys_values(&self, text: &Tensor<2>) -> KeysValues {
        KeysValues { k: self.attn2.k(text.clone()), v: self.attn2.to_v.forward(text.clone()) }
    }

    /// `hidden` is `[tokens, dim]` in parts, as is the result; `timestep_proj` is `[6, dim]`, and
    /// there is a rotation per part.
    ///
    /// # Panics
    ///
    /// If shapes do not fit the configuration.
    pub fn forward(
        &self,
        hidden: Vec<Tensor<2>>,
        timestep_proj: &Tensor<2>,
        rotations: &[Rotation],
        text: &KeysValues,
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        let table = self.scale_shift_table.clone() + timestep_proj.clone();
        let hidden = self.self_attention(hidden, &table, rotations, trace);
        let (modulation, gate) = (Modulation::of(&table, 3), row(&table, 5));
        let finish = |hidden| {
            let hidden = self.cross_attention(hidden, text, trace);
            self.feed_forward(hidden, &modulation, &gate, trace)
        };
        hidden.into_iter().map(finish).collect()
    }

    fn self_attention(
        &self,
        hidden: Vec<Tensor<2>>,
        table: &Tensor<2>,
        rotations: &[Rotation],
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        let (modulation, gate) = (Modulation::of(table, 0), row(table, 2));
        // A query attends to all tokens, so all keys and values come first.
        let (normed, keys_values): (Vec<_>, Vec<_>) = hidden
            .iter()
            .zip(rotations)
            .map(|(hidden, rotation)| {
                let normed = self.plain_norm.forward(hidden.clone());
                trace.record(format_args!("block{}.norm1", self.index), &normed);
                let normed = modulation.apply(normed);
                let k = rotation.apply(self.attn1.k(normed.clone()));
                let v = self.attn1.to_v.forward(normed.clone());
                (normed, KeysValues { k, v })
            })
            .unzip();
        let attend = |((hidden, normed), rotation): ((Tensor<2>, Tensor<2>), &Rotation)| {
            let q = rotation.apply(self.attn1.q(normed));
            let attended = self.attn1.attend(q, &keys_values);
            trace.record(format_args!("block{}.attn1", self.index), &attended);
            hidden + attended * gate.clone()
        };
        hidden.into_iter().zip(normed).zip(rotations).map(attend).collect()
    }

    fn cross_attention(
        &self,
        hidden: Tensor<2>,
        text: &KeysValues,
        trace: &mut Trace<'_>,
    ) -> Tensor<2> {
        let normed = match &self.norm2 {
            Some(norm) => norm.forward(hidden.clone()),
            None => hidden.clone(),
        };
        trace.record(format_args!("block{}.norm2", self.index), &normed);
        let attended = self.attn2.attend(self.attn2.q(normed), std::slice::from_ref(text));
        trace.record(format_args!("block{}.attn2", self.index), &attended);
        hidden + attended
    }

    fn feed_forward(
        &self,
        hidden: Tensor<2>,
        modulation: &Modulation,
        gate: &Tensor<2>,
        trace: &mut Trace<'_>,
    ) -> Tensor<2> {
        let normed = self.plain_norm.forward(hidden.clone());
        trace.record(format_args!("block{}.norm3", self.index), &normed);
        let fed = map_token_chunks(modulation.apply(normed), self.ffn_tokens, |x| {
            self.ffn_down.forward(gelu_tanh(self.ffn_up.forward(x)))
        });
        trace.record(format_args!("block{}.ffn", self.index), &fed);
        let hidden = hidden + fed * gate.clone();
        trace.record(format_args!("block{}", self.index), &hidden);
        hidden
    }
}
