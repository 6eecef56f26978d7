//! Whole runs against the reference pipeline, and the packed model against its float form.

mod common;

use burn::tensor::{Tensor, TensorData};
use common::{Reference, devices, fixture_folders, max_error};
use qvgen::kernels::device::OpenDevice;
use qvgen::method::{Rounding, Scope};
use qvgen::models::Denoiser;
use qvgen::nn::{ConvPrecision, Trace};
use qvgen::pipeline::atomic::OutputError;
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::model::{ComponentWeights, VideoModel};
use qvgen::pipeline::noise::{StepNoise, standard_normal};
use qvgen::pipeline::packed::Arithmetic;
use qvgen::pipeline::padding::last_frames;
use qvgen::pipeline::quantize::{QuantizeJob, quantize};
use qvgen::pipeline::sample::{Guidance, Sampler, Stage};
use qvgen::pipeline::scheduler::{Scheduler, SchedulerConfig};
use qvgen::pipeline::{PipelineError, checkpoint};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Frames after a whole run, relative to their root mean square.
const TOLERANCE: f32 = 2e-4;

fn opened() -> [(&'static str, OpenDevice); 2] {
    devices().map(|(name, device)| (name, OpenDevice { device, adapter: None }))
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("stdout is open");
}

fn no_progress() -> impl FnMut(Stage, usize, usize) {
    |_, _, _| {}
}

fn sampler<'a>(model: &'a VideoModel, device: &'a OpenDevice) -> Sampler<'a> {
    Sampler { model, device, cancel: Cancel::new() }
}

/// The fixtures of every family.
fn folders() -> Vec<PathBuf> {
    ["wan_", "cogvideox_"].into_iter().flat_map(fixture_folders).collect()
}

/// Sample `index` of the batch of latents `key`, in our order: channels before frames, which the
/// reference of CogVideoX has the other way around.
fn latent(
    model: &VideoModel,
    reference: &Reference,
    key: &str,
    index: usize,
) -> (Vec<f32>, [usize; 4]) {
    let [a, b, height, width] = reference.shape(key)[1..] else { panic!("{key} is no batch") };
    let len = a * b * height * width;
    let values = &reference.f32(key)[index * len..(index + 1) * len];
    if model.family.pipeline != "CogVideoXPipeline" {
        return (values.to_vec(), [a, b, height, width]);
    }
    let [frames, channels, plane] = [a, b, height * width];
    let planes = (0..channels).flat_map(|c| (0..frames).map(move |t| t * channels + c));
    let turned = planes.flat_map(|at| values[at * plane..(at + 1) * plane].iter().copied());
    (turned.collect(), [channels, frames, height, width])
}

/// A run of the reference: its scheduler, prompts and initial latents.
struct Run<'a> {
    model: &'a VideoModel,
    reference: &'a Reference,
    name: String,
}

