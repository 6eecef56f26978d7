//! Rank decay: how much of Φ is left at every step (paper §3.3, Algorithm 1).
//!
//! Training is divided into phases of equal length, one per rank. Within a phase the first
//! singular directions stay, and those that the next phase will not have are annealed from 1 to
//! almost 0 by `u`. The released code halves down to rank 1 and then to none, which is one phase
//! more than Algorithm 1 prints; the ranks are a list here, so either can be had.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How `u` falls from 1 to 0 within a phase, by the share `x` of the phase that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Annealing {
    /// `(1 + cos πx) / 2`, the paper's.
    #[default]
    Cosine,
    /// `1 − x`.
    Linear,
    /// `(1 − x)²`.
    Quadratic,
    /// `(1 − x)³`.
    Cubic,
    /// `√(1 − x)`.
    SquareRoot,
    /// Always 1: Φ is never removed.
    Never,
}

impl Annealing {
    /// `u` when the share `x` of a phase is over.
    pub fn at(self, x: f64) -> f64 {
        match self {
            Self::Cosine => (1.0 + (PI * x).cos()) / 2.0,
            Self::Linear => 1.0 - x,
            Self::Quadratic => (1.0 - x).powi(2),
            Self::Cubic => (1.0 - x).powi(3),
            Self::SquareRoot => (1.0 - x).sqrt(),
            Self::Never => 1.0,
        }
    }
}

/// Why ranks make no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not falling, or containing 0.
    #[error("the ranks {0:?} must fall and be at least 1, for example [32, 16, 8, 4, 2, 1]")]
    Ranks(Vec<usize>),
    /// Fewer steps than phases.
    #[error(
        "{steps} steps are too few for {phases} phases of rank decay; ask for at least {phases}"
    )]
    Steps {
        /// Steps asked for.
        steps: usize,
        /// Phases.
        phases: usize,
    },
}

/// The ranks of Φ over a whole training.
#[derive(Clone, Debug, PartialEq)]
pub struct RankSchedule {
    ranks: Vec<usize>,
    annealing: Annealing,
    phase_steps: usize,
}

impl RankSchedule {
    /// A schedule of the given falling ranks over `steps` steps, `⌊steps / ranks⌋` each; the steps
    /// that are left over have no Φ.
    ///
    /// # Errors
    ///
    /// If the ranks do not fall, or there are more ranks than steps.
    pub fn new(
        ranks: Vec<usize>,
        annealing: Annealing,
        steps: usize,
    ) -> Result<Self, ScheduleError> {
        let falls = ranks.windows(2).all(|pair| pair[0] > pair[1]);
        if ranks.is_empty() || !falls || ranks.contains(&0) {
            return Err(ScheduleError::Ranks(ranks));
        }
        if steps < ranks.len() {
            return Err(ScheduleError::Steps { steps, phases: ranks.len() });
        }
        let phase_steps = steps / ranks.len();
        Ok(Self { ranks, annealing, phase_steps })
    }

    /// The ranks from `rank` on when every phase drops the share `lambda` of them, at least one:
    /// 32 and ½ give 32, 16, 8, 4, 2, 1; λ = 1 drops all in one phase.
    pub fn ranks_from(rank: usize, lambda: f64) -> Vec<usize> {
        let mut ranks = Vec::new();
        let mut rank = rank;
        while rank > 0 {
            ranks.push(rank);
            let kept = ((1.0 - lambda) * rank as f64).floor().max(0.0) as usize;
            rank = kept.min(rank - 1);
        }
        ranks
    }

    /// Rank at the first step.
    pub fn initial_rank(&self) -> usize {
        self.ranks[0]
    }

    /// Steps of a phase.
    pub fn phase_steps(&self) -> usize {
        self.phase_steps
    }

    /// Number of phases.
    pub fn phases(&self) -> usize {
        self.ranks.len()
    }

