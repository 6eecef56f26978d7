//! `shaders/channel_norm.wgsl` — scale each pixel's channel vector to length `√C`, then `gamma`.

use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, linear_grid, u32_from,
};
use super::params::params;
use super::{Const, Kernel, vectorized};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// The kernel, with or without the activation that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelNorm {
    /// Whether `silu(v) = v / (1 + exp(−v))` is applied to the result.
    pub silu: bool,
}

params! {
    pub struct Params {
        /// Channels of a pixel.
        pub channels: u32,
        /// Pixels of all frames.
        pub pixels: u32,
    }
}

impl Kernel for ChannelNorm {
    const NAME: &'static str = "channel_norm";
    const SOURCE: &'static str = include_str!("../../shaders/channel_norm.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        [false, true].map(|silu| Self { silu }).to_vec()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::Bool("SILU", self.silu)]
    }
}

/// Values above which the twin uses all processors.
const PARALLEL_LEN: usize = 1 << 18;

/// Plain-Rust twin of the shader; `x` and the result are `[channels, pixels]`.
pub fn reference(kernel: ChannelNorm, x: &[f32], gamma: &[f32], params: Params) -> Vec<f32> {
    let pixels = params.pixels as usize;
    let factors = factors(x, params);
    let mut y = vec![0.0; x.len()];
    let channel = |((y, x), gamma): ((&mut [f32], &[f32]), &f32)| {
        for ((y, x), factor) in y.iter_mut().zip(x).zip(&factors) {
            let value = x * factor * gamma;
            *y = if kernel.silu { value * sigmoid(value) } else { value };
        }
    };
    if x.len() < PARALLEL_LEN {
        y.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)).zip(gamma).for_each(channel);
    } else {
        let x = x.par_chunks_exact(pixels);
        y.par_chunks_exact_mut(pixels).zip(x).zip(gamma).for_each(channel);
    }
    y
}

/// What each pixel is multiplied by: `√channels / max(‖x‖₂, 1e-12)`.
fn factors(x: &[f32], params: Params) -> Vec<f32> {
    let pixels = params.pixels as usize;
    let mut factors = vec![0.0_f32; pixels];
    for row in x.chunks_exact(pixels) {
        for (sum, value) in factors.iter_mut().zip(row) {
            *sum += value * value;
        }
    }
    let scale = (params.channels as f32).sqrt();
    for factor in &mut factors {
        *factor = scale / factor.sqrt().max(1e-12);
    }
    factors
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + vectorized::exp(-x))
}

/// Gradients of [`reference()`] in `x` and `gamma`, from that of its result.
///
/// With `n = x · factor` and `d_n` its gradient, `d_x = factor · (d_n − n · Σ d_n n / channels)`,
/// the sum over the channels of the pixel.
pub fn reference_backward(
    kernel: ChannelNorm,
    x: &[f32],
    gamma: &[f32],
    d_y: &[f32],
    params: Params,
) -> (Vec<f32>, Vec<f32>) {
    let pixels = params.pixels as usize;
    let factors = factors(x, params);
    let mut d_x = d_y.to_vec();
    let mut projections = vec![0.0; pixels];
    let mut products = vec![0.0; pixels];
    let d_gamma = d_x.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)).zip(gamma);
    let d_gamma = d_gamma.map(|((d_n, x), gamma)| {
        let by_pixel = d_n.iter_mut().zip(x).zip(&factors).zip(&mut products);
        for ((((d_n, x), factor), product), sum) in by_pixel.zip(&mut projections) {
            let n = x * factor;
            if kernel.silu {
                *d_n *= silu_derivative(n * gamma);
            }
            *product = *d_n * n;
            *sum += *product * gamma;
            *d_n *= gamma;
        }
        vectorized::sum(&products) as f32
    });
    let d_gamma = d_gamma.collect();
    let inverse = 1.0 / params.channels as f32;
    for (d_x, x) in d_x.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)) {
        for (((d_x, x), factor), sum) in d_x.iter_mut().zip(x).zip(&factors).zip(&projections) {
            *d_x = factor * (*d_x - x * factor * sum * inverse);
        }
    }
    (d_x, d_gamma)
}