impl Run<'_> {
    fn json(&self) -> &serde_json::Value {
        &self.reference.json["runs"][&self.name]
    }

    fn steps(&self) -> usize {
        self.json()["num_inference_steps"].as_u64().expect("a number of steps") as usize
    }

    fn scheduler(&self) -> Box<dyn Scheduler> {
        let mut config = self.json()["scheduler_config"].clone();
        config["_class_name"] = self.json()["scheduler"].clone();
        let config = SchedulerConfig::from_json(&config).expect("a supported scheduler");
        config.build(self.steps(), self.noise()).expect("a possible number of steps")
    }

    /// The noise that the reference added, if it did.
    fn noise(&self) -> StepNoise {
        let key = |step: usize| self.key(&format!("step{step}.noise_used"));
        if !self.reference.has(&key(0)) {
            return StepNoise::Seeded(0);
        }
        StepNoise::Given((0..self.steps()).map(|step| self.latent(&key(step)).0).collect())
    }

    fn latent(&self, key: &str) -> (Vec<f32>, [usize; 4]) {
        latent(self.model, self.reference, key, 0)
    }

    fn key(&self, what: &str) -> String {
        format!("run.{}.{what}", self.name)
    }

    /// Denoises and decodes; returns final latents and frames.
    fn play(&self, sampler: &Sampler<'_>, weights: &ComponentWeights) -> (Vec<f32>, Vec<f32>) {
        let text = |key: &str| self.json()[key].as_str().expect("a prompt").to_owned();
        let (prompt, negative) = (text("prompt"), text("negative_prompt"));
        let scale = self.json()["guidance_scale"].as_f64().expect("a scale") as f32;
        let mut prompts = vec![prompt.as_str()];
        if scale > 1.0 {
            prompts.push(&negative);
        }
        let progress = &mut no_progress();
        let embeds = sampler.encode(&prompts, progress).expect("embeddings");
        let transformer = sampler.load_transformer(weights, progress).expect("a transformer");
        let contexts: Vec<_> = embeds
            .into_iter()
            .map(|embeds| transformer.text_context(embeds, &mut Trace::off()))
            .collect();
        let is_dynamic = self.json()["use_dynamic_cfg"] == true;
        let guidance = Guidance { contexts: &contexts, scale, is_dynamic, late_drop: 0.0 };
        let (mut latent, shape) = self.latent(&self.key("initial_latents"));
        let mut scheduler = self.scheduler();
        sampler
            .denoise(&*transformer, &guidance, scheduler.as_mut(), (&mut latent, shape), progress)
            .expect("a finished run");
        let decoder = sampler.load_decoder(ConvPrecision::Exact).expect("a decoder");
        let asked = self.json()["num_frames"].as_u64().expect("frames") as usize;
        let (kept, [channels, _, height, width]) = (self.model.latent_frames(asked), shape);
        let video = last_frames(latent.clone(), shape, kept);
        let place = (video.as_slice(), [channels, kept, height, width]);
        let frames = sampler.decode(&*decoder, place, None, progress).expect("a video");
        (latent, frames)
    }

    /// Frames of the run at the pixels that the reference kept.
    fn frame_error(&self, frames: &[f32]) -> f32 {
        if self.reference.has(&self.key("frames")) {
            return max_error(frames, &self.reference.f32(&self.key("frames")));
        }
        let size = |key: &str| self.json()[key].as_u64().expect("a size") as usize;
        let (height, width) = (size("height"), size("width"));
        let kept: Vec<f32> = frames
            .chunks(height * width * 3)
            .flat_map(|frame| (0..height).step_by(8).map(move |y| &frame[y * width * 3..]))
            .flat_map(|row| (0..width).step_by(8).flat_map(move |x| row[x * 3..x * 3 + 3].to_vec()))
            .collect();
        max_error(&kept, &self.reference.f32(&self.key("frames_subsampled")))
    }
}

#[test]
fn whole_runs_match_the_reference_on_all_devices() {
    say("folder           run    device  latents   frames   (max |delta| / rms)");
    for folder in folders() {
        let reference = Reference::open(&folder);
        let model = VideoModel::open(&folder).expect("a model");
        for (device_name, device) in opened() {
            let sampler = sampler(&model, &device);
            let weights = model
                .weights(ComponentKind::Transformer, None, usize::MAX)
                .expect("full-precision weights");
            let runs = reference.json["runs"].as_object().expect("runs");
            for name in runs.keys() {
                let run = Run { model: &model, reference: &reference, name: name.clone() };
                let (latent, frames) = run.play(&sampler, &weights);
                let last = run.key(&format!("step{}.latents", run.steps() - 1));
                let latent_error = max_error(&latent, &run.latent(&last).0);
                let frame_error = run.frame_error(&frames);
                let place = folder.file_name().expect("a name").to_string_lossy().into_owned();
                say(&format!(
                    "{place:<16} {name:<6} {device_name:<6}  {latent_error:.1e}  {frame_error:.1e}"
                ));
                assert!(latent_error <= TOLERANCE, "{place} {name} on {device_name}: latents");
                assert!(frame_error <= TOLERANCE, "{place} {name} on {device_name}: frames");
            }
        }
    }
}

