//! A packed component as the parameters of a model.

use super::{LayerEntry, Manifest, ManifestError};
use crate::nn::{Linear, PackedLinear, WeightError, WeightSource};
use crate::pipeline::checkpoint::{Checkpoint, CheckpointError};
use crate::quant::{
    Bits, Grid, InputTransform, LowRankBranch, PackedRows, QuantizedLayer, WeightSpec,
    words_per_row,
};
use burn::tensor::Device;

/// Packed parameters from safetensors files.
#[derive(Debug)]
pub struct PackedCheckpoint {
    full: Checkpoint,
    manifest: Manifest,
}

impl PackedCheckpoint {
    /// `checkpoint` as a packed one, or itself back if it is not of the packed format.
    ///
    /// # Errors
    ///
    /// If it is of the format, but of a kind that this program does not implement.
    pub fn recognize(checkpoint: Checkpoint) -> Result<Result<Self, Checkpoint>, CheckpointError> {
        let tensors = checkpoint.tensors();
        match Manifest::from_metadata(tensors.metadata()) {
            Ok(Some(manifest)) => Ok(Ok(Self { full: checkpoint, manifest })),
            Ok(None) => Ok(Err(checkpoint)),
            Err(err) => Err(CheckpointError::Config {
                key: "quantization".to_owned(),
                problem: err.to_string(),
                path: tensors.path().to_owned(),
            }),
        }
    }

