//! The one place that talks to `CubeCL`: bind buffers, dispatch workgroups.
//!
//! Facts that shape it: every tensor is bound `read_write` because tensors share pages of one
//! buffer; parameters travel as the last binding, a uniform; the pipeline cache sees only the
//! kernel's id, so the id is the kernel's type and value, which also determine the text.

use super::{AdapterFacts, Kernel, dump, memory_watch, profile, rearrange};
use burn::backend::flex::FlexTensor;
use burn::backend::{DType, DispatchDevice, Shape};
use burn::tensor::{Device, TensorData};
use burn_cubecl::cubecl::ir::{ElemType, UIntKind, attributes::BufferIOAttr, metadata::Info};
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};
use burn_cubecl::cubecl::{CubeCount, CubeDim, CubeKernel, PrecompiledSource, client::Client};
use burn_cubecl::tensor::CubeTensor;
use std::borrow::Cow;
use std::cell::Cell;

/// Workgroups along x before a one-dimensional dispatch folds into y; below WebGPU's 65 535.
///
/// Shaders recover the flat index as `workgroup_id.y * GRID_WIDTH + workgroup_id.x`.
pub const GRID_WIDTH: u32 = 32_768;

/// Most multiplications and additions of one dispatch.
///
/// A display's watchdog resets a GPU that does not answer for about two seconds; this many take
/// 0.7 s on one that reaches 0.1 TFLOP/s, which is slow even for graphics inside a CPU.
pub(crate) const MAX_DISPATCH_OPS: u64 = 1 << 36;

/// A grid of at least `workgroups` workgroups, folded into x then y.
pub fn linear_grid(workgroups: usize) -> [u32; 3] {
    let workgroups = u32::try_from(workgroups.max(1)).expect("a dispatch below 2^32 workgroups");
    [workgroups.min(GRID_WIDTH), workgroups.div_ceil(GRID_WIDTH), 1]
}

/// Invocations that share a row of `k` values, four at a time.
///
/// Where processors are the device, an invocation that finds nothing to do in a short row costs as
/// much at every barrier as one that does.
pub(crate) const fn row_invocations(k: usize) -> u32 {
    if k <= 512 { 16 } else { 64 }
}

/// `usize` to the `u32` of a shader parameter.
///
/// # Panics
///
/// If the value does not fit: no dispatch is that large.
pub(crate) fn u32_from(value: usize) -> u32 {
    u32::try_from(value).unwrap_or_else(|_| panic!("{value} does not fit a shader parameter"))
}

#[derive(Clone, Debug)]
struct Source<K>(K);

impl<K: Kernel> Source<K> {
    fn dim(&self) -> CubeDim {
        CubeDim::new_1d(self.0.workgroup_size())
    }
}

impl<K: Kernel> KernelMetadata for Source<K> {
    fn id(&self) -> KernelId {
        // Unchecked: the checked mode makes naga count the iterations of every loop.
        KernelId::new::<K>().cube_dim(self.dim().0).mode(ExecutionMode::Unchecked).info(self.0)
    }

    fn address_type(&self) -> ElemType {
        UIntKind::U32.into()
    }
}

impl<K: Kernel> CubeKernel for Source<K> {
    fn define(&self) -> KernelDefinition {
        let settings = KernelSettings::new(self.dim().0, ExecutionMode::Checked, AddressType::U32);
        KernelDefinition { body: Scope::root(settings.clone()), settings, info: Info::default() }
    }

    fn source(&self) -> Option<PrecompiledSource> {
        let source = self.0.wgsl();
        dump::write(&format!("{:?}", self.0), &source);
        Some(PrecompiledSource { source, entrypoint_name: "main".to_owned(), lang: "wgsl" })
    }
}

/// Runs `kernel` on buffers: `reads` then `writes` in binding order, `params` last.
pub(crate) fn dispatch<K: Kernel>(
    client: &Client,
    kernel: K,
    reads: impl Iterator<Item = Handle>,
    writes: impl Iterator<Item = Handle>,
    params: K::Params,
    grid: [u32; 3],
) {
    let mut arguments = KernelArguments::new();
    for handle in reads {
        arguments = arguments.with_buffer_io(handle.binding(), BufferIOAttr::ReadOnly);
    }
    for handle in writes {
        arguments = arguments.with_buffer_io(handle.binding(), BufferIOAttr::WriteOnly);
    }
    enqueue(
        client,
        (K::NAME, Box::new(Source(kernel))),
        arguments,
        bytemuck::bytes_of(&params),
        grid,
    );
}

/// The part of [`dispatch`] that is the same for all kernels, compiled once.
fn enqueue(
    client: &Client,
    (name, kernel): (&'static str, Box<dyn CubeKernel>),
    arguments: KernelArguments,
    params: &[u8],
    grid: [u32; 3],
) {
    assert!(
        grid.iter().all(|&count| (1..=65_535).contains(&count)),
        "{name}: grid {grid:?} exceeds 65535 workgroups per dimension"
    );
    let mut words = vec![0_u64; params.len().div_ceil(16) * 2];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..params.len()].copy_from_slice(params);
    let arguments = arguments.with_info(MetadataBindingInfo::custom(words));
    profile::timed(name, client, || {
        let count = CubeCount::Static(grid[0], grid[1], grid[2]);
        client.launch(kernel, count, arguments);
    });
    memory_watch::look(client);
    make_room(client);
}

