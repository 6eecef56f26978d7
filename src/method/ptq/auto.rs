//! Mixed precision by measurement: every method and width is tried on every layer, and each layer
//! gets what serves the whole best.
//!
//! [`OPTIONS`] are solved for a layer, and the error of its output is measured on tokens that none
//! of them has seen. Then [`Choice`] decides, layer by layer or over all of them:
//!
//! * under a budget of mean stored bits per weight: from the smallest option of each layer on, the
//!   step that lowers the prediction's error most per bit is taken, as long as it fits (the
//!   steps of each layer are those of its lower convex hull, for which this is optimal but for the
//!   last step; Shoham and Gersho, IEEE TASSP 36, 1988). The prediction's error is the sum of those
//!   of layers, each times the share of it that arrives there ([`Options::sensitivity`]);
//! * under a limit of the relative error: the smallest option of each layer that keeps to it.
//!
//! Ours; the idea of measuring layers one at a time is common (`ViDiT-Q`, arXiv 2406.02540, §3.4,
//! scores by metric; `AutoQuantize` by gradient).

use super::{Goal, Method, Problem};
use crate::quant::{Bits, LowRankBranch, QuantizedLayer, WeightSpec};
use serde::Serialize;

/// Methods that are tried, the cheapest at run time first: of equal errors it is kept.
pub const OPTIONS: [Method; 8] = [
    Method::Mse,
    Method::Bgr,
    Method::Gptq,
    Method::SmoothQuant,
    Method::SmoothQuantShift,
    Method::ViditQ,
    Method::Qvd,
    Method::SvdQuant,
];

/// Widths that are tried where widths may differ.
pub const WIDTHS: [Bits; 4] = [Bits::B3, Bits::B4, Bits::B6, Bits::B8];

/// The layer by the option of the least error at the goal's width.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let candidates: Vec<Candidate> =
        OPTIONS.iter().map(|&method| Candidate::measure(problem, method)).collect();
    let weights = problem.weight.len() as u64;
    let best = least_error(&Options { weights, sensitivity: 1.0, candidates: candidates.clone() });
    candidates[best].method.solve(problem)
}

/// An error has to be this much lower to be worth a more expensive method of the same size.
const WORTHWHILE: f64 = 0.98;

/// What can become of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// How.
    pub method: Method,
    /// Width of the weight.
    #[serde(serialize_with = "width")]
    pub bits: Bits,
    /// Squared error of the output on tokens held out, relative to its energy.
    pub error: f64,
    /// Bytes that are stored.
    pub bytes: u64,
}

impl Candidate {
    /// Solves `problem` by `method` and measures it.
    pub fn measure(problem: &Problem<'_>, method: Method) -> Self {
        let layer = method.solve(problem);
        let (error, bits) = (problem.held_out_error(&layer), layer.rows.bits);
        // What is no number is no candidate.
        let error = if error.is_finite() { error } else { f64::MAX };
        Self { method, bits, error, bytes: stored_bytes(&layer) }
    }
}

/// Bytes of everything that is stored of `layer`, but for its bias.
pub fn stored_bytes(layer: &QuantizedLayer) -> u64 {
    let QuantizedLayer { rows, transform, low_rank, .. } = layer;
    let channels = [&transform.shift, &transform.scale].map(|row| row.as_ref().map_or(0, Vec::len));
    let branch = low_rank.as_ref().map_or(0, |branch| branch.down.len() + branch.up.len());
    let branch = LowRankBranch::VALUE_BYTES * branch;
    (rows.bytes() + 4 * channels.iter().sum::<usize>() + branch) as u64
}

/// `goal` with weights of another width.
pub fn with_width(goal: Goal, bits: Bits) -> Goal {
    Goal { weights: WeightSpec { bits, ..goal.weights }, ..goal }
}

fn width<S: serde::Serializer>(bits: &Bits, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(bits.get())
}

/// What decides between candidates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The least error.
    LeastError,
    /// The least error with at most this many stored bits per weight in the mean.
    BudgetBits(f64),
    /// The smallest with at most this error of the output, as the root of the relative square.
    MaxError(f64),
}

impl Choice {
    /// Whether candidates of several widths are wanted.
    pub fn mixes_widths(self) -> bool {
        self != Self::LeastError
    }
}

/// The layers and what can become of them.
#[derive(Clone, Debug)]
pub struct Options {
    /// Weights of the layer.
    pub weights: u64,
    /// What a relative square of the output's error becomes in the model's prediction; one for all
    /// layers where that is not known.
    pub sensitivity: f64,
    /// At least one.
    pub candidates: Vec<Candidate>,
}

/// A budget that no choice keeps to.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "--budget-bits {budget}: the smallest that the layers can be made has {least:.3} bits per \
     weight, scales and sums included"
)]
pub struct BudgetError {
    /// Bits asked for.
    pub budget: f64,
    /// Bits that the smallest options have.
    pub least: f64,
}

/// The number of the candidate that each layer gets.
///
/// A limit of the error that no candidate of a layer keeps to gives the one of the least error.
///
/// # Errors
///
/// If the smallest candidates exceed the budget.
pub fn choose(layers: &[Options], choice: Choice) -> Result<Vec<usize>, BudgetError> {
    match choice {
        Choice::LeastError => Ok(layers.iter().map(least_error).collect()),
        Choice::MaxError(limit) => {
            Ok(layers.iter().map(|layer| smallest_within(layer, limit * limit)).collect())
        }
        Choice::BudgetBits(budget) => within_budget(layers, budget),
    }
}

fn least_error(layer: &Options) -> usize {
    let all = &layer.candidates;
    (0..all.len()).fold(
        0,
        |best, i| {
            if all[i].error < WORTHWHILE * all[best].error { i } else { best }
        },
    )
}