    /// How it was quantized.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether parameter `name` is there in this shape, packed or not, by the headers alone.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), WeightError> {
        let layer = name.strip_suffix(".weight").unwrap_or(name);
        match (self.manifest.layers.get(layer), shape) {
            (Some(entry), [out_features, in_features]) if name.ends_with(".weight") => {
                let words =
                    Bits::from_u32(entry.bits).map(|bits| words_per_row(bits, *in_features));
                let shape = [*out_features, words.unwrap_or(0)];
                self.full.check(&format!("{layer}.codes"), &shape)?;
                self.check_extras(layer, entry, [*out_features, *in_features])
            }
            _ => self.full.check(name, shape),
        }
    }

    /// Whether what lies beside the codes of `layer` is there.
    fn check_extras(
        &self,
        layer: &str,
        entry: &LayerEntry,
        [n, k]: [usize; 2],
    ) -> Result<(), WeightError> {
        let refuse = |err| self.unusable(layer, err);
        let transform = entry.transform(layer, Some(k)).map_err(refuse)?;
        let rank = entry.rank(layer, Some([n, k])).map_err(refuse)?;
        let tensors = [
            ("input_shift", transform.shift.then(|| vec![k])),
            ("input_scale", transform.scale.then(|| vec![k])),
            ("low_rank_down", rank.map(|rank| vec![rank, k])),
            ("low_rank_up", rank.map(|rank| vec![n, rank])),
        ];
        for (suffix, shape) in tensors {
            if let Some(shape) = shape {
                self.full.check(&format!("{layer}.{suffix}"), &shape)?;
            }
        }
        Ok(())
    }

    fn unusable(&self, layer: &str, err: ManifestError) -> WeightError {
        WeightError::Unusable {
            tensor: layer.to_owned(),
            message: err.to_string(),
            path: self.full.tensors().path().to_owned(),
        }
    }

    /// Layer `name` `[out_features, in_features]` as it was stored; `None` if it is in full
    /// precision. A bias is read where the layer `has_bias`, or its transform makes one.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn layer(
        &self,
        name: &str,
        [out_features, in_features]: [usize; 2],
        has_bias: bool,
    ) -> Result<Option<QuantizedLayer>, WeightError> {
        let Some(entry) = self.manifest.layers.get(name) else { return Ok(None) };
        let refuse = |err| self.unusable(name, err);
        let weights = entry.weights(name).map_err(refuse)?;
        let activations = entry.quantizer(name).map_err(refuse)?;
        self.check_extras(name, entry, [out_features, in_features])?;
        let rows = self.packed_rows(name, out_features, in_features, weights)?;
        let row = |suffix: &str, len: usize| self.values(&format!("{name}.{suffix}"), &[len]);
        let parts = entry.transform.unwrap_or_default();
        let transform = InputTransform {
            shift: parts.shift.then(|| row("input_shift", in_features)).transpose()?,
            scale: parts.scale.then(|| row("input_scale", in_features)).transpose()?,
            hadamard: parts.hadamard,
        };
        transform.check(in_features).map_err(|message| WeightError::Unusable {
            tensor: format!("{name}.input_scale"),
            message,
            path: self.full.tensors().path_of(&format!("{name}.input_scale")).to_owned(),
        })?;
        let branch = |rank: usize| {
            let down = self.floats(&format!("{name}.low_rank_down"), [rank, in_features])?;
            let up = self.floats(&format!("{name}.low_rank_up"), [out_features, rank])?;
            Ok::<_, WeightError>(LowRankBranch { rank, down, up })
        };
        let has_bias = has_bias || parts.shift;
        Ok(Some(QuantizedLayer {
            rows,
            scheme: weights.scheme,
            bias: has_bias.then(|| row("bias", out_features)).transpose()?,
            transform,
            low_rank: entry.low_rank.map(branch).transpose()?,
            activations,
        }))
    }

    fn floats(&self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>, WeightError> {
        self.full.values(name, &shape)
    }

    fn words(&self, name: &str, shape: [usize; 2]) -> Result<Vec<u32>, WeightError> {
        let tensors = self.full.tensors();
        let missing =
            || WeightError::Missing { tensor: name.to_owned(), path: tensors.path().to_owned() };
        let actual = tensors.info(name).ok_or_else(missing)?.shape();
        if actual != shape {
            return Err(WeightError::Shape {
                tensor: name.to_owned(),
                actual: actual.to_vec(),
                expected: shape.to_vec(),
                path: tensors.path_of(name).to_owned(),
            });
        }
        tensors.words(name).map_err(|err| err.into_weight_error(name))
    }

    /// The stored rows of layer `name`.
    fn packed_rows(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        spec: WeightSpec,
    ) -> Result<PackedRows, WeightError> {
        let group_size = spec.group_size.unwrap_or(in_features).min(in_features);
        let grid_shape = [out_features, in_features.div_ceil(group_size)];
        let code_shape = [out_features, words_per_row(spec.bits, in_features)];
        let codes = self.words(&format!("{name}.codes"), code_shape)?;
        let scales = self.floats(&format!("{name}.scale"), grid_shape)?;
        let zero_points = self.floats(&format!("{name}.zero_point"), grid_shape)?;
        let sum_name = format!("{name}.code_sum");
        let code_sums: Vec<i32> = bytemuck::cast_vec(self.words(&sum_name, grid_shape)?);
        let grids = scales.into_iter().zip(zero_points);
        let rows = PackedRows {
            bits: spec.bits,
            in_features,
            group_size,
            codes,
            grids: grids.map(|(scale, zero_point)| Grid { scale, zero_point }).collect(),
            code_sums,
        };
        if !rows.code_sums_are_right() {
            return Err(WeightError::Unusable {
                message: "does not add up the codes beside it; the file is damaged".to_owned(),
                path: self.full.tensors().path_of(&sum_name).to_owned(),
                tensor: sum_name,
            });
        }
        Ok(rows)
    }
}

impl WeightSource for PackedCheckpoint {
    fn has(&self, name: &str) -> bool {
        self.full.has(name)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.full.values(name, shape)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.full.rows(name, shape, rows)
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        match self.layer(name, [out_features, in_features], has_bias)? {
            None => self.full.linear(name, out_features, in_features, has_bias, device),
            Some(layer) => {
                let most = self.full.max_elements();
                Ok(Linear::Packed(PackedLinear::from_layer(&layer, most, device)))
            }
        }
    }
}
