//! A whole model: observed, quantized by every method, and sampled through packed kernels.

use crate::common::{devices, fixture_folders};
use qvgen::kernels::device::OpenDevice;
use qvgen::method::ptq::auto::Choice;
use qvgen::method::ptq::{ActivationMode, Method};
use qvgen::method::{Rounding, Scope};
use qvgen::nn::{AttentionPrecision, ConvPrecision};
use qvgen::pipeline::PipelineError;
use qvgen::pipeline::calibrate::{CalibrationJob, Observations, calibrate, sensitivities};
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::quantize::{
    PostTraining, QuantizeJob, QuantizeReport, REPORT_FILE, Stage, quantize,
};
use qvgen::pipeline::sample::Sampler;
use qvgen::pipeline::settings::{SampleSettings, TilingChoice};
use std::path::Path;

fn model() -> VideoModel {
    VideoModel::open(&fixture_folders("wan_")[0]).expect("a model")
}

fn opened() -> [(&'static str, OpenDevice); 2] {
    devices().map(|(name, device)| (name, OpenDevice { device, adapter: None }))
}

fn cpu() -> OpenDevice {
    OpenDevice { device: burn::tensor::Device::flex(), adapter: None }
}

/// The smallest run that has several frames and guidance.
fn sampling() -> SampleSettings {
    SampleSettings {
        prompt: "rain".to_owned(),
        negative_prompt: String::new(),
        frames: 5,
        width: 32,
        height: 32,
        steps: 3,
        guidance_scale: 3.0,
        dynamic_guidance: false,
        late_guidance_drop: 0.0,
        flow_shift: None,
        scheduler: None,
        seed: 3,
        fps: 8.0,
        attention: AttentionPrecision::Exact,
        vae_precision: ConvPrecision::Exact,
        tiling: TilingChoice::Auto,
    }
}

/// The size that this model's autoencoder, patches and positions allow.
fn fitted(model: &VideoModel) -> SampleSettings {
    let small = sampling();
    let sizes = [small.clone(), SampleSettings { frames: 9, width: 48, ..small }];
    let fits = |settings: &SampleSettings| settings.check(model).is_ok();
    sizes.into_iter().find(fits).expect("settings that fit every fixture")
}

fn job(model: &VideoModel, prompts: &[&str], cache: Option<&Path>) -> CalibrationJob {
    let layers = model.transformer.linears().into_iter().map(|layer| layer.name);
    CalibrationJob {
        prompts: prompts.iter().map(|&prompt| prompt.to_owned()).collect(),
        sampling: fitted(model),
        samples: 48,
        layers: layers.collect(),
        max_memory: None,
        cache: cache.map(Path::to_owned),
    }
}

fn observed(
    model: &VideoModel,
    job: &CalibrationJob,
    device: &OpenDevice,
) -> (Observations, usize) {
    let cancel = Cancel::new();
    let (observations, report) =
        calibrate(model, job, device, &cancel, &mut |_, _| {}).expect("observations");
    (observations, report.resumed_clips)
}

fn quantized(
    model: &VideoModel,
    out: &Path,
    precision: &str,
    post_training: PostTraining,
    device: &OpenDevice,
) -> Result<QuantizeReport, PipelineError> {
    let job = QuantizeJob {
        out: out.to_owned(),
        transformer: Rounding::new(Scope::every_layer(precision.parse().expect("a precision"))),
        post_training: Some(post_training),
        text_encoder: None,
        refer: false,
        overwrite: false,
        max_shard_bytes: 1 << 30,
    };
    quantize(model, &job, device, &Cancel::new(), &mut |_, _, _| {})
}

fn post_training(method: Method, calibration: Option<CalibrationJob>) -> PostTraining {
    PostTraining {
        method,
        choice: Choice::LeastError,
        activations: ActivationMode::Dynamic,
        rank: 4,
        calibration,
        measures: true,
    }
}

/// The denoised latent of a packed folder.
fn sample(folder: &Path, device: &OpenDevice) -> Vec<f32> {
    let model = VideoModel::open(folder).expect("a packed model");
    let sampler = Sampler { model: &model, device, cancel: Cancel::new() };
    let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).expect("weights");
    assert!(weights.is_packed());
    let progress = &mut |_, _, _| {};
    let transformer = sampler.load_transformer(&weights, progress).expect("a transformer");
    let settings = fitted(&model);
    let embeds = sampler.encode(&[&settings.prompt, ""], progress).expect("embeddings");
    sampler.latent(&settings, &*transformer, embeds, progress).expect("a latent")
}

