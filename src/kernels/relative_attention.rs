//! `shaders/relative_attention.wgsl` — attention with scores shifted by the relative position.

use super::attention::REFERENCE_BLOCK;
use super::launch::{
    contiguous_f32, contiguous_i32, empty_like, flex_f32, flex_from_f32, flex_words, launch,
    linear_grid, u32_from,
};
use super::params::params;
use super::vectorized::{self, Panels, View, Write, product};
use super::{Const, Kernel};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// The kernel; heads of any size take the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelativeAttention;

params! {
    pub struct Params {
        /// Rows of `q`, `k` and `v`.
        pub tokens: u32,
        /// Heads side by side in a row.
        pub heads: u32,
        /// Channels of a head.
        pub head_dim: u32,
    }
}

impl Params {
    /// The dispatch that computes everything.
    pub fn grid(self) -> [u32; 3] {
        let blocks = self.head_dim.div_ceil(RelativeAttention.workgroup_size());
        linear_grid(self.tokens as usize * self.heads as usize * blocks as usize)
    }
}

impl Kernel for RelativeAttention {
    const NAME: &'static str = "relative_attention";
    const SOURCE: &'static str = include_str!("../../shaders/relative_attention.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        vec![Self]
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        Vec::new()
    }
}

/// Plain-Rust twin of the shader: an exact softmax row by row.
pub fn reference(
    [q, k, v]: [&[f32]; 3],
    table: &[f32],
    buckets: &[u32],
    params: Params,
) -> Vec<f32> {
    let [tokens, heads, head_dim] =
        [params.tokens, params.heads, params.head_dim].map(|size| size as usize);
    let width = heads * head_dim;
    let mut o = vec![0.0; tokens * width];
    for head in 0..heads {
        let first = head * head_dim;
        let k = Panels::transposed(View::new(k, width, first, head_dim));
        let v = Panels::copied(View::new(v, width, first, head_dim));
        let blocks = o.par_chunks_mut(REFERENCE_BLOCK * width).enumerate();
        blocks.zip(q.par_chunks(REFERENCE_BLOCK * width)).for_each(|((block, o), q)| {
            let q = Panels::transposed(View::new(q, width, first, head_dim));
            let mut scores = vec![0.0; o.len() / width * tokens];
            product(&q, &k, &mut scores, tokens, Write::Assign);
            for (row, scores) in scores.chunks_mut(tokens).enumerate() {
                let query = block * REFERENCE_BLOCK + row;
                let buckets = &buckets[tokens - 1 - query..];
                for (score, bucket) in scores.iter_mut().zip(buckets) {
                    *score += table[*bucket as usize * heads + head];
                }
                let maximum = vectorized::maximum(scores);
                scores.iter_mut().for_each(|score| *score = vectorized::exp(*score - maximum));
                let inverse = (1.0 / vectorized::sum(scores)) as f32;
                scores.iter_mut().for_each(|p| *p *= inverse);
            }
            let p = Panels::transposed(View::new(&scores, tokens, 0, tokens));
            product(&p, &v, &mut o[first..], width, Write::Assign);
        });
    }
    o
}

#[backend_extension(Cube, Flex)]
trait RelativeAttentionOp: Backend {
    fn relative_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        table: FloatTensor<Self>,
        buckets: IntTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl RelativeAttentionOp for CubeBackend {
    fn relative_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        table: FloatTensor<Self>,
        buckets: IntTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let [q, k, v, table] = [q, k, v, table].map(contiguous_f32);
        let buckets = contiguous_i32(buckets);
        let width = (params.heads * params.head_dim) as usize;
        let o = empty_like(&q, Shape::new([params.tokens as usize, width]), DType::F32);
        let reads = [&q, &k, &v, &table, &buckets];
        launch(RelativeAttention, &reads, &[&o], params, params.grid());
        o
    }
}

impl RelativeAttentionOp for Flex {
    fn relative_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        table: FloatTensor<Self>,
        buckets: IntTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let [q, k, v, table] = [&q, &k, &v, &table].map(flex_f32);
        let buckets = buckets.to_contiguous();
        let o = reference([&q, &k, &v], &table, flex_words(&buckets), params);
        flex_from_f32(o, [params.tokens as usize, (params.heads * params.head_dim) as usize])
    }
}

/// `softmax(q kᵀ + b) v` for each of the heads, with `b` of a query and a key from
/// `table[buckets[key − query + tokens − 1]]`: scores are not scaled.
///
/// `q`, `k` and `v` are `[tokens, heads · head_dim]`, `table` `[buckets, heads]`, `buckets`
/// `[2 · tokens − 1]` rows of the table, farthest before the query first. Not differentiable.
///
/// # Panics
///
/// If the shapes do not fit or there is no token. An entry of `buckets` beyond the table is not
/// noticed.
pub fn relative_attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    table: Tensor<2>,
    buckets: Tensor<1, Int>,
) -> Tensor<2> {
    let ([tokens, width], [_, heads]) = (q.dims(), table.dims());
    assert!(
        [k.dims(), v.dims()] == [[tokens, width]; 2] && tokens > 0,
        "relative_attention: q {:?}, k {:?}, v {:?}",
        q.dims(),
        k.dims(),
        v.dims()
    );
    assert!(
        heads > 0 && width > 0 && width.is_multiple_of(heads),
        "relative_attention: {width} channels in {heads} heads"
    );
    assert_eq!(
        buckets.dims(),
        [2 * tokens - 1],
        "relative_attention: distances of {tokens} tokens"
    );
    let params = Params {
        tokens: u32_from(tokens),
        heads: u32_from(heads),
        head_dim: u32_from(width / heads),
    };
    Tensor::from_dispatch(Dispatch::relative_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        table.into_dispatch(),
        buckets.into_dispatch(),
        params,
    ))
}
