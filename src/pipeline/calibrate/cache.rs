//! What was observed, on disk: work that was stopped goes on after the last whole clip.
//!
//! One safetensors file per model and settings, whose name is a hash of both. It is written whole
//! or not at all, and believed only if its key and the hash of its contents are right; otherwise it
//! is ignored and written anew.

use super::CalibrationJob;
use super::observer::{Layer, TokenObserver};
use crate::kernels::STATISTICS;
use crate::method::ptq::vidit_q::DECAY;
use crate::method::ptq::{Place, TIMESTEP_RANGES};
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::{ComponentKind, Dtype, SafetensorsWriter, TensorSpec, Tensors};
use crate::pipeline::model::VideoModel;
use crate::pipeline::packed::checksum;
use crate::pipeline::sample::read;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Value of the metadata entry `format`.
const FORMAT: &str = "qvgen-calibration";
/// Changes with the meaning of the contents.
const VERSION: u32 = 1;
/// Characters of the key in the file's name.
const NAME_CHARACTERS: usize = 16;

/// The folder of the user's cache; `None` where the system names none.
pub fn cache_folder() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("qvgen").join("calibration"))
}

/// Model and settings as one hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheKey(String);

impl CacheKey {
    /// The key of `job` on `model`: weights of transformer and text encoder, and everything that
    /// decides what is observed.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or the work is canceled.
    pub fn of(
        model: &VideoModel,
        job: &CalibrationJob,
        cancel: &Cancel,
    ) -> Result<Self, PipelineError> {
        let mut weights = Vec::new();
        for kind in [ComponentKind::Transformer, ComponentKind::TextEncoder] {
            weights.push(checksum(&model.folder.component(kind)?.weights()?, cancel)?);
        }
        let key = json!({
            "version": VERSION, "weights": weights, "prompts": job.prompts,
            "sampling": job.sampling, "samples": job.samples, "layers": job.layers,
            "ranges": TIMESTEP_RANGES, "decay": DECAY,
        });
        Ok(Self(hexadecimal(Sha256::digest(key.to_string().as_bytes()).as_ref())))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file of one key.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    key: String,
}

/// What the file says about itself.
#[derive(Debug, Deserialize, Serialize)]
struct Contents {
    key: String,
    clips: usize,
    layers: BTreeMap<String, LayerContents>,
    /// SHA-256 of the tensors, in the order of the layers.
    sha256: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct LayerContents {
    in_features: usize,
    rows: usize,
    is_temporal: bool,
    has_frames: bool,
    /// Tokens of the longest pass.
    longest: usize,
    /// Tokens by range of timesteps; 0 for ranges without statistics.
    tokens: Vec<u64>,
}

/// A tensor on its way to or from the file.
struct Block {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Block {
    fn bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

impl Cache {
    pub(super) fn new(folder: &Path, key: &CacheKey) -> Self {
        Self { folder: folder.to_owned(), key: key.0.clone() }
    }

    fn stem(&self) -> &str {
        &self.key[..NAME_CHARACTERS]
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.safetensors", self.stem()))
    }

    /// Gives `observer` what was stored; returns the clips that it is of.
    pub(super) fn load(&self, observer: &TokenObserver) -> usize {
        let path = self.path();
        if !path.exists() {
            return 0;
        }
        match self.read(&path, observer) {
            Ok((clips, layers)) => {
                observer.restore(layers);
                clips
            }
            Err(problem) => {
                log::warn!(
                    "a calibration is ignored and made again: {problem}: {}",
                    path.display()
                );
                0
            }
        }
    }

