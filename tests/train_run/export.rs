//! What leaves a training is what was trained.

use super::common::{devices, max_error};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::method::qvgen::Method;
use qvgen::nn::{Limits, Trace, WeightSource, Weights};
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::model::{ComponentWeights, VideoModel};
use qvgen::pipeline::noise::standard_normal;
use qvgen::train::{Export, PackedSource, ParameterSource, Parameters, QuantizedLayers, averaged};
use std::path::Path;

const MAX_ELEMENTS: usize = 32 << 20;

fn model() -> VideoModel {
    VideoModel::open(&super::model()).expect("a model")
}

fn weights(model: &VideoModel) -> ComponentWeights {
    model.weights(ComponentKind::Transformer, None, MAX_ELEMENTS).expect("weights")
}

/// A student with scales, clips and biases that no rounding of the model would give.
fn student(model: &VideoModel, bits: &str, device: &Device) -> (Parameters, QuantizedLayers) {
    let shapes = model.transformer.parameter_shapes();
    let mut parameters =
        Parameters::load(weights(model).source(), &shapes, device).expect("parameters");
    let layers = QuantizedLayers::prepare(
        &mut parameters,
        &model.transformer.linears(),
        &model.recommended_scope(bits.parse().expect("a precision")),
        &Method::Lsq.recipe(4, 0.5),
        10,
        0,
    )
    .expect("layers");
    for (index, (name, parameter)) in parameters.iter_mut().enumerate() {
        let factor = if name.ends_with("weight_scale") { 1.05 } else { 1.0 };
        let len = parameter.value.dims()[0];
        let noise = standard_normal(index as u64, 0, len);
        let noise = Tensor::<1>::from_data(TensorData::new(noise, [len]), device);
        let spread = if name.contains("weight") { 0.0 } else { 0.02 };
        parameter.value = parameter.value.clone() * factor + noise * spread;
    }
    (parameters, layers)
}

/// The velocity of a fixed latent under a fixed caption.
fn predict(model: &VideoModel, source: &dyn WeightSource, device: &Device) -> Vec<f32> {
    let limits = Limits { max_elements: MAX_ELEMENTS };
    let config = &model.transformer;
    let weights = Weights::new(source, device);
    let transformer = config.load(&weights, limits).expect("a transformer");
    let tensor = |seed, len| standard_normal(seed, 0, len);
    let (latent, text) = ([4, 2, 6, 4], [7, config.text_dim()]);
    let latent = TensorData::new(tensor(1, latent.iter().product()), latent);
    let text = TensorData::new(tensor(2, text.iter().product()), text);
    let context = transformer.text_context(Tensor::from_data(text, device), &mut Trace::off());
    let velocity = transformer.forward(Tensor::from_data(latent, device), 700.0, &context);
    velocity.into_data().try_to_vec().expect("f32 values")
}

fn export<'a>(
    model: &'a VideoModel,
    parameters: &'a Parameters,
    layers: Option<&'a QuantizedLayers>,
) -> Export<'a> {
    Export {
        model,
        parameters,
        layers,
        method: "lsq",
        late_guidance_drop: 0.18,
        max_shard_bytes: 1 << 30,
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn an_exported_student_computes_what_it_computed_in_memory() {
    let model = model();
    let place = tempfile::tempdir().expect("a temporary folder");
    for (device_name, device) in devices() {
        for precision in ["w4a4", "w3a3", "w4a16"] {
            let (parameters, layers) = student(&model, precision, &device);
            let source = PackedSource {
                parameters: &parameters,
                layers: &layers,
                max_elements: MAX_ELEMENTS,
            };
            let before = predict(&model, &source, &device);
            let out = place.path().join(format!("{device_name}-{precision}"));
            let export = export(&model, &parameters, Some(&layers));
            export.write(&out, false, &Cancel::new()).expect("an export");
            let opened = VideoModel::open(&out).expect("a model");
            opened.check_files().expect("complete");
            let weights = weights(&opened);
            assert!(weights.is_packed());
            assert_eq!(weights.precision(&model.transformer.linears()), precision);
            let after = predict(&opened, weights.source(), &device);
            assert_eq!(bits(&before), bits(&after), "{device_name} {precision}");
        }
    }
}

#[test]
fn the_packed_student_is_the_trained_one_within_rounding() {
    let model = model();
    for (device_name, device) in devices() {
        for precision in ["w4a4", "w3a3", "w4a16"] {
            let (parameters, layers) = student(&model, precision, &device);
            let max_elements = MAX_ELEMENTS;
            let packed = PackedSource { parameters: &parameters, layers: &layers, max_elements };
            let float = ParameterSource::plain(&parameters, Some(&layers));
            let packed = predict(&model, &packed, &device);
            let float = predict(&model, &float, &device);
            // A value at the border of two codes may fall on either side.
            let error = max_error(&packed, &float);
            assert!(error < 0.05, "{device_name} {precision}: max |Δ| / rms = {error:e}");
        }
    }
}

#[test]
fn two_exports_are_equal_to_the_byte() {
    let model = model();
    let (parameters, layers) = student(&model, "w4a4", &Device::flex());
    let place = tempfile::tempdir().expect("a temporary folder");
    let outs = ["a", "b"].map(|name| place.path().join(name));
    for out in &outs {
        let export = export(&model, &parameters, Some(&layers));
        export.write(out, false, &Cancel::new()).expect("an export");
    }
    let files = |out: &Path| {
        let mut files = Vec::new();
        for name in super::names(out) {
            let path = out.join(&name);
            if path.is_dir() {
                for inner in super::names(&path) {
                    files.push((
                        format!("{name}/{inner}"),
                        std::fs::read(path.join(&inner)).unwrap(),
                    ));
                }
            } else {
                files.push((name, std::fs::read(path).unwrap()));
            }
        }
        files
    };
    let [a, b] = outs.map(|out| files(&out));
    assert!(a.len() > 8, "{} files", a.len());
    assert!(a == b, "the exports differ");
}

#[test]
fn an_export_without_quantization_is_a_model_like_any_other() {
    let model = model();
    let place = tempfile::tempdir().expect("a temporary folder");
    let out = place.path().join("full");
    let device = Device::flex();
    let shapes = model.transformer.parameter_shapes();
    let mut parameters =
        Parameters::load(weights(&model).source(), &shapes, &device).expect("parameters");
    let name = "proj_out.bias";
    let parameter = parameters.get_mut(name).expect("a bias");
    parameter.average = Some(parameter.value.clone() + 1.0);
    let before = predict(&model, &ParameterSource::plain(&parameters, None), &device);
    let write = |parameters: &Parameters, overwrite| {
        export(&model, parameters, None).write(&out, overwrite, &Cancel::new())
    };
    write(&parameters, false).expect("an export");
    let opened = VideoModel::open(&out).expect("a model");
    opened.check_files().expect("complete");
    let after = predict(&opened, weights(&opened).source(), &device);
    assert_eq!(bits(&before), bits(&after));

    assert!(write(&parameters, false).is_err(), "a folder that is not empty");
    write(&averaged(&parameters), true).expect("an export over the first");
    let average = weights(&VideoModel::open(&out).expect("a model"));
    let average = average.source().values(name, &[16]).expect("a bias");
    let last = weights(&model).source().values(name, &[16]).expect("a bias");
    let is_one = |(a, b): (&f32, &f32)| (a - b - 1.0).abs() < 1e-6;
    assert!(average.iter().zip(&last).all(is_one));
}
