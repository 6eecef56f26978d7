use crate::common::{assert_close, devices};
use crate::fake_quantize_weight::{SHAPES, read, vector};
use crate::{floats, matrix, run, values, words};
use burn::tensor::Device;
use qvgen::kernels::fake_quantize_tokens::{FakeQuantizeTokens, Params, reference};
use qvgen::kernels::{FakeQuantTokens, GRID_WIDTH, Kernel, clip_factors, fake_quantize_tokens};
use qvgen::kernels::{linear_grid, quantize_tokens};
use qvgen::quant::{self, Bits, Grid, Scheme, TokenRange, TokenSpec};

/// The golden tokens; all values of the second are positive.
pub(crate) const GOLDEN: [f32; 16] = [
    -1.3, 0.2, 0.75, 2.6, -0.4, 0.0, 1.1, -0.05, //
    0.5, 0.6, 0.9, 1.4, 0.55, 0.7, 0.8, 1.0,
];

/// logit(0.95): the clip that training of the released code begins with.
pub(crate) const GOLDEN_CLIP: f32 = 2.944_439;

/// Factors of the largest and of the smallest value: some codes lie beyond the grid.
pub(crate) const FACTORS: [f32; 2] = [0.83, 0.91];

/// Tokens whose values lie near no tie, where a division rounded differently changes the code.
/// Every third token has positive values only, every fourth two of each extreme.
pub(crate) fn tokens(m: usize, k: usize, bits: Bits, scheme: Scheme) -> Vec<f32> {
    let ends = values(2 * m, 41);
    let mut x = values(m * k, 42);
    for (i, token) in x.chunks_mut(k).enumerate() {
        let max = 1.4 + 0.3 * ends[2 * i];
        let min = if i % 3 == 2 { 0.15 } else { -1.1 + 0.3 * ends[2 * i + 1] };
        let grid = Grid::from_range(scheme, bits, FACTORS[1] * min, FACTORS[0] * max);
        for value in token.iter_mut() {
            let room = (max - min) / grid.scale - 0.4;
            let position = min / grid.scale + 0.2 + room * (0.5 + 0.5 * *value);
            *value = grid.scale * (position.round() + 0.8 * (position - position.round()));
        }
        token[0] = max;
        token[k / 2] = min;
        if i % 4 == 3 && k > 8 {
            token[k - 1] = max;
            token[k / 2 + 1] = min;
        }
    }
    x
}

#[test]
fn fake_quantize_tokens_matches_its_twin() {
    for kernel in FakeQuantizeTokens::all() {
        for (m, k) in SHAPES {
            let x = tokens(m, k, kernel.bits, kernel.scheme);
            let params = Params { m: m as u32, k: k as u32 };
            let inputs = [words(&x), words(&FACTORS)];
            let actual = run(kernel, &inputs, &[m * k], params, linear_grid(m));
            let expected = reference(kernel, &x, &FACTORS, params);
            let what = format!("{kernel:?} {params:?}");
            assert_close(&what, floats(&actual[0]), &expected, 1e-6, 1e-7);
        }
    }
}

#[test]
fn fake_quantize_tokens_reaches_the_last_token() {
    let kernel = FakeQuantizeTokens { bits: Bits::B4, scheme: Scheme::Asymmetric };
    let (m, k) = (GRID_WIDTH as usize + 3, 33);
    let x = tokens(m, k, kernel.bits, kernel.scheme);
    let params = Params { m: m as u32, k: k as u32 };
    let grid = linear_grid(m);
    let actual = run(kernel, &[words(&x), words(&FACTORS)], &[m * k], params, grid);
    // Also the twin's way of many threads.
    let expected = reference(kernel, &x, &FACTORS, params);
    assert_close("y", floats(&actual[0]), &expected, 1e-6, 1e-7);
}

