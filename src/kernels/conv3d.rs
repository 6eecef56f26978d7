//! `shaders/conv3d.wgsl` — 3-D convolution with a history in time and an upsampled read in space.
//!
//! The floor is arithmetic. On lavapipe (Mesa 25.0.7, LLVM 15, 256 bits, one AMD EPYC core) a
//! vector of 8 products and sums takes 0.4 ns, 42 GFLOP/s; a load takes 5 ns for 8 lanes, whether
//! these read one place or eight, from workgroup memory or any other, and a barrier 27 ns. A
//! 3×3×3 convolution of 96 channels runs at 27 GFLOP per second of CPU time, four times what four
//! separate pixels and 16 channels per invocation reached: 7. What made the difference: handing
//! weights round in the subgroup (1.9×), reading a row of the window once for its three taps, and
//! adding these up before they reach a sum, which lies in memory (1.8×); blocks of 16×8, 32×8, 24×8
//! and 16×12 are alike, 8×8 and 16×4 a quarter slower. Loops that the driver does not unroll cost
//! 9×. Without subgroups it reaches 6, the form in tiles 3 to 4.
//!
//! In turns with Burn's on the same frames (`examples/conv_speed.rs`): 32, its conv3d 3.1, its
//! matrix product of equal arithmetic 5.3. A whole decode runs at 29 to 33
//! (`examples/vae_decode.rs`).

use super::launch::{linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel, Tier};
use burn::backend::Dispatch;
use burn::tensor::Tensor;

mod autodiff;
mod forms;
mod op;
mod padded;
mod product;
mod twin;
mod windows;

pub(super) use forms::Work;
use op::Conv3dOp;
pub(super) use product::{backward_input, backward_weight};
pub use twin::reference;
pub(super) use twin::{for_each_term, joined_frames};

/// Pixels an invocation of the row form computes.
const PIXELS: u32 = 8;

/// A convolution's window, and how its weight is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3d {
    /// Window in time, height and width.
    pub window: [u32; 3],
    /// Neighbouring output channels in the packed weight: 4 or a multiple of 8.
    pub out_block: u32,
}

impl Conv3d {
    /// The layout for a layer: few output channels do not pay for a wide block, whose code takes
    /// software adapters three times as long to compile.
    pub fn new(window: [usize; 3], out_channels: usize) -> Self {
        Self { window: window.map(u32_from), out_block: if out_channels <= 32 { 4 } else { 16 } }
    }

    /// Every one that a layer may ask for.
    pub fn all() -> Vec<Self> {
        let windows = [[1, 1, 1], [3, 1, 1], [1, 3, 3], [3, 3, 3]];
        let both = |window| [4, 16].map(|out_block| Self { window, out_block });
        windows.into_iter().flat_map(both).collect()
    }

    /// What all shaders of a convolution are told.
    pub(super) fn constants(&self) -> Vec<Const> {
        let [kernel_t, kernel_h, kernel_w] = self.window;
        vec![
            Const::U32("KERNEL_T", kernel_t),
            Const::U32("KERNEL_H", kernel_h),
            Const::U32("KERNEL_W", kernel_w),
            Const::U32("OUT_BLOCK", self.out_block),
        ]
    }

    /// Places of the window.
    pub(super) fn taps(&self) -> usize {
        self.size().iter().product()
    }

    /// The window as sizes.
    fn size(&self) -> [usize; 3] {
        self.window.map(|size| size as usize)
    }
}

/// The kernel that keeps rows of pixels in registers, for renderers on a CPU, which compile it once
/// for windows of any length in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3dRows {
    /// Window in height and width.
    pub window: [u32; 2],
    /// Neighbouring output channels in the packed weight.
    pub out_block: u32,
    /// Whether neighbouring pixels share columns: `stride_w` is 1 and the window wider than that.
    pub adjacent: bool,
    /// Whether lanes share the weights that they load: asks for subgroups of at least 8.
    pub shared_weights: bool,
}

impl Conv3dRows {
    /// Workgroups of a whole convolution, and the multiplications and additions of each.
    fn work(&self, params: &Params) -> Work {
        let strips = params.out_width.div_ceil(PIXELS) as usize * params.out_height as usize;
        let blocks = params.out_channels.div_ceil(self.out_block) as usize;
        let tiles = strips.div_ceil(self.workgroup_size() as usize);
        let outputs = self.out_block * PIXELS * self.workgroup_size();
        let conv = Conv3d {
            window: [params.kernel_t, self.window[0], self.window[1]],
            out_block: self.out_block,
        };
        Work {
            workgroups: blocks * tiles * params.out_frames as usize,
            ops: conv.ops_per_output(params) * u64::from(outputs),
        }
    }

    /// The grid that computes everything at once.
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        linear_grid(self.work(params).workgroups)
    }
}

params! {
    pub struct Params {
        /// Channels of `x`.
        pub in_channels: u32,
        /// Frames of `x`.
        pub in_frames: u32,
        /// Rows of a frame of `x`.
        pub in_height: u32,
        /// Columns of a frame of `x`.
        pub in_width: u32,
        /// Frames of `history`.
        pub history_frames: u32,
        /// Channels of `y`.
        pub out_channels: u32,
        /// Frames of `y`.
        pub out_frames: u32,
        /// Rows of a frame of `y`.
        pub out_height: u32,
        /// Columns of a frame of `y`.
        pub out_width: u32,
        /// Input frames from one output frame to the next.
        pub stride_t: u32,
        /// (Upsampled) input rows from one output row to the next.
        pub stride_h: u32,
        /// (Upsampled) input columns from one output column to the next.
        pub stride_w: u32,
        /// Frames the first window reaches back before `x`: history, and zeros before that.
        pub pad_t: u32,
        /// Zero rows above the first.
        pub pad_h: u32,
        /// Zero columns left of the first.
        pub pad_w: u32,
        /// 1 to read `x` as if each pixel were 2×2 pixels, else 0.
        pub upsample_shift: u32,
        /// Window in time.
        pub kernel_t: u32,
        /// 1 to add to what the result holds, else 0.
        pub accumulate: u32,
        /// Workgroups of the dispatches before this one.
        pub first_workgroup: u32,
        /// The same, and those of this one: `u32::MAX` for all there are.
        pub end_workgroup: u32,
    }
}

