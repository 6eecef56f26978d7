//! Checkpoints of the released QVGen code: our packed integers against its formulas.
//!
//! The formulas are written here once more, from `training/quant/quant.py`, and share nothing with
//! the library: weights and tokens are rounded in floats and multiplied as floats, which is all
//! that the code does.

mod formula;
mod plain_wan;

use crate::common::{Reference, assert_close, assert_matches, devices, fixture};
use crate::{copy_folder, full_message, read_reference, temporary, wan, write_reference};
use burn::tensor::{Device, Tensor, TensorData};
use formula::{GROUPS, Official, at_most, bf16s, f32s, logit};
use plain_wan::{Matrix, PlainWan};
use qvgen::models::wan::WanConfig;
use qvgen::nn::{Limits, Trace, Weights};
use qvgen::pipeline::PipelineError;
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::{ComponentKind, ModelFolder};
use qvgen::pipeline::import::{ClipGroups, ImportJob, import};
use qvgen::pipeline::model::{ComponentWeights, VideoModel};
use qvgen::pipeline::quantize::QuantizeReport;
use qvgen::quant::Bits;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

fn job(checkpoint: &Path, out: &Path) -> ImportJob {
    ImportJob {
        checkpoint: checkpoint.to_owned(),
        out: out.to_owned(),
        weights: Bits::B4,
        activations: Some(Bits::B4),
        clip_groups: ClipGroups::Mean,
        refer: true,
        overwrite: true,
        max_shard_bytes: 1 << 30,
    }
}

fn run_with(base: &Path, job: &ImportJob) -> Result<QuantizeReport, PipelineError> {
    import(&VideoModel::open(base)?, job, &Cancel::new(), &mut |_, _, _| {})
}

fn run(job: &ImportJob) -> Result<QuantizeReport, PipelineError> {
    run_with(&wan(), job)
}

/// The packed transformer of the model in `folder`.
fn packed(folder: &Path) -> ComponentWeights {
    let model = VideoModel::open(folder).unwrap();
    model.check_files().unwrap();
    let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).unwrap();
    assert!(weights.is_packed());
    weights
}

fn config() -> WanConfig {
    let component = ModelFolder::open(&wan()).unwrap().component(ComponentKind::Transformer);
    WanConfig::from_json(&component.unwrap().config).unwrap()
}

fn plain(official: &Official) -> PlainWan {
    let config = config();
    let sizes = [config.num_attention_heads, config.freq_dim, config.num_layers];
    PlainWan::new(sizes, config.eps, &official.plain_tensors())
}

/// Values in −1..1, most of them small, as activations are.
fn activations(tokens: usize, width: usize, seed: f32) -> Vec<f32> {
    (0..tokens * width).map(|i| (seed + 0.913 * i as f32).sin().powi(3) * 1.7 + 0.2).collect()
}

fn rows(values: &[f32], width: usize) -> Matrix {
    values.chunks(width).map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect()
}

fn data<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32 values")
}

#[test]
fn every_layer_computes_what_the_released_formulas_do() {
    let place = temporary();
    let (checkpoint, out) = (place.path().join("official"), place.path().join("out"));
    for (base, bits) in [(wan(), 4), (wan(), 3), (fixture("cogvideox_2b_a"), 4)] {
        let official = Official::of(&base, bits, |_| true);
        official.write(&checkpoint);
        let width = Bits::from_u32(bits).unwrap();
        let job = ImportJob { weights: width, activations: Some(width), ..job(&checkpoint, &out) };
        let report = run_with(&base, &job).unwrap();
        let linears = VideoModel::open(&base).unwrap().transformer.linears();
        assert_eq!(report.layers.len(), linears.len());
        let weights = packed(&out);
        assert_eq!(weights.precision(&[]), format!("w{bits}a{bits}"));
        for (name, device) in devices() {
            for linear in &linears {
                let (n, k) = (linear.out_features, linear.in_features);
                let layer = weights.source().linear(&linear.name, n, k, true, &device).unwrap();
                let x = activations(5, k, n as f32);
                let tensor = Tensor::<2>::from_data(TensorData::new(x.clone(), [5, k]), &device);
                let y = data(layer.forward(tensor));
                let expected = official.linear(&linear.name, &rows(&x, k), official.mean_clip());
                let expected: Vec<f32> = expected.concat().iter().map(|&v| v as f32).collect();
                assert_matches(&format!("{name} {} w{bits}", linear.name), &y, &expected, 2e-5);
            }
        }
    }
}

