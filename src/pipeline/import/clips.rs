//! Which of a layer's 50 clips are used where.
//!
//! The released code trains one clip per group of timesteps, `int(t) mod 50`, but uses them in
//! inference by counting forward passes (`inference/wan.py --fix`) or, without that flag, only the
//! last group. Since neighboring timesteps fall into different groups, all groups see alike data,
//! and one mean clip for all steps is the natural reading.

use crate::quant::{ActivationQuantizer, Bits, ByStep, Scheme, StepRule, TokenRange, TokenSpec};
use std::fmt;
use std::str::FromStr;

/// Factor of the extremes before the learned clip (`clip_ratio` of the released code, which the
/// learned clip starts from once more).
const CLIP_RATIO: f32 = 0.95;

/// Transformers whose pipelines predict both branches of guidance in one forward pass of a batch
/// of two, so that the released code counts one pass in each step.
const BATCHED_GUIDANCE: [&str; 1] = ["CogVideoXTransformer3DModel"];

/// What counts the passes of the released code for a transformer of `class_name`: here, the
/// branches of guidance are passes of their own.
pub(super) fn countdown_of(class_name: &str) -> StepRule {
    if BATCHED_GUIDANCE.contains(&class_name) {
        StepRule::StepCountdown
    } else {
        StepRule::CallCountdown
    }
}

/// How a group is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipGroups {
    /// The mean of all clips, in every step.
    Mean,
    /// The last group in the first forward pass, then one less each time, then the first for good:
    /// the released code with `--fix`.
    Countdown,
    /// The group that was trained for the timestep.
    PerStep,
    /// The same group in every step; the last one is the released code without `--fix`.
    One(usize),
}

impl FromStr for ClipGroups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mean" => Ok(Self::Mean),
            "countdown" => Ok(Self::Countdown),
            "per-step" => Ok(Self::PerStep),
            number => number.parse().map(Self::One).map_err(|_| {
                "expected mean, countdown, per-step, or the number of one group".to_owned()
            }),
        }
    }
}

impl fmt::Display for ClipGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Countdown => f.write_str("countdown"),
            Self::PerStep => f.write_str("per-step"),
            Self::One(group) => write!(f, "{group}"),
        }
    }
}

impl ClipGroups {
    /// The quantizer of a layer whose learned logits by group are `upper` and `lower`; both empty
    /// for a layer without learned clips. `countdown` is what [`countdown_of`] says.
    ///
    /// # Errors
    ///
    /// If there is no such group.
    pub(super) fn quantizer(
        self,
        bits: Bits,
        upper: &[f32],
        lower: &[f32],
        countdown: StepRule,
    ) -> Result<ActivationQuantizer, String> {
        let spec = |[clip_upper, clip_lower]: [f32; 2]| TokenSpec {
            bits,
            scheme: Scheme::AsymmetricClamped,
            range: TokenRange::Dynamic { clip_upper, clip_lower },
        };
        if upper.is_empty() {
            return Ok(spec([CLIP_RATIO; 2]).into());
        }
        let groups: Vec<[f32; 2]> =
            upper.iter().zip(lower).map(|(&upper, &lower)| [clip(upper), clip(lower)]).collect();
        let by_step = |rule| {
            let specs = groups.iter().map(|&clips| spec(clips)).collect();
            ActivationQuantizer::ByStep(ByStep { rule, specs })
        };
        match self {
            Self::Mean => Ok(spec([0, 1].map(|end| mean(&groups, end))).into()),
            Self::Countdown => Ok(by_step(countdown)),
            Self::PerStep => Ok(by_step(StepRule::TimestepModulo)),
            Self::One(group) => {
                groups.get(group).map(|&clips| spec(clips).into()).ok_or_else(|| {
                    format!("has {} groups of clips, so there is no group {group}", groups.len())
                })
            }
        }
    }
}

/// The factor of an extreme that a learned logit stands for.
fn clip(logit: f32) -> f32 {
    CLIP_RATIO / (1.0 + (-logit).exp())
}

fn mean(groups: &[[f32; 2]], end: usize) -> f32 {
    let sum: f64 = groups.iter().map(|clips| f64::from(clips[end])).sum();
    (sum / groups.len() as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for groups in
            [ClipGroups::Mean, ClipGroups::Countdown, ClipGroups::PerStep, ClipGroups::One(7)]
        {
            assert_eq!(groups.to_string().parse(), Ok(groups));
        }
        assert!("last".parse::<ClipGroups>().is_err() && "-1".parse::<ClipGroups>().is_err());
    }

    #[test]
    fn the_first_clip_is_the_ratio_twice() {
        // logit(0.95), with which training starts
        assert!((clip((0.95_f32 / 0.05).ln()) - 0.9025).abs() < 1e-6);
        assert_eq!(clip(0.0), 0.475);
        assert_eq!((clip(f32::MAX), clip(f32::MIN)), (0.95, 0.0));
    }

    #[test]
    fn a_mean_is_taken_over_clips_and_not_over_logits() {
        let quantizer = |groups: ClipGroups| {
            groups.quantizer(Bits::B4, &[0.0, 100.0], &[0.0, 0.0], StepRule::StepCountdown)
        };
        let mean = quantizer(ClipGroups::Mean).unwrap();
        let ActivationQuantizer::Uniform(spec) = mean else { panic!("{mean:?}") };
        assert_eq!(
            spec.range,
            TokenRange::Dynamic { clip_upper: (0.475 + 0.95) / 2.0, clip_lower: 0.475 }
        );
        assert!(quantizer(ClipGroups::One(2)).is_err());
        let countdown = quantizer(ClipGroups::Countdown).unwrap();
        let ActivationQuantizer::ByStep(steps) = countdown else { panic!("{countdown:?}") };
        assert_eq!((steps.rule, steps.specs.len()), (StepRule::StepCountdown, 2));
    }
}
