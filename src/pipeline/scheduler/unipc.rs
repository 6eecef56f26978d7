//! `UniPCMultistepScheduler` with flow sigmas: a multistep predictor and a corrector that costs no
//! evaluation of the model (arXiv 2302.04867).
//!
//! With `α = 1 − σ`, `λ = ln α − ln σ`, `h = λ_to − λ_from` and `m` the predicted clean samples:
//!
//! ```text
//! x_to = (σ_to / σ_from)·x_from − α_to·(e⁻ʰ − 1)·m₀ − α_to·B(h)·Σₖ ρₖ·(mₖ − m₀)/rₖ
//! ```
//!
//! `m₀` is the newest prediction before the step, `m₁, m₂` the ones before, `rₖ = (λₖ − λ₀)/h`. The
//! corrector repeats the last step with one more term: the prediction at its end, `r = 1`. The
//! weights `ρ` solve a small linear system. Coefficients are f32, as in the reference.

use super::{Scheduler, SolverType, UniPcConfig, check_step, linspace, shifted};
use std::collections::VecDeque;

/// Keeps `ln(1 − σ)` finite at the first level.
const SIGMA_MARGIN: f64 = 1e-6;

/// A run with predictor-corrector steps.
#[derive(Clone, Debug)]
pub struct UniPc {
    config: UniPcConfig,
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
    step_index: usize,
    /// Predicted clean samples, newest first, at most `solver_order`.
    predictions: VecDeque<Vec<f32>>,
    /// The corrected sample that the last step started from; empty before the first.
    last_sample: Vec<f32>,
    /// Order of the last step.
    last_order: usize,
}

impl UniPc {
    /// A run of `steps` steps; [`super::SchedulerConfig::build`] has checked their number.
    pub(super) fn new(config: &UniPcConfig, steps: usize) -> Self {
        let levels = config.num_train_timesteps as f64;
        let mut schedule: Vec<f64> = linspace(1.0, 1.0 / levels, steps, steps)
            .map(|sigma| shifted(config.flow_shift, sigma))
            .collect();
        if (schedule[0] - 1.0).abs() < SIGMA_MARGIN {
            schedule[0] -= SIGMA_MARGIN;
        }
        Self {
            config: config.clone(),
            // whole numbers, cut off rather than rounded
            timesteps: schedule.iter().map(|sigma| (sigma * levels).trunc() as f32).collect(),
            sigmas: schedule.iter().map(|&sigma| sigma as f32).chain([0.0]).collect(),
            step_index: 0,
            predictions: VecDeque::new(),
            last_sample: Vec::new(),
            last_order: 0,
        }
    }

    /// `λ` of level `index`; infinite for the last.
    fn lambda(&self, index: usize) -> f32 {
        let sigma = self.sigmas[index];
        (1.0 - sigma).ln() - sigma.ln()
    }

    /// The step from level `from` to the next one, with `order − 1` earlier predictions.
    fn transition(&self, from: usize, order: usize) -> Transition {
        let (sigma_from, sigma_to) = (self.sigmas[from], self.sigmas[from + 1]);
        let lambda = self.lambda(from);
        let h = self.lambda(from + 1) - lambda;
        Transition {
            sample: sigma_to / sigma_from,
            alpha: 1.0 - sigma_to,
            h,
            phi_1: (-h).exp_m1(),
            b: match self.config.solver_type {
                SolverType::Bh1 => -h,
                SolverType::Bh2 => (-h).exp_m1(),
            },
            ratios: (1..order).map(|k| (self.lambda(from - k) - lambda) / h).collect(),
        }
    }

    /// The sample of this step anew, now that the prediction `newest` at its level is known.
    fn correct(&self, newest: &[f32], sample: &mut [f32]) {
        let transition = self.transition(self.step_index - 1, self.last_order);
        let weights = transition.corrector_weights();
        let mut terms = self.terms(&transition, &weights);
        terms.push((weights[self.last_order - 1], newest));
        transition.apply(&self.last_sample, &self.predictions[0], &terms, sample);
    }

    /// The sample of the next level.
    fn predict(&self, order: usize, sample: &mut [f32]) {
        let transition = self.transition(self.step_index, order);
        let terms = self.terms(&transition, &transition.predictor_weights());
        transition.apply(&self.last_sample, &self.predictions[0], &terms, sample);
    }

