//! `shaders/fake_quantize_tokens_backward.wgsl` — gradients of activations and of their clips.

use super::fake_quantize::{Codes, contiguous, finite_range, map_rows, sum_of};
use super::fake_quantize_tokens::{FakeQuantTokens, SCHEMES, checked_params, clip_factors};
use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid};
use super::params::params;
use super::{Const, Kernel};
use crate::quant::{Bits, Grid, MIN_RANGE, MIN_SCALE, Scheme};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// The kernel, specialized to width and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FakeQuantizeTokensBackward {
    /// Width of a code.
    pub bits: Bits,
    /// [`Scheme::Asymmetric`], [`Scheme::AsymmetricClamped`] or [`Scheme::Symmetric`].
    pub scheme: Scheme,
}

params! {
    pub struct Params {
        /// Tokens.
        pub m: u32,
        /// In features.
        pub k: u32,
    }
}

impl Kernel for FakeQuantizeTokensBackward {
    const NAME: &'static str = "fake_quantize_tokens_backward";
    const SOURCE: &'static str = include_str!("../../shaders/fake_quantize_tokens_backward.wgsl");
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

/// Gradients of [`fake_quantize_tokens`](super::fake_quantize_tokens()).
#[derive(Clone, Debug)]
pub struct TokenGradients {
    /// Of the activations, `[tokens, in_features]`.
    pub x: Tensor<2>,
    /// Of the logits of the upper and of the lower end, `[2]`, summed over the tokens.
    pub clips: Tensor<1>,
}

/// Derivatives of a token's scale in `most` and `least`, the ends of its range: zero where the
/// range was widened to contain zero, or where the scale is a constant.
fn scale_slopes(scheme: Scheme, bits: Bits, least: f32, most: f32) -> [f32; 2] {
    let top = bits.max_code() as f32;
    match scheme {
        Scheme::Symmetric => {
            let (upper, lower) = (most.abs(), least.abs());
            if upper.max(lower) < MIN_RANGE {
                return [0.0; 2];
            }
            // The larger of the two decides; equal ones share.
            let share = if upper == lower { 0.5 } else { 1.0 };
            let steps = (1_u32 << (bits.get() - 1)) as f32 - 1.0;
            let slope = |end: f32, decides| {
                if decides && end != 0.0 { share * end.signum() / steps } else { 0.0 }
            };
            [slope(most, upper >= lower), slope(least, lower >= upper)]
        }
        Scheme::Asymmetric if most.max(0.0) - least.min(0.0) < MIN_RANGE => [0.0; 2],
        Scheme::Asymmetric => {
            let slope = |moves| if moves { 1.0 / top } else { 0.0 };
            [slope(most > 0.0), -slope(least < 0.0)]
        }
        _ if (most - least) / top > MIN_SCALE => [1.0 / top, -1.0 / top],
        _ => [0.0; 2],
    }
}

/// Gradients of one token into `d_x`; returns those of the two factors.
fn token_gradients(
    kernel: FakeQuantizeTokensBackward,
    x: &[f32],
    factors: &[f32],
    grad: &[f32],
    d_x: &mut [f32],
) -> [f32; 2] {
    let FakeQuantizeTokensBackward { bits, scheme } = kernel;
    let (Some((min, max)), Some(_)) = (finite_range(x), finite_range(factors)) else {
        d_x.fill(f32::NAN);
        return [f32::NAN; 2];
    };
    let (least, most) = (factors[1] * min, factors[0] * max);
    let codes = Codes::new(Grid::from_range(scheme, bits, least, most), scheme, bits);
    // The row holds the positions until its gradients take their place.
    for (position, &x) in d_x.iter_mut().zip(x) {
        *position = codes.position(x);
    }
    let d_scale = sum_of(d_x, grad, |position, g| g * codes.scale_slope(position));
    for (d_x, &g) in d_x.iter_mut().zip(grad) {
        *d_x = if codes.contain(*d_x) { g } else { 0.0 };
    }
    let d_ends = scale_slopes(scheme, bits, least, most).map(|slope| d_scale * slope);
    let ends = [max, min];
    for ((end, d_end), factor) in ends.into_iter().zip(d_ends).zip(factors) {
        let ties = x.iter().filter(|&&x| x == end).count();
        let share = d_end * factor / ties as f32;
        for (d_x, &x) in d_x.iter_mut().zip(x) {
            *d_x += if x == end { share } else { 0.0 };
        }
    }
    [d_ends[0] * max, d_ends[1] * min]
}

/// Plain-Rust twin of the shader: gradients of `x` `[m, k]`, and per token of the factors `[m, 2]`.
pub fn reference(
    kernel: FakeQuantizeTokensBackward,
    x: &[f32],
    factors: &[f32],
    grad: &[f32],
    params: Params,
) -> [Vec<f32>; 2] {
    let k = params.k as usize;
    let mut d_x = vec![0.0; x.len()];
    let d_factors = map_rows(&mut d_x, k, |row, d_x| {
        let (x, grad) = (&x[row * k..][..k], &grad[row * k..][..k]);
        token_gradients(kernel, x, factors, grad, d_x)
    });
    [d_x, d_factors.into_flattened()]
}

#[backend_extension(Cube, Flex)]
pub(super) trait FakeQuantizeTokensBackwardOp: Backend {
    fn fake_quantize_tokens_backward(
        x: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: FakeQuantizeTokensBackward,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl FakeQuantizeTokensBackwardOp for CubeBackend {
    fn fake_quantize_tokens_backward(
        x: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: FakeQuantizeTokensBackward,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, factors, grad] = [x, factors, grad].map(contiguous_f32);
        let (m, k) = (params.m as usize, params.k as usize);
        let d_x = empty_like(&x, Shape::new([m, k]), DType::F32);
        let d_factors = empty_like(&x, Shape::new([m, 2]), DType::F32);
        let reads = [&x, &factors, &grad];
        launch(kernel, &reads, &[&d_x, &d_factors], params, linear_grid(m));
        (d_x, d_factors)
    }
}

impl FakeQuantizeTokensBackwardOp for Flex {
    fn fake_quantize_tokens_backward(
        x: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: FakeQuantizeTokensBackward,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, factors, grad] = contiguous([x, factors, grad]);
        let [d_x, d_factors] =
            reference(kernel, x.storage(), factors.storage(), grad.storage(), params);
        let (m, k) = (params.m as usize, params.k as usize);
        (flex_from_f32(d_x, [m, k]), flex_from_f32(d_factors, [m, 2]))
    }
}

/// Gradients of [`fake_quantize_tokens`](super::fake_quantize_tokens()) for the upstream gradient
/// `grad` `[tokens, in_features]`.
///
/// Rounding counts as the identity and the zero point as a constant. A value whose rounded code
/// lies within the codes, ends included, passes its gradient. Besides, the scale has the gradient
/// `Σ grad · (inside ? round(x/scale) − x/scale : code − zero_point)`, which goes on into the clips
/// and into the largest and the smallest value of the token; equal ones share evenly, and an end
/// that was widened to zero gets none.
///
/// # Panics
///
/// As [`fake_quantize_tokens`](super::fake_quantize_tokens()), or if `grad` has not the shape of
/// `x`.
pub fn fake_quantize_tokens_backward(
    x: Tensor<2>,
    clips: Tensor<1>,
    grad: Tensor<2>,
    spec: FakeQuantTokens,
) -> TokenGradients {
    let name = FakeQuantizeTokensBackward::NAME;
    let forward = checked_params(name, &x, &clips);
    assert_eq!(grad.dims(), x.dims(), "{name}: gradient against x");
    let factors = clip_factors(clips, spec.clip_ratio);
    let (d_x, d_factors) = Dispatch::fake_quantize_tokens_backward(
        x.into_dispatch(),
        factors.clone().into_dispatch(),
        grad.into_dispatch(),
        spec.kernel().backward(),
        Params { m: forward.m, k: forward.k },
    );
    let d_factors = Tensor::<2>::from_dispatch(d_factors).sum_dim(0).reshape([2]);
    // factors = ratio · σ, and σ' = σ · (1 − σ).
    let slopes = factors.clone() * (factors.div_scalar(-spec.clip_ratio) + 1.0);
    TokenGradients { x: Tensor::from_dispatch(d_x), clips: d_factors * slopes }
}
