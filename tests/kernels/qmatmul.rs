use crate::common::{Reference, assert_close, devices, fixture};
use crate::{floats, grid_words, run, token_spec, values, weight, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::qmatmul::{Params, QMatmul, reference, reference_accumulators};
use qvgen::kernels::{Dot, Kernel, PackedTensor, qmatmul};
use qvgen::quant::{Bits, Grid, PackedRows, pack_rows, quantize_tokens};

/// `(m, n, k)`: below a tile, one more than a tile, several tiles with tails.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 24), (5, 7, 33), (65, 66, 72), (70, 130, 200)];

fn run_qmatmul(kernel: QMatmul, x: &PackedRows, w: &PackedRows, bias: &[f32]) -> Vec<u32> {
    let (m, n) = (x.rows(), w.rows());
    let params = Params {
        m: m as u32,
        n: n as u32,
        k: x.in_features as u32,
        group_size: w.group_size as u32,
    };
    let inputs = [&x.codes[..], &grid_words(x), &w.codes, &grid_words(w), words(bias)];
    run(kernel, &inputs, &[m * n], params, QMatmul::grid(m, n)).remove(0)
}

/// Raw accumulators say little beyond the results: equal widths are enough, compiling takes time.
fn compared(kernel: &QMatmul) -> bool {
    !kernel.raw || kernel.w_bits == kernel.x_bits
}

#[test]
fn qmatmul_matches_its_twin() {
    for kernel in QMatmul::all().into_iter().filter(compared) {
        for (m, n, k) in SHAPES {
            let x = quantize_tokens(&values(m * k, 3), k, token_spec(kernel.x_bits));
            let w = weight(n, k, kernel.w_bits, kernel.grouped.then_some(32));
            let bias = values(n, 9);
            let actual = run_qmatmul(kernel, &x, &w, &bias);
            let what = format!("{kernel:?} {m}×{n}×{k}");
            if kernel.raw {
                let actual: Vec<i32> = actual.into_iter().map(|word| word as i32).collect();
                assert_eq!(actual, reference_accumulators(&x, &w), "{what}");
            } else {
                let expected = reference(&x, &w, &bias);
                assert_close(&what, floats(&actual), &expected, 1e-5, 1e-5);
            }
        }
    }
}

/// Rows of given codes with scale one and no zero point.
fn rows(bits: Bits, codes: &[u32], k: usize) -> PackedRows {
    let count = codes.len() / k;
    PackedRows {
        bits,
        in_features: k,
        group_size: k,
        codes: pack_rows(bits, codes, k),
        grids: vec![Grid { scale: 1.0, zero_point: 0.0 }; count],
        code_sums: codes.chunks(k).map(|row| row.iter().sum::<u32>() as i32).collect(),
    }
}

fn unsigned(values: &[i64], offset: i64) -> Vec<u32> {
    values.iter().map(|&value| u32::try_from(value + offset).unwrap()).collect()
}

#[test]
fn qmatmul_accumulates_the_largest_sums_exactly() {
    // 13824 products of 255·255 exceed 2^29: far beyond what an f32 holds.
    let reference = Reference::open(&fixture("quant"));
    let (qx, qw) = (reference.i64("gemm.big_k.qx"), reference.i64("gemm.big_k.qw"));
    // Stored codes are unsigned, so signed ones are offset.
    let offset = |codes: &[i64]| if codes.iter().any(|&code| code < 0) { 128_i64 } else { 0 };
    let (ox, ow) = (offset(&qx), offset(&qw));
    let k = reference.shape("gemm.big_k.qx")[1];
    let x = rows(Bits::B8, &unsigned(&qx, ox), k);
    let w = rows(Bits::B8, &unsigned(&qw, ow), k);
    let n = w.rows();
    // Σ (q_x + o_x)(q_w + o_w) = acc + o_w·Σq_x + o_x·Σq_w + K·o_x·o_w
    let acc = reference.i64("gemm.big_k.acc_raw");
    let expected: Vec<i32> = (0..x.rows() * n)
        .map(|i| {
            let sum = |codes: &[i64], row: usize| codes[row * k..(row + 1) * k].iter().sum::<i64>();
            let shift = ow * sum(&qx, i / n) + ox * sum(&qw, i % n) + k as i64 * ox * ow;
            (acc[i] + shift) as i32
        })
        .collect();
    assert_eq!(reference_accumulators(&x, &w), expected);
    for dot in Dot::ALL {
        let kernel = QMatmul { w_bits: Bits::B8, x_bits: Bits::B8, grouped: false, dot, raw: true };
        let actual = run_qmatmul(kernel, &x, &w, &vec![0.0; n]);
        let actual: Vec<i32> = actual.into_iter().map(|word| word as i32).collect();
        assert_eq!(actual, expected, "{dot:?}");
    }
}

#[test]
fn qmatmul_reproduces_the_reference_products_on_all_devices() {
    let reference = Reference::open(&fixture("quant"));
    for case in reference.json["gemm"].as_array().unwrap() {
        let name = case["case"].as_str().unwrap();
        if name == "big_k" {
            continue; // no scales: compared as integers above
        }
        let k = case["K"].as_u64().unwrap() as usize;
        let side = |codes: &str, scale: &str, zero: &str, bits: &str, scheme: &str| {
            let get = |what: &str| reference.i64(&format!("gemm.{name}.{what}"));
            let bits = Bits::from_u32(case[bits].as_u64().unwrap() as u32).unwrap();
            let offset = if case[scheme] == "sym" { 1_i64 << (bits.get() - 1) } else { 0 };
            let mut packed = rows(bits, &unsigned(&get(codes), offset), k);
            let scales = reference.f32(&format!("gemm.{name}.{scale}"));
            for ((grid, scale), zero) in packed.grids.iter_mut().zip(scales).zip(get(zero)) {
                *grid = Grid { scale, zero_point: (zero + offset) as f32 };
            }
            packed
        };
        let x = side("qx", "sx", "zx", "x_bits", "x_scheme");
        let w = side("qw", "sw", "zw", "w_bits", "w_scheme");
        let bias = reference.f32(&format!("gemm.{name}.bias"));
        let expected = reference.f32(&format!("gemm.{name}.y"));
        for (device_name, device) in devices() {
            let bias = Tensor::<1>::from_data(TensorData::new(bias.clone(), [bias.len()]), &device);
            let [x, w] = [&x, &w].map(|rows| PackedTensor::from_rows(rows, &device));
            let y = qmatmul(&x, &w, bias).into_data().try_to_vec::<f32>().unwrap();
            assert_close(&format!("case {name} on {device_name}"), &y, &expected, 1e-5, 2e-5);
        }
    }
}
