//! Schedulers against the reference: levels exactly, trajectories to rounding; and seeded noise.

#![allow(clippy::unwrap_used, reason = "a helper that fails should fail the test")]

mod common;

use common::{Reference, assert_close, assert_matches, fixture, fixture_folders};
use qvgen::pipeline::guidance::dynamic_guidance_scale;
use qvgen::pipeline::noise::{StepNoise, standard_normal};
use qvgen::pipeline::scheduler::{
    NoiseLevels, Prediction, Scheduler, SchedulerConfig, SchedulerError, SchedulerKind,
};
use serde_json::{Value, json};
use std::path::PathBuf;

fn config_of(class: &str, options: &Value) -> SchedulerConfig {
    let mut json = options.clone();
    json["_class_name"] = class.into();
    SchedulerConfig::from_json(&json).unwrap()
}

fn unipc(extra: Value) -> Result<SchedulerConfig, SchedulerError> {
    let mut json = json!({
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": true,
    });
    for (key, value) in extra.as_object().unwrap() {
        json[key] = value.clone();
    }
    SchedulerConfig::from_json(&json)
}

/// A run without noise.
fn build(config: &SchedulerConfig, steps: usize) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.build(steps, StepNoise::Given(Vec::new()))
}

fn cogvideox(extra: Value) -> Result<SchedulerConfig, SchedulerError> {
    let mut json = json!({
        "_class_name": "CogVideoXDPMScheduler",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": true,
        "timestep_spacing": "trailing",
    });
    for (key, value) in extra.as_object().unwrap() {
        json[key] = value.clone();
    }
    SchedulerConfig::from_json(&json)
}

/// A schedule that `kind` accepts.
fn config_for(kind: SchedulerKind, extra: Value) -> SchedulerConfig {
    let config = match kind {
        SchedulerKind::UniPc | SchedulerKind::FlowMatchEuler => unipc(extra),
        SchedulerKind::CogVideoXDdim | SchedulerKind::CogVideoXDpm => cogvideox(extra),
    };
    config.unwrap().with_kind(kind).unwrap()
}

const FLOW: [SchedulerKind; 2] = [SchedulerKind::UniPc, SchedulerKind::FlowMatchEuler];

/// Runs one case of the reference.
fn run_case(reference: &Reference, case: &Value) {
    let class = case["class"].as_str().unwrap();
    let name = |part: &str| format!("case{:02}.{part}", case["case"].as_u64().unwrap());
    let steps = case["num_inference_steps"].as_u64().unwrap() as usize;
    let config = config_of(class, &case["config"]);
    let what = format!("{} {config:?} with {steps} steps", name(""));
    let mut sample = reference.f32("sample");
    let len = sample.len();
    let noise = reference.f32("noise").chunks_exact(len).map(<[f32]>::to_vec).collect();
    let mut scheduler = config.build(steps, StepNoise::Given(noise)).unwrap();
    let timesteps = reference.f32(&name("timesteps"));
    match config.kind() {
        SchedulerKind::UniPc => {
            assert_eq!(scheduler.timesteps(), timesteps, "{what}");
            assert_eq!(scheduler.sigmas(), reference.f32(&name("sigmas")), "{what}");
        }
        SchedulerKind::FlowMatchEuler => {
            assert_close(&what, scheduler.timesteps(), &timesteps, 1e-7, 0.0);
            assert_close(&what, scheduler.sigmas(), &reference.f32(&name("sigmas")), 0.0, 1e-7);
        }
        SchedulerKind::CogVideoXDdim | SchedulerKind::CogVideoXDpm => {
            assert_eq!(scheduler.timesteps(), timesteps, "{what}");
        }
    }
    let outputs = reference.f32("model_outputs");
    let outputs: Vec<&[f32]> = outputs.chunks_exact(len).collect();
    let expected = reference.f32(&name("samples"));
    let mut expected = expected.chunks_exact(len);
    let kept = reference.i64(&name("kept_steps"));
    for step in 0..steps {
        scheduler.step(outputs[step % outputs.len()], &mut sample);
        if kept.contains(&(step as i64)) {
            assert_matches(
                &format!("{what}, step {step}"),
                &sample,
                expected.next().unwrap(),
                2e-5,
            );
        }
    }
    assert!(expected.next().is_none(), "{what}: samples left over");
}

#[test]
fn every_case_of_the_reference_is_reproduced() {
    let reference = Reference::open(&fixture("schedulers"));
    let cases = reference.json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 74, "cases of all schedulers");
    for case in cases {
        run_case(&reference, case);
    }
}

