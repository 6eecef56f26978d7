//! `shaders/hadamard.wgsl` — tokens, or rows of a weight, after a blockwise Walsh–Hadamard
//! transform.

use super::cpu;
use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, linear_grid, u32_from,
};
use super::params::params;
use super::row_transform::{RowTransform, TokenTransform};
use super::{Const, Kernel, Rows};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// Values that a workgroup takes.
const TILE: usize = 16 * 64;

/// The kernel, specialized to the width of a block and to what comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hadamard {
    /// With blocks.
    pub transform: RowTransform,
}

params! {
    pub struct Params {
        /// Values divided by four.
        pub quads: u32,
        /// Values of a row.
        pub k: u32,
    }
}

impl Kernel for Hadamard {
    const NAME: &'static str = "hadamard";
    const SOURCE: &'static str = include_str!("../../shaders/hadamard.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let transforms = [false, true].map(RowTransform::with_blocks);
        transforms.into_iter().flatten().map(|transform| Self { transform }).collect()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        self.transform.constants(Rows::Vectors)
    }
}

impl Hadamard {
    /// Parameters and workgroups of `len` values in rows of `k`.
    pub fn call(len: usize, k: usize) -> (Params, [u32; 3]) {
        let params = Params { quads: u32_from(len / 4), k: u32_from(k) };
        (params, linear_grid(len.div_ceil(TILE)))
    }
}

#[backend_extension(Cube, Flex)]
trait HadamardOp: Backend {
    fn hadamard(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        transform: RowTransform,
    ) -> FloatTensor<Self>;
}

impl HadamardOp for CubeBackend {
    fn hadamard(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        transform: RowTransform,
    ) -> FloatTensor<Self> {
        let [x, offset, factor] = [x, offset, factor].map(contiguous_f32);
        let shape = x.shape();
        let (params, grid) = Hadamard::call(shape.num_elements(), shape[1]);
        let y = empty_like(&x, shape, DType::F32);
        let reads = if transform.affine { vec![&x, &offset, &factor] } else { vec![&x] };
        launch(Hadamard { transform }, &reads, &[&y], params, grid);
        y
    }
}

impl HadamardOp for Flex {
    fn hadamard(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        transform: RowTransform,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        let affine = transform.affine.then(|| [flex_f32(&offset), flex_f32(&factor)]);
        let mut y = flex_f32(&x);
        let affine = affine.as_ref().map(|[offset, factor]| [&offset[..], &factor[..]]);
        cpu::transform(cpu::Form::best(), &mut y, shape[1], affine, transform.block());
        flex_from_f32(y, shape)
    }
}

/// `H · ((x − offset) · factor)` of rows `[rows, in_features]`, f32; the weight of transformed
/// tokens is transformed by the same with the inverse factor and no offset.
///
/// # Panics
///
/// If a length does not fit, or `in_features` is no multiple of the blocks.
pub fn hadamard(x: Tensor<2>, transform: &TokenTransform) -> Tensor<2> {
    let [rows, in_features] = x.dims();
    transform.assert_fits("hadamard", in_features);
    if rows == 0 {
        return x;
    }
    let kind = transform.kind();
    if kind.block().is_none() {
        return match &transform.affine {
            None => x,
            Some([offset, factor]) => (x - offset.clone().unsqueeze()) * factor.clone().unsqueeze(),
        };
    }
    // Without offset and factor there is nothing to bind: any tensor stands in for them.
    let [offset, factor] = match &transform.affine {
        Some(affine) => affine.clone(),
        None => [Tensor::zeros([1], &x.device()), Tensor::zeros([1], &x.device())],
    };
    Tensor::from_dispatch(Dispatch::hadamard(
        x.into_dispatch(),
        offset.into_dispatch(),
        factor.into_dispatch(),
        kind,
    ))
}
