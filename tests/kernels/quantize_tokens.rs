use crate::common::{Reference, devices, fixture};
use crate::{half_words, matrix, run, runs, values, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::quantize_tokens::QuantizeTokens;
use qvgen::kernels::{
    Activation, Element, GRID_WORDS, Kernel, RowTransform, activate, activate_quantize,
};
use qvgen::kernels::{linear_grid, quantize_tokens};
use qvgen::quant::{self, Bits, PackedRows, Scheme, TokenRange, TokenSpec};
use qvgen::quant::{unpack_rows, words_per_row};

/// Rows that are no multiple of four long, and rows that are; fewer codes than invocations, and more.
const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 33), (2, 2102), (7, 72), (2, 2100)];
/// Rows of whole blocks: less than a tile, a tile and a block, several tiles.
const BLOCK_SHAPES: [(usize, usize); 3] = [(3, 128), (2, 1152), (2, 2176)];

/// Whether `x / scale` lies so near a half that a value or division rounded differently flips the
/// code; `error` is that of `x`.
fn near_tie(x: f32, error: f32, grid: quant::Grid) -> bool {
    let distance = |steps: f32| ((steps - steps.floor()) - 0.5).abs();
    let steps = x / grid.scale;
    let slack = 1e-5 + steps.abs() * 1e-6 + error / grid.scale;
    distance(steps) < slack || distance(steps + grid.zero_point) < slack
}

/// Asserts that `actual` are the codes `expected` of the values `x`, of which each token's may be
/// off by `error` of its largest, so that codes differ at ties only; sums those of the codes at
/// hand.
pub(crate) fn assert_same(
    what: &str,
    x: &[f32],
    error: f32,
    actual: &PackedRows,
    expected: &PackedRows,
) {
    let k = expected.in_features;
    let codes = |rows: &PackedRows| unpack_rows(rows.bits, &rows.codes, k);
    let (a, e) = (codes(actual), codes(expected));
    for (row, (a_grid, e_grid)) in actual.grids.iter().zip(&expected.grids).enumerate() {
        let token = &x[row * k..(row + 1) * k];
        let error = error * token.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        let same_scale = (a_grid.scale - e_grid.scale).abs() < 1e-6 * e_grid.scale + error;
        assert!(same_scale, "{what}: scale of row {row}: {a_grid:?} {e_grid:?}");
        let tolerance = 1e-5 * e_grid.zero_point.abs().max(1.0);
        let same_zero = (a_grid.zero_point - e_grid.zero_point).abs() <= tolerance;
        if !same_zero {
            // A range symmetric about zero always ties in the zero point; then the row moves by one.
            assert!((a_grid.zero_point - e_grid.zero_point).abs() <= 1.0, "{what}: row {row}");
            continue;
        }
        for (i, &x) in (row * k..).zip(token) {
            let tie = near_tie(x, error, *e_grid);
            assert!(a[i] == e[i] || tie, "{what}: code {i}: {} for {}, x {x}", a[i], e[i]);
            assert!(a[i].abs_diff(e[i]) <= 1, "{what}: code {i}: {} for {}", a[i], e[i]);
        }
        let sum: u32 = a[row * k..(row + 1) * k].iter().sum();
        assert_eq!(actual.code_sums[row], sum as i32, "{what}: code sum of row {row}");
    }
}

pub(crate) fn rows_from(outputs: &[Vec<u32>], bits: Bits, k: usize) -> PackedRows {
    let grids = outputs[1].chunks(GRID_WORDS).map(|grid| quant::Grid {
        scale: f32::from_bits(grid[0]),
        zero_point: f32::from_bits(grid[1]),
    });
    PackedRows {
        bits,
        in_features: k,
        group_size: k,
        codes: outputs[0].clone(),
        grids: grids.collect(),
        code_sums: outputs[1].chunks(GRID_WORDS).map(|grid| grid[2] as i32).collect(),
    }
}

