//! Caches of clips and of prompts: made, continued, refused, and drawn from.

mod common;

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

#[test]
fn a_cache_holds_what_autoencoder_and_text_encoder_give() {
    let (clips, out) = (clip_folder(), place());
    let report = cache(clips.path(), out.path(), &settings()).expect("a cache");
    assert_eq!((report.clips, report.made, report.reused), (4, 4, 0));
    assert_eq!((report.texts, report.too_short, report.skipped.len()), (5, 1, 3));
    for (name, word) in
        [("short.gif", "4 frames"), ("broken.gif", "damaged"), ("silent.gif", "silent.txt")]
    {
        let skipped = report.skipped.iter().find(|skipped| skipped.clip == name).expect(name);
        assert!(skipped.reason.contains(word), "{skipped:?}");
    }
    let shapes: Vec<(&str, usize)> =
        report.shapes.iter().map(|(shape, count)| (shape.as_str(), *count)).collect();
    assert_eq!(shapes, [("4x2x4x4", 2), ("4x3x4x6", 1), ("4x3x6x4", 1)]);

    let (model, data) = (model(), open(out.path()).expect("a data set"));
    let sources: Vec<&str> = data.entries().iter().map(|entry| entry.source.as_str()).collect();
    assert_eq!(sources, ["a2.gif", "a10.y4m", "animation.apng", "pictures"]);
    let device = OpenDevice::cpu();
    let sampler = Sampler { model: &model, device: &device, cancel: Cancel::new() };
    let captions: Vec<&str> = data.entries().iter().map(|entry| entry.caption.as_str()).collect();
    assert_eq!(captions, ["A cat", "A dog runs", "", "A cat"]);
    let embeds = sampler.encode(&captions, &mut |_, _, _| {}).expect("embeddings");
    for (index, embeds) in embeds.into_iter().enumerate() {
        let (latent, text) = data.clip(index).expect("a clip");
        assert_eq!(text.dims(), [model.text_tokens, model.text_encoder.d_model]);
        assert_eq!(values(text), values(embeds), "caption {index}");
        let expected = encoded(&model, &clips.path().join(sources[index]));
        assert_eq!(values(latent), expected, "latent {index}");
    }
    let (_, none) = data.clip(2).expect("a clip");
    assert_eq!(values(data.empty_text()), values(none));
}

#[test]
fn what_is_in_memory_is_what_is_on_disk() {
    let (clips, out) = (clip_folder(), place());
    cache(clips.path(), out.path(), &settings()).expect("a cache");
    let device = OpenDevice::cpu().device;
    let in_memory = CachedDataset::open(out.path(), &model(), &device, true).expect("a data set");
    let on_disk = open(out.path()).expect("a data set");
    let clip = |data: &CachedDataset, index| {
        let (latent, text) = data.clip(index).expect("a clip");
        (latent.dims(), values(latent), values(text))
    };
    let first: Vec<_> = (0..4).map(|index| clip(&in_memory, index)).collect();
    fs::remove_dir_all(out.path().join("latents")).expect("removed");
    for (index, expected) in first.iter().enumerate() {
        assert!(clip(&in_memory, index) == *expected, "clip {index} changed");
    }
    assert_refused(on_disk.clip(0), &["missing or damaged", "qvgen cache"]);
}

#[test]
fn a_second_run_makes_only_what_is_missing_or_old() {
    let (clips, out) = (clip_folder(), place());
    let run = |settings: &ClipSettings| {
        let report = cache(clips.path(), out.path(), settings).expect("a cache");
        (report.made, report.reused)
    };
    assert_eq!(run(&settings()), (4, 0));
    assert_eq!(run(&settings()), (0, 4));
    // A caption is not part of a latent.
    fs::write(clips.path().join("a2.txt"), "Two cats").expect("a caption");
    assert_eq!(run(&settings()), (0, 4));
    assert_eq!(open(out.path()).expect("a data set").entries()[0].caption, "Two cats");
    write_clip(&clips.path().join("a2.gif"), &frames(32, 48, 6, 9));
    assert_eq!(run(&settings()), (1, 3));
    assert_eq!(open(out.path()).expect("a data set").entries()[0].shape, [4, 2, 6, 4]);
    // A file that was cut short is made again.
    let latent = fs::read_dir(out.path().join("latents")).expect("a folder").next();
    let latent = latent.expect("a file").expect("an entry").path();
    let bytes = fs::read(&latent).expect("a latent");
    fs::write(&latent, &bytes[..bytes.len() - 4]).expect("written");
    assert_eq!(run(&settings()), (1, 3));
    let mut other = settings();
    other.buckets.stride = Some(1);
    assert_eq!(run(&other), (4, 0));
    fs::remove_file(clips.path().join("a2.gif")).expect("removed");
    assert_eq!(run(&other), (0, 3));
}

