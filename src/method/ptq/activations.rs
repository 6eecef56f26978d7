//! How the input of a layer is quantized: from its live range, or from ranges found beforehand.

use super::Place;
use super::observed::{range_bounds, timestep_range};
use crate::quant::{
    ActivationQuantizer, Bits, ByStep, Grid, MSE_CANDIDATES, PerFrame, Scheme, StepRule,
    TokenRange, TokenSpec, mse_error, mse_shrink,
};
use rayon::prelude::*;
use serde::Serialize;

/// Values of a tensor that decide its range: that many of the largest magnitudes, which are what a
/// smaller range cuts off, and about as many of the others.
const RANGE_VALUES: usize = 4096;

/// Where ranges of activations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationMode {
    /// Each token's own extremes.
    #[default]
    Dynamic,
    /// One range for all tokens of all steps.
    Static,
    /// One range for each latent frame.
    PerFrame,
    /// One range for each range of timesteps.
    PerRange,
}

impl ActivationMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Dynamic, Self::Static, Self::PerFrame, Self::PerRange];

    /// Name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::PerFrame => "per-frame",
            Self::PerRange => "per-range",
        }
    }
}

/// What the activations of a layer shall become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationGoal {
    /// Width of a code.
    pub bits: Bits,
    /// Range to grid.
    pub scheme: Scheme,
    /// Where ranges come from.
    pub mode: ActivationMode,
}

impl ActivationGoal {
    fn spec(self, range: TokenRange) -> TokenSpec {
        TokenSpec { bits: self.bits, scheme: self.scheme, range }
    }

    /// The range that loses least of `values`: the extremes shrunk by 1.00, 0.99, …, 0.21, by the
    /// error to the power 2.4, as for weights.
    fn best_range(self, values: &[f32]) -> [f32; 2] {
        let (min, max) = crate::quant::range(values);
        let (tail, body, weight) = thinned(values);
        let error = |i: u32| {
            let shrink = mse_shrink(i);
            let grid = Grid::from_range(self.scheme, self.bits, shrink * min, shrink * max);
            let sum = |values: &[f32]| f64::from(mse_error(grid, self.scheme, self.bits, values));
            sum(&tail) + weight * sum(&body)
        };
        let errors: Vec<f64> = (0..MSE_CANDIDATES).into_par_iter().map(error).collect();
        let best = (0..MSE_CANDIDATES)
            .min_by(|&a, &b| errors[a as usize].total_cmp(&errors[b as usize]))
            .unwrap_or(0);
        [mse_shrink(best) * min, mse_shrink(best) * max]
    }

    fn static_spec(self, values: &[f32]) -> TokenSpec {
        let [min, max] = self.best_range(values);
        self.spec(TokenRange::Static { min, max })
    }

    /// The quantizer for inputs like the transformed tokens `x` `[places, in_features]`.
    ///
    /// `extremes` are values that other tokens had: ranges that are fixed beforehand are chosen with
    /// what they would cut off of these in mind. Of a frame or of a range of timesteps they are taken
    /// to be as much smaller as its tokens in `x` are. Ranges by frame need tokens that belong to
    /// frames: of others there is one range.
    pub fn quantizer(
        self,
        (x, extremes): (&[f32], &[f32]),
        in_features: usize,
        places: &[Place],
        has_frames: bool,
    ) -> ActivationQuantizer {
        let largest = absmax(x);
        let with_extremes = |mut values: Vec<f32>| {
            let share = if largest > 0.0 { absmax(&values) / largest } else { 1.0 };
            values.extend(extremes.iter().map(|extreme| share * extreme));
            values
        };
        let those = |keep: &dyn Fn(&Place) -> bool| -> Vec<f32> {
            let rows = x.chunks_exact(in_features).zip(places);
            let rows = rows.filter(|(_, place)| keep(place));
            let values: Vec<f32> = rows.flat_map(|(row, _)| row).copied().collect();
            with_extremes(if values.is_empty() { x.to_vec() } else { values })
        };
        match self.mode {
            ActivationMode::Dynamic => self.spec(TokenRange::FULL).into(),
            ActivationMode::PerFrame if has_frames => {
                let frames = places.iter().map(|place| place.frame + 1).max().unwrap_or(1);
                let range = |frame: u32| self.best_range(&those(&|place| place.frame == frame));
                let ranges = (0..frames).map(range).collect();
                let (bits, scheme) = (self.bits, self.scheme);
                ActivationQuantizer::PerFrame(PerFrame { bits, scheme, ranges })
            }
            ActivationMode::PerRange => {
                let bounds = range_bounds();
                let spec = |range: usize| {
                    self.static_spec(&those(&|place| timestep_range(place.timestep) == range))
                };
                let specs = (0..=bounds.len()).map(spec).collect();
                ActivationQuantizer::ByStep(ByStep { rule: StepRule::TimestepRange(bounds), specs })
            }
            ActivationMode::Static | ActivationMode::PerFrame => {
                self.static_spec(&with_extremes(x.to_vec())).into()
            }
        }
    }
}

fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// The values of the largest magnitudes, some of the others, and how many each of these stands for.
fn thinned(values: &[f32]) -> (Vec<f32>, Vec<f32>, f64) {
    if values.len() <= 2 * RANGE_VALUES {
        return (values.to_vec(), Vec::new(), 0.0);
    }
    let mut values = values.to_vec();
    let first = values.len() - RANGE_VALUES;
    values.select_nth_unstable_by(first, |a, b| a.abs().total_cmp(&b.abs()));
    let tail = values.split_off(first);
    let stride = values.len().div_ceil(RANGE_VALUES);
    let body: Vec<f32> = values.iter().step_by(stride).copied().collect();
    let weight = values.len() as f64 / body.len() as f64;
    (tail, body, weight)
}

/// The transformed tokens `x` `[places, in_features]` after `quantizer`, in floats.
pub(super) fn rounded(
    quantizer: &ActivationQuantizer,
    x: &[f32],
    in_features: usize,
    places: &[Place],
) -> Vec<f32> {
    let mut y = x.to_vec();
    y.par_chunks_exact_mut(in_features).zip(places).for_each(|(token, place)| {
        if let ActivationQuantizer::Log(log) = quantizer {
            token.iter_mut().for_each(|value| *value = log.round(*value));
            return;
        }
        let (spec, grid) = token_grid(quantizer, token, place);
        for value in token {
            *value = grid.value(grid.code(spec.scheme, spec.bits, *value));
        }
    });
    y
}

/// The codes of the transformed tokens `x` `[places, in_features]`.
pub(super) fn codes(
    quantizer: &ActivationQuantizer,
    x: &[f32],
    in_features: usize,
    places: &[Place],
) -> Vec<u32> {
    let of_token = |(token, place): (&[f32], &Place)| -> Vec<u32> {
        if let ActivationQuantizer::Log(log) = quantizer {
            return token.iter().map(|&value| log.code(value)).collect();
        }
        let (spec, grid) = token_grid(quantizer, token, place);
        token.iter().map(|&value| grid.code(spec.scheme, spec.bits, value)).collect()
    };
    x.chunks_exact(in_features).zip(places).flat_map(of_token).collect()
}

/// The grid of one token under a quantizer that is not logarithmic.
fn token_grid(quantizer: &ActivationQuantizer, token: &[f32], place: &Place) -> (TokenSpec, Grid) {
    let spec = match quantizer {
        ActivationQuantizer::Uniform(spec) => *spec,
        ActivationQuantizer::ByStep(steps) => {
            let step = crate::quant::RunStep { timestep: place.timestep, ..Default::default() };
            steps.spec(step)
        }
        ActivationQuantizer::PerFrame(frames) => frames.spec(place.frame as usize),
        ActivationQuantizer::Log(log) => TokenSpec {
            bits: log.bits,
            scheme: Scheme::Symmetric,
            range: TokenRange::Static { min: -log.absmax, max: log.absmax },
        },
    };
    let (min, max) = match spec.range {
        TokenRange::Static { min, max } => (min, max),
        TokenRange::Dynamic { clip_upper, clip_lower } => {
            let (min, max) = crate::quant::range(token);
            (clip_lower * min, clip_upper * max)
        }
    };
    (spec, Grid::from_range(spec.scheme, spec.bits, min, max))
}