#[test]
fn every_layer_is_observed_within_bounds_on_all_devices() {
    let model = model();
    let job = job(&model, &["rain", "snow"], None);
    let all: Vec<Observations> =
        opened().iter().map(|(_, device)| observed(&model, &job, device).0).collect();
    for linear in model.transformer.linears() {
        for observations in &all {
            let observed = &observations[&linear.name];
            let what = &linear.name;
            assert_eq!(observed.in_features, linear.in_features, "{what}");
            assert!((1..=job.samples).contains(&observed.places.len()), "{what}");
            assert_eq!(observed.rows.len(), observed.places.len() * linear.in_features, "{what}");
            assert_eq!(observed.is_temporal, what.contains(".time_"), "{what}");
            let attends_text = what.contains("attn2.to_k") || what.contains("attn2.to_v");
            let is_of_text = attends_text || what.contains("text_embedder");
            let has_frames = !observed.is_temporal && !is_of_text;
            assert_eq!(observed.has_frames, has_frames, "{what}");
            if has_frames {
                let frames: Vec<u32> = observed.places.iter().map(|place| place.frame).collect();
                assert!(frames.contains(&0) && frames.contains(&1), "{what}: {frames:?}");
            }
            let statistics = observed.overall().expect("statistics");
            let (min, max) = (statistics.min(), statistics.max());
            for row in observed.rows.chunks(linear.in_features) {
                let is_within = |(value, (min, max)): (&f32, (&f32, &f32))| {
                    (*min - 1e-4..=*max + 1e-4).contains(value)
                };
                assert!(row.iter().zip(min.iter().zip(max)).all(is_within), "{what}");
            }
        }
        let [cpu, gpu] = [&all[0], &all[1]].map(|observations| &observations[&linear.name]);
        assert_eq!(cpu.places, gpu.places, "{}", linear.name);
        let worst = cpu.rows.iter().zip(&gpu.rows).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.02, "{}: {worst}", linear.name);
    }
}

#[test]
fn a_calibration_that_was_stopped_goes_on_to_the_same_bits() {
    let (model, device) = (model(), cpu());
    let folder = tempfile::tempdir().expect("a folder");
    let prompts = ["rain", "snow", "a cat"];
    let whole = job(&model, &prompts, None);
    let (expected, resumed) = observed(&model, &whole, &device);
    assert_eq!(resumed, 0);

    // Stopped within the second clip: the first one stays.
    let kept = job(&model, &prompts, Some(folder.path()));
    let cancel = Cancel::new();
    let steps = kept.sampling.steps;
    let stopped = calibrate(&model, &kept, &device, &cancel, &mut |done, _| {
        if done > steps {
            cancel.cancel();
        }
    });
    assert!(matches!(stopped, Err(PipelineError::Cancelled)));
    let (again, resumed) = observed(&model, &kept, &device);
    assert_eq!(resumed, 1);
    assert!(again == expected, "what was observed differs after going on");

    // All of it is there now, and it is another calibration's for another prompt or seed count.
    assert_eq!(observed(&model, &kept, &device).1, 3);
    let other = job(&model, &["rain", "snow", "a dog"], Some(folder.path()));
    assert_eq!(observed(&model, &other, &device).1, 0);
}

