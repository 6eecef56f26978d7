//! One block: attention with relative positions, then a gated feed-forward layer.

use super::T5Config;
use crate::nn::{Limits, Linear, RmsNorm, WeightError, Weights, gelu_tanh};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Which bucket of distances key `k` lies in as seen from query `q`, row-major `[q, k]`.
///
/// Half of the buckets are for keys after the query. Of each half, one half holds the near
/// distances exactly and the rest divides the far ones evenly by their logarithm (in f32, as the
/// published models compute it).
fn buckets(tokens: usize, config: &T5Config) -> Vec<i32> {
    let half = config.relative_attention_num_buckets / 2;
    let exact = half / 2;
    let span = (config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
    let bucket = |query: usize, key: usize| {
        let distance = query.abs_diff(key);
        let near = if distance < exact {
            distance
        } else {
            let log = (distance as f32 / exact as f32).ln() / span;
            (exact + (log * (half - exact) as f32) as usize).min(half - 1)
        };
        let sign = if key > query { half } else { 0 };
        i32::try_from(sign + near).expect("a configuration has fewer buckets than i32::MAX")
    };
    (0..tokens).flat_map(|query| (0..tokens).map(move |key| bucket(query, key))).collect()
}

/// The buckets of all pairs of `tokens`, for [`Block::forward`].
pub(super) struct Positions {
    tokens: usize,
    /// `[tokens²]`.
    buckets: Tensor<1, Int>,
}

impl Positions {
    pub(super) fn new(tokens: usize, config: &T5Config, device: &Device) -> Self {
        let data = TensorData::new(buckets(tokens, config), [tokens * tokens]);
        Self { tokens, buckets: Tensor::from_data(data, device) }
    }

    /// What to add to the scores of some heads, `[heads, tokens, tokens]`; `table` is
    /// `[buckets, heads]`.
    fn bias(&self, table: Tensor<2>) -> Tensor<3> {
        let heads = table.dims()[1];
        let per_pair = table.select(0, self.buckets.clone()); // [tokens², heads]
        per_pair.transpose().reshape([heads, self.tokens, self.tokens])
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
    num_heads: usize,
    d_kv: usize,
    limits: Limits,
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
        limits: Limits,
        table: Tensor<2>,
    ) -> Result<Self, WeightError> {
        let (dim, inner, eps) = (config.d_model, config.inner_dim(), config.layer_norm_epsilon);
        let [attention, ff] = [weights.at("layer.0"), weights.at("layer.1")];
        let [qkvo, dense] = [attention.at("SelfAttention"), ff.at("DenseReluDense")];
        Ok(Self {
            num_heads: config.num_heads,
            d_kv: config.d_kv,
            limits,
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
        let tokens = x.dims()[0];
        let split = |x: Tensor<2>| x.reshape([tokens, self.num_heads, self.d_kv]).swap_dims(0, 1);
        let q = split(self.q.forward(x.clone()));
        let k = split(self.k.forward(x.clone()));
        let v = split(self.v.forward(x));
        // [heads, tokens, tokens] is the largest tensor here: as many heads at once as fit.
        let group = self.limits.tokens(tokens * tokens).min(self.num_heads);
        let attended = (0..self.num_heads).step_by(group).map(|first| {
            let heads = group.min(self.num_heads - first);
            let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(0, first, heads));
            let table = self.relative_attention_bias.clone().narrow(1, first, heads);
            softmax(q.matmul(k.swap_dims(1, 2)) + positions.bias(table), 2).matmul(v)
        });
        let attended = Tensor::cat(attended.collect(), 0).swap_dims(0, 1);
        self.o.forward(attended.reshape([tokens, self.num_heads * self.d_kv]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_near_logarithmic_far_and_mirrored_by_sign() {
        let tokens = 300;
        let buckets = buckets(tokens, &T5Config::umt5_xxl());
        let before = |distance: usize| buckets[299 * tokens + 299 - distance];
        let after = |distance: usize| buckets[distance];
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
