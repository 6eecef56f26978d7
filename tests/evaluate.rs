//! Evaluation: everything but the model with clips of known truth, then whole with tiny models.

mod common;

use common::{devices, fixture_folders};
use qvgen::evaluate::{
    Case, ClipSampler, Evaluated, Evaluation, EvaluationSettings, Evaluator, Progress, Sample,
    Stage, Statistic, balanced_cases, check_reference, contact_sheet, prompt_cases, sample_seed,
};
use qvgen::kernels::device::OpenDevice;
use qvgen::method::Rounding;
use qvgen::models::wan::WanConfig;
use qvgen::models::{Denoiser, DenoiserConfig};
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::defaults::SamplingDefaults;
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::noise::standard_normal;
use qvgen::pipeline::packed::Arithmetic;
use qvgen::pipeline::plan::Plan;
use qvgen::pipeline::sample::Sampler;
use qvgen::pipeline::settings::SampleSettings;
use qvgen::world::{Clip, FRAMES, SIDE, render};
use serde_json::Value;

fn settings(seeds: u64) -> EvaluationSettings {
    let defaults = SamplingDefaults {
        frames: FRAMES,
        width: SIDE,
        height: SIDE,
        steps: 3,
        fps: 8.0,
        ..SamplingDefaults::from(WanConfig::wan2_1_t2v_1_3b().usual_call(8))
    };
    EvaluationSettings::suggested(&defaults, seeds)
}

/// A sampler that knows the truth.
fn truth(cases: &[Case]) -> Vec<Clip> {
    let scenes = cases.iter().map(|case| case.scene.expect("a scene"));
    scenes.map(|scene| render(&scene, FRAMES, SIDE, SIDE)).collect()
}

/// A sampler that knows nothing.
fn noise(count: usize) -> Vec<Clip> {
    let values = FRAMES * SIDE * SIDE * 3;
    let clip = |seed: usize| {
        let planes = standard_normal(seed as u64, 0, values);
        Clip::from_planes(FRAMES, SIDE, SIDE, &planes).expect("a clip")
    };
    (0..count).map(clip).collect()
}

fn borrowed(runs: &[Vec<Clip>]) -> Vec<Vec<&Clip>> {
    runs.iter().map(|run| run.iter().collect()).collect()
}

fn evaluation(cases: &[Case], runs: &[Vec<Clip>], reference: Option<&[Vec<Clip>]>) -> Evaluation {
    let reference = reference.map(borrowed);
    let reference = reference.as_ref().map(|runs| ("other", runs.as_slice()));
    let settings = settings(runs.len() as u64);
    Evaluation::of_clips(&settings, cases, &borrowed(runs), reference).expect("scores")
}

fn mean(statistic: Option<Statistic>) -> f64 {
    statistic.expect("a score").mean
}

#[test]
fn clips_that_show_their_captions_score_one() {
    let cases = balanced_cases(40).expect("cases");
    let evaluation = evaluation(&cases, &[truth(&cases)], None);
    let captions = evaluation.captions.expect("captions");
    let (seen, held_out) = (captions.seen.expect("seen"), captions.held_out.expect("held out"));
    assert_eq!((captions.all.clips, seen.clips, held_out.clips), (40, 20, 20));
    for scores in [&captions.all, &seen, &held_out] {
        let shares = [
            scores.caption_accuracy,
            scores.shape_accuracy,
            scores.color_accuracy,
            scores.direction_accuracy,
            scores.motion_accuracy,
            scores.background_accuracy,
            scores.object_found,
        ];
        assert!(shares.into_iter().all(|share| mean(share) == 1.0), "{scores:?}");
        assert!((mean(scores.dynamic_degree) - 1.0).abs() < 0.05, "{scores:?}");
        assert!(mean(scores.stray_motion) < 0.01, "{scores:?}");
        assert!(mean(scores.motion_smoothness) > 0.8, "{scores:?}");
        assert!(mean(scores.subject_consistency) > 0.9, "{scores:?}");
        assert!(mean(scores.background_consistency) > 0.99, "{scores:?}");
    }
}

#[test]
fn noise_and_clips_of_other_captions_score_by_chance() {
    let cases = balanced_cases(40).expect("cases");
    let noise = evaluation(&cases, &[noise(40)], None);
    let scores = noise.captions.expect("captions").all;
    assert!(mean(scores.caption_accuracy) < 0.05, "{scores:?}");
    for share in [scores.shape_accuracy, scores.color_accuracy, scores.direction_accuracy] {
        assert!(mean(share) < 0.5, "{scores:?}");
    }

    let mut others = truth(&cases);
    others.rotate_left(7);
    let scores = evaluation(&cases, &[others], None).captions.expect("captions").all;
    assert!(mean(scores.caption_accuracy) < 0.1, "{scores:?}");
    for share in [scores.shape_accuracy, scores.color_accuracy, scores.background_accuracy] {
        assert!((0.05..0.5).contains(&mean(share)), "{scores:?}");
    }
    assert_eq!(mean(scores.object_found), 1.0);
}

