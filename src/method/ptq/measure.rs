//! What a method has made of a layer, in numbers.

use super::activations::{coverage, rounded};
use super::observed::{TIMESTEP_RANGES, timestep_range};
use super::problem::transformed;
use super::qvd::{TemporalChoice, candidates, choose};
use super::{ActivationGoal, ActivationMode, Problem, TdScoreRecon};
use crate::quant::{ActivationQuantizer, InputTransform, QuantizedLayer};
use serde::Serialize;

/// The error of a layer's output at some timesteps, on tokens that no method has seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RangeError {
    /// First timestep of the range.
    pub from: f32,
    /// Timestep behind the range.
    pub to: f32,
    /// Tokens.
    pub tokens: usize,
    /// `‖y − ŷ‖ / ‖y‖`.
    pub relative_error: f64,
    /// `20 log₁₀(‖y‖ / ‖y − ŷ‖)`, decibels; `None` without any error.
    pub snr_db: Option<f64>,
}

/// How well the timesteps of a temporal feature can be told apart; the score is a reconstruction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TemporalReport {
    /// With a uniform quantizer of one static range.
    pub td_score_recon_uniform: f64,
    /// With the quantizer that the layer has.
    pub td_score_recon: f64,
    /// Terms of the latter.
    pub terms: TdScoreRecon,
    /// Every quantizer that could be chosen.
    pub candidates: Vec<TemporalChoice>,
    /// The name of the one that would be.
    pub best: String,
}

/// What is known of a quantized layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measures {
    /// `‖y − ŷ‖ / ‖y‖` of the output over all timesteps.
    pub output_error: f64,
    /// The same in decibels; `None` without any error.
    pub output_snr_db: Option<f64>,
    /// By range of timesteps; ranges without tokens are left out.
    pub by_timestep: Vec<RangeError>,
    /// Share of the levels of a code that a channel of the input uses, with this layer's transform.
    pub coverage: Option<f64>,
    /// The same without the transform.
    pub coverage_before: Option<f64>,
    /// Largest magnitude of a channel of the input by the median of the channels'.
    pub outlier_ratio: Option<f64>,
    /// Number of channels above six times the median.
    pub outlier_channels: Option<usize>,
    /// Largest `|middle| / half range` of a channel's range: what a shift could take out.
    pub asymmetry: Option<f64>,
    /// For inputs that depend on the timestep alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporal: Option<TemporalReport>,
}

/// A channel this many times above the median counts as an outlier.
const OUTLIER: f32 = 6.0;

impl Measures {
    /// The measures of `layer` as a solution of `problem`.
    pub fn of(problem: &Problem<'_>, layer: &QuantizedLayer) -> Self {
        let errors = problem.held_out_errors(layer);
        let all = RangeError::of(0.0, 1000.0, errors.iter().map(|(_, e, y)| (*e, *y)));
        let width = 1000.0 / TIMESTEP_RANGES as f32;
        let range = |range: usize| {
            let those = errors.iter().filter(|(place, ..)| timestep_range(place.timestep) == range);
            let from = width * range as f32;
            RangeError::of(from, from + width, those.map(|(_, e, y)| (*e, *y)))
        };
        let by_timestep = (0..TIMESTEP_RANGES).map(range).filter(|range| range.tokens > 0);
        let covered = |transform: &InputTransform, quantizer: &ActivationQuantizer| {
            let k = problem.in_features;
            let x = transformed(&problem.observed.rows, transform, k);
            coverage(quantizer, &x, k, &problem.observed.places)
        };
        let before = problem.activations(&InputTransform::NONE);
        let channels = Channels::of(problem);
        Self {
            output_error: all.relative_error,
            output_snr_db: all.snr_db,
            by_timestep: by_timestep.collect(),
            coverage: layer.activations.as_ref().map(|q| covered(&layer.transform, q)),
            coverage_before: before.as_ref().map(|q| covered(&InputTransform::NONE, q)),
            outlier_ratio: channels.as_ref().map(|channels| channels.outlier_ratio),
            outlier_channels: channels.as_ref().map(|channels| channels.outliers),
            asymmetry: channels.as_ref().map(|channels| channels.asymmetry),
            temporal: problem.goal.activations.and_then(|goal| temporal(problem, layer, goal)),
        }
    }
}

impl RangeError {
    fn of(from: f32, to: f32, errors: impl Iterator<Item = (f64, f64)>) -> Self {
        let (mut tokens, mut error, mut energy) = (0, 0.0, 0.0);
        for (e, y) in errors {
            (tokens, error, energy) = (tokens + 1, error + e, energy + y);
        }
        let ratio = if error == 0.0 { 0.0 } else { error / energy.max(f64::MIN_POSITIVE) };
        let snr_db = (ratio > 0.0).then(|| -10.0 * ratio.log10());
        Self { from, to, tokens, relative_error: ratio.sqrt(), snr_db }
    }
}

struct Channels {
    outlier_ratio: f64,
    outliers: usize,
    asymmetry: f64,
}

impl Channels {
    fn of(problem: &Problem<'_>) -> Option<Self> {
        let statistics = problem.observed.overall()?;
        let absmax = statistics.absmax();
        let mut sorted = absmax.clone();
        sorted.sort_by(f32::total_cmp);
        let (median, most) = (*sorted.get(sorted.len() / 2)?, *sorted.last()?);
        let asymmetry = statistics.min().iter().zip(statistics.max()).map(|(min, max)| {
            let half = 0.5 * (max - min);
            if half > 0.0 { f64::from((0.5 * (max + min)).abs() / half) } else { 0.0 }
        });
        Some(Self {
            outlier_ratio: f64::from(most) / f64::from(median).max(1e-30),
            outliers: absmax.iter().filter(|&&value| value > OUTLIER * median).count(),
            asymmetry: asymmetry.fold(0.0, f64::max),
        })
    }
}

fn temporal(
    problem: &Problem<'_>,
    layer: &QuantizedLayer,
    goal: ActivationGoal,
) -> Option<TemporalReport> {
    if !problem.observed.is_temporal {
        return None;
    }
    let (features, k) = (problem.observed.timestep_features(), problem.in_features);
    let candidates = candidates(goal, &features, k);
    let best = choose(&candidates)?.name.clone();
    let x = transformed(&features, &layer.transform, k);
    let places = vec![super::Place::default(); x.len() / k];
    let score = |quantizer: &ActivationQuantizer| {
        TdScoreRecon::of(&x, &rounded(quantizer, &x, k, &places), k)
    };
    let uniform = ActivationGoal { mode: ActivationMode::Static, ..goal };
    let uniform = score(&uniform.quantizer((&x, &[]), k, &places, false))?;
    let terms = score(layer.activations.as_ref()?)?;
    Some(TemporalReport {
        td_score_recon_uniform: uniform.score(),
        td_score_recon: terms.score(),
        terms,
        candidates,
        best,
    })
}