#[test]
fn noise_levels_of_cogvideox_are_those_of_the_reference() {
    let reference = Reference::open(&fixture("schedulers"));
    for snr in [1, 3] {
        let config = cogvideox(json!({"snr_shift_scale": snr})).unwrap();
        let SchedulerConfig::CogVideoXDpm(config) = config else { panic!("{config:?}") };
        let levels = NoiseLevels::new(&config).unwrap();
        let expected = reference.f64(&format!("alphas_cumprod.snr{snr}_f64"));
        assert_eq!(levels.alphas_cumprod().len(), expected.len());
        for (actual, expected) in levels.alphas_cumprod().iter().zip(expected) {
            assert!((actual - expected).abs() <= 1e-12, "{actual} against {expected}");
        }
    }
}

#[test]
fn a_clean_sample_is_found_again_in_what_training_makes_of_it() {
    let config = cogvideox(json!({})).unwrap().with_kind(SchedulerKind::CogVideoXDdim).unwrap();
    assert_eq!(config.prediction(), Prediction::Velocity);
    let SchedulerConfig::CogVideoXDdim(options) = &config else { panic!("{config:?}") };
    let levels = NoiseLevels::new(options).unwrap();
    let (clean, noise) = (standard_normal(1, 0, 40), standard_normal(2, 0, 40));
    for steps in [1, 4, 50] {
        let mut scheduler = build(&config, steps).unwrap();
        let mut sample = Vec::new();
        for timestep in scheduler.timesteps().to_vec() {
            let timestep = timestep as usize;
            let noisy = levels.add_noise(&clean, &noise, timestep);
            sample.clone_from(&noisy);
            scheduler.step(&levels.velocity(&clean, &noise, timestep), &mut sample);
        }
        assert_close(&format!("{steps} steps"), &sample, &clean, 1e-5, 1e-5);
    }
}

fn folders() -> Vec<PathBuf> {
    ["wan_", "cogvideox_"].into_iter().flat_map(fixture_folders).collect()
}

/// The noise that run `name` added at its steps, if it did.
fn noise_of(reference: &Reference, name: &str, steps: usize) -> StepNoise {
    let noise = (0..steps).map(|step| format!("run.{name}.step{step}.noise_used"));
    StepNoise::Given(noise.filter(|name| reference.has(name)).map(|n| reference.f32(&n)).collect())
}

/// The runs of the whole pipeline record what the scheduler was fed; replay them.
#[test]
fn the_runs_of_the_pipeline_are_reproduced() {
    for folder in folders() {
        let reference = Reference::open(&folder);
        for (name, run) in reference.json["runs"].as_object().unwrap() {
            if !reference.has(&format!("run.{name}.step0.noise_cond")) {
                continue; // long runs record their latents only
            }
            let what = format!("{} {name}", folder.display());
            let guidance = run["guidance_scale"].as_f64().unwrap() as f32;
            let config = config_of(run["scheduler"].as_str().unwrap(), &run["scheduler_config"]);
            let steps = run["num_inference_steps"].as_u64().unwrap() as usize;
            let noise = noise_of(&reference, name, steps);
            let mut scheduler = config.build(steps, noise).unwrap();
            let mut sample = reference.f32(&format!("run.{name}.initial_latents"));
            for step in 0..steps {
                let part = |part: &str| format!("run.{name}.step{step}.{part}");
                let mut velocity = reference.f32(&part("noise_cond"));
                if guidance > 1.0 {
                    let uncond = reference.f32(&part("noise_uncond"));
                    for (v, u) in velocity.iter_mut().zip(uncond) {
                        *v = u + guidance * (*v - u);
                    }
                }
                scheduler.step(&velocity, &mut sample);
                let expected = reference.f32(&part("latents"));
                assert_matches(&format!("{what}, step {step}"), &sample, &expected, 2e-5);
            }
        }
    }
}

