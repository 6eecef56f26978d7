//! Dispatches of more workgroups than fit along x: the last elements come from the second row.

use crate::common::assert_close;
use crate::{floats, grid_words, run, token_spec, values, weight, words};
use qvgen::kernels::attention::{self, Attention};
use qvgen::kernels::channel_norm::{self, ChannelNorm};
use qvgen::kernels::conv3d::{self, Conv3d, Conv3dRows};
use qvgen::kernels::dequantize_weight::{self, DequantizeWeight};
use qvgen::kernels::group_moments::{self, GroupMoments};
use qvgen::kernels::group_norm::{self, ChunkPlace, GroupNorm};
use qvgen::kernels::qmatvec::{self, QMatvec};
use qvgen::kernels::quantize_tokens::QuantizeTokens;
use qvgen::kernels::quantize_weight::{self, QuantizeWeight};
use qvgen::kernels::rope::{self, Rope};
use qvgen::kernels::{Element, GRID_WIDTH, GRID_WORDS, Kernel, linear_grid, qmatmul_float};
use qvgen::quant::{self, Bits, Calibration, Grid, Scheme, WeightSpec, unpack_rows};

/// Rows of one workgroup each: three more than a row of the grid.
const ROWS: usize = GRID_WIDTH as usize + 3;

/// The grid of `workgroups`, which must be folded.
fn folded(workgroups: usize) -> [u32; 3] {
    let grid = linear_grid(workgroups);
    assert_eq!(grid, [GRID_WIDTH, 2, 1]);
    grid
}

/// Asserts that the last `count` values are equal to a relative 1e-5.
fn assert_ends(what: &str, actual: &[f32], expected: &[f32], count: usize) {
    let end = |values: &[f32]| values[values.len() - count..].to_vec();
    assert_close(what, &end(actual), &end(expected), 1e-5, 1e-6);
}

#[test]
fn quantize_tokens_reaches_the_last_token() {
    let k = 3;
    let spec = token_spec(Bits::B4);
    let x = values(ROWS * k, 5);
    let (kernel, params) = QuantizeTokens::new(spec, Element::F32, ROWS, k);
    let lens = [ROWS * 4, ROWS * GRID_WORDS];
    let outputs = run(kernel, &[words(&x)], &lens, params, folded(ROWS));
    let expected = quant::quantize_tokens(&x, k, spec);
    assert_eq!(outputs[0][(ROWS - 8) * 4..], expected.codes[(ROWS - 8) * 4..]);
    let scales = |grid: &[u32]| -> Vec<f32> {
        grid.chunks(GRID_WORDS).map(|words| f32::from_bits(words[0])).collect()
    };
    assert_ends("scales", &scales(&outputs[1]), &scales(&grid_words(&expected)), 8);
}

#[test]
fn quantize_weight_reaches_the_last_row() {
    let k = 3;
    let (bits, scheme, calibration) = (Bits::B4, Scheme::Asymmetric, Calibration::MinMax);
    let w = values(ROWS * k, 5);
    let params = quantize_weight::Params { n: ROWS as u32, k: k as u32, group_size: k as u32 };
    let kernel = QuantizeWeight { bits, scheme, calibration };
    let lens = [ROWS * 4, ROWS * GRID_WORDS];
    let outputs = run(kernel, &[words(&w)], &lens, params, folded(ROWS));
    let spec = WeightSpec { bits, scheme, group_size: None, calibration };
    let expected = quant::quantize_weight(&w, k, spec);
    assert_eq!(outputs[0][(ROWS - 8) * 4..], expected.codes[(ROWS - 8) * 4..]);
}

#[test]
fn qmatvec_reaches_the_last_row() {
    let (bits, k, n) = (Bits::B4, 32, 2 * ROWS); // two rows a workgroup
    let w = weight(n, k, bits, None);
    let (x, bias) = (values(k, 3), values(n, 9));
    let kernel = QMatvec::plain(bits, 1, true);
    assert_eq!(kernel.grid(n), folded(ROWS));
    let params =
        qmatvec::Params { m: 1, n: n as u32, k: k as u32, group_size: w.group_size as u32 };
    let inputs = [words(&x), &w.codes, &grid_words(&w), words(&bias)];
    let actual = run(kernel, &inputs, &[n], params, folded(ROWS));
    assert_ends("y", floats(&actual[0]), &qmatmul_float::reference(&x, &w, &bias), 8);
}

#[test]
fn dequantize_weight_reaches_the_last_element() {
    let kernel = DequantizeWeight { bits: Bits::B4 };
    let k = GRID_WIDTH * kernel.workgroup_size() + 300;
    let blocks = k.div_ceil(32);
    let codes: Vec<u32> = (0..blocks * 4).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
    let grid = Grid { scale: 0.25, zero_point: 7.5 };
    let params = dequantize_weight::Params { n: 1, k, group_size: k };
    let grid_words = [grid.scale.to_bits(), grid.zero_point.to_bits(), 0];
    let workgroups = k.div_ceil(kernel.workgroup_size()) as usize;
    let actual = run(kernel, &[&codes, &grid_words], &[k as usize], params, folded(workgroups));
    // All codes of the last 320 places, of which the row ends within.
    let last = unpack_rows(Bits::B4, &codes[codes.len() - 40..], 320);
    let inside = 320 - (blocks * 32 - k) as usize;
    let expected: Vec<f32> = last[..inside].iter().map(|&code| grid.value(code)).collect();
    assert_ends("w", floats(&actual[0]), &expected, inside);
}

