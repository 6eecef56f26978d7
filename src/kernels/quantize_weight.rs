//! `shaders/quantize_weight.wgsl` — a weight to packed codes, calibrated on the device.

use super::cpu::{self, Form};
use super::launch::{
    contiguous_f32, empty_like, flex_floats, flex_from_u32, launch, linear_grid, u32_from,
};
use super::params::params;
use super::{Const, GRID_WORDS, Kernel, PackedTensor};
use crate::quant::{Bits, CODES_PER_BLOCK, Calibration, Scheme, WeightSpec, words_per_row};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// The kernel, specialized to width, scheme and calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeWeight {
    /// Width of a code.
    pub bits: Bits,
    /// Range to grid.
    pub scheme: Scheme,
    /// How the range is found.
    pub calibration: Calibration,
}

params! {
    pub struct Params {
        /// Out features.
        pub n: u32,
        /// In features.
        pub k: u32,
        /// Elements of a row that share one grid; `k` for one grid per row.
        pub group_size: u32,
    }
}

impl Kernel for QuantizeWeight {
    const NAME: &'static str = "quantize_weight";
    const SOURCE: &'static str = include_str!("../../shaders/quantize_weight.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for bits in Bits::ALL {
            for scheme in Scheme::ALL {
                for calibration in [Calibration::MinMax, Calibration::Mse] {
                    all.push(Self { bits, scheme, calibration });
                }
            }
        }
        all
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        vec![
            Const::U32("BITS", self.bits.get()),
            Const::U32("SCHEME", self.scheme.index()),
            Const::Bool("MSE", self.calibration == Calibration::Mse),
        ]
    }
}

#[backend_extension(Cube, Flex)]
trait QuantizeWeightOp: Backend {
    fn quantize_weight(
        w: FloatTensor<Self>,
        spec: WeightSpec,
    ) -> (IntTensor<Self>, IntTensor<Self>);
}

impl QuantizeWeightOp for CubeBackend {
    fn quantize_weight(
        w: FloatTensor<Self>,
        spec: WeightSpec,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        let w = contiguous_f32(w);
        let shape = w.meta.shape();
        let (n, k) = (shape[0], shape[1]);
        let group_size = spec.group_size.unwrap_or(k).min(k);
        let groups = k.div_ceil(group_size);
        let WeightSpec { bits, scheme, calibration, .. } = spec;
        let kernel = QuantizeWeight { bits, scheme, calibration };
        let params = Params { n: u32_from(n), k: u32_from(k), group_size: u32_from(group_size) };
        let codes = empty_like(&w, Shape::new([n, words_per_row(bits, k)]), DType::I32);
        let grid = empty_like(&w, Shape::new([n, groups * GRID_WORDS]), DType::I32);
        launch(kernel, &[&w], &[&codes, &grid], params, linear_grid(n * groups));
        (codes, grid)
    }
}

impl QuantizeWeightOp for Flex {
    fn quantize_weight(
        w: FloatTensor<Self>,
        spec: WeightSpec,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        let w = w.to_contiguous();
        let [n, k] = w.shape().dims();
        let (codes, grid) = cpu::quantize_weight(Form::best(), &flex_floats(&w), k, spec);
        let groups = k.div_ceil(spec.group_size.unwrap_or(k).min(k));
        let (words, grid_words) = (words_per_row(spec.bits, k), groups * GRID_WORDS);
        (flex_from_u32(codes, [n, words]), flex_from_u32(grid, [n, grid_words]))
    }
}

/// Most values that one dispatch of the MSE search takes: each is visited once per candidate, and
/// a display's watchdog resets a GPU that does not answer for long.
const MAX_MSE_VALUES: usize = 8 << 20;

/// Quantizes `w` `[out_features, in_features]` (f32).
///
/// # Panics
///
/// If the group size is 0, or neither a multiple of 32 nor covers the row.
pub fn quantize_weight(w: Tensor<2>, spec: WeightSpec) -> PackedTensor {
    quantize_weight_within(w, spec, MAX_MSE_VALUES)
}

/// [`quantize_weight`] with at most `max_mse_values` values, but whole rows, per dispatch of the
/// MSE search: for tests.
#[doc(hidden)]
pub fn quantize_weight_within(
    w: Tensor<2>,
    spec: WeightSpec,
    max_mse_values: usize,
) -> PackedTensor {
    let [rows, in_features] = w.dims();
    let group_size = spec.group_size.unwrap_or(in_features).min(in_features);
    assert!(group_size > 0, "group size 0 of {in_features} in_features");
    assert!(
        group_size == in_features || group_size.is_multiple_of(CODES_PER_BLOCK),
        "group size {group_size} is no multiple of {CODES_PER_BLOCK}"
    );
    let quantize = |part: Tensor<2>| {
        let (codes, grid) = Dispatch::quantize_weight(part.into_dispatch(), spec);
        (Tensor::from_dispatch(codes), Tensor::from_dispatch(grid))
    };
    let part_rows = match spec.calibration {
        Calibration::MinMax => rows,
        Calibration::Mse => (max_mse_values / in_features).max(1),
    };
    let (codes, grid) = if rows <= part_rows {
        quantize(w)
    } else {
        let parts = w.split(part_rows, 0).into_iter().map(quantize);
        let (codes, grids) = parts.unzip();
        (Tensor::cat(codes, 0), Tensor::cat(grids, 0))
    };
    PackedTensor { bits: spec.bits, in_features, group_size, codes, grid }
}
