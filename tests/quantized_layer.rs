//! What post-training methods make of a layer: transforms, branches and quantizers, as they are
//! computed and as they are stored.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{assert_matches, devices};
use qvgen::kernels::Residual;
use qvgen::method::ptq::auto::stored_bytes;
use qvgen::nn::{
    FakeQuantLinear, FrameTokens, FullLinear, HostWeights, LayerNorm, Linear, LinearInput,
    Modulation, PackedLinear, RunClock, WeightError, WeightSource, Weights, gelu_tanh,
};
use qvgen::pipeline::checkpoint::{Checkpoint, Dtype, SafetensorsWriter};
use qvgen::pipeline::packed::{LayerEntry, Manifest, PackedCheckpoint, layer_specs, write_layer};
use qvgen::quant::{
    ActivationQuantizer, Bits, ByStep, Calibration, InputTransform, LogSpec, LowRankBranch,
    PerFrame, QuantizedLayer, Scheme, StepRule, TokenRange, TokenSpec, WeightSpec, quantize_weight,
};
use std::collections::BTreeMap;
use std::path::Path;

const N: usize = 50;
const K: usize = 128;

fn values(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin() * (1.0 + (i % 7) as f32)).collect()
}

fn tensor(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / columns, columns];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn tokens(m: usize, device: &Device) -> Tensor<2> {
    tensor(&values(m * K, 0.7), K, device)
}

fn read(y: Tensor<2>) -> Vec<f32> {
    y.into_data().try_to_vec().unwrap()
}

fn token_spec(bits: Bits) -> TokenSpec {
    TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL }
}

fn by_step(rule: StepRule) -> ActivationQuantizer {
    let specs = [Bits::B8, Bits::B4, Bits::B3].map(token_spec).to_vec();
    ActivationQuantizer::ByStep(ByStep { rule, specs })
}

fn per_frame() -> PerFrame {
    let ranges = vec![[-1.0, 1.0], [-6.0, 4.0], [-20.0, 20.0]];
    PerFrame { bits: Bits::B8, scheme: Scheme::Asymmetric, ranges }
}

/// Nothing, and one of each quantizer.
fn quantizers() -> Vec<Option<ActivationQuantizer>> {
    let log = LogSpec { bits: Bits::B8, steps_per_octave: 8, absmax: 7.0 };
    vec![
        None,
        Some(token_spec(Bits::B4).into()),
        Some(token_spec(Bits::B6).into()),
        Some(by_step(StepRule::CallCountdown)),
        Some(ActivationQuantizer::PerFrame(per_frame())),
        Some(ActivationQuantizer::Log(log)),
        Some(ActivationQuantizer::Log(LogSpec { bits: Bits::B4, steps_per_octave: 1, ..log })),
    ]
}

fn transforms() -> Vec<InputTransform> {
    let scale = Some((0..K).map(|i| 0.25 + (i % 9) as f32 / 4.0).collect::<Vec<_>>());
    let shift = Some(values(K, 0.11));
    vec![
        InputTransform::NONE,
        InputTransform { scale: scale.clone(), ..InputTransform::NONE },
        InputTransform { hadamard: Some(64), ..InputTransform::NONE },
        InputTransform { shift, scale, hadamard: Some(128) },
    ]
}

/// A branch that is small beside the weight, so that little cancels.
fn branch(rank: usize) -> LowRankBranch {
    let down = values(rank * K, 0.05).into_iter().map(|value| 0.05 * value).collect();
    LowRankBranch { rank, down, up: values(N * rank, 0.21) }.rounded()
}

/// A layer of the original weight in `bits`.
fn layer(
    bits: Bits,
    transform: InputTransform,
    low_rank: Option<LowRankBranch>,
    activations: Option<ActivationQuantizer>,
) -> QuantizedLayer {
    let (weight, bias) = (values(N * K, 0.3), values(N, 0.9));
    let spec = WeightSpec {
        bits,
        scheme: Scheme::AsymmetricReal,
        group_size: None,
        calibration: Calibration::MinMax,
    };
    let bias = transform.fold_bias(&weight, Some(bias));
    let mut folded = weight;
    transform.fold_weight(&mut folded, K);
    if let Some(branch) = &low_rank {
        let mut product = vec![0.0; N * K];
        for (row, up) in product.chunks_mut(K).zip(branch.up.chunks(branch.rank)) {
            for (up, down) in up.iter().zip(branch.down.chunks(K)) {
                row.iter_mut().zip(down).for_each(|(w, down)| *w += up * down);
            }
        }
        folded.iter_mut().zip(product).for_each(|(w, branch)| *w -= branch);
    }
    let rows = quantize_weight(&folded, K, spec);
    QuantizedLayer { rows, scheme: spec.scheme, bias, transform, low_rank, activations }
}

