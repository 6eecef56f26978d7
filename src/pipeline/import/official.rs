//! A transformer as the released QVGen code stores it, matched to the model it was trained from.
//!
//! The code (<https://github.com/ModelTC/QVGen>, `training/quant/quant.py`) replaces every linear
//! layer and saves, all in bf16,
//!
//! | tensor | shape | meaning |
//! |---|---|---|
//! | `<layer>.w`, `<layer>.b` | `[out, in]`, `[out]` | weight before rounding, bias |
//! | `<layer>.wquantizer.scale`, `.zero_point` | `[out, 1]` | grid of each row; the zero point is no integer |
//! | `<layer>.aquantizer.upper`, `.lower` | `[groups]` | logits of the learned clips |
//! | `<layer>.wquantizer.L`, `.R` | | the low-rank term, before its training has ended |
//!
//! Layers without a scale are not quantized and keep their names, as do all other parameters.

use super::clips::ClipGroups;
use crate::models::LinearShape;
use crate::nn::{WeightError, WeightSource};
use crate::pipeline::checkpoint::{
    Checkpoint, CheckpointError, ComponentKind, Layout, Tensors, weights_below,
};
use crate::quant::{ActivationQuantizer, Bits, Grid, PackedRows, QuantizedLayer, Scheme, StepRule};
use std::collections::BTreeSet;
use std::path::Path;

/// Names that an error lists before it only counts.
const SHOWN: usize = 4;

/// The tensors of a trained transformer.
#[derive(Debug)]
pub(super) struct Official {
    checkpoint: Checkpoint,
}

/// What a layer has in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// In full precision.
    Full,
    /// With a grid for each row.
    Quantized,
}