fn silu_derivative(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

#[backend_extension(Cube, Flex, Autodiff)]
trait ChannelNormOp: Backend {
    fn channel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        kernel: ChannelNorm,
        params: Params,
    ) -> FloatTensor<Self>;

    /// [`reference_backward`] in the backend's own operations.
    fn channel_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
        kernel: ChannelNorm,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let channels = params.channels as usize;
        let gamma = Self::float_reshape(gamma, Shape::new([channels, 1]));
        let length =
            Self::float_sqrt(Self::float_sum_dim(Self::float_mul(x.clone(), x.clone()), 0));
        let inverse = Self::float_recip(Self::float_clamp_min(length, 1e-12.into()));
        let factor = Self::float_mul_scalar(inverse, (channels as f64).sqrt().into());
        let n = Self::float_mul(x, factor.clone());
        let mut d_v = d_y;
        if kernel.silu {
            let v = Self::float_mul(n.clone(), gamma.clone());
            let s = Self::sigmoid(v.clone());
            // s · (1 + v · (1 − s)) = s + y · (1 − s), y the result
            let y = Self::float_mul(v, s.clone());
            let rest = Self::float_add_scalar(Self::float_neg(s.clone()), 1.0.into());
            let slope = Self::float_add(s, Self::float_mul(y, rest));
            d_v = Self::float_mul(d_v, slope);
        }
        let d_gamma = Self::float_sum_dim(Self::float_mul(d_v.clone(), n.clone()), 1);
        let d_n = Self::float_mul(d_v, gamma);
        let sum = Self::float_sum_dim(Self::float_mul(d_n.clone(), n.clone()), 0);
        let mean = Self::float_mul_scalar(sum, (1.0 / channels as f64).into());
        let d_x = Self::float_mul(factor, Self::float_sub(d_n, Self::float_mul(n, mean)));
        (d_x, Self::float_reshape(d_gamma, Shape::new([channels])))
    }
}

impl ChannelNormOp for CubeBackend {
    fn channel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        kernel: ChannelNorm,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, gamma] = [x, gamma].map(contiguous_f32);
        let shape = Shape::new([params.channels as usize, params.pixels as usize]);
        let y = empty_like(&x, shape, DType::F32);
        let grid = linear_grid(params.pixels.div_ceil(kernel.workgroup_size()) as usize);
        launch(kernel, &[&x, &gamma], &[&y], params, grid);
        y
    }
}

impl ChannelNormOp for Flex {
    fn channel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        kernel: ChannelNorm,
        params: Params,
    ) -> FloatTensor<Self> {
        let y = reference(kernel, &flex_f32(&x), &flex_f32(&gamma), params);
        flex_from_f32(y, [params.channels as usize, params.pixels as usize])
    }

    fn channel_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
        kernel: ChannelNorm,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, gamma, d_y] = [&x, &gamma, &d_y].map(flex_f32);
        let (d_x, d_gamma) = reference_backward(kernel, &x, &gamma, &d_y, params);
        let [channels, pixels] = [params.channels as usize, params.pixels as usize];
        (flex_from_f32(d_x, [channels, pixels]), flex_from_f32(d_gamma, [channels]))
    }
}

#[derive(Debug)]
struct ChannelNormStep(ChannelNorm, Params);

impl<B: ChannelNormOp> Backward<B, 2> for ChannelNormStep {
    /// `x` and `gamma`.
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_y = grads.consume::<B>(&ops.node);
        let [x, gamma] = ops.state;
        let (d_x, d_gamma) = B::channel_norm_backward(x, gamma, d_y, self.0, self.1);
        for (parent, gradient) in ops.parents.into_iter().zip([d_x, d_gamma]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: ChannelNormOp, C: CheckpointStrategy> ChannelNormOp for Autodiff<B, C> {
    fn channel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        kernel: ChannelNorm,
        params: Params,
    ) -> FloatTensor<Self> {
        let step = ChannelNormStep(kernel, params).prepare::<C>([x.node(), gamma.node()]);
        let [x, gamma] = [x, gamma].map(|tensor| tensor.into_primitive());
        let y = B::channel_norm(x.clone(), gamma.clone(), kernel, params);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([x, gamma], y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// `act(x / max(‖x‖₂, 1e-12) · √channels · gamma)` with the norm over the channels of each pixel.
///
/// `x` is `[channels, pixels]`, `gamma` `[channels]`. Differentiable in both.
///
/// # Panics
///
/// If the channel counts differ.
pub fn channel_norm(x: Tensor<2>, gamma: Tensor<1>, silu: bool) -> Tensor<2> {
    let [channels, pixels] = x.dims();
    assert_eq!(gamma.dims(), [channels], "channel_norm: gamma against x [{channels}, {pixels}]");
    let params = Params { channels: u32_from(channels), pixels: u32_from(pixels) };
    Tensor::from_dispatch(Dispatch::channel_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        ChannelNorm { silu },
        params,
    ))
}
