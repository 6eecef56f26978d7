//! The observer of layer inputs: statistics on the device, some tokens on the host.

use super::{CalibrationJob, Observations};
use crate::kernels::{STATISTICS, channel_statistics, no_statistics};
use crate::method::ptq::vidit_q::DECAY;
use crate::method::ptq::{
    ChannelStatistics, Observed, Origin, Place, TIMESTEP_RANGES, timestep_range,
};
use crate::nn::{InputObserver, LinearInput};
use crate::pipeline::PipelineError;
use crate::pipeline::sample::read;
use crate::quant::RunStep;
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps what layers read.
#[derive(Debug)]
pub(super) struct TokenObserver {
    device: Device,
    /// Tokens of each layer that are kept.
    samples: usize,
    /// Forward passes of a clip, and of all.
    forwards: [usize; 2],
    /// Texts that are encoded for a clip, and for all.
    texts: [usize; 2],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clip: usize,
    /// Whether the clip's text is being prepared, before its first step.
    is_text: bool,
    layers: BTreeMap<String, Layer>,
    /// Tokens that are still on the device.
    pending: Vec<Pending>,
    error: Option<PipelineError>,
}

/// What is known of one layer's input.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) in_features: usize,
    /// Tokens and statistics by range of timesteps.
    pub(super) by_range: Vec<Option<(u64, Tensor<2>)>>,
    pub(super) rows: Vec<f32>,
    pub(super) places: Vec<Place>,
    /// Whether no pass had more than one token.
    pub(super) is_temporal: bool,
    pub(super) has_frames: bool,
    /// The pass that is seen.
    pass: Option<Pass>,
    /// Texts of this clip that were seen.
    texts: usize,
    /// Tokens of the longest pass.
    pub(super) longest: usize,
}

/// One pass of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pass {
    /// Number among all passes of the layer.
    number: usize,
    /// Tokens seen.
    seen: usize,
    /// Tokens still to be kept.
    wanted: usize,
}

#[derive(Debug)]
struct Pending {
    layer: String,
    places: Vec<Place>,
    rows: Tensor<2>,
}

impl Layer {
    pub(super) fn new(in_features: usize) -> Self {
        Self {
            in_features,
            by_range: vec![None; TIMESTEP_RANGES],
            rows: Vec::new(),
            places: Vec::new(),
            is_temporal: true,
            has_frames: false,
            pass: None,
            texts: 0,
            longest: 0,
        }
    }

    fn add_statistics(&mut self, x: Tensor<2>, range: usize) {
        let tokens = x.dims()[0] as u64;
        let (before, previous) = self.by_range[range]
            .take()
            .unwrap_or_else(|| (0, no_statistics(self.in_features, &x.device())));
        self.by_range[range] = Some((before + tokens, channel_statistics(x, previous, DECAY)));
    }

    /// The pass `number`, begun if it is another than before, with `wanted` tokens to keep.
    fn pass(&mut self, number: usize, wanted: usize) -> &mut Pass {
        if self.pass.is_none_or(|pass| pass.number != number) {
            self.pass = Some(Pass { number, seen: 0, wanted });
        }
        self.pass.as_mut().expect("it was begun above")
    }
}

impl TokenObserver {
    pub(super) fn new(job: &CalibrationJob, device: &Device) -> Self {
        let clips = job.prompts.len();
        let texts = if job.sampling.uses_guidance() { 2 } else { 1 };
        Self {
            device: device.clone(),
            samples: job.samples,
            forwards: [job.sampling.forwards(), job.forwards()],
            texts: [texts, texts * clips],
            state: Mutex::default(),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a clip: its text comes first.
    pub(super) fn begin_clip(&self, clip: usize) {
        let mut state = self.state();
        (state.clip, state.is_text) = (clip, true);
        for layer in state.layers.values_mut() {
            (layer.texts, layer.pass) = (0, None);
        }
    }

    /// Ends the preparation of the text, or a step: fetches the tokens that were kept.
    pub(super) fn end_step(&self) {
        let mut state = self.state();
        state.is_text = false;
        if let Err(error) = state.fetch() {
            state.error.get_or_insert(error);
        }
    }

    /// What went wrong while observing.
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub(super) fn check(&self) -> Result<(), PipelineError> {
        self.state().error.take().map_or(Ok(()), Err)
    }

    /// Everything that was observed.
    ///
    /// # Errors
    ///
    /// If the device fails or an input was not finite.
    pub(super) fn observations(&self) -> Result<Observations, PipelineError> {
        self.check()?;
        let state = self.state();
        let layers = state.layers.iter();
        layers.map(|(name, layer)| Ok((name.clone(), layer.observed(name)?))).collect()
    }

    /// Shows the layers, to store them.
    pub(super) fn with_layers<T>(&self, show: impl FnOnce(&BTreeMap<String, Layer>) -> T) -> T {
        show(&self.state().layers)
    }

    /// Goes on from layers that were stored.
    pub(super) fn restore(&self, layers: BTreeMap<String, Layer>) {
        self.state().layers = layers;
    }

    /// Tokens to keep of pass `number` of `passes`: as many as make [`Self::samples`] of all.
    fn wanted(&self, number: usize, passes: usize) -> usize {
        let until = |number: usize| number * self.samples / passes.max(1);
        until(number + 1).saturating_sub(until(number))
    }
}

impl InputObserver for TokenObserver {
    fn observe(&self, name: &str, input: &LinearInput, step: RunStep) {
        let x = input.values();
        let [tokens, in_features] = x.dims();
        let mut state = self.state();
        let (clip, is_text) = (state.clip, state.is_text);
        let layer = state.layers.entry(name.to_owned()).or_insert_with(|| Layer::new(in_features));
        let number = if is_text {
            layer.texts += 1;
            clip * self.texts[0] + layer.texts - 1
        } else {
            clip * self.forwards[0] + step.call
        };
        let passes = if is_text { self.texts[1] } else { self.forwards[1] };
        layer.is_temporal &= tokens == 1 && !is_text;
        let wanted = match layer.is_temporal {
            // It depends on the timestep alone, which the first clip shows completely.
            true => usize::from(clip == 0),
            false => self.wanted(number, passes),
        };
        let timestep = if is_text { 0.0 } else { step.timestep };
        layer.add_statistics(x.clone(), timestep_range(timestep));
        let frames = input.frames();
        layer.has_frames |= frames.is_some();
        let known = layer.longest;
        let pass = layer.pass(number, wanted);
        let first = frames.map_or(pass.seen, |frames| frames.first);
        pass.seen = first + tokens;
        let total = known.max(pass.seen);
        let positions = positions(number, pass.wanted, wanted, total, first..first + tokens);
        pass.wanted -= positions.len();
        layer.longest = total;
        if positions.is_empty() {
            return;
        }
        let frame = |position: usize| {
            frames.map_or(0, |frames| (position / frames.per_frame.max(1)) as u32)
        };
        let place = |&position: &usize| Place { timestep, frame: frame(position) };
        let places = positions.iter().map(place).collect();
        let indices: Vec<i32> =
            positions.iter().map(|position| (position - first) as i32).collect();
        let count = indices.len();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [count]), &x.device());
        let rows = x.select(0, indices);
        state.pending.push(Pending { layer: name.to_owned(), places, rows });
    }
}

