//! One model after the other, measured by the same clips.

use super::scores::{CaptionScores, mean};
use super::{
    Case, ClipSampler, EvaluateError, Evaluation, EvaluationSettings, LevelScore, Sample,
    Statistic, sample_seed,
};
use crate::kernels::device::OpenDevice;
use crate::models::{Denoiser, DenoiserConfig};
use crate::pipeline::cancel::Cancel;
use crate::pipeline::model::VideoModel;
use crate::world::{Clip, Scores, render};
use burn::tensor::Tensor;

/// What an evaluation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Text encoder blocks.
    Text,
    /// Clips.
    Sample,
    /// Clips whose velocities are compared.
    Velocity,
}

/// Told of progress: `done` of `total` units of a stage.
pub type Progress<'a> = dyn FnMut(Stage, usize, usize) + 'a;

/// An evaluation and the clips it rests on.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// The scores.
    pub evaluation: Evaluation,
    /// The clips of all cases, for each seed.
    pub runs: Vec<Vec<Sample>>,
}

/// Measures any number of transformers that share one text encoder and autoencoder: a model and
/// its quantized students.
///
/// Built once, it holds the embedded prompts, the decoder, the latents of the scenes and the
/// reference's clips and velocities, so evaluating a transformer costs sampling and nothing else.
#[derive(Debug)]
pub struct Evaluator<'a> {
    sampler: ClipSampler<'a>,
    transformer: &'a dyn DenoiserConfig,
    settings: EvaluationSettings,
    cases: Vec<Case>,
    embeds: Vec<Tensor<2>>,
    negative: Option<Tensor<2>>,
    probes: Vec<Probe>,
    ceiling: Option<CaptionScores>,
    reference: Option<Reference>,
}

/// A clean latent between which and noise velocities are compared.
#[derive(Debug)]
struct Probe {
    case: usize,
    latent: Vec<f32>,
}

/// Velocities `[seed][probe][level]`.
type Velocities = Vec<Vec<Vec<Vec<f32>>>>;

/// What is found of one probe under the noise of a seed, `[level]`.
type OfProbe<'a> =
    dyn Fn(&Probe, (u64, &[f64])) -> Result<Vec<Vec<f32>>, EvaluateError> + Sync + 'a;

/// What another model makes of the same cases.
#[derive(Debug)]
struct Reference {
    name: String,
    runs: Vec<Vec<Sample>>,
    velocities: Velocities,
}

impl<'a> Evaluator<'a> {
    /// Embeds the prompts of `cases`, loads the decoder and encodes the scenes.
    ///
    /// # Errors
    ///
    /// If a setting is impossible, a parameter is missing, the device fails, or the run is
    /// canceled.
    pub fn new(
        model: &'a VideoModel,
        device: &'a OpenDevice,
        cancel: Cancel,
        settings: EvaluationSettings,
        cases: Vec<Case>,
        progress: &mut Progress<'_>,
    ) -> Result<Self, EvaluateError> {
        settings.check(model)?;
        let sampler = ClipSampler::new(model, device, cancel, settings.sampling.clone())?;
        let negative = settings.sampling.negative_prompt.as_str();
        let guided = settings.sampling.uses_guidance().then_some(negative);
        let prompts: Vec<&str> =
            cases.iter().map(|case| case.prompt.as_str()).chain(guided).collect();
        let mut embeds =
            sampler.embed(&prompts, &mut |done, total| progress(Stage::Text, done, total))?;
        let negative = guided.and_then(|_| embeds.pop());
        let mut evaluator = Self {
            sampler,
            transformer: &*model.transformer,
            settings,
            cases,
            embeds,
            negative,
            probes: Vec::new(),
            ceiling: None,
            reference: None,
        };
        evaluator.encode_scenes()?;
        Ok(evaluator)
    }

    /// The cases, in the order of every run.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// The settings.
    pub fn settings(&self) -> &EvaluationSettings {
        &self.settings
    }

    /// The reference's clips of all cases, for each seed.
    pub fn reference_runs(&self) -> Option<&[Vec<Sample>]> {
        self.reference.as_ref().map(|reference| reference.runs.as_slice())
    }

