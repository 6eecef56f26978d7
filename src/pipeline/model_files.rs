//! Files that stand for parts of a model folder: weights from elsewhere, and what a LoRA adds.

use super::checkpoint::{CheckpointError, ComponentKind, LoraFile, ModelFolder, open_loras};
use std::path::PathBuf;

/// Which files; by default none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFiles {
    /// Weights of the transformer.
    pub transformer: Option<PathBuf>,
    /// Weights of the text encoder.
    pub text_encoder: Option<PathBuf>,
    /// What is added to the transformer, in this order.
    pub loras: Vec<LoraFile>,
}

impl ModelFiles {
    /// `folder` with the weights from the files.
    pub(super) fn replace_weights(&self, mut folder: ModelFolder) -> ModelFolder {
        let files = [
            (ComponentKind::Transformer, &self.transformer),
            (ComponentKind::TextEncoder, &self.text_encoder),
        ];
        for (kind, file) in files {
            if let Some(file) = file {
                folder = folder.with_weights(kind, file.clone());
            }
        }
        folder
    }

    /// `folder` with every LoRA, which must fit a transformer of these `parameters`.
    ///
    /// # Errors
    ///
    /// If one is unusable or was made for another model.
    pub(super) fn add_loras(
        &self,
        folder: ModelFolder,
        parameters: &[(String, Vec<usize>)],
    ) -> Result<ModelFolder, CheckpointError> {
        if self.loras.is_empty() {
            return Ok(folder);
        }
        let class_name = folder.component(ComponentKind::Transformer)?.class_name;
        let loras = open_loras(&self.loras, &class_name, parameters)?;
        Ok(folder.with_loras(loras))
    }
}