#[test]
fn agreement_is_perfect_with_oneself_and_poor_with_noise() {
    let cases = balanced_cases(8).expect("cases");
    let truth = [truth(&cases)];
    let agreement =
        |other: &[Vec<Clip>]| evaluation(&cases, &truth, Some(other)).agreement.expect("agreement");
    let itself = agreement(&truth);
    assert_eq!((mean(itself.psnr), mean(itself.ssim)), (100.0, 1.0));
    let other = agreement(&[noise(8)]);
    assert!(mean(other.psnr) < 15.0 && mean(other.ssim) < 0.2, "{other:?}");
}

#[test]
fn deviations_are_over_seeds() {
    let cases = balanced_cases(4).expect("cases");
    let evaluation = evaluation(&cases, &[truth(&cases), noise(4)], None);
    let accuracy = evaluation.captions.expect("captions").all.caption_accuracy.expect("a score");
    assert_eq!((accuracy.mean, accuracy.sd), (0.5, Some(0.5_f64.sqrt())));
    let seeds: Vec<u64> = evaluation.clips.iter().map(|clip| clip.sample_seed).collect();
    assert_eq!(seeds[..4], [0, 1, 2, 3]);
    assert_eq!(seeds[4], 1 << 20);
}

/// The keys of a document, `path.to.key`; of lists, those of the first element.
fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                keys(value, &format!("{path}.{key}"), found);
            }
        }
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            keys(&list[0], &format!("{path}[]"), found);
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn the_json_document_keeps_its_schema() {
    let cases = balanced_cases(8).expect("cases");
    let truth = [truth(&cases)];
    let evaluation = evaluation(&cases, &truth, Some(&truth));
    let json = serde_json::to_value(&evaluation).expect("JSON");
    let mut found = Vec::new();
    keys(&json, "", &mut found);
    let statistic = |name: &str| [format!("{name}.mean"), format!("{name}.sd")];
    let scores = [
        "caption_accuracy",
        "shape_accuracy",
        "color_accuracy",
        "direction_accuracy",
        "motion_accuracy",
        "background_accuracy",
        "object_found",
        "dynamic_degree",
        "stray_motion",
        "motion_smoothness",
        "frame_smoothness",
        "subject_consistency",
        "background_consistency",
    ];
    let words = |text: &'static str| text.split_whitespace().map(str::to_owned);
    let mut expected: Vec<String> = words(
        ".schema .settings.seeds .settings.noise_levels .settings.sampling.negative_prompt \
         .settings.sampling.frames .settings.sampling.width .settings.sampling.height \
         .settings.sampling.steps .settings.sampling.guidance_scale \
         .settings.sampling.dynamic_guidance \
         .settings.sampling.late_guidance_drop .settings.sampling.flow_shift \
         .settings.sampling.scheduler .settings.sampling.fps .settings.sampling.attention \
         .settings.sampling.vae_precision",
    )
    .collect();
    for split in ["all", "seen", "held_out"] {
        expected.push(format!(".captions.{split}.clips"));
        for score in scores {
            expected.extend(statistic(&format!(".captions.{split}.{score}")));
        }
    }
    expected.extend(words(".captions.ceiling .agreement.reference"));
    expected.extend(statistic(".agreement.psnr"));
    expected.extend(statistic(".agreement.ssim"));
    expected.extend(words(
        ".agreement.velocity_mse .agreement.velocity_mse_by_level .flow_loss_by_level \
         .clips[].seed .clips[].sample_seed .clips[].prompt .clips[].is_held_out",
    ));
    for score in [
        "shape",
        "color",
        "direction",
        "speed",
        "background",
        "all",
        "confidence",
        "dynamic_degree",
        "motion_smoothness",
        "frame_smoothness",
        "subject_consistency",
        "background_consistency",
    ] {
        expected.push(format!(".clips[].scores.{score}"));
    }
    expected.extend(words(".clips[].agreement.psnr .clips[].agreement.ssim"));
    // A score that nothing can be measured of is null: no object stands still among few clips.
    let is_null = |path: &String| json.pointer(&path.replace('.', "/")).is_some_and(Value::is_null);
    let (mut nulls, mut present): (Vec<_>, Vec<_>) = found.into_iter().partition(is_null);
    nulls.retain(|path| path.starts_with(".captions.") && path != ".captions.ceiling");
    expected.retain(|path| !nulls.iter().any(|null| path.starts_with(&format!("{null}."))));
    expected.retain(|path| !json.pointer(&path.replace('.', "/")).is_some_and(Value::is_null));
    present.sort_unstable();
    expected.sort_unstable();
    assert_eq!(present, expected);
    assert_eq!(json["schema"], 1);
}

