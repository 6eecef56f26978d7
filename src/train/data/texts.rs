//! Captions to embeddings on disk, each once, many at a time.

use super::store::{Part, Store};
use super::{CacheJob, CacheProgress, CacheStage, Key, ModelFacts};
use crate::models::t5::{self, EncodeError, TokenIds};
use crate::nn::Weights;
use crate::pipeline::PipelineError;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::model::VideoModel;
use crate::train::TrainError;
use burn::tensor::Tensor;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Values of the embeddings that are encoded side by side, 1 GiB: the text encoder is read from
/// disk once for all of them.
const GROUP_VALUES: usize = 256 << 20;

/// The file of a caption.
pub(super) fn text_key(caption: &str, model: &VideoModel, facts: &ModelFacts) -> Key {
    Key::of(&[&model.clean_prompt(caption), facts.text.as_str()])
}

/// Encodes those of `captions` that are not cached yet; returns how many different ones there are.
///
/// # Errors
///
/// If the tokenizer or encoder fails, a file cannot be written, or the work was stopped.
pub(super) fn cache_texts<'a>(
    job: &CacheJob<'_>,
    store: &Store,
    facts: &ModelFacts,
    captions: impl Iterator<Item = &'a str>,
    progress: &mut CacheProgress<'_>,
) -> Result<usize, TrainError> {
    let different: BTreeMap<Key, &str> =
        captions.map(|caption| (text_key(caption, job.model, facts), caption)).collect();
    let tokenizer = job.model.tokenizer()?;
    let mut missing = Vec::new();
    for (key, caption) in &different {
        if store.find(Part::Text, key, key).is_none() {
            let tokens = job.model.tokenize(&tokenizer, caption).map_err(PipelineError::from)?;
            // Without padding that is zero, so that its rows are neither computed nor stored.
            let ids = tokens.ids[..tokens.length].to_vec();
            missing.push((key, *caption, TokenIds { length: ids.len(), ids }));
        }
    }
    let groups = groups(&missing, (GROUP_VALUES / facts.text_dim).max(1));
    for (done, group) in groups.iter().enumerate() {
        let mut advance = |block: usize, blocks: usize| {
            progress(CacheStage::Text, done * blocks + block, groups.len() * blocks);
        };
        let tokens: Vec<TokenIds> = group.iter().map(|(_, _, tokens)| tokens.clone()).collect();
        let embeds = encode(job, &tokens, &mut advance)?;
        for ((key, caption, _), embeds) in group.iter().zip(embeds) {
            let shape = embeds.dims();
            let values = read(embeds, "an embedded caption")?;
            let facts = [("caption", *caption), ("model", facts.text.as_str())];
            store.write(Part::Text, (key, key), (&values, &shape), &facts)?;
        }
    }
    Ok(different.len())
}

/// A caption that is to be encoded.
type Missing<'a> = (&'a Key, &'a str, TokenIds);

/// Runs of captions with up to `most` tokens together.
fn groups<'a, 'b>(missing: &'a [Missing<'b>], most: usize) -> Vec<&'a [Missing<'b>]> {
    let (mut groups, mut first, mut tokens) = (Vec::new(), 0, 0);
    for (at, (_, _, ids)) in missing.iter().enumerate() {
        if at > first && tokens + ids.length > most {
            groups.push(&missing[first..at]);
            (first, tokens) = (at, 0);
        }
        tokens += ids.length;
    }
    if first < missing.len() {
        groups.push(&missing[first..]);
    }
    groups
}

fn encode(
    job: &CacheJob<'_>,
    tokens: &[TokenIds],
    advance: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Tensor<2>>, TrainError> {
    let max_elements = job.device.max_elements();
    let weights = job.model.weights(ComponentKind::TextEncoder, None, max_elements)?;
    let weights = Weights::new(weights.source(), &job.device.device);
    let mut progress = |block, blocks| {
        advance(block, blocks);
        if job.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let config = &job.model.text_encoder;
    let embeds = t5::encode(&weights, config, tokens, &mut progress);
    embeds.map_err(|err| match err {
        EncodeError::Canceled => PipelineError::Cancelled.into(),
        other => PipelineError::from(other).into(),
    })
}

/// The values of a tensor on the host.
///
/// # Errors
///
/// If the device fails or a value is no number.
pub(super) fn read<const D: usize>(tensor: Tensor<D>, what: &str) -> Result<Vec<f32>, TrainError> {
    let data = tensor.try_into_data().map_err(|err| TrainError::Device(format!("{err:?}")))?;
    let values = data.try_to_vec::<f32>().map_err(|err| TrainError::Device(err.to_string()))?;
    check_finite(&values, what)?;
    Ok(values)
}

/// Refuses values that are no numbers.
pub(super) fn check_finite(values: &[f32], what: &str) -> Result<(), TrainError> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(PipelineError::NotFinite { what: what.to_owned() }.into())
}