/// The vectors of section 11 of the specification, padded to the width of a layer.
#[test]
fn the_golden_vectors_pass_through_an_import() {
    const LAYER: &str = "blocks.0.attn1.to_q";
    let golden_w: [[f32; 8]; 2] = [
        [-0.12, 0.05, 0.031, -0.044, 0.2, 0.013, -0.09, 0.075],
        [0.4, -0.02, 0.01, 0.03, -0.05, 0.06, -0.07, 0.08],
    ];
    let golden_x: [[f32; 8]; 2] =
        [[-1.3, 0.2, 0.75, 2.6, -0.4, 0.0, 1.1, -0.05], [0.5, 0.6, 0.9, 1.4, 0.55, 0.7, 0.8, 1.0]];
    let place = temporary();
    let (checkpoint, out) = (place.path().join("official"), place.path().join("out"));
    let mut official = Official::of_fixture(4, |_| true);
    official.edit(LAYER, |layer| {
        for (row, golden) in golden_w.iter().enumerate() {
            layer.weight[row].fill(0.0);
            layer.weight[row][..8].copy_from_slice(golden);
            let p = [0.99, 1.0][row];
            let (min, max) =
                golden.iter().fold((0.0_f32, 0.0_f32), |(a, b), &w| (a.min(w), b.max(w)));
            layer.scale[row] = (p * max - p * min) / 15.0;
            layer.zero_point[row] = -(p * min) / layer.scale[row];
        }
        layer.upper = vec![logit(0.95); GROUPS];
        layer.lower = vec![logit(0.95); GROUPS];
    });
    let layer = official.layer(LAYER);
    assert_eq!(layer.codes(0)[..8], [0, 8, 7, 4, 15, 6, 1, 9]);
    assert_eq!(layer.codes(1)[..8], [15, 2, 3, 3, 1, 4, 0, 5]);
    assert_close("s", &layer.scale[..2], &[0.021_120, 0.031_333], 0.0, 1e-6);
    assert_close("z", &layer.zero_point[..2], &[5.625, 2.234_042], 0.0, 1e-5);
    let dequantized: Vec<f32> = layer.dequantized(0)[..8].iter().map(|&w| w as f32).collect();
    let expected = [-0.1188, 0.05016, 0.02904, -0.03432, 0.198, 0.00792, -0.09768, 0.07128];
    assert_close("row 0", &dequantized, &expected, 0.0, 1e-5);
    // Padded with values inside the range of the token, which change neither end.
    let mut x = vec![0.0; 64];
    x[..8].copy_from_slice(&golden_x[0]);
    x[32..].fill(0.7);
    x[32..40].copy_from_slice(&golden_x[1]);
    let clip = official.layer(LAYER).clip(33);
    assert_close("clip", &[clip[0] as f32], &[0.9025], 0.0, 1e-6);
    let tokens = official.tokens(&rows(&x, 32), clip);
    assert_eq!(tokens.codes[0][..8], [0, 6, 8, 15, 3, 5, 10, 5]);
    assert_eq!(tokens.codes[1][..8], [9, 11, 15, 15, 10, 13, 15, 15]);
    assert_close("s_x", &tokens.scales, &[0.234_650, 0.054_150], 0.0, 1e-6);
    assert_eq!(tokens.zero_points, [5.0, 0.0]);

    official.write_with(&checkpoint, f32s);
    run(&job(&checkpoint, &out)).unwrap();
    let weights = packed(&out);
    let expected = official.linear(LAYER, &rows(&x, 32), clip);
    let expected: Vec<f32> = expected.concat().iter().map(|&v| v as f32).collect();
    for (name, device) in devices() {
        let layer = weights.source().linear(LAYER, 32, 32, true, &device).unwrap();
        let tensor = Tensor::<2>::from_data(TensorData::new(x.clone(), [2, 32]), &device);
        assert_matches(&format!("{name} golden"), &data(layer.forward(tensor)), &expected, 2e-5);
    }
}

