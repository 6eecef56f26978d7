use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use qvgen::kernels::channel_statistics::{
    ChannelStatistics, Params, STATISTICS, channel_statistics, no_statistics, reference,
};

/// `(tokens, channels)`: one value, a ragged workgroup, several workgroups with a tail, and more
/// tokens than rows of invocations.
const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 5), (8, 32), (41, 70), (300, 33)];

/// Statistics of other tokens.
fn earlier(k: usize) -> Vec<f32> {
    let x: Vec<f32> = values(7 * k, 9).iter().map(|value| 0.7 * value + 0.1).collect();
    let device = burn::tensor::Device::flex();
    let none = no_statistics(k, &device).into_data().try_to_vec::<f32>().expect("f32 values");
    reference(&x, &none, 0.95)
}

#[test]
fn channel_statistics_matches_its_twin() {
    for (m, k) in SHAPES {
        let (x, previous) = (values(m * k, 3), earlier(k));
        let params = Params { m: m as u32, k: k as u32, decay: 0.95 };
        let actual = run(
            ChannelStatistics,
            &[words(&x), words(&previous)],
            &[STATISTICS * k],
            params,
            ChannelStatistics::grid(k),
        );
        let expected = reference(&x, &previous, params.decay);
        // Sums of values within one: rounded once per token.
        let tolerance = 4.0 * f32::EPSILON * (m as f32).sqrt().max(8.0);
        assert_close(&format!("{params:?}"), floats(&actual[0]), &expected, 1e-6, tolerance);
    }
}

#[test]
fn statistics_of_parts_are_those_of_the_whole_on_all_devices() {
    let (m, k) = (53, 40);
    let x = values(m * k, 4);
    for (name, device) in devices() {
        let read = |tensor: burn::tensor::Tensor<2>| {
            tensor.into_data().try_to_vec::<f32>().expect("f32 values")
        };
        let none = no_statistics(k, &device);
        let whole = read(channel_statistics(matrix(&x, k, &device), none.clone(), 0.0));
        let first = channel_statistics(matrix(&x[..20 * k], k, &device), none, 0.0);
        let parts = read(channel_statistics(matrix(&x[20 * k..], k, &device), first, 0.0));
        // All but the moving average, which forgets the first part at a decay of zero.
        for row in [0, 1, 3, 4] {
            let of = |values: &[f32]| values[row * k..(row + 1) * k].to_vec();
            assert_close(&format!("{name}, row {row}"), &of(&parts), &of(&whole), 1e-5, 1e-5);
        }
        for channel in 0..k {
            let column = |from: usize| x[from * k..].iter().skip(channel).step_by(k);
            let largest = column(20).fold(0.0_f32, |most, value| most.max(value.abs()));
            assert_eq!(parts[2 * k + channel], largest, "{name}, channel {channel}");
            let smallest = column(0).copied().fold(f32::MAX, f32::min);
            assert_eq!(whole[channel], smallest, "{name}, channel {channel}");
        }
    }
}

#[test]
fn the_average_of_magnitudes_moves_by_calls_and_starts_with_the_first() {
    for (name, device) in devices() {
        let call =
            |value: f32, before| channel_statistics(matrix(&[value], 1, &device), before, 0.75);
        let first = call(-4.0, no_statistics(1, &device));
        let second = call(8.0, first.clone());
        let third = |tensor: burn::tensor::Tensor<2>| {
            tensor.into_data().try_to_vec::<f32>().expect("f32 values")[2]
        };
        assert_eq!([third(first), third(second)], [4.0, 0.75 * 4.0 + 0.25 * 8.0], "{name}");
    }
}

#[test]
fn the_comparison_rejects_a_wrong_extreme_and_a_wrong_sum() {
    let k = 6;
    let right = reference(&values(5 * k, 3), &earlier(k), 0.95);
    let is_same = |actual: &[f32]| {
        std::panic::catch_unwind(|| assert_close("", actual, &right, 1e-6, 1e-5)).is_ok()
    };
    assert!(is_same(&right));
    for row in 0..STATISTICS {
        let mut wrong = right.clone();
        wrong[row * k + 2] += 0.01;
        assert!(!is_same(&wrong), "row {row}");
    }
}