#[test]
fn a_stopped_run_keeps_what_it_made_and_is_continued() {
    let (clips, out, model) = (clip_folder(), place(), model());
    let list = list_clips(clips.path()).expect("clips");
    let stopped = with_job(&model, out.path(), |job| {
        cache_clips(job, &list, &settings(), &mut |stage, done, _| {
            if stage == CacheStage::Encode && done == 2 {
                job.cancel.cancel();
            }
        })
    });
    let is_cancelled = matches!(stopped, Err(TrainError::Pipeline(PipelineError::Cancelled)));
    assert!(is_cancelled, "{stopped:?}");
    assert_eq!(open(out.path()).expect("a data set").len(), 2);
    assert!(!Index::read(out.path()).expect("an index").expect("an index").is_complete);
    let report = cache(clips.path(), out.path(), &settings()).expect("a cache");
    assert_eq!((report.made, report.reused), (2, 2));
    assert!(Index::read(out.path()).expect("an index").expect("an index").is_complete);
    let stopped = with_job(&model, place().path(), |job| {
        job.cancel.cancel();
        cache_clips(job, &list, &settings(), &mut |_, _, _| {})
    });
    let is_cancelled = matches!(stopped, Err(TrainError::Pipeline(PipelineError::Cancelled)));
    assert!(is_cancelled, "{stopped:?}");
}

