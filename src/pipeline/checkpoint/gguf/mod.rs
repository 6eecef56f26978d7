//! GGUF files: the container of llama.cpp, in which text encoders are published in few bits.
//!
//! | part of the file | module |
//! |---|---|
//! | magic, version, metadata, names, types, shapes and places | [`header`] |
//! | blocks of 32 elements (`Q4_0` … `Q8_0`) and which bytes a block of each type has | [`blocks`] |
//! | blocks of 256 elements with scales of scales (`Q2_K` … `Q8_K`) | [`k_blocks`] |
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; blocks: `ggml-common.h` and
//! `dequantize_row_*` of `ggml-quants.c` in the same repository.

mod blocks;
mod bytes;
mod header;
mod k_blocks;

pub use blocks::BlockType;
pub(super) use header::{MAGIC, read_header};