/// Every transform, with and without a branch, and every quantizer: pairs, not all combinations,
/// since compiling takes time.
fn every_layer() -> Vec<(String, QuantizedLayer)> {
    let transforms = transforms();
    let layer = |(q, quantizer): (usize, Option<ActivationQuantizer>)| {
        let t = (q + 3) % transforms.len();
        let low_rank = (q % 3 != 1).then(|| branch(3));
        let bits = if q % 2 == 0 { Bits::B4 } else { Bits::B6 };
        let name = format!("transform {t}, branch {}, quantizer {q}", low_rank.is_some());
        (name, layer(bits, transforms[t].clone(), low_rank, quantizer))
    };
    quantizers().into_iter().enumerate().map(layer).collect()
}

/// Root mean square of the difference over that of `expected`: what is forgotten in a fold is one.
fn relative_error(actual: &[f32], expected: &[f32]) -> f32 {
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
    let difference = squares(&mut actual.iter().zip(expected).map(|(a, e)| a - e));
    (difference / squares(&mut expected.iter().copied())).sqrt()
}

/// The result by the definition, in plain Rust, for weight-only layers.
fn by_definition(layer: &QuantizedLayer, mut x: Vec<f32>) -> Vec<f32> {
    layer.transform.apply(&mut x, K);
    let (weight, bias) = (layer.rows.values(), layer.bias.clone().unwrap());
    let row = |token: &[f32]| -> Vec<f32> {
        let dot = |w: &[f32]| token.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        weight.chunks(K).zip(&bias).map(|(w, b)| dot(w) + b).collect()
    };
    let mut y: Vec<f32> = x.chunks(K).flat_map(row).collect();
    if let Some(branch) = &layer.low_rank {
        branch.add(&x, &mut y);
    }
    y
}

#[test]
fn a_weight_only_layer_is_its_definition_and_at_eight_bits_the_original() {
    for (name, device) in devices() {
        let (w, bias) = (values(N * K, 0.3), values(N, 0.9));
        let full = Linear::Full(FullLinear::new(&w, Some(bias), K, usize::MAX, &device));
        for (t, transform) in transforms().into_iter().enumerate() {
            for low_rank in [None, Some(branch(3))] {
                for m in [3, 20] {
                    let layer = layer(Bits::B8, transform.clone(), low_rank.clone(), None);
                    let packed = PackedLinear::from_layer(&layer, usize::MAX, &device);
                    let actual = read(Linear::Packed(packed).forward(tokens(m, &device)));
                    let expected = by_definition(&layer, values(m * K, 0.7));
                    let what = format!("{name}, transform {t}, {m} tokens");
                    assert_matches(&what, &actual, &expected, 1e-4);
                    let original = read(full.forward(tokens(m, &device)));
                    let error = relative_error(&actual, &original);
                    assert!(error < 0.3, "{what}: {error} from the original");
                }
            }
        }
    }
}

#[test]
fn packed_equals_fake_quantized_for_every_combination() {
    for (device_name, device) in devices() {
        for (name, layer) in every_layer() {
            for max_elements in [usize::MAX, 17 * 32] {
                let packed = PackedLinear::from_layer(&layer, max_elements, &device);
                let fake = Linear::FakeQuant(FakeQuantLinear::from_packed(&packed));
                let packed = Linear::Packed(packed);
                for m in [3, 20] {
                    let expected = read(fake.forward(tokens(m, &device)));
                    let actual = read(packed.forward(tokens(m, &device)));
                    let what = format!("{device_name}, {name}, {m} tokens");
                    assert_matches(&what, &actual, &expected, 1e-5);
                }
            }
        }
    }
}

