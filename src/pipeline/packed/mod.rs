//! The packed format: a model folder whose linear layers are stored as codes.
//!
//! The folder keeps the diffusers layout. The safetensors files of a packed component carry three
//! metadata entries, `format` = `qvgen-packed`, `version` and `quantization` (a [`Manifest`] as
//! JSON), and hold for every quantized layer
//!
//! | tensor | type and shape | meaning |
//! |---|---|---|
//! | `<layer>.codes` | U32 `[out_features, ceil(in_features/32) · bits]` | 32 codes in `bits` words |
//! | `<layer>.scale` | F32 `[out_features, groups]` | distance between codes |
//! | `<layer>.zero_point` | F32 `[out_features, groups]` | code of zero, real-valued |
//! | `<layer>.code_sum` | I32 `[out_features, groups]` | for the zero-point correction |
//! | `<layer>.bias` | as in the source | |
//! | `<layer>.input_shift`, `.input_scale` | F32 `[in_features]` | of tokens, where the manifest says |
//! | `<layer>.low_rank_down` | F16 `[rank, in_features]` | branch beside the weight, same |
//! | `<layer>.low_rank_up` | F16 `[out_features, rank]` | |
//!
//! Earlier files have F32 factors; both are read, and are f32 on the device: folding the transform of
//! tokens into `low_rank_down`, as it is done there, would round it again.
//!
//! All other tensors are copied as they were. A reader refuses what it does not implement, by
//! name: another version, scheme, width or granularity is an error and not a wrong video.

mod activation_entry;
mod layer_entry;
mod manifest;
mod reader;
mod rounding;
mod writer;

pub use activation_entry::{ActivationEntry, FrameEntry, LogEntry, StepEntry};
pub use layer_entry::{LayerEntry, TransformEntry};
pub use manifest::{FORMAT, Manifest, ManifestError, VERSION, VERSION_EXTENDED};
pub use reader::PackedCheckpoint;
pub use rounding::{Arithmetic, RoundingSource};
pub use writer::{
    checksum, config_with_note, layer_specs, packed_specs, write_layer, write_packed,
};