#[test]
fn strict_runs_stop_at_what_cannot_be_read_but_not_at_what_is_short() {
    let (clips, out) = (clip_folder(), place());
    let strict = ClipSettings { strict: true, ..settings() };
    assert_refused(cache(clips.path(), out.path(), &strict), &["silent.gif", "no caption"]);
    fs::remove_file(clips.path().join("silent.gif")).expect("removed");
    assert_refused(cache(clips.path(), out.path(), &strict), &["damaged", "broken.gif"]);
    fs::remove_file(clips.path().join("broken.gif")).expect("removed");
    let report = cache(clips.path(), out.path(), &strict).expect("a cache");
    assert_eq!((report.clips, report.too_short), (4, 1));
    let list = clips.path().join("list.jsonl");
    fs::write(&list, r#"{"file": "gone.gif", "caption": "x"}"#).expect("a list");
    assert_refused(cache(&list, out.path(), &strict), &["cannot read", "gone.gif"]);
    assert_refused(cache(&list, out.path(), &settings()), &["no clip can be used", "gone.gif"]);
}

#[test]
fn lists_name_clips_in_the_words_of_other_programs() {
    let clips = clip_folder();
    let at = |name: &str| clips.path().join(name);
    let absolute = at("pictures").display().to_string();
    let lines = [
        json!({ "file": "a2.gif", "caption": "One" }),
        json!({ "video": "a10.y4m", "prompt": "Two", "fps": 16 }),
        json!({ "file_name": absolute, "text": "Three" }),
        json!({ "path": "a2.gif", "caption": "One again" }),
    ];
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(at("list.jsonl"), format!("\u{feff}{}\r\n\n", text.join("\r\n"))).expect("a list");
    let list = list_clips(&at("list.jsonl")).expect("clips");
    let captions: Vec<&str> = list.clips.iter().map(|clip| clip.caption.as_str()).collect();
    assert_eq!(captions, ["One", "Two", "Three", "One again"]);
    assert_eq!(list.clips[2].path, at("pictures"));

    // Two captions of one clip share its latent.
    let out = place();
    let report = cache(&at("list.jsonl"), out.path(), &settings()).expect("a cache");
    assert_eq!((report.clips, report.made, report.texts), (4, 3, 5));

    // In a folder, a list comes before texts, and texts serve the rest.
    fs::rename(at("list.jsonl"), at("metadata.jsonl")).expect("renamed");
    let list = list_clips(clips.path()).expect("clips");
    let names: Vec<&str> = list.clips.iter().map(|clip| clip.name.as_str()).collect();
    let found =
        ["a2.gif", "a10.y4m", &absolute, "a2.gif", "animation.apng", "broken.gif", "short.gif"];
    assert_eq!(names, found);
}

#[test]
fn unusable_lists_are_refused_with_the_line() {
    let folder = place();
    let path = folder.path().join("list.jsonl");
    let good = r#"{"file": "a.gif", "caption": "x"}"#;
    for (line, word) in [
        ("{\"file\": \"a.gif\"", "no JSON object"),
        ("[1]", "no JSON object"),
        (r#"{"caption": "x"}"#, "no file"),
        (r#"{"file": "a.gif"}"#, "no caption"),
        (r#"{"file": 3, "caption": "x"}"#, "is no text"),
    ] {
        fs::write(&path, format!("{good}\n\n{line}\n")).expect("a list");
        assert_refused(list_clips(&path), &["line 3", word, "list.jsonl"]);
    }
    fs::write(&path, b"\n\xff\xfe\n").expect("a list");
    assert_refused(list_clips(&path), &["line 2", "UTF-8"]);
    fs::write(&path, vec![b'x'; 2 << 20]).expect("a list");
    assert_refused(list_clips(&path), &["line 1", "bytes"]);
    assert_refused(list_clips(&folder.path().join("gone")), &["cannot read the clips", "gone"]);
    assert_refused(list_clips(place().path()), &["no clips", "captions.jsonl"]);
    fs::remove_file(&path).expect("removed");
    fs::write(folder.path().join("captions.jsonl"), "oops").expect("a list");
    assert_refused(list_clips(folder.path()), &["line 1", "captions.jsonl"]);
}

#[test]
fn sizes_that_the_model_cannot_take_are_refused_before_any_work() {
    let (clips, out) = (clip_folder(), place());
    let with = |change: &dyn Fn(&mut Buckets)| {
        let mut settings = settings();
        change(&mut settings.buckets);
        cache(clips.path(), out.path(), &settings)
    };
    assert_refused(with(&|b| b.sizes = vec![[40, 32]]), &["40x32", "multiple of 16"]);
    assert_refused(with(&|b| b.sizes = vec![[0, 32]]), &["0x32"]);
    assert_refused(with(&|b| b.sizes = vec![[1 << 30, 32]]), &["limit of 16384"]);
    assert_refused(with(&|b| b.frames = vec![5, 8]), &["8 frames", "multiple of 4 plus one"]);
    assert_refused(with(&|b| b.frames = vec![]), &["at least one"]);
    assert_refused(with(&|b| b.stride = Some(0)), &["stride of 0"]);
    let missing = out.path().join("no").join("parent");
    assert_refused(cache(clips.path(), &missing, &settings()), &["does not exist", "no"]);
    assert_eq!(fs::read_dir(out.path()).expect("a folder").count(), 0, "something was written");
}

/// A copy of the model whose file `name` has another last byte but three: another small value.
fn other_model(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
            let (path, target) = (entry.path(), to.join(entry.file_name()));
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, &target).expect("a copy");
            }
        }
    }
    let folder = place();
    copy(&fixture("wan_a"), folder.path());
    let path = folder.path().join(name);
    let mut bytes = fs::read(&path).expect("a file");
    let at = bytes.len() - 4;
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    folder
}