/// Denoises two steps with guidance of scale 5 that is dropped late, or without guidance.
fn denoised(sampler: &Sampler<'_>, transformer: &dyn Denoiser, late_drop: Option<f64>) -> Vec<f32> {
    let prompts = if late_drop.is_some() { &["rain", ""][..] } else { &["rain"] };
    let embeds = sampler.encode(prompts, &mut no_progress()).expect("embeddings");
    let context = |embeds| transformer.text_context(embeds, &mut Trace::off());
    let contexts: Vec<_> = embeds.into_iter().map(context).collect();
    let guidance = Guidance {
        contexts: &contexts,
        scale: 5.0,
        is_dynamic: false,
        late_drop: late_drop.unwrap_or(0.0),
    };
    let shape = [sampler.model.vae.z_dim(), 2, 4, 4];
    let mut latent = standard_normal(0, 0, shape.iter().product());
    let mut scheduler =
        sampler.model.scheduler.build(2, StepNoise::Seeded(0)).expect("a scheduler");
    sampler
        .denoise(
            transformer,
            &guidance,
            scheduler.as_mut(),
            (&mut latent, shape),
            &mut no_progress(),
        )
        .expect("a finished run");
    latent
}

#[test]
fn guidance_that_is_dropped_late_is_guidance_up_to_there() {
    let model = VideoModel::open(&fixture_folders("wan_")[0]).expect("a model");
    for (name, device) in opened() {
        let sampler = sampler(&model, &device);
        let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).expect("weights");
        let transformer =
            sampler.load_transformer(&weights, &mut no_progress()).expect("a transformer");
        let run = |late_drop| denoised(&sampler, &*transformer, late_drop);
        assert_eq!(run(Some(1.0)), run(None), "{name}: no step is guided");
        let [never, half] = [Some(0.0), Some(0.5)].map(run);
        assert_ne!(never, half, "{name}: the last step is not guided");
        assert_ne!(half, run(None), "{name}: the first step is guided");
    }
}

fn rounding(model: &VideoModel, precision: &str) -> Rounding {
    Rounding::new(model.recommended_scope(precision.parse().expect("a precision")))
}

/// The predictions of the fixture's transformer with `weights` for both samples of its batch.
fn predict(model: &VideoModel, device: &OpenDevice, weights: &ComponentWeights) -> [Vec<f32>; 2] {
    let reference = Reference::open(model.folder.path());
    let transformer =
        sampler(model, device).load_transformer(weights, &mut no_progress()).expect("weights");
    let texts = "transformer.encoder_hidden_states";
    let [_, tokens, dim] = reference.shape(texts)[..] else { panic!("{texts} is no batch") };
    [0, 1].map(|sample| {
        let text =
            reference.f32(texts)[sample * tokens * dim..(sample + 1) * tokens * dim].to_vec();
        let text = Tensor::<2>::from_data(TensorData::new(text, [tokens, dim]), &device.device);
        let (latent, shape) = latent(model, &reference, "transformer.hidden_states", sample);
        let latent = Tensor::<4>::from_data(TensorData::new(latent, shape), &device.device);
        let context = transformer.text_context(text, &mut Trace::off());
        let timestep = reference.f32("transformer.timestep")[sample];
        let velocity = transformer.forward(latent, timestep, &context);
        velocity.into_data().try_to_vec().expect("f32 values")
    })
}