/// Latent and text of the fixture's first sample, with the timestep.
struct Input {
    latent: Vec<f32>,
    shape: [usize; 4],
    timestep: f32,
    text: Vec<f32>,
    text_dim: usize,
}

impl Input {
    fn read(reference: &Reference) -> Self {
        let shape = reference.shape("transformer.hidden_states");
        let shape = [shape[1], shape[2], shape[3], shape[4]];
        let text_shape = reference.shape("transformer.encoder_hidden_states");
        let first = |name: &str, len: usize| reference.f32(name)[..len].to_vec();
        Self {
            latent: first("transformer.hidden_states", shape.iter().product()),
            timestep: reference.f32("transformer.timestep")[0],
            text: first("transformer.encoder_hidden_states", text_shape[1] * text_shape[2]),
            text_dim: text_shape[2],
            shape,
        }
    }

    fn text_rows(&self) -> Matrix {
        rows(&self.text, self.text_dim)
    }

    fn tensors(&self, device: &Device) -> (Tensor<4>, Tensor<2>) {
        let text_shape = [self.text.len() / self.text_dim, self.text_dim];
        (
            Tensor::from_data(TensorData::new(self.latent.clone(), self.shape), device),
            Tensor::from_data(TensorData::new(self.text.clone(), text_shape), device),
        )
    }
}

#[test]
fn the_plain_transformer_of_these_tests_is_right() {
    let reference = Reference::open(&wan());
    let input = Input::read(&reference);
    let full = Official::of_fixture(4, |_| false);
    let y = plain(&full).forward(
        &input.latent,
        input.shape,
        input.timestep,
        &input.text_rows(),
        &|name, x| full.full_linear(name, x),
    );
    let expected = &reference.f32("transformer.output")[..y.len()];
    assert_matches("plain loops", &y, expected, 1e-4);
}

/// The velocities of some forward passes of the packed transformer, two per step as with guidance.
fn velocities(folder: &Path, device: &Device, input: &Input, timesteps: &[f32]) -> Vec<Vec<f32>> {
    let (weights, model) = (packed(folder), VideoModel::open(folder).unwrap());
    let source = Weights::new(weights.source(), device);
    let transformer = model.transformer.load(&source, Limits::default()).unwrap();
    let off = &mut Trace::off();
    let (latent, text) = input.tensors(device);
    transformer.begin_run();
    let text = transformer.text_context(text, off);
    let mut velocities = Vec::new();
    for &timestep in timesteps {
        let context = transformer.timestep_context(timestep, off);
        for _ in 0..2 {
            let latent = latent.clone();
            velocities.push(data(transformer.forward_at(latent, &context, &text, off)));
        }
    }
    velocities
}

/// Which group of clips a call at a timestep has; `None` for the mean of all.
type GroupOf = dyn Fn(usize, f32) -> Option<usize>;

