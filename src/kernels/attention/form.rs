//! Which shader computes an attention: all have one contract, so that only speed depends on it.

use super::super::AdapterFacts;
use super::super::attention_matrix::AttentionMatrix;
use super::super::attention_patches::AttentionPatches;
use super::super::attention_rows::AttentionRows;
use super::super::cpu;
use super::super::element::Element;
use super::super::launch::{empty_like, flex_floats, flex_from_f32, launch, u32_from};
use super::{Attention, Params, checked, shapes};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, DispatchDevice, Flex, Shape, backend_extension};
use burn::tensor::{Device, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

/// A shader for attention and its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// 4 × 4 patches: any head.
    Tile,
    /// One query per invocation, for few tokens on adapters that are CPUs.
    Rows,
    /// 8 × 8 patches in few invocations, for adapters that are CPUs.
    WidePatches,
    /// 8 × 4 patches, for GPUs.
    Patches,
    /// Matrix units: inputs and probabilities are rounded to f16.
    Matrix,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 5] =
        [Self::Tile, Self::Rows, Self::WidePatches, Self::Patches, Self::Matrix];

    /// Whether it computes heads of `head_dim` channels stored as `element` on `device`; the CPU
    /// device computes every form by the twin.
    pub fn runs(self, device: &Device, head_dim: usize, element: Element) -> bool {
        match device.as_dispatch() {
            DispatchDevice::Cube(device) => self.runs_on(device, head_dim, element),
            _ => head_dim <= super::MAX_HEAD_DIM,
        }
    }

    fn runs_on(self, device: &CubeDevice, head_dim: usize, element: Element) -> bool {
        match self {
            Self::Tile => head_dim <= super::MAX_HEAD_DIM && element == Element::F32,
            Self::Rows => AttentionRows::takes(head_dim),
            Self::WidePatches | Self::Patches => AttentionPatches::takes(head_dim),
            Self::Matrix => AttentionMatrix::on_cube(device, head_dim, element).is_some(),
        }
    }

    /// The fastest form that rounds no input, by what was measured of software adapters and by the
    /// reasons in `shaders/attention_patches.wgsl` for the others.
    pub(super) fn preferred(
        device: &CubeDevice,
        kernel: Attention,
        params: Params,
        element: Element,
    ) -> Self {
        let software = AdapterFacts::of_cube(device).is_software;
        let head_dim = kernel.head_dim as usize;
        if element == Element::F16 && !software && Self::Matrix.runs_on(device, head_dim, element) {
            return Self::Matrix;
        }
        match (AttentionPatches::takes(head_dim), software) {
            (false, _) => Self::Tile,
            (true, true) if AttentionRows::suits(kernel.head_dim, params) => Self::Rows,
            (true, true) => Self::WidePatches,
            (true, false) => Self::Patches,
        }
    }

    /// Name of what [`attention_in`] without a form chooses for such a call on `device`.
    pub fn preferred_name(
        device: &Device,
        head_dim: usize,
        params: Params,
        element: Element,
    ) -> String {
        let DispatchDevice::Cube(device) = device.as_dispatch() else {
            return cpu::Form::best().name().to_owned();
        };
        let head_dim = u32_from(head_dim);
        let name = match Self::preferred(device, Attention { head_dim }, params, element) {
            Self::Tile => "tile",
            Self::Rows => "rows",
            Self::WidePatches => "wide patches",
            Self::Patches => "patches",
            Self::Matrix => "matrix",
        };
        name.to_owned()
    }

    /// `o` and `lse`; all inputs are contiguous and of one type.
    pub(super) fn run(
        self,
        kernel: Attention,
        inputs: [CubeTensor; 3],
        params: Params,
    ) -> (CubeTensor, CubeTensor) {
        let [q, k, v] = &inputs;
        let element = Element::of(q.dtype);
        assert!(
            self.runs_on(&q.device, kernel.head_dim as usize, element),
            "attention: {self:?} takes no heads of {} channels in {element:?} here",
            kernel.head_dim
        );
        let [o, lse] =
            shapes(kernel, params).map(|shape| empty_like(q, Shape::new(shape), DType::F32));
        let patches = |columns| AttentionPatches { head_dim: kernel.head_dim, columns, element };
        let (reads, writes) = ([q, k, v], [&o, &lse]);
        match self {
            Self::Tile => launch(kernel, &reads, &writes, params, kernel.grid(params)),
            Self::Rows => {
                let kernel = AttentionRows { head_dim: kernel.head_dim, element };
                launch(kernel, &reads, &writes, params, kernel.grid(params));
            }
            Self::WidePatches => {
                launch(patches(8), &reads, &writes, params, AttentionPatches::grid(params));
            }
            Self::Patches => {
                launch(patches(16), &reads, &writes, params, AttentionPatches::grid(params));
            }
            Self::Matrix => {
                let head_dim = kernel.head_dim as usize;
                let kernel = AttentionMatrix::on_cube(&q.device, head_dim, element)
                    .expect("a form that runs on the device");
                launch(kernel, &reads, &writes, params, kernel.grid(params));
            }
        }
        (o, lse)
    }
}

/// Not differentiable: training takes f32 and the preferred form.
#[backend_extension(Cube, Flex)]
trait AttentionInOp: Backend {
    fn attention_in(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        form: Option<Form>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl AttentionInOp for CubeBackend {
    fn attention_in(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        form: Option<Form>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        assert!(k.dtype == q.dtype && v.dtype == q.dtype, "attention: types of q, k and v differ");
        let inputs = [q, k, v].map(into_contiguous);
        let form = form.unwrap_or_else(|| {
            Form::preferred(&inputs[0].device, kernel, params, Element::of(inputs[0].dtype))
        });
        form.run(kernel, inputs, params)
    }
}

impl AttentionInOp for Flex {
    fn attention_in(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        _: Option<Form>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = [q, k, v].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(flex_floats);
        let values = values.each_ref().map(|values| &values[..]);
        let head_dim = kernel.head_dim as usize;
        let (o, lse) = cpu::attention(cpu::Form::best(), head_dim, values, params);
        let [o_shape, lse_shape] = shapes(kernel, params);
        (flex_from_f32(o, o_shape), flex_from_f32(lse, lse_shape))
    }
}

/// [`attention`](super::attention()) in a chosen form, or the preferred one, of f32 or f16 inputs.
///
/// Results are f32 in either case, as is all arithmetic. Not differentiable.
///
/// # Panics
///
/// As [`attention`](super::attention()), and if the form does not take such heads
/// ([`Form::runs`]) or the tensors track gradients.
pub fn attention_in(
    form: Option<Form>,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: usize,
    scale: f32,
) -> (Tensor<2>, Tensor<2>) {
    let (kernel, params) = checked([&q, &k, &v], heads, scale);
    let (o, lse) = Dispatch::attention_in(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        form,
        kernel,
        params,
    );
    (Tensor::from_dispatch(o), Tensor::from_dispatch(lse))
}
