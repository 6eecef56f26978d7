//! The convolution as an operation of the backends.

use super::{Conv3d, Params, forms, product};
use crate::kernels::launch::{contiguous_f32, empty_like, flex_from_f32};
use crate::kernels::rearrange;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Flex, FloatDType, Shape, backend_extension};
use burn_cubecl::CubeBackend;

#[backend_extension(Cube, Flex, Autodiff)]
pub(in crate::kernels) trait Conv3dOp: Backend {
    fn conv3d(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self>;

    /// The convolution added to `onto`, whose memory the result takes where nobody else has it.
    fn conv3d_onto(
        onto: FloatTensor<Self>,
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self> {
        let y = <Self as Conv3dOp>::conv3d(x, history, w, bias, kernel, params);
        Self::float_add(onto, y)
    }
}

impl Conv3dOp for CubeBackend {
    fn conv3d(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, history, bias] = [x, history, bias].map(contiguous_f32);
        let w = rearrange::contiguous(w);
        let y = empty_like(&x, Shape::new(params.out_shape()), DType::F32);
        forms::run(kernel, &[&x, &history, &w, &bias], &y, params);
        y
    }

    fn conv3d_onto(
        onto: FloatTensor<Self>,
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self> {
        let [y, x, history, bias] = [onto, x, history, bias].map(contiguous_f32);
        let w = rearrange::contiguous(w);
        let y = if y.can_mut() { y } else { y.copy() };
        let params = Params { accumulate: 1, ..params };
        forms::run(kernel, &[&x, &history, &w, &bias], &y, params);
        y
    }
}

impl Conv3dOp for Flex {
    fn conv3d(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self> {
        let is_half = w.dtype() == DType::F16;
        let [x, history] = [x, history].map(|x| if is_half { rounded_to_half(x) } else { x });
        let w = Self::float_cast(w, FloatDType::F32);
        let tensors = [x, history, w, bias].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(|tensor| tensor.storage::<f32>());
        flex_from_f32(product::forward(kernel, values, &params), params.out_shape())
    }
}

/// `x` as the shaders round it on the way to f16 factors.
fn rounded_to_half(x: FlexTensor) -> FlexTensor {
    Flex::float_cast(Flex::float_cast(x, FloatDType::F16), FloatDType::F32)
}