#[test]
fn the_whole_transformer_computes_what_the_released_formulas_do_with_every_clip_mode() {
    let place = temporary();
    let (checkpoint, out) = (place.path().join("official"), place.path().join("out"));
    // One layer as the released code leaves those that it was told to skip.
    let official = Official::of_fixture(4, |name| name != "blocks.1.attn2.to_out.0");
    official.write(&checkpoint);
    let input = Input::read(&Reference::open(&wan()));
    let plain = plain(&official);
    let timesteps = [999.0, 731.0, 42.0];
    let modes: [(ClipGroups, &GroupOf); 4] = [
        (ClipGroups::Mean, &|_, _| None),
        (ClipGroups::Countdown, &|call, _| Some(at_most(GROUPS - 1, call))),
        (ClipGroups::PerStep, &|_, timestep| Some(timestep as usize % GROUPS)),
        (ClipGroups::One(49), &|_, _| Some(49)),
    ];
    for (mode, group_of) in modes {
        let report = run(&ImportJob { clip_groups: mode, ..job(&checkpoint, &out) }).unwrap();
        assert_eq!(report.left_alone.len(), 1);
        assert_eq!(report.left_alone[0].name, "blocks.1.attn2.to_out.0");
        let expected: Vec<Vec<f32>> = (0..2 * timesteps.len())
            .map(|call| {
                let timestep = timesteps[call / 2];
                let (latent, text) = (&input.latent, input.text_rows());
                let linear = |name: &str, x: &Matrix| {
                    // What depends on the timestep alone is computed once per step here.
                    let is_timestep = name.contains(".time_");
                    let call = if is_timestep { call / 2 * 2 } else { call };
                    official.linear_in(name, x, group_of(call, timestep))
                };
                plain.forward(latent, input.shape, timestep, &text, &linear)
            })
            .collect();
        for (name, device) in devices() {
            let actual = velocities(&out, &device, &input, &timesteps);
            for (call, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                let what = format!("{name} {mode} call {call}");
                assert_matches(&what, actual, expected, 2e-3);
            }
        }
    }
}

#[test]
fn an_import_is_strict_and_writes_nothing_on_failure() {
    let place = temporary();
    let (checkpoint, out) = (place.path().join("official"), place.path().join("out"));
    let file = checkpoint.join("transformer/diffusion_pytorch_model.safetensors");
    let official = Official::of_fixture(4, |_| true);
    let good = official.tensors(bf16s);
    let refuse = |tensors: &[crate::Stored], job: &ImportJob, expected: &[&str]| {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        write_reference(&file, tensors);
        let err = full_message(&run(job).map(drop).expect_err(expected[0]));
        for expected in expected {
            assert!(err.contains(expected), "{err}\nexpected {expected:?}");
        }
        assert!(err.len() < 900, "{err}");
        assert!(!out.exists(), "{err}");
    };
    let job = job(&checkpoint, &out);
    let without = |name: &str| -> Vec<crate::Stored> {
        good.iter().filter(|tensor| tensor.name != name).cloned().collect()
    };
    let with = |name: &str, shape: &[usize]| {
        let values = vec![0.5; shape.iter().product()];
        let mut tensors = without(name);
        tensors.push(bf16s(name, shape, &values));
        tensors
    };
    let to_q = "blocks.0.attn1.to_q";
    refuse(&without(&format!("{to_q}.b")), &job, &["1 missing (blocks.0.attn1.to_q.b)"]);
    refuse(
        &without(&format!("{to_q}.aquantizer.lower")),
        &job,
        &["1 missing (blocks.0.attn1.to_q.aquantizer.lower)"],
    );
    refuse(
        &without(&format!("{to_q}.wquantizer.scale")),
        &job,
        &["2 missing (blocks.0.attn1.to_q.weight, blocks.0.attn1.to_q.bias)", "5 not known ("],
    );
    refuse(&with("extra.weight", &[2]), &job, &["1 not known (extra.weight)"]);
    refuse(
        &with(&format!("{to_q}.wquantizer.zero_point"), &[32]),
        &job,
        &["1 of another shape (blocks.0.attn1.to_q.wquantizer.zero_point is [32], not [32, 1])"],
    );
    refuse(&with(&format!("{to_q}.w"), &[32, 16]), &job, &["w is [32, 16], not [32, 32]"]);
    refuse(
        &with(&format!("{to_q}.wquantizer.L"), &[32, 4]),
        &job,
        &["its training had not ended", "blocks.0.attn1.to_q.wquantizer.L"],
    );
    let mut scale = official.clone();
    scale.edit(to_q, |layer| layer.scale[3] = 0.0);
    refuse(&scale.tensors(bf16s), &job, &["is 0 in row 3", "wquantizer.scale"]);
    scale.edit(to_q, |layer| layer.scale[3] = f32::NAN);
    refuse(&scale.tensors(bf16s), &job, &["holds NaN", "wquantizer.scale"]);
    refuse(&good, &ImportJob { weights: Bits::B3, ..job.clone() }, &["--bits w3a4", "3-bit"]);
    refuse(&good, &ImportJob { weights: Bits::B8, ..job.clone() }, &["--bits w8a4", "upper half"]);
    let one = ImportJob { clip_groups: ClipGroups::One(50), ..job.clone() };
    refuse(&good, &one, &["has 50 groups of clips, so there is no group 50"]);
    let transformer =
        read_reference(&wan().join("transformer/diffusion_pytorch_model.safetensors"));
    refuse(
        &transformer,
        &job,
        &[
            "this is a Wan transformer in the diffusers layout, expected a checkpoint of the released",
        ],
    );
    write_reference(&file, &good);
    run(&job).unwrap();
}

