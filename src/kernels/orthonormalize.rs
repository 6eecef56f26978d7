//! `shaders/orthonormalize.wgsl` — the rows of a wide matrix to an orthonormal basis.

use super::launch::{contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, u32_from};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// Earlier rows that are taken from a row at once.
const BLOCK: usize = 8;
/// Square of the length, relative to what it was, below which a vector counts as spanned.
const DEPENDENT: f32 = 1.0 / ((1_u64 << 42) as f32);
/// Partial sums of a product: independent, so that the compiler can keep them in one register.
const LANES: usize = 16;

/// The kernel; it has one specialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Orthonormalize;

params! {
    pub struct Params {
        /// Vectors.
        pub rows: u32,
        /// Elements of a vector.
        pub len: u32,
    }
}

impl Kernel for Orthonormalize {
    const NAME: &'static str = "orthonormalize";
    const SOURCE: &'static str = include_str!("../../shaders/orthonormalize.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        vec![Self]
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<Const> {
        Vec::new()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Takes from `y` what it has in common with `basis`, block by block.
fn remove(y: &mut [f32], basis: &[f32]) {
    for block in basis.chunks(BLOCK * y.len()) {
        let mut products = [0.0; BLOCK];
        for (product, q) in products.iter_mut().zip(block.chunks_exact(y.len())) {
            *product = dot(q, y);
        }
        for (product, q) in products.iter().zip(block.chunks_exact(y.len())) {
            for (y, q) in y.iter_mut().zip(q) {
                *y -= product * q;
            }
        }
    }
}

/// Plain-Rust twin of the shader; `x` and the result are `[rows, len]`.
pub fn reference(x: &[f32], params: Params) -> Vec<f32> {
    let len = params.len as usize;
    let mut q = x.to_vec();
    for row in 0..params.rows as usize {
        let x = &x[row * len..(row + 1) * len];
        let (basis, rest) = q.split_at_mut(row * len);
        let y = &mut rest[..len];
        if !x.iter().all(|value| value.is_finite()) {
            continue;
        }
        let largest = x.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if largest > 0.0 {
            y.iter_mut().for_each(|value| *value /= largest);
        }
        let before = dot(y, y);
        remove(y, basis);
        remove(y, basis);
        let after = dot(y, y);
        let factor = if after > DEPENDENT * before { 1.0 / after.sqrt() } else { 0.0 };
        y.iter_mut().for_each(|value| *value *= factor);
    }
    q
}

#[backend_extension(Cube, Flex)]
trait OrthonormalizeOp: Backend {
    fn orthonormalize(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn params_of(shape: &Shape) -> Params {
    Params { rows: u32_from(shape[0]), len: u32_from(shape[1]) }
}

impl OrthonormalizeOp for CubeBackend {
    fn orthonormalize(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = contiguous_f32(x);
        let shape = x.shape();
        let params = params_of(&shape);
        let q = empty_like(&x, shape, DType::F32);
        launch(Orthonormalize, &[&x], &[&q], params, [1, 1, 1]);
        q
    }
}

impl OrthonormalizeOp for Flex {
    fn orthonormalize(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = x.shape();
        flex_from_f32(reference(&flex_f32(&x), params_of(&shape)), shape)
    }
}

/// An orthonormal basis of what the rows of `x` span: `q · qᵀ = I` but for rows that are zero.
///
/// `x` and the result are `[vectors, len]`, f32; row `j` of the result is what row `j` of `x` has
/// beyond the rows before it, at length 1. A row that has nothing, relative to its own length and
/// to a precision of 2⁻²¹, becomes zero: products with it vanish, and nothing becomes NaN. Rows
/// may differ in length by any factor. A row with a value that is not finite is copied.
///
/// Gram-Schmidt, each row twice, by one workgroup: for at most some 200 vectors. The result of a
/// device is the same in every call.
pub fn orthonormalize(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::orthonormalize(x.into_dispatch()))
}
