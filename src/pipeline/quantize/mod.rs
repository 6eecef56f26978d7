//! A model folder to a packed one, layer by layer: the peak is one layer, not the model.
//!
//! | file | what it decides |
//! |---|---|
//! | `post_training` | methods that look at a layer's input, and the choice between them |
//! | `spool` | where solved layers wait until the sizes of all are known |
//! | `packing` | what becomes of each tensor of a component |
//! | `report` | what was done, layer by layer, and what was left alone and why |

mod packing;
mod post_training;
mod report;
mod spool;

pub(super) use packing::relative_error;
pub use post_training::{ChoiceReport, PostTraining};
pub use report::{LayerReport, LeftAlone, QuantizeReport, REPORT_FILE};

use super::PipelineError;
use super::atomic::{AtomicFolder, Existing};
use super::calibrate::{Observations, Sensitivities, calibrate, sensitivities};
use super::cancel::Cancel;
use super::checkpoint::ComponentKind;
use super::companions::{MARKER, write_companions, write_json};
use super::model::VideoModel;
use super::packed::FORMAT;
use crate::kernels::device::OpenDevice;
use crate::method::Rounding;
use crate::method::ptq::Method;
use crate::method::ptq::auto::Choice;
use packing::Packing;
use post_training::Solver;
use spool::Spool;
use std::path::PathBuf;

/// What to do.
#[derive(Clone, Debug)]
pub struct QuantizeJob {
    /// Folder to write.
    pub out: PathBuf,
    /// The transformer.
    pub transformer: Rounding,
    /// How its layers are quantized; `None` to round them as `transformer` says and no more.
    pub post_training: Option<PostTraining>,
    /// The text encoder; `None` to leave it as it is.
    pub text_encoder: Option<Rounding>,
    /// Leave components that are not quantized where they are, instead of copying them.
    pub refer: bool,
    /// Replace an earlier output.
    pub overwrite: bool,
    /// Largest file.
    pub max_shard_bytes: u64,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Denoising steps of the clips that layers are observed in.
    Observing,
    /// Layers whose output is disturbed, to see what arrives at the prediction.
    Disturbing,
    /// Layers whose candidates are measured.
    Measuring,
    /// Layers that are quantized.
    Quantizing,
}

/// Told of progress: `done` of `total` units of a stage.
pub type Progress<'a> = dyn FnMut(Stage, usize, usize) + 'a;

/// Quantizes `model` as `job` says.
///
/// # Errors
///
/// If a file is unusable, already quantized, or the output cannot be written. Nothing stays half
/// written; what was observed of whole clips stays in the user's cache.
pub fn quantize(
    model: &VideoModel,
    job: &QuantizeJob,
    device: &OpenDevice,
    cancel: &Cancel,
    progress: &mut Progress<'_>,
) -> Result<QuantizeReport, PipelineError> {
    model.check_files()?;
    let existing = if job.overwrite { Existing::ReplaceIfItHas(MARKER) } else { Existing::Refuse };
    let folder = AtomicFolder::create(&job.out, existing)?;
    let mut report = QuantizeReport::default();
    let spool = match &job.post_training {
        Some(post_training) => {
            let mut spool = Spool::new(folder.path())?;
            let work = Work { model, job, device, cancel };
            work.solve(post_training, &mut spool, &mut report, progress)?;
            Some(spool)
        }
        None => None,
    };
    let linears = model.transformer.linears();
    report.left_alone = report::left_alone(&job.transformer, &linears);
    let transformer = (ComponentKind::Transformer, &job.transformer, linears, spool.as_ref());
    let text_encoder = job
        .text_encoder
        .as_ref()
        .map(|rounding| (ComponentKind::TextEncoder, rounding, model.text_encoder.linears(), None));
    let work: Vec<_> = [Some(transformer), text_encoder].into_iter().flatten().collect();
    let is_rounded = |rounding: &Rounding, name: &str, spool: Option<&Spool>| {
        spool.is_none() && rounding.layer(name).is_some()
    };
    let total = work
        .iter()
        .map(|(_, rounding, linears, spool)| {
            linears.iter().filter(|layer| is_rounded(rounding, &layer.name, *spool)).count()
        })
        .sum();
    let mut done = 0;
    for (kind, rounding, linears, spool) in &work {
        let component = Packing {
            component: model.folder.component(*kind)?,
            out: folder.path().join(kind.name()),
            rounding,
            linears,
            spool: *spool,
            device,
            max_shard_bytes: job.max_shard_bytes,
        };
        component.run(cancel, &mut report, &mut || {
            done += 1;
            progress(Stage::Quantizing, done, total);
        })?;
    }
    drop(spool);
    let rewritten: Vec<ComponentKind> = vec![ComponentKind::Transformer]
        .into_iter()
        .chain(job.text_encoder.as_ref().map(|_| ComponentKind::TextEncoder))
        .collect();
    write_companions(model, &folder, &rewritten, job.refer, FORMAT, cancel)?;
    write_json(&folder.path().join(REPORT_FILE), &report.to_json())?;
    folder.commit()?;
    Ok(report)
}

/// What post-training quantization works on.
struct Work<'a> {
    model: &'a VideoModel,
    job: &'a QuantizeJob,
    device: &'a OpenDevice,
    cancel: &'a Cancel,
}

impl Work<'_> {
    /// Observes, chooses, and solves all layers of the transformer into `spool`.
    fn solve(
        &self,
        post_training: &PostTraining,
        spool: &mut Spool,
        report: &mut QuantizeReport,
        progress: &mut Progress<'_>,
    ) -> Result<(), PipelineError> {
        let Self { model, job, device, cancel } = self;
        let component = model.folder.component(ComponentKind::Transformer)?;
        let checkpoint = packing::full_precision(&component)?;
        let observations = self.observations(post_training, report, progress)?;
        let sensitivities = self.sensitivities(post_training, progress)?;
        let solver = Solver {
            post_training,
            rounding: &job.transformer,
            checkpoint: &checkpoint,
            observations: &observations,
            sensitivities: &sensitivities,
            device,
            cancel,
        };
        let linears = model.transformer.linears();
        let mut tasks = solver.tasks(&linears);
        report.choices = solver.choose(&mut tasks, progress)?;
        report.layers = solver.solve(&tasks, spool, progress)?;
        report.method = Some(post_training.method);
        report.activations = Some(post_training.activations);
        Ok(())
    }

    fn observations(
        &self,
        post_training: &PostTraining,
        report: &mut QuantizeReport,
        progress: &mut Progress<'_>,
    ) -> Result<Observations, PipelineError> {
        let Some(calibration) = &post_training.calibration else {
            return Ok(Observations::new());
        };
        let mut advance = |done, total| progress(Stage::Observing, done, total);
        let (observations, calibrated) =
            calibrate(self.model, calibration, self.device, self.cancel, &mut advance)?;
        report.calibration = Some(calibrated);
        Ok(observations)
    }

    /// What errors of layers do to the prediction, if a choice depends on it and clips are at hand.
    fn sensitivities(
        &self,
        post_training: &PostTraining,
        progress: &mut Progress<'_>,
    ) -> Result<Sensitivities, PipelineError> {
        let weighs = post_training.method == Method::Auto
            && matches!(post_training.choice, Choice::BudgetBits(_));
        match &post_training.calibration {
            Some(calibration) if weighs => {
                let mut advance = |done, total| progress(Stage::Disturbing, done, total);
                sensitivities(self.model, calibration, self.device, self.cancel, &mut advance)
            }
            _ => Ok(Sensitivities::new()),
        }
    }
}