/// The same codes give the same result within float rounding. A value that lies that close to a
/// tie may get the neighboring code in one of the two forms, which then differ visibly: that can
/// happen to one of the samples, so the better one is judged.
#[test]
fn packed_models_equal_their_fake_quantized_form() {
    say(
        "folder           precision  device  packed against fake-quantized  against full precision",
    );
    let better =
        |a: &[Vec<f32>; 2], b: &[Vec<f32>; 2]| max_error(&a[0], &b[0]).min(max_error(&a[1], &b[1]));
    for folder in folders() {
        let model = VideoModel::open(&folder).expect("a model");
        for (name, device) in opened() {
            let full = model.weights(ComponentKind::Transformer, None, usize::MAX);
            let full = predict(&model, &device, &full.expect("weights"));
            for precision in ["w4a4", "w3a3", "w4a16", "w8a8"] {
                let rounding = rounding(&model, precision);
                let [packed, fake] = [Arithmetic::Packed, Arithmetic::FakeQuant].map(|form| {
                    let rounding = Some((&rounding, form));
                    let weights = model.weights(ComponentKind::Transformer, rounding, usize::MAX);
                    predict(&model, &device, &weights.expect("weights"))
                });
                let (error, lost) = (better(&packed, &fake), better(&packed, &full));
                let place = folder.file_name().expect("a name").to_string_lossy().into_owned();
                say(&format!("{place:<16} {precision:<9}  {name:<6}  {error:.1e}  {lost:.1e}"));
                assert!(error <= 1e-4, "{precision} on {name}: {error:e}");
                assert!(lost > 10.0 * error, "{precision} on {name}: nothing was quantized");
            }
        }
    }
}

fn job(model: &VideoModel, out: &Path, precision: &str) -> QuantizeJob {
    QuantizeJob {
        out: out.to_owned(),
        transformer: rounding(model, precision),
        post_training: None,
        text_encoder: None,
        refer: false,
        overwrite: false,
        max_shard_bytes: u64::MAX,
    }
}

fn run_job(
    model: &VideoModel,
    job: &QuantizeJob,
    device: &OpenDevice,
) -> Result<(), PipelineError> {
    quantize(model, job, device, &Cancel::new(), &mut |_, _, _| {}).map(drop)
}

#[test]
fn a_packed_folder_computes_what_quantizing_while_loading_does() {
    let folder = &fixture_folders("wan_")[0];
    let model = VideoModel::open(folder).expect("a model");
    let place = tempfile::tempdir().expect("a temporary folder");
    for (name, device) in opened() {
        let rounding = rounding(&model, "w3a4");
        let loaded = model
            .weights(ComponentKind::Transformer, Some((&rounding, Arithmetic::Packed)), usize::MAX)
            .expect("weights");
        let expected = predict(&model, &device, &loaded);
        for (form, max_shard_bytes, refer) in [("whole", u64::MAX, false), ("shards", 20_000, true)]
        {
            let out = place.path().join(format!("{name}-{form}"));
            let job = QuantizeJob { max_shard_bytes, refer, ..job(&model, &out, "w3a4") };
            run_job(&model, &job, &device).expect("a packed folder");
            let packed = VideoModel::open(&out).expect("a model");
            let weights =
                packed.weights(ComponentKind::Transformer, None, usize::MAX).expect("weights");
            assert_eq!(weights.precision(&[]), "w3a4");
            assert_eq!(predict(&model, &device, &weights), expected, "{form} on {name}");
        }
    }
}

#[test]
fn quantizing_twice_or_over_a_folder_is_refused() {
    let folder = &fixture_folders("wan_")[0];
    let model = VideoModel::open(folder).expect("a model");
    let place = tempfile::tempdir().expect("a temporary folder");
    let out = place.path().join("packed");
    let device = OpenDevice::cpu();
    run_job(&model, &job(&model, &out, "w4a4"), &device).expect("a packed folder");

    let error =
        run_job(&model, &job(&model, &out, "w4a4"), &device).expect_err("the folder exists");
    assert!(matches!(error, PipelineError::Output(OutputError::NotEmpty { .. })), "{error}");
    let again = QuantizeJob { overwrite: true, ..job(&model, &out, "w3a3") };
    run_job(&model, &again, &device).expect("an earlier output may be replaced");

    let packed = VideoModel::open(&out).expect("a model");
    let elsewhere = place.path().join("twice");
    let error =
        run_job(&packed, &job(&model, &elsewhere, "w4a4"), &device).expect_err("already packed");
    assert!(error.to_string().contains("already quantized to w3a3"), "{error}");
    assert!(!elsewhere.exists(), "nothing half written stays");
    let rounding = rounding(&model, "w4a4");
    let error = packed
        .weights(ComponentKind::Transformer, Some((&rounding, Arithmetic::Packed)), usize::MAX)
        .expect_err("already packed");
    assert!(error.to_string().contains("leave the bits out"), "{error}");
}

