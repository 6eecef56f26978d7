//! Caches of prompts alone.

use super::*;

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
        vae_precision: qvgen::nn::ConvPrecision::Exact,
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
