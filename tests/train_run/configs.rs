//! Configurations: the examples, and what is refused.

use super::Place;
use qvgen::method::qvgen::{Method, RankSchedule};
use qvgen::models::cogvideox::CogVideoXConfig;
use qvgen::models::wan::WanConfig;
use qvgen::train::TrainPlan;
use qvgen::train::config::Config;
use std::path::Path;

fn example(name: &str) -> Config {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/configs");
    Config::load(&folder.join(name), &[]).unwrap_or_else(|err| panic!("{err}"))
}

const GIB: u64 = 1 << 30;

#[test]
fn the_examples_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/configs");
    let names = super::names(&folder);
    assert!(names.len() >= 5);
    for name in names {
        let config = example(&name);
        assert_eq!(config.method(), Some(Method::Qvgen), "{name}");
        assert_eq!(Config::from_text(&config.to_toml(), "again", &[]).expect(&name), config);
    }
}

#[test]
fn the_large_examples_have_the_published_settings() {
    let config = example("wan-1.3b-w4a4.toml");
    assert_eq!((config.training.steps, config.training.batch), (2667, 48));
    assert_eq!((config.optimizer.learning_rate, config.optimizer.beta2), (3e-5, 0.95));
    assert_eq!(config.optimizer.rate_share(266, 2667), 1.0, "267 updates of warm-up");
    let ranks = RankSchedule::ranks_from(32, 0.5);
    assert_eq!(RankSchedule::new(ranks, Default::default(), 2667).unwrap().phase_steps(), 444);
}

#[test]
fn the_examples_of_cogvideox_have_the_published_settings() {
    let config = example("cogvideox-2b-qvgen-w4a4.toml");
    assert_eq!((config.training.steps, config.training.batch), (2000, 64));
    assert_eq!(config.optimizer.rate_share(199, 2000), 1.0, "200 updates of warm-up");
    let plan = |config: &Config, model: &CogVideoXConfig, latent| {
        TrainPlan::of_sizes(config, model, latent, 226, "a card".to_owned()).expect("a plan")
    };
    let small = plan(&config, &CogVideoXConfig::cogvideox_2b(), [16, 13, 60, 90]);
    assert_eq!((small.tokens, small.phase_steps), (17_550, Some(333)));
    assert_eq!(small.model_parameters, 1_693_783_872);
    // Those of the timestep stay: of a block's eight layers, six are quantized.
    assert_eq!(small.layers[0], 6 * 30);
    let config = example("cogvideox1.5-5b-qvgen-w4a4.toml");
    let large = plan(&config, &CogVideoXConfig::cogvideox1_5_5b(), [16, 14, 96, 170]);
    assert_eq!((large.tokens, large.phase_steps), (28_560, Some(666)));
    assert_eq!(large.model_parameters, 5_570_676_352);
}

#[test]
fn the_plan_says_honestly_what_fits() {
    let plan = |name: &str, model: &WanConfig| {
        let (config, latent) = (example(name), [16, 13, 60, 104]);
        TrainPlan::of_sizes(&config, model, latent, 512, "a card".to_owned()).expect("a plan")
    };
    let small = plan("wan-1.3b-w4a4.toml", &WanConfig::wan2_1_t2v_1_3b());
    assert_eq!(small.tokens, 20_280);
    assert_eq!(small.model_parameters, 1_418_996_800);
    assert_eq!(small.ranks, [32, 16, 8, 4, 2, 1]);
    // Values, gradients, two moments and the teacher, 4 bytes each.
    assert!(small.memory.total() > 6 * 4 * small.model_parameters);
    // What the README says.
    assert_eq!([small.memory.total() / GIB, small.smallest.total() / GIB], [52, 46]);
    assert!(small.memory_otherwise.activations > 10 * small.memory.activations);
    let refused = small.check(Some(24 * GIB)).expect_err("too large").to_string();
    assert!(refused.contains("24.0 GiB"), "{refused}");
    let lines = small.fitting(Some(24 * GIB), &|bytes| format!("{} GiB", bytes / GIB));
    assert!(lines.iter().any(|line| line.contains("not implemented: moments in host memory")));

    let large = plan("wan-14b-w4a4.toml", &WanConfig::wan2_1_t2v_14b());
    let refused = large.check(Some(80 * GIB)).expect_err("too large").to_string();
    assert!(refused.contains("no setting makes it fit"), "{refused}");
    assert!(large.check(Some(2000 * GIB)).is_ok());
    assert!(large.fitting(None, &|bytes| bytes.to_string()).is_empty());
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence() {
    let place = Place::new();
    for (more, words) in [
        (&["--set", "loop.stepz=3"][..], &["--set loop.stepz=3", "unknown field `stepz`"][..]),
        (&["--steps", "0"], &["loop.steps is 0, expected at least 1"]),
        (&["--method", "qvgn"], &["--method qvgn", "one-shot"]),
        (&["--bits", "w5a5"], &["--bits w5a5", "w4a4"]),
        (&["--set", "layers=[\"block.*=full\"]"], &["block.*=full", "26 linear layers"]),
        (&["--set", "layers=[\"*=full\"]"], &["nothing would be quantized"]),
        (&["--method", "qvgen", "--set", "recipe.rank=64"], &["recipe.rank is 64", "at most 32"]),
        (&["--method", "qvgen", "--steps", "3"], &["3 steps are too few for 6 phases"]),
        (&["--set", "data.width=33"], &["data.width", "a width of 33 is no multiple of 16"]),
        (&["--set", "data.frames=6"], &["data.frames: 6 is no multiple of 4 plus one"]),
        (&["--model", "nowhere"], &["nowhere"]),
        (&["--set", "nothing"], &["key=value"]),
        (&["--set", "log.sample_every=5"], &["log.sample_prompts"]),
    ] {
        place.is_refused(more, words);
    }
    std::fs::write(place.config(), "model = 3\n").expect("written");
    place.is_refused(&[], &["train.toml, line 1", "model = 3", "expected a string"]);
    std::fs::remove_file(place.config()).expect("removed");
    place.is_refused(&[], &["train.toml", "cannot read"]);
}