    /// Samples with `transformer`, under `name`, what every further evaluation is compared with.
    /// It is not kept.
    ///
    /// Velocities are compared on the scenes; without scenes, on what the reference has sampled
    /// with the first seed.
    ///
    /// # Errors
    ///
    /// If the transformer works on other latents or texts, the device fails, or the run is
    /// canceled.
    pub fn set_reference(
        &mut self,
        name: &str,
        transformer: &dyn Denoiser,
        progress: &mut Progress<'_>,
    ) -> Result<(), EvaluateError> {
        check_reference(self.transformer, transformer.config())?;
        let runs = self.runs(transformer, progress)?;
        if self.ceiling.is_none() {
            let samples = runs.first().into_iter().flatten().enumerate();
            let probe =
                |(case, sample): (usize, &Sample)| Probe { case, latent: sample.latent.clone() };
            self.probes = samples.map(probe).collect();
        }
        let velocities = self.velocities(transformer, progress)?;
        self.reference = Some(Reference { name: name.to_owned(), runs, velocities });
        Ok(())
    }

    /// Samples all cases with `transformer` and scores them.
    ///
    /// # Errors
    ///
    /// If the device fails, a value is not finite, or the run is canceled.
    pub fn evaluate(
        &self,
        transformer: &dyn Denoiser,
        progress: &mut Progress<'_>,
    ) -> Result<Evaluated, EvaluateError> {
        let runs = self.runs(transformer, progress)?;
        let reference = self.reference.as_ref();
        let reference_clips = reference.map(|reference| (&*reference.name, clips(&reference.runs)));
        let mut evaluation = Evaluation::of_clips(
            &self.settings,
            &self.cases,
            &clips(&runs),
            reference_clips.as_ref().map(|(name, clips)| (*name, clips.as_slice())),
        )?;
        if let Some(captions) = &mut evaluation.captions {
            captions.ceiling.clone_from(&self.ceiling);
        }
        if !self.probes.is_empty() {
            let velocities = self.velocities(transformer, progress)?;
            self.add_velocities(&mut evaluation, &velocities)?;
        }
        Ok(Evaluated { evaluation, runs })
    }

    /// Encodes the scenes: latents to compare velocities on, of captions that no training has seen
    /// if there are any, and what is left of the captions after decoding.
    fn encode_scenes(&mut self) -> Result<(), EvaluateError> {
        let settings = self.sampler.settings();
        let [frames, height, width] = [settings.frames, settings.height, settings.width];
        let scenes: Vec<_> =
            self.cases.iter().enumerate().filter_map(|(i, case)| Some((i, case.scene?))).collect();
        if scenes.is_empty() {
            return Ok(());
        }
        let rendered: Vec<Clip> =
            scenes.iter().map(|(_, scene)| render(scene, frames, height, width)).collect();
        let latents = self.sampler.encode(&rendered)?;
        let one = |i: usize| {
            let caption = scenes[i].1.caption;
            Ok((caption.motion, Scores::of(caption, &self.sampler.decode(&latents[i])?)))
        };
        let scores = self.sampler.map(scenes.len(), true, one, &mut |_| {})?;
        self.ceiling = CaptionScores::of(&[scores]);
        let has_held_out = scenes.iter().any(|(_, scene)| scene.is_held_out());
        let is_probe = |scene: &crate::world::Scene| scene.is_held_out() || !has_held_out;
        let probes = scenes.iter().zip(latents).filter(|((_, scene), _)| is_probe(scene));
        self.probes = probes.map(|((case, _), latent)| Probe { case: *case, latent }).collect();
        Ok(())
    }