/// Which of the `total` tokens of a pass are kept, of those in `range`: `wanted` of all in equal
/// distances, begun somewhere else in every pass; at most `left`.
fn positions(
    number: usize,
    left: usize,
    wanted: usize,
    total: usize,
    range: std::ops::Range<usize>,
) -> Vec<usize> {
    let wanted = wanted.min(total);
    if wanted == 0 {
        return Vec::new();
    }
    // The golden ratio scatters the beginnings evenly.
    let start = (number as f64 * 0.618_033_988_749_895).fract();
    let position =
        |i: usize| (((i as f64 + start) * total as f64 / wanted as f64) as usize).min(total - 1);
    let mut all: Vec<usize> =
        (0..wanted).map(position).filter(|position| range.contains(position)).collect();
    all.dedup();
    all.truncate(left);
    all
}

impl State {
    /// Reads pending tokens, those of one width at once.
    fn fetch(&mut self) -> Result<(), PipelineError> {
        let mut by_width: BTreeMap<usize, Vec<Pending>> = BTreeMap::new();
        for pending in self.pending.drain(..) {
            by_width.entry(pending.rows.dims()[1]).or_default().push(pending);
        }
        for (width, pending) in by_width {
            let all = pending.iter().map(|pending| pending.rows.clone()).collect();
            let values = read(Tensor::cat(all, 0))?;
            let mut rows = values.chunks_exact(width);
            for Pending { layer, places, .. } in pending {
                let Some(layer) = self.layers.get_mut(&layer) else { continue };
                layer.rows.extend(rows.by_ref().take(places.len()).flatten());
                layer.places.extend(places);
            }
        }
        Ok(())
    }
}

impl Layer {
    fn observed(&self, name: &str) -> Result<Observed, PipelineError> {
        let statistics = |range: &Option<(u64, Tensor<2>)>| {
            let Some((tokens, tensor)) = range else { return Ok(None) };
            let values = read(tensor.clone())?;
            if values.iter().any(|value| !value.is_finite()) {
                return Err(PipelineError::NotFinite {
                    what: format!("the input of layer {name}"),
                });
            }
            debug_assert_eq!(values.len(), STATISTICS * self.in_features);
            Ok(Some(ChannelStatistics { tokens: *tokens, values }))
        };
        Ok(Observed {
            origin: Origin::Sampling,
            in_features: self.in_features,
            rows: self.rows.clone(),
            places: self.places.clone(),
            by_range: self.by_range.iter().map(statistics).collect::<Result<_, PipelineError>>()?,
            is_temporal: self.is_temporal,
            has_frames: self.has_frames,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_spread_over_a_pass_however_it_is_cut() {
        let whole = positions(3, 5, 5, 100, 0..100);
        assert_eq!(whole.len(), 5);
        assert!(whole.windows(2).all(|two| two[1] - two[0] == 20), "{whole:?}");
        let mut parts = positions(3, 5, 5, 100, 0..30);
        parts.extend(positions(3, 5 - parts.len(), 5, 100, 30..100));
        assert_eq!(parts, whole);
        assert_ne!(positions(4, 5, 5, 100, 0..100), whole);
        assert_eq!(positions(0, 9, 9, 1, 0..1), [0]);
        assert!(positions(0, 0, 0, 10, 0..10).is_empty());
    }
}
