use crate::common::{Reference, assert_close, devices, fixture, wgpu_device};
use crate::epilogue::EpilogueValues;
use crate::{grid_words, poisoned, run, token_spec, values, weight};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::qmatmul::{Params, QMatmul, reference, reference_accumulators};
use qvgen::kernels::qmatmul_form::{Form, Product};
use qvgen::kernels::{AdapterFacts, Dot, EpilogueKind, PackedTensor, client_of, qmatmul};
use qvgen::quant::{Bits, Grid, PackedRows, pack_rows, quantize_tokens};

/// `(m, n, k)`: below a tile, one more than a tile, several tiles of every form with tails.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 24), (5, 7, 33), (65, 66, 72), (70, 270, 200)];

/// The forms that the adapter has for `product`, the one that is used first.
fn forms(product: Product) -> Vec<Form> {
    let facts = AdapterFacts::of(&wgpu_device());
    let mut forms = Form::candidates(&facts, product);
    let mut others = [2, 4].map(|columns| Form::Registers { broadcast: false, columns }).to_vec();
    others.extend([1, 8].map(|parts| Form::SplitK { parts }));
    others.retain(|form| !forms.contains(form));
    forms.extend(others);
    forms
}

fn run_form(
    form: Form,
    product: Product,
    x: &PackedRows,
    w: &PackedRows,
    epilogue: &EpilogueValues,
) -> Vec<u32> {
    let params = Params {
        m: x.rows() as u32,
        n: w.rows() as u32,
        k: x.in_features as u32,
        group_size: w.group_size as u32,
    };
    let (x_grid, w_grid) = (grid_words(x), grid_words(w));
    let tensors = [&x.codes[..], &x_grid, &w.codes, &w_grid];
    let inputs = poisoned(&[&tensors[..], &epilogue.inputs(product.epilogue)].concat());
    let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
    form.run_raw(&client_of(&wgpu_device()), product, &inputs, params)
}

fn integers(words: Vec<u32>) -> Vec<i32> {
    words.into_iter().map(|word| word as i32).collect()
}

/// Every form at some widths, those of the smallest tile and of the matrices at all: compiling
/// takes time.
fn integers_compared(form: Form, bits: (u32, u32)) -> bool {
    match form {
        Form::Tile { rows: 1, columns: 1 } | Form::Matrix { .. } => true,
        Form::SplitK { .. } => true, // little code
        Form::Registers { broadcast, .. } => broadcast || bits == (3, 3) || bits == (8, 8),
        Form::Tile { rows, columns } => bits == if rows == columns { (8, 8) } else { (4, 4) },
    }
}

#[test]
fn every_form_gives_the_integers_of_the_twin() {
    for bits in [(3, 3), (4, 4), (6, 6), (8, 8), (8, 3), (4, 2), (6, 4), (8, 6)] {
        let [x_bits, w_bits] = [bits.0, bits.1].map(|bits| Bits::from_u32(bits).unwrap());
        let product = Product { raw: true, ..Product::plain(x_bits, w_bits) };
        for (m, n, k) in SHAPES {
            let x = quantize_tokens(&values(m * k, 3), k, token_spec(x_bits));
            let w = weight(n, k, w_bits, None);
            let expected = reference_accumulators(&x, &w);
            for form in forms(product).into_iter().filter(|&form| integers_compared(form, bits)) {
                let actual = run_form(form, product, &x, &w, &EpilogueValues::new(m, n));
                assert_eq!(integers(actual), expected, "{form:?} {bits:?} {m}×{n}×{k}");
            }
        }
    }
}

/// All products in the form that is used here, a few in the others: compiling takes time.
fn compared(form: Form, product: Product) -> bool {
    let is_four = (product.w_bits, product.x_bits) == (Bits::B4, Bits::B4);
    match form {
        form if form == forms(product)[0] => true,
        Form::Tile { rows: 1, columns: 1 } | Form::Matrix { .. } => {
            is_four || product.w_bits == Bits::B3
        }
        Form::SplitK { .. } => true,
        Form::Tile { rows, columns } => is_four && rows == columns && product.grouped,
        Form::Registers { .. } => is_four && product.grouped,
    }
}