/// Waits, now and then, until a software adapter has caught up.
///
/// `CubeCL` lets a caller spin while its queue of 32 tasks is full. A graphics card does not mind,
/// but where processors are the device they have better to do: a clip of the pocket model took 3.4 s
/// of processor time instead of 2.3, and a tenth longer.
fn make_room(client: &Client) {
    const DISPATCHES: u32 = 8;
    thread_local! {
        static SINCE: Cell<u32> = const { Cell::new(0) };
    }
    let since = SINCE.get() + 1;
    SINCE.set(since % DISPATCHES);
    if since == DISPATCHES && AdapterFacts::of_client(client).is_software {
        // It only fails where the device is lost, of which the next reading tells.
        let _ = client.exclusive(|| ());
    }
}

/// Runs `kernel`: `reads` then `writes` in binding order, `params` as the last binding.
pub(crate) fn launch<K: Kernel>(
    kernel: K,
    reads: &[&CubeTensor],
    writes: &[&CubeTensor],
    params: K::Params,
    grid: [u32; 3],
) {
    let handles = |tensors: &[&CubeTensor]| {
        tensors.iter().map(|tensor| tensor.handle.clone()).collect::<Vec<_>>().into_iter()
    };
    dispatch(&writes[0].client, kernel, handles(reads), handles(writes), params, grid);
}

/// `tensor` in row-major order, for a binding that the shader declares as f32.
///
/// # Panics
///
/// If it holds another type, whose bits the shader would take for floats.
pub(crate) fn contiguous_f32(tensor: CubeTensor) -> CubeTensor {
    contiguous(tensor, DType::F32)
}

/// `tensor` in row-major order, for a binding that the shader declares as u32: Burn's words are i32.
///
/// # Panics
///
/// If it holds another type.
pub(crate) fn contiguous_i32(tensor: CubeTensor) -> CubeTensor {
    contiguous(tensor, DType::I32)
}

fn contiguous(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    assert_eq!(tensor.dtype, dtype, "element type of a kernel's input");
    rearrange::contiguous(tensor)
}

/// A contiguous tensor beside `like`, contents undefined; `dtype` has 4 or 2 bytes.
pub(crate) fn empty_like(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let handle = like.client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, dtype)
}

/// The CPU backend's f32 values, row-major.
pub(crate) fn flex_f32(tensor: &FlexTensor) -> Vec<f32> {
    tensor.to_contiguous().storage::<f32>().to_vec()
}

/// The integer words of a contiguous tensor of the CPU backend, in place.
pub(crate) fn flex_words(tensor: &FlexTensor) -> &[u32] {
    bytemuck::cast_slice(tensor.storage::<i32>())
}

/// The values of a contiguous tensor of the CPU backend as f32, in place if they are such.
pub(crate) fn flex_floats(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    match tensor.dtype() {
        DType::F16 => tensor.storage::<half::f16>().iter().map(|value| value.to_f32()).collect(),
        _ => Cow::Borrowed(tensor.storage()),
    }
}

/// A CPU tensor of f32 values.
pub(crate) fn flex_from_f32(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// A CPU tensor of words, bit-cast to i32.
pub(crate) fn flex_from_u32(words: Vec<u32>, shape: impl Into<Shape>) -> FlexTensor {
    let words: Vec<i32> = bytemuck::cast_vec(words);
    FlexTensor::from_data(TensorData::new(words, shape.into()))
}

/// Runs `kernel` on raw words, for tests: `inputs`, then outputs of `out_lens` words each.
///
/// Every output buffer is longer than asked for and filled with a sentinel, because the runtime
/// compiles shaders without bounds checks.
///
/// # Panics
///
/// If the kernel writes past the end of an output, or the device fails.
#[doc(hidden)]
pub fn run_raw<K: Kernel>(
    client: &Client,
    kernel: K,
    inputs: &[&[u32]],
    out_lens: &[usize],
    params: K::Params,
    grid: [u32; 3],
) -> Vec<Vec<u32>> {
    const SENTINEL: u32 = 0xDEAD_BEEF;
    const GUARD: usize = 4096;

    let upload = |words: &[u32]| client.create_from_slice(bytemuck::cast_slice(words));
    let outputs: Vec<Handle> =
        out_lens.iter().map(|len| upload(&vec![SENTINEL; len + GUARD])).collect();
    let inputs: Vec<Handle> = inputs.iter().map(|words| upload(words)).collect();
    dispatch(client, kernel, inputs.into_iter(), outputs.clone().into_iter(), params, grid);
    outputs
        .into_iter()
        .zip(out_lens)
        .map(|(output, &len)| {
            let bytes = client.read_one(output).expect("the device failed");
            let mut words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
            let touched = words[len..].iter().position(|&word| word != SENTINEL);
            assert_eq!(touched, None, "{} wrote past the end of an output", K::NAME);
            words.truncate(len);
            words
        })
        .collect()
}

/// The client of a wgpu device, for [`run_raw`].
///
/// # Panics
///
/// On the CPU device, which has none.
#[doc(hidden)]
pub fn client_of(device: &Device) -> Client {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => device.client(),
        other => panic!("{other:?} runs no shaders"),
    }
}