#[test]
fn a_canceled_quantization_leaves_nothing() {
    let folder = &fixture_folders("wan_")[0];
    let model = VideoModel::open(folder).expect("a model");
    let place = tempfile::tempdir().expect("a temporary folder");
    let cancel = Cancel::new();
    let result = quantize(
        &model,
        &job(&model, &place.path().join("packed"), "w4a4"),
        &OpenDevice::cpu(),
        &cancel,
        &mut |_, done, _| {
            if done == 3 {
                cancel.cancel();
            }
        },
    );
    assert!(matches!(result, Err(PipelineError::Cancelled)));
    let left = std::fs::read_dir(place.path()).expect("the folder").count();
    assert_eq!(left, 0, "files were left behind");
}

#[test]
fn the_text_encoder_can_be_packed_to_eight_bits() {
    let folder = &fixture_folders("wan_")[0];
    let model = VideoModel::open(folder).expect("a model");
    let place = tempfile::tempdir().expect("a temporary folder");
    let out = place.path().join("packed");
    let text_encoder = Rounding::new(Scope::every_layer("w8a16".parse().expect("a precision")));
    let job = QuantizeJob { text_encoder: Some(text_encoder), ..job(&model, &out, "w4a4") };
    for (name, device) in opened() {
        let job = QuantizeJob { out: place.path().join(name), ..job.clone() };
        run_job(&model, &job, &device).expect("a packed folder");
        let packed = VideoModel::open(&job.out).expect("a model");
        let encode = |model: &VideoModel| {
            let embeds = sampler(model, &device)
                .encode(&["a red circle"], &mut no_progress())
                .expect("embeddings");
            embeds[0].clone().into_data().try_to_vec::<f32>().expect("f32 values")
        };
        let error = max_error(&encode(&packed), &encode(&model));
        assert!(error > 0.0 && error < 0.2, "{name}: {error}");
    }
}

#[test]
fn damaged_weights_are_named() {
    let folder = &fixture_folders("wan_")[0];
    let place = tempfile::tempdir().expect("a temporary folder");
    copy_tree(folder, place.path());
    let path = place.path().join("transformer/diffusion_pytorch_model.safetensors");
    if !path.exists() {
        return; // a sharded variant; the checkpoint tests damage those
    }
    let tensors = checkpoint::Tensors::open(&path).expect("weights");
    let name = "blocks.0.ffn.net.2.weight";
    let dtype = tensors.info(name).expect("the tensor").dtype();
    drop(tensors);
    let mut bytes = std::fs::read(&path).expect("weights");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
    let start = 8 + header + json[name]["data_offsets"][0].as_u64().expect("an offset") as usize;
    let width = dtype.plain().expect("a safetensors type").bitsize() / 8;
    bytes[start..start + width].fill(0xFF); // a NaN in every float type
    std::fs::write(&path, bytes).expect("a writable copy");

    let model = VideoModel::open(place.path()).expect("configurations are fine");
    let device = OpenDevice::cpu();
    let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).expect("headers");
    let error = sampler(&model, &device)
        .load_transformer(&weights, &mut no_progress())
        .expect_err("a NaN")
        .to_string();
    assert!(error.contains(name) && error.contains("NaN"), "{error}");
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}