#[test]
fn caches_of_another_model_are_refused() {
    let (clips, out) = (clip_folder(), place());
    cache(clips.path(), out.path(), &settings()).expect("a cache");
    let device = OpenDevice::cpu().device;
    for (file, what) in [
        ("vae/diffusion_pytorch_model.safetensors", "another autoencoder"),
        ("text_encoder/model.safetensors", "another text encoder"),
        ("tokenizer/tokenizer.json", "another text encoder or tokenizer"),
    ] {
        let folder = other_model(file);
        let Ok(other) = VideoModel::open(folder.path()) else { continue };
        let opened = CachedDataset::open(out.path(), &other, &device, false);
        assert_refused(opened, &["made with another model", what, "index.json"]);
    }
    // A transformer that was trained further keeps its cache.
    let tuned = other_model("transformer/diffusion_pytorch_model.safetensors");
    let tuned = VideoModel::open(tuned.path()).expect("a model");
    CachedDataset::open(out.path(), &tuned, &device, false).expect("a data set");

    let edit = |change: &dyn Fn(&mut Value)| {
        let path = out.path().join(INDEX_FILE);
        let before = fs::read_to_string(&path).expect("an index");
        let mut index: Value = serde_json::from_str(&before).expect("JSON");
        change(&mut index);
        fs::write(&path, index.to_string()).expect("written");
        let opened = open(out.path());
        fs::write(&path, before).expect("written");
        opened
    };
    assert_refused(
        edit(&|index| index["model"]["z_dim"] = json!(16)),
        &["z_dim is 16", "model's 4"],
    );
    assert_refused(edit(&|index| index["model"]["text_dim"] = json!(4096)), &["text_dim is 4096"]);
    let tokens = edit(&|index| index["model"]["text_tokens"] = json!(7));
    assert_refused(tokens, &["max_sequence_length is 7"]);
    assert_refused(edit(&|index| index["version"] = json!(9)), &["qvgen-cache 9"]);
    assert_refused(edit(&|index| index["format"] = json!("other")), &["format"]);
    assert_refused(edit(&|index| index["entries"] = json!([])), &["no clips"]);
    let hostile = edit(&|index| index["entries"][0]["latent"] = json!("../../../etc/passwd"));
    assert_refused(hostile, &["no index of a cache", "hexadecimal"]);
    let odd = edit(&|index| index["entries"][0]["shape"] = json!([4, 2, 3, 4]));
    assert_refused(odd, &["[4, 2, 3, 4]", "multiples of 2"]);
    let large = edit(&|index| index["entries"][0]["shape"] = json!([4, 5000, 4, 4]));
    assert_refused(large, &["up to 1024 frames"]);
    assert_refused(open(place().path()), &["there is no cache", "qvgen cache"]);
    fs::write(out.path().join(INDEX_FILE), "{").expect("written");
    assert_refused(open(out.path()), &["no index of a cache"]);
    assert_refused(cache(clips.path(), out.path(), &settings()), &["no index of a cache"]);
}

#[test]
fn damaged_caches_are_refused_when_they_are_opened() {
    let (clips, out) = (clip_folder(), place());
    cache(clips.path(), out.path(), &settings()).expect("a cache");
    let index = Index::read(out.path()).expect("an index").expect("an index");
    let file = |folder: &str, key: &str| out.path().join(folder).join(format!("{key}.safetensors"));
    let latent = file("latents", index.entries[0].latent.as_str());
    let whole = fs::read(&latent).expect("a latent");
    fs::write(&latent, &whole[..whole.len() - 1]).expect("written");
    assert_refused(open(out.path()), &["missing or damaged", "safetensors"]);
    // NaN passes the headers, and is found when the clip is drawn.
    let mut bytes = whole.clone();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&latent, bytes).expect("written");
    assert_refused(open(out.path()).expect("a data set").clip(0), &["NaN", "delete it"]);
    fs::write(&latent, whole).expect("written");
    fs::remove_file(file("texts", index.entries[1].text.as_str())).expect("removed");
    assert_refused(open(out.path()), &["missing or damaged", "texts"]);
    cache(clips.path(), out.path(), &settings()).expect("a cache");
    open(out.path()).expect("a data set");
}

