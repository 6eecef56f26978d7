use crate::common::devices;
use crate::{floats, matrix, run, values, words};
use qvgen::kernels::log_quantize::{LogQuantize, LogTable, log_quantize, reference};
use qvgen::quant::{Bits, LogSpec};

const ABSMAX: f32 = 0.7;

/// Every width in both kinds of base.
fn specs() -> Vec<LogSpec> {
    let of = |bits| {
        [1, 3, 12].map(|steps_per_octave| LogSpec { bits, steps_per_octave, absmax: ABSMAX })
    };
    Bits::OF_TOKENS.into_iter().flat_map(of).collect()
}

/// Values of many octaves, both signs, ties and their neighbours, ends of the range, and what is no
/// number.
fn inputs(log: LogSpec) -> Vec<f32> {
    let spread = |(i, value): (usize, f32)| value * 0.8_f32.powi((i % 97) as i32);
    let mut x: Vec<f32> = values(301, 5).into_iter().enumerate().map(spread).collect();
    let levels = log.levels().min(40);
    let ties = (0..levels).map(|level| 0.75 * ABSMAX * 0.5_f32.powi(level as i32));
    let ends = ties.chain((0..levels).map(|level| log.threshold(level)));
    for tie in ends.collect::<Vec<_>>() {
        x.extend([tie, -tie, tie.next_down(), tie.next_up()]);
    }
    x.extend([0.0, -0.0, 1e-39, -3e-45, 1e30, -1e30, f32::MIN_POSITIVE]);
    x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    x
}

/// Bits, so that NaN equals itself; the sign of zero is of no account.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| (value + 0.0).to_bits()).collect()
}

#[test]
fn log_quantize_matches_its_twin_to_the_last_bit() {
    for log in specs() {
        let x = inputs(log);
        for len in [1, 2, 255, 256, 257, x.len()] {
            let x = &x[x.len() - len..];
            let (kernel, params, grid) = LogQuantize::call(log, len);
            let table = log.table();
            let inputs = [words(x), words(&table)];
            let outputs = run(kernel, &inputs, &[len.div_ceil(4), len], params, grid);
            let (codes, y) = reference(log, x);
            assert_eq!(outputs[0], codes, "{log:?}, {len} values");
            assert_eq!(bits(floats(&outputs[1])), bits(&y), "{log:?}, {len} values");
        }
    }
}

#[test]
fn base_two_is_the_rule_of_logarithms() {
    // u = |x| / absmax, e = floor(log2 u), one more from 1.5 · 2^e on; in f64.
    let log = LogSpec { bits: Bits::B8, steps_per_octave: 1, absmax: 4.0 };
    for (i, value) in values(5000, 3).into_iter().enumerate() {
        let x = value * 4.5 * 0.9_f32.powi((i % 300) as i32);
        let u = f64::from(x.abs()) / 4.0;
        let mut e = u.log2().floor();
        if u - e.exp2() >= (e - 1.0).exp2() {
            e += 1.0;
        }
        let expected = if e < -126.0 { 0.0 } else { 4.0 * e.min(0.0).exp2() };
        assert_eq!(f64::from(log.round(x).abs()), expected, "{x}");
    }
}

#[test]
fn every_device_gives_the_same_codes_and_values() {
    for log in specs() {
        let x = inputs(log);
        let (codes, y) = reference(log, &x);
        for (name, device) in devices() {
            let table = LogTable::new(log, &device);
            let (actual_codes, actual) = log_quantize(matrix(&x, x.len(), &device), &table);
            let actual_codes: Vec<i32> = actual_codes.into_data().try_to_vec().unwrap();
            let actual: Vec<f32> = actual.into_data().try_to_vec().unwrap();
            let codes: Vec<i32> = codes.iter().map(|&word| word as i32).collect();
            assert_eq!(actual_codes, codes, "{log:?} on {name}");
            assert_eq!(bits(&actual), bits(&y), "{log:?} on {name}");
        }
    }
}
