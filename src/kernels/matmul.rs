//! `shaders/matmul.wgsl` — float tokens times a float weight, with what follows a linear layer.
//!
//! Burn's own product compiles several kernels on first use, each for seconds on a software
//! adapter, and leaves bias, gate and sum to further passes. Here one kernel serves every shape.

use super::epilogue::EpilogueTensors;
use super::float_product::FloatForm;
use super::launch::{MAX_DISPATCH_OPS, empty_like, flex_f32, flex_from_f32, launch, u32_from};
use super::params::params;
use super::{Const, Element, Epilogue, EpilogueKind, Kernel, Rows, Tier, rearrange};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, FloatDType, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// The kernel, specialized to a form, the element type and what follows the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    /// How it is computed.
    pub form: FloatForm,
    /// Storage type of `x` and `w`.
    pub element: Element,
    /// How their rows are loaded.
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
        /// Tiles of tokens that earlier dispatches computed.
        pub first_tile: u32,
    }
}

impl Kernel for Matmul {
    const NAME: &'static str = "matmul";
    const SOURCE: &'static str = include_str!("../../shaders/matmul.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let (element, rows, epilogue) = (Element::F32, Rows::Vectors, EpilogueKind::Bias);
        let plain = |form| Self { form, element, rows, epilogue };
        let mut all = FloatForm::ALL.map(plain).to_vec();
        for form in [FloatForm::Registers { broadcast: false }, FloatForm::Tiles { large: false }] {
            let plain = plain(form);
            all.push(Self { rows: Rows::Ragged, ..plain });
            all.push(Self { element: Element::F16, ..plain });
            all.push(Self { element: Element::F16, rows: Rows::Ragged, ..plain });
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
        let weight_quads = match self.rows {
            Rows::Vectors => "weight_quads_vector",
            Rows::Ragged => "weight_quads_scalar",
        };
        let mut constants = self.form.constants();
        constants.extend([
            Const::Alias("Elem", self.element.wgsl_in(self.rows)),
            Const::Import("quads", quads),
            Const::Import("weight_quads", weight_quads),
        ]);
        constants.extend(self.epilogue.constants());
        constants
    }
}

/// Plain-Rust twin of the shader: `y = x · wᵀ + bias`, `[tokens, out_features]`; `x` is
/// `[tokens, k]`, `w` `[out_features, k]`.
pub fn reference(x: &[f32], w: &[f32], bias: &[f32], k: usize) -> Vec<f32> {
    x.par_chunks(k)
        .flat_map_iter(|token| {
            w.chunks(k).zip(bias).map(move |(channel, bias)| {
                token.iter().zip(channel).map(|(x, w)| x * w).sum::<f32>() + bias
            })
        })
        .collect()
}

#[backend_extension(Cube, Flex)]
pub(super) trait MatmulOp: Backend {
    fn matmul(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        #[extension_type] epilogue: EpilogueTensors<Self>,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl MatmulOp for CubeBackend {
    fn matmul(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        assert_eq!(x.dtype, w.dtype, "matmul: element types of x and w");
        let [x, w] = [x, w].map(rearrange::contiguous);
        let (epilogue, buffers) = epilogue.into_buffers();
        let (m, n) = (params.m as usize, params.n as usize);
        let (element, rows) = (Element::of(x.dtype), Rows::of(params.k as usize));
        let form = FloatForm::preferred_on(&x.device, element, params.m, params.n);
        let y = empty_like(&x, Shape::new([m, n]), DType::F32);
        let reads: Vec<_> = [&x, &w].into_iter().chain(&buffers).collect();
        let kernel = Matmul { form, element, rows, epilogue };
        for (first_tile, grid) in form.dispatches([m, n, params.k as usize], MAX_DISPATCH_OPS) {
            launch(kernel, &reads, &[&y], Params { first_tile, ..params }, grid);
        }
        y
    }
}

impl MatmulOp for Flex {
    fn matmul(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        // The CPU backend's own product uses all processors and their vector instructions.
        let [x, w] = [x, w].map(|tensor| Self::float_cast(tensor, FloatDType::F32));
        let mut y = flex_f32(&Self::float_matmul(x, Self::float_transpose(w)));
        let (m, n) = (params.m as usize, params.n as usize);
        let bias = epilogue.bias();
        for y in y.chunks_exact_mut(n) {
            y.iter_mut().zip(&bias).for_each(|(y, bias)| *y += bias);
        }
        flex_from_f32(epilogue.finish(y, n), [m, n])
    }
}

/// `y = residual + gate · (x · wᵀ + bias)` of tokens `x` `[tokens, in_features]` and a weight `w`
/// `[out_features, in_features]`, both f32 or both f16; the result is f32. A bias alone is an
/// epilogue, too. Not differentiable.
///
/// # Panics
///
/// If `x` and `w` differ in `in_features` or element type, or a tensor of the epilogue has not the
/// shape that it says.
pub fn matmul(x: Tensor<2>, w: Tensor<2>, epilogue: impl Into<Epilogue>) -> Tensor<2> {
    let ([m, k], [n, in_features]) = (x.dims(), w.dims());
    assert_eq!(k, in_features, "matmul: columns of x and in_features");
    let epilogue: Epilogue = epilogue.into();
    epilogue.assert_fits("matmul", [m, n]);
    if m == 0 || n == 0 {
        return Tensor::empty([m, n], &x.device());
    }
    let params = Params { m: u32_from(m), n: u32_from(n), k: u32_from(k), first_tile: 0 };
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(Dispatch::matmul(x, w, epilogue.into(), params))
}
