//! Which model a cache belongs to, and whether a clip has changed.

use super::{Key, data_error};
use crate::pipeline::PipelineError;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::model::VideoModel;
use crate::pipeline::video::read::png_files;
use crate::train::TrainError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Tensors of a text encoder up to this size tell it from others: its norms and tables. Reading
/// all of it would take longer than encoding a few captions.
const SMALL_BYTES: u64 = 64 << 10;
/// Largest tokenizer file, bytes.
const MAX_TOKENIZER: u64 = 64 << 20;

/// What training relies on when it reads a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Channels of a latent.
    pub z_dim: usize,
    /// Columns of an embedded caption.
    pub text_dim: usize,
    /// Rows that it is padded to.
    pub text_tokens: usize,
    /// SHA-256 of the autoencoder's tensors and statistics.
    pub vae: Key,
    /// SHA-256 of the text encoder's names, shapes and small tensors, and of its tokenizer.
    pub text: Key,
}

impl ModelFacts {
    /// Those of `model`; reads the whole autoencoder.
    ///
    /// # Errors
    ///
    /// If a file of the model cannot be read.
    pub fn of(model: &VideoModel) -> Result<Self, TrainError> {
        let mut vae = Sha256::new();
        for value in model.vae.statistics() {
            vae.update(value.to_le_bytes());
        }
        add_tensors(&mut vae, model, ComponentKind::Vae, u64::MAX)?;
        let mut text = Sha256::new();
        text.update((model.text_tokens as u64).to_le_bytes());
        add_tensors(&mut text, model, ComponentKind::TextEncoder, SMALL_BYTES)?;
        add_tokenizer(&mut text, model)?;
        Ok(Self {
            z_dim: model.vae.z_dim(),
            text_dim: model.text_encoder.d_model,
            text_tokens: model.text_tokens,
            vae: Key::from_hash(vae),
            text: Key::from_hash(text),
        })
    }

    /// Refuses a cache that another model made.
    ///
    /// # Errors
    ///
    /// In words: what differs.
    pub(super) fn check(&self, cached: &Self) -> Result<(), String> {
        let sizes = [
            ("z_dim", self.z_dim, cached.z_dim),
            ("text_dim", self.text_dim, cached.text_dim),
            ("max_sequence_length", self.text_tokens, cached.text_tokens),
        ];
        if let Some((name, own, other)) = sizes.into_iter().find(|(_, own, other)| own != other) {
            return Err(format!("its {name} is {other} but the model's {own}"));
        }
        let components = [
            ("autoencoder", &self.vae, &cached.vae),
            ("text encoder or tokenizer", &self.text, &cached.text),
        ];
        match components.into_iter().find(|(_, own, other)| own != other) {
            Some((name, _, _)) => Err(format!("the model has another {name}")),
            None => Ok(()),
        }
    }
}

/// SHA-256 of the transformer's names, shapes and small tensors.
pub(super) fn transformer_digest(model: &VideoModel) -> Result<Key, TrainError> {
    let mut hash = Sha256::new();
    add_tensors(&mut hash, model, ComponentKind::Transformer, SMALL_BYTES)?;
    Ok(Key::from_hash(hash))
}

/// Names, types and shapes of all tensors, and the contents of those up to `most_bytes`.
fn add_tensors(
    hash: &mut Sha256,
    model: &VideoModel,
    kind: ComponentKind,
    most_bytes: u64,
) -> Result<(), TrainError> {
    let checkpoint = model.folder.component(kind)?.weights()?;
    let tensors = checkpoint.tensors();
    for name in tensors.names() {
        let Some(info) = tensors.info(name) else { continue };
        hash.update(format!("{name} {} {:?}\n", info.dtype(), info.shape()));
        if info.byte_len() <= most_bytes {
            hash.update(tensors.raw(name)?.bytes);
        }
    }
    Ok(())
}

fn add_tokenizer(hash: &mut Sha256, model: &VideoModel) -> Result<(), TrainError> {
    let folder = model.folder.component(ComponentKind::Tokenizer)?.path;
    for name in ["tokenizer.json", "spiece.model"] {
        let path = folder.join(name);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.len() > MAX_TOKENIZER {
            let message = format!("the tokenizer has more than {MAX_TOKENIZER} bytes");
            return Err(PipelineError::Mismatch { message, path }.into());
        }
        let bytes = fs::read(&path)
            .map_err(|err| data_error(format!("cannot read the tokenizer, {err}"), &path))?;
        hash.update(name);
        hash.update(bytes);
        // Of several, this is the one that is used.
        break;
    }
    Ok(())
}

/// Changes with every change of the clip at `path` that its file system notices.
///
/// # Errors
///
/// In words, if there is nothing.
pub(super) fn source_state(path: &Path) -> Result<String, String> {
    let state = |path: &Path| -> std::io::Result<String> {
        let metadata = fs::metadata(path)?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(format!("{} {}", metadata.len(), modified.as_nanos()))
    };
    let all = || {
        if !fs::metadata(path)?.is_dir() {
            return state(path);
        }
        let states: std::io::Result<Vec<String>> = png_files(path)?
            .iter()
            .map(|file| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                Ok(format!("{name} {}", state(file)?))
            })
            .collect();
        Ok(states?.join("\n"))
    };
    all().map_err(|err| format!("cannot read the clip, {err}: {}", path.display()))
}
