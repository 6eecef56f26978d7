//! `shaders/dequantize_weight.wgsl` — unpack and rescale packed rows.

use super::cpu::{self, Form, Rows};
use super::launch::{
    contiguous_i32, empty_like, flex_from_f32, flex_words, launch, linear_grid, u32_from,
};
use super::params::params;
use super::{Const, Kernel, PackedTensor};
use crate::quant::Bits;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// The kernel, specialized to a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DequantizeWeight {
    /// Width of a code.
    pub bits: Bits,
}

params! {
    pub struct Params {
        /// Rows: out features of a weight, or tokens.
        pub n: u32,
        /// In features.
        pub k: u32,
        /// Elements of a row that share one grid; `k` for one grid per row.
        pub group_size: u32,
    }
}

impl Kernel for DequantizeWeight {
    const NAME: &'static str = "dequantize_weight";
    const SOURCE: &'static str = include_str!("../../shaders/dequantize_weight.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        Bits::ALL.map(|bits| Self { bits }).to_vec()
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::U32("BITS", self.bits.get())]
    }
}

#[backend_extension(Cube, Flex)]
trait DequantizeWeightOp: Backend {
    fn dequantize_weight(
        codes: IntTensor<Self>,
        grid: IntTensor<Self>,
        kernel: DequantizeWeight,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl DequantizeWeightOp for CubeBackend {
    fn dequantize_weight(
        codes: IntTensor<Self>,
        grid: IntTensor<Self>,
        kernel: DequantizeWeight,
        params: Params,
    ) -> FloatTensor<Self> {
        let [codes, grid] = [codes, grid].map(contiguous_i32);
        let shape = Shape::new([params.n as usize, params.k as usize]);
        let workgroups = shape.num_elements().div_ceil(kernel.workgroup_size() as usize);
        let w = empty_like(&codes, shape, DType::F32);
        launch(kernel, &[&codes, &grid], &[&w], params, linear_grid(workgroups));
        w
    }
}

impl DequantizeWeightOp for Flex {
    fn dequantize_weight(
        codes: IntTensor<Self>,
        grid: IntTensor<Self>,
        kernel: DequantizeWeight,
        params: Params,
    ) -> FloatTensor<Self> {
        let (k, group_size) = (params.k as usize, params.group_size as usize);
        let [codes, grid] = [codes, grid].map(|tensor| tensor.to_contiguous());
        let rows = Rows::new(kernel.bits, k, group_size, flex_words(&codes), flex_words(&grid));
        flex_from_f32(cpu::dequantize(Form::best(), rows), [params.n as usize, k])
    }
}

/// The `[rows, in_features]` values that `packed` stands for, be it a weight or tokens.
///
/// # Panics
///
/// If the shapes of `packed` do not fit.
pub fn dequantize_weight(packed: &PackedTensor) -> Tensor<2> {
    packed.assert_consistent();
    let params = Params {
        n: u32_from(packed.rows()),
        k: u32_from(packed.in_features),
        group_size: u32_from(packed.group_size),
    };
    Tensor::from_dispatch(Dispatch::dequantize_weight(
        packed.codes.clone().into_dispatch(),
        packed.grid.clone().into_dispatch(),
        DequantizeWeight { bits: packed.bits },
        params,
    ))
}