#[test]
fn quantize_tokens_matches_its_twin() {
    // One width with all schemes and steps is enough: compiling takes longer than running.
    let is_usual = |kernel: &QuantizeTokens| {
        kernel.element == Element::F32
            && kernel.transform == RowTransform::NONE
            && kernel.activation == Activation::Identity
            && (kernel.scheme, kernel.static_range) == (Scheme::Asymmetric, false)
    };
    let compared = |kernel: &QuantizeTokens| is_usual(kernel) || kernel.bits == Bits::B3;
    for kernel in QuantizeTokens::all().into_iter().filter(compared).filter(|&k| runs(k)) {
        let has_blocks = kernel.transform.hadamard > 1;
        for &(m, k) in if has_blocks { &BLOCK_SHAPES[..] } else { &SHAPES } {
            let range = if kernel.static_range {
                TokenRange::Static { min: -0.6, max: 0.9 }
            } else {
                TokenRange::Dynamic { clip_upper: 0.9, clip_lower: 0.95 }
            };
            let spec = TokenSpec { bits: kernel.bits, scheme: kernel.scheme, range };
            let (specialized, params) = QuantizeTokens::new(spec, kernel.element, m, k);
            if (specialized.rows, specialized.invocations) != (kernel.rows, kernel.invocations) {
                continue;
            }
            let QuantizeTokens { activation, transform, .. } = kernel;
            assert_eq!(QuantizeTokens { activation, transform, ..specialized }, kernel);
            let mut x = values(m * k, 5);
            let input = if kernel.tier() == qvgen::kernels::Tier::Half {
                let (words, rounded) = half_words(&x);
                x = rounded;
                words
            } else {
                words(&x).to_vec()
            };
            let lens = [m * words_per_row(kernel.bits, k), m * GRID_WORDS];
            let (offset, factor) = (values(k, 6), values(k, 7));
            let mut inputs = vec![&input[..]];
            if transform.affine {
                inputs.extend([words(&offset), words(&factor)]);
            }
            let outputs = run(kernel, &inputs, &lens, params, linear_grid(m));
            let mut x = activate::reference(activation, &x);
            let affine = transform.affine.then_some((&offset[..], &factor[..]));
            let (offset, factor) = affine.unzip();
            let block = has_blocks.then_some(transform.hadamard as usize);
            quant::affine_hadamard(&mut x, k, offset, factor, block);
            let is_plain = activation == Activation::Identity && transform == RowTransform::NONE;
            let error = if is_plain { 0.0 } else { 2e-6 };
            let expected = quant::quantize_tokens(&x, k, spec);
            let actual = rows_from(&outputs, kernel.bits, k);
            assert_same(&format!("{kernel:?} {params:?}"), &x, error, &actual, &expected);
        }
    }
}

#[test]
fn the_comparison_rejects_a_wrong_code_scale_and_sum() {
    let (k, bits) = (40, Bits::B3);
    let spec = TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
    let x = values(2 * k, 5);
    let right = quant::quantize_tokens(&x, k, spec);
    let is_same = |actual: &PackedRows| {
        std::panic::catch_unwind(|| assert_same("", &x, 2e-6, actual, &right)).is_ok()
    };
    assert!(is_same(&right));
    let wrong = |change: fn(&mut PackedRows)| {
        let mut rows = right.clone();
        change(&mut rows);
        rows
    };
    assert!(!is_same(&wrong(|rows| rows.codes[1] ^= 8)));
    assert!(!is_same(&wrong(|rows| rows.code_sums[1] += 1)));
    assert!(!is_same(&wrong(|rows| rows.grids[1].scale *= 1.001)));
    assert!(!is_same(&wrong(|rows| rows.grids[0].scale = f32::NAN)));
}

#[test]
fn an_activation_before_the_quantizer_is_that_of_separate_steps_on_all_devices() {
    let (m, k) = (9, 200);
    let x: Vec<f32> = values(m * k, 5).iter().map(|u| 6.0 * u).collect();
    let spec =
        TokenSpec { bits: Bits::B4, scheme: Scheme::AsymmetricClamped, range: TokenRange::FULL };
    for activation in Activation::ALL {
        let y = activate::reference(activation, &x);
        let expected = quant::quantize_tokens(&y, k, spec);
        for (name, device) in devices() {
            let actual = activate_quantize(matrix(&x, k, &device), activation, spec).to_rows();
            assert_same(&format!("{activation:?} on {name}"), &y, 2e-6, &actual, &expected);
        }
    }
}