    /// The clips of all cases, for each seed.
    fn runs(
        &self,
        transformer: &dyn Denoiser,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<Vec<Sample>>, EvaluateError> {
        let per_seed = self.cases.len();
        let total = per_seed * self.settings.seeds.len();
        progress(Stage::Sample, 0, total);
        let jobs: Vec<_> = self
            .settings
            .seeds
            .iter()
            .flat_map(|&seed| {
                let embeds = self.embeds.iter().enumerate();
                embeds.map(move |(index, embeds)| (embeds, sample_seed(seed, index)))
            })
            .collect();
        let mut samples =
            self.sampler.samples(transformer, self.negative.as_ref(), &jobs, &mut |done| {
                progress(Stage::Sample, done, total);
            })?;
        let mut runs = Vec::with_capacity(self.settings.seeds.len());
        for _ in &self.settings.seeds {
            let rest = samples.split_off(per_seed.min(samples.len()));
            runs.push(std::mem::replace(&mut samples, rest));
        }
        Ok(runs)
    }

    /// What the transformer predicts of the probes.
    fn velocities(
        &self,
        transformer: &dyn Denoiser,
        progress: &mut Progress<'_>,
    ) -> Result<Velocities, EvaluateError> {
        let predicted = |Probe { case, latent }: &Probe, levels: (u64, &[f64])| {
            self.sampler.velocities(transformer, &self.embeds[*case], latent, levels)
        };
        self.of_probes(!transformer.depends_on_step(), &predicted, progress)
    }

    /// What `find` says of every probe at the noise levels, under the noise of a seed.
    ///
    /// Side by side if they may be.
    fn of_probes(
        &self,
        may_be_parallel: bool,
        find: &OfProbe<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Velocities, EvaluateError> {
        let (seeds, probes) = (&self.settings.seeds, &self.probes);
        let total = seeds.len() * probes.len();
        progress(Stage::Velocity, 0, total);
        let one = |index: usize| {
            let probe = &probes[index % probes.len()];
            let seed = sample_seed(seeds[index / probes.len()], probe.case);
            find(probe, (seed, self.settings.noise_levels.as_slice()))
        };
        let mut all = self
            .sampler
            .map(total, may_be_parallel, one, &mut |done| {
                progress(Stage::Velocity, done, total);
            })?
            .into_iter();
        Ok(seeds.iter().map(|_| all.by_ref().take(probes.len()).collect()).collect())
    }

    /// Completes an evaluation with what velocities tell.
    fn add_velocities(
        &self,
        evaluation: &mut Evaluation,
        velocities: &Velocities,
    ) -> Result<(), EvaluateError> {
        let levels = &self.settings.noise_levels;
        // One value per seed: the mean over probes of `mse(seed, probe, level)`.
        let by_level = |mse: &dyn Fn(usize, usize, usize) -> f64| -> Vec<Vec<f64>> {
            let one = |level: usize, seed: usize| {
                mean((0..self.probes.len()).map(|probe| mse(seed, probe, level)))
            };
            (0..levels.len())
                .map(|level| (0..velocities.len()).filter_map(|seed| one(level, seed)).collect())
                .collect()
        };
        let scores = |values: &[Vec<f64>]| -> Vec<LevelScore> {
            let pairs = levels.iter().zip(values);
            pairs
                .map(|(&noise_level, v)| LevelScore { noise_level, mse: Statistic::of(v) })
                .collect()
        };
        if self.ceiling.is_some() {
            let truth = |probe: &Probe, levels: (u64, &[f64])| {
                self.sampler.true_velocities(&probe.latent, levels)
            };
            let truth = self.of_probes(true, &truth, &mut |_, _, _| {})?;
            let values = by_level(&|seed, probe, level| {
                mean_square(&velocities[seed][probe][level], &truth[seed][probe][level])
            });
            evaluation.flow_loss_by_level = scores(&values);
        }
        if let (Some(agreement), Some(reference)) = (&mut evaluation.agreement, &self.reference) {
            let values = by_level(&|seed, probe, level| {
                let theirs = &reference.velocities[seed][probe][level];
                mean_square(&velocities[seed][probe][level], theirs)
            });
            let seeds = 0..velocities.len();
            let all: Vec<f64> =
                seeds.filter_map(|seed| mean(values.iter().map(|level| level[seed]))).collect();
            agreement.velocity_mse = Statistic::of(&all);
            agreement.velocity_mse_by_level = scores(&values);
        }
        Ok(())
    }
}

/// Checks that a transformer works on the same latents and texts as `model`'s, so that their
/// clips can be compared.
///
/// # Errors
///
/// Names the sizes that differ.
pub fn check_reference(
    model: &dyn DenoiserConfig,
    reference: &dyn DenoiserConfig,
) -> Result<(), EvaluateError> {
    let pairs = [
        ("in_channels", reference.in_channels(), model.in_channels()),
        ("out_channels", reference.out_channels(), model.out_channels()),
        ("text_dim", reference.text_dim(), model.text_dim()),
    ];
    match pairs.into_iter().find(|(_, reference, model)| reference != model) {
        None => Ok(()),
        Some((field, reference, model)) => {
            Err(EvaluateError::Reference { field, reference, model })
        }
    }
}

fn clips(runs: &[Vec<Sample>]) -> Vec<Vec<&Clip>> {
    runs.iter().map(|run| run.iter().map(|sample| &sample.clip).collect()).collect()
}

fn mean_square(a: &[f32], b: &[f32]) -> f64 {
    let square = |(a, b): (&f32, &f32)| f64::from(a - b) * f64::from(a - b);
    a.iter().zip(b).map(square).sum::<f64>() / a.len().max(1) as f64
}