    /// The earlier predictions `mₖ`, each with `ρₖ/rₖ`.
    fn terms(&self, transition: &Transition, weights: &[f32]) -> Vec<(f32, &[f32])> {
        let earlier = self.predictions.iter().skip(1);
        let ratios = transition.ratios.iter();
        weights.iter().zip(ratios).zip(earlier).map(|((w, r), m)| (w / r, m.as_slice())).collect()
    }
}

impl Scheduler for UniPc {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, model_output: &[f32], sample: &mut [f32]) {
        let (i, steps) = (self.step_index, self.timesteps.len());
        check_step(i, steps, model_output, sample);
        let sigma = self.sigmas[i];
        let newest: Vec<f32> =
            sample.iter().zip(model_output).map(|(x, v)| x - sigma * v).collect();
        if i > 0 {
            assert_eq!(sample.len(), self.last_sample.len(), "the sample's length has changed");
            if !self.config.disable_corrector.contains(&(i - 1)) {
                self.correct(&newest, sample);
            }
        }
        self.predictions.truncate(self.config.solver_order - 1);
        self.predictions.push_front(newest);
        // lower orders while the history fills up, and again towards the last level
        let order = self.config.solver_order.min(i + 1).min(steps - i);
        self.last_sample.clear();
        self.last_sample.extend_from_slice(sample);
        self.predict(order, sample);
        self.last_order = order;
        self.step_index += 1;
    }
}

/// The coefficients of one step between two levels.
struct Transition {
    /// `σ_to / σ_from`.
    sample: f32,
    /// `α_to`.
    alpha: f32,
    /// `λ_to − λ_from`.
    h: f32,
    /// `e⁻ʰ − 1`.
    phi_1: f32,
    /// `B(h)`.
    b: f32,
    /// `rₖ` of the earlier predictions.
    ratios: Vec<f32>,
}

impl Transition {
    /// `ρ` for the earlier predictions. The second-order weight is the constant that the system
    /// would approach for small steps.
    fn predictor_weights(&self) -> Vec<f32> {
        match self.ratios.len() {
            0 => Vec::new(),
            1 => vec![0.5],
            _ => self.solve(&self.ratios),
        }
    }

    /// `ρ` for the earlier predictions, and last for the one at the end of the step.
    fn corrector_weights(&self) -> Vec<f32> {
        if self.ratios.is_empty() {
            return vec![0.5];
        }
        let ratios: Vec<f32> = self.ratios.iter().copied().chain([1.0]).collect();
        self.solve(&ratios)
    }

    /// Solves `Σⱼ rⱼᵏ⁻¹·ρⱼ = bₖ`, `k = 1 … n`, for the `n` given `r`.
    fn solve(&self, ratios: &[f32]) -> Vec<f32> {
        let n = ratios.len();
        let hh = -self.h;
        let mut phi = self.phi_1 / hh - 1.0;
        let mut factorial = 1.0;
        let mut rows = Vec::with_capacity(n);
        for k in 1..=n {
            let power = i32::try_from(k - 1).expect("the order is at most three");
            let mut row: Vec<f64> = ratios.iter().map(|r| f64::from(r.powi(power))).collect();
            row.push(f64::from(phi * factorial / self.b));
            rows.push(row);
            factorial *= (k + 1) as f32;
            phi = phi / hh - 1.0 / factorial;
        }
        gauss(rows).into_iter().map(|weight| weight as f32).collect()
    }

    /// Writes the step that starts from the sample `from` with prediction `m_0`.
    fn apply(&self, from: &[f32], m_0: &[f32], terms: &[(f32, &[f32])], sample: &mut [f32]) {
        for (i, x) in sample.iter_mut().enumerate() {
            *x = self.sample * from[i] - self.alpha * self.phi_1 * m_0[i];
            // no `0·B`: towards the last level `B` may be infinite
            if !terms.is_empty() {
                let change: f32 = terms.iter().map(|(weight, m)| weight * (m[i] - m_0[i])).sum();
                *x -= self.alpha * self.b * change;
            }
        }
    }
}

/// Solves a linear system of `n` rows of `n + 1` numbers by elimination with row exchanges.
fn gauss(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))
            .unwrap_or(column);
        rows.swap(column, pivot);
        let (done, rest) = rows.split_at_mut(column + 1);
        let pivot_row = &done[column];
        for row in rest {
            let factor = row[column] / pivot_row[column];
            for (value, pivot_value) in row.iter_mut().zip(pivot_row) {
                *value -= factor * pivot_value;
            }
        }
    }
    let mut solution = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|column| rows[row][column] * solution[column]).sum();
        solution[row] = (rows[row][n] - known) / rows[row][row];
    }
    solution
}
