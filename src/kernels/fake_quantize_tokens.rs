//! `shaders/fake_quantize_tokens.wgsl` — activations as their codes will stand for them, one grid
//! per token.

use super::fake_quantize::{Codes, contiguous, finite_range, map_rows};
use super::fake_quantize_tokens_backward::FakeQuantizeTokensBackward;
use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel};
use crate::quant::{Bits, Grid, Scheme};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::{Tensor, activation::sigmoid};
use burn_cubecl::CubeBackend;

/// The kernel, specialized to width and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FakeQuantizeTokens {
    /// Width of a code.
    pub bits: Bits,
    /// [`Scheme::Asymmetric`], [`Scheme::AsymmetricClamped`] or [`Scheme::Symmetric`].
    pub scheme: Scheme,
}

/// Schemes whose range has gradients.
pub(super) const SCHEMES: [Scheme; 3] =
    [Scheme::Symmetric, Scheme::Asymmetric, Scheme::AsymmetricClamped];

/// How activations are fake-quantized while training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FakeQuantTokens {
    /// Width of a code.
    pub bits: Bits,
    /// [`Scheme::Asymmetric`], which widens the range to contain zero; [`Scheme::Symmetric`]; or
    /// [`Scheme::AsymmetricClamped`], the formula of the released QVGen code.
    pub scheme: Scheme,
    /// Constant factor of both ends of the range besides the learned ones; the released code has
    /// 0.95.
    pub clip_ratio: f32,
}

impl FakeQuantTokens {
    /// Codes of `bits` bits with the default scheme and no constant factor.
    pub const fn new(bits: Bits) -> Self {
        Self { bits, scheme: Scheme::Asymmetric, clip_ratio: 1.0 }
    }

    /// The specialization that carries it out.
    ///
    /// # Panics
    ///
    /// If the scheme is none of the three.
    pub(super) fn kernel(self) -> FakeQuantizeTokens {
        let Self { bits, scheme, .. } = self;
        assert!(SCHEMES.contains(&scheme), "fake-quantized tokens cannot be {scheme:?}");
        FakeQuantizeTokens { bits, scheme }
    }
}

params! {
    pub struct Params {
        /// Tokens.
        pub m: u32,
        /// In features.
        pub k: u32,
    }
}

impl Kernel for FakeQuantizeTokens {
    const NAME: &'static str = "fake_quantize_tokens";
    const SOURCE: &'static str = include_str!("../../shaders/fake_quantize_tokens.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let of = |bits| SCHEMES.map(|scheme| Self { bits, scheme });
        Bits::ALL.into_iter().flat_map(of).collect()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::U32("BITS", self.bits.get()), Const::U32("SCHEME", self.scheme.index())]
    }
}

impl FakeQuantizeTokens {
    /// The kernel of the gradients.
    pub(super) fn backward(self) -> FakeQuantizeTokensBackward {
        FakeQuantizeTokensBackward { bits: self.bits, scheme: self.scheme }
    }
}

/// Plain-Rust twin of the shader; `x` and the result are `[m, k]`, `factors` those of the largest
/// and of the smallest value.
pub fn reference(
    kernel: FakeQuantizeTokens,
    x: &[f32],
    factors: &[f32],
    params: Params,
) -> Vec<f32> {
    let FakeQuantizeTokens { bits, scheme } = kernel;
    let k = params.k as usize;
    let mut y = vec![0.0; x.len()];
    map_rows(&mut y, k, |row, y| {
        let x = &x[row * k..][..k];
        let (Some((min, max)), Some(_)) = (finite_range(x), finite_range(factors)) else {
            return y.fill(f32::NAN);
        };
        let grid = Grid::from_range(scheme, bits, factors[1] * min, factors[0] * max);
        let codes = Codes::new(grid, scheme, bits);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = codes.fake(x);
        }
    });
    y
}

#[backend_extension(Cube, Flex)]
pub(super) trait FakeQuantizeTokensOp: Backend {
    fn fake_quantize_tokens(
        x: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        kernel: FakeQuantizeTokens,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl FakeQuantizeTokensOp for CubeBackend {
    fn fake_quantize_tokens(
        x: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        kernel: FakeQuantizeTokens,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, factors] = [x, factors].map(contiguous_f32);
        let (m, k) = (params.m as usize, params.k as usize);
        let y = empty_like(&x, Shape::new([m, k]), DType::F32);
        launch(kernel, &[&x, &factors], &[&y], params, linear_grid(m));
        y
    }
}

impl FakeQuantizeTokensOp for Flex {
    fn fake_quantize_tokens(
        x: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        kernel: FakeQuantizeTokens,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, factors] = contiguous([x, factors]);
        let y = reference(kernel, x.storage(), factors.storage(), params);
        flex_from_f32(y, [params.m as usize, params.k as usize])
    }
}

/// Asserts that there are two clips; returns the parameters for `x`.
pub(super) fn checked_params(name: &str, x: &Tensor<2>, clips: &Tensor<1>) -> Params {
    assert_eq!(clips.dims(), [2], "{name}: clips are the upper and the lower logit");
    let [m, k] = x.dims();
    Params { m: u32_from(m), k: u32_from(k) }
}

/// `clip_ratio · sigmoid(clips)`: the factors of the largest and of the smallest value of a token.
///
/// `clips` is `[2]`, the learned logits of the upper and of the lower end. A packed layer that
/// stores these very numbers, as [`TokenRange::Dynamic`](crate::quant::TokenRange::Dynamic),
/// quantizes as training did; recomputing them elsewhere may round differently.
pub fn clip_factors(clips: Tensor<1>, clip_ratio: f32) -> Tensor<1> {
    let factors = sigmoid(clips);
    if clip_ratio == 1.0 { factors } else { factors.mul_scalar(clip_ratio) }
}

/// The values that stand for `x` `[tokens, in_features]` (f32), one grid per token.
///
/// `clips` is `[2]`: learned logits of the upper and of the lower end of the range, see
/// [`clip_factors`]. The result is what [`quantize_tokens`](super::quantize_tokens()) with the same
/// factors and scheme packs, unpacked again. A token with a value that is no finite number becomes
/// NaN, and so does every token if a clip is none.
///
/// # Panics
///
/// If there are not two clips, the scheme is none of those of [`FakeQuantTokens`], or a tensor is
/// tracked by autodiff: [`fake_quant_linear`](super::fake_quant_linear()) is differentiable.
pub fn fake_quantize_tokens(x: Tensor<2>, clips: Tensor<1>, spec: FakeQuantTokens) -> Tensor<2> {
    let params = checked_params(FakeQuantizeTokens::NAME, &x, &clips);
    let factors = clip_factors(clips, spec.clip_ratio);
    Tensor::from_dispatch(Dispatch::fake_quantize_tokens(
        x.into_dispatch(),
        factors.into_dispatch(),
        spec.kernel(),
        params,
    ))
}