/// The first step of the run with dynamic guidance starts from the same latents, prompts and
/// timestep as that of the main run, which records both predictions.
#[test]
fn dynamic_guidance_is_that_of_the_reference() {
    for folder in fixture_folders("cogvideox_") {
        let reference = Reference::open(&folder);
        let run = &reference.json["runs"]["dyncfg"];
        let [latents, main] =
            ["dyncfg", "main"].map(|name| reference.f32(&format!("run.{name}.initial_latents")));
        assert_eq!(latents, main);
        let steps = run["num_inference_steps"].as_u64().unwrap() as usize;
        let config = config_of(run["scheduler"].as_str().unwrap(), &run["scheduler_config"]);
        let noise = noise_of(&reference, "dyncfg", steps);
        let mut scheduler = config.build(steps, noise).unwrap();
        let timestep = f64::from(scheduler.timesteps()[0]);
        assert_eq!(timestep, reference.f64("run.main.timesteps")[0]);
        let scale = run["guidance_scale"].as_f64().unwrap();
        let scale = dynamic_guidance_scale(scale, steps, timestep) as f32;
        let [cond, uncond] =
            ["cond", "uncond"].map(|part| reference.f32(&format!("run.main.step0.noise_{part}")));
        let velocity: Vec<f32> = cond
            .iter()
            .zip(uncond)
            .map(|(cond, uncond)| uncond + scale * (cond - uncond))
            .collect();
        let mut sample = latents;
        scheduler.step(&velocity, &mut sample);
        let expected = reference.f32("run.dyncfg.step0.latents");
        assert_matches(&folder.display().to_string(), &sample, &expected, 2e-5);
    }
}

#[test]
fn the_configuration_of_a_checkpoint_is_read() {
    for folder in fixture_folders("cogvideox_") {
        let bytes = std::fs::read(folder.join("scheduler/scheduler_config.json")).unwrap();
        let config = SchedulerConfig::from_json(&serde_json::from_slice(&bytes).unwrap()).unwrap();
        assert_eq!(config.prediction(), Prediction::Velocity);
        assert_eq!(config.num_train_timesteps(), 1000);
    }
    for folder in fixture_folders("wan_") {
        let bytes = std::fs::read(folder.join("scheduler/scheduler_config.json")).unwrap();
        let config = SchedulerConfig::from_json(&serde_json::from_slice(&bytes).unwrap()).unwrap();
        assert_eq!(config.kind(), SchedulerKind::UniPc);
        assert_eq!(config.num_train_timesteps(), 1000);
    }
}

#[test]
fn every_solver_stays_finite_and_ends_at_a_constant_prediction() {
    // a model that always predicts the clean sample 0.25 must end there, whatever the order
    for solver_type in ["bh1", "bh2"] {
        for solver_order in 1..=3 {
            for steps in [1, 2, 3, 7, 50, 1000] {
                let options = json!({"solver_type": solver_type, "solver_order": solver_order});
                let mut scheduler = build(&unipc(options).unwrap(), steps).unwrap();
                let mut sample = vec![1.5_f32, -0.75];
                for step in 0..steps {
                    let sigma = scheduler.sigmas()[step];
                    let velocity: Vec<f32> = sample.iter().map(|x| (x - 0.25) / sigma).collect();
                    scheduler.step(&velocity, &mut sample);
                }
                let what = format!("{solver_type}, order {solver_order}, {steps} steps");
                assert_close(&what, &sample, &[0.25, 0.25], 0.0, 1e-5);
            }
        }
    }
}

#[test]
fn schedules_descend_to_zero() {
    for kind in FLOW {
        for shift in [0.5, 1.0, 3.0, 12.0] {
            for steps in [1, 2, 50, 1000] {
                let scheduler =
                    build(&config_for(kind, json!({"flow_shift": shift})), steps).unwrap();
                let sigmas = scheduler.sigmas();
                assert_eq!((scheduler.timesteps().len(), sigmas.len()), (steps, steps + 1));
                assert!(sigmas.is_sorted_by(|a, b| a > b), "{kind}, shift {shift}: {sigmas:?}");
                assert_eq!(sigmas[steps], 0.0);
            }
        }
    }
}

#[test]
fn every_number_of_steps_of_every_discrete_schedule_descends_through_its_timesteps() {
    for spacing in ["trailing", "leading", "linspace"] {
        let config = cogvideox(json!({"timestep_spacing": spacing})).unwrap();
        for steps in 1..=1000 {
            let scheduler = build(&config, steps).unwrap();
            let timesteps = scheduler.timesteps();
            assert_eq!((timesteps.len(), scheduler.sigmas().len()), (steps, steps + 1));
            assert!(timesteps.is_sorted_by(|a, b| a > b), "{spacing}, {steps}: {timesteps:?}");
            assert!(timesteps[0] <= 999.0 && timesteps[steps - 1] >= 0.0);
        }
    }
    // 1000 − 3 · 1000/48 is 937.5, which would round to 938; numpy's distance is a little longer
    let scheduler = build(&cogvideox(json!({})).unwrap(), 48).unwrap();
    assert_eq!(scheduler.timesteps()[3], 936.0);
}

