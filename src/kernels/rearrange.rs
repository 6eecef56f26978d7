//! `shaders/rearrange.wgsl` — a view becomes values in a row, or a part of a larger tensor.
//!
//! Burn compiles a kernel for every kind of view that it copies, some of them for seconds on a
//! software adapter. This one serves all.
//!
//! Floor: a read and a write of every value, at the copy bandwidth; views that change the fastest
//! axis read or write in short pieces and stay below it.

use super::launch::{linear_grid, u32_from};
use super::params::params;
use super::{Kernel, launch};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, DispatchDevice, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// Axes of a view.
const AXES: usize = 6;

/// The kernel; every view takes the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rearrange;

params! {
    pub struct Params {
        /// Elements.
        pub count: u32,
        /// Where they begin in `y`.
        pub start: u32,
        /// Size of axis 1.
        pub size_1: u32,
        /// Size of axis 2.
        pub size_2: u32,
        /// Size of axis 3.
        pub size_3: u32,
        /// Size of axis 4.
        pub size_4: u32,
        /// Size of axis 5.
        pub size_5: u32,
        /// Elements of `x` from one index of axis 0 to the next.
        pub from_0: u32,
        /// Of axis 1.
        pub from_1: u32,
        /// Of axis 2.
        pub from_2: u32,
        /// Of axis 3.
        pub from_3: u32,
        /// Of axis 4.
        pub from_4: u32,
        /// Of axis 5.
        pub from_5: u32,
        /// Elements of `y` from one index of axis 0 to the next.
        pub to_0: u32,
        /// Of axis 1.
        pub to_1: u32,
        /// Of axis 2.
        pub to_2: u32,
        /// Of axis 3.
        pub to_3: u32,
        /// Of axis 4.
        pub to_4: u32,
        /// Of axis 5.
        pub to_5: u32,
    }
}

impl Params {
    /// A view of `sizes` that lies `from` apart in `x` and shall lie `to` apart in `y`, from element
    /// `start` on.
    ///
    /// # Panics
    ///
    /// If there are more than six axes or the numbers of sizes and steps differ.
    pub fn new(sizes: &[usize], from: &[usize], to: &[usize], start: usize) -> Self {
        let six = |values: &[usize], other: usize| -> [u32; AXES] {
            assert!(values.len() == sizes.len() && sizes.len() <= AXES, "a view of {sizes:?}");
            let mut six = [u32_from(other); AXES];
            for (to, value) in six[AXES - values.len()..].iter_mut().zip(values) {
                *to = u32_from(*value);
            }
            six
        };
        let [_, size_1, size_2, size_3, size_4, size_5] = six(sizes, 1);
        let [from_0, from_1, from_2, from_3, from_4, from_5] = six(from, 0);
        let [to_0, to_1, to_2, to_3, to_4, to_5] = six(to, 0);
        let (count, start) = (u32_from(sizes.iter().product()), u32_from(start));
        Self {
            count,
            start,
            size_1,
            size_2,
            size_3,
            size_4,
            size_5,
            from_0,
            from_1,
            from_2,
            from_3,
            from_4,
            from_5,
            to_0,
            to_1,
            to_2,
            to_3,
            to_4,
            to_5,
        }
    }

    /// The grid that copies everything.
    pub fn grid(&self) -> [u32; 3] {
        linear_grid(self.count.div_ceil(Rearrange.workgroup_size()) as usize)
    }
}

impl Kernel for Rearrange {
    const NAME: &'static str = "rearrange";
    const SOURCE: &'static str = include_str!("../../shaders/rearrange.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        vec![Self]
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<super::Const> {
        Vec::new()
    }
}

/// Plain-Rust twin of the shader.
pub fn reference(x: &[u32], y: &mut [u32], params: Params) {
    let sizes = [params.size_1, params.size_2, params.size_3, params.size_4, params.size_5];
    let from =
        [params.from_0, params.from_1, params.from_2, params.from_3, params.from_4, params.from_5];
    let to = [params.to_0, params.to_1, params.to_2, params.to_3, params.to_4, params.to_5];
    for element in 0..params.count {
        let (mut rest, mut source, mut target) = (element, 0, params.start);
        for axis in (0..AXES).rev() {
            let index = if axis == 0 { rest } else { rest % sizes[axis - 1] };
            rest = if axis == 0 { 0 } else { rest / sizes[axis - 1] };
            source += index * from[axis];
            target += index * to[axis];
        }
        y[target as usize] = x[source as usize];
    }
}

/// Elements from one index of an axis to the next where values of `shape` lie in a row.
fn row_major(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

/// Sizes and steps of a view with as few axes as it takes: neighbors that lie in a row are one.
fn merged(sizes: &[usize], steps: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut merged_sizes, mut merged_steps) = (Vec::new(), Vec::<usize>::new());
    for (&size, &step) in sizes.iter().zip(steps).filter(|(size, _)| **size != 1) {
        match (merged_sizes.last_mut(), merged_steps.last_mut()) {
            (Some(last), Some(last_step)) if *last_step == step * size => {
                *last *= size;
                *last_step = step;
            }
            _ => {
                merged_sizes.push(size);
                merged_steps.push(step);
            }
        }
    }
    (merged_sizes, merged_steps)
}

