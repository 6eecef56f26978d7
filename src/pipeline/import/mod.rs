//! A checkpoint of the released QVGen code to a packed model folder.
//!
//! That code only simulates few bits: it stores bf16 weights and rounds them in every forward
//! pass. What it would round them to is stored here, once, as codes. The formulas are computed in
//! f32 from the stored numbers; the code itself runs them in bf16 (`--dtype bfloat16`), where
//! `w / scale + zero_point` keeps eight bits and falls to the other side of some ties.

mod clips;
mod official;
mod width;

pub use clips::ClipGroups;

use super::PipelineError;
use super::atomic::{AtomicFolder, Existing, OutputError};
use super::cancel::Cancel;
use super::checkpoint::{Checkpoint, ComponentKind, SafetensorsWriter, TensorInfo, TensorSpec};
use super::companions::{MARKER, write_companions, write_json};
use super::model::VideoModel;
use super::packed::{
    FORMAT, LayerEntry, Manifest, checksum, config_with_note, layer_specs, write_layer,
};
use super::quantize::{LayerReport, LeftAlone, QuantizeReport, relative_error};
use crate::method::LayerSpec;
use crate::models::LinearShape;
use crate::nn::WeightSource;
use crate::quant::{ActivationQuantizer, Bits, Calibration, Precision, Scheme, WeightSpec};
use clips::countdown_of;
use official::{Official, Stored};
use std::fs;
use std::path::{Path, PathBuf};
use width::CodeShares;

/// What the packed file calls the origin of its codes.
const METHOD: &str = "qvgen-official";

/// What to do.
#[derive(Clone, Debug)]
pub struct ImportJob {
    /// The trained transformer: a file, or a folder that has it.
    pub checkpoint: PathBuf,
    /// Folder to write.
    pub out: PathBuf,
    /// Width of the weights' codes.
    pub weights: Bits,
    /// Width of the activations' codes; `None` for weight-only.
    pub activations: Option<Bits>,
    /// Which clips are used where.
    pub clip_groups: ClipGroups,
    /// Leave the other components where they are, instead of copying them.
    pub refer: bool,
    /// Replace an earlier output.
    pub overwrite: bool,
    /// Largest file.
    pub max_shard_bytes: u64,
}

/// Writes the model folder with the transformer of `job` and everything else of `base`; `progress`
/// gets each layer, its number and their count.
///
/// # Errors
///
/// If the checkpoint does not fit the base model, has another width than asked for, or the output
/// cannot be written. Nothing stays half written.
pub fn import(
    base: &VideoModel,
    job: &ImportJob,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&LayerReport, usize, usize),
) -> Result<QuantizeReport, PipelineError> {
    base.tokenizer()?;
    base.check_component(ComponentKind::TextEncoder)?;
    base.check_component(ComponentKind::Vae)?;
    let official = Official::open(&job.checkpoint)?;
    let linears = base.transformer.linears();
    official.check(&base.transformer.parameter_shapes(), &linears)?;
    let existing = if job.overwrite { Existing::ReplaceIfItHas(MARKER) } else { Existing::Refuse };
    let folder = AtomicFolder::create(&job.out, existing)?;
    let kind = ComponentKind::Transformer;
    let out = folder.path().join(kind.name());
    let work = Work { base, job, official: &official, linears: &linears, cancel };
    let report = work.run(&out, progress)?;
    write_companions(base, &folder, &[kind], job.refer, FORMAT, cancel)?;
    folder.commit()?;
    Ok(report)
}

struct Work<'a> {
    base: &'a VideoModel,
    job: &'a ImportJob,
    official: &'a Official,
    linears: &'a [LinearShape],
    cancel: &'a Cancel,
}

/// A tensor of the output, or the layer that some stand for.
enum Piece<'a> {
    Copied(String),
    Layer(&'a LinearShape, Option<ActivationQuantizer>, Box<LayerEntry>),
}

