//! What an evaluation found, in numbers.

use super::{Case, EvaluateError, EvaluationSettings, sample_seed};
use crate::world::{Agreement, Clip, Motion, Scores};
use rayon::prelude::*;
use serde::Serialize;

/// Version of the JSON document of an [`Evaluation`].
pub const SCHEMA: u32 = 1;

/// Mean and deviation over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Statistic {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of one seed's value; `None` with a single seed.
    pub sd: Option<f64>,
}

impl Statistic {
    /// The statistic of one value per seed; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = mean(values.iter().copied())?;
        let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>();
        Some(Self { mean, sd: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) })
    }
}

/// How well captions are followed: shares of the clips, and means over those where the value can
/// be measured. See [`Scores`] for the definitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaptionScores {
    /// Clips per seed.
    pub clips: usize,
    /// Clips that show the object, the way and the background that the caption names.
    pub caption_accuracy: Option<Statistic>,
    /// Clips with the caption's shape.
    pub shape_accuracy: Option<Statistic>,
    /// Clips with the caption's color of the object.
    pub color_accuracy: Option<Statistic>,
    /// Clips with the caption's direction or standstill, at any speed.
    pub direction_accuracy: Option<Statistic>,
    /// Clips with the caption's direction and speed.
    pub motion_accuracy: Option<Statistic>,
    /// Clips with the caption's background.
    pub background_accuracy: Option<Statistic>,
    /// Clips in which an object can be followed: what the means below rest on.
    pub object_found: Option<Statistic>,
    /// Way of objects that are to move, divided by the way asked for: 1 is right.
    pub dynamic_degree: Option<Statistic>,
    /// Way of objects that are to stay still, in frames: 0 is right.
    pub stray_motion: Option<Statistic>,
    /// 1 for a straight way at one speed.
    pub motion_smoothness: Option<Statistic>,
    /// Below 1 for flicker, and a little for motion.
    pub frame_smoothness: Option<Statistic>,
    /// 1 for an object that keeps color, shape and size.
    pub subject_consistency: Option<Statistic>,
    /// 1 for a background that stays the same.
    pub background_consistency: Option<Statistic>,
}

impl CaptionScores {
    /// The scores of `runs`, one per seed, each with the scores of its clips and the motion that
    /// was asked for; `None` without clips.
    pub fn of(runs: &[Vec<(Motion, Scores)>]) -> Option<Self> {
        let clips = runs.first().map(Vec::len).filter(|&clips| clips > 0)?;
        // One mean per seed; seeds in which nothing can be measured have none.
        let over = |value: &dyn Fn(Motion, &Scores) -> Option<f64>| {
            let one = |run: &Vec<(Motion, Scores)>| {
                mean(run.iter().filter_map(|(motion, scores)| value(*motion, scores)))
            };
            Statistic::of(&runs.iter().filter_map(one).collect::<Vec<_>>())
        };
        let share = |holds: fn(&Scores) -> bool| {
            over(&|_, scores| Some(f64::from(u8::from(holds(scores)))))
        };
        let still = |motion: Motion| motion == Motion::Still;
        Some(Self {
            clips,
            caption_accuracy: share(|scores| scores.all),
            shape_accuracy: share(|scores| scores.shape),
            color_accuracy: share(|scores| scores.color),
            direction_accuracy: share(|scores| scores.direction),
            motion_accuracy: share(|scores| scores.speed),
            background_accuracy: share(|scores| scores.background),
            object_found: share(|scores| scores.dynamic_degree.is_some()),
            dynamic_degree: over(&|asked, s| s.dynamic_degree.filter(|_| !still(asked))),
            stray_motion: over(&|asked, s| s.dynamic_degree.filter(|_| still(asked))),
            motion_smoothness: over(&|_, scores| scores.motion_smoothness),
            frame_smoothness: over(&|_, scores| scores.frame_smoothness),
            subject_consistency: over(&|_, scores| scores.subject_consistency),
            background_consistency: over(&|_, scores| scores.background_consistency),
        })
    }
}

/// Scores of captions by whether training may have seen them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Captions {
    /// All of them.
    pub all: CaptionScores,
    /// Those that training may have seen.
    pub seen: Option<CaptionScores>,
    /// Combinations of words that no training has seen.
    pub held_out: Option<CaptionScores>,
    /// All of them, for their scenes after encoding and decoding: what the autoencoder leaves
    /// possible. One run, so without deviation.
    pub ceiling: Option<CaptionScores>,
}

/// Mean squared difference at one noise level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LevelScore {
    /// The noise level, up to 1 for pure noise.
    pub noise_level: f64,
    /// Mean squared difference per element.
    pub mse: Option<Statistic>,
}

/// How far clips and velocities are those of another model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgreementScores {
    /// The other model.
    pub reference: String,
    /// Peak signal-to-noise ratio of the clips, decibels; see [`crate::world::psnr`].
    pub psnr: Option<Statistic>,
    /// Structural similarity of the clips, 1 at most; see [`crate::world::ssim`].
    pub ssim: Option<Statistic>,
    /// Mean over noise levels of the squared difference of the velocities.
    pub velocity_mse: Option<Statistic>,
    /// The same by noise level.
    pub velocity_mse_by_level: Vec<LevelScore>,
}