#[test]
fn devices_agree_on_every_combination() {
    let [(_, cpu), (_, wgpu)] = devices();
    for (name, layer) in every_layer() {
        let run = |device: &Device| {
            let packed = PackedLinear::from_layer(&layer, usize::MAX, device);
            read(Linear::Packed(packed).forward(tokens(20, device)))
        };
        // A value at a tie may become the next code where the transform rounds otherwise.
        let tolerance = if layer.activations.is_some() { 0.1 } else { 1e-4 };
        assert_matches(&name, &run(&wgpu), &run(&cpu), tolerance);
    }
}

#[test]
fn residuals_gates_and_splits_are_what_separate_steps_give() {
    for (device_name, device) in devices() {
        for (name, layer) in every_layer() {
            let m = 20;
            let packed = PackedLinear::from_layer(&layer, usize::MAX, &device);
            let y = Linear::Packed(packed.clone()).forward(tokens(m, &device));
            let residual = tensor(&values(m * N, 0.2), N, &device);
            let gate = tensor(&values(N, 0.4), N, &device);
            let expected = read(residual.clone() + y * gate.clone());
            for max_ops in [u64::MAX, 1] {
                let residual = Residual { value: residual.clone(), gate: Some(gate.clone()) };
                let input = LinearInput::new(tokens(m, &device));
                let actual = read(packed.forward_within(&input, Some(residual), max_ops));
                assert_matches(&format!("{device_name}, {name}"), &actual, &expected, 1e-5);
            }
        }
    }
}

#[test]
fn steps_before_a_transform_are_what_separate_steps_give() {
    for (device_name, device) in devices() {
        let norm = LayerNorm::plain(1e-6);
        let row = |step| tensor(&values(K, step), K, &device);
        let modulation = Modulation { factor: row(0.3), offset: row(0.6) };
        let x = tokens(20, &device);
        let inputs = || {
            let modulated = modulation.apply(norm.forward(x.clone()));
            [
                (LinearInput::normed(x.clone(), &norm, Some(&modulation)), modulated),
                (LinearInput::gelu_tanh(x.clone()), gelu_tanh(x.clone())),
            ]
        };
        for (name, layer) in every_layer() {
            let linear = Linear::Packed(PackedLinear::from_layer(&layer, usize::MAX, &device));
            for (input, separate) in inputs() {
                let (actual, expected) = (linear.forward_input(&input), linear.forward(separate));
                let what = format!("{device_name}, {name}");
                // A value at a tie may become the next code.
                let tolerance = if layer.activations.is_some() { 0.1 } else { 1e-4 };
                assert_matches(&what, &read(actual), &read(expected), tolerance);
            }
        }
    }
}

#[test]
fn layers_with_different_transforms_share_an_input_without_mixing_codes() {
    for (device_name, device) in devices() {
        let input = LinearInput::new(tokens(20, &device));
        for (name, layer) in every_layer().into_iter().rev() {
            let linear = Linear::Packed(PackedLinear::from_layer(&layer, usize::MAX, &device));
            let (actual, alone) =
                (linear.forward_input(&input), linear.forward(tokens(20, &device)));
            assert_eq!(read(actual), read(alone), "{device_name}, {name}");
        }
    }
}

/// One layer under any name.
struct Source(QuantizedLayer);

impl WeightSource for Source {
    fn has(&self, _: &str) -> bool {
        true
    }

