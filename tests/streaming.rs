//! Blocks that visit the device one by one compute what resident ones do.

mod common;

use burn::tensor::{Tensor, TensorData};
use common::devices;
use qvgen::kernels::device::OpenDevice;
use qvgen::models::Denoiser;
use qvgen::nn::{AttentionPrecision, ConvPrecision, Trace};
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::noise::standard_normal;
use qvgen::pipeline::plan::Plan;
use qvgen::pipeline::sample::Sampler;
use qvgen::pipeline::settings::{SampleSettings, TilingChoice};

/// The bytes of a velocity.
fn velocity(transformer: &dyn Denoiser, model: &VideoModel, device: &OpenDevice) -> Vec<u8> {
    let shape = [model.transformer.in_channels(), 2, 4, 6];
    let noise = standard_normal(1, 0, shape.iter().product());
    let latent = Tensor::<4>::from_data(TensorData::new(noise, shape), &device.device);
    let text = Tensor::<2>::ones([model.text_tokens, model.transformer.text_dim()], &device.device);
    let context = transformer.text_context(text, &mut Trace::off());
    transformer.forward(latent, 500.0, &context).into_data().bytes().to_vec()
}

#[test]
fn streamed_blocks_compute_the_same_bits() {
    for name in [EmbeddedName::Pocket, EmbeddedName::PocketW4A4] {
        let folder = EmbeddedModel::unpack(name).expect("a temporary folder");
        let model = VideoModel::open(folder.path()).expect("the embedded model");
        for (label, device) in devices() {
            let device = OpenDevice { device, adapter: None };
            let sampler = Sampler { model: &model, device: &device, cancel: Cancel::new() };
            let weights = model
                .weights(ComponentKind::Transformer, None, device.max_elements())
                .expect("weights");
            let load = |resident| {
                let mut loaded = Vec::new();
                let transformer = sampler
                    .load_streamed_transformer(&weights, resident, &mut |_, done, total| {
                        loaded.push((done, total));
                    })
                    .expect("a transformer");
                assert_eq!(loaded.len(), model.transformer.num_layers());
                transformer
            };
            let expected = velocity(&*load(usize::MAX), &model, &device);
            for resident in [0, 1, model.transformer.num_layers() - 1] {
                let actual = velocity(&*load(resident), &model, &device);
                assert_eq!(actual, expected, "{} on {label}, {resident} resident", name.name());
            }
        }
    }
}

#[test]
fn a_limit_moves_blocks_to_host_memory_and_a_tighter_one_is_refused() {
    let folder = EmbeddedModel::unpack(EmbeddedName::Pocket).expect("a temporary folder");
    let model = VideoModel::open(folder.path()).expect("the embedded model");
    let Ok(device) = qvgen::kernels::device::open(&Default::default(), None) else {
        return; // no adapter: there is no second memory to stream from
    };
    let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).expect("weights");
    let settings = SampleSettings {
        prompt: "a red square".into(),
        negative_prompt: String::new(),
        frames: 9,
        width: 32,
        height: 32,
        steps: 2,
        guidance_scale: 1.0,
        dynamic_guidance: false,
        late_guidance_drop: 0.0,
        flow_shift: None,
        scheduler: None,
        seed: 0,
        fps: 8.0,
        attention: AttentionPrecision::Exact,
        vae_precision: ConvPrecision::Exact,
        tiling: TilingChoice::Off,
    };
    let plan = |limit| Plan::new(&model, &settings, &weights, &device, limit);
    let free = plan(None);
    assert_eq!((free.resident_blocks, free.streamed_bytes), (free.blocks, 0));
    let enough = free.weight_bytes + free.activation_bytes;
    assert_eq!(plan(Some(enough)).resident_blocks, free.blocks);
    let tight = plan(Some(enough - 1));
    assert!(tight.resident_blocks < free.blocks);
    assert!(tight.weight_bytes + tight.activation_bytes < enough);
    assert!(tight.streamed_bytes > 0);
    let least = plan(Some(1));
    assert_eq!(least.resident_blocks, 0);
    assert!(least.check(Some(1)).is_err());
}
