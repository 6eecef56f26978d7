use crate::common::{assert_close, devices};
use crate::{floats, half_words, run, runs, values, words};
use burn::tensor::{DType, Device, Tensor, TensorData};
use qvgen::kernels::conv3d::{Conv3d, Conv3dRows, Params, conv3d, pack_weight, reference};
use qvgen::kernels::{Element, Kernel};

/// One call: parameters with the inputs they ask for, the weight as checkpoints store it.
pub(crate) struct Case {
    pub(crate) params: Params,
    pub(crate) x: Vec<f32>,
    pub(crate) history: Vec<f32>,
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Case {
    pub(crate) fn new(kernel: Conv3d, params: Params) -> Self {
        let frame = params.in_channels * params.in_height * params.in_width;
        let taps: u32 = kernel.window.iter().product();
        Self {
            params,
            x: values((frame * params.in_frames) as usize, 1),
            history: values((frame * params.history_frames).max(1) as usize, 2),
            weight: values((params.out_channels * params.in_channels * taps) as usize, 3),
            bias: values(params.out_channels as usize, 4),
        }
    }

    pub(crate) fn out_len(&self) -> usize {
        let Params { out_channels, out_frames, out_height, out_width, .. } = self.params;
        (out_channels * out_frames * out_height * out_width) as usize
    }
}

/// Parameters of a convolution that keeps the frame size: zeros all around, history in front.
pub(crate) fn same(
    window: [u32; 3],
    [c, t, h, w]: [u32; 4],
    out_channels: u32,
    history: u32,
) -> Params {
    Params {
        in_channels: c,
        in_frames: t,
        in_height: h,
        in_width: w,
        history_frames: history,
        out_channels,
        out_frames: t,
        out_height: h,
        out_width: w,
        stride_t: 1,
        stride_h: 1,
        stride_w: 1,
        pad_t: window[0] - 1,
        pad_h: window[1] / 2,
        pad_w: window[2] / 2,
        upsample_shift: 0,
        kernel_t: window[0],
        accumulate: 0,
        first_workgroup: 0,
        end_workgroup: u32::MAX,
    }
}

/// What the layers ask for and more: no history, part of one, all of it, more than that; upsampled,
/// strided, both; borders that differ; ragged sizes.
pub(crate) fn all_params(window: [u32; 3]) -> Vec<Params> {
    let plain = same(window, [1, 1, 1, 1], 1, 0);
    let ragged = same(window, [5, 2, 7, 9], 18, window[0] - 1);
    let partly = same(window, [17, 3, 4, 5], 3, u32::from(window[0] > 1));
    let several_tiles = same(window, [2, 1, 21, 31], 5, 0);
    let upsampled =
        Params { upsample_shift: 1, out_height: 14, out_width: 18, out_channels: 4, ..ragged };
    let strided = Params { stride_h: 2, stride_w: 2, out_height: 3, out_width: 4, ..ragged };
    let halved = Params { stride_t: 2, pad_t: 1, in_frames: 4, out_frames: 2, ..ragged };
    let right_bottom = Params { pad_h: 0, pad_w: 0, ..strided };
    let long_history = Params { history_frames: window[0] + 2, ..partly };
    let upsampled_strided =
        Params { out_height: 7, out_width: 9, stride_h: 2, stride_w: 2, ..upsampled };
    let wide_borders = Params { pad_h: 3, pad_w: 0, out_height: 8, out_width: 6, ..ragged };
    vec![
        plain,
        ragged,
        partly,
        several_tiles,
        upsampled,
        strided,
        halved,
        right_bottom,
        long_history,
        upsampled_strided,
        wide_borders,
    ]
}

/// One product of the definition: `y[output] += weight[weight] · input`.
pub(crate) struct Product {
    /// Into x, or into the history.
    pub(crate) input: Result<usize, usize>,
    /// Into the weight as checkpoints store it.
    pub(crate) weight: usize,
    pub(crate) output: usize,
}

/// Calls `visit` with every product of the definition that does not read a zero.
pub(crate) fn for_each_product(kernel: Conv3d, p: Params, mut visit: impl FnMut(Product)) {
    let [kt, kh, kw] = kernel.window;
    let limits = [p.in_height << p.upsample_shift, p.in_width << p.upsample_shift];
    let at = |out: u32, stride: u32, tap: u32, pad: u32| -> i64 {
        i64::from(out * stride + tap) - i64::from(pad)
    };
    let pixels = p.out_height * p.out_width;
    for i in 0..p.out_channels * p.out_frames * pixels {
        let (o, t, row, column) = (
            i / (p.out_frames * pixels),
            i / pixels % p.out_frames,
            i / p.out_width % p.out_height,
            i % p.out_width,
        );
        for k in 0..p.in_channels * kt * kh * kw {
            let (c, tap) = (k / (kt * kh * kw), k % (kt * kh * kw));
            let t = at(t, p.stride_t, tap / (kh * kw), p.pad_t);
            let row = at(row, p.stride_h, tap / kw % kh, p.pad_h);
            let column = at(column, p.stride_w, tap % kw, p.pad_w);
            let inside = |v: i64, len: u32| v >= 0 && v < i64::from(len);
            let past = t + i64::from(p.history_frames);
            if past < 0
                || t >= i64::from(p.in_frames)
                || !inside(row, limits[0])
                || !inside(column, limits[1])
            {
                continue;
            }
            let shift = p.upsample_shift;
            let place = |frame: i64, frames: u32| {
                let row = (i64::from(c * frames) + frame) * i64::from(p.in_height) + (row >> shift);
                (row * i64::from(p.in_width) + (column >> shift)) as usize
            };
            let input =
                if t >= 0 { Ok(place(t, p.in_frames)) } else { Err(place(past, p.history_frames)) };
            let weight = (o * p.in_channels * kt * kh * kw + k) as usize;
            visit(Product { input, weight, output: i as usize });
        }
    }
}

/// f64 values as f32.
pub(crate) fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

/// The definition, in f64.
pub(crate) fn definition(kernel: Conv3d, case: &Case) -> Vec<f32> {
    let channel_len = case.out_len() / case.bias.len();
    let mut y: Vec<f64> =
        (0..case.out_len()).map(|i| f64::from(case.bias[i / channel_len])).collect();
    for_each_product(kernel, case.params, |Product { input, weight, output }| {
        let input = input.map_or_else(|past| case.history[past], |i| case.x[i]);
        y[output] += f64::from(case.weight[weight]) * f64::from(input);
    });
    rounded(&y)
}

/// Compares `kernel`, a form of `conv`, with the twin and the definition for what it `fits`; where
/// weights are halves, of factors that halves hold.
pub(crate) fn check_form<K: Kernel<Params = Params>>(
    kernel: K,
    (conv, element): (Conv3d, Element),
    fits: impl Fn(&Params) -> bool,
    grid: impl Fn(&Params) -> [u32; 3],
) {
    for params in all_params(conv.window).into_iter().filter(fits) {
        let mut case = Case::new(conv, params);
        if element == Element::F16 {
            for values in [&mut case.x, &mut case.history, &mut case.weight] {
                *values = half_words(values).1;
            }
        }
        let packed = pack_weight(conv, &case.weight, params.in_channels as usize);
        let expected = reference(conv, &case.x, &case.history, &packed, &case.bias, params);
        let what = format!("{kernel:?} {params:?}");
        assert_close(&what, &expected, &definition(conv, &case), 1e-4, 1e-4);
        let halves = half_words(&packed).0;
        let w = if element == Element::F16 { &halves } else { words(&packed) };
        let inputs = [words(&case.x), words(&case.history), w, words(&case.bias)];
        // A folded grid has workgroups in excess: they must do nothing.
        let [x, y, z] = grid(&params);
        let actual = run(kernel, &inputs, &[case.out_len()], params, [x + 7, y, z]);
        assert_close(&what, floats(&actual[0]), &expected, 1e-4, 1e-4);
    }
}

#[test]
fn conv3d_matches_its_twin_and_the_definition() {
    for kernel in Conv3dRows::all().into_iter().filter(|kernel| runs(*kernel)) {
        let fits = |params: &Params| !kernel.adjacent || params.stride_w == 1;
        for kernel_t in [1, 3] {
            let window = [kernel_t, kernel.window[0], kernel.window[1]];
            let conv = Conv3d { window, out_block: kernel.out_block };
            let form = (conv, Element::F32);
            check_form(kernel, form, fits, |params| kernel.grid(params));
        }
    }
}

#[test]
fn conv3d_agrees_on_all_devices() {
    let kernel = Conv3d::new([3, 3, 3], 6);
    let params = same(kernel.window, [4, 2, 5, 6], 6, 1);
    let case = Case::new(kernel, params);
    let packed = pack_weight(kernel, &case.weight, 4);
    let onto = values(case.out_len(), 6);
    let run = |device: &Device, dtype: DType| {
        let x = Tensor::from_data(TensorData::new(case.x.clone(), [4, 2, 5, 6]), device);
        let history = TensorData::new(case.history.clone(), [4, 1, 5, 6]);
        let w = TensorData::new(packed.clone(), [packed.len()]);
        let w = Tensor::<1>::from_data(w, device).cast(dtype);
        let bias = Tensor::from_data(TensorData::new(case.bias.clone(), [6]), device);
        let history = Tensor::from_data(history, device);
        let onto = Tensor::from_data(TensorData::new(onto.clone(), [6, 2, 5, 6]), device);
        conv3d(kernel, x, history, w, bias, Some(onto), params)
    };
    for dtype in [DType::F32, DType::F16] {
        if !devices().iter().all(|(_, device)| device.supports_dtype(dtype)) {
            continue;
        }
        let [cpu, wgpu] = devices().map(|(name, device)| {
            let y = run(&device, dtype);
            assert_eq!(y.dims(), [6, 2, 5, 6], "{name}");
            y.into_data().try_to_vec::<f32>().unwrap()
        });
        assert_close(&format!("conv3d {dtype:?}"), &wgpu, &cpu, 1e-4, 1e-4);
    }
}

#[test]
fn pack_weight_puts_output_channels_last_and_pads_the_block_with_zeros() {
    let kernel = Conv3d { window: [1, 1, 2], out_block: 4 };
    // Two filters of three input channels and two taps.
    let weight: Vec<f32> = (1..=12).map(|value| value as f32).collect();
    let packed = pack_weight(kernel, &weight, 3);
    assert_eq!(packed.len(), 4 * 3 * 2);
    assert_eq!(packed[..8], [1.0, 7.0, 0.0, 0.0, 3.0, 9.0, 0.0, 0.0]);
    assert_eq!(packed[12..16], [2.0, 8.0, 0.0, 0.0]);
}