#[test]
fn a_damaged_calibration_is_made_again() {
    let (model, device) = (model(), cpu());
    let folder = tempfile::tempdir().expect("a folder");
    let kept = job(&model, &["rain"], Some(folder.path()));
    let (expected, _) = observed(&model, &kept, &device);
    let path = std::fs::read_dir(folder.path()).expect("a folder").next().expect("a file");
    let path = path.expect("an entry").path();
    let whole = std::fs::read(&path).expect("bytes");
    let damages: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[0] ^= 0x40,
        |bytes| {
            let last = bytes.len() - 30;
            bytes[last] ^= 1;
        },
    ];
    for damage in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&path, bytes).expect("a file");
        let (again, resumed) = observed(&model, &kept, &device);
        assert_eq!(resumed, 0);
        assert!(again == expected);
    }
    assert_eq!(observed(&model, &kept, &device).1, 1, "it was written anew");
}

#[test]
fn a_model_quantized_by_every_method_samples_through_packed_kernels() {
    let (model, device) = (model(), cpu());
    let cache = tempfile::tempdir().expect("a folder");
    for method in Method::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("packed");
        let calibration = job(&model, &["rain"], Some(cache.path()));
        let post_training = post_training(method, Some(calibration));
        let report = quantized(&model, &out, "w4a4", post_training, &device)
            .unwrap_or_else(|err| panic!("{method}: {err}"));
        assert_eq!(report.layers.len(), model.transformer.linears().len(), "{method}");
        assert!(report.mean_output_error().is_some_and(f64::is_finite), "{method}");
        let file = std::fs::read_to_string(out.join(REPORT_FILE)).expect("a report");
        let json: serde_json::Value = serde_json::from_str(&file).expect("JSON");
        assert_eq!(json["method"], method.name());
        for (name, device) in opened() {
            // Not every device for every method: compiling shaders takes longer than running.
            let is_run = name == "cpu" || matches!(method, Method::Qvd | Method::SvdQuant);
            if is_run {
                let latent = sample(&out, &device);
                assert!(latent.iter().all(|value| value.is_finite()), "{method} on {name}");
            }
        }
    }
}

#[test]
fn timestep_projections_of_every_family_are_temporal_features() {
    let device = cpu();
    for path in fixture_folders("cogvideox_").into_iter().chain(fixture_folders("wan_")) {
        let model = VideoModel::open(&path).expect("a model");
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("packed");
        let post_training = post_training(Method::Qvd, Some(job(&model, &["rain"], None)));
        let report = quantized(&model, &out, "w8a4", post_training, &device)
            .unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let scope = Scope::recommended("full".parse().expect("a precision"), &[]);
        let mut scope = scope.including(model.transformer.timestep_projections());
        scope.rules.iter_mut().for_each(|rule| rule.precision = "w8a4".parse().expect("one"));
        let mut found = 0;
        for layer in &report.layers {
            let name = layer.name.strip_prefix("transformer.").expect("a layer's name");
            if scope.of(name).weights.is_some() {
                let temporal =
                    layer.measures.as_ref().and_then(|measures| measures.temporal.as_ref());
                let temporal = temporal.unwrap_or_else(|| panic!("{name} is no temporal feature"));
                assert!(
                    temporal.td_score_recon >= temporal.td_score_recon_uniform - 1e-3,
                    "{name}"
                );
                found += 1;
            }
        }
        assert!(found > 0, "{}", path.display());
        let latent = sample(&out, &device);
        assert!(latent.iter().all(|value| value.is_finite()), "{}", path.display());
    }
}