#[test]
fn quantize_tokens_reproduces_the_reference_codes_on_all_devices() {
    let reference = Reference::open(&fixture("quant"));
    let schemes = [
        ("sym", Scheme::Symmetric),
        ("asym", Scheme::Asymmetric),
        ("asym_free", Scheme::AsymmetricFree),
    ];
    let mut checked = 0;
    for case in reference.json["quant"].as_array().unwrap() {
        let name = case["case"].as_str().unwrap();
        let bits = Bits::from_u32(case["bits"].as_u64().unwrap() as u32).unwrap();
        let (key, scheme) =
            *schemes.iter().find(|(key, _)| case["scheme"] == *key).expect("a known scheme");
        let x = reference.f32(&format!("quant.{name}.x"));
        let [m, k] = reference.shape(&format!("quant.{name}.x"))[..] else { panic!("{name}") };
        let get = |what: &str| reference.i64(&format!("quant.{name}.{key}.b{bits}.{what}"));
        let (q, near, zero_near) = (get("q"), get("near"), get("zero_near"));
        // Stored codes are unsigned: symmetric ones are offset by half the range.
        let offset = if scheme == Scheme::Symmetric { 1_i64 << (bits.get() - 1) } else { 0 };
        for (device_name, device) in devices() {
            let input = Tensor::<2>::from_data(TensorData::new(x.clone(), [m, k]), &device);
            let spec = TokenSpec { bits, scheme, range: TokenRange::FULL };
            let packed = quantize_tokens(input, spec).to_rows();
            let codes = unpack_rows(bits, &packed.codes, k);
            for i in (0..m * k).filter(|i| near[*i] == 0 && zero_near[i / k] == 0) {
                let actual = i64::from(codes[i]) - offset;
                assert_eq!(actual, q[i], "{name} {key} b{bits} on {device_name}: element {i}");
                checked += 1;
            }
        }
    }
    assert!(checked > 10_000, "only {checked} codes compared");
}

#[test]
fn quantize_tokens_gives_degenerate_tokens_the_finite_grids_of_its_twin() {
    let k = 40;
    let constant = |value: f32| vec![value; k];
    let narrow = |range: f32| values(k, 5).into_iter().map(|u| range * u).collect();
    let tokens: [Vec<f32>; 8] = [
        constant(0.0),
        constant(0.7),
        constant(-0.7),
        constant(3e-38),
        narrow(1e-37),
        narrow(1e-40),
        narrow(1e-31),
        narrow(1e-28),
    ];
    let x = tokens.concat();
    let whole = |kernel: &QuantizeTokens| {
        !kernel.static_range
            && kernel.element == Element::F32
            && kernel.activation == Activation::Identity
            && kernel.transform == RowTransform::NONE
    };
    for kernel in QuantizeTokens::all().into_iter().filter(whole) {
        let QuantizeTokens { bits, scheme, .. } = kernel;
        let spec = TokenSpec { bits, scheme, range: TokenRange::FULL };
        let expected = quant::quantize_tokens(&x, k, spec);
        for (name, device) in devices() {
            let actual = quantize_tokens(matrix(&x, k, &device), spec).to_rows();
            for (i, (a, e)) in actual.grids.iter().zip(&expected.grids).enumerate() {
                let what = format!("{kernel:?} on {name}, token {i}: {a:?} {e:?}");
                assert!(a.scale.is_finite() && a.zero_point.is_finite(), "{what}");
                assert!((a.scale - e.scale).abs() <= 1e-6 * e.scale, "{what}");
                // A range symmetric about zero ties in the zero point.
                let slack = 1.0 + 1e-5 * e.zero_point.abs();
                assert!((a.zero_point - e.zero_point).abs() <= slack, "{what}");
            }
            assert!(actual.values().iter().all(|value| value.is_finite()), "{kernel:?} on {name}");
        }
    }
}
