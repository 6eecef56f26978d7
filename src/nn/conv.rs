//! 3-D convolution of one video, `[channels, frames, height, width]`, with a history in time.

use super::{WeightError, Weights};
use crate::kernels::conv3d::{self, Params};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// What a convolution computes, but for its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Window in time, height and width.
    pub window: [usize; 3],
    /// Step in time, height and width.
    pub stride: [usize; 3],
    /// Frames in front (history, and zeros before it), zero rows above, zero columns left.
    pub pad_before: [usize; 3],
    /// Zero rows below, zero columns right.
    pub pad_after: [usize; 2],
    /// Whether the input is read as if each pixel were 2×2 pixels.
    pub upsample: bool,
}

impl ConvShape {
    /// A causal convolution that keeps the number of frames and, for odd windows, their size.
    pub fn same(in_channels: usize, out_channels: usize, window: [usize; 3]) -> Self {
        Self {
            in_channels,
            out_channels,
            window,
            stride: [1, 1, 1],
            pad_before: [window[0] - 1, window[1] / 2, window[2] / 2],
            pad_after: [window[1] / 2, window[2] / 2],
            upsample: false,
        }
    }

    /// Size of the output, `[frames, height, width]`, of an input of that size.
    ///
    /// # Panics
    ///
    /// If the input is smaller than the window.
    pub fn out_size(&self, [frames, height, width]: [usize; 3]) -> [usize; 3] {
        let factor = if self.upsample { 2 } else { 1 };
        let [after_h, after_w] = self.pad_after;
        let padded = [
            frames + self.pad_before[0],
            height * factor + self.pad_before[1] + after_h,
            width * factor + self.pad_before[2] + after_w,
        ];
        std::array::from_fn(|axis| {
            let (size, window) = (padded[axis], self.window[axis]);
            assert!(size >= window, "Conv3d: {size} padded values on axis {axis} for {self:?}");
            (size - window) / self.stride[axis] + 1
        })
    }

    /// Shape of the weight: `[out_channels, in_channels, time, height, width]`.
    pub fn weight_shape(&self) -> [usize; 5] {
        let [t, h, w] = self.window;
        [self.out_channels, self.in_channels, t, h, w]
    }
}

/// How precisely convolutions multiply; sums and what is stored between layers are 32-bit floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvPrecision {
    /// 32-bit floats.
    #[default]
    Exact,
    /// Weights and inputs rounded to 16-bit floats: on matrix units where there are any.
    F16,
}

