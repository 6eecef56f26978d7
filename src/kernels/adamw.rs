//! `shaders/adamw.wgsl` — one optimizer step in one pass over a parameter and its moments.

use super::fake_quantize::{PARALLEL_LEN, contiguous};
use super::launch::{contiguous_f32, empty_like, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// The kernel; it has no specializations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdamW;

params! {
    pub struct Params {
        /// Elements.
        pub len: u32,
        /// Factor of the gradient.
        pub grad_scale: f32,
        /// Decay of the first moment.
        pub beta1: f32,
        /// `1 − beta1`.
        pub rest1: f32,
        /// Decay of the second moment.
        pub beta2: f32,
        /// `1 − beta2`.
        pub rest2: f32,
        /// Learning rate over the bias correction of the first moment.
        pub rate: f32,
        /// One over the root of the bias correction of the second moment.
        pub root: f32,
        /// Floor of the denominator.
        pub eps: f32,
        /// What weight decay leaves of the parameter.
        pub keep: f32,
    }
}

impl Kernel for AdamW {
    const NAME: &'static str = "adamw";
    const SOURCE: &'static str = include_str!("../../shaders/adamw.wgsl");
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

/// What one step of [`adamw()`] needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Number of the step, counted from 1 since the moments were zero.
    pub step: u64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Floor of the denominator, added after the bias correction.
    pub eps: f64,
    /// Decoupled weight decay: the parameter shrinks by `learning_rate · weight_decay`.
    pub weight_decay: f64,
    /// Factor of the gradient: below 1 where the norm of all gradients is clipped.
    pub grad_scale: f64,
}

impl AdamWStep {
    /// The shader's parameters for `len` elements.
    ///
    /// # Panics
    ///
    /// If the step is 0: the bias corrections would be 0 too.
    pub fn params(&self, len: usize) -> Params {
        assert!(self.step > 0, "adamw: steps count from 1");
        // Differences from 1 are taken in f64, where they keep their digits.
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        Params {
            len: u32_from(len),
            grad_scale: self.grad_scale as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            rate: (self.learning_rate / correction(self.beta1)) as f32,
            root: (1.0 / correction(self.beta2).sqrt()) as f32,
            eps: self.eps as f32,
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
        }
    }
}

/// Plain-Rust twin of the shader, in place.
pub fn reference(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], params: Params) {
    let update = |param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]| {
        for (((param, &grad), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
            let g = params.grad_scale * grad;
            *m = params.beta1 * *m + params.rest1 * g;
            *v = params.beta2 * *v + params.rest2 * g * g;
            *param =
                params.keep * *param - params.rate * *m / (params.root * v.sqrt() + params.eps);
        }
    };
    if param.len() < PARALLEL_LEN {
        return update(param, grad, m, v);
    }
    let chunk = PARALLEL_LEN / 16;
    let (params, grads) = (param.par_chunks_mut(chunk), grad.par_chunks(chunk));
    let moments = m.par_chunks_mut(chunk).zip(v.par_chunks_mut(chunk));
    let parts = params.zip(grads).zip(moments);
    parts.for_each(|((param, grad), (m, v))| update(param, grad, m, v));
}

type ThreeTensors<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

#[backend_extension(Cube, Flex)]
trait AdamWOp: Backend {
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl AdamWOp for CubeBackend {
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        params: Params,
    ) -> ThreeTensors<Self> {
        let [param, grad, m, v] = [param, grad, m, v].map(contiguous_f32);
        let len = params.len as usize;
        let [new_param, new_m, new_v] =
            [0; 3].map(|_| empty_like(&param, Shape::new([len]), DType::F32));
        let grid = linear_grid(len.div_ceil(AdamW.workgroup_size() as usize));
        let writes = [&new_param, &new_m, &new_v];
        launch(AdamW, &[&param, &grad, &m, &v], &writes, params, grid);
        (new_param, new_m, new_v)
    }
}

impl AdamWOp for Flex {
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        params: Params,
    ) -> ThreeTensors<Self> {
        let [grad] = contiguous([grad]);
        // Updated in place unless somebody else holds them: then `storage_mut` copies.
        let [mut param, mut m, mut v] = contiguous([param, m, v]);
        reference(param.storage_mut(), grad.storage(), m.storage_mut(), v.storage_mut(), params);
        (param, m, v)
    }
}

/// One step of `AdamW`: the new parameter and its new moments.
///
/// All tensors are flat, of one length and f32; `m` and `v` are the first and second moment, zeros
/// before the first step. `g = grad_scale · grad`, `m' = β₁·m + (1−β₁)·g`, `v' = β₂·v + (1−β₂)·g²`,
/// `param' = (1 − lr·decay)·param − lr/(1−β₁ᵗ) · m' / (√(v'/(1−β₂ᵗ)) + eps)`
/// (Loshchilov and Hutter, arXiv 1711.05101, in the form of torch). On the CPU device a tensor
/// that nobody else holds is updated in place.
///
/// # Panics
///
/// If lengths differ or the step is 0.
pub fn adamw(
    param: Tensor<1>,
    grad: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    step: AdamWStep,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let [len] = param.dims();
    assert_eq!([grad.dims(), m.dims(), v.dims()], [[len]; 3], "adamw: lengths of grad, m and v");
    let (param, m, v) = Dispatch::adamw(
        param.into_dispatch(),
        grad.into_dispatch(),
        m.into_dispatch(),
        v.into_dispatch(),
        step.params(len),
    );
    (Tensor::from_dispatch(param), Tensor::from_dispatch(m), Tensor::from_dispatch(v))
}
