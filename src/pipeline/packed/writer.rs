//! Packed layers on their way to disk: which tensors stand for one, and their bytes.

use super::{FORMAT, LayerEntry, Manifest, ManifestError};
use crate::pipeline::PipelineError;
use crate::pipeline::atomic::OutputError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::{Checkpoint, Dtype, SafetensorsWriter, TensorSpec};
use crate::quant::{PackedRows, QuantizedLayer, WeightSpec, words_per_row};
use half::f16;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The tensors that stand for layer `name` of `[out_features, in_features]` in a packed file.
pub fn packed_specs(
    name: &str,
    [out_features, in_features]: [usize; 2],
    weights: &WeightSpec,
) -> [TensorSpec; 4] {
    let group_size = weights.group_size.unwrap_or(in_features).min(in_features);
    let grid = [out_features, in_features.div_ceil(group_size)];
    let codes = [out_features, words_per_row(weights.bits, in_features)];
    let spec = |suffix: &str, dtype, shape: [usize; 2]| TensorSpec {
        name: format!("{name}.{suffix}"),
        dtype,
        shape: shape.to_vec(),
    };
    [
        spec("codes", Dtype::U32, codes),
        spec("scale", Dtype::F32, grid),
        spec("zero_point", Dtype::F32, grid),
        spec("code_sum", Dtype::I32, grid),
    ]
}

/// Writes the tensors of [`packed_specs`], in that order, from the rows of layer `name` in one or
/// several parts; returns their bytes.
///
/// # Errors
///
/// If they cannot be stored.
pub fn write_packed(
    writer: &mut SafetensorsWriter,
    name: &str,
    parts: &[PackedRows],
) -> Result<u64, OutputError> {
    let join =
        |bytes: fn(&PackedRows) -> Vec<u8>| parts.iter().flat_map(bytes).collect::<Vec<u8>>();
    let contents = [
        ("codes", join(|part| bytemuck::cast_slice(&part.codes).to_vec())),
        ("scale", join(|part| part.grids.iter().flat_map(|g| g.scale.to_le_bytes()).collect())),
        (
            "zero_point",
            join(|part| part.grids.iter().flat_map(|g| g.zero_point.to_le_bytes()).collect()),
        ),
        ("code_sum", join(|part| bytemuck::cast_slice(&part.code_sums).to_vec())),
    ];
    let mut total = 0;
    for (suffix, bytes) in contents {
        total += bytes.len() as u64;
        writer.write(&format!("{name}.{suffix}"), &bytes)?;
    }
    Ok(total)
}

/// The tensors that stand for layer `name` of `[out_features, in_features]` with everything that
/// `entry` says; those of a layer with a bias include it.
///
/// # Errors
///
/// If the entry has a value that is not implemented, or that does not fit the layer.
pub fn layer_specs(
    name: &str,
    [out_features, in_features]: [usize; 2],
    entry: &LayerEntry,
    has_bias: bool,
) -> Result<Vec<TensorSpec>, ManifestError> {
    let shape = [out_features, in_features];
    let transform = entry.transform(name, Some(in_features))?;
    let rank = entry.rank(name, Some(shape))?;
    let extras = [
        ("bias", Dtype::F32, has_bias.then(|| vec![out_features])),
        ("input_shift", Dtype::F32, transform.shift.then(|| vec![in_features])),
        ("input_scale", Dtype::F32, transform.scale.then(|| vec![in_features])),
        ("low_rank_down", Dtype::F16, rank.map(|rank| vec![rank, in_features])),
        ("low_rank_up", Dtype::F16, rank.map(|rank| vec![out_features, rank])),
    ];
    let extras = extras.into_iter().filter_map(|(suffix, dtype, shape)| {
        let name = format!("{name}.{suffix}");
        shape.map(|shape| TensorSpec { name, dtype, shape })
    });
    Ok(packed_specs(name, shape, &entry.weights(name)?).into_iter().chain(extras).collect())
}

/// Writes the tensors of [`layer_specs`], in that order; returns their bytes.
///
/// # Errors
///
/// If they cannot be stored.
///
/// # Panics
///
/// If factors of low rank are not [`rounded`](crate::quant::LowRankBranch::rounded).
pub fn write_layer(
    writer: &mut SafetensorsWriter,
    name: &str,
    layer: &QuantizedLayer,
) -> Result<u64, OutputError> {
    let mut total = write_packed(writer, name, std::slice::from_ref(&layer.rows))?;
    let branch = layer.low_rank.as_ref();
    let extras = [
        ("bias", layer.bias.as_deref().map(single_bytes)),
        ("input_shift", layer.transform.shift.as_deref().map(single_bytes)),
        ("input_scale", layer.transform.scale.as_deref().map(single_bytes)),
        ("low_rank_down", branch.map(|branch| half_bytes(&branch.down))),
        ("low_rank_up", branch.map(|branch| half_bytes(&branch.up))),
    ];
    for (suffix, bytes) in extras {
        if let Some(bytes) = bytes {
            total += bytes.len() as u64;
            writer.write(&format!("{name}.{suffix}"), &bytes)?;
        }
    }
    Ok(total)
}

fn single_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `values`, which f16 holds.
fn half_bytes(values: &[f32]) -> Vec<u8> {
    let bytes = |&value: &f32| {
        let half = f16::from_f32(value);
        assert!(half.to_f32() == value, "a factor of low rank is {value}, which is no f16");
        half.to_le_bytes()
    };
    values.iter().flat_map(bytes).collect()
}

/// A component's configuration with a note that keeps other programs from misreading the weights.
pub fn config_with_note(config: &Value, manifest: &Manifest) -> Value {
    let mut config = config.clone();
    if let Value::Object(map) = &mut config {
        let note = json!({
            "quant_method": "qvgen",
            "format": FORMAT,
            "version": manifest.version(),
            "precision": manifest.precision
        });
        map.insert("quantization_config".to_owned(), note);
    }
    config
}

/// SHA-256 over a component's weight files, in order of their names, hexadecimal.
///
/// # Errors
///
/// If a file cannot be read, or the work is canceled.
pub fn checksum(source: &Checkpoint, cancel: &Cancel) -> Result<String, PipelineError> {
    let tensors = source.tensors();
    let mut paths: Vec<&Path> = tensors.names().map(|name| tensors.path_of(name)).collect();
    paths.sort();
    paths.dedup();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        let mut file = File::open(path).map_err(OutputError::io("read", path))?;
        loop {
            cancel.check()?;
            match file.read(&mut buffer).map_err(OutputError::io("read", path))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