#[test]
fn every_form_matches_the_twin() {
    let mut products = Vec::new();
    for (x_bits, w_bits) in [(3, 3), (4, 4), (6, 6), (8, 8), (8, 4)] {
        let [x_bits, w_bits] = [x_bits, w_bits].map(|bits| Bits::from_u32(bits).unwrap());
        let plain = Product::plain(x_bits, w_bits);
        products.extend([plain, Product { grouped: true, ..plain }]);
    }
    let plain = Product::plain(Bits::B4, Bits::B4);
    products.extend(EpilogueKind::WITH_MORE.map(|epilogue| Product { epilogue, ..plain }));
    for product in products {
        for (m, n, k) in SHAPES {
            let x = quantize_tokens(&values(m * k, 3), k, token_spec(product.x_bits));
            let w = weight(n, k, product.w_bits, product.grouped.then_some(32));
            let epilogue = EpilogueValues::new(m, n);
            let expected = reference(&x, &w, &epilogue.bias);
            let expected = epilogue.after(product.epilogue, expected);
            for form in forms(product).into_iter().filter(|&form| compared(form, product)) {
                let actual = run_form(form, product, &x, &w, &epilogue);
                let what = format!("{form:?} {product:?} {m}×{n}×{k}");
                assert_close(&what, crate::floats(&actual), &expected, 1e-5, 1e-5);
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

/// Asserts that `form` sums the largest codes, the smallest ones and both exactly, over more
/// products than a float of it may hold.
pub(crate) fn assert_exact_at_the_ends(form: Form) {
    for (bits, k) in [(Bits::B3, 300), (Bits::B4, 100), (Bits::B6, 16_416), (Bits::B8, 2080)] {
        let top = bits.max_code();
        let mixed = |i: usize| if i.is_multiple_of(3) { top } else { 0 };
        let codes: Vec<u32> =
            [vec![0; k], vec![top; k], (0..k).map(mixed).collect()].into_iter().flatten().collect();
        let (x, w) = (rows(bits, &codes, k), rows(bits, &codes, k));
        let product = Product { raw: true, ..Product::plain(bits, bits) };
        let actual = run_form(form, product, &x, &w, &EpilogueValues::new(3, 3));
        assert_eq!(integers(actual), reference_accumulators(&x, &w), "{form:?} {bits} bits");
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
    let product = Product { raw: true, ..Product::plain(Bits::B8, Bits::B8) };
    for form in forms(product) {
        let actual = run_form(form, product, &x, &w, &EpilogueValues::new(x.rows(), n));
        assert_eq!(integers(actual), expected, "{form:?}");
    }
}

#[test]
fn both_byte_products_give_the_same_integers() {
    let (m, n, k) = (5, 7, 72);
    for bits in [Bits::B3, Bits::B8] {
        let x = quantize_tokens(&values(m * k, 3), k, token_spec(bits));
        let w = weight(n, k, bits, None);
        let product = Product { raw: true, ..Product::plain(bits, bits) };
        let params = Params { m: m as u32, n: n as u32, k: k as u32, group_size: k as u32 };
        let (x_grid, w_grid, bias) = (grid_words(&x), grid_words(&w), vec![0; n]);
        let inputs = [&x.codes[..], &x_grid, &w.codes, &w_grid, &bias];
        for dot in Dot::ALL {
            let kernel = QMatmul { product, rows: 1, columns: 1, dot };
            let actual = run(kernel, &inputs, &[m * n], params, [1, 1, 1]).remove(0);
            assert_eq!(integers(actual), reference_accumulators(&x, &w), "{dot:?}");
        }
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
