//! Clips to latents on disk.

use super::digest::source_state;
use super::store::{Part, Store};
use super::texts::{cache_texts, read, text_key};
use super::{
    Buckets, CacheJob, CacheProgress, CacheReport, CacheStage, Clip, ClipList, Collector, Entry,
    Index, Key, ModelFacts, SampledClip, Skipped, SourceKind, data_error,
};
use crate::models::{Encoder, Tiling};
use crate::nn::Weights;
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::{Cancel, Cancelled};
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::model::ComponentWeights;
use crate::pipeline::video::read::{ClipReader, ReadError};
use crate::train::TrainError;
use burn::tensor::{Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// How clips are brought to the autoencoder.
#[derive(Clone, Debug)]
pub struct ClipSettings {
    /// Sizes and lengths.
    pub buckets: Buckets,
    /// Whether a clip that cannot be read, or has no caption, ends the run; clips that are too
    /// short never do.
    pub strict: bool,
    /// Decodes them.
    pub reader: ClipReader,
}

/// Encodes the clips of `list` and their captions; what was cached before and has not changed
/// stays.
///
/// # Errors
///
/// If a setting does not fit the model or the device, a file of the model is missing, the folder
/// cannot be written, or no clip can be used. If the work was stopped, what was cached stays and
/// the index lists it.
pub fn cache_clips(
    job: &CacheJob<'_>,
    list: &ClipList,
    settings: &ClipSettings,
    progress: &mut CacheProgress<'_>,
) -> Result<CacheReport, TrainError> {
    settings.buckets.check(job.model)?;
    if let (true, Some(skipped)) = (settings.strict, list.skipped.first()) {
        return Err(TrainError::Setting(format!("{}: {}", skipped.clip, skipped.reason)));
    }
    check_device(job, &settings.buckets)?;
    check_encoder(job)?;
    let facts = ModelFacts::of(job.model)?;
    let store = Store::create(&job.out, job.dtype, SourceKind::Clips)?;
    let captions = list.clips.iter().map(|clip| clip.caption.as_str()).chain([""]);
    let texts = cache_texts(job, &store, &facts, captions, progress)?;
    let mut run = Run { job, settings, facts: &facts, store: &store, latents: BTreeMap::new() };
    let mut report = CacheReport { texts, skipped: list.skipped.clone(), ..CacheReport::default() };
    let pending = run.pending(&list.clips, &mut report)?;
    let outcome = run.encode(&pending, &mut report, progress);
    let is_complete = match &outcome {
        Ok(()) => true,
        Err(TrainError::Pipeline(PipelineError::Cancelled)) => false,
        Err(_) => return outcome.map(|()| report),
    };
    let mut index = Index::new(SourceKind::Clips, facts.clone(), text_key("", job.model, &facts));
    index.is_complete = is_complete;
    for clip in &list.clips {
        let latent = Key::of(&["clip", &clip.name]);
        if let Some(&shape) = run.latents.get(&latent) {
            let (source, caption) = (clip.name.clone(), clip.caption.clone());
            let text = text_key(&clip.caption, job.model, &facts);
            index.entries.push(Entry { latent, text, shape, source, caption, seed: None });
        }
    }
    finish(job, &index, &mut report)?;
    outcome.map(|()| report)
}

/// Writes the index and counts what it lists.
pub(super) fn finish(
    job: &CacheJob<'_>,
    index: &Index,
    report: &mut CacheReport,
) -> Result<(), TrainError> {
    if index.entries.is_empty() && index.is_complete {
        let reason = report.skipped.first().map_or_else(
            || "there are none".to_owned(),
            |skipped| format!("{}: {}", skipped.clip, skipped.reason),
        );
        return Err(data_error(format!("no clip can be used, {reason}"), &job.out));
    }
    report.clips = index.entries.len();
    for entry in &index.entries {
        let shape = entry.shape.map(|len| len.to_string()).join("x");
        *report.shapes.entry(shape).or_default() += 1;
    }
    index.write(&job.out)
}

/// Fails now if the encoder's parameters are not all there.
fn check_encoder(job: &CacheJob<'_>) -> Result<(), TrainError> {
    let weights = job.model.weights(ComponentKind::Vae, None, usize::MAX)?;
    if let ComponentWeights::Full(checkpoint) = &weights {
        for (name, shape) in job.model.vae.encoder_parameter_shapes() {
            checkpoint.check(&name, &shape)?;
        }
    }
    Ok(())
}

/// The tiles in which clips of that size are encoded: none where the device can bind whole frames.
/// Latents that were made in tiles are not made again where it can.
fn tiling(job: &CacheJob<'_>, size: [usize; 3]) -> Option<Tiling> {
    Tiling::within_encoding(&*job.model.vae, size, job.device.max_elements() as u64)
}

/// Fails now if the device cannot hold a tensor that encoding needs, even in tiles.
fn check_device(job: &CacheJob<'_>, buckets: &Buckets) -> Result<(), TrainError> {
    let (most, frames) = (job.device.max_elements() as u64, buckets.most_frames());
    let vae = &job.model.vae;
    for &[width, height] in &buckets.sizes {
        let Some(tiling) = tiling(job, [frames, height, width]) else { continue };
        let tile = tiling.latent_size().map(|latents| latents * vae.spatial_factor());
        let needed = vae.largest_encode_elements(frames, tile[0].min(height), tile[1].min(width));
        if needed > most {
            return Err(TrainError::Setting(format!(
                "encoding clips of {width}x{height} needs a tensor of {needed} values, the device \
                 can bind {most}; use a smaller --size or `--device cpu`"
            )));
        }
        log::warn!(
            "clips of {width}x{height} are encoded in tiles: the device can bind {most} values"
        );
    }
    Ok(())
}

/// A run, as far as it has come.
struct Run<'a> {
    job: &'a CacheJob<'a>,
    settings: &'a ClipSettings,
    facts: &'a ModelFacts,
    store: &'a Store,
    /// Shapes of the latents that are on disk.
    latents: BTreeMap<Key, [usize; 4]>,
}