#[test]
fn rope_reaches_the_last_pair() {
    let pairs = 4;
    let heads = GRID_WIDTH * Rope.workgroup_size() / pairs;
    let params = rope::Params { tokens: 2, heads: heads / 2 + 1, pairs };
    let len = (2 * params.tokens * params.heads * pairs) as usize;
    let (x, cos, sin) = (values(len, 1), values(8, 2), values(8, 3));
    let grid = folded((len / 2).div_ceil(Rope.workgroup_size() as usize));
    let actual = run(Rope, &[words(&x), words(&cos), words(&sin)], &[len], params, grid);
    // The last head belongs to the second token.
    let one = rope::Params { tokens: 1, heads: 1, pairs };
    let expected = rope::reference(&x[len - 8..], &cos[4..], &sin[4..], one);
    assert_ends("y", floats(&actual[0]), &expected, 8);
}

#[test]
fn channel_norm_reaches_the_last_pixel() {
    let kernel = ChannelNorm { silu: false };
    let pixels = GRID_WIDTH * kernel.workgroup_size() + 48;
    let params = channel_norm::Params { channels: 1, pixels };
    let (x, gamma) = (values(pixels as usize, 1), [0.7]);
    let grid = folded(pixels.div_ceil(kernel.workgroup_size()) as usize);
    let inputs = [words(&x), words(&gamma)];
    let actual = run(kernel, &inputs, &[pixels as usize], params, grid);
    assert_ends("y", floats(&actual[0]), &channel_norm::reference(kernel, &x, &gamma, params), 64);
}

#[test]
fn group_moments_reach_the_last_group() {
    let kernel = GroupMoments { combine: false };
    let params = group_moments::Params::new(ROWS, 3, 3);
    let x = values(3 * ROWS, 1);
    let actual = run(kernel, &[words(&x)], &[3 * ROWS], params, folded(ROWS));
    assert_ends("moments", floats(&actual[0]), &group_moments::reference(kernel, &x, params), 24);
}

#[test]
fn group_norm_reaches_the_last_channel() {
    let kernel = GroupNorm { silu: false };
    let (shape, at) = ([ROWS, 1, 1, 2], ChunkPlace { first_frame: 0, frames: 1 });
    let params = group_norm::Params::new(shape, [ROWS, 1, 1, 1], 1, at, 1e-6);
    assert_eq!(kernel.grid(&params), folded(ROWS));
    let (x, factor, offset) = (values(2 * ROWS, 1), values(ROWS, 2), values(ROWS, 3));
    let moments = [2.0, 0.1, 0.5];
    let inputs = [words(&x), words(&moments), words(&factor), words(&offset)];
    let actual = run(kernel, &inputs, &[x.len()], params, kernel.grid(&params));
    let expected = group_norm::reference(kernel, &x, &moments, &factor, &offset, params);
    assert_ends("y", floats(&actual[0]), &expected, 16);
}

#[test]
fn conv3d_reaches_the_last_frame() {
    let conv = Conv3d { window: [1, 1, 1], out_block: 4 };
    let kernel =
        Conv3dRows { window: [1, 1], out_block: 4, adjacent: false, shared_weights: false };
    let frames = ROWS as u32;
    let params = conv3d::Params {
        in_channels: 1,
        in_frames: frames,
        in_height: 1,
        in_width: 1,
        history_frames: 0,
        out_channels: 1,
        out_frames: frames,
        out_height: 1,
        out_width: 1,
        stride_t: 1,
        stride_h: 1,
        stride_w: 1,
        pad_t: 0,
        pad_h: 0,
        pad_w: 0,
        upsample_shift: 0,
        kernel_t: 1,
        accumulate: 0,
        first_workgroup: 0,
        end_workgroup: u32::MAX,
    };
    assert_eq!(kernel.grid(&params), folded(ROWS));
    let x = values(ROWS, 1);
    let w = conv3d::pack_weight(conv, &[3.0], 1);
    let inputs = [words(&x), words(&[0.0]), words(&w), words(&[0.5])];
    let actual = run(kernel, &inputs, &[ROWS], params, kernel.grid(&params));
    let expected: Vec<f32> = x.iter().map(|x| 3.0 * x + 0.5).collect();
    assert_ends("y", floats(&actual[0]), &expected, 8);
}

#[test]
fn attention_reaches_the_last_query_of_the_last_head() {
    let kernel = Attention { head_dim: 1 };
    // One query and key, so that each head is a tile and its result is its value.
    let params = attention::Params { queries: 1, keys: 1, heads: ROWS as u32, scale: 1.0 };
    assert_eq!(kernel.grid(params), folded(ROWS));
    let [q, k, v] = [1, 2, 3].map(|seed| values(ROWS, seed));
    let inputs = [words(&q), words(&k), words(&v)];
    let actual = run(kernel, &inputs, &[ROWS, ROWS], params, kernel.grid(params));
    assert_ends("o", floats(&actual[0]), &v, 8);
}
