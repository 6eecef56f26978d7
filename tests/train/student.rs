use crate::common::{assert_matches, devices};
use crate::{architectures, example, host, parameters, tiny};
use burn::tensor::Device;
use qvgen::method::Scope;
use qvgen::method::qvgen::{Annealing, Auxiliary, Loss, Method, Recipe};
use qvgen::models::DenoiserConfig;
use qvgen::nn::{Limits, Linear, PackedLinear, WeightSource};
use qvgen::pipeline::noising::Noising;
use qvgen::pipeline::scheduler::SchedulerConfig;
use qvgen::train::{
    InMemory, LoopSettings, OptimizerSettings, ParameterSource, Parameters, Pass, QuantizedLayers,
    Trainer,
};
use serde_json::json;
use std::sync::Arc;

fn recipe(rank: usize) -> Recipe {
    Method::Qvgen.recipe(rank, 0.5)
}

fn student(
    config: &dyn DenoiserConfig,
    recipe: &Recipe,
    bits: &str,
    device: &Device,
) -> (Parameters, QuantizedLayers) {
    let mut parameters = parameters(config, device);
    let scope = Scope::recommended(bits.parse().expect("a precision"), config.sensitive_layers());
    let linears = config.block_linears();
    let layers = QuantizedLayers::prepare(&mut parameters, &linears, &scope, recipe, 60, 1)
        .expect("a schedule");
    (parameters, layers)
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}

#[test]
fn at_full_rank_the_effective_weight_is_the_weight() {
    let config = tiny();
    for (name, device) in devices() {
        // The smaller side of the largest layer.
        let (mut parameters, mut layers) = student(&config, &recipe(24), "w3a16", &device);
        layers.begin_step(&mut parameters, 0, true);
        let layer = "blocks.1.ffn.net.2";
        let weight = host(parameters.expect(&format!("{layer}.weight")).value.clone());
        let effective = effective_weight(&parameters, &layers, layer);
        assert_matches(&format!("{name}: with Φ"), &effective, &weight, 2e-5);
        layers.set_phi(false);
        let rounded = effective_weight(&parameters, &layers, layer);
        let error: Vec<f32> = rounded.iter().zip(&weight).map(|(a, b)| a - b).collect();
        assert!(norm(&error) > 0.05 * norm(&weight), "{name}: three bits round visibly");
    }
}

/// `W_eff` of a layer, by asking the model for the layer's answer to the unit vectors.
fn effective_weight(parameters: &Parameters, layers: &QuantizedLayers, name: &str) -> Vec<f32> {
    let source = ParameterSource::plain(parameters, Some(layers));
    let shape = parameters.expect(&format!("{name}.weight")).shape.clone();
    let (rows, columns) = (shape[0], shape[1]);
    let device = parameters.expect(&format!("{name}.weight")).value.device();
    let layer = source.linear(name, rows, columns, false, &device).expect("the layer");
    let units = burn::tensor::Tensor::<2>::eye(columns, &device);
    host(layer.forward(units).transpose())
}

#[test]
fn without_phi_the_student_is_the_packed_model() {
    let config = tiny();
    for (name, device) in devices() {
        for bits in ["w4a4", "w3a3"] {
            let recipe = Recipe { auxiliary: Auxiliary::None, ..recipe(1) };
            let (parameters, layers) = student(&config, &recipe, bits, &device);
            let example = example(&config, 3, &device);
            for linear in config.block_linears() {
                let (rows, spec) = layers.packed(&parameters, &linear.name).expect("quantized");
                let bias = host(parameters.expect(&format!("{}.bias", linear.name)).value.clone());
                let packed = Linear::Packed(PackedLinear::new(
                    &rows,
                    Some(bias),
                    spec.activations,
                    1 << 20,
                    &device,
                ));
                let source = ParameterSource::plain(&parameters, Some(&layers));
                let (out, k) = (linear.out_features, linear.in_features);
                let fake = source.linear(&linear.name, out, k, true, &device).expect("a layer");
                let x = crate::tensor([13, k], 7, &device);
                let (packed, fake) = (host(packed.forward(x.clone())), host(fake.forward(x)));
                assert_matches(&format!("{name} {bits} {}", linear.name), &fake, &packed, 1e-5);
            }
            let limits = Limits::default();
            let pass = Pass {
                parameters: &parameters,
                layers: Some(&layers),
                config: &config,
                device: &device,
                limits,
            };
            assert!(host(pass.loss(&example).expect("a loss"))[0].is_finite());
        }
    }
}

/// What a model of `config` is trained on: flow matching, but for CogVideoX.
fn noising(config: &dyn DenoiserConfig) -> Noising {
    if config.block_prefix() == "blocks" {
        return Noising::flow_matching();
    }
    let json = json!({
        "_class_name": "CogVideoXDDIMScheduler", "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": true, "snr_shift_scale": 3.0, "timestep_spacing": "trailing",
    });
    Noising::of(&SchedulerConfig::from_json(&json).expect("a schedule")).expect("levels")
}