fn smallest_within(layer: &Options, limit: f64) -> usize {
    let all = &layer.candidates;
    let fits = (0..all.len()).filter(|&i| all[i].error <= limit);
    let smaller = |&a: &usize, &b: &usize| {
        all[a].bytes.cmp(&all[b].bytes).then(all[a].error.total_cmp(&all[b].error))
    };
    fits.min_by(smaller).unwrap_or_else(|| least_error(layer))
}

fn within_budget(layers: &[Options], budget: f64) -> Result<Vec<usize>, BudgetError> {
    let weights: u64 = layers.iter().map(|layer| layer.weights).sum();
    let allowed = budget * weights as f64 / 8.0;
    let hulls: Vec<Vec<usize>> = layers.iter().map(hull).collect();
    let mut at = vec![0; layers.len()];
    let bytes =
        |layer: usize, step: usize| layers[layer].candidates[hulls[layer][step]].bytes as f64;
    let error = |layer: usize, step: usize| layers[layer].candidates[hulls[layer][step]].error;
    let mut used: f64 = (0..layers.len()).map(|layer| bytes(layer, 0)).sum();
    if used > allowed {
        return Err(BudgetError { budget, least: 8.0 * used / weights.max(1) as f64 });
    }
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (layer, hull) in hulls.iter().enumerate() {
        steps.extend((1..hull.len()).map(|step| {
            let gain = error(layer, step - 1) - error(layer, step);
            let gain = layers[layer].sensitivity * gain;
            (gain / (bytes(layer, step) - bytes(layer, step - 1)), layer, step)
        }));
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    for (_, layer, step) in steps {
        let more = bytes(layer, step) - bytes(layer, at[layer]);
        // A step that was skipped leaves those behind it worth less than they seem.
        if at[layer] + 1 == step && used + more <= allowed {
            at[layer] = step;
            used += more;
        }
    }
    Ok((0..layers.len()).map(|layer| hulls[layer][at[layer]]).collect())
}

/// The candidates that are worth their bytes: each lowers the error by more per byte than the next.
fn hull(layer: &Options) -> Vec<usize> {
    let all = &layer.candidates;
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|&a, &b| {
        all[a].bytes.cmp(&all[b].bytes).then(all[a].error.total_cmp(&all[b].error)).then(a.cmp(&b))
    });
    let slope =
        |a: usize, b: usize| (all[a].error - all[b].error) / (all[b].bytes - all[a].bytes) as f64;
    let mut hull: Vec<usize> = Vec::new();
    for candidate in order {
        let is_better = |&last: &usize| {
            all[candidate].error < all[last].error && all[candidate].bytes > all[last].bytes
        };
        if hull.last().is_some_and(|last| !is_better(last)) {
            continue;
        }
        while let [.., before, last] = hull.as_slice() {
            if slope(*before, *last) > slope(*last, candidate) {
                break;
            }
            hull.pop();
        }
        hull.push(candidate);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(candidates: &[(f64, u64)]) -> Options {
        let candidate = |&(error, bytes): &(f64, u64)| Candidate {
            method: Method::Mse,
            bits: Bits::B4,
            error,
            bytes,
        };
        let candidates = candidates.iter().map(candidate).collect();
        Options { weights: 8, sensitivity: 1.0, candidates }
    }

    #[test]
    fn a_budget_goes_where_it_lowers_the_error_most() {
        let sensitive = layer(&[(0.5, 3), (0.1, 4), (0.01, 8)]);
        let tolerant = layer(&[(0.02, 3), (0.01, 4), (0.001, 8)]);
        let layers = [tolerant, sensitive];
        let at = |budget| choose(&layers, Choice::BudgetBits(budget));
        // Bits are bytes here: eight weights.
        assert_eq!(at(3.0), Ok(vec![0, 0]));
        assert_eq!(at(3.5), Ok(vec![0, 1]));
        assert_eq!(at(5.5), Ok(vec![0, 2]));
        assert_eq!(at(8.0), Ok(vec![2, 2]));
        let error = at(2.9).expect_err("too little").to_string();
        assert!(error.contains("--budget-bits 2.9") && error.contains("3.000"), "{error}");
    }

    #[test]
    fn a_budget_goes_where_errors_arrive() {
        let candidates = [(0.1, 3), (0.05, 4)];
        let deaf = Options { sensitivity: 0.01, ..layer(&candidates) };
        let layers = [deaf, layer(&candidates)];
        assert_eq!(choose(&layers, Choice::BudgetBits(3.5)), Ok(vec![0, 1]));
    }

    #[test]
    fn candidates_above_the_hull_are_passed_over() {
        let options = layer(&[(1.0, 2), (0.95, 3), (0.5, 4), (0.6, 5), (0.4, 8), (0.5, 4)]);
        assert_eq!(hull(&options), [0, 2, 4]);
    }

    #[test]
    fn a_limit_takes_the_smallest_that_keeps_to_it_or_the_best_there_is() {
        let layers = [layer(&[(0.04, 3), (0.01, 4), (0.0001, 8)]), layer(&[(0.5, 3), (0.2, 8)])];
        assert_eq!(choose(&layers, Choice::MaxError(0.1)), Ok(vec![1, 1]));
        assert_eq!(choose(&layers, Choice::MaxError(0.2)), Ok(vec![0, 1]));
    }

    #[test]
    fn equal_errors_keep_the_cheaper_method() {
        assert_eq!(choose(&[layer(&[(0.1, 4), (0.099, 4)])], Choice::LeastError), Ok(vec![0]));
        assert_eq!(choose(&[layer(&[(0.1, 4), (0.05, 4)])], Choice::LeastError), Ok(vec![1]));
    }
}
