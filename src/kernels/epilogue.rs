//! What follows a product within its kernel: `y = residual + gate · (x·wᵀ + bias)`.
//!
//! Each of these would be a pass of its own over the result otherwise. Which tensors there are is
//! part of the compile key: a shader that declares a buffer has to use it.

use super::launch::{contiguous_f32, flex_f32};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, Flex};
use burn::tensor::Tensor;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// What follows a product `[tokens, out_features]`.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// `[out_features]`, added first.
    pub bias: Tensor<1>,
    /// What is added last.
    pub residual: Option<Residual>,
}

/// A sum with what bypassed the layer.
#[derive(Clone, Debug)]
pub struct Residual {
    /// `[tokens, out_features]`.
    pub value: Tensor<2>,
    /// `[1, out_features]`, a factor of the layer's part; one without it.
    pub gate: Option<Tensor<2>>,
}

impl From<Tensor<1>> for Epilogue {
    fn from(bias: Tensor<1>) -> Self {
        Self { bias, residual: None }
    }
}

impl Epilogue {
    /// Asserts the shapes that follow from a product `[m, n]`: kernels have no bounds checks.
    ///
    /// # Panics
    ///
    /// If one differs.
    pub(crate) fn assert_fits(&self, op: &str, [m, n]: [usize; 2]) {
        assert_eq!(self.bias.dims(), [n], "{op}: length of bias and out_features");
        if let Some(Residual { value, gate }) = &self.residual {
            assert_eq!(value.dims(), [m, n], "{op}: shape of the residual");
            if let Some(gate) = gate {
                assert_eq!(gate.dims(), [1, n], "{op}: shape of the gate");
            }
        }
    }
}

/// Which tensors an [`Epilogue`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EpilogueKind {
    /// `x·wᵀ + bias`.
    Bias,
    /// `residual + (x·wᵀ + bias)`.
    Residual,
    /// `residual + gate · (x·wᵀ + bias)`.
    Gated,
}

impl EpilogueKind {
    /// The kinds with more than a bias.
    pub const WITH_RESIDUAL: [Self; 2] = [Self::Residual, Self::Gated];

    pub(crate) const fn fragment(self) -> &'static str {
        match self {
            Self::Bias => "epilogue_bias",
            Self::Residual => "epilogue_residual",
            Self::Gated => "epilogue_gated",
        }
    }
}

/// The tensors of an [`Epilogue`] on a backend.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum EpilogueTensors<B: Backend> {
    /// `[out_features]`.
    Bias(FloatTensor<B>),
    /// Bias and residual `[tokens, out_features]`.
    Residual(FloatTensor<B>, FloatTensor<B>),
    /// Bias, residual and gate `[1, out_features]`.
    Gated(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

impl From<Epilogue> for EpilogueTensors<Dispatch> {
    fn from(Epilogue { bias, residual }: Epilogue) -> Self {
        let bias = bias.into_dispatch();
        match residual {
            None => Self::Bias(bias),
            Some(Residual { value, gate: None }) => Self::Residual(bias, value.into_dispatch()),
            Some(Residual { value, gate: Some(gate) }) => {
                Self::Gated(bias, value.into_dispatch(), gate.into_dispatch())
            }
        }
    }
}

impl EpilogueTensors<CubeBackend> {
    /// Which tensors there are, and their buffers in the order of the bindings.
    pub(crate) fn into_buffers(self) -> (EpilogueKind, Vec<CubeTensor>) {
        let (kind, tensors) = match self {
            Self::Bias(bias) => (EpilogueKind::Bias, vec![bias]),
            Self::Residual(bias, value) => (EpilogueKind::Residual, vec![bias, value]),
            Self::Gated(bias, value, gate) => (EpilogueKind::Gated, vec![bias, value, gate]),
        };
        (kind, tensors.into_iter().map(contiguous_f32).collect())
    }
}

impl EpilogueTensors<Flex> {
    /// The values of the bias.
    pub(crate) fn bias(&self) -> Vec<f32> {
        let (Self::Bias(bias) | Self::Residual(bias, _) | Self::Gated(bias, ..)) = self;
        flex_f32(bias)
    }

    /// What follows the bias: `y` `[tokens, n]` with it becomes the result.
    pub(crate) fn finish(&self, mut y: Vec<f32>, n: usize) -> Vec<f32> {
        let (residual, gate) = match self {
            Self::Bias(_) => return y,
            Self::Residual(_, residual) => (residual, vec![1.0; n]),
            Self::Gated(_, residual, gate) => (residual, flex_f32(gate)),
        };
        for (y, residual) in y.chunks_exact_mut(n).zip(flex_f32(residual).chunks_exact(n)) {
            for ((y, residual), gate) in y.iter_mut().zip(residual).zip(&gate) {
                *y = residual + gate * *y;
            }
        }
        y
    }
}