    fn values(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, WeightError> {
        Err(WeightError::Missing { tensor: name.to_owned(), path: "the test".into() })
    }

    fn rows(&self, name: &str, _: [usize; 2], _: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.values(name, &[])
    }

    fn linear(
        &self,
        _: &str,
        _: usize,
        _: usize,
        _: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        Ok(Linear::Packed(PackedLinear::from_layer(&self.0, 17 * 32, device)))
    }
}

#[test]
fn layers_from_host_memory_compute_the_same_bits() {
    for (device_name, device) in devices() {
        for (name, layer) in every_layer() {
            let extras = layer.low_rank.as_ref().map_or(0, |b| 4 * (b.down.len() + b.up.len()));
            let source = Source(layer);
            let record = |source: &dyn WeightSource| source.linear("a", N, K, true, &device);
            let (host, original) = HostWeights::record(&source, record).unwrap();
            assert!(host.bytes() > original.bytes().min(extras), "{name}");
            let again = Weights::new(&host, &device).linear("a", N, K).unwrap();
            let run = |linear: &Linear| read(linear.forward(tokens(20, &device)));
            assert_eq!(run(&again), run(&original), "{device_name}, {name}");
        }
    }
}

#[test]
fn quantizers_follow_the_clock_of_their_model() {
    for (name, device) in devices() {
        let rule = StepRule::CallCountdown;
        let source = Source(layer(Bits::B4, InputTransform::NONE, None, Some(by_step(rule))));
        let clock = RunClock::default();
        let weights = Weights::new(&source, &device).with_clock(&clock);
        let linear = weights.at("any").linear("a", N, K).unwrap();
        assert!(linear.depends_on_step());
        let run = |linear: &Linear| read(linear.forward(tokens(20, &device)));
        let fixed = |bits| {
            let quantizer = Some(token_spec(bits).into());
            let layer = layer(Bits::B4, InputTransform::NONE, None, quantizer);
            run(&Linear::Packed(PackedLinear::from_layer(&layer, 17 * 32, &device)))
        };
        clock.begin_step(900.0);
        for bits in [Bits::B3, Bits::B4, Bits::B8, Bits::B8] {
            clock.begin_call();
            assert_eq!(run(&linear), fixed(bits), "{bits} bits on {name}");
        }
        clock.restart();
        clock.begin_step(900.0);
        assert_eq!(run(&linear), fixed(Bits::B3), "{name}");
    }
}

#[test]
fn tokens_have_the_ranges_of_their_frames() {
    for (name, device) in devices() {
        let quantizer = ActivationQuantizer::PerFrame(per_frame());
        let layer = |quantizer| layer(Bits::B4, InputTransform::NONE, None, Some(quantizer));
        let of = |quantizer, device: &Device| {
            Linear::Packed(PackedLinear::from_layer(&layer(quantizer), usize::MAX, device))
        };
        let (linear, m) = (of(quantizer, &device), 12);
        let frames = Some(FrameTokens { first: 3, per_frame: 5 }); // tokens 3 to 14: frames 0, 1, 2
        let run = |linear: &Linear, frames| {
            read(linear.forward_input(&LinearInput::new(tokens(m, &device)).of_frames(frames)))
        };
        let actual = run(&linear, frames);
        let mut expected = Vec::new();
        for (token, frame) in [(0..2, 0), (2..7, 1), (7..12, 2)] {
            let one = run(&of(per_frame().spec(frame).into(), &device), None);
            expected.extend_from_slice(&one[token.start * N..token.end * N]);
        }
        assert_eq!(actual, expected, "{name}");
        let without = run(&linear, None);
        assert_eq!(without, run(&of(per_frame().any_frame().into(), &device), None), "{name}");
    }
}

fn write(folder: &Path, layer: &QuantizedLayer) -> Manifest {
    let entry = LayerEntry::from_layer(layer, "test");
    let specs = layer_specs("a.b", layer.shape(), &entry, layer.bias.is_some()).unwrap();
    let manifest = Manifest {
        generator: "test".to_owned(),
        precision: entry.precision(),
        source_sha256: String::new(),
        layers: [("a.b".to_owned(), entry)].into(),
    };
    let metadata: BTreeMap<String, String> = manifest.to_metadata();
    let mut writer =
        SafetensorsWriter::create(folder, "model", &specs, &metadata, u64::MAX).unwrap();
    let bytes = write_layer(&mut writer, "a.b", layer).unwrap();
    assert_eq!(bytes, specs.iter().map(|spec| spec.byte_len()).sum::<u64>());
    let bias = layer.bias.as_ref().map_or(0, |bias| 4 * bias.len() as u64);
    assert_eq!(bytes, stored_bytes(layer) + bias);
    writer.finish().unwrap();
    manifest
}

fn open(folder: &Path) -> PackedCheckpoint {
    let checkpoint = Checkpoint::open(&folder.join("model.safetensors")).unwrap();
    PackedCheckpoint::recognize(checkpoint).unwrap().expect("a packed file")
}

#[test]
fn what_was_written_is_read_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (name, layer) in every_layer() {
        let folder = tempfile::tempdir_in(folder.path()).unwrap();
        let manifest = write(folder.path(), &layer);
        let packed = open(folder.path());
        assert_eq!(*packed.manifest(), manifest, "{name}");
        packed.check("a.b.weight", &[N, K]).unwrap();
        assert_eq!(packed.layer("a.b", [N, K], true).unwrap(), Some(layer.clone()), "{name}");
        for (_, device) in devices() {
            let stored = packed.linear("a.b", N, K, true, &device).unwrap();
            let made = Linear::Packed(PackedLinear::from_layer(&layer, usize::MAX, &device));
            let run = |linear: &Linear| read(linear.forward(tokens(3, &device)));
            assert_eq!(run(&stored), run(&made), "{name}");
        }
    }
}

