//! How distinguishable timesteps remain when their features are quantized: `td_score_recon`.
//!
//! QVD (arXiv 2407.11585) chooses the quantizer of the temporal features by a "temporal
//! discriminability score". Its equation was not available to us, so **this is our
//! reconstruction** and may differ from the paper's in kind. With features `e_t` of the timesteps
//! of a run, in order, and `ê_t` after quantization,
//!
//! ```text
//! direction  = mean over t of cos(e_{t+1} − e_t, ê_{t+1} − ê_t)
//! alive      = channels of ê that are not constant in t / channels of e that are not
//! identified = share of t whose ê_t is nearer to e_t than to any other e
//! score      = direction · alive
//! ```
//!
//! `identified` below 1 is a failure whatever the score: two timesteps have become one.

use serde::Serialize;

/// The terms of the score; all are 1 without quantization.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TdScoreRecon {
    /// Mean cosine between the change from one timestep to the next before and after.
    pub direction: f64,
    /// Channels that still change with the timestep.
    pub alive: f64,
    /// Timesteps that are still nearest to themselves.
    pub identified: f64,
}

impl TdScoreRecon {
    /// The terms for the features `[timesteps, channels]` `before` and `after` quantization;
    /// `None` for fewer than two timesteps, or features that never change.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn of(before: &[f32], after: &[f32], channels: usize) -> Option<Self> {
        assert_eq!(before.len(), after.len(), "features before and after");
        let e: Vec<&[f32]> = before.chunks_exact(channels).collect();
        let q: Vec<&[f32]> = after.chunks_exact(channels).collect();
        let cosines: Vec<f64> = e
            .windows(2)
            .zip(q.windows(2))
            .filter_map(|(e, q)| cosine_of_changes([e[0], e[1]], [q[0], q[1]]))
            .collect();
        let varying = |rows: &[&[f32]]| -> Vec<bool> {
            (0..channels).map(|c| rows.iter().any(|row| row[c] != rows[0][c])).collect()
        };
        if cosines.is_empty() {
            return None;
        }
        let (was, is) = (varying(&e), varying(&q));
        let count = was.iter().filter(|&&varies| varies).count();
        let kept = was.iter().zip(&is).filter(|(was, is)| **was && **is).count();
        let nearest = |t: usize| {
            (0..e.len()).min_by(|&i, &j| distance(q[t], e[i]).total_cmp(&distance(q[t], e[j])))
        };
        // Equal features of different timesteps cannot be told apart before either.
        let identified = (0..e.len())
            .filter(|&t| nearest(t).is_some_and(|i| i == t || distance(e[i], e[t]) == 0.0))
            .count();
        Some(Self {
            direction: cosines.iter().sum::<f64>() / cosines.len() as f64,
            alive: kept as f64 / count.max(1) as f64,
            identified: identified as f64 / e.len() as f64,
        })
    }

    /// `direction · alive`.
    pub fn score(&self) -> f64 {
        self.direction * self.alive
    }

    /// The score, or −1 where timesteps have been confused: what quantizers are chosen by.
    pub fn gated(&self) -> f64 {
        if self.identified < 1.0 { -1.0 } else { self.score() }
    }
}

/// The cosine between two changes; `None` if there was no change, 0 if there is none left.
fn cosine_of_changes([e0, e1]: [&[f32]; 2], [q0, q1]: [&[f32]; 2]) -> Option<f64> {
    let (mut product, mut was, mut is) = (0.0, 0.0, 0.0);
    for c in 0..e0.len() {
        let (e, q) = (f64::from(e1[c] - e0[c]), f64::from(q1[c] - q0[c]));
        product += e * q;
        was += e * e;
        is += q * q;
    }
    (was > 0.0).then(|| if is > 0.0 { product / (was * is).sqrt() } else { 0.0 })
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_quantization_every_term_is_one() {
        let e = [0.0, 1.0, 0.5, 1.0, 2.0, 1.0];
        let score = TdScoreRecon::of(&e, &e, 2).expect("a score");
        assert_eq!((score.alive, score.identified), (1.0, 1.0));
        assert!((score.score() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_channel_that_collapses_and_timesteps_that_merge_cost() {
        let e = [0.0, 0.1, 1.0, 0.2, 2.0, 0.3];
        let dead = [0.0, 0.0, 1.0, 0.0, 2.0, 0.0];
        let score = TdScoreRecon::of(&e, &dead, 2).expect("a score");
        assert_eq!((score.alive, score.identified), (0.5, 1.0));
        let merged = [0.0, 0.1, 0.0, 0.2, 2.0, 0.3];
        let score = TdScoreRecon::of(&e, &merged, 2).expect("a score");
        assert!(score.identified < 1.0 && score.gated() == -1.0);
    }

    #[test]
    fn what_never_changes_has_no_score() {
        assert_eq!(TdScoreRecon::of(&[1.0, 2.0], &[1.0, 2.0], 2), None);
        assert_eq!(TdScoreRecon::of(&[1.0; 4], &[1.0; 4], 2), None);
    }
}
