//! `shaders/channel_norm.wgsl` — scale each pixel's channel vector to length `√C`, then `gamma`.

use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, linear_grid, u32_from,
};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
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

/// Plain-Rust twin of the shader; `x` and the result are `[channels, pixels]`.
pub fn reference(kernel: ChannelNorm, x: &[f32], gamma: &[f32], params: Params) -> Vec<f32> {
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
    let mut y = vec![0.0; x.len()];
    y.par_chunks_exact_mut(pixels).zip(x.par_chunks_exact(pixels)).zip(gamma).for_each(
        |((y, x), gamma)| {
            for ((y, x), factor) in y.iter_mut().zip(x).zip(&factors) {
                let value = x * factor * gamma;
                *y = if kernel.silu { value / (1.0 + (-value).min(80.0).exp()) } else { value };
            }
        },
    );
    y
}

#[backend_extension(Cube, Flex)]
trait ChannelNormOp: Backend {
    fn channel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        kernel: ChannelNorm,
        params: Params,
    ) -> FloatTensor<Self>;
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
}

/// `act(x / max(‖x‖₂, 1e-12) · √channels · gamma)` with the norm over the channels of each pixel.
///
/// `x` is `[channels, pixels]`, `gamma` `[channels]`.
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