impl ConvPrecision {
    /// The type of the weights.
    pub fn dtype(self) -> DType {
        match self {
            Self::Exact => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}

/// A 3-D convolution with a bias.
#[derive(Clone, Debug)]
pub struct Conv3d {
    shape: ConvShape,
    kernel: conv3d::Conv3d,
    /// As [`conv3d::pack_weight`] lays it out, f32 or f16.
    weight: Tensor<1>,
    bias: Tensor<1>,
    /// Bound where a call has no history.
    no_history: Tensor<4>,
}

impl Conv3d {
    /// A layer of `weight`, row-major as [`ConvShape::weight_shape`], and `bias [out_channels]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit the shape.
    pub fn new(shape: ConvShape, weight: &[f32], bias: Vec<f32>, device: &Device) -> Self {
        let expected: usize = shape.weight_shape().iter().product();
        assert_eq!(weight.len(), expected, "Conv3d: weight of {shape:?}");
        assert_eq!(bias.len(), shape.out_channels, "Conv3d: bias of {shape:?}");
        let kernel = conv3d::Conv3d::new(shape.window, shape.out_channels);
        let upload = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_data(TensorData::new(values, [len]), device)
        };
        Self {
            shape,
            kernel,
            weight: upload(conv3d::pack_weight(kernel, weight, shape.in_channels)),
            bias: upload(bias),
            no_history: Tensor::zeros([1, 1, 1, 1], device),
        }
    }

    /// A layer of tensors that gradients flow back to: `weight`, flat and row-major as
    /// [`ConvShape::weight_shape`], and `bias [out_channels]`, on one device.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit the shape.
    pub fn from_tensor(shape: ConvShape, weight: Tensor<1>, bias: Tensor<1>) -> Self {
        let expected: usize = shape.weight_shape().iter().product();
        assert_eq!(weight.dims(), [expected], "Conv3d: weight of {shape:?}");
        assert_eq!(bias.dims(), [shape.out_channels], "Conv3d: bias of {shape:?}");
        let kernel = conv3d::Conv3d::new(shape.window, shape.out_channels);
        let no_history = Tensor::zeros([1, 1, 1, 1], &weight.device());
        let weight = packed(shape, kernel.out_block as usize, weight);
        Self { shape, kernel, weight, bias, no_history }
    }

    /// The layer `name.weight`, `name.bias` of a checkpoint.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or has another shape.
    pub fn load(weights: &Weights<'_>, name: &str, shape: ConvShape) -> Result<Self, WeightError> {
        Self::load_as(weights, name, shape, &shape.weight_shape())
    }

    /// As [`Conv3d::load`] for a two-dimensional convolution, whose weight has no time axis.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or has another shape.
    ///
    /// # Panics
    ///
    /// If the window is longer than one frame.
    pub fn load_2d(
        weights: &Weights<'_>,
        name: &str,
        shape: ConvShape,
    ) -> Result<Self, WeightError> {
        let [out_channels, in_channels, frames, height, width] = shape.weight_shape();
        assert_eq!(frames, 1, "Conv3d: {shape:?} is not two-dimensional");
        Self::load_as(weights, name, shape, &[out_channels, in_channels, height, width])
    }

    fn load_as(
        weights: &Weights<'_>,
        name: &str,
        shape: ConvShape,
        stored: &[usize],
    ) -> Result<Self, WeightError> {
        let weight = weights.tensor_of(&format!("{name}.weight"), stored)?;
        let bias = weights.tensor_of(&format!("{name}.bias"), &[shape.out_channels])?;
        Ok(Self::from_tensor(shape, weight, bias).with_precision(weights.conv_precision()))
    }

    /// The same in another precision; [`ConvPrecision::F16`] is for layers without gradients.
    #[must_use]
    pub fn with_precision(self, precision: ConvPrecision) -> Self {
        match precision {
            ConvPrecision::Exact => self,
            ConvPrecision::F16 => Self { weight: self.weight.cast(DType::F16), ..self },
        }
    }

    /// The convolution of `x [in_channels, frames, height, width]`.
    ///
    /// `history [in_channels, any number of frames, height, width]` holds the frames before `x`;
    /// the layer reaches back `pad_before[0]` frames and takes those that are missing for zero.
    ///
    /// # Panics
    ///
    /// If the channels or the size of a frame do not fit.
    pub fn forward(&self, x: Tensor<4>, history: Option<Tensor<4>>) -> Tensor<4> {
        self.compute(x, history, None)
    }

    /// `onto` plus [`Conv3d::forward`], in the memory of `onto` if nobody else holds that.
    ///
    /// # Panics
    ///
    /// As [`Conv3d::forward`], and if `onto` has not the shape of the result.
    pub fn forward_onto(
        &self,
        onto: Tensor<4>,
        x: Tensor<4>,
        history: Option<Tensor<4>>,
    ) -> Tensor<4> {
        self.compute(x, history, Some(onto))
    }

    fn compute(
        &self,
        x: Tensor<4>,
        history: Option<Tensor<4>>,
        onto: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let [_, frames, height, width] = x.dims();
        let out = self.shape.out_size([frames, height, width]);
        let as_u32 = |size: usize| u32::try_from(size).expect("a tensor axis below 2^32");
        let [out_frames, out_height, out_width] = out.map(as_u32);
        let [stride_t, stride_h, stride_w] = self.shape.stride.map(as_u32);
        let [pad_t, pad_h, pad_w] = self.shape.pad_before.map(as_u32);
        let params = Params {
            in_channels: as_u32(self.shape.in_channels),
            in_frames: as_u32(frames),
            in_height: as_u32(height),
            in_width: as_u32(width),
            history_frames: history.as_ref().map_or(0, |history| as_u32(history.dims()[1])),
            out_channels: as_u32(self.shape.out_channels),
            out_frames,
            out_height,
            out_width,
            stride_t,
            stride_h,
            stride_w,
            pad_t,
            pad_h,
            pad_w,
            upsample_shift: u32::from(self.shape.upsample),
            kernel_t: self.kernel.window[0],
            accumulate: 0,
            first_workgroup: 0,
            end_workgroup: u32::MAX,
        };
        let history = history.unwrap_or_else(|| self.no_history.clone());
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        conv3d::conv3d(self.kernel, x, history, weight, bias, onto, params)
    }
}

/// What [`conv3d::pack_weight`] gives for blocks of `block` output channels, as tensor operations.
fn packed(shape: ConvShape, block: usize, weight: Tensor<1>) -> Tensor<1> {
    let [out_channels, in_channels, ..] = shape.weight_shape();
    let taps = shape.window.iter().product();
    let mut filters = weight.reshape([out_channels, in_channels, taps]);
    let missing = out_channels.next_multiple_of(block) - out_channels;
    if missing > 0 {
        let zeros = Tensor::zeros([missing, in_channels, taps], &filters.device());
        filters = Tensor::cat(vec![filters, zeros], 0);
    }
    let blocks = (out_channels + missing) / block;
    filters
        .reshape([blocks, block, in_channels, taps])
        .permute([0, 3, 2, 1])
        .reshape([blocks * block * in_channels * taps])
}
