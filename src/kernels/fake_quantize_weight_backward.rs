//! `shaders/fake_quantize_weight_backward.wgsl` — gradients of a weight and of its learned grid.

use super::fake_quantize::{contiguous, map_rows, sum_of};
use super::fake_quantize_weight::{SCHEMES, checked_dims, row_codes};
use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid};
use super::params::params;
use super::{Const, Kernel};
use crate::quant::{Bits, Scheme};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// The kernel, specialized to width and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FakeQuantizeWeightBackward {
    /// Width of a code.
    pub bits: Bits,
    /// [`Scheme::AsymmetricReal`] or [`Scheme::Symmetric`].
    pub scheme: Scheme,
}

params! {
    pub struct Params {
        /// Out features.
        pub n: u32,
        /// In features.
        pub k: u32,
        /// Factor of the gradients of scale and zero point.
        pub gradient_scale: f32,
    }
}

impl Kernel for FakeQuantizeWeightBackward {
    const NAME: &'static str = "fake_quantize_weight_backward";
    const SOURCE: &'static str = include_str!("../../shaders/fake_quantize_weight_backward.wgsl");
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

/// Gradients of [`fake_quantize_weight`](super::fake_quantize_weight()).
#[derive(Clone, Debug)]
pub struct WeightGradients {
    /// Of the weight, `[out_features, in_features]`.
    pub weight: Tensor<2>,
    /// Of the scale, `[out_features]`.
    pub scale: Tensor<1>,
    /// Of the zero point, `[out_features]`.
    pub zero_point: Tensor<1>,
}

/// Plain-Rust twin of the shader: gradients of weight, scale and zero point.
///
/// `w` and `grad` are `[n, k]`, the others `[n]`.
pub fn reference(
    kernel: FakeQuantizeWeightBackward,
    w: &[f32],
    scale: &[f32],
    zero_point: &[f32],
    grad: &[f32],
    params: Params,
) -> [Vec<f32>; 3] {
    let k = params.k as usize;
    let mut d_w = vec![0.0; w.len()];
    let symmetric = kernel.scheme == Scheme::Symmetric;
    let sums = map_rows(&mut d_w, k, |row, d_w| {
        let codes = row_codes(kernel.scheme, kernel.bits, scale[row], zero_point[row]);
        let grad = &grad[row * k..][..k];
        // The row holds the positions until its gradients take their place.
        for (position, &w) in d_w.iter_mut().zip(&w[row * k..]) {
            *position = codes.position(w);
        }
        let d_scale = sum_of(d_w, grad, |position, g| g * codes.scale_slope(position));
        let outside = sum_of(d_w, grad, |at, g| if codes.contain(at) { 0.0 } else { g });
        for (d_w, &g) in d_w.iter_mut().zip(grad) {
            *d_w = if codes.contain(*d_w) { g } else { 0.0 };
        }
        let d_zero = if symmetric { 0.0 } else { -scale[row] * outside };
        [d_scale, d_zero].map(|sum| sum * params.gradient_scale)
    });
    let column = |i: usize| sums.iter().map(|sums| sums[i]).collect();
    [d_w, column(0), column(1)]
}

type ThreeTensors<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

#[backend_extension(Cube, Flex)]
trait FakeQuantizeWeightBackwardOp: Backend {
    fn fake_quantize_weight_backward(
        w: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        zero_point: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: FakeQuantizeWeightBackward,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl FakeQuantizeWeightBackwardOp for CubeBackend {
    fn fake_quantize_weight_backward(
        w: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        zero_point: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: FakeQuantizeWeightBackward,
        params: Params,
    ) -> ThreeTensors<Self> {
        let [w, scale, zero_point, grad] = [w, scale, zero_point, grad].map(contiguous_f32);
        let (n, k) = (params.n as usize, params.k as usize);
        let d_w = empty_like(&w, Shape::new([n, k]), DType::F32);
        let [d_scale, d_zero] = [0; 2].map(|_| empty_like(&w, Shape::new([n]), DType::F32));
        let reads = [&w, &scale, &zero_point, &grad];
        launch(kernel, &reads, &[&d_w, &d_scale, &d_zero], params, linear_grid(n));
        (d_w, d_scale, d_zero)
    }
}

impl FakeQuantizeWeightBackwardOp for Flex {
    fn fake_quantize_weight_backward(
        w: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        zero_point: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: FakeQuantizeWeightBackward,
        params: Params,
    ) -> ThreeTensors<Self> {
        let [w, scale, zero, grad] = contiguous([w, scale, zero_point, grad]);
        let [d_w, d_scale, d_zero] =
            reference(kernel, w.storage(), scale.storage(), zero.storage(), grad.storage(), params);
        let (n, k) = (params.n as usize, params.k as usize);
        (flex_from_f32(d_w, [n, k]), flex_from_f32(d_scale, [n]), flex_from_f32(d_zero, [n]))
    }
}

/// LSQ's factor of the gradients of scale and zero point, `1 / √(in_features · levels)`.
///
/// `levels` is the largest code, or the largest distance from the zero point where the scheme is
/// symmetric: `2^(bits−1) − 1`.
pub fn gradient_scale(in_features: usize, bits: Bits, scheme: Scheme) -> f32 {
    let levels = match scheme {
        Scheme::Symmetric => (1_u32 << (bits.get() - 1)) - 1,
        _ => bits.max_code(),
    };
    (1.0 / (in_features as f64 * f64::from(levels)).sqrt()) as f32
}

/// Gradients of [`fake_quantize_weight`](super::fake_quantize_weight()) for the upstream gradient
/// `grad` `[out_features, in_features]`, by the straight-through estimator of LSQ+.
///
/// With `u = w / scale + zero_point` and `inside` where `round(u)` lies within the codes, ends
/// included: `d_w = grad` inside, else 0; `d_scale = f · Σ grad · (inside ? round(u) − u :
/// code − zero_point)`; `d_zero = f · Σ grad · (inside ? 0 : −scale)`, or 0 with
/// [`Scheme::Symmetric`]. The factor `f` is [`gradient_scale`] if `scale_gradients`, else 1.
///
/// # Panics
///
/// If shapes do not fit, the scheme is another, or a tensor is tracked by autodiff.
pub fn fake_quantize_weight_backward(
    w: Tensor<2>,
    scale: Tensor<1>,
    zero_point: Tensor<1>,
    grad: Tensor<2>,
    bits: Bits,
    scheme: Scheme,
    scale_gradients: bool,
) -> WeightGradients {
    let name = FakeQuantizeWeightBackward::NAME;
    let [n, k] = checked_dims(name, &w, &scale, &zero_point, scheme);
    assert_eq!(grad.dims(), w.dims(), "{name}: gradient against w");
    let factor = if scale_gradients { gradient_scale(k as usize, bits, scheme) } else { 1.0 };
    let (weight, scale, zero_point) = Dispatch::fake_quantize_weight_backward(
        w.into_dispatch(),
        scale.into_dispatch(),
        zero_point.into_dispatch(),
        grad.into_dispatch(),
        FakeQuantizeWeightBackward { bits, scheme },
        Params { n, k, gradient_scale: factor },
    );
    WeightGradients {
        weight: Tensor::from_dispatch(weight),
        scale: Tensor::from_dispatch(scale),
        zero_point: Tensor::from_dispatch(zero_point),
    }
}