/// `tensor` in row-major order.
pub(super) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    let shape = tensor.meta.shape().clone();
    let (sizes, from) = merged(&shape, tensor.meta.strides());
    let is_taken = tensor.dtype.size() == 4 && sizes.len() <= AXES && shape.num_elements() > 0;
    if !is_taken || tensor.is_contiguous() {
        return into_contiguous(tensor);
    }
    let y = launch::empty_like(&tensor, shape, tensor.dtype);
    let params = Params::new(&sizes, &from, &row_major(&sizes), 0);
    launch::launch(Rearrange, &[&tensor], &[&y], params, params.grid());
    y
}

#[backend_extension(Cube)]
trait RearrangeOp: Backend {
    fn in_a_row(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x` written into a new tensor of which it is the part that begins at `start` along `axis`.
    fn part_of_new(x: FloatTensor<Self>, shape: Shape, axis: usize) -> FloatTensor<Self>;

    /// `x` written into `y`, which nobody else holds.
    fn written(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        axis: usize,
        start: usize,
    ) -> FloatTensor<Self>;
}

impl RearrangeOp for CubeBackend {
    fn in_a_row(x: FloatTensor<Self>) -> FloatTensor<Self> {
        contiguous(x)
    }

    fn part_of_new(x: FloatTensor<Self>, shape: Shape, axis: usize) -> FloatTensor<Self> {
        let y = launch::empty_like(&x, shape, x.dtype);
        Self::written(y, x, axis, 0)
    }

    fn written(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        axis: usize,
        start: usize,
    ) -> FloatTensor<Self> {
        let to = row_major(y.meta.shape());
        let params = Params::new(x.meta.shape(), x.meta.strides(), &to, start * to[axis]);
        launch::launch(Rearrange, &[&x], &[&y], params, params.grid());
        y
    }
}

/// Whether the kernel takes it: f32 on a wgpu device, without gradients.
fn is_taken<const D: usize>(x: &Tensor<D>) -> bool {
    let on_wgpu = matches!(x.device().as_dispatch(), DispatchDevice::Cube(_));
    on_wgpu && !x.is_autodiff() && x.dtype() == DType::F32
}

/// `x` with its values in a row, whatever view it is.
///
/// Operations that change the shape copy a view by a kernel of Burn's; after this they do not.
/// Where gradients are tracked, `x` itself.
pub fn in_a_row<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_taken(&x) {
        return x;
    }
    Tensor::from_dispatch(Dispatch::in_a_row(x.into_dispatch()))
}

/// `parts` one after the other along `axis`, as [`Tensor::cat`].
///
/// # Panics
///
/// If there is none, or sizes differ along another axis.
pub fn concatenate<const D: usize>(mut parts: Vec<Tensor<D>>, axis: usize) -> Tensor<D> {
    let head = parts.first().expect("at least one part");
    let (first, device) = (head.dims(), head.device());
    let mut total = 0;
    for part in &parts {
        let mut dims = part.dims();
        total += dims[axis];
        dims[axis] = first[axis];
        assert_eq!(dims, first, "concatenate: sizes beside axis {axis}");
    }
    if parts.len() == 1 {
        return parts.remove(0);
    }
    if D > AXES || !parts.iter().all(is_taken) {
        return Tensor::cat(parts, axis);
    }
    parts.retain(|part| part.shape().num_elements() > 0);
    let mut shape = first;
    shape[axis] = total;
    if parts.is_empty() {
        return Tensor::empty(shape, &device);
    }
    let mut start = 0;
    let mut y: Option<Tensor<D>> = None;
    for part in parts {
        let len = part.dims()[axis];
        let part = part.into_dispatch();
        let written = match y {
            None => Dispatch::part_of_new(part, Shape::from(shape.to_vec()), axis),
            Some(y) => Dispatch::written(y.into_dispatch(), part, axis, start),
        };
        y = Some(Tensor::from_dispatch(written));
        start += len;
    }
    y.expect("at least one part with elements")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_lie_in_a_row_are_merged() {
        let of = |sizes: &[usize], steps: &[usize]| merged(sizes, steps);
        assert_eq!(of(&[2, 3, 4], &[12, 4, 1]), (vec![24], vec![1]));
        assert_eq!(of(&[2, 1, 4], &[1, 9, 2]), (vec![2, 4], vec![1, 2]));
        assert_eq!(of(&[3, 2, 4], &[4, 12, 1]), (vec![3, 2, 4], vec![4, 12, 1]));
        assert_eq!(of(&[5, 2, 2], &[0, 2, 1]), (vec![5, 4], vec![0, 1]));
        assert_eq!(of(&[1, 1], &[1, 1]), (vec![], vec![]));
    }
}
