//! `shaders/fake_quantize_weight.wgsl` — a weight as its codes will stand for it, learned grid per
//! row.

use super::fake_quantize::{Codes, contiguous, map_rows};
use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel};
use crate::quant::{Bits, Grid, Scheme};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// The kernel, specialized to width and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FakeQuantizeWeight {
    /// Width of a code.
    pub bits: Bits,
    /// [`Scheme::AsymmetricReal`] or [`Scheme::Symmetric`].
    pub scheme: Scheme,
}

/// Schemes with parameters that can be learned.
pub(super) const SCHEMES: [Scheme; 2] = [Scheme::Symmetric, Scheme::AsymmetricReal];

params! {
    pub struct Params {
        /// Out features.
        pub n: u32,
        /// In features.
        pub k: u32,
    }
}

impl Kernel for FakeQuantizeWeight {
    const NAME: &'static str = "fake_quantize_weight";
    const SOURCE: &'static str = include_str!("../../shaders/fake_quantize_weight.wgsl");
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

/// The codes of a row: where the scheme is symmetric, `zero_point` is not used.
pub(super) fn row_codes(scheme: Scheme, bits: Bits, scale: f32, zero_point: f32) -> Codes {
    let middle = (1_u32 << (bits.get() - 1)) as f32;
    let zero_point = if scheme == Scheme::Symmetric { middle } else { zero_point };
    Codes::new(Grid { scale, zero_point }, scheme, bits)
}

/// Plain-Rust twin of the shader; `w` and the result are `[n, k]`, the others `[n]`.
pub fn reference(
    kernel: FakeQuantizeWeight,
    w: &[f32],
    scale: &[f32],
    zero_point: &[f32],
    params: Params,
) -> Vec<f32> {
    let k = params.k as usize;
    let mut y = vec![0.0; w.len()];
    map_rows(&mut y, k, |row, y| {
        let codes = row_codes(kernel.scheme, kernel.bits, scale[row], zero_point[row]);
        for (y, &w) in y.iter_mut().zip(&w[row * k..]) {
            *y = codes.fake(w);
        }
    });
    y
}

#[backend_extension(Cube, Flex)]
trait FakeQuantizeWeightOp: Backend {
    fn fake_quantize_weight(
        w: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        zero_point: FloatTensor<Self>,
        kernel: FakeQuantizeWeight,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl FakeQuantizeWeightOp for CubeBackend {
    fn fake_quantize_weight(
        w: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        zero_point: FloatTensor<Self>,
        kernel: FakeQuantizeWeight,
        params: Params,
    ) -> FloatTensor<Self> {
        let [w, scale, zero_point] = [w, scale, zero_point].map(contiguous_f32);
        let (n, k) = (params.n as usize, params.k as usize);
        let y = empty_like(&w, Shape::new([n, k]), DType::F32);
        let grid = linear_grid((n * k).div_ceil(kernel.workgroup_size() as usize));
        launch(kernel, &[&w, &scale, &zero_point], &[&y], params, grid);
        y
    }
}

impl FakeQuantizeWeightOp for Flex {
    fn fake_quantize_weight(
        w: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        zero_point: FloatTensor<Self>,
        kernel: FakeQuantizeWeight,
        params: Params,
    ) -> FloatTensor<Self> {
        let [w, scale, zero_point] = contiguous([w, scale, zero_point]);
        let y = reference(kernel, w.storage(), scale.storage(), zero_point.storage(), params);
        flex_from_f32(y, [params.n as usize, params.k as usize])
    }
}

/// Asserts that the grid fits `w` and that its parameters can be learned; returns `[n, k]`.
pub(super) fn checked_dims(
    name: &str,
    w: &Tensor<2>,
    scale: &Tensor<1>,
    zero_point: &Tensor<1>,
    scheme: Scheme,
) -> [u32; 2] {
    let [n, k] = w.dims();
    assert!(SCHEMES.contains(&scheme), "{name}: a learned grid is no {scheme:?}");
    assert_eq!(scale.dims(), [n], "{name}: scale against w [{n}, {k}]");
    assert_eq!(zero_point.dims(), [n], "{name}: zero_point against w [{n}, {k}]");
    [u32_from(n), u32_from(k)]
}

/// `scale · (code − zero_point)`, the value that each element of `w` gets from its code.
///
/// `w` and the result are `[out_features, in_features]`, `scale` and `zero_point`
/// `[out_features]`, all f32. The codes are those of [`Grid::code`] for the same scale and zero
/// point, so a weight exported with them computes what training saw. With [`Scheme::Symmetric`]
/// the zero point is `2^(bits−1)` whatever `zero_point` holds. NaN in `w` stays NaN.
///
/// The gradients are in
/// [`fake_quantize_weight_backward`](super::fake_quantize_weight_backward()); a trainer needs them
/// once per step, so this is no operation that autodiff tracks.
///
/// # Panics
///
/// If shapes do not fit, the scheme is another, or a tensor is tracked by autodiff.
pub fn fake_quantize_weight(
    w: Tensor<2>,
    scale: Tensor<1>,
    zero_point: Tensor<1>,
    bits: Bits,
    scheme: Scheme,
) -> Tensor<2> {
    let [n, k] = checked_dims("fake_quantize_weight", &w, &scale, &zero_point, scheme);
    Tensor::from_dispatch(Dispatch::fake_quantize_weight(
        w.into_dispatch(),
        scale.into_dispatch(),
        zero_point.into_dispatch(),
        FakeQuantizeWeight { bits, scheme },
        Params { n, k },
    ))
}
