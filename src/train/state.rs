//! Checkpoints: everything that the next update depends on, bit for bit.
//!
//! `step-000123/` holds `state.safetensors` (values, moments and averages as f32) and
//! `state.json` (what they belong to). Random numbers depend on seed and step alone, so there is
//! nothing else to keep. A folder appears when it is complete; one that is damaged nevertheless is
//! noticed by its checksum, and the one before it is taken.

use super::TrainError;
use super::export::host;
use super::parameters::{Group, Parameter, Parameters};
use crate::pipeline::atomic::{AtomicFolder, Existing, is_temporary, remove_folder};
use crate::pipeline::checkpoint::{
    Dtype, SafetensorsWriter, TensorSpec, Tensors, config_from_json, read_json,
};
use crate::pipeline::companions::write_json;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const FORMAT: &str = "qvgen-checkpoint";
const VERSION: u32 = 1;
const STEM: &str = "state";
const DESCRIPTION: &str = "state.json";

/// What a checkpoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Fingerprint of the model that was started from.
    pub model: String,
    /// Number of clips, those held out included.
    pub clips: usize,
    /// The configuration, without places and reports.
    pub config: BTreeMap<String, String>,
}

/// Contents of `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    format: String,
    version: u32,
    program: String,
    step: usize,
    method: String,
    checksum: String,
    groups: BTreeMap<String, Group>,
    identity: Identity,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Restored {
    /// The next update.
    pub step: usize,
    /// The parameters with their moments and averages.
    pub parameters: Parameters,
    /// Where it is.
    pub path: PathBuf,
    /// Values of the configuration that have changed since, `key: before → now`.
    pub changes: Vec<String>,
}

/// The checkpoints of a training.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// The folder that has them.
    pub folder: PathBuf,
    /// What they belong to.
    pub identity: Identity,
    /// Name of the method, for people.
    pub method: String,
    /// Whether values may have changed that do not decide what a parameter means.
    pub allow_changes: bool,
}

impl Checkpoints {
    /// Steps and folders of all checkpoints, the oldest first.
    ///
    /// # Errors
    ///
    /// If the folder exists but cannot be listed.
    pub fn list(&self) -> Result<Vec<(usize, PathBuf)>, TrainError> {
        list(&self.folder)
    }

    /// Writes the state before update `step`.
    ///
    /// # Errors
    ///
    /// If it cannot be written; earlier checkpoints are untouched.
    pub fn save(&self, step: usize, parameters: &Parameters) -> Result<PathBuf, TrainError> {
        let target = self.folder.join(format!("step-{step:06}"));
        let folder = AtomicFolder::create(&target, Existing::ReplaceIfAll(is_ours))?;
        let tensors = tensors_of(parameters);
        let specs: Vec<TensorSpec> = tensors.iter().map(StoredTensor::spec).collect();
        let metadata = BTreeMap::new();
        let mut writer =
            SafetensorsWriter::create(folder.path(), STEM, &specs, &metadata, u64::MAX)?;
        let mut checksum = Checksum::default();
        for (tensor, spec) in tensors.iter().zip(&specs) {
            let values = host(&spec.name, tensor.value.clone())?;
            let bytes: &[u8] = bytemuck::cast_slice(&values);
            checksum.add(bytes);
            writer.write(&spec.name, bytes)?;
        }
        writer.finish()?;
        let groups = parameters.iter().map(|(name, parameter)| (name.to_owned(), parameter.group));
        let description = Description {
            format: FORMAT.to_owned(),
            version: VERSION,
            program: concat!("qvgen ", env!("CARGO_PKG_VERSION")).to_owned(),
            step,
            method: self.method.clone(),
            checksum: checksum.text(),
            groups: groups.collect(),
            identity: self.identity.clone(),
        };
        write_json(&folder.path().join(DESCRIPTION), &json!(description))?;
        folder.commit()?;
        Ok(target)
    }