fn prompt_settings() -> PromptSettings {
    let sampling = SampleSettings {
        prompt: String::new(),
        negative_prompt: "blur".to_owned(),
        frames: 5,
        width: 32,
        height: 32,
        steps: 2,
        guidance_scale: 3.0,
        dynamic_guidance: false,
        late_guidance_drop: 0.0,
        flow_shift: None,
        scheduler: None,
        seed: 11,
        fps: 16.0,
        attention: qvgen::nn::AttentionPrecision::Exact,
        tiling: TilingChoice::Auto,
    };
    PromptSettings { sampling, samples: 2 }
}

#[test]
fn prompts_become_the_latents_that_sampling_ends_with() {
    let (folder, model) = (place(), model());
    let list = folder.path().join("prompts.txt");
    fs::write(&list, "A cat\n\n A dog \nA cat\n").expect("a list");
    let prompts = read_prompts(&list).expect("prompts");
    assert_eq!(prompts, ["A cat", "A dog", "A cat"]);
    let out = folder.path().join("cache");
    let run = |prompts: &[String], settings: &PromptSettings| {
        with_job(&model, &out, |job| cache_prompts(job, prompts, settings, &mut |_, _, _| {}))
    };
    let settings = prompt_settings();
    let report = run(&prompts, &settings).expect("a cache");
    assert_eq!((report.clips, report.made, report.texts), (4, 4, 4));

    let data = open(&out).expect("a data set");
    let device = OpenDevice::cpu();
    let sampler = Sampler { model: &model, device: &device, cancel: Cancel::new() };
    let progress = &mut |_, _, _| {};
    let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).expect("weights");
    let transformer = sampler.load_transformer(&weights, progress).expect("a transformer");
    for (index, entry) in data.entries().iter().enumerate() {
        assert_eq!(entry.caption, ["A cat", "A cat", "A dog", "A dog"][index]);
        assert_eq!(entry.seed, Some(prompt_seed(11, &entry.caption, index % 2)));
        let embeds = sampler.encode(&[&entry.caption, "blur"], progress).expect("embeddings");
        let contexts: Vec<_> = embeds
            .into_iter()
            .map(|embeds| transformer.text_context(embeds, &mut Trace::off()))
            .collect();
        let guidance =
            Guidance { contexts: &contexts, scale: 3.0, is_dynamic: false, late_drop: 0.0 };
        let seed = entry.seed.expect("a seed");
        let mut latent = standard_normal(seed, 0, entry.shape.iter().product());
        let mut scheduler = settings.sampling.build_scheduler(&model, seed).expect("a scheduler");
        let place = (latent.as_mut_slice(), entry.shape);
        sampler
            .denoise(&*transformer, &guidance, scheduler.as_mut(), place, progress)
            .expect("done");
        assert_eq!(values(data.clip(index).expect("a clip").0), latent, "latent {index}");
    }

    let more = ["A bird".to_owned(), "A dog".to_owned()];
    let report = run(&more, &settings).expect("a cache");
    assert_eq!((report.clips, report.made, report.reused), (4, 2, 2));
    let mut other = settings.clone();
    other.sampling.steps = 3;
    assert_eq!(run(&more, &other).expect("a cache").made, 4);
    other.sampling.width = 40;
    assert_refused(run(&more, &other), &["--size"]);
    let clips = clip_folder();
    let into = cache(clips.path(), &out, &self::settings());
    assert_refused(into, &["a cache of prompts", "another folder"]);
    fs::write(&list, "\n \n").expect("a list");
    assert_refused(read_prompts(&list), &["no prompts"]);
}

#[test]
fn a_stopped_run_of_prompts_lists_those_that_are_done() {
    let (out, model) = (place(), model());
    let prompts = ["A cat".to_owned(), "A dog".to_owned()];
    let stopped = with_job(&model, out.path(), |job| {
        cache_prompts(job, &prompts, &prompt_settings(), &mut |stage, done, total| {
            if stage == CacheStage::Sample {
                assert_eq!(total, 8);
                if done == 6 {
                    job.cancel.cancel();
                }
            }
        })
    });
    let is_cancelled = matches!(stopped, Err(TrainError::Pipeline(PipelineError::Cancelled)));
    assert!(is_cancelled, "{stopped:?}");
    assert_eq!(open(out.path()).expect("a data set").len(), 3);
}

