//! `shaders/layer_norm.wgsl` — normalization of each token with a factor and an offset, for tensors
//! without gradients.

use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, linear_grid, row_invocations,
    u32_from,
};
use super::params::params;
use super::{Const, Element, Kernel, Rows, vectorized};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// The kernel, specialized to how values are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerNorm {
    /// How rows are loaded.
    pub rows: Rows,
    /// Invocations that share a row.
    pub invocations: u32,
}

impl LayerNorm {
    /// The specialization for rows of `k` values.
    pub const fn new(k: usize) -> Self {
        Self { rows: Rows::of(k), invocations: row_invocations(k) }
    }
}

params! {
    pub struct Params {
        /// Tokens.
        pub m: u32,
        /// Values of a token.
        pub k: u32,
        /// Added to the variance.
        pub eps: f32,
    }
}

impl Params {
    /// The parameters of a normalization of `x`.
    ///
    /// # Panics
    ///
    /// If `factor` or `offset` has not a value per column.
    fn new(x: &Tensor<2>, factor: &Tensor<1>, offset: &Tensor<1>, eps: f32) -> Self {
        let [m, k] = x.dims();
        assert_eq!([factor.dims(), offset.dims()], [[k]; 2], "layer_norm: factor and offset");
        Self { m: u32_from(m), k: u32_from(k), eps }
    }
}

impl Kernel for LayerNorm {
    const NAME: &'static str = "layer_norm";
    const SOURCE: &'static str = include_str!("../../shaders/layer_norm.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        [1024, 1023, 96, 95].map(Self::new).to_vec()
    }

    fn workgroup_size(&self) -> u32 {
        self.invocations
    }

    fn constants(&self) -> Vec<Const> {
        let [quads, rows] = self.rows.fragments();
        vec![
            Const::Alias("Elem", Element::F32.wgsl_in(self.rows)),
            Const::Import("quads", quads),
            Const::Import("rows", rows),
        ]
    }
}

/// Plain-Rust twin of the shader; `x` is `[tokens, k]`, `factor` and `offset` are `[k]`.
pub fn reference(x: &[f32], factor: &[f32], offset: &[f32], eps: f32) -> Vec<f32> {
    let k = factor.len();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(k).zip(x.par_chunks(k)).for_each(|(y, x)| {
        let mean = (vectorized::sum(x) / k as f64) as f32;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * (x - mean));
        let variance = (vectorized::sum(y) / k as f64) as f32;
        let inverse_deviation = 1.0 / (variance + eps).sqrt();
        for ((y, x), (factor, offset)) in y.iter_mut().zip(x).zip(factor.iter().zip(offset)) {
            *y = (x - mean) * inverse_deviation * factor + offset;
        }
    });
    y
}

#[backend_extension(Cube, Flex)]
trait LayerNormOp: Backend {
    fn layer_norm(
        x: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl LayerNormOp for CubeBackend {
    fn layer_norm(
        x: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, factor, offset] = [x, factor, offset].map(contiguous_f32);
        let y = empty_like(&x, Shape::new([params.m as usize, params.k as usize]), DType::F32);
        let grid = linear_grid(params.m as usize);
        let kernel = LayerNorm::new(params.k as usize);
        launch(kernel, &[&x, &factor, &offset], &[&y], params, grid);
        y
    }
}

impl LayerNormOp for Flex {
    fn layer_norm(
        x: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let y = reference(&flex_f32(&x), &flex_f32(&factor), &flex_f32(&offset), params.eps);
        flex_from_f32(y, [params.m as usize, params.k as usize])
    }
}

/// `(x − mean) / √(variance + eps) · factor + offset`, mean and variance of each token.
///
/// `x` is `[tokens, k]`, `factor` and `offset` are `[k]`, all f32. Without gradients.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn layer_norm(x: Tensor<2>, factor: Tensor<1>, offset: Tensor<1>, eps: f32) -> Tensor<2> {
    let params = Params::new(&x, &factor, &offset, eps);
    if params.m == 0 {
        return x;
    }
    Tensor::from_dispatch(Dispatch::layer_norm(
        x.into_dispatch(),
        factor.into_dispatch(),
        offset.into_dispatch(),
        params,
    ))
}