    /// Removes all but the `keep` newest checkpoints up to `step`; later ones, which could not be
    /// read when the training was resumed, are left alone.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub fn prune(&self, keep: usize, step: usize) -> Result<(), TrainError> {
        let mut checkpoints = self.list()?;
        checkpoints.retain(|(at, _)| *at <= step);
        let old = checkpoints.len().saturating_sub(keep);
        for (_, path) in &checkpoints[..old] {
            remove_folder(path)?;
        }
        Ok(())
    }

    /// The newest checkpoint that can be read, on `device`; `None` if there is none at all.
    ///
    /// # Errors
    ///
    /// If it belongs to another model or configuration, or none of several can be read.
    pub fn newest(&self, device: &Device) -> Result<Option<Restored>, TrainError> {
        let mut first_problem = None;
        for (step, path) in self.list()?.into_iter().rev() {
            match read(&path, device) {
                Ok((description, parameters)) => {
                    let changes = self.compare(&description.identity, &path)?;
                    return Ok(Some(Restored { step, parameters, path, changes }));
                }
                Err(problem) => {
                    log::warn!("{problem}; looking for an older checkpoint");
                    first_problem.get_or_insert(problem);
                }
            }
        }
        match first_problem {
            None => Ok(None),
            Some(problem) => Err(TrainError::Setting(format!(
                "no checkpoint can be read ({problem}); begin anew with --restart"
            ))),
        }
    }

    /// What has changed since `saved`.
    fn compare(&self, saved: &Identity, path: &Path) -> Result<Vec<String>, TrainError> {
        let refuse = |what: String| {
            Err(TrainError::Setting(format!(
                "{what} (checkpoint {}); choose another `out` folder, or begin anew with --restart",
                path.display()
            )))
        };
        if saved.model != self.identity.model {
            return refuse(
                "the training was started from another model, or with other LoRAs".to_owned(),
            );
        }
        if saved.clips != self.identity.clips {
            return refuse(format!(
                "the training was started with {} clips, now there are {}",
                saved.clips, self.identity.clips
            ));
        }
        let differences = differences(&saved.config, &self.identity.config);
        let decisive = differences.iter().find(|(key, _)| is_decisive(key));
        if let Some((_, text)) = decisive {
            return refuse(format!("the training was started with other settings, {text}"));
        }
        if let (Some((_, text)), false) = (differences.first(), self.allow_changes) {
            return Err(TrainError::Setting(format!(
                "the checkpoint was made with other settings, {text}; add --allow-changes to go on \
                 with the new value, or begin anew with --restart ({})",
                path.display()
            )));
        }
        Ok(differences.into_iter().map(|(_, text)| text).collect())
    }
}

/// Whether another value of `key` would give the stored parameters another meaning.
fn is_decisive(key: &str) -> bool {
    let keys = ["bits", "method", "start", "layers", "every_layer", "loop.steps"];
    keys.contains(&key) || key.starts_with("recipe.")
}

/// Keys of which the values differ, with both values in words.
fn differences(
    saved: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let mut keys: Vec<&String> = saved.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let value = |config: &BTreeMap<String, String>, key: &str| {
        config.get(key).cloned().unwrap_or_else(|| "absent".to_owned())
    };
    keys.into_iter()
        .filter(|key| saved.get(*key) != now.get(*key))
        .map(|key| (key.clone(), format!("{key}: {} → {}", value(saved, key), value(now, key))))
        .collect()
}

/// Whether a file of this name may be in a checkpoint.
fn is_ours(name: &OsStr) -> bool {
    is_temporary(name)
        || name.to_str().is_some_and(|name| name == DESCRIPTION || name == "state.safetensors")
}