#[test]
fn half_precision_takes_half_the_space() {
    let (clips, model) = (clip_folder(), model());
    let list = list_clips(clips.path()).expect("clips");
    let made = |dtype| {
        let out = place();
        let job = CacheJob {
            model: &model,
            device: &OpenDevice::cpu(),
            out: out.path().to_owned(),
            dtype,
            cancel: Cancel::new(),
        };
        cache_clips(&job, &list, &settings(), &mut |_, _, _| {}).expect("a cache");
        let (latent, text) = open(out.path()).expect("a data set").clip(1).expect("a clip");
        (values(latent), values(text))
    };
    let (full, half) = (made(CacheDtype::F32), made(CacheDtype::F16));
    for (half, full) in [(&half.0, &full.0), (&half.1, &full.1)] {
        assert_ne!(half, full);
        common::assert_close("f16", half, full, 6e-4, 1e-6);
    }
}

#[test]
fn an_mp4_is_cached_where_ffmpeg_is_installed() {
    let (folder, out) = (place(), place());
    write_clip(&folder.path().join("clip.mp4"), &frames(48, 32, 9, 0));
    fs::write(folder.path().join("clip.txt"), "A cat").expect("a caption");
    let has_ffmpeg =
        Command::new("ffmpeg").arg("-version").output().is_ok_and(|run| run.status.success());
    let result = cache(folder.path(), out.path(), &settings());
    if has_ffmpeg {
        let report = result.expect("a cache");
        assert_eq!(report.shapes.keys().collect::<Vec<_>>(), ["4x3x4x6"]);
    } else {
        assert_refused(result, &["install ffmpeg", "clip.mp4"]);
    }
    let reader = ClipReader { ffmpeg: PathBuf::from("/nowhere/ffmpeg") };
    let settings = ClipSettings { strict: true, reader, ..settings() };
    let result = cache(folder.path(), place().path(), &settings);
    assert_refused(result, &["install ffmpeg, or convert the clip to .y4m or .gif", "clip.mp4"]);
}

#[test]
fn the_reader_can_be_stopped() {
    let folder = clip_folder();
    let mut seen = 0;
    let read = ClipReader::default().read(&folder.path().join("a10.y4m"), &mut |_| {
        seen += 1;
        ControlFlow::Break(())
    });
    assert!(read.is_ok() && seen == 1);
}

#[test]
fn the_command_makes_a_cache_and_refuses_in_a_sentence() {
    let (clips, out) = (clip_folder(), place());
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qvgen"));
        command.arg("cache").arg(fixture("wan_a")).args(["--device", "cpu"]);
        let arguments = ["--size", "32x32,48x32", "--frames", "5,9", "--out"];
        let output = command.args(arguments).arg(out.path()).args(more).output();
        let output = output.expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let folder = clips.path().to_str().expect("UTF-8");
    let (code, stdout, stderr) = run(&[folder]);
    assert_eq!(code, Some(0), "{stderr}");
    for words in ["4 clips (4 new, 0 as before)", "latents 4x2x4x4: 2 clips", "1 of them too short"]
    {
        assert!(stdout.contains(words), "{words:?} is not in {stdout}");
    }
    let (code, stdout, _) = run(&[folder, "--json"]);
    assert_eq!(code, Some(0));
    let json: Value = serde_json::from_str(&stdout).expect("one JSON document");
    assert_eq!(json["report"]["reused"], 4);
    let (code, _, stderr) = run(&[folder, "--strict"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("error: silent.gif: it has no caption"), "{stderr}");
    let (code, _, stderr) = run(&["--prompts", "/nowhere.txt"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot read the list") && stderr.contains("nowhere.txt"), "{stderr}");
    for wrong in [&[][..], &[folder, "--prompts", "x"], &[folder, "--steps", "3"]] {
        assert_eq!(run(wrong).0, Some(2), "{wrong:?}");
    }
}