#[test]
fn shifts_that_merge_noise_levels_are_rejected() {
    for kind in SchedulerKind::ALL {
        let (key, levels, shifts) = if FLOW.contains(&kind) {
            ("flow_shift", 50, [1e-60, 1e9, 1e300])
        } else {
            ("snr_shift_scale", 1000, [1e-15, 1e-60, 1e-300])
        };
        for shift in shifts {
            let message =
                build(&config_for(kind, json!({key: shift})), 50).unwrap_err().to_string();
            let end = format!("only values that keep {levels} noise levels apart");
            assert!(message.ends_with(&end), "{message}");
            assert!(message.contains(key), "{message}");
        }
    }
}

#[test]
fn step_counts_outside_the_training_range_are_rejected() {
    for kind in SchedulerKind::ALL {
        let config = config_for(kind, json!({"num_train_timesteps": 20}));
        for steps in [0, 21] {
            let message = build(&config, steps).unwrap_err().to_string();
            assert_eq!(message, format!("{steps} sampling steps are not possible, only 1 to 20"));
        }
        assert!(build(&config, 20).is_ok());
    }
}

#[test]
fn options_that_are_not_implemented_are_named() {
    for (options, message) in [
        (
            json!({"solver_order": 4}),
            "scheduler option solver_order = 4 is not supported, only whole numbers from 1 to 3",
        ),
        (
            json!({"prediction_type": "epsilon"}),
            "scheduler option prediction_type = \"epsilon\" is not supported, only \"flow_prediction\"",
        ),
        (
            json!({"use_karras_sigmas": true}),
            "scheduler option use_karras_sigmas = true is not supported, only false",
        ),
        (
            json!({"flow_shift": -1.0}),
            "scheduler option flow_shift = -1.0 is not supported, only positive numbers",
        ),
        (
            json!({"flow_shift": "3"}),
            "scheduler option flow_shift = \"3\" is not supported, only positive numbers",
        ),
        (
            json!({"disable_corrector": [0, -1]}),
            "scheduler option disable_corrector = [0,-1] is not supported, only a list of step indices",
        ),
        (
            json!({"num_train_timesteps": 0}),
            "scheduler option num_train_timesteps = 0 is not supported, only whole numbers from 1 to 1000000",
        ),
        (
            json!({"_class_name": "DDIMScheduler"}),
            "scheduler option _class_name = \"DDIMScheduler\" is not supported, only UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler, CogVideoXDDIMScheduler, CogVideoXDPMScheduler",
        ),
    ] {
        assert_eq!(unipc(options).unwrap_err().to_string(), message);
    }
    let message = SchedulerConfig::from_json(&json!([1])).unwrap_err().to_string();
    assert_eq!(message, "the scheduler configuration names no class: no \"_class_name\"");
}

#[test]
fn options_of_cogvideox_that_are_not_implemented_are_named() {
    for (options, message) in [
        (json!({"beta_schedule": "linear"}), "beta_schedule = \"linear\""),
        (json!({"trained_betas": [0.1]}), "trained_betas = [0.1]"),
        (json!({"prediction_type": "flow"}), "prediction_type = \"flow\""),
        (json!({"prediction_type": "epsilon"}), "prediction_type = \"epsilon\""),
        (json!({"timestep_spacing": 3}), "timestep_spacing = 3"),
        (json!({"rescale_betas_zero_snr": 1}), "rescale_betas_zero_snr = 1"),
        (json!({"set_alpha_to_one": "yes"}), "set_alpha_to_one = \"yes\""),
        (json!({"beta_start": 0.0}), "beta_start = 0.0"),
        (json!({"beta_end": 1.5}), "beta_end = 1.5"),
        (json!({"snr_shift_scale": -1.0}), "snr_shift_scale = -1.0"),
        (json!({"steps_offset": -1}), "steps_offset = -1"),
    ] {
        let error = cogvideox(options).unwrap_err().to_string();
        let expected = format!("scheduler option {message} is not supported, only ");
        assert!(error.starts_with(&expected), "{error}");
    }
    let offset = cogvideox(json!({"timestep_spacing": "leading", "steps_offset": 1})).unwrap();
    assert_eq!(build(&offset, 10).unwrap().timesteps()[..2], [901.0, 801.0]);
    let message = build(&offset, 1000).unwrap_err().to_string();
    assert!(message.starts_with("scheduler option steps_offset = 1 is not"), "{message}");
}