/// Steps and folders of the checkpoints in `folder`, the oldest first.
pub(super) fn list(folder: &Path) -> Result<Vec<(usize, PathBuf)>, TrainError> {
    let unreadable = |err: std::io::Error| TrainError::Data {
        message: format!("cannot be listed ({err})"),
        path: folder.to_owned(),
    };
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let step = name.strip_prefix("step-").and_then(|step| step.parse().ok());
        if let Some(step) = step.filter(|_| path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Which of a parameter's tensors.
#[derive(Clone, Copy)]
enum Role {
    Value,
    First,
    Second,
    Average,
}

impl Role {
    const ALL: [Self; 4] = [Self::Value, Self::First, Self::Second, Self::Average];

    fn prefix(self) -> &'static str {
        match self {
            Self::Value => "value/",
            Self::First => "first_moment/",
            Self::Second => "second_moment/",
            Self::Average => "average/",
        }
    }

    fn of(self, parameter: &Parameter) -> Option<&Tensor<1>> {
        let moments = parameter.moments.as_ref();
        match self {
            Self::Value => Some(&parameter.value),
            Self::First => moments.map(|moments| &moments[0]),
            Self::Second => moments.map(|moments| &moments[1]),
            Self::Average => parameter.average.as_ref(),
        }
    }
}

struct StoredTensor<'a> {
    name: String,
    shape: &'a [usize],
    value: &'a Tensor<1>,
}

impl StoredTensor<'_> {
    fn spec(&self) -> TensorSpec {
        TensorSpec { name: self.name.clone(), dtype: Dtype::F32, shape: self.shape.to_vec() }
    }
}

fn tensors_of(parameters: &Parameters) -> Vec<StoredTensor<'_>> {
    let of = |role: Role| {
        parameters.iter().filter_map(move |(name, parameter)| {
            let (name, shape) = (format!("{}{name}", role.prefix()), parameter.shape.as_slice());
            Some(StoredTensor { name, shape, value: role.of(parameter)? })
        })
    };
    Role::ALL.into_iter().flat_map(of).collect()
}

/// Description and parameters of the checkpoint at `path`.
fn read(path: &Path, device: &Device) -> Result<(Description, Parameters), TrainError> {
    let damaged = |what: &str| TrainError::Data {
        message: format!("{what}, the checkpoint is damaged"),
        path: path.to_owned(),
    };
    let description_path = path.join(DESCRIPTION);
    let description: Description =
        config_from_json(&read_json(&description_path)?, &description_path)?;
    if description.format != FORMAT || description.version != VERSION {
        return Err(TrainError::Data {
            message: format!(
                "the checkpoint is {} {}, this program reads {FORMAT} {VERSION}",
                description.format, description.version
            ),
            path: path.to_owned(),
        });
    }
    let tensors = Tensors::open(&path.join(format!("{STEM}.safetensors")))?;
    let mut checksum = Checksum::default();
    let mut load =
        |role: Role, name: &str| -> Result<Option<(Tensor<1>, Vec<usize>)>, TrainError> {
            let name = format!("{}{name}", role.prefix());
            let Some(shape) = tensors.info(&name).map(|info| info.shape().to_vec()) else {
                return Ok(None);
            };
            let values = tensors.floats(&name)?;
            checksum.add(bytemuck::cast_slice(&values));
            let len = values.len();
            Ok(Some((Tensor::from_data(TensorData::new(values, [len]), device), shape)))
        };
    let mut parameters = Parameters::default();
    for (name, group) in &description.groups {
        let value = load(Role::Value, name)?;
        let (value, shape) = value.ok_or_else(|| damaged(&format!("\"{name}\" is missing")))?;
        parameters.insert(name.clone(), Parameter::new(value, shape, *group));
    }
    for role in [Role::First, Role::Second, Role::Average] {
        for (name, parameter) in parameters.iter_mut() {
            let Some((value, _)) = load(role, name)? else { continue };
            match role {
                Role::First => parameter.moments = Some([value.clone(), value]),
                Role::Second => {
                    parameter.moments = parameter.moments.take().map(|[m, _]| [m, value]);
                }
                _ => parameter.average = Some(value),
            }
        }
    }
    if checksum.text() != description.checksum {
        return Err(damaged("its contents have changed since they were written"));
    }
    Ok((description, parameters))
}

/// A checksum against damage, not against malice: as fast as memory.
#[derive(Default)]
struct Checksum(u64);

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let mut mix =
            |word: u64| self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        let words = bytes.chunks_exact(8);
        let rest = words.remainder();
        for word in words {
            mix(word.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
        }
        mix(rest.iter().fold(rest.len() as u64, |sum, &byte| sum << 8 | u64::from(byte)));
    }

    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