/// A clip that is to be encoded.
struct Pending<'a> {
    clip: &'a Clip,
    key: Key,
    fingerprint: Key,
}

/// Why a clip gives no latent.
enum Unusable {
    TooShort(String),
    Unreadable(ReadError),
}

/// A clip on its way from the decoder to the autoencoder, by its place in the list.
type Decoded = (usize, Result<SampledClip, Unusable>);

impl Run<'_> {
    /// The clips whose latents are missing or old, each file once.
    fn pending<'c>(
        &mut self,
        clips: &'c [Clip],
        report: &mut CacheReport,
    ) -> Result<Vec<Pending<'c>>, TrainError> {
        let buckets = format!("{:?} {:?}", self.settings.buckets, self.job.dtype);
        let (mut pending, mut seen) = (Vec::new(), BTreeSet::new());
        for clip in clips {
            let key = Key::of(&["clip", &clip.name]);
            if !seen.insert(key.clone()) {
                continue;
            }
            let state = match source_state(&clip.path) {
                Ok(state) => state,
                Err(reason) if self.settings.strict => return Err(TrainError::Setting(reason)),
                Err(reason) => {
                    report.skipped.push(Skipped { clip: clip.name.clone(), reason });
                    continue;
                }
            };
            let fingerprint = Key::of(&[&state, &buckets, self.facts.vae.as_str()]);
            let shape = self.store.find(Part::Latent, &key, &fingerprint);
            if let Some(Ok(shape)) = shape.map(<[usize; 4]>::try_from) {
                self.latents.insert(key, shape);
                report.reused += 1;
            } else {
                pending.push(Pending { clip, key, fingerprint });
            }
        }
        Ok(pending)
    }

    /// Encodes `pending`, while the next clip is being decoded.
    fn encode(
        &mut self,
        pending: &[Pending<'_>],
        report: &mut CacheReport,
        progress: &mut CacheProgress<'_>,
    ) -> Result<(), TrainError> {
        if pending.is_empty() {
            return Ok(());
        }
        let weights = self.job.model.weights(ComponentKind::Vae, None, usize::MAX)?;
        let weights = Weights::new(weights.source(), &self.job.device.device);
        let encoder = self.job.model.vae.load_encoder(&weights).map_err(PipelineError::from)?;
        let (settings, user, stop) = (self.settings, &self.job.cancel, Cancel::new());
        let (send, receive) = sync_channel(1);
        thread::scope(|scope| {
            scope.spawn(|| decode_all(pending, settings, [user, &stop], send));
            let outcome = self.encode_all(&*encoder, pending, receive, report, progress);
            stop.cancel();
            outcome
        })
    }

    fn encode_all(
        &mut self,
        encoder: &dyn Encoder,
        pending: &[Pending<'_>],
        decoded: Receiver<Decoded>,
        report: &mut CacheReport,
        progress: &mut CacheProgress<'_>,
    ) -> Result<(), TrainError> {
        let mut done = 0;
        progress(CacheStage::Encode, 0, pending.len());
        for (at, result) in decoded {
            self.job.cancel.check()?;
            let clip = pending[at].clip;
            let reason = match result {
                Ok(sampled) => {
                    self.encode_one(encoder, &pending[at], &sampled)?;
                    report.made += 1;
                    None
                }
                Err(Unusable::TooShort(reason)) => {
                    report.too_short += 1;
                    Some(reason)
                }
                Err(Unusable::Unreadable(err)) if self.settings.strict => {
                    return Err(TrainError::Setting(err.to_string()));
                }
                Err(Unusable::Unreadable(err)) => Some(err.to_string()),
            };
            report.skipped.extend(reason.map(|reason| Skipped { clip: clip.name.clone(), reason }));
            done += 1;
            progress(CacheStage::Encode, done, pending.len());
        }
        // The decoder ends early only when it was told to.
        if done < pending.len() { Err(Cancelled.into()) } else { Ok(()) }
    }

    fn encode_one(
        &mut self,
        encoder: &dyn Encoder,
        pending: &Pending<'_>,
        sampled: &SampledClip,
    ) -> Result<(), TrainError> {
        let [width, height] = sampled.size;
        let data = TensorData::new(sampled.values(), [3, sampled.frames.len(), height, width]);
        let video = Tensor::<4>::from_data(data, &self.job.device.device);
        // The mean of the posterior: noise of its own would be neither the model's nor seeded.
        let tiling = tiling(self.job, [sampled.frames.len(), height, width]);
        let latent = encoder.encode_normalized_in(video, tiling).map_err(PipelineError::from)?;
        let shape = latent.dims();
        let values = read(latent, &format!("the latent of {}", pending.clip.name))?;
        let facts = [("source", pending.clip.name.as_str()), ("model", self.facts.vae.as_str())];
        let names = (&pending.key, &pending.fingerprint);
        self.store.write(Part::Latent, names, (&values, &shape), &facts)?;
        self.latents.insert(pending.key.clone(), shape);
        Ok(())
    }
}

/// Decodes every clip until someone stops it or nobody listens any more.
fn decode_all(
    pending: &[Pending<'_>],
    settings: &ClipSettings,
    stop: [&Cancel; 2],
    send: SyncSender<Decoded>,
) {
    for (at, pending) in pending.iter().enumerate() {
        let mut collector = Collector::new(&settings.buckets);
        let is_stopped = || stop.iter().any(|cancel| cancel.is_cancelled());
        let read = settings.reader.read(&pending.clip.path, &mut |picture| {
            if is_stopped() { ControlFlow::Break(()) } else { collector.push(picture) }
        });
        // A decoder that was interrupted, too, reports damage or a short clip.
        if is_stopped() {
            return;
        }
        let result = match read {
            Ok(()) => collector.finish().map_err(Unusable::TooShort),
            Err(err) => Err(Unusable::Unreadable(err)),
        };
        if send.send((at, result)).is_err() {
            return;
        }
    }
}
