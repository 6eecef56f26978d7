//! Model folders from elsewhere, read without trusting them.
//!
//! | step | type |
//! |---|---|
//! | a folder in the diffusers layout, its components and their configurations | [`ModelFolder`], [`Component`] |
//! | one `.safetensors` file, the shards of an index or a GGUF file, tensor by tensor | [`Tensors`] |
//! | whose names the tensors have, and the names that this program reads | [`Layout`] |
//! | what is added to a model while it is read | [`Lora`] |
//! | the same as parameters of a model, converted to f32 | [`Checkpoint`] |
//! | the way back to disk | [`SafetensorsWriter`] |
//!
//! Files are read, not mapped: only headers and the tensors asked for, so the peak is one tensor,
//! and a file that shrinks meanwhile is an error instead of a signal. Whatever a file says about
//! itself is checked against its length before memory is reserved for it.

mod config;
mod dtype;
mod error;
mod file;
mod folder;
mod gguf;
mod header;
mod index;
mod json;
mod layout;
mod locate;
mod lora;
mod source;
mod tensors;
mod writer;

pub use config::config_from_json;
pub use dtype::StoredType;
pub use error::CheckpointError;
pub use folder::{Component, ComponentKind, ModelFolder, REFERENCES_FILE, weights_below};
pub use gguf::BlockType;
pub use header::TensorInfo;
pub use json::read_json;
pub use layout::Layout;
pub use lora::{Lora, LoraFile, open_loras};
pub use safetensors::Dtype;
pub use source::{Checkpoint, DEFAULT_MAX_ELEMENTS};
pub use tensors::{RawTensor, Tensors};
pub use writer::{SafetensorsWriter, TensorSpec};
