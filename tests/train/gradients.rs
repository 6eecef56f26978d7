use crate::common::{assert_matches, devices};
use crate::{architectures, example, host, parameters};
use qvgen::models::DenoiserConfig;
use qvgen::nn::Limits;
use qvgen::train::{Parameters, Pass};

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt()
}

fn pass<'a>(
    parameters: &'a Parameters,
    config: &'a dyn DenoiserConfig,
    device: &'a burn::tensor::Device,
    limits: Limits,
) -> Pass<'a> {
    Pass { parameters, layers: None, config, device, limits }
}

#[test]
fn computing_every_block_twice_gives_the_same_gradients() {
    for (name, device) in devices() {
        for (architecture, config) in architectures() {
            let name = format!("{architecture} on {name}");
            let parameters = parameters(&*config, &device);
            let example = example(&*config, 1, &device);
            // The second limit splits the tokens into parts.
            for limits in [Limits::default(), Limits { max_elements: 7 * config.dim() }] {
                let pass = pass(&parameters, &*config, &device, limits);
                let (loss, whole) = pass.whole(&example).expect("gradients");
                let (again, recomputed) = pass.recomputed(&example).expect("gradients");
                assert_matches(&format!("{name}: loss"), &host(again), &host(loss), 1e-6);
                assert_eq!(whole.len(), config.parameter_shapes().len(), "{name}");
                assert!(whole.keys().eq(recomputed.keys()), "{name}");
                let norms = whole.values().map(|gradient| norm(&host(gradient.clone())));
                let largest = norms.fold(0.0, f32::max);
                for (parameter, gradient) in whole {
                    let (gradient, other) = (host(gradient), host(recomputed[&parameter].clone()));
                    // Without rotation, a bias of all keys changes no attention: rounding is left.
                    if norm(&gradient) < 1e-5 * largest {
                        assert!(norm(&other) < 1e-5 * largest, "{name}: {parameter}");
                        continue;
                    }
                    // A gradient that is small because larger ones cancel keeps their rounding.
                    let tolerance = (1e-6 * largest / norm(&gradient)).max(1e-4);
                    assert_matches(&format!("{name}: {parameter}"), &other, &gradient, tolerance);
                }
            }
        }
    }
}

#[test]
fn gradients_predict_how_the_loss_changes() {
    // Every operation is compared between the devices elsewhere: the CPU is enough here.
    let device = burn::tensor::Device::flex();
    for (name, config) in architectures() {
        let base = parameters(&*config, &device);
        let example = example(&*config, 2, &device);
        let loss_of = |parameters: &Parameters| {
            let pass = pass(parameters, &*config, &device, Limits::default());
            f64::from(host(pass.loss(&example).expect("a loss"))[0])
        };
        let (_, gradients) =
            pass(&base, &*config, &device, Limits::default()).whole(&example).expect("gradients");
        // Along its gradient, every parameter changes the loss by the gradient's square.
        for (parameter, gradient) in &gradients {
            let square: f32 = host(gradient.clone()).iter().map(|g| g * g).sum();
            if square < 1e-7 {
                continue; // drowned by the rounding of the loss
            }
            let step = 0.02 / square.sqrt();
            let moved = |sign: f32| {
                let mut changed = base.clone();
                let parameter = changed.get_mut(parameter).expect("the parameter");
                parameter.value = parameter.value.clone() + gradient.clone() * (sign * step);
                loss_of(&changed)
            };
            let measured = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step));
            let expected = f64::from(square);
            assert!(
                (measured - expected).abs() < 0.03 * expected + 4e-5 / f64::from(step),
                "{name}: {parameter}: the loss changes by {measured}, the gradient says {expected}"
            );
        }
    }
}
