//! Steps between products that are passes of their own over the activations: at best as fast as
//! memory.

use super::conv::values_at;
use super::{Selection, not_run, read};
use crate::bench::random::{self, indices, sampled};
use crate::bench::{Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::channel_norm::channel_norm;
use crate::kernels::head_norm_rope::head_norm_rope;
use crate::kernels::norm_rope::norm_rope;
use crate::kernels::rope::rope;
use crate::kernels::{
    Activation, Element, LogTable, TokenTransform, activate, channel_statistics, hadamard,
    in_a_row, layer_norm, log_quantize, no_statistics,
};
use crate::quant::{Bits, LogSpec, check_hadamard};
use burn::tensor::{Device, Tensor, TensorData};

/// Rows, or single values where a pass looks at all rows, that are compared.
const SAMPLES: usize = 24;
/// Channels of the last and largest level of Wan's decoder.
const VAE_CHANNELS: usize = 96;
/// Width of the blocks of a transform.
const BLOCK: usize = 128;
const EPS: f32 = 1e-6;
const TOLERANCE: f64 = 1e-4;

/// A kernel that takes tokens `[m, k]`.
#[derive(Clone, Copy)]
struct Pass {
    kernel: &'static str,
    /// Read and written per value, at least.
    bytes: f64,
    /// Whether a row of the result depends on its token alone.
    is_by_token: bool,
    fits: fn([usize; 2]) -> bool,
    run: fn(&Inputs) -> Tensor<2>,
}

const PASS: Pass = Pass {
    kernel: "",
    bytes: 8.0,
    is_by_token: true,
    fits: |_| true,
    run: |inputs| inputs.x.clone(),
};

/// Every pass, by the names of their kernels.
const PASSES: [Pass; 10] = [
    Pass {
        kernel: "layer_norm",
        run: |Inputs { x, rows: [factor, offset], .. }| {
            layer_norm(x.clone(), factor.clone(), offset.clone(), EPS)
        },
        ..PASS
    },
    Pass {
        kernel: "activate gelu",
        run: |inputs| activate(inputs.x.clone(), Activation::GeluTanh),
        ..PASS
    },
    Pass {
        kernel: "rope",
        run: |Inputs { x, rotation: [cos, sin], .. }| rope(x.clone(), cos.clone(), sin.clone()),
        ..PASS
    },
    Pass {
        kernel: "norm_rope",
        run: |Inputs { x, rows: [factor, _], rotation, .. }| {
            let factor = factor.clone().unsqueeze();
            norm_rope(x.clone(), factor, EPS, Some(rotation.clone()), Element::F32)
        },
        ..PASS
    },
    Pass {
        kernel: "head_norm_rope",
        run: |Inputs { x, head, rotation, .. }| {
            let rotation = Some(rotation.clone());
            head_norm_rope(None, x.clone(), head.clone(), EPS, rotation, Element::F32)
        },
        ..PASS
    },
    Pass {
        kernel: "hadamard",
        fits: |[_, k]| check_hadamard(BLOCK, k).is_ok(),
        run: |inputs| {
            let blocks = TokenTransform { affine: None, hadamard: Some(BLOCK) };
            hadamard(inputs.x.clone(), &blocks)
        },
        ..PASS
    },
    Pass {
        kernel: "log_quantize",
        bytes: 9.0,
        run: |Inputs { x, log, .. }| log_quantize(x.clone(), log).1,
        ..PASS
    },
    Pass {
        kernel: "channel_statistics",
        bytes: 4.0,
        is_by_token: false,
        run: |Inputs { x, statistics, .. }| channel_statistics(x.clone(), statistics.clone(), 0.9),
        ..PASS
    },
    Pass {
        kernel: "channel_norm silu",
        bytes: 12.0,
        is_by_token: false,
        fits: |[m, k]| (m * k).is_multiple_of(VAE_CHANNELS),
        run: |Inputs { x, channels, .. }| {
            let pixels = x.shape().num_elements() / VAE_CHANNELS;
            channel_norm(x.clone().reshape([VAE_CHANNELS, pixels]), channels.clone(), true)
        },
    },
    Pass {
        kernel: "rearrange",
        is_by_token: false,
        run: |inputs| in_a_row(inputs.x.clone().swap_dims(0, 1)),
        ..PASS
    },
];

pub(super) fn entries(selection: &Selection) -> Vec<Entry> {
    let config = &selection.model.config;
    let (k, head_dim) = (config.dim(), config.dim() / config.heads());
    let of = |&tokens: &usize| {
        let passes = PASSES.iter().filter(move |pass| (pass.fits)([tokens, k]));
        passes.map(move |&pass| entry(pass, [tokens, k], head_dim))
    };
    selection.tokens.iter().flat_map(of).collect()
}

fn entry(pass: Pass, [m, k]: [usize; 2], head_dim: usize) -> Entry {
    let parameters = [("tokens", m), ("channels", k)];
    let identity =
        Identity::new(Suite::Passes, format!("{m} x {k}"), pass.kernel, "f32", &parameters);
    let work = Work { bytes: pass.bytes * (m * k) as f64, ..Work::default() };
    Entry::new(identity, work, m * k, move |device| {
        Ok(Box::new(Run::new(pass, [m, k], head_dim, device)?))
    })
}

/// Tokens, and what any of the passes needs besides.
struct Inputs {
    /// `[m, k]`.
    x: Tensor<2>,
    /// Factor and offset, `[k]`.
    rows: [Tensor<1>; 2],
    /// Factor and offset of a head's channels, `[2, head_dim]`.
    head: Tensor<2>,
    /// Cosines and sines, `[m, head_dim / 2]`.
    rotation: [Tensor<2>; 2],
    /// `[VAE_CHANNELS]`.
    channels: Tensor<1>,
    /// Of no token.
    statistics: Tensor<2>,
    log: LogTable,
}

impl Inputs {
    fn new([m, k]: [usize; 2], head_dim: usize, device: &Device) -> Self {
        let row = |len, seed| {
            Tensor::from_data(TensorData::new(random::values(len, seed, 1.0), [len]), device)
        };
        let log = LogSpec { bits: Bits::B8, steps_per_octave: 12, absmax: 1.0 };
        Self {
            x: random::matrix([m, k], 1, 1.0, device),
            rows: [row(k, 2), row(k, 3)],
            head: random::matrix([2, head_dim], 4, 1.0, device),
            rotation: [5, 6].map(|seed| random::matrix([m, head_dim / 2], seed, 1.0, device)),
            channels: row(VAE_CHANNELS, 7),
            statistics: no_statistics(k, device),
            log: LogTable::new(log, device),
        }
    }

    /// Some of the tokens.
    fn select(self, tokens: &[usize]) -> Self {
        let tokens = indices(tokens, &self.x.device());
        let some = |x: Tensor<2>| x.select(0, tokens.clone());
        Self { x: some(self.x), rotation: self.rotation.map(some), ..self }
    }
}

struct Run {
    pass: Pass,
    inputs: Inputs,
    /// Rows, or positions in the flat result.
    places: Vec<usize>,
    expected: Vec<f32>,
    y: Option<Tensor<2>>,
}

impl Run {
    fn new(
        pass: Pass,
        shape: [usize; 2],
        head_dim: usize,
        device: &Device,
    ) -> Result<Self, Failure> {
        let twin = Inputs::new(shape, head_dim, &Device::flex());
        let (places, expected) = if pass.is_by_token {
            let places = sampled(shape[0], SAMPLES, 8);
            let expected = read((pass.run)(&twin.select(&places)))?;
            (places, expected)
        } else {
            let values = read((pass.run)(&twin))?;
            let places = sampled(values.len(), SAMPLES, 8);
            let expected = places.iter().map(|&place| values[place]).collect();
            (places, expected)
        };
        let inputs = Inputs::new(shape, head_dim, device);
        Ok(Self { pass, inputs, places, expected, y: None })
    }
}

impl Job for Run {
    fn run(&mut self) {
        self.y = None;
        self.y = Some((self.pass.run)(&self.inputs));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(not_run)?;
        let actual = if self.pass.is_by_token {
            let rows = indices(&self.places, &y.device());
            read(y.select(0, rows))?
        } else {
            let [rows, columns] = y.dims();
            values_at(y.reshape([rows, 1, 1, columns]), &self.places)?
        };
        Verified::compare(&actual, &self.expected, TOLERANCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_and_a_nan_are_noticed() {
        for pass in PASSES {
            let mut run = Run::new(pass, [33, 256], 32, &Device::flex()).unwrap();
            run.run();
            run.verify().unwrap_or_else(|err| panic!("{}: {err}", pass.kernel));
            let y = run.y.clone().unwrap();
            for wrong in [0.5, f32::NAN] {
                run.y = Some(y.clone() + wrong);
                assert!(run.verify().is_err(), "{}", pass.kernel);
            }
        }
    }
}