fn trainer<'a>(
    config: &Arc<dyn DenoiserConfig>,
    data: &'a InMemory,
    recipe: &Recipe,
    bits: &str,
    device: &Device,
) -> Trainer<'a> {
    let (parameters, layers) = student(&**config, recipe, bits, device);
    let full = self::parameters(&**config, device);
    let source = ParameterSource::plain(&full, None);
    let weights = qvgen::nn::Weights::new(&source, device);
    let teacher = config.load(&weights, Limits::default());
    Trainer {
        config: config.clone(),
        parameters,
        layers: Some(layers),
        teacher: Some(teacher.expect("the teacher")),
        noising: noising(&**config),
        loss: recipe.loss,
        optimizer: OptimizerSettings {
            learning_rate: 3e-3,
            scale_learning_rate: 1e-4,
            low_rank_learning_rate: 3e-3,
            ..OptimizerSettings::default()
        },
        settings: LoopSettings { steps: 60, batch: 4, seed: 3, ..LoopSettings::default() },
        data,
        device: device.clone(),
        parallel: true,
        limits: Limits::default(),
        step: 0,
    }
}

fn data(config: &dyn DenoiserConfig, device: &Device) -> InMemory {
    // Three frames are no whole number of CogVideoX1.5's patches.
    let latent = |i: u32| crate::tensor([config.in_channels(), 3, 4, 6], 500 + i, device);
    let text = |i: u32| crate::tensor([5, config.text_dim()], 600 + i, device);
    InMemory {
        clips: (0..6).map(|i| (latent(i), i as usize % 3)).collect(),
        texts: (0..3).map(text).collect(),
        empty_text: text(9),
    }
}

#[test]
fn training_lowers_the_loss_and_ends_without_phi() {
    let device = Device::flex();
    for (name, config) in architectures() {
        let data = data(&*config, &device);
        let recipe = Recipe {
            auxiliary: Auxiliary::Phi {
                ranks: vec![4, 2, 1],
                annealing: Annealing::Cosine,
                redecompose: true,
            },
            ..recipe(4)
        };
        let mut trainer = trainer(&config, &data, &recipe, "w3a3", &device);
        let held_out = |trainer: &Trainer<'_>| {
            let loss = |i: usize| {
                let example = trainer.example(i, 1_000_000, i).expect("an example");
                f64::from(host(trainer.pass().loss(&example).expect("a loss"))[0])
            };
            (0..6).map(loss).sum::<f64>() / 6.0
        };
        if let Some(layers) = &mut trainer.layers {
            layers.set_phi(false);
        }
        let before = held_out(&trainer);
        if let Some(layers) = &mut trainer.layers {
            layers.set_phi(true);
        }
        let mut decompositions = 0;
        for step in 0..60 {
            let report = trainer.update().expect("an update");
            assert_eq!(report.step, step);
            decompositions += usize::from(report.spectra.is_some());
        }
        assert_eq!(decompositions, 3, "{name}: one per phase");
        // One more step begins the time after Φ.
        trainer.update().expect("an update");
        let left = format!("{}.0.attn1.to_q.low_rank_left", config.block_prefix());
        assert!(trainer.parameters.get(&left).is_none(), "{name}");
        let after = held_out(&trainer);
        assert!(after < 0.7 * before, "{name}: the loss went from {before} to {after}");
    }
}

#[test]
fn with_phi_the_first_gradients_are_smaller() {
    let config: Arc<dyn DenoiserConfig> = Arc::new(tiny());
    let device = Device::flex();
    let data = data(&*config, &device);
    let without = Recipe { auxiliary: Auxiliary::None, ..recipe(8) };
    let norm_of = |recipe: &Recipe| {
        let mut trainer = trainer(&config, &data, recipe, "w3a16", &device);
        (0..5).map(|_| trainer.update().expect("an update").gradient_norm).sum::<f64>()
    };
    let (with, without) = (norm_of(&recipe(8)), norm_of(&without));
    assert!(with < without, "{with} with Φ, {without} without");
}

#[test]
fn the_same_seed_trains_the_same_student() {
    let config: Arc<dyn DenoiserConfig> = Arc::new(tiny());
    let device = Device::flex();
    let data = data(&*config, &device);
    let run = || {
        let mut trainer = trainer(&config, &data, &recipe(4), "w4a4", &device);
        (0..8).map(|_| trainer.update().expect("an update").loss.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_lora_stays_inside_the_quantizer_and_the_model_as_it_was() {
    let config: Arc<dyn DenoiserConfig> = Arc::new(tiny());
    let device = Device::flex();
    let data = data(&*config, &device);
    let recipe = Method::EfficientDm.recipe(4, 0.5);
    assert_eq!(recipe.loss, Loss::Distillation);
    let mut trainer = trainer(&config, &data, &recipe, "w4a4", &device);
    let name = "blocks.0.attn1.to_q.weight";
    let before = host(trainer.parameters.expect(name).value.clone());
    for _ in 0..3 {
        trainer.update().expect("an update");
    }
    assert_eq!(before, host(trainer.parameters.expect(name).value.clone()));
    let left = host(trainer.parameters.expect("blocks.0.attn1.to_q.low_rank_left").value.clone());
    assert!(norm(&left) > 0.0, "the LoRA has learnt something");
}