impl Official {
    /// Opens the file, or the folder that has it or has it in `transformer`.
    ///
    /// # Errors
    ///
    /// If there is none, or it is something else.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = if path.is_dir() {
            weights_below(path, ComponentKind::Transformer)?
        } else {
            path.to_owned()
        };
        let tensors = Tensors::open(&file)?;
        match Layout::of(&tensors) {
            Some(Layout::QvgenOfficial) => Ok(Self { checkpoint: tensors.into() }),
            found => Err(CheckpointError::Foreign {
                found: found.map_or("a file of unknown names", Layout::description),
                wanted: "a checkpoint of the released QVGen code".to_owned(),
                advice: "its layers have tensors such as \"….wquantizer.scale\"",
                path: file,
            }),
        }
    }

    /// The tensors as they are stored.
    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What layer `name` has.
    pub(super) fn stored(&self, name: &str) -> Stored {
        let is_quantized = self.shape(&format!("{name}.wquantizer.scale")).is_some();
        if is_quantized { Stored::Quantized } else { Stored::Full }
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.tensors().info(name).map(|info| info.shape())
    }

    /// Whether the files have exactly the `parameters` of the model, whose linear layers are
    /// `linears`, and what quantizes them.
    ///
    /// # Errors
    ///
    /// Lists what is missing, has another shape or is unknown.
    pub(super) fn check(
        &self,
        parameters: &[(String, Vec<usize>)],
        linears: &[LinearShape],
    ) -> Result<(), CheckpointError> {
        let tensors = self.checkpoint.tensors();
        let unfit = |problem| CheckpointError::Unfit { problem, path: tensors.path().to_owned() };
        if let Some(name) = tensors.names().find(|name| is_low_rank(name)) {
            return Err(unfit(format!(
                "its training had not ended: the low-rank term \"{name}\" is still there, and only \
                 the last checkpoint of a run is the quantized model"
            )));
        }
        let mut problems = Problems::default();
        let mut left: BTreeSet<&str> = tensors.names().collect();
        for (name, shape) in self.expected(parameters, linears) {
            left.remove(name.as_str());
            match self.shape(&name) {
                None => problems.missing.push(name),
                Some(found) if found != shape => {
                    problems.misshapen.push(format!("{name} is {found:?}, not {shape:?}"));
                }
                Some(_) => {}
            }
        }
        problems.unknown = left.into_iter().map(str::to_owned).collect();
        problems.to_sentence().map_or(Ok(()), |problem| Err(unfit(problem)))
    }

    /// Name and shape of every tensor that the files should have.
    fn expected(
        &self,
        parameters: &[(String, Vec<usize>)],
        linears: &[LinearShape],
    ) -> Vec<(String, Vec<usize>)> {
        let mut expected = Vec::new();
        for (name, shape) in parameters {
            let (layer, part) = name.rsplit_once('.').unwrap_or(("", name));
            let is_linear = linears.iter().any(|linear| linear.name == layer);
            match (part, is_linear && self.stored(layer) == Stored::Quantized) {
                ("weight", true) => {
                    expected.push((format!("{layer}.w"), shape.clone()));
                    for part in ["scale", "zero_point"] {
                        expected.push((format!("{layer}.wquantizer.{part}"), vec![shape[0], 1]));
                    }
                    // Both or neither, of one length; the code can also clip by a constant.
                    let clips = ["upper", "lower"].map(|end| format!("{layer}.aquantizer.{end}"));
                    if let Some(found) = clips.iter().find_map(|name| self.shape(name)) {
                        let groups = vec![found.first().copied().unwrap_or(0).max(1)];
                        expected.extend(clips.clone().map(|name| (name, groups.clone())));
                    }
                }
                ("bias", true) => expected.push((format!("{layer}.b"), shape.clone())),
                _ => expected.push((name.clone(), shape.clone())),
            }
        }
        expected
    }

    /// How layer `name` quantizes its input.
    ///
    /// # Errors
    ///
    /// If its clips are unusable.
    pub(super) fn quantizer(
        &self,
        name: &str,
        bits: Bits,
        groups: ClipGroups,
        countdown: StepRule,
    ) -> Result<ActivationQuantizer, WeightError> {
        let tensor = format!("{name}.aquantizer.upper");
        let logits = |end: &str| -> Result<Vec<f32>, WeightError> {
            let tensor = format!("{name}.aquantizer.{end}");
            let Some(shape) = self.shape(&tensor) else { return Ok(Vec::new()) };
            self.checkpoint.values(&tensor, shape)
        };
        groups
            .quantizer(bits, &logits("upper")?, &logits("lower")?, countdown)
            .map_err(|message| self.unusable(tensor, message))
    }

    /// Layer `linear` with its weight rounded to codes, and the weight as it was.
    ///
    /// `code = clamp(round(w / scale + zero_point))`, from the stored numbers in f32.
    ///
    /// # Errors
    ///
    /// If a tensor is unusable.
    pub(super) fn layer(
        &self,
        linear: &LinearShape,
        bits: Bits,
        activations: Option<ActivationQuantizer>,
    ) -> Result<(QuantizedLayer, Vec<f32>), WeightError> {
        let LinearShape { name, out_features, in_features } = linear;
        let column = |part: &str| -> Result<Vec<f32>, WeightError> {
            self.checkpoint.values(&format!("{name}.wquantizer.{part}"), &[*out_features, 1])
        };
        let (scales, zero_points) = (column("scale")?, column("zero_point")?);
        if let Some(row) = scales.iter().position(|&scale| scale == 0.0) {
            let message = format!("is 0 in row {row}, which divides by it; the file is damaged");
            return Err(self.unusable(format!("{name}.wquantizer.scale"), message));
        }
        let grids: Vec<Grid> = scales
            .into_iter()
            .zip(zero_points)
            .map(|(scale, zero_point)| Grid { scale, zero_point })
            .collect();
        let weight =
            self.checkpoint.values(&format!("{name}.w"), &[*out_features, *in_features])?;
        let scheme = Scheme::AsymmetricReal;
        let rows = PackedRows::of_grids(&weight, *in_features, bits, scheme, &grids);
        let bias_name = format!("{name}.b");
        let bias = match self.shape(&bias_name) {
            Some(_) => Some(self.checkpoint.values(&bias_name, &[*out_features])?),
            None => None,
        };
        Ok((QuantizedLayer::plain(rows, scheme, bias, activations), weight))
    }

    fn unusable(&self, tensor: String, message: String) -> WeightError {
        let path = self.checkpoint.tensors().path_of(&tensor).to_owned();
        WeightError::Unusable { tensor, message, path }
    }
}

fn is_low_rank(name: &str) -> bool {
    name.ends_with(".wquantizer.L") || name.ends_with(".wquantizer.R")
}

/// What does not fit.
#[derive(Debug, Default)]
struct Problems {
    missing: Vec<String>,
    misshapen: Vec<String>,
    unknown: Vec<String>,
}

impl Problems {
    /// All of them in a sentence, if there are any.
    fn to_sentence(&self) -> Option<String> {
        let lists = [
            (&self.missing, "missing"),
            (&self.misshapen, "of another shape"),
            (&self.unknown, "not known"),
        ];
        let parts: Vec<String> = lists
            .into_iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, what)| {
                let more = if names.len() > SHOWN { ", …" } else { "" };
                let shown = names[..names.len().min(SHOWN)].join(", ");
                format!("{} {what} ({}{more})", names.len(), shown.escape_debug())
            })
            .collect();
        (!parts.is_empty())
            .then(|| format!("its tensors are not those of the base model, {}", parts.join(", ")))
    }
}
