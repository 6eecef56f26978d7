//! `shaders/activate.wgsl` — activation functions, for tensors without gradients.

use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, linear_grid, u32_from,
};
use super::params::params;
use super::{Const, Kernel, vectorized};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// A function of single values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `x · sigmoid(x)`.
    Silu,
    /// The tanh form of GELU, `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
}

/// Largest exponent whose exponential is finite; beyond it the functions are zero anyway.
const EXPONENT_MAX: f32 = 88.0;

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 3] = [Self::Identity, Self::Silu, Self::GeluTanh];

    /// Number of the activation in shader constants.
    pub(crate) const fn index(self) -> u32 {
        self as u32
    }

    /// The function, operation for operation as `shaders/shared/activation.wgsl`.
    fn apply(self, x: f32) -> f32 {
        let sigmoid = |exponent: f32| {
            let exponent = if exponent > EXPONENT_MAX { EXPONENT_MAX } else { exponent };
            x / (vectorized::exp(exponent) + 1.0)
        };
        match self {
            Self::Identity => x,
            Self::Silu => sigmoid(-x),
            // x · sigmoid(2u) with u the argument of tanh: equal, and finite in between.
            Self::GeluTanh => sigmoid(x * (x * x * -0.071_354_82 - 1.595_769)),
        }
    }
}

/// The kernel, specialized to the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Activate {
    /// Which function.
    pub activation: Activation,
}

params! {
    pub struct Params {
        /// Elements.
        pub len: u32,
    }
}

impl Kernel for Activate {
    const NAME: &'static str = "activate";
    const SOURCE: &'static str = include_str!("../../shaders/activate.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        Activation::ALL.map(|activation| Self { activation }).to_vec()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::U32("ACTIVATION", self.activation.index())]
    }
}

/// Plain-Rust twin of the shader.
pub fn reference(activation: Activation, x: &[f32]) -> Vec<f32> {
    x.par_iter().with_min_len(1 << 12).map(|&x| activation.apply(x)).collect()
}

#[backend_extension(Cube, Flex)]
trait ActivateOp: Backend {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;
}

impl ActivateOp for CubeBackend {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let (x, kernel) = (contiguous_f32(x), Activate { activation });
        let shape = x.shape();
        let len = shape.num_elements();
        let y = empty_like(&x, shape, DType::F32);
        let grid = linear_grid(len.div_ceil(4 * kernel.workgroup_size() as usize));
        launch(kernel, &[&x], &[&y], Params { len: u32_from(len) }, grid);
        y
    }
}

impl ActivateOp for Flex {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let shape = x.shape();
        flex_from_f32(reference(activation, &flex_f32(&x)), shape)
    }
}

/// `activation` of every element of `x`, f32, without gradients.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    if activation == Activation::Identity || x.shape().num_elements() == 0 {
        return x;
    }
    Tensor::from_dispatch(Dispatch::activate(x.into_dispatch(), activation))
}