#[test]
fn schedulers_of_the_other_family_are_refused() {
    let message = |config: Result<SchedulerConfig, SchedulerError>| config.unwrap_err().to_string();
    let flow = unipc(json!({})).unwrap();
    assert_eq!(
        message(flow.with_kind(SchedulerKind::CogVideoXDpm)),
        "scheduler option scheduler = dpm is not supported, only unipc, euler with this model"
    );
    let discrete = cogvideox(json!({})).unwrap();
    assert_eq!(
        message(discrete.clone().with_kind(SchedulerKind::UniPc)),
        "scheduler option scheduler = unipc is not supported, only ddim, dpm with this model"
    );
    assert_eq!(discrete.flow_shift(), None);
    let message = message(discrete.clone().with_flow_shift(3.0));
    assert!(message.starts_with("scheduler option flow_shift = 3.0 is not supported"), "{message}");
    let other = discrete.clone().with_kind(SchedulerKind::CogVideoXDdim).unwrap();
    assert_eq!(other.with_kind(SchedulerKind::CogVideoXDpm).unwrap(), discrete);
}

#[test]
fn overrides_keep_what_they_do_not_name() {
    let config = unipc(json!({"flow_shift": 5.0, "num_train_timesteps": 100})).unwrap();
    let other =
        config.clone().with_flow_shift(8.0).unwrap().with_kind(SchedulerKind::FlowMatchEuler);
    let other = other.unwrap();
    assert_eq!((other.flow_shift(), other.num_train_timesteps()), (Some(8.0), 100));
    let again = other.with_flow_shift(5.0).unwrap().with_kind(SchedulerKind::UniPc).unwrap();
    assert_eq!(again, config);
    for shift in [0.0, -2.0, f64::NAN, f64::INFINITY] {
        assert!(config.clone().with_flow_shift(shift).is_err(), "{shift}");
    }
}

#[test]
fn kinds_are_read_by_name() {
    for kind in SchedulerKind::ALL {
        assert_eq!(kind.to_string().parse::<SchedulerKind>().unwrap(), kind);
    }
    assert_eq!(
        "heun".parse::<SchedulerKind>().unwrap_err().to_string(),
        "scheduler option scheduler = heun is not supported, only unipc, euler, ddim, dpm"
    );
}

#[test]
#[should_panic(expected = "step 1 of a run of 1 steps")]
fn a_step_past_the_end_is_a_bug() {
    let mut scheduler = build(&unipc(json!({})).unwrap(), 1).unwrap();
    let mut sample = vec![0.0; 3];
    scheduler.step(&[0.0; 3], &mut sample);
    scheduler.step(&[0.0; 3], &mut sample);
}

#[test]
fn noise_is_the_same_everywhere() {
    // bits computed by an independent program from the description of the algorithm
    let bits = |noise: Vec<f32>| noise.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let first = bits(standard_normal(0, 0, 4));
    assert_eq!(first, [0xbecb_9b14, 0xbe9e_ec28, 0x3fb1_841e, 0x3ea8_8ea2]);
    let other = bits(standard_normal(0x0123_4567_89ab_cdef, 2, 3));
    assert_eq!(other, [0x3fca_3b3d, 0x3eb9_9d3f, 0xbf8f_3acc]);
}

#[test]
fn noise_depends_on_seed_stream_and_index_only() {
    let noise = standard_normal(7, 0, 1000);
    assert_eq!(standard_normal(7, 0, 333), noise[..333]);
    assert!(standard_normal(7, 0, 0).is_empty());
    for other in [standard_normal(8, 0, 1000), standard_normal(7, 1, 1000)] {
        assert!(noise.iter().zip(&other).all(|(a, b)| a != b));
    }
}

#[test]
fn noise_is_standard_normal() {
    let noise = standard_normal(1, 0, 400_000);
    let moment = |power: i32| {
        noise.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / noise.len() as f64
    };
    // five standard errors of each moment: sqrt(1, 2, 15, 96 / n)
    for (power, expected, variance) in
        [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
    {
        let error = (moment(power) - expected).abs();
        let limit = 5.0 * f64::sqrt(variance / noise.len() as f64);
        assert!(error < limit, "moment {power}: off by {error}, limit {limit}");
    }
    // neighbors, which share a block, are independent
    let products = noise.windows(2).map(|pair| f64::from(pair[0]) * f64::from(pair[1]));
    let correlation = products.sum::<f64>() / noise.len() as f64;
    assert!(correlation.abs() < 5.0 / f64::sqrt(noise.len() as f64), "{correlation}");
    let beyond_two = noise.iter().filter(|v| v.abs() > 2.0).count() as f64 / noise.len() as f64;
    assert!((beyond_two - 0.0455).abs() < 0.0017, "{beyond_two}");
}
