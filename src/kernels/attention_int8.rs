//! `shaders/attention_int8.wgsl` — attention with integer scores, after `SageAttention`.
//!
//! Queries and centered keys are 8-bit codes with a scale per token and head, values and softmax
//! stay floats. Half of the operations become a quarter of instructions where an adapter has an
//! integer dot product, and the keys a quarter of the bytes.
//!
//! Error against exact attention, relative to the root mean square of the result, of 70 queries and
//! 200 keys with normal values (`examples/attention_forms`; `--outliers` moves one channel in 16 of
//! all keys by 20 standard deviations): 0.9 % in the mean square and 8 % at worst, of 12 heads with
//! 128 channels, with outliers or without (64 channels: 0.8 % and 6 %; f16 inputs of the exact form
//! 0.1 % and 1 % with outliers). Without centering, keys with outliers lose over four times as much.
//! The log-sum-exp is that of exact attention up to the same rounding of the scores: the mean's
//! share is added again.
//!
//! On lavapipe (Mesa 25.0.7, 12 heads × 128, 2048 tokens) 10.0 GFLOP/s of CPU time, quantizing
//! included, against 6.6 of the float form and 5.5 of Burn's attention.

use super::attention::{self, Attention, Params, checked};
use super::attention_patches::{AttentionPatches, preferred_columns};
use super::launch::{empty_like, flex_f32, flex_floats, flex_from_f32, launch};
use super::quantize_heads::{self, QuantizeHeads};
use super::{Const, Element, Kernel, Tier};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionInt8 {
    /// Channels per head: a multiple of 16, at most 128.
    pub head_dim: u32,
    /// Invocations side by side, 8 or 16.
    pub columns: u32,
    /// How `v` is stored.
    pub element: Element,
}

impl AttentionInt8 {
    /// Whether it computes heads of `head_dim` channels.
    pub fn takes(head_dim: usize) -> bool {
        head_dim.is_multiple_of(16) && AttentionPatches::takes(head_dim)
    }
}

impl Kernel for AttentionInt8 {
    const NAME: &'static str = "attention_int8";
    const SOURCE: &'static str = include_str!("../../shaders/attention_int8.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for element in Element::ALL {
            for columns in [8, 16] {
                all.extend([16, 128].map(|head_dim| Self { head_dim, columns, element }));
            }
        }
        all
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        8 * self.columns
    }

    fn constants(&self) -> Vec<Const> {
        vec![
            Const::Alias("Elem", self.element.wgsl()),
            Const::U32("HEAD_DIM", self.head_dim),
            Const::U32("COLUMNS", self.columns),
        ]
    }
}

/// Plain-Rust twin: exact attention of the values that the codes stand for; `mean` is that of the
/// keys.
pub fn reference(
    kernel: Attention,
    [q, k, v]: [&[f32]; 3],
    mean: &[f32],
    params: Params,
) -> (Vec<f32>, Vec<f32>) {
    let rounded = |x: &[f32], tokens, center| {
        let kernel = QuantizeHeads { head_dim: kernel.head_dim, element: Element::F32, center };
        let params = quantize_heads::Params { tokens, heads: params.heads };
        let heads = quantize_heads::reference(kernel, x, mean, params);
        let values = heads
            .iter()
            .flat_map(|head| head.codes.iter().map(|&code| f32::from(code) * head.scale))
            .collect::<Vec<_>>();
        (values, heads.into_iter().map(|head| head.product).collect::<Vec<_>>())
    };
    let (q, products) = rounded(q, params.queries, false);
    let (k, _) = rounded(k, params.keys, true);
    let (o, mut lse) = attention::reference(kernel, &q, &k, v, params);
    lse.iter_mut().zip(products).for_each(|(lse, product)| *lse += params.scale * product);
    (o, lse)
}

#[backend_extension(Cube, Flex)]
trait AttentionInt8Op: Backend {
    fn attention_int8(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Codes and grid of `x` on the device.
fn quantize(
    x: &CubeTensor,
    mean: &CubeTensor,
    tokens: u32,
    (head_dim, heads): (u32, u32),
    center: bool,
) -> [CubeTensor; 2] {
    let kernel = QuantizeHeads { head_dim, element: Element::of(x.dtype), center };
    let params = quantize_heads::Params { tokens, heads };
    let rows = tokens as usize * heads as usize;
    let codes = empty_like(x, Shape::new([rows, head_dim as usize / 4]), DType::I32);
    let grid = empty_like(x, Shape::new([rows, 2]), DType::F32);
    launch(kernel, &[x, mean], &[&codes, &grid], params, kernel.grid(params));
    [codes, grid]
}

impl AttentionInt8Op for CubeBackend {
    fn attention_int8(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        Attention { head_dim }: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [q, k, v, mean] = [q, k, v, mean].map(into_contiguous);
        let heads = (head_dim, params.heads);
        let [q_codes, q_grid] = quantize(&q, &mean, params.queries, heads, false);
        let [k_codes, k_grid] = quantize(&k, &mean, params.keys, heads, true);
        let columns = preferred_columns(&v.device);
        let kernel = AttentionInt8 { head_dim, columns, element: Element::of(v.dtype) };
        let [o, lse] = attention::shapes(Attention { head_dim }, params)
            .map(|shape| empty_like(&v, Shape::new(shape), DType::F32));
        let reads = [&q_codes, &q_grid, &k_codes, &k_grid, &v];
        launch(kernel, &reads, &[&o, &lse], params, AttentionPatches::grid(params));
        (o, lse)
    }
}

impl AttentionInt8Op for Flex {
    fn attention_int8(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = [q, k, v].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(flex_floats);
        let [q, k, v] = values.each_ref().map(|values| &values[..]);
        let (o, lse) = reference(kernel, [q, k, v], &flex_f32(&mean), params);
        let [o_shape, lse_shape] = attention::shapes(kernel, params);
        (flex_from_f32(o, o_shape), flex_from_f32(lse, lse_shape))
    }
}

/// [`attention`](attention::attention()) with scores from 8-bit queries and keys.
///
/// Shapes and results are the same, `lse` included; inputs are f32 or f16. Heads that the shader
/// does not take ([`AttentionInt8::takes`]) are computed exactly. Not differentiable.
///
/// # Panics
///
/// As [`attention`](attention::attention()), and if a tensor is tracked by autodiff.
pub fn attention_int8(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: usize,
    scale: f32,
) -> (Tensor<2>, Tensor<2>) {
    let (kernel, params) = checked([&q, &k, &v], heads, scale);
    if !AttentionInt8::takes(kernel.head_dim as usize) {
        return attention::attention_in(None, q, k, v, heads, scale);
    }
    let mean = k.clone().cast(DType::F32).mean_dim(0);
    let (o, lse) = Dispatch::attention_int8(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        mean.into_dispatch(),
        kernel,
        params,
    );
    (Tensor::from_dispatch(o), Tensor::from_dispatch(lse))
}
