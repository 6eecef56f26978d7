//! A model folder to a packed one, tensor by tensor: the peak is one layer, not the model.

mod packing;

use super::PipelineError;
use super::atomic::{AtomicFolder, Existing};
use super::cancel::Cancel;
use super::checkpoint::ComponentKind;
use super::companions::{MARKER, write_companions};
use super::model::VideoModel;
use super::packed::FORMAT;
use crate::kernels::device::OpenDevice;
use crate::method::Rounding;
use packing::Packing;
use serde::Serialize;
use std::path::PathBuf;

/// What to do.
#[derive(Clone, Debug)]
pub struct QuantizeJob {
    /// Folder to write.
    pub out: PathBuf,
    /// The transformer.
    pub transformer: Rounding,
    /// The text encoder; `None` to leave it as it is.
    pub text_encoder: Option<Rounding>,
    /// Leave components that are not quantized where they are, instead of copying them.
    pub refer: bool,
    /// Replace an earlier output.
    pub overwrite: bool,
    /// Largest file.
    pub max_shard_bytes: u64,
}

/// One quantized layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Component and full name.
    pub name: String,
    /// Precision, such as `w4a4`.
    pub precision: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// `‖W − Ŵ‖ / ‖W‖`.
    pub relative_error: f64,
    /// Bits per weight, grids included.
    pub bits_per_weight: f64,
    /// Bytes in the source.
    pub bytes_before: u64,
    /// Bytes of codes and grids.
    pub bytes_after: u64,
}

/// All that was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QuantizeReport {
    /// Quantized layers, in order.
    pub layers: Vec<LayerReport>,
    /// Weight files of the quantized components before, bytes.
    pub bytes_before: u64,
    /// The same after.
    pub bytes_after: u64,
}

/// Quantizes `model` as `job` says; `progress` gets each layer, its number and their count.
///
/// # Errors
///
/// If a file is unusable, already quantized, or the output cannot be written. Nothing stays half
/// written.
pub fn quantize(
    model: &VideoModel,
    job: &QuantizeJob,
    device: &OpenDevice,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&LayerReport, usize, usize),
) -> Result<QuantizeReport, PipelineError> {
    model.check_files()?;
    let existing = if job.overwrite { Existing::ReplaceIfItHas(MARKER) } else { Existing::Refuse };
    let folder = AtomicFolder::create(&job.out, existing)?;
    let transformer = (ComponentKind::Transformer, &job.transformer, model.transformer.linears());
    let text_encoder = job
        .text_encoder
        .as_ref()
        .map(|rounding| (ComponentKind::TextEncoder, rounding, model.text_encoder.linears()));
    let work: Vec<_> = [Some(transformer), text_encoder].into_iter().flatten().collect();
    let total = work
        .iter()
        .map(|(_, rounding, linears)| {
            linears.iter().filter(|layer| rounding.layer(&layer.name).is_some()).count()
        })
        .sum();

    let mut report = QuantizeReport::default();
    for (kind, rounding, linears) in &work {
        let component = Packing {
            component: model.folder.component(*kind)?,
            out: folder.path().join(kind.name()),
            rounding,
            linears,
            device,
            max_shard_bytes: job.max_shard_bytes,
        };
        component.run(cancel, &mut report, &mut |layer, done| progress(layer, done, total))?;
    }
    let rewritten: Vec<ComponentKind> = work.iter().map(|(kind, ..)| *kind).collect();
    write_companions(model, &folder, &rewritten, job.refer, FORMAT, cancel)?;
    folder.commit()?;
    Ok(report)
}