impl Params {
    /// Frames of `history` and `x`.
    pub(super) fn source_frames(&self) -> usize {
        self.history_frames as usize + self.in_frames as usize
    }

    /// Pixels of a frame of `history` and `x`.
    pub(super) fn in_pixels(&self) -> usize {
        self.in_height as usize * self.in_width as usize
    }

    /// Shape of `y`.
    pub(super) fn out_shape(&self) -> [usize; 4] {
        [self.out_channels, self.out_frames, self.out_height, self.out_width]
            .map(|size| size as usize)
    }

    fn strides(&self) -> [usize; 3] {
        [self.stride_t, self.stride_h, self.stride_w].map(|step| step as usize)
    }
}

impl Kernel for Conv3dRows {
    const NAME: &'static str = "conv3d";
    const SOURCE: &'static str = include_str!("../../shaders/conv3d.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let forms = |conv: Conv3d| {
            let (window, out_block) = ([conv.window[1], conv.window[2]], conv.out_block);
            [(true, false), (true, true), (false, false), (false, true)]
                .map(|(adjacent, shared_weights)| Self {
                    window,
                    out_block,
                    adjacent,
                    shared_weights,
                })
                .into_iter()
                .filter(|kernel| !kernel.adjacent || kernel.window[1] > 1)
        };
        let convs = Conv3d::all().into_iter().filter(|conv| conv.window[0] == 1);
        convs.flat_map(forms).collect()
    }

    fn tier(&self) -> Tier {
        if self.shared_weights { Tier::Subgroups } else { Tier::Core }
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        let mut constants = vec![
            Const::U32("KERNEL_H", self.window[0]),
            Const::U32("KERNEL_W", self.window[1]),
            Const::U32("OUT_BLOCK", self.out_block),
            Const::Bool("ADJACENT", self.adjacent),
        ];
        if self.shared_weights {
            constants.push(Const::Import("conv3d_weights", "conv3d_weights_shared"));
        }
        constants
    }
}

/// Weights as the kernel reads them, `[blocks, taps, in_channels, out_block]`, from
/// `[out_channels, in_channels, taps]`; missing output channels of the last block are zero.
///
/// # Panics
///
/// If the length of `weight` is not a multiple of `in_channels` times the taps.
pub fn pack_weight(kernel: Conv3d, weight: &[f32], in_channels: usize) -> Vec<f32> {
    let (taps, block) = (kernel.taps(), kernel.out_block as usize);
    let filter = in_channels * taps;
    assert!(weight.len().is_multiple_of(filter), "{} values, {filter} a filter", weight.len());
    let mut packed = vec![0.0; (weight.len() / filter).next_multiple_of(block) * filter];
    for (i, &value) in weight.iter().enumerate() {
        let (out_channel, in_channel, tap) = (i / filter, i / taps % in_channels, i % taps);
        let row = (out_channel / block * taps + tap) * in_channels + in_channel;
        packed[row * block + out_channel % block] = value;
    }
    packed
}

/// `y [out_channels, out_frames, out_height, out_width]` of `x [in_channels, in_frames, in_height,
/// in_width]`, `history [in_channels, history_frames, in_height, in_width]`, weights `w` from
/// [`pack_weight`] and `bias [out_channels]`, added to `onto` if there is one.
///
/// `history` must hold at least one value even where `history_frames` is 0: it is always bound.
/// `accumulate` and the workgroups of `params` are not looked at. All are f32, but `w` may be f16:
/// then `x` and `history` are rounded to f16 on the way, products are summed in f32, and there
/// are no gradients.
///
/// # Panics
///
/// If a tensor has not the size that `params` says.
pub fn conv3d(
    kernel: Conv3d,
    x: Tensor<4>,
    history: Tensor<4>,
    w: Tensor<1>,
    bias: Tensor<1>,
    onto: Option<Tensor<4>>,
    params: Params,
) -> Tensor<4> {
    let [channels, frames] = [params.in_channels, params.in_frames].map(|n| n as usize);
    let [height, width] = [params.in_height, params.in_width].map(|n| n as usize);
    assert_eq!(x.dims(), [channels, frames, height, width], "conv3d: x against {params:?}");
    if params.history_frames > 0 {
        let expected = [channels, params.history_frames as usize, height, width];
        assert_eq!(history.dims(), expected, "conv3d: history against {params:?}");
    }
    assert_eq!(params.kernel_t, kernel.window[0], "conv3d: window in time of kernel and params");
    let out_channels = params.out_channels as usize;
    let filters = out_channels.next_multiple_of(kernel.out_block as usize);
    assert_eq!(w.dims(), [filters * channels * kernel.taps()], "conv3d: w against {params:?}");
    assert_eq!(bias.dims(), [out_channels], "conv3d: bias against {params:?}");
    let (x, history) = (x.into_dispatch(), history.into_dispatch());
    let (w, bias) = (w.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(match onto {
        None => Dispatch::conv3d(x, history, w, bias, kernel, Params { accumulate: 0, ..params }),
        Some(onto) => {
            assert_eq!(onto.dims(), params.out_shape(), "conv3d: onto against {params:?}");
            Dispatch::conv3d_onto(onto.into_dispatch(), x, history, w, bias, kernel, params)
        }
    })
}
