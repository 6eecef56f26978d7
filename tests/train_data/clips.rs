//! Caches of clips: made, continued, stopped and read.

use super::*;

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
