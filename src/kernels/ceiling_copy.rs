//! `shaders/ceiling_copy.wgsl` — the bandwidth that a device has for a copy.
//!
//! The floor of a copy is its bytes over the bandwidth on the data sheet; cards reach 85 to 95 % of
//! it. On lavapipe it is limited by one core's loads and stores. Buffers should exceed every cache.

use super::launch::{contiguous_i32, empty_like, flex_from_u32, flex_words, launch};
use super::launch::{linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::IntTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeBackend;

/// Words that an invocation moves.
const VECTOR: usize = 4;
const WORKGROUP_SIZE: u32 = 256;

/// The kernel; it has one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CeilingCopy;

params! {
    pub struct Params {
        /// Vectors of four words.
        pub vectors: u32,
    }
}

impl CeilingCopy {
    /// Workgroups for `vectors`.
    pub fn grid(vectors: usize) -> [u32; 3] {
        linear_grid(vectors.div_ceil(WORKGROUP_SIZE as usize))
    }
}

impl Kernel for CeilingCopy {
    const NAME: &'static str = "ceiling_copy";
    const SOURCE: &'static str = include_str!("../../shaders/ceiling_copy.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        vec![Self]
    }

    fn workgroup_size(&self) -> u32 {
        WORKGROUP_SIZE
    }

    fn constants(&self) -> Vec<Const> {
        Vec::new()
    }
}

/// Plain-Rust twin of the shader.
pub fn reference(x: &[u32]) -> Vec<u32> {
    x.to_vec()
}

#[backend_extension(Cube, Flex)]
trait CeilingCopyOp: Backend {
    fn ceiling_copy(x: IntTensor<Self>) -> IntTensor<Self>;
}

impl CeilingCopyOp for CubeBackend {
    fn ceiling_copy(x: IntTensor<Self>) -> IntTensor<Self> {
        let x = contiguous_i32(x);
        let vectors = x.shape().num_elements() / VECTOR;
        let y = empty_like(&x, x.shape(), DType::I32);
        let params = Params { vectors: u32_from(vectors) };
        launch(CeilingCopy, &[&x], &[&y], params, CeilingCopy::grid(vectors));
        y
    }
}

impl CeilingCopyOp for Flex {
    fn ceiling_copy(x: IntTensor<Self>) -> IntTensor<Self> {
        let shape = x.shape();
        flex_from_u32(reference(flex_words(&x.to_contiguous())), shape)
    }
}

/// A copy of `x` by a kernel that does nothing else.
///
/// # Panics
///
/// If the length of `x` is no positive multiple of four.
pub fn ceiling_copy(x: Tensor<1, Int>) -> Tensor<1, Int> {
    let len = x.dims()[0];
    assert!(len > 0 && len.is_multiple_of(VECTOR), "ceiling_copy: {len} words");
    Tensor::from_dispatch(Dispatch::ceiling_copy(x.into_dispatch()))
}
