//! Every kernel against its plain-Rust twin: one file per kernel, of the same name.

#[path = "../common/mod.rs"]
mod common;

mod activate;
mod adamw;
mod attention;
mod attention_backward;
mod attention_int8;
mod attention_matrix;
mod attention_patches;
mod attention_rows;
mod ceiling_arithmetic;
mod ceiling_copy;
mod channel_norm;
mod channel_statistics;
mod conv3d;
mod conv3d_backward_input;
mod conv3d_backward_weight;
mod conv3d_gradients;
mod conv3d_matrix;
mod conv3d_tile;
mod cpu;
mod dequantize_weight;
mod epilogue;
mod extremes;
mod fake_quant_linear;
mod fake_quantize_tokens;
mod fake_quantize_tokens_backward;
mod fake_quantize_weight;
mod fake_quantize_weight_backward;
mod folded_grids;
mod group_moments;
mod group_norm;
mod hadamard;
mod head_norm_rope;
mod layer_norm;
mod layer_norm_quantize;
mod log_quantize;
mod matmul;
mod matmul_nt;
mod norm_rope;
mod orthonormalize;
mod qmatmul;
mod qmatmul_float;
mod qmatmul_matrix;
mod qmatmul_registers;
mod qmatmul_split_k;
mod qmatvec;
mod quantize_heads;
mod quantize_tokens;
mod quantize_weight;
mod rearrange;
mod relative_attention;
mod rope;
mod self_test;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::wgpu_device;
use qvgen::kernels::{AdapterFacts, Kernel, Tier, client_of, run_raw};
use qvgen::quant::{Bits, PackedRows, TokenRange, TokenSpec, WeightSpec};
use qvgen::quant::{Calibration, Scheme};
use std::io::Write as _;

/// Deterministic values in `[-1, 1)` that differ by position, so that a wrong index shows.
pub(crate) fn values(len: usize, seed: u32) -> Vec<f32> {
    (0..len)
        .map(|i| {
            let mut x = (i as u32).wrapping_mul(0x9E37_79B9).wrapping_add(seed.wrapping_mul(97));
            x ^= x >> 16;
            x = x.wrapping_mul(0x85EB_CA6B);
            x ^= x >> 13;
            x = x.wrapping_mul(0xC2B2_AE35);
            x ^= x >> 16;
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A matrix of `values` on `device`.
pub(crate) fn matrix(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / columns, columns];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// f32 values as the words of a raw buffer.
pub(crate) fn words(values: &[f32]) -> &[u32] {
    bytemuck::cast_slice(values)
}

/// The words of a raw buffer as f32 values.
pub(crate) fn floats(words: &[u32]) -> &[f32] {
    bytemuck::cast_slice(words)
}

/// f32 values as the words of a raw f16 buffer, and as the values that survive the rounding.
pub(crate) fn half_words(values: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let halves: Vec<half::f16> = values.iter().map(|&value| half::f16::from_f32(value)).collect();
    let rounded = halves.iter().map(|half| half.to_f32()).collect();
    let words = halves
        .chunks(2)
        .map(|pair| {
            let high = pair.get(1).map_or(0, |half| u32::from(half.to_bits()));
            u32::from(pair[0].to_bits()) | high << 16
        })
        .collect();
    (words, rounded)
}

/// Grids of packed rows in device layout.
pub(crate) fn grid_words(rows: &PackedRows) -> Vec<u32> {
    rows.grids
        .iter()
        .zip(&rows.code_sums)
        .flat_map(|(grid, sum)| [grid.scale.to_bits(), grid.zero_point.to_bits(), *sum as u32])
        .collect()
}

/// A weight with QVGen's scheme, or with groups.
pub(crate) fn weight(n: usize, k: usize, bits: Bits, group_size: Option<usize>) -> PackedRows {
    let spec = WeightSpec {
        bits,
        scheme: Scheme::AsymmetricReal,
        group_size,
        calibration: Calibration::MinMax,
    };
    qvgen::quant::quantize_weight(&values(n * k, 11), k, spec)
}

/// Tokens of the usual scheme.
pub(crate) fn token_spec(bits: Bits) -> TokenSpec {
    TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL }
}

/// Whether the default adapter can run `kernel`; what it cannot run is reported, not hidden.
pub(crate) fn runs<K: Kernel>(kernel: K) -> bool {
    let runs = match kernel.tier() {
        Tier::Core => true,
        Tier::Half => wgpu_device().supports_dtype(DType::F16),
        tier => AdapterFacts::of(&wgpu_device()).offers(tier),
    };
    if !runs {
        let _ = writeln!(std::io::stderr(), "{:?} tier missing: {kernel:?} not run", kernel.tier());
    }
    runs
}

/// [`run_raw`] on the default adapter, with inputs longer than the kernel is told.
///
/// Shaders run without bounds checks: what one reads beyond an input is NaN, or a code of all
/// ones, and shows in the result.
pub(crate) fn run<K: Kernel>(
    kernel: K,
    inputs: &[&[u32]],
    out_lens: &[usize],
    params: K::Params,
    grid: [u32; 3],
) -> Vec<Vec<u32>> {
    let poisoned = poisoned(inputs);
    let inputs: Vec<&[u32]> = poisoned.iter().map(Vec::as_slice).collect();
    run_raw(&client_of(&wgpu_device()), kernel, &inputs, out_lens, params, grid)
}

/// `inputs`, each followed by words that are NaN or codes of all ones.
pub(crate) fn poisoned(inputs: &[&[u32]]) -> Vec<Vec<u32>> {
    static POISON: [u32; 1 << 14] = [u32::MAX; 1 << 14];
    inputs.iter().map(|words| [words, &POISON[..]].concat()).collect()
}