#[test]
fn factors_that_were_stored_in_32_bits_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(Bits::B4, transforms().remove(1), Some(branch(3)), None);
    let manifest = write(folder.path(), &layer);
    let old = tempfile::tempdir().unwrap();
    let mut specs =
        layer_specs("a.b", layer.shape(), &manifest.layers["a.b"], layer.bias.is_some()).unwrap();
    let factors = specs.iter_mut().filter(|spec| spec.name.contains("low_rank"));
    factors.for_each(|spec| {
        assert_eq!(spec.dtype, Dtype::F16, "{}", spec.name);
        spec.dtype = Dtype::F32;
    });
    let mut writer =
        SafetensorsWriter::create(old.path(), "model", &specs, &manifest.to_metadata(), u64::MAX)
            .unwrap();
    // What f16 does not hold.
    let exact = |value: f32| 1.0001 * value;
    let halves = Checkpoint::open(&folder.path().join("model.safetensors")).unwrap();
    for spec in &specs {
        let bytes = if spec.dtype == Dtype::F32 && spec.name.contains("low_rank") {
            let values = halves.values(&spec.name, &spec.shape).unwrap();
            values.into_iter().flat_map(|value| exact(value).to_le_bytes()).collect()
        } else {
            halves.tensors().raw(&spec.name).unwrap().bytes.to_vec()
        };
        writer.write(&spec.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    let packed = open(old.path());
    packed.check("a.b.weight", &[N, K]).unwrap();
    let read = packed.layer("a.b", [N, K], true).unwrap().and_then(|layer| layer.low_rank).unwrap();
    let expected = branch(3);
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| *a == exact(*b));
    assert!(same(&read.down, &expected.down) && same(&read.up, &expected.up));
}

#[test]
fn damaged_layers_are_refused_by_tensor() {
    let low_rank = Some(branch(3));
    let full = layer(Bits::B6, transforms().remove(3), low_rank, Some(token_spec(Bits::B6).into()));
    type Change = fn(&mut QuantizedLayer);
    let changes: [(Change, &str); 3] = [
        (|layer| layer.transform.scale.as_mut().unwrap()[5] = 0.0, "input_scale"),
        (|layer| layer.transform.shift.as_mut().unwrap()[5] = f32::NAN, "input_shift"),
        (|layer| layer.low_rank.as_mut().unwrap().up[5] = f32::INFINITY, "low_rank_up"),
    ];
    for (change, expected) in changes {
        let folder = tempfile::tempdir().unwrap();
        let mut layer = full.clone();
        change(&mut layer);
        write(folder.path(), &layer);
        let error = open(folder.path()).layer("a.b", [N, K], true).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // Headers alone: another width, and a rank that the tensors do not have.
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &full);
    let packed = open(folder.path());
    let error = packed.check("a.b.weight", &[N, 96]).unwrap_err().to_string();
    assert!(error.contains("a.b"), "{error}");
    let mut other = full;
    other.low_rank =
        Some(LowRankBranch { rank: 60, down: vec![1.0; 60 * K], up: vec![1.0; 60 * N] });
    let entry = LayerEntry::from_layer(&other, "test");
    let error = layer_specs("a.b", [N, K], &entry, true).unwrap_err().to_string();
    assert!(error.contains("low_rank \"60\""), "{error}");
}
