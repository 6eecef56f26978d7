//! The encoder, one block in memory at a time.
//!
//! The published encoders have 4.8 (T5) and 5.7 (UMT5) billion parameters and run once per prompt.
//! Their blocks are therefore not kept: each is loaded, applied to all prompts and dropped. Of the
//! embedding only the rows that occur are read.

use super::T5Config;
use super::block::{Block, Positions, load_table};
use crate::nn::{RmsNorm, WeightError, Weights, concatenate};
use burn::tensor::{Tensor, TensorData};
use std::ops::ControlFlow;

/// A tokenized prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    /// Ids, padded on the right.
    pub ids: Vec<u32>,
    /// How many of them are encoded, at least one; the rows of the others are zero.
    ///
    /// Wan takes the prompt and its end marker. `CogVideoX` takes all ids: its encoder attends to
    /// padding and its transformer was trained on what comes out.
    pub length: usize,
}

/// Why a prompt could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A parameter could not be had.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The tokenizer does not belong to the encoder.
    #[error("token id {id} is outside the encoder's vocabulary of {vocab_size}")]
    TokenId {
        /// The offending id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// The device failed.
    #[error("the device failed while encoding the prompt: {message}")]
    Device {
        /// What the runtime reports.
        message: String,
    },
    /// The progress callback asked to stop.
    #[error("encoding the prompt was canceled")]
    Canceled,
}

/// A prompt on its way through the blocks.
struct Running {
    /// `[length, d_model]`.
    x: Tensor<2>,
    positions: Positions,
}

/// The prompts' embeddings, `[ids.len(), d_model]` each, zero in the rows from
/// [`length`](TokenIds::length) on.
///
/// What is beyond the length is never attended and ends as zero, so it is not computed at all.
/// `progress(done, total)` is called after each block and may stop the work.
///
/// # Errors
///
/// See [`EncodeError`].
///
/// # Panics
///
/// If the `length` of a prompt is 0 or exceeds its ids.
pub fn encode(
    weights: &Weights<'_>,
    config: &T5Config,
    prompts: &[TokenIds],
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Tensor<2>>, EncodeError> {
    let device = weights.device();
    let mut running = prompts
        .iter()
        .map(|prompt| embed(weights, config, prompt))
        .collect::<Result<Vec<_>, _>>()?;
    let mut table = load_table(&weights.at("encoder.block.0"), config)?;
    for i in 0..config.num_layers {
        let weights = weights.at(format_args!("encoder.block.{i}"));
        if i > 0 && config.has_table(i) {
            table = load_table(&weights, config)?;
        }
        let block = Block::load(&weights, config, table.clone())?;
        for Running { x, positions } in &mut running {
            *x = block.forward(x.clone(), positions);
        }
        drop(block);
        // Without waiting, the uploads of many blocks would queue up in memory.
        device.sync().map_err(|err| EncodeError::Device { message: err.to_string() })?;
        if progress(i + 1, config.num_layers).is_break() {
            return Err(EncodeError::Canceled);
        }
    }
    let norm = weights.at("encoder.final_layer_norm");
    let norm = RmsNorm::load(&norm, config.d_model, config.layer_norm_epsilon)?;
    let pad = |x: Tensor<2>, rows: usize| match rows - x.dims()[0] {
        0 => x,
        padding => {
            let zeros = TensorData::zeros::<f32, _>([padding, config.d_model]);
            concatenate(vec![x, Tensor::from_data(zeros, device)], 0)
        }
    };
    let finished = running.into_iter().zip(prompts);
    Ok(finished.map(|(run, prompt)| pad(norm.forward(run.x), prompt.ids.len())).collect())
}

/// The rows of the embedding that a prompt starts with.
fn embed(
    weights: &Weights<'_>,
    config: &T5Config,
    prompt: &TokenIds,
) -> Result<Running, EncodeError> {
    assert!(
        (1..=prompt.ids.len()).contains(&prompt.length),
        "a prompt of {} tokens out of {} ids",
        prompt.length,
        prompt.ids.len()
    );
    let vocab_size = config.vocab_size;
    let row_of = |&id: &u32| match usize::try_from(id) {
        Ok(row) if row < vocab_size => Ok(row),
        _ => Err(EncodeError::TokenId { id, vocab_size }),
    };
    let rows = prompt.ids[..prompt.length].iter().map(row_of).collect::<Result<Vec<_>, _>>()?;
    // Tied to the decoder's in training; savers keep one of the two names.
    let name = ["shared.weight", "encoder.embed_tokens.weight"];
    let name = name.into_iter().find(|name| weights.has(name)).unwrap_or(name[0]);
    let values = weights.rows(name, [vocab_size, config.d_model], &rows)?;
    let data = TensorData::new(values, [prompt.length, config.d_model]);
    let device = weights.device();
    Ok(Running {
        x: Tensor::from_data(data, device),
        positions: Positions::new(prompt.length, config, device),
    })
}