#[test]
fn sampling_such_a_checkpoint_says_to_import_it() {
    let place = temporary();
    let checkpoint = place.path().join("official");
    Official::of_fixture(4, |_| true).write(&checkpoint);
    let err = full_message(&VideoModel::open(&checkpoint).unwrap_err());
    assert!(err.contains("this is a checkpoint of the released QVGen code"), "{err}");
    assert!(err.contains("`qvgen import`"), "{err}");
    // In a complete folder, too.
    let whole = place.path().join("whole");
    copy_folder(&wan(), &whole);
    let file = "transformer/diffusion_pytorch_model.safetensors";
    fs::copy(checkpoint.join(file), whole.join(file)).unwrap();
    let model = VideoModel::open(&whole).unwrap();
    let err = full_message(&model.check_files().unwrap_err());
    assert!(err.contains("convert it with `qvgen import`"), "{err}");
}

#[test]
fn the_program_imports_shards_and_samples_what_it_wrote() {
    let place = temporary();
    let (checkpoint, out) = (place.path().join("official"), place.path().join("out"));
    let tensors = Official::of_fixture(4, |_| true).tensors(bf16s);
    let stem = "diffusion_pytorch_model";
    let mut weight_map = BTreeMap::new();
    fs::create_dir_all(&checkpoint).unwrap();
    for (number, shard) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let name = format!("{stem}-{:05}-of-00002.safetensors", number + 1);
        write_reference(&checkpoint.join(&name), shard);
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone())));
    }
    let index = serde_json::json!({ "weight_map": weight_map }).to_string();
    fs::write(checkpoint.join(format!("{stem}.safetensors.index.json")), index).unwrap();
    let qvgen = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_qvgen")).args(words).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let [checkpoint, base, out] =
        [&checkpoint, &wan(), &out].map(|path| path.to_str().unwrap().to_owned());
    let video = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let videos = ["mean", "countdown"].map(|mode| {
        let table = qvgen(&[
            "import",
            &checkpoint,
            "--base",
            &base,
            "--out",
            &out,
            "--overwrite",
            "--refer",
            "--clip-groups",
            mode,
        ]);
        assert!(table.contains("proj_out") && table.contains("w4a4"), "{table}");
        let file = video(&format!("{mode}.y4m"));
        qvgen(&[
            "sample", &out, "--prompt", "rain", "--device", "cpu", "--frames", "5", "--size",
            "32x32", "--steps", "2", "--out", &file,
        ]);
        fs::read(file).unwrap()
    });
    assert_ne!(videos[0], videos[1], "the mode changes the video");
}