    fn read(
        &self,
        path: &Path,
        observer: &TokenObserver,
    ) -> Result<(usize, BTreeMap<String, Layer>), String> {
        let tensors = Tensors::open(path).map_err(|err| err.to_string())?;
        let metadata = tensors.metadata();
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err("it is none".to_owned());
        }
        let text = metadata.get("contents").ok_or("its contents are missing")?;
        let contents: Contents = serde_json::from_str(text).map_err(|err| err.to_string())?;
        if contents.key != self.key {
            return Err("it is another model's".to_owned());
        }
        let mut digest = Sha256::new();
        let mut layers = BTreeMap::new();
        for (name, of) in &contents.layers {
            let mut block = |suffix: &str, len: usize| {
                let block = format!("{name}.{suffix}");
                let values = tensors.floats(&block).map_err(|err| err.to_string())?;
                if values.len() != len {
                    return Err(format!("tensor \"{block}\" has another size"));
                }
                values.iter().for_each(|value| digest.update(value.to_le_bytes()));
                Ok(values)
            };
            let k = of.in_features;
            let mut layer = Layer::new(k);
            layer.rows = block("rows", of.rows * k)?;
            let places = block("places", of.rows * 2)?;
            let statistics = block("statistics", TIMESTEP_RANGES * STATISTICS * k)?;
            let place = |pair: &[f32]| Place { timestep: pair[0], frame: pair[1] as u32 };
            layer.places = places.chunks_exact(2).map(place).collect();
            layer.by_range = of
                .tokens
                .iter()
                .zip(statistics.chunks_exact(STATISTICS * k))
                .map(|(&tokens, values)| {
                    let data = TensorData::new(values.to_vec(), [STATISTICS, k]);
                    (tokens > 0).then(|| (tokens, Tensor::from_data(data, observer.device())))
                })
                .collect();
            if layer.by_range.len() != TIMESTEP_RANGES {
                return Err(format!("layer \"{name}\" has other ranges"));
            }
            (layer.is_temporal, layer.has_frames) = (of.is_temporal, of.has_frames);
            layer.longest = of.longest;
            layers.insert(name.clone(), layer);
        }
        if hexadecimal(digest.finalize().as_ref()) != contents.sha256 {
            return Err("its contents are damaged".to_owned());
        }
        Ok((contents.clips, layers))
    }

    /// Stores what `observer` has seen of `clips` clips. A failure is only reported: the work that
    /// it would have spared can be done again.
    pub(super) fn store(&self, observer: &TokenObserver, clips: usize) {
        if let Err(problem) = self.write(observer, clips) {
            log::warn!("the calibration cannot be kept for another time: {problem}");
        }
    }

    fn write(&self, observer: &TokenObserver, clips: usize) -> Result<(), PipelineError> {
        let written = std::fs::create_dir_all(&self.folder);
        written.map_err(crate::pipeline::atomic::OutputError::io("create", &self.folder))?;
        let (blocks, layers) = observer.with_layers(|layers| {
            let mut blocks = Vec::new();
            let mut contents = BTreeMap::new();
            for (name, layer) in layers {
                contents.insert(name.clone(), layer_contents(layer));
                blocks.extend(blocks_of(name, layer)?);
            }
            Ok::<_, PipelineError>((blocks, contents))
        })?;
        let mut digest = Sha256::new();
        blocks.iter().for_each(|block| digest.update(block.bytes()));
        let sha256 = hexadecimal(digest.finalize().as_ref());
        let contents = Contents { key: self.key.clone(), clips, layers, sha256 };
        let contents = serde_json::to_string(&contents).expect("contents are plain data");
        let metadata = [("format", FORMAT), ("contents", contents.as_str())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let spec = |block: &Block| TensorSpec {
            name: block.name.clone(),
            dtype: Dtype::F32,
            shape: block.shape.clone(),
        };
        let specs: Vec<TensorSpec> = blocks.iter().map(spec).collect();
        let mut writer = SafetensorsWriter::create(
            &self.folder,
            self.stem(),
            &specs,
            &metadata.into(),
            u64::MAX,
        )?;
        for block in &blocks {
            writer.write(&block.name, &block.bytes())?;
        }
        writer.finish()?;
        Ok(())
    }
}

fn layer_contents(layer: &Layer) -> LayerContents {
    let tokens = layer.by_range.iter().map(|range| range.as_ref().map_or(0, |(tokens, _)| *tokens));
    LayerContents {
        in_features: layer.in_features,
        rows: layer.places.len(),
        is_temporal: layer.is_temporal,
        has_frames: layer.has_frames,
        longest: layer.longest,
        tokens: tokens.collect(),
    }
}

fn blocks_of(name: &str, layer: &Layer) -> Result<[Block; 3], PipelineError> {
    let (k, rows) = (layer.in_features, layer.places.len());
    let block = |suffix: &str, shape: Vec<usize>, values: Vec<f32>| Block {
        name: format!("{name}.{suffix}"),
        shape,
        values,
    };
    let places =
        layer.places.iter().flat_map(|place| [place.timestep, place.frame as f32]).collect();
    let mut statistics = Vec::new();
    for range in &layer.by_range {
        match range {
            Some((_, tensor)) => statistics.extend(read(tensor.clone())?),
            None => statistics.extend(vec![0.0; STATISTICS * k]),
        }
    }
    Ok([
        block("rows", vec![rows, k], layer.rows.clone()),
        block("places", vec![rows, 2], places),
        block("statistics", vec![TIMESTEP_RANGES, STATISTICS, k], statistics),
    ])
}
