//! `shaders/log_quantize.wgsl` — codes of logarithms and the values that they stand for
//! (`HiDi-TQ` of QVD).

use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_f32, flex_from_u32, launch, linear_grid,
    u32_from,
};
use super::params::params;
use super::{Const, Kernel};
use crate::quant::{Bits, LogSpec};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, TensorMetadata, backend_extension};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cubecl::CubeBackend;

/// The kernel, specialized to the width of a code and to the kind of base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogQuantize {
    /// Width of a code.
    pub bits: Bits,
    /// One step per octave, by the bits of a float.
    pub base_two: bool,
}

params! {
    pub struct Params {
        /// Values.
        pub len: u32,
        /// One divided by the largest magnitude.
        pub inverse_absmax: f32,
    }
}

impl Kernel for LogQuantize {
    const NAME: &'static str = "log_quantize";
    const SOURCE: &'static str = include_str!("../../shaders/log_quantize.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let of = |bits| [true, false].map(|base_two| Self { bits, base_two });
        Bits::OF_TOKENS.into_iter().flat_map(of).collect()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        let sign = self.bits.get() - 1;
        vec![
            Const::U32("LEVELS", (1 << sign) - 1),
            Const::U32("SIGN", sign),
            Const::Bool("BASE_TWO", self.base_two),
        ]
    }
}

impl LogQuantize {
    /// The specialization and parameters that carry out `log` on `len` values, and workgroups.
    pub fn call(log: LogSpec, len: usize) -> (Self, Params, [u32; 3]) {
        let kernel = Self { bits: log.bits, base_two: log.steps_per_octave == 1 };
        let params = Params { len: u32_from(len), inverse_absmax: log.inverse_absmax() };
        let grid = linear_grid(len.div_ceil(4 * kernel.workgroup_size() as usize));
        (kernel, params, grid)
    }
}

/// Plain-Rust twin of the shader: words of four codes, and values.
pub fn reference(log: LogSpec, x: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let code = |value: &f32| if value.is_finite() { log.code(*value) } else { 0 };
    let word = |four: &[f32]| four.iter().rev().fold(0, |word, value| word << 8 | code(value));
    let words = x.chunks(4).map(word).collect();
    (words, x.iter().map(|&value| log.round(value)).collect())
}

/// A [`LogSpec`] on a device.
#[derive(Clone, Debug)]
pub struct LogTable {
    /// What it stands for.
    pub spec: LogSpec,
    /// [`LogSpec::table`].
    table: Tensor<1>,
}

impl LogTable {
    /// The table of `spec` on `device`.
    pub fn new(spec: LogSpec, device: &Device) -> Self {
        let values = spec.table();
        let len = values.len();
        Self { spec, table: Tensor::from_data(TensorData::new(values, [len]), device) }
    }
}

#[backend_extension(Cube, Flex)]
trait LogQuantizeOp: Backend {
    fn log_quantize(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        log: LogSpec,
    ) -> (IntTensor<Self>, FloatTensor<Self>);
}

impl LogQuantizeOp for CubeBackend {
    fn log_quantize(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        log: LogSpec,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let [x, table] = [x, table].map(contiguous_f32);
        let shape = x.shape();
        let len = shape.num_elements();
        let (kernel, params, grid) = LogQuantize::call(log, len);
        let codes = empty_like(&x, Shape::new([len.div_ceil(4)]), DType::I32);
        let y = empty_like(&x, shape, DType::F32);
        launch(kernel, &[&x, &table], &[&codes, &y], params, grid);
        (codes, y)
    }
}

impl LogQuantizeOp for Flex {
    fn log_quantize(
        x: FloatTensor<Self>,
        _: FloatTensor<Self>,
        log: LogSpec,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let shape = x.shape();
        let (codes, y) = reference(log, &flex_f32(&x));
        let len = codes.len();
        (flex_from_u32(codes, [len]), flex_from_f32(y, shape))
    }
}

/// The codes of `x`, f32, four in a word, and the values that they stand for.
///
/// Values and not codes are what a product takes: the inputs that are worth it are single rows,
/// whose products read the weight and little else.
pub fn log_quantize(x: Tensor<2>, log: &LogTable) -> (Tensor<1, Int>, Tensor<2>) {
    if x.shape().num_elements() == 0 {
        return (Tensor::empty([0], &x.device()), x);
    }
    let (x, table) = (x.into_dispatch(), log.table.clone().into_dispatch());
    let (codes, y) = Dispatch::log_quantize(x, table, log.spec);
    (Tensor::from_dispatch(codes), Tensor::from_dispatch(y))
}