/// One clip of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClipReport {
    /// Seed of the evaluation.
    pub seed: u64,
    /// Seed that makes this clip with `qvgen sample`.
    pub sample_seed: u64,
    /// What the model was told.
    pub prompt: String,
    /// Whether no training has seen the caption; `None` for other prompts.
    pub is_held_out: Option<bool>,
    /// What the clip shows against what it should; `None` for other prompts.
    pub scores: Option<Scores>,
    /// How far it is the reference's clip.
    pub agreement: Option<Agreement>,
}

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Version of this document.
    pub schema: u32,
    /// How it was measured.
    pub settings: EvaluationSettings,
    /// How well captions are followed; `None` for other prompts.
    pub captions: Option<Captions>,
    /// Agreement with the reference; `None` without one.
    pub agreement: Option<AgreementScores>,
    /// Mean squared difference of the predicted velocities and the true ones of scenes, the
    /// training loss of flow matching, by noise level; empty without scenes.
    pub flow_loss_by_level: Vec<LevelScore>,
    /// Every clip, seed by seed.
    pub clips: Vec<ClipReport>,
}

impl Evaluation {
    /// Scores `runs`, the clips of all `cases` for each seed, alone and against the reference's
    /// name and clips. Whoever sampled them is not asked, so velocities and ceiling are missing.
    ///
    /// # Errors
    ///
    /// If clips of model and reference differ in shape.
    ///
    /// # Panics
    ///
    /// If there is not one run per seed and one clip per case.
    pub fn of_clips(
        settings: &EvaluationSettings,
        cases: &[Case],
        runs: &[Vec<&Clip>],
        reference: Option<(&str, &[Vec<&Clip>])>,
    ) -> Result<Self, EvaluateError> {
        assert_eq!(runs.len(), settings.seeds.len(), "runs and seeds");
        assert!(runs.iter().all(|run| run.len() == cases.len()), "a clip for each case");
        let places: Vec<(usize, usize)> =
            (0..runs.len()).flat_map(|run| (0..cases.len()).map(move |case| (run, case))).collect();
        let report = |&(run, index): &(usize, usize)| {
            let (case, clip, seed) = (&cases[index], runs[run][index], settings.seeds[run]);
            let agreement = reference.map(|(_, clips)| Agreement::of(clip, clips[run][index]));
            Ok::<_, EvaluateError>(ClipReport {
                seed,
                sample_seed: sample_seed(seed, index),
                prompt: case.prompt.clone(),
                is_held_out: case.is_held_out(),
                scores: case.caption().map(|caption| Scores::of(caption, clip)),
                agreement: agreement.transpose()?,
            })
        };
        let clips = places.par_iter().map(report).collect::<Result<Vec<_>, _>>()?;
        let runs: Vec<&[ClipReport]> = clips.chunks(cases.len().max(1)).collect();
        Ok(Self {
            schema: SCHEMA,
            settings: settings.clone(),
            captions: captions(cases, &runs),
            agreement: reference.map(|(name, _)| AgreementScores {
                reference: name.to_owned(),
                psnr: agreement(&runs, |agreement| agreement.psnr),
                ssim: agreement(&runs, |agreement| agreement.ssim),
                velocity_mse: None,
                velocity_mse_by_level: Vec::new(),
            }),
            flow_loss_by_level: Vec::new(),
            clips,
        })
    }
}

fn captions(cases: &[Case], runs: &[&[ClipReport]]) -> Option<Captions> {
    let of = |is_wanted: fn(bool) -> bool| {
        let one = |run: &&[ClipReport]| -> Vec<(Motion, Scores)> {
            let pairs = cases.iter().zip(run.iter());
            let wanted = pairs.filter(|(case, _)| case.is_held_out().is_some_and(is_wanted));
            wanted
                .filter_map(|(case, report)| Some((case.caption()?.motion, report.scores.clone()?)))
                .collect()
        };
        CaptionScores::of(&runs.iter().map(one).collect::<Vec<_>>())
    };
    Some(Captions {
        all: of(|_| true)?,
        seen: of(|is_held_out| !is_held_out),
        held_out: of(|is_held_out| is_held_out),
        ceiling: None,
    })
}

fn agreement(runs: &[&[ClipReport]], value: fn(&Agreement) -> f64) -> Option<Statistic> {
    let one = |run: &&[ClipReport]| {
        mean(run.iter().filter_map(|report| report.agreement.as_ref().map(value)))
    };
    Statistic::of(&runs.iter().filter_map(one).collect::<Vec<_>>())
}

/// Mean of what there is; `None` of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_usize, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::Statistic;

    #[test]
    fn a_statistic_is_mean_and_sample_deviation() {
        assert_eq!(Statistic::of(&[]), None);
        assert_eq!(Statistic::of(&[2.0]), Some(Statistic { mean: 2.0, sd: None }));
        assert_eq!(
            Statistic::of(&[1.0, 3.0]),
            Some(Statistic { mean: 2.0, sd: Some(2_f64.sqrt()) })
        );
    }
}
