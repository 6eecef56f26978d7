//! Caches of clips and of prompts: made, continued, refused, and drawn from.

#[path = "../common/mod.rs"]
mod common;

mod clips;
mod prompts;
mod refused;

use burn::tensor::{Tensor, TensorData};
use common::fixture;
use qvgen::kernels::device::OpenDevice;
use qvgen::nn::{Trace, Weights};
use qvgen::pipeline::PipelineError;
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::noise::standard_normal;
use qvgen::pipeline::sample::{Guidance, Sampler};
use qvgen::pipeline::settings::{SampleSettings, TilingChoice};
use qvgen::pipeline::video::read::ClipReader;
use qvgen::pipeline::video::{Frames, write};
use qvgen::train::data::{
    Buckets, CacheDtype, CacheJob, CacheReport, CacheStage, CachedDataset, ClipSettings, Collector,
    INDEX_FILE, Index, PromptSettings, cache_clips, cache_prompts, list_clips, prompt_seed,
    read_prompts,
};
use qvgen::train::{Dataset, TrainError};
use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

fn model() -> VideoModel {
    VideoModel::open(&fixture("wan_a")).expect("the fixture")
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A picture that differs everywhere, `shift` apart from others.
fn frames(width: usize, height: usize, count: usize, shift: usize) -> Frames {
    let value = |i: usize| (i * 7 % 253 + i / (3 * width) * 11 + shift * 40) as u8;
    let data = (0..3 * width * height * count).map(value).collect();
    Frames::new(width, height, 16.0, data).expect("frames")
}

fn write_clip(path: &Path, frames: &Frames) {
    write(frames, path, &json!({})).expect("a clip");
}

/// A folder with a clip of every kind: four that can be used, one each that is too short, damaged
/// and without a caption.
fn clip_folder() -> tempfile::TempDir {
    let folder = place();
    let at = |name: &str| folder.path().join(name);
    write_clip(&at("a2.gif"), &frames(40, 36, 5, 0));
    write_clip(&at("a10.y4m"), &frames(32, 64, 11, 1));
    write_clip(&at("pictures"), &frames(32, 32, 5, 2));
    write_clip(&at("animation.apng"), &frames(96, 50, 9, 3));
    write_clip(&at("short.gif"), &frames(32, 32, 4, 4));
    write_clip(&at("silent.gif"), &frames(32, 32, 5, 5));
    fs::write(at("broken.gif"), "GIF89a").expect("a file");
    fs::write(at("notes.md"), "no clip").expect("a file");
    for (name, caption) in [
        ("a2.txt", "A cat"),
        ("a10.txt", " A dog runs\n"),
        ("pictures.txt", "A cat"),
        ("animation.txt", ""),
        ("short.txt", "A bird"),
        ("broken.txt", "A fish"),
    ] {
        fs::write(at(name), caption).expect("a caption");
    }
    folder
}

fn buckets() -> Buckets {
    Buckets { sizes: vec![[32, 32], [48, 32], [32, 48]], frames: vec![5, 9], stride: None }
}

fn settings() -> ClipSettings {
    ClipSettings { buckets: buckets(), strict: false, reader: ClipReader::default() }
}

/// Runs `work` with a job on the CPU that writes to `out`.
fn with_job<T>(model: &VideoModel, out: &Path, work: impl FnOnce(&CacheJob<'_>) -> T) -> T {
    work(&CacheJob {
        model,
        device: &OpenDevice::cpu(),
        out: out.to_owned(),
        dtype: CacheDtype::F32,
        cancel: Cancel::new(),
    })
}

fn cache(clips: &Path, out: &Path, settings: &ClipSettings) -> Result<CacheReport, TrainError> {
    let (model, list) = (model(), list_clips(clips)?);
    with_job(&model, out, |job| cache_clips(job, &list, settings, &mut |_, _, _| {}))
}

fn open(out: &Path) -> Result<CachedDataset, TrainError> {
    CachedDataset::open(out, &model(), &OpenDevice::cpu().device, false)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("floats")
}

/// Fails with a sentence that has all of `words`.
#[track_caller]
fn assert_refused<T>(result: Result<T, TrainError>, words: &[&str]) {
    let Err(error) = result else { panic!("not refused") };
    let error = error.to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    assert!(!error.contains('\n'), "more than a sentence: {error}");
}

/// The latent that the autoencoder gives for the clip at `path`.
fn encoded(model: &VideoModel, path: &Path) -> Vec<f32> {
    let buckets = buckets();
    let mut collector = Collector::new(&buckets);
    let reader = ClipReader::default();
    reader.read(path, &mut |picture| collector.push(picture)).expect("a clip");
    let clip = collector.finish().expect("a long clip");
    let device = OpenDevice::cpu().device;
    let shape = [3, clip.frames.len(), clip.size[1], clip.size[0]];
    let video = Tensor::<4>::from_data(TensorData::new(clip.values(), shape), &device);
    let weights = model.weights(ComponentKind::Vae, None, usize::MAX).expect("weights");
    let weights = Weights::new(weights.source(), &device);
    let encoder = model.vae.load_encoder(&weights).expect("an encoder");
    values(encoder.encode_normalized(video).expect("a latent"))
}