/// Mean share of the levels of a code that a channel of `x` `[places, in_features]` uses, of those
/// that it could with as many tokens: the paper's "coverage" of QVD (arXiv 2407.11585), our
/// definition.
pub(super) fn coverage(
    quantizer: &ActivationQuantizer,
    x: &[f32],
    in_features: usize,
    places: &[Place],
) -> f64 {
    let codes = codes(quantizer, x, in_features, places);
    let levels = (quantizer.bits().max_code() as usize + 1).min(places.len()).max(1);
    let used = |channel: usize| {
        let mut seen: Vec<u32> = codes.iter().skip(channel).step_by(in_features).copied().collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len() as f64 / levels as f64
    };
    (0..in_features).into_par_iter().map(used).sum::<f64>() / in_features.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Calibration, calibrate, quantize_tokens};

    fn goal(mode: ActivationMode) -> ActivationGoal {
        ActivationGoal { bits: Bits::B4, scheme: Scheme::Asymmetric, mode }
    }

    fn input() -> (Vec<f32>, Vec<Place>) {
        let frame = |row: usize| (row % 2) as u32;
        let value = |i: usize| (i as f32 * 0.7).sin() * if frame(i / 8) == 0 { 1.0 } else { 10.0 };
        let place = |row| Place { timestep: 300.0 * (row / 8) as f32, frame: frame(row) };
        ((0..256).map(value).collect(), (0..32).map(place).collect())
    }

    fn squares(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn rounding_is_that_of_the_token_quantizer() {
        let (x, places) = input();
        for mode in [ActivationMode::Dynamic, ActivationMode::Static] {
            let quantizer = goal(mode).quantizer((&x, &[]), 8, &places, true);
            let ActivationQuantizer::Uniform(spec) = quantizer else { panic!("{mode:?}") };
            let expected = quantize_tokens(&x, 8, spec).values();
            assert_eq!(rounded(&quantizer, &x, 8, &places), expected, "{mode:?}");
        }
    }

    #[test]
    fn ranges_by_frame_and_by_timestep_beat_one_range_where_they_differ() {
        let (x, places) = input();
        let error = |mode, has_frames| {
            let quantizer = goal(mode).quantizer((&x, &[]), 8, &places, has_frames);
            squares(&rounded(&quantizer, &x, 8, &places), &x)
        };
        let one = error(ActivationMode::Static, true);
        assert!(error(ActivationMode::PerFrame, true) < 0.9 * one);
        assert_eq!(error(ActivationMode::PerFrame, false), one, "no frames, one range");
        assert!(error(ActivationMode::PerRange, true) <= 1.05 * one);
        assert!(error(ActivationMode::Dynamic, true) < error(ActivationMode::PerFrame, true));
    }

    #[test]
    fn a_range_of_many_values_is_near_that_of_all_of_them() {
        // Far values are rare: one in a thousand.
        let value = |i: usize| {
            let wave = (i as f32 * 12.9898).sin();
            if i % 1000 == 7 { 9.0 * wave } else { wave.powi(3) }
        };
        let values: Vec<f32> = (0..60_000).map(value).collect();
        for bits in [Bits::B4, Bits::B8] {
            let goal = ActivationGoal { bits, ..goal(ActivationMode::Static) };
            let [min, max] = goal.best_range(&values);
            let grid = calibrate(Calibration::Mse, goal.scheme, bits, &values);
            let of_all = grid.scale * bits.max_code() as f32;
            assert!(((max - min) / of_all - 1.0).abs() < 0.1, "{bits}: {min}..{max}, {of_all}");
        }
    }

    #[test]
    fn what_other_tokens_had_widens_fixed_ranges_of_many_levels() {
        let (x, places) = input();
        let extremes = [-14.0, 15.0];
        for mode in [ActivationMode::Static, ActivationMode::PerFrame, ActivationMode::PerRange] {
            let width = |extremes: &[f32], bits, frame| {
                let goal = ActivationGoal { bits, ..goal(mode) };
                let quantizer = goal.quantizer((&x, extremes), 8, &places, true);
                let place = Place { frame, ..places[0] };
                let (_, grid) = token_grid(&quantizer, &x[..8], &place);
                grid.scale * bits.max_code() as f32
            };
            assert!(width(&[], Bits::B8, 1) < 22.0, "{mode:?}");
            assert!(width(&extremes, Bits::B8, 1) > 27.0, "{mode:?}");
        }
        // The first frame is a tenth as large: its part of the extremes is, too.
        let goal = ActivationGoal { bits: Bits::B8, ..goal(ActivationMode::PerFrame) };
        let quantizer = goal.quantizer((&x, &extremes), 8, &places, true);
        let ActivationQuantizer::PerFrame(frames) = quantizer else { panic!("ranges by frame") };
        assert!(frames.ranges[0][1] < 2.0 && frames.ranges[1][1] > 13.0, "{:?}", frames.ranges);
    }

    #[test]
    fn coverage_counts_the_codes_of_a_channel() {
        let places = vec![Place::default(); 16];
        let spec = TokenSpec {
            bits: Bits::B4,
            scheme: Scheme::Asymmetric,
            range: TokenRange::Static { min: 0.0, max: 15.0 },
        };
        // The first channel has every code, the second one.
        let x: Vec<f32> = (0..16_u8).flat_map(|i| [f32::from(i), 3.0]).collect();
        let covered = coverage(&spec.into(), &x, 2, &places);
        assert!((covered - (1.0 + 1.0 / 16.0) / 2.0).abs() < 1e-12, "{covered}");
    }
}
