//! HTDQ: the quantizer of a temporal feature that keeps its timesteps apart best.
//!
//! Candidates, all with codes of the same width: the uniform quantizer with a static range of least
//! error, the same with the live range of the one token, HiDi-TQ (codes of logarithms to base 2, as
//! in the port of the authors' code), and logarithms to base `2^(1/m)` with `m` such that the codes
//! span ten octaves (ours). The one of the highest [`TdScoreRecon`] is kept, of equal ones the one of
//! the least squared error. The score is our reconstruction. Stores the quantizer, costs a table
//! look-up per value at run time; there is one token, so neither matters to the time.

use super::super::activations::{self, ActivationGoal, ActivationMode};
use super::super::td_score_recon::TdScoreRecon;
use super::super::{Place, Problem};
use crate::quant::{ActivationQuantizer, InputTransform, LogSpec, QuantizedLayer};
use serde::Serialize;

/// Octaves that codes of logarithms to a finer base than 2 span.
const OCTAVES: u32 = 10;
/// Scores that differ by less are equal.
const EQUAL: f64 = 1e-3;

/// A quantizer of a temporal feature, and how well it keeps timesteps apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TemporalChoice {
    /// What it is: `uniform, static`, `uniform, dynamic`, `log base 2` or `log base 2^(1/m)`.
    pub name: String,
    /// The terms of the reconstructed score.
    pub td_score_recon: TdScoreRecon,
    /// `direction · alive`.
    pub score: f64,
    /// `‖e − ê‖² / ‖e‖²`.
    pub relative_error: f64,
    /// The quantizer.
    #[serde(skip)]
    pub quantizer: ActivationQuantizer,
}

/// The layer with the best quantizer of its input; the weight is rounded as usual.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let mut layer = problem.transformed_layer(InputTransform::NONE);
    let Some(goal) = problem.goal.activations else { return layer };
    let candidates = candidates(goal, &problem.observed.timestep_features(), problem.in_features);
    if let Some(choice) = choose(&candidates) {
        layer.activations = Some(choice.quantizer.clone());
    }
    layer
}

/// The candidate of the highest score.
pub(in super::super) fn choose(candidates: &[TemporalChoice]) -> Option<&TemporalChoice> {
    let most = candidates.iter().map(|c| c.td_score_recon.gated()).max_by(f64::total_cmp)?;
    candidates
        .iter()
        .filter(|choice| choice.td_score_recon.gated() >= most - EQUAL)
        .min_by(|a, b| a.relative_error.total_cmp(&b.relative_error))
}

/// Every quantizer for the features `[timesteps, channels]`, scored; none for features that have no
/// score, because they never change.
pub(in super::super) fn candidates(
    goal: ActivationGoal,
    features: &[f32],
    channels: usize,
) -> Vec<TemporalChoice> {
    let places = vec![Place::default(); features.len() / channels];
    let uniform = |name: &str, mode| {
        let goal = ActivationGoal { mode, ..goal };
        (name.to_owned(), goal.quantizer((features, &[]), channels, &places, false))
    };
    let absmax = features.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let log = |steps_per_octave: u32| {
        let spec = LogSpec { bits: goal.bits, steps_per_octave, absmax };
        spec.check().ok().map(|()| {
            let base = if steps_per_octave == 1 {
                "2".to_owned()
            } else {
                format!("2^(1/{steps_per_octave})")
            };
            (format!("log base {base}"), ActivationQuantizer::Log(spec))
        })
    };
    let fine = finer_steps(goal);
    let all = [
        Some(uniform("uniform, static", ActivationMode::Static)),
        Some(uniform("uniform, dynamic", ActivationMode::Dynamic)),
        log(1),
        fine.and_then(log),
    ];
    let score = |(name, quantizer): (String, ActivationQuantizer)| {
        let rounded = activations::rounded(&quantizer, features, channels, &places);
        let td_score_recon = TdScoreRecon::of(features, &rounded, channels)?;
        let relative_error = relative_error(features, &rounded);
        let score = td_score_recon.score();
        Some(TemporalChoice { name, td_score_recon, score, relative_error, quantizer })
    };
    all.into_iter().flatten().filter_map(score).collect()
}

/// Steps per octave such that the codes span [`OCTAVES`]; `None` if that is base 2 or coarser.
fn finer_steps(goal: ActivationGoal) -> Option<u32> {
    let levels = LogSpec { bits: goal.bits, steps_per_octave: 1, absmax: 1.0 }.levels();
    let steps = levels.saturating_sub(1) / OCTAVES;
    (steps > 1).then_some(steps.min(LogSpec::MAX_STEPS_PER_OCTAVE))
}

fn relative_error(x: &[f32], y: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = x.iter().zip(y).map(|(x, y)| square(x - y)).sum();
    error / x.iter().map(|&x| square(x)).sum::<f64>().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Bits, Scheme};

    /// Features like `silu` of an embedding, with gains that are heavy-tailed or all alike.
    fn features(timesteps: usize, channels: usize, is_heavy: bool) -> Vec<f32> {
        let noise = |i: usize| ((i as f32 * 12.9898).sin() * 43758.547 % 1.0).clamp(-0.999, 0.999);
        let gain = |c: usize| {
            if is_heavy { (2.5 * (noise(c * 31) + noise(c * 57 + 3))).exp() } else { 1.0 }
        };
        let value = |t: usize, c: usize| {
            let phase = t as f32 / timesteps as f32 * (1.0 + (c % 7) as f32) + noise(c * 101);
            let x = gain(c) * (3.0 * phase).sin();
            x / (1.0 + (-x).exp())
        };
        (0..timesteps).flat_map(|t| (0..channels).map(move |c| value(t, c))).collect()
    }

    fn goal(bits: Bits) -> ActivationGoal {
        ActivationGoal { bits, scheme: Scheme::Asymmetric, mode: ActivationMode::Dynamic }
    }

    #[test]
    fn logarithms_keep_more_channels_alive_where_features_are_heavy_tailed() {
        let features = features(20, 256, true);
        let all = candidates(goal(Bits::B4), &features, 256);
        let alive = |name: &str| {
            let choice = all.iter().find(|choice| choice.name == name).expect("a candidate");
            choice.td_score_recon.alive
        };
        assert!(alive("log base 2") > alive("uniform, static"), "{all:#?}");
        let chosen = choose(&all).expect("a choice");
        assert!(all.iter().all(|other| other.score <= chosen.score + EQUAL), "{all:#?}");
    }

    #[test]
    fn eight_bits_have_a_finer_base_and_keep_every_timestep() {
        let features = features(20, 96, false);
        let all = candidates(goal(Bits::B8), &features, 96);
        assert!(all.iter().any(|choice| choice.name == "log base 2^(1/12)"), "{all:#?}");
        let chosen = choose(&all).expect("a choice");
        assert!(chosen.score > 0.98 && chosen.td_score_recon.identified == 1.0, "{chosen:?}");
        // Base 2 alone is no better than at four bits: its codes reach far below what matters.
        let base_2 = all.iter().find(|choice| choice.name == "log base 2").expect("a candidate");
        assert!(base_2.relative_error > chosen.relative_error);
    }

    #[test]
    fn features_that_never_change_have_no_candidates() {
        assert!(candidates(goal(Bits::B8), &[1.0; 8], 4).is_empty());
    }
}
