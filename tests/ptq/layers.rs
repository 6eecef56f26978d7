//! Each method against rounding to the range, under the conditions that it is designed for.

use crate::common::devices;
use burn::tensor::Device;
use half::f16;
use qvgen::method::ptq::auto::{Candidate, Choice, Options, choose};
use qvgen::method::ptq::{
    ActivationGoal, ActivationMode, Goal, Measures, Method, Observed, Origin, Problem,
    TIMESTEP_RANGES,
};
use qvgen::quant::{ActivationQuantizer, Bits, Calibration, Scheme, WeightSpec};

const K: usize = 128;
const N: usize = 20;

/// Values in `[-1, 1)` that look random.
fn noise(i: usize) -> f32 {
    let mut x = (i as u32).wrapping_mul(0x9E37_79B9) ^ 0x85EB_CA6B;
    for shift in [16, 13, 16] {
        x ^= x >> shift;
        x = x.wrapping_mul(0xC2B2_AE35);
    }
    (x >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// About normal.
fn normal(i: usize) -> f32 {
    (0..6).map(|part| noise(6 * i + part)).sum::<f32>() / 1.41
}

/// A layer's input: `value(token, channel)`.
fn observed(tokens: usize, value: impl Fn(usize, usize) -> f32) -> Observed {
    let rows = (0..tokens).flat_map(|t| (0..K).map(move |c| (t, c))).map(|(t, c)| value(t, c));
    let mut observed = Observed::of_rows(K, rows.collect(), Origin::Sampling);
    observed.has_frames = true;
    for (token, place) in observed.places.iter_mut().enumerate() {
        place.frame = (token % 3) as u32;
    }
    observed
}

/// A few channels far larger than the others.
fn outliers() -> Observed {
    observed(160, |t, c| normal(t * K + c) * if c % 37 == 5 { 40.0 } else { 1.0 })
}

/// Channels with offsets.
fn offsets() -> Observed {
    observed(160, |t, c| normal(t * K + c) + 6.0 * noise(c + 7))
}

/// Neighbouring channels alike.
fn correlated() -> Observed {
    observed(400, |t, c| {
        (0..4).map(|part| normal(t * K + c / 8 * 8 + part)).sum::<f32>() * 0.4
            + 0.3 * normal(900_000 + t * K + c)
    })
}

fn weight() -> Vec<f32> {
    (0..N * K).map(|i| 0.1 * normal(i + 31)).collect()
}

/// Rows of a rank with small values on top.
fn low_rank_weight(rank: usize) -> Vec<f32> {
    let entry = |i: usize| {
        let (row, column) = (i / K, i % K);
        let part = |r: usize| 2.0 * normal(row * 8 + r + 5) * normal(70_000 + column * 8 + r);
        (0..rank).map(part).sum::<f32>() + 0.05 * normal(i + 31)
    };
    (0..N * K).map(entry).collect()
}

fn goal(precision: &str, mode: ActivationMode) -> Goal {
    let precision: qvgen::quant::Precision = precision.parse().expect("a precision");
    let activations = |bits| ActivationGoal { bits, scheme: Scheme::Asymmetric, mode };
    Goal {
        weights: WeightSpec {
            bits: precision.weights.expect("a width"),
            scheme: Scheme::AsymmetricReal,
            group_size: None,
            calibration: Calibration::Mse,
        },
        activations: precision.activations.map(activations),
        rank: 32,
    }
}

/// The error of `method` on tokens that it has not seen.
fn error(method: Method, weight: &[f32], observed: &Observed, goal: Goal, device: &Device) -> f64 {
    let problem = Problem::new(weight, None, goal, observed, (device, 1 << 24));
    problem.held_out_error(&method.solve(&problem))
}

/// Asserts that `better` has less than `factor` of the error of `worse` on every device.
fn assert_better(
    (better, worse): (Method, Method),
    factor: f64,
    (weight, observed): (&[f32], &Observed),
    goal: Goal,
) {
    for (name, device) in devices() {
        let [good, bad] = [better, worse].map(|m| error(m, weight, observed, goal, &device));
        assert!(good < factor * bad, "{better} {good:e}, {worse} {bad:e} on {name}");
    }
}

#[test]
fn searched_ranges_and_refined_grids_round_weights_better_than_extremes() {
    let observed = observed(64, |t, c| normal(t * K + c));
    let goal = goal("w3a16", ActivationMode::Dynamic);
    assert_better((Method::Mse, Method::MinMax), 0.95, (&weight(), &observed), goal);
    assert_better((Method::Bgr, Method::Mse), 1.0, (&weight(), &observed), goal);
}

#[test]
fn gptq_makes_up_for_errors_where_channels_are_correlated() {
    for group_size in [None, Some(64)] {
        let mut goal = goal("w3a16", ActivationMode::Dynamic);
        goal.weights.group_size = group_size;
        assert_better((Method::Gptq, Method::Mse), 0.8, (&weight(), &correlated()), goal);
    }
}

#[test]
fn smoothing_and_rotation_cope_with_outlier_channels() {
    let goal = goal("w8a4", ActivationMode::Dynamic);
    let (weight, observed) = (weight(), outliers());
    for method in [Method::SmoothQuant, Method::ViditQ, Method::Hadamard] {
        assert_better((method, Method::MinMax), 0.5, (&weight, &observed), goal);
    }
}

#[test]
fn a_shift_copes_with_offsets_under_a_static_range() {
    let goal = goal("w8a4", ActivationMode::Static);
    let (weight, observed) = (weight(), offsets());
    for method in [Method::SmoothQuantShift, Method::Qvd] {
        assert_better((method, Method::MinMax), 0.5, (&weight, &observed), goal);
        assert_better((method, Method::SmoothQuant), 0.9, (&weight, &observed), goal);
    }
}

#[test]
fn a_branch_of_low_rank_takes_what_is_hardest() {
    let observed = observed(64, |t, c| normal(t * K + c));
    let goal = goal("w3a8", ActivationMode::Dynamic);
    let weight = low_rank_weight(4);
    assert_better((Method::SvdQuant, Method::MinMax), 0.2, (&weight, &observed), goal);
}

#[test]
fn codes_make_up_for_what_rounding_does_to_a_branch() {
    let observed = observed(64, |t, c| normal(t * K + c));
    let mut goal = goal("w8a16", ActivationMode::Dynamic);
    goal.weights.calibration = Calibration::MinMax;
    // Of the rank that the branch has here: a step of the codes is far below a rounding of factors.
    let weight = low_rank_weight(3);
    let device = Device::flex();
    let problem = Problem::new(&weight, None, goal, &observed, (&device, 1 << 24));
    let layer = Method::SvdQuant.solve(&problem);
    let branch = layer.low_rank.as_ref().expect("a branch");
    let is_half = |value: &f32| f16::from_f32(*value).to_f32() == *value;
    assert!(branch.down.iter().chain(&branch.up).all(is_half));
    let mut rest = weight.clone();
    layer.transform.fold_weight(&mut rest, K);
    for (row, up) in rest.chunks_exact_mut(K).zip(branch.up.chunks_exact(branch.rank)) {
        for (up, down) in up.iter().zip(branch.down.chunks_exact(K)) {
            row.iter_mut().zip(down).for_each(|(w, down)| *w -= up * down);
        }
    }
    for (i, (rest, value)) in rest.iter().zip(layer.rows.values()).enumerate() {
        let steps = (rest - value).abs() / layer.rows.grids[i / K].scale;
        assert!(steps < 0.51, "element {i}: {steps} steps from its code");
    }
}

#[test]
fn every_method_solves_every_precision_and_mode_with_finite_values() {
    let (weight, observed) = (weight(), outliers());
    let device = Device::flex();
    let bias: Vec<f32> = (0..N).map(noise).collect();
    let modes = |precision: &str| match precision {
        "w8a8" => &ActivationMode::ALL[..],
        _ => &ActivationMode::ALL[..1],
    };
    for precision in ["w8a8", "w6a6", "w4a8", "w4a6", "w4a4", "w3a16"] {
        // That one tries all others.
        for method in Method::ALL.into_iter().filter(|&method| method != Method::Auto) {
            for &mode in modes(precision) {
                let goal = goal(precision, mode);
                let place = (&device, 1 << 24);
                let problem = Problem::new(&weight, Some(&bias), goal, &observed, place);
                let layer = method.solve(&problem);
                let what = format!("{method} {precision} {}", mode.name());
                assert_eq!(layer.shape(), [N, K], "{what}");
                assert!(layer.rows.code_sums_are_right(), "{what}");
                layer.transform.check(K).unwrap_or_else(|problem| panic!("{what}: {problem}"));
                assert!(layer.rows.values().iter().all(|value| value.is_finite()), "{what}");
                let error = problem.held_out_error(&layer);
                assert!(error.is_finite() && error < 1.0, "{what}: {error}");
                let bits = |quantizer: &ActivationQuantizer| quantizer.bits();
                let wanted = goal.activations.map(|goal| goal.bits);
                assert_eq!(layer.activations.as_ref().map(bits), wanted, "{what}");
            }
        }
    }
}

#[test]
fn eight_bits_are_near_lossless_by_every_method() {
    let (weight, observed) = (weight(), observed(96, |t, c| normal(t * K + c)));
    let device = Device::flex();
    for method in Method::ALL {
        let error =
            error(method, &weight, &observed, goal("w8a8", ActivationMode::Dynamic), &device);
        assert!(error < 1e-3, "{method}: {error}");
    }
}

#[test]
fn features_of_timesteps_get_the_quantizer_that_keeps_them_apart() {
    let gain = |c: usize| (2.5 * noise(c * 31) + 2.5 * noise(c * 57 + 3)).exp();
    let mut features = observed(20, |t, c| {
        let x = gain(c) * (0.31 * t as f32 * (1.0 + (c % 5) as f32)).sin();
        x / (1.0 + (-x).exp())
    });
    features.is_temporal = true;
    let weight = weight();
    let device = Device::flex();
    let goal = goal("w8a4", ActivationMode::Dynamic);
    let problem = Problem::new(&weight, None, goal, &features, (&device, 1 << 24));
    let measures = |method: Method| Measures::of(&problem, &method.solve(&problem));
    let temporal = |method| measures(method).temporal.expect("a temporal report");
    let (qvd, plain) = (temporal(Method::Qvd), temporal(Method::MinMax));
    assert!(qvd.td_score_recon >= plain.td_score_recon, "{qvd:#?}");
    assert!(qvd.td_score_recon >= qvd.td_score_recon_uniform, "{qvd:#?}");
    assert!(qvd.candidates.len() >= 3 && qvd.candidates.iter().any(|c| c.name == qvd.best));
}

#[test]
fn measures_cover_every_range_of_timesteps_and_see_outliers() {
    let (weight, observed) = (weight(), outliers());
    let device = Device::flex();
    let goal = goal("w8a4", ActivationMode::Static);
    let problem = Problem::new(&weight, None, goal, &observed, (&device, 1 << 24));
    let layer = Method::SmoothQuant.solve(&problem);
    let measures = Measures::of(&problem, &layer);
    assert_eq!(measures.by_timestep.len(), TIMESTEP_RANGES);
    let tokens: usize = measures.by_timestep.iter().map(|range| range.tokens).sum();
    assert_eq!(tokens, 40, "a quarter of the tokens is held out");
    assert_eq!(measures.outlier_channels, Some((0..K).filter(|c| c % 37 == 5).count()));
    assert!(measures.outlier_ratio.expect("a ratio") > 20.0);
    // What outliers leave to the other channels is a level or two.
    let (before, after) = (measures.coverage_before.unwrap(), measures.coverage.unwrap());
    assert!(after > 1.5 * before, "{before} to {after}");
    assert!(measures.temporal.is_none());
    let snr = measures.output_snr_db.expect("some error");
    assert!((snr + 20.0 * measures.output_error.log10()).abs() < 1e-9);
}

#[test]
fn a_budget_over_real_candidates_is_kept_and_lowers_the_error_of_one_width() {
    let device = Device::flex();
    let (easy, hard) = (observed(96, |t, c| normal(t * K + c)), outliers());
    let weight = weight();
    let options: Vec<Options> = [&easy, &hard]
        .iter()
        .map(|observed| {
            let measure = |bits: Bits| {
                let mut goal = goal("w4a8", ActivationMode::Dynamic);
                goal.weights.bits = bits;
                let problem = Problem::new(&weight, None, goal, observed, (&device, 1 << 24));
                [Method::Mse, Method::SmoothQuant].map(|m| Candidate::measure(&problem, m))
            };
            let candidates = [Bits::B3, Bits::B4, Bits::B8].map(measure).concat();
            Options { weights: weight.len() as u64, sensitivity: 1.0, candidates }
        })
        .collect();
    let budget = 7.0;
    let chosen = choose(&options, Choice::BudgetBits(budget)).expect("a choice");
    let taken: Vec<&Candidate> =
        options.iter().zip(&chosen).map(|(options, &i)| &options.candidates[i]).collect();
    let bits = taken.iter().map(|c| c.bytes as f64 * 8.0).sum::<f64>() / (2 * weight.len()) as f64;
    assert!(bits <= budget, "{bits}");
    let four_bits: f64 = options.iter().map(|options| options.candidates[2].error).sum();
    assert!(taken.iter().map(|c| c.error).sum::<f64>() < four_bits);
}