#[test]
fn a_contact_sheet_shows_every_clip_with_its_marks() {
    let cases = balanced_cases(6).expect("cases");
    let clips = truth(&cases);
    let of = |clips: &[Clip]| Evaluated {
        evaluation: evaluation(&cases, &[clips.to_vec()], None),
        runs: vec![
            clips.iter().map(|clip| Sample { latent: Vec::new(), clip: clip.clone() }).collect(),
        ],
    };
    let good = of(&clips);
    let sheet = contact_sheet(&cases, &good, None).expect("a sheet");
    let with_reference = contact_sheet(&cases, &good, Some(&good.runs)).expect("a sheet");
    // Frames of 64 pixels are doubled, three to a clip, four clips to a row.
    assert_eq!(sheet.width(), 4 * (3 * 130 + 2 + 8) + 8);
    assert_eq!(sheet.height() + 2 * 130, with_reference.height());
    let count =
        |sheet: &[u8], color: [u8; 3]| sheet.chunks_exact(3).filter(|p| *p == color).count();
    let (pass, fail) = ([22, 128, 60], [200, 40, 40]);
    assert!(count(sheet.data(), pass) > 1000);
    assert_eq!(count(sheet.data(), fail), 0);
    let bad = of(&noise(6));
    let sheet = contact_sheet(&cases, &bad, None).expect("a sheet");
    assert!(count(sheet.data(), fail) > 1000);
    let empty = Evaluated { runs: Vec::new(), ..good };
    assert!(contact_sheet(&cases, &empty, None).is_err());
}

