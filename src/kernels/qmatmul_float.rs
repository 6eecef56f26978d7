//! `shaders/qmatmul_float.wgsl` — float tokens times a packed weight (weight-only).

use super::cpu::{self, Form};
use super::epilogue::EpilogueTensors;
use super::float_product::FloatForm;
use super::launch::{
    MAX_DISPATCH_OPS, contiguous_i32, empty_like, flex_floats, flex_from_f32, flex_words, launch,
    u32_from,
};
use super::params::params;
use super::{Const, Element, Epilogue, EpilogueKind, Kernel, PackedTensor, Rows, Tier, rearrange};
use crate::quant::{Bits, PackedRows};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// The kernel, specialized to a form, the weight's width and the tokens' element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmulFloat {
    /// How it is computed.
    pub form: FloatForm,
    /// Width of the weight's codes.
    pub w_bits: Bits,
    /// Whether a row of the weight has several grids.
    pub grouped: bool,
    /// Storage type of `x`.
    pub element: Element,
    /// How its rows are loaded.
    pub rows: Rows,
    /// What follows the product.
    pub epilogue: EpilogueKind,
}

params! {
    pub struct Params {
        /// Tokens.
        pub m: u32,
        /// Out features.
        pub n: u32,
        /// In features.
        pub k: u32,
        /// Elements of a weight's row that share one grid.
        pub group_size: u32,
        /// Tiles of tokens that earlier dispatches computed.
        pub first_tile: u32,
    }
}

impl Kernel for QMatmulFloat {
    const NAME: &'static str = "qmatmul_float";
    const SOURCE: &'static str = include_str!("../../shaders/qmatmul_float.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let plain = |form, w_bits| Self {
            form,
            w_bits,
            grouped: false,
            element: Element::F32,
            rows: Rows::Vectors,
            epilogue: EpilogueKind::Bias,
        };
        let mut all = FloatForm::ALL.map(|form| plain(form, Bits::B4)).to_vec();
        let forms = [FloatForm::Registers { broadcast: false }, FloatForm::Tiles { large: false }];
        for form in forms {
            for w_bits in Bits::ALL {
                all.push(Self { grouped: true, ..plain(form, w_bits) });
            }
            let plain = plain(form, Bits::B3);
            all.push(Self { rows: Rows::Ragged, ..plain });
            all.push(Self { element: Element::F16, ..plain });
            all.extend(EpilogueKind::WITH_MORE.map(|epilogue| Self { epilogue, ..plain }));
        }
        all
    }

    fn tier(&self) -> Tier {
        self.form.tier().max(self.element.tier())
    }

    fn workgroup_size(&self) -> u32 {
        self.form.workgroup_size()
    }

    fn constants(&self) -> Vec<Const> {
        let [quads, _] = self.rows.fragments();
        let mut constants = self.form.constants();
        constants.extend([
            Const::U32("W_BITS", self.w_bits.get()),
            Const::Bool("GROUPED", self.grouped),
            Const::Alias("Elem", self.element.wgsl_in(self.rows)),
            Const::Import("quads", quads),
        ]);
        constants.extend(self.epilogue.constants());
        constants
    }
}

/// Plain-Rust twin of this shader and of `qmatvec`: `y = x · ŵᵀ + bias`, `[tokens, out_features]`.
pub fn reference(x: &[f32], w: &PackedRows, bias: &[f32]) -> Vec<f32> {
    let k = w.in_features;
    let values = w.values();
    let values = &values;
    x.par_chunks(k)
        .flat_map_iter(|token| {
            values.chunks(k).zip(bias).map(move |(channel, bias)| {
                token.iter().zip(channel).map(|(x, w)| x * w).sum::<f32>() + bias
            })
        })
        .collect()
}

#[backend_extension(Cube, Flex)]
trait QMatmulFloatOp: Backend {
    fn qmatmul_float(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        #[extension_type] epilogue: EpilogueTensors<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl QMatmulFloatOp for CubeBackend {
    fn qmatmul_float(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self> {
        let [w_codes, w_grid] = [w_codes, w_grid].map(contiguous_i32);
        let x = rearrange::contiguous(x);
        let (epilogue, buffers) = epilogue.into_buffers();
        let (element, rows) = (Element::of(x.dtype), Rows::of(params.k as usize));
        let form = FloatForm::preferred_on(&x.device, element, params.m, params.n);
        let grouped = params.group_size < params.k;
        let kernel = QMatmulFloat { form, w_bits, grouped, element, rows, epilogue };
        let (m, n) = (params.m as usize, params.n as usize);
        let y = empty_like(&x, Shape::new([m, n]), DType::F32);
        let reads: Vec<_> = [&x, &w_codes, &w_grid].into_iter().chain(&buffers).collect();
        for (first_tile, grid) in form.dispatches([m, n, params.k as usize], MAX_DISPATCH_OPS) {
            launch(kernel, &reads, &[&y], Params { first_tile, ..params }, grid);
        }
        y
    }
}

impl QMatmulFloatOp for Flex {
    fn qmatmul_float(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        let [w_codes, w_grid] = [w_codes, w_grid].map(|tensor| tensor.to_contiguous());
        let (m, n) = (params.m as usize, params.n as usize);
        let (k, group_size) = (params.k as usize, params.group_size as usize);
        let w = cpu::Rows::new(w_bits, k, group_size, flex_words(&w_codes), flex_words(&w_grid));
        let y = cpu::qmatmul_float(Form::best(), &flex_floats(&x), w, &epilogue.bias());
        flex_from_f32(epilogue.finish(y, n), [m, n])
    }
}

/// `y = residual + gate · (x · ŵᵀ + bias)` of float tokens `[tokens, in_features]` and a packed
/// weight; a bias alone is an epilogue, too.
///
/// # Panics
///
/// If `x` has not `in_features` columns, or a tensor of the epilogue not the shape that it says.
pub fn qmatmul_float(x: Tensor<2>, w: &PackedTensor, epilogue: impl Into<Epilogue>) -> Tensor<2> {
    let [m, k] = x.dims();
    w.assert_consistent();
    assert_eq!(k, w.in_features, "qmatmul_float: columns of x and in_features");
    let epilogue: Epilogue = epilogue.into();
    epilogue.assert_fits("qmatmul_float", [m, w.rows()]);
    if m == 0 {
        return Tensor::empty([0, w.rows()], &x.device());
    }
    let params = Params {
        m: u32_from(m),
        n: u32_from(w.rows()),
        k: u32_from(k),
        group_size: u32_from(w.group_size),
        first_tile: 0,
    };
    Tensor::from_dispatch(Dispatch::qmatmul_float(
        x.into_dispatch(),
        w.codes.clone().into_dispatch(),
        w.grid.clone().into_dispatch(),
        epilogue.into(),
        w.bits,
        params,
    ))
}
