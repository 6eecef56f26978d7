//! A cache as a trainer draws from it.

use super::store::{Part, Store};
use super::{Entry, INDEX_FILE, Index, Key, ModelFacts, data_error};
use crate::pipeline::checkpoint::Tensors;
use crate::pipeline::model::VideoModel;
use crate::train::{Dataset, TrainError};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Values and shape of a tensor in host memory.
type Host<const D: usize> = (Vec<f32>, [usize; D]);

/// The clips of a cache, read when they are drawn.
#[derive(Debug)]
pub struct CachedDataset {
    folder: PathBuf,
    store: Store,
    facts: ModelFacts,
    entries: Vec<Entry>,
    device: Device,
    empty_text: Tensor<2>,
    /// What was read so far, if it is to stay in memory.
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Memory {
    latents: Vec<OnceLock<Host<4>>>,
    texts: BTreeMap<Key, OnceLock<Host<2>>>,
}

impl CachedDataset {
    /// Opens the cache at `folder` for training `model` on `device`, one without autodiff.
    ///
    /// With `in_memory`, what was read once stays in the memory of the host.
    ///
    /// # Errors
    ///
    /// If there is no cache, another model made it, or a file of it is missing or damaged.
    pub fn open(
        folder: &Path,
        model: &VideoModel,
        device: &Device,
        in_memory: bool,
    ) -> Result<Self, TrainError> {
        let index_path = folder.join(INDEX_FILE);
        let index = Index::read(folder)?.ok_or_else(|| {
            data_error("there is no cache, make one with `qvgen cache`", &index_path)
        })?;
        let facts = ModelFacts::of(model)?;
        facts.check(&index.model).map_err(|difference| {
            let message = format!(
                "the cache was made with another model, {difference}; run `qvgen cache` with this \
                 one into another folder"
            );
            data_error(message, &index_path)
        })?;
        if index.entries.is_empty() {
            return Err(data_error("the cache has no clips; run `qvgen cache` again", &index_path));
        }
        if !index.is_complete {
            log::warn!(
                "the cache is not complete, {} clips are there; the command that was stopped \
                 continues it: {}",
                index.entries.len(),
                folder.display()
            );
        }
        let store = Store::at(folder);
        for entry in &index.entries {
            check_entry(&store, entry, &facts, model)?;
        }
        let (values, shape) = store.read_text(&index.empty_text, &facts)?;
        let empty_text = Tensor::from_data(TensorData::new(values, shape), device);
        let memory = in_memory.then(|| Memory {
            latents: index.entries.iter().map(|_| OnceLock::new()).collect(),
            texts: index.entries.iter().map(|e| (e.text.clone(), OnceLock::new())).collect(),
        });
        let (folder, device, entries) = (folder.to_owned(), device.clone(), index.entries);
        Ok(Self { folder, store, facts, entries, device, empty_text, memory })
    }

    /// The clips in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn latent(&self, entry: &Entry) -> Result<Host<4>, TrainError> {
        let (values, shape) = self.store.read::<4>(Part::Latent, &entry.latent)?;
        if shape != entry.shape {
            let message = format!(
                "the cached latent is {shape:?}, the index says {:?}; run `qvgen cache` again",
                entry.shape
            );
            return Err(data_error(message, &self.store.path(Part::Latent, &entry.latent)));
        }
        Ok((values, shape))
    }

    fn tensor<const D: usize>(&self, (values, shape): Host<D>) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

/// Fails now what would fail when the clip is drawn, by the headers of its files.
fn check_entry(
    store: &Store,
    entry: &Entry,
    facts: &ModelFacts,
    model: &VideoModel,
) -> Result<(), TrainError> {
    for (part, key, digest) in
        [(Part::Latent, &entry.latent, &facts.vae), (Part::Text, &entry.text, &facts.text)]
    {
        let path = store.path(part, key);
        let problem = match Tensors::open(&path) {
            Err(err) => {
                log::debug!("{err}");
                "is missing or damaged"
            }
            Ok(tensors) => match tensors.metadata().get("model") {
                Some(made_by) if made_by == digest.as_str() => continue,
                _ => "was made with another model",
            },
        };
        let message = format!("a file of the cache {problem}; run `qvgen cache` again");
        return Err(data_error(message, &path));
    }
    let transformer = &model.transformer;
    if transformer.grid_of(model.padded_shape(entry.shape)).is_none() {
        let [_, patch_rows, patch_columns] = transformer.patch();
        let message = format!(
            "a latent of the cache is {:?}, the model takes {} channels, up to {} frames, and a \
             height and width that are multiples of {patch_rows} and {patch_columns}; run \
             `qvgen cache` again",
            entry.shape,
            transformer.in_channels(),
            model.most_latent_frames(),
        );
        return Err(data_error(message, &store.path(Part::Latent, &entry.latent)));
    }
    Ok(())
}

/// The value of `place`, found now if it was not before.
fn remembered<const D: usize>(
    place: Option<&OnceLock<Host<D>>>,
    find: impl FnOnce() -> Result<Host<D>, TrainError>,
) -> Result<Host<D>, TrainError> {
    let Some(place) = place else { return find() };
    if let Some(found) = place.get() {
        return Ok(found.clone());
    }
    let found = find()?;
    Ok(place.get_or_init(|| found).clone())
}

impl Dataset for CachedDataset {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn clip(&self, index: usize) -> Result<(Tensor<4>, Tensor<2>), TrainError> {
        let entry = &self.entries[index];
        let memory = self.memory.as_ref();
        let place = memory.map(|memory| &memory.latents[index]);
        let latent = remembered(place, || self.latent(entry))?;
        let place = memory.and_then(|memory| memory.texts.get(&entry.text));
        let text = remembered(place, || self.store.read_text(&entry.text, &self.facts))?;
        Ok((self.tensor(latent), self.tensor(text)))
    }

    fn empty_text(&self) -> Tensor<2> {
        self.empty_text.clone()
    }
}
