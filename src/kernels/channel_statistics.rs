//! `shaders/channel_statistics.wgsl` — extremes and sums of the channels of an activation, token by
//! token, without reading the activation back.

use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, linear_grid, u32_from,
};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};
use burn_cubecl::CubeBackend;

/// Rows of a tensor of statistics: smallest value, largest value, moving average of the largest
/// magnitude, sum, sum of squares.
pub const STATISTICS: usize = 5;

/// Channels of a workgroup; `CHANNELS` in the shader.
const CHANNELS: usize = 32;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelStatistics;

params! {
    pub struct Params {
        /// Tokens.
        pub m: u32,
        /// Channels.
        pub k: u32,
        /// Weight of what was before in the moving average.
        pub decay: f32,
    }
}

impl Kernel for ChannelStatistics {
    const NAME: &'static str = "channel_statistics";
    const SOURCE: &'static str = include_str!("../../shaders/channel_statistics.wgsl");
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

impl ChannelStatistics {
    /// Workgroups for `k` channels.
    pub fn grid(k: usize) -> [u32; 3] {
        linear_grid(k.div_ceil(CHANNELS))
    }
}

/// Plain-Rust twin of the shader: `x` is `[tokens, k]`, `previous` and the result are
/// `[STATISTICS, k]`. Sums are added up in f64 and rounded once.
pub fn reference(x: &[f32], previous: &[f32], decay: f32) -> Vec<f32> {
    let k = previous.len() / STATISTICS;
    let mut low = vec![f32::MAX; k];
    let mut high = vec![f32::MIN; k];
    let (mut sums, mut squares) = (vec![0.0_f64; k], vec![0.0_f64; k]);
    for token in x.chunks_exact(k) {
        let extremes = low.iter_mut().zip(&mut high);
        let totals = sums.iter_mut().zip(&mut squares);
        for ((&value, (low, high)), (sum, square)) in token.iter().zip(extremes).zip(totals) {
            *low = low.min(value);
            *high = high.max(value);
            *sum += f64::from(value);
            *square += f64::from(value) * f64::from(value);
        }
    }
    let mut statistics = previous.to_vec();
    for channel in 0..k {
        let magnitude = high[channel].max(-low[channel]);
        let average = previous[2 * k + channel];
        let moved =
            if average < 0.0 { magnitude } else { decay * average + (1.0 - decay) * magnitude };
        statistics[channel] = previous[channel].min(low[channel]);
        statistics[k + channel] = previous[k + channel].max(high[channel]);
        statistics[2 * k + channel] = moved;
        statistics[3 * k + channel] = (f64::from(previous[3 * k + channel]) + sums[channel]) as f32;
        statistics[4 * k + channel] =
            (f64::from(previous[4 * k + channel]) + squares[channel]) as f32;
    }
    statistics
}

/// The statistics of no token at all, `[STATISTICS, k]`.
pub fn no_statistics(k: usize, device: &Device) -> Tensor<2> {
    let values = [f32::MAX, f32::MIN, -1.0, 0.0, 0.0].map(|value| vec![value; k]).concat();
    Tensor::from_data(TensorData::new(values, [STATISTICS, k]), device)
}

#[backend_extension(Cube, Flex)]
trait ChannelStatisticsOp: Backend {
    fn channel_statistics(
        x: FloatTensor<Self>,
        previous: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl ChannelStatisticsOp for CubeBackend {
    fn channel_statistics(
        x: FloatTensor<Self>,
        previous: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, previous] = [x, previous].map(contiguous_f32);
        let k = params.k as usize;
        let statistics = empty_like(&x, Shape::new([STATISTICS, k]), DType::F32);
        let grid = ChannelStatistics::grid(k);
        launch(ChannelStatistics, &[&x, &previous], &[&statistics], params, grid);
        statistics
    }
}

impl ChannelStatisticsOp for Flex {
    fn channel_statistics(
        x: FloatTensor<Self>,
        previous: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let statistics = reference(&flex_f32(&x), &flex_f32(&previous), params.decay);
        flex_from_f32(statistics, [STATISTICS, params.k as usize])
    }
}

/// The statistics `previous` `[STATISTICS, k]`, at first [`no_statistics`], with those of `x`
/// `[tokens, k]` added, both f32.
///
/// `decay` is the weight of what was before in the moving average of the largest magnitudes, which
/// counts calls and not tokens.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn channel_statistics(x: Tensor<2>, previous: Tensor<2>, decay: f32) -> Tensor<2> {
    let [m, k] = x.dims();
    assert_eq!(previous.dims(), [STATISTICS, k], "channel_statistics: statistics of {k} channels");
    if m == 0 || k == 0 {
        return previous;
    }
    let params = Params { m: u32_from(m), k: u32_from(k), decay };
    Tensor::from_dispatch(Dispatch::channel_statistics(
        x.into_dispatch(),
        previous.into_dispatch(),
        params,
    ))
}