    /// What is left of Φ at `step`.
    pub fn at(&self, step: usize) -> Phase {
        let (index, within) = (step / self.phase_steps, step % self.phase_steps);
        if self.annealing == Annealing::Never {
            let rank = self.ranks[0];
            return Phase { index: 0, rank, kept: rank, u: 1.0, starts: step == 0 };
        }
        let starts = within == 0 && index <= self.ranks.len();
        let Some(&rank) = self.ranks.get(index) else {
            return Phase { index: self.ranks.len(), rank: 0, kept: 0, u: 0.0, starts };
        };
        let kept = self.ranks.get(index + 1).copied().unwrap_or(0);
        let u = self.annealing.at(within as f64 / self.phase_steps as f64) as f32;
        Phase { index, rank, kept, u, starts }
    }
}

/// Φ at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Number of the phase, from 0.
    pub index: usize,
    /// Rank of Φ; 0 once it is gone.
    pub rank: usize,
    /// Directions that the next phase will still have.
    pub kept: usize,
    /// Factor of the others.
    pub u: f32,
    /// Whether this is the first step of its phase.
    pub starts: bool,
}

impl Phase {
    /// γ: a factor per direction, `kept` ones and then `u`.
    pub fn gamma(&self) -> Vec<f32> {
        (0..self.rank).map(|i| if i < self.kept { 1.0 } else { self.u }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_schedule_of_rank_four_in_phases_of_five() {
        let schedule = RankSchedule::new(vec![4, 2, 1], Annealing::Cosine, 17).unwrap();
        let u = [1.0, 0.9045, 0.6545, 0.3455, 0.0955];
        for (phase, rank) in [4, 2, 1].into_iter().enumerate() {
            for (within, u) in u.into_iter().enumerate() {
                let at = schedule.at(5 * phase + within);
                assert_eq!((at.rank, at.index, at.starts), (rank, phase, within == 0));
                assert!((at.u - u).abs() < 1e-4, "{at:?}");
            }
        }
        assert_eq!(schedule.at(5).gamma(), [1.0, 1.0]);
        assert_eq!(schedule.at(10).gamma(), [1.0]);
        assert_eq!((schedule.at(15).rank, schedule.at(15).starts), (0, true));
        assert_eq!((schedule.at(16).rank, schedule.at(16).starts), (0, false));
        assert!(schedule.at(16).gamma().is_empty());
    }

    #[test]
    fn gamma_never_jumps_for_a_direction_that_stays() {
        let ranks = RankSchedule::ranks_from(32, 0.5);
        assert_eq!(ranks, [32, 16, 8, 4, 2, 1]);
        for annealing in [Annealing::Cosine, Annealing::Linear, Annealing::Cubic] {
            let schedule = RankSchedule::new(ranks.clone(), annealing, 2667).unwrap();
            assert_eq!(schedule.phase_steps(), 444);
            let mut last = schedule.at(0).gamma();
            for step in 1..2667 {
                let gamma = schedule.at(step).gamma();
                for (i, before) in last.iter().enumerate() {
                    // A direction is cut only when almost nothing of it was left.
                    let now = gamma.get(i).copied().unwrap_or(0.0);
                    assert!((before - now).abs() < 0.01, "step {step}: γ[{i}] {before} to {now}");
                }
                last = gamma;
            }
        }
    }

    #[test]
    fn one_phase_drops_everything_and_never_drops_nothing() {
        assert_eq!(RankSchedule::ranks_from(32, 1.0), [32]);
        assert_eq!(RankSchedule::ranks_from(4, 0.25), [4, 3, 2, 1]);
        let kept = RankSchedule::new(vec![8], Annealing::Never, 10).unwrap();
        assert_eq!(kept.at(9).gamma(), [1.0; 8]);
    }

    #[test]
    fn impossible_schedules_are_refused() {
        let new =
            |ranks: &[usize], steps| RankSchedule::new(ranks.to_vec(), Annealing::Cosine, steps);
        assert!(new(&[], 5).is_err());
        assert!(new(&[4, 4], 5).is_err());
        assert!(new(&[4, 0], 5).is_err());
        assert!(new(&[4, 2], 1).unwrap_err().to_string().contains("at least 2"));
    }
}