#[test]
fn static_ranges_and_data_free_work_is_stated() {
    let (model, device) = (model(), cpu());
    let cache = tempfile::tempdir().expect("a folder");
    for mode in [ActivationMode::Static, ActivationMode::PerFrame, ActivationMode::PerRange] {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("packed");
        let calibration = job(&model, &["rain"], Some(cache.path()));
        let mut post_training = post_training(Method::Qvd, Some(calibration));
        post_training.activations = mode;
        quantized(&model, &out, "w8a8", post_training, &device).expect("a packed model");
        let latent = sample(&out, &device);
        assert!(latent.iter().all(|value| value.is_finite()), "{mode:?}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("packed");
    let report = quantized(&model, &out, "w4a8", post_training(Method::Gptq, None), &device);
    let report = report.expect("a packed model");
    assert!(report.data().starts_with("data-free"), "{}", report.data());
    assert!(sample(&out, &device).iter().all(|value| value.is_finite()));
}

#[test]
fn without_observing_the_default_method_stores_what_rounding_stores() {
    let (model, device) = (model(), cpu());
    let folder = tempfile::tempdir().expect("a folder");
    let [plain, method] = ["plain", "method"].map(|name| folder.path().join(name));
    let mut job = QuantizeJob {
        out: plain.clone(),
        transformer: Rounding::new(Scope::every_layer("w4a4".parse().expect("a precision"))),
        post_training: None,
        text_encoder: None,
        refer: false,
        overwrite: false,
        max_shard_bytes: 1 << 30,
    };
    let cancel = Cancel::new();
    let mut stages = Vec::new();
    quantize(&model, &job, &device, &cancel, &mut |stage, _, _| stages.push(stage)).expect("work");
    assert!(stages.iter().all(|stage| *stage == Stage::Quantizing));
    job.out.clone_from(&method);
    job.post_training = Some(post_training(Method::Mse, None));
    quantize(&model, &job, &device, &cancel, &mut |_, _, _| {}).expect("work");
    let [plain, method] = [plain, method].map(|folder| sample(&folder, &device));
    assert_eq!(plain, method);
}

#[test]
fn every_layer_has_an_effect_on_the_prediction_the_same_on_all_devices() {
    for folder in ["wan_", "cogvideox_1_5_"].map(fixture_folders).iter().flatten() {
        let model = VideoModel::open(folder).expect("a model");
        let job = job(&model, &["a red square"], None);
        let [cpu, wgpu] = opened().map(|(_, device)| {
            sensitivities(&model, &job, &device, &Cancel::new(), &mut |_, _| {}).expect("effects")
        });
        assert!(cpu.keys().eq(job.layers.iter()));
        for (layer, effect) in &cpu {
            let other = wgpu[layer];
            assert!(*effect > 0.0 && effect.is_finite(), "{layer}: {effect}");
            assert!((effect - other).abs() <= 0.05 * effect, "{layer}: {effect}, {other}");
        }
    }
}

#[test]
fn a_budget_mixes_widths_and_an_impossible_one_writes_nothing() {
    let (model, device) = (model(), cpu());
    let cache = tempfile::tempdir().expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("packed");
    let calibration = || Some(job(&model, &["rain"], Some(cache.path())));
    let with = |choice| PostTraining { choice, ..post_training(Method::Auto, calibration()) };
    let error = quantized(&model, &out, "w4a8", with(Choice::BudgetBits(1.0)), &device);
    let error = error.expect_err("too little").to_string();
    assert!(error.contains("--budget-bits 1") && !out.exists(), "{error}");
    let least: f64 = error
        .split_whitespace()
        .find_map(|word| word.parse().ok().filter(|b| *b > 1.0))
        .expect("the least possible");
    let budget = least + 1.5;
    let report = quantized(&model, &out, "w4a8", with(Choice::BudgetBits(budget)), &device);
    let report = report.expect("a packed model");
    assert!(report.mean_bits() <= budget + 1e-9, "{} of {budget}", report.mean_bits());
    let mut widths: Vec<&str> = report.layers.iter().map(|layer| &*layer.precision).collect();
    widths.sort_unstable();
    widths.dedup();
    assert!(widths.len() > 1, "{widths:?}");
    assert_eq!(report.choices.len(), report.layers.len());
    assert!(sample(&out, &device).iter().all(|value| value.is_finite()));
}

#[test]
fn a_quantized_model_is_not_quantized_again() {
    let (model, device) = (model(), cpu());
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("packed");
    quantized(&model, &out, "w8a8", post_training(Method::MinMax, None), &device).expect("work");
    let packed = VideoModel::open(&out).expect("a packed model");
    let again = folder.path().join("again");
    let error = quantized(&packed, &again, "w4a4", post_training(Method::Mse, None), &device);
    let error = error.expect_err("packed already").to_string();
    assert!(error.contains("already quantized") && !again.exists(), "{error}");
    let weights = packed.weights(ComponentKind::Transformer, None, usize::MAX).expect("weights");
    assert!(weights.source().has("proj_out.bias"));
}