impl Work<'_> {
    fn run(
        &self,
        out: &Path,
        progress: &mut dyn FnMut(&LayerReport, usize, usize),
    ) -> Result<QuantizeReport, PipelineError> {
        let checkpoint = self.official.checkpoint();
        let pieces = self.pieces()?;
        let specs = self.specs(checkpoint, &pieces)?;
        let manifest = self.manifest(&pieces)?;
        fs::create_dir(out).map_err(OutputError::io("create", out))?;
        let kind = ComponentKind::Transformer;
        let stem = kind.weights_stem().unwrap_or("model");
        let metadata = manifest.to_metadata();
        let most = self.job.max_shard_bytes;
        let mut writer = SafetensorsWriter::create(out, stem, &specs, &metadata, most)?;
        let total = manifest.layers.len();
        let left_alone = self.left_alone();
        let mut report = QuantizeReport { left_alone, ..QuantizeReport::default() };
        let mut shares = CodeShares::default();
        for piece in &pieces {
            self.cancel.check()?;
            match piece {
                Piece::Copied(name) => {
                    let bytes = checkpoint.copy_bytes(name)?;
                    report.bytes_after += bytes.len() as u64;
                    report.bytes_before += stored_bytes(checkpoint, name);
                    writer.write(name, &bytes)?;
                }
                Piece::Layer(linear, activations, entry) => {
                    let layer = self.pack(linear, activations, entry, &mut writer, &mut shares)?;
                    report.bytes_before += layer.bytes_before;
                    report.bytes_after += layer.bytes_after;
                    progress(&layer, report.layers.len() + 1, total);
                    report.layers.push(layer);
                }
            }
        }
        self.check_width(&shares)?;
        writer.finish()?;
        let component = self.base.folder.component(kind)?;
        let config = config_with_note(&component.config, &manifest);
        write_json(&out.join(kind.config_file()), &config)?;
        Ok(report)
    }

    /// The layers without a grid.
    fn left_alone(&self) -> Vec<LeftAlone> {
        let is_full = |linear: &&LinearShape| self.official.stored(&linear.name) == Stored::Full;
        let one = |linear: &LinearShape| LeftAlone {
            name: linear.name.clone(),
            shape: [linear.out_features, linear.in_features],
            reason: "the checkpoint has no scale for it".to_owned(),
        };
        self.linears.iter().filter(is_full).map(one).collect()
    }

    /// What is written, in order.
    fn pieces(&self) -> Result<Vec<Piece<'_>>, PipelineError> {
        let mut pieces = Vec::new();
        let component = self.base.folder.component(ComponentKind::Transformer)?;
        let countdown = countdown_of(&component.class_name);
        for (name, _) in self.base.transformer.parameter_shapes() {
            let (layer, part) = name.rsplit_once('.').unwrap_or(("", &name));
            let linear = self.linears.iter().find(|linear| linear.name == layer);
            let linear = linear.filter(|_| self.official.stored(layer) == Stored::Quantized);
            match (linear, part) {
                (Some(linear), "weight") => {
                    let groups = self.job.clip_groups;
                    let quantizer =
                        |bits| self.official.quantizer(layer, bits, groups, countdown.clone());
                    let activations = self.job.activations.map(quantizer).transpose()?;
                    let entry = Box::new(self.entry(activations.as_ref()));
                    pieces.push(Piece::Layer(linear, activations, entry));
                }
                // Written with the layer.
                (Some(_), _) => {}
                (None, _) => pieces.push(Piece::Copied(name)),
            }
        }
        Ok(pieces)
    }

    fn entry(&self, activations: Option<&ActivationQuantizer>) -> LayerEntry {
        let weights = WeightSpec {
            bits: self.job.weights,
            scheme: Scheme::AsymmetricReal,
            group_size: None,
            calibration: Calibration::MinMax,
        };
        let entry = LayerEntry::from_spec(&LayerSpec { weights, activations: None });
        let entry = LayerEntry { calibration: METHOD.to_owned(), ..entry };
        match activations {
            Some(quantizer) => entry.with_activations(quantizer),
            None => entry,
        }
    }

    fn specs(
        &self,
        checkpoint: &Checkpoint,
        pieces: &[Piece<'_>],
    ) -> Result<Vec<TensorSpec>, PipelineError> {
        let mut specs = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Copied(name) => specs.extend(checkpoint.copy_spec(name)),
                Piece::Layer(linear, _, entry) => {
                    let shape = [linear.out_features, linear.in_features];
                    let has_bias = checkpoint.has(&format!("{}.b", linear.name));
                    let layer = layer_specs(&linear.name, shape, entry, has_bias);
                    specs.extend(layer.map_err(|err| PipelineError::Setting(err.to_string()))?);
                }
            }
        }
        Ok(specs)
    }

    fn manifest(&self, pieces: &[Piece<'_>]) -> Result<Manifest, PipelineError> {
        let layers = pieces.iter().filter_map(|piece| match piece {
            Piece::Layer(linear, _, entry) => Some((linear.name.clone(), (**entry).clone())),
            Piece::Copied(_) => None,
        });
        Ok(Manifest {
            generator: concat!("qvgen ", env!("CARGO_PKG_VERSION")).to_owned(),
            precision: self.precision().to_string(),
            source_sha256: checksum(self.official.checkpoint(), self.cancel)?,
            layers: layers.collect(),
        })
    }

    fn precision(&self) -> Precision {
        Precision { weights: Some(self.job.weights), activations: self.job.activations }
    }

    fn pack(
        &self,
        linear: &LinearShape,
        activations: &Option<ActivationQuantizer>,
        entry: &LayerEntry,
        writer: &mut SafetensorsWriter,
        shares: &mut CodeShares,
    ) -> Result<LayerReport, PipelineError> {
        let LinearShape { name, out_features, in_features } = linear;
        let (layer, weight) = self.official.layer(linear, self.job.weights, activations.clone())?;
        shares.add(&layer.rows, &weight);
        let bytes_after = write_layer(writer, name, &layer)?;
        let checkpoint = self.official.checkpoint();
        let stored = |part: &str| stored_bytes(checkpoint, &format!("{name}.{part}"));
        Ok(LayerReport {
            name: name.clone(),
            precision: entry.precision(),
            shape: [*out_features, *in_features],
            relative_error: relative_error(&weight, std::slice::from_ref(&layer.rows)),
            bits_per_weight: layer.rows.bits_per_value(),
            bytes_before: stored("w") + stored("b"),
            bytes_after,
            method: None,
            measures: None,
        })
    }

    /// Refuses a width that the codes contradict: nothing in the files says what it was.
    fn check_width(&self, shares: &CodeShares) -> Result<(), PipelineError> {
        let bits = self.job.weights;
        let Some(problem) = shares.problem() else { return Ok(()) };
        Err(PipelineError::Setting(format!(
            "--bits {}: this is no checkpoint of {bits}-bit weights, {problem}: {}",
            self.precision(),
            self.job.checkpoint.display()
        )))
    }
}

fn stored_bytes(checkpoint: &Checkpoint, name: &str) -> u64 {
    checkpoint.tensors().info(name).map_or(0, TensorInfo::byte_len)
}