#[test]
fn fake_quantize_tokens_gives_the_values_that_packed_tokens_stand_for() {
    let (m, k) = (9, 100);
    let mut x = values(m * k, 43);
    x[..k].fill(0.0);
    x[k..2 * k].iter_mut().for_each(|value| *value = value.abs() + 0.2);
    x[2 * k..3 * k].iter_mut().for_each(|value| *value *= 1e-33);
    for kernel in FakeQuantizeTokens::all() {
        let FakeQuantizeTokens { bits, scheme } = kernel;
        let spec = FakeQuantTokens { bits, scheme, clip_ratio: 0.95 };
        for (name, device) in devices() {
            let clips = vector(&[2.0, 1.5], &device);
            let [clip_upper, clip_lower] = read(clip_factors(clips.clone(), 0.95))[..] else {
                panic!("two factors")
            };
            let range = TokenRange::Dynamic { clip_upper, clip_lower };
            let spec_packed = TokenSpec { bits, scheme, range };
            let packed = quantize_tokens(matrix(&x, k, &device), spec_packed).to_rows();
            let actual = read(fake_quantize_tokens(matrix(&x, k, &device), clips, spec));
            let what = format!("{kernel:?} on {name}");
            assert_close(&what, &actual, &packed.values(), 0.0, 0.0);
            if name == "cpu" {
                assert_eq!(packed, quant::quantize_tokens(&x, k, spec_packed));
            }
        }
    }
}

#[test]
fn fake_quantize_tokens_reproduces_the_golden_codes() {
    let scheme = Scheme::AsymmetricClamped;
    let golden = [
        (
            Bits::B4,
            [0.234_650, 0.054_150],
            [5, 0],
            [0, 6, 8, 15, 3, 5, 10, 5, 9, 11, 15, 15, 10, 13, 15, 15],
        ),
        (
            Bits::B3,
            [0.502_821, 0.116_036],
            [2, 0],
            [0, 2, 3, 7, 1, 2, 4, 2, 4, 5, 7, 7, 5, 6, 7, 7],
        ),
    ];
    for (bits, scale, zero, codes) in golden {
        let spec = FakeQuantTokens { bits, scheme, clip_ratio: 0.95 };
        let expected: Vec<f32> =
            (0..16).map(|i| scale[i / 8] * (codes[i] - zero[i / 8]) as f32).collect();
        for (name, device) in devices() {
            let clips = vector(&[GOLDEN_CLIP; 2], &device);
            let y = fake_quantize_tokens(matrix(&GOLDEN, 8, &device), clips, spec);
            assert_close(name, &read(y), &expected, 1e-5, 1e-6);
        }
    }
}

#[test]
fn fake_quantize_tokens_makes_a_token_nan_that_is_not_finite() {
    let k = 70;
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for scheme in [Scheme::Symmetric, Scheme::Asymmetric, Scheme::AsymmetricClamped] {
            let mut x = values(3 * k, 44);
            x[k + 66] = broken;
            let spec = FakeQuantTokens { scheme, ..FakeQuantTokens::new(Bits::B4) };
            for (name, device) in devices() {
                let clips = vector(&[3.0; 2], &device);
                let y = read(fake_quantize_tokens(matrix(&x, k, &device), clips, spec));
                let what = format!("{scheme:?} with {broken} on {name}: {y:?}");
                assert!(y[k..2 * k].iter().all(|value| value.is_nan()), "{what}");
                assert!(y[..k].iter().chain(&y[2 * k..]).all(|value| value.is_finite()), "{what}");
            }
        }
    }
}

#[test]
fn fake_quantize_tokens_shows_a_clip_that_is_no_number() {
    for (name, device) in devices() {
        for clips in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let x = matrix(&values(2 * 33, 44), 33, &device);
            let clips = vector(&clips, &device);
            // The sigmoid is Burn's, and SwiftShader's has a number for NaN.
            let factors = read(clip_factors(clips.clone(), 1.0));
            let y = read(fake_quantize_tokens(x, clips, FakeQuantTokens::new(Bits::B4)));
            let shows = factors.iter().any(|factor| factor.is_nan());
            assert!(!shows || y.iter().all(|value| value.is_nan()), "{name}: {y:?}");
        }
    }
}

#[test]
#[should_panic(expected = "cannot be AsymmetricReal")]
fn fake_quantize_tokens_rejects_a_real_valued_zero_point() {
    let device = Device::flex();
    let scheme = Scheme::AsymmetricReal;
    let spec = FakeQuantTokens { scheme, ..FakeQuantTokens::new(Bits::B4) };
    fake_quantize_tokens(matrix(&[1.0], 1, &device), vector(&[0.0; 2], &device), spec);
}