fn opened() -> [(&'static str, OpenDevice); 2] {
    devices().map(|(name, device)| (name, OpenDevice { device, adapter: None }))
}

fn model() -> VideoModel {
    VideoModel::open(&fixture_folders("wan_")[0]).expect("a model")
}

/// Small enough for a software adapter.
fn small(seeds: u64) -> EvaluationSettings {
    let mut small = settings(seeds);
    small.sampling =
        SampleSettings { frames: 5, width: 32, height: 32, steps: 2, ..small.sampling };
    small.noise_levels = vec![0.2, 0.8];
    small
}

fn no_progress() -> impl FnMut(Stage, usize, usize) {
    |_, _, _| {}
}

fn transformer(
    model: &VideoModel,
    device: &OpenDevice,
    precision: Option<&str>,
) -> Box<dyn Denoiser> {
    let scope = |precision: &str| model.recommended_scope(precision.parse().expect("bits"));
    let rounding = precision.map(|precision| Rounding::new(scope(precision)));
    let rounding = rounding.as_ref().map(|rounding| (rounding, Arithmetic::Packed));
    let weights = model.weights(ComponentKind::Transformer, rounding, usize::MAX).expect("weights");
    let sampler = Sampler { model, device, cancel: Cancel::new() };
    sampler.load_transformer(&weights, &mut |_, _, _| {}).expect("a transformer")
}

#[test]
fn a_clip_is_that_of_a_single_run_whatever_is_sampled_beside_it() {
    let model = model();
    for (name, device) in opened() {
        let transformer = transformer(&model, &device, None);
        let settings = SampleSettings { late_guidance_drop: 0.5, ..small(1).sampling };
        let clips = ClipSampler::new(&model, &device, Cancel::new(), settings.clone());
        let clips = clips.expect("a sampler");
        let embeds = clips.embed(&["rain", "sun", ""], &mut |_, _| {}).expect("embeddings");
        let jobs = [(&embeds[0], 5), (&embeds[1], 6), (&embeds[1], 5), (&embeds[0], 5)];
        let mut done = Vec::new();
        let samples = clips
            .samples(&*transformer, Some(&embeds[2]), &jobs, &mut |count| done.push(count))
            .expect("samples");
        assert_eq!((samples.len(), done.last()), (4, Some(&4)), "{name}");
        assert_eq!(samples[0].latent, samples[3].latent, "{name}");
        assert_ne!(samples[1].latent, samples[2].latent, "{name}");

        let settings = SampleSettings { prompt: "rain".to_owned(), seed: 5, ..settings };
        let weights = model.weights(ComponentKind::Transformer, None, usize::MAX);
        let weights = weights.expect("weights");
        let plan = Plan::new(&model, &settings, &weights, &device, None);
        let sampler = Sampler { model: &model, device: &device, cancel: Cancel::new() };
        let single = sampler.run(&settings, &plan, &weights, &mut |_, _, _| {}).expect("a video");
        assert_eq!(single.frames.data(), samples[0].clip.pixels(), "{name}");
    }
}

#[test]
fn a_model_agrees_with_itself_and_less_with_its_two_bit_form() {
    let model = model();
    let cases = balanced_cases(4).expect("cases");
    for (name, device) in opened() {
        let full = transformer(&model, &device, None);
        let packed = transformer(&model, &device, Some("w2a3"));
        let progress: &mut Progress<'_> = &mut no_progress();
        let mut evaluator =
            Evaluator::new(&model, &device, Cancel::new(), small(2), cases.clone(), progress)
                .expect("an evaluator");
        let alone = evaluator.evaluate(&*full, progress).expect("an evaluation").evaluation;
        assert!(alone.agreement.is_none() && alone.clips.len() == 8, "{name}");
        assert_eq!(alone.flow_loss_by_level.len(), 2, "{name}");
        assert!(alone.captions.expect("captions").ceiling.is_some(), "{name}");

        evaluator.set_reference("itself", &*full, progress).expect("a reference");
        let same = evaluator.evaluate(&*full, progress).expect("an evaluation");
        let agreement = same.evaluation.agreement.clone().expect("agreement");
        assert_eq!((mean(agreement.psnr), mean(agreement.ssim)), (100.0, 1.0), "{name}");
        assert_eq!(mean(agreement.velocity_mse), 0.0, "{name}");
        let other = evaluator.evaluate(&*packed, progress).expect("an evaluation").evaluation;
        let agreement = other.agreement.as_ref().expect("agreement");
        assert!(mean(agreement.psnr) < 60.0, "{name}: {agreement:?}");
        assert!(mean(agreement.velocity_mse) > 1e-6, "{name}: {agreement:?}");
        assert_eq!(agreement.velocity_mse_by_level[1].noise_level, 0.8, "{name}");
        let table = other.to_string();
        for word in ["caption accuracy", "held out", "ceiling", "PSNR", "noise level 0.8", "±"] {
            assert!(table.contains(word), "{word} is not in\n{table}");
        }
        assert_eq!(same.evaluation.clips[4].sample_seed, sample_seed(1, 0), "{name}");
    }
}

#[test]
fn prompts_that_are_no_captions_have_agreement_alone() {
    let model = model();
    let device = OpenDevice::cpu();
    let cases = prompt_cases("rain\na red circle moves up over a black background", false);
    let full = transformer(&model, &device, None);
    let progress: &mut Progress<'_> = &mut no_progress();
    let cases = cases.expect("cases");
    let mut evaluator = Evaluator::new(&model, &device, Cancel::new(), small(1), cases, progress)
        .expect("an evaluator");
    evaluator.set_reference("itself", &*full, progress).expect("a reference");
    let evaluation = evaluator.evaluate(&*full, progress).expect("an evaluation").evaluation;
    assert!(evaluation.captions.is_none() && evaluation.flow_loss_by_level.is_empty());
    let agreement = evaluation.agreement.expect("agreement");
    assert_eq!((mean(agreement.psnr), mean(agreement.velocity_mse)), (100.0, 0.0));
}

#[test]
fn settings_and_references_that_do_not_fit_are_refused() {
    let model = model();
    let error =
        |settings: EvaluationSettings| settings.check(&model).expect_err("impossible").to_string();
    assert!(error(EvaluationSettings { seeds: Vec::new(), ..small(1) }).contains("--seeds"));
    let settings = EvaluationSettings { noise_levels: vec![0.5, 1.5], ..small(1) };
    assert!(error(settings).contains("1.5"));
    let mut settings = small(1);
    settings.sampling.frames = 6;
    assert!(error(settings).contains("--frames"));
    let text = std::fs::read_to_string(model.folder.path().join("transformer/config.json"));
    let json = serde_json::from_str(&text.expect("a file")).expect("JSON");
    let own = WanConfig::from_json(&json).expect("a configuration");
    let wide = WanConfig { text_dim: 4096, ..own };
    let error = check_reference(&*model.transformer, &wide).expect_err("other texts").to_string();
    assert!(error.contains("text_dim 4096") && error.contains("24"), "{error}");
}
