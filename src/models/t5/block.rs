//! One block: attention with relative positions, then a gated feed-forward layer.

use super::T5Config;
use crate::nn::{Linear, RmsNorm, WeightError, Weights, gelu_tanh, relative_attention};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The bucket of each distance of a key from a query, from `1 − tokens` to `tokens − 1`.
///
/// Half of the buckets are for keys after the query. Of each half, one half holds the near
/// distances exactly and the rest divides the far ones evenly by their logarithm (in f32, as the
/// published models compute it).
fn buckets(tokens: usize, config: &T5Config) -> Vec<i32> {
    let half = config.relative_attention_num_buckets / 2;
    let exact = half / 2;
    let span = (config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
    let bucket = |distance: usize| {
        if distance < exact {
            return distance;
        }
        let log = (distance as f32 / exact as f32).ln() / span;
        (exact + (log * (half - exact) as f32) as usize).min(half - 1)
    };
    let before = (1..tokens).rev().map(bucket);
    let after = (1..tokens).map(|distance| half + bucket(distance));
    let all = before.chain([bucket(0)]).chain(after);
    all.map(|i| i32::try_from(i).expect("a configuration has fewer buckets than i32::MAX"))
        .collect()
}

/// The buckets of all distances among some tokens, for [`Block::forward`].
pub(super) struct Positions {
    /// `[2 · tokens − 1]`.
    buckets: Tensor<1, Int>,
}

impl Positions {
    pub(super) fn new(tokens: usize, config: &T5Config, device: &Device) -> Self {
        let data = TensorData::new(buckets(tokens, config), [2 * tokens - 1]);
        Self { buckets: Tensor::from_data(data, device) }
    }
}

/// The table of relative positions stored with the block at `weights`, `[buckets, heads]`.
pub(super) fn load_table(
    weights: &Weights<'_>,
    config: &T5Config,
) -> Result<Tensor<2>, WeightError> {
    weights.tensor(
        "layer.0.SelfAttention.relative_attention_bias.weight",
        [config.relative_attention_num_buckets, config.num_heads],
    )
}

/// One encoder block.
pub(super) struct Block {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// `[buckets, heads]`.
    relative_attention_bias: Tensor<2>,
    ff_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl Block {
    /// The block whose tensors are at `weights`, with its `table` of relative positions.
    pub(super) fn load(
        weights: &Weights<'_>,
        config: &T5Config,
        table: Tensor<2>,
    ) -> Result<Self, WeightError> {
        let (dim, inner, eps) = (config.d_model, config.inner_dim(), config.layer_norm_epsilon);
        let [attention, ff] = [weights.at("layer.0"), weights.at("layer.1")];
        let [qkvo, dense] = [attention.at("SelfAttention"), ff.at("DenseReluDense")];
        Ok(Self {
            attention_norm: RmsNorm::load(&attention.at("layer_norm"), dim, eps)?,
            q: qkvo.linear_without_bias("q", inner, dim)?,
            k: qkvo.linear_without_bias("k", inner, dim)?,
            v: qkvo.linear_without_bias("v", inner, dim)?,
            o: qkvo.linear_without_bias("o", dim, inner)?,
            relative_attention_bias: table,
            ff_norm: RmsNorm::load(&ff.at("layer_norm"), dim, eps)?,
            wi_0: dense.linear_without_bias("wi_0", config.d_ff, dim)?,
            wi_1: dense.linear_without_bias("wi_1", config.d_ff, dim)?,
            wo: dense.linear_without_bias("wo", dim, config.d_ff)?,
        })
    }

    /// `x` is `[tokens, d_model]`, as is the result.
    pub(super) fn forward(&self, x: Tensor<2>, positions: &Positions) -> Tensor<2> {
        let normed = self.attention_norm.forward(x.clone());
        let x = x + self.attend(normed, positions);
        let normed = self.ff_norm.forward(x.clone());
        let gated = gelu_tanh(self.wi_0.forward(normed.clone())) * self.wi_1.forward(normed);
        x + self.wo.forward(gated)
    }

    /// Self-attention whose scores are not scaled but shifted by the relative position.
    fn attend(&self, x: Tensor<2>, positions: &Positions) -> Tensor<2> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|layer| layer.forward(x.clone()));
        let (table, buckets) = (self.relative_attention_bias.clone(), positions.buckets.clone());
        self.o.forward(relative_attention(q, k, v, table, buckets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_near_logarithmic_far_and_mirrored_by_sign() {
        let tokens = 300;
        let buckets = buckets(tokens, &T5Config::umt5_xxl());
        assert_eq!(buckets.len(), 2 * tokens - 1);
        let before = |distance: usize| buckets[tokens - 1 - distance];
        let after = |distance: usize| buckets[tokens - 1 + distance];
        let expected =
            [(0, 0), (1, 1), (7, 7), (8, 8), (11, 8), (12, 9), (16, 10), (32, 12), (64, 14)];
        for (distance, bucket) in expected.into_iter().chain([(127, 15), (128, 15), (299, 15)]) {
            assert_eq!(before(distance), bucket, "{distance} before");
            if distance > 0 {
                assert_eq!(after(distance), bucket + 16, "{distance} after");
            }
        }
    }
}
