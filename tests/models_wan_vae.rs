//! The Wan autoencoder against reference tensors, on the CPU and on wgpu.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;
#[path = "common/encoded_tiles.rs"]
mod encoded_tiles;
#[path = "common/weights.rs"]
mod weights;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{Reference, assert_matches, devices, fixture_folders, max_error};
use qvgen::models::wan_vae::{
    WanVaeConfig, WanVaeDecoder, WanVaeEncoder, decode_peak_bytes, largest_tensor_elements,
};
use qvgen::models::{Encoder, Tiling};
use qvgen::nn::{ConvPrecision, Weights};
use std::ops::ControlFlow;
use std::path::Path;
use weights::FixtureWeights;

/// Largest difference, relative to the root mean square.
const TOLERANCE: f32 = 1e-4;

/// A checkpoint with its reference results.
struct Fixture {
    name: String,
    config: WanVaeConfig,
    weights: FixtureWeights,
    reference: Reference,
}

impl Fixture {
    fn open(folder: &Path) -> Self {
        let vae = folder.join("vae");
        let config = std::fs::read_to_string(vae.join("config.json")).unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            config: serde_json::from_str(&config).unwrap(),
            weights: FixtureWeights::open(&vae),
            reference: Reference::open(folder),
        }
    }

    fn all() -> Vec<Self> {
        fixture_folders("wan_").iter().map(|folder| Self::open(folder)).collect()
    }

    fn decoder(&self, device: &Device) -> WanVaeDecoder {
        WanVaeDecoder::load(&Weights::new(&self.weights, device), &self.config).unwrap()
    }

    fn encoder(&self, device: &Device) -> WanVaeEncoder {
        WanVaeEncoder::load(&Weights::new(&self.weights, device), &self.config).unwrap()
    }

    /// Tensor `name` of batch one, without the batch axis.
    fn tensor(&self, name: &str, device: &Device) -> Tensor<4> {
        let shape = self.reference.shape(name);
        assert_eq!((shape.len(), shape[0]), (5, 1), "{name}");
        let shape: [usize; 4] = shape[1..].try_into().unwrap();
        Tensor::from_data(TensorData::new(self.reference.f32(name), shape), device)
    }

    /// The reference latent as the denoiser would hand it over.
    fn normalized_latent(&self, device: &Device) -> Tensor<4> {
        let statistic = |name: &str| {
            let values = self.reference.f32(name);
            let len = values.len();
            Tensor::<4>::from_data(TensorData::new(values, [len, 1, 1, 1]), device)
        };
        let latent = self.tensor("vae.decode.latent", device);
        (latent - statistic("vae.latents_mean")) / statistic("vae.latents_std")
    }

    /// The tiling of the reference.
    fn tiling(&self) -> Tiling {
        let pixels = |key: &str| {
            let axis = |axis: &str| {
                let value = &self.reference.json["vae_tiling"][format!("tile_sample_{key}_{axis}")];
                usize::try_from(value.as_u64().unwrap()).unwrap()
            };
            [axis("height"), axis("width")]
        };
        Tiling::new(&self.config, pixels("min"), pixels("stride")).unwrap()
    }
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn decode_matches_the_reference_chunk_by_chunk() {
    for fixture in Fixture::all() {
        for (device_name, device) in devices() {
            let decoder = fixture.decoder(&device);
            let latent = fixture.normalized_latent(&device);
            let frames = latent.dims()[1];
            let (mut stream, mut chunks) = (decoder.stream(), Vec::new());
            for chunk in 0..frames {
                let mut trace = |part: &str, value: &Tensor<4>| {
                    let name = format!("vae.decode.chunk{chunk}.{part}");
                    if fixture.reference.has(&name) {
                        let what = format!("{} {device_name} {name}", fixture.name);
                        let expected = fixture.reference.f32(&name);
                        assert_matches(&what, &values(value.clone()), &expected, TOLERANCE);
                    }
                };
                let latent = latent.clone().narrow(1, chunk, 1);
                chunks.push(stream.decode_traced(latent, &mut trace));
            }
            let sizes: Vec<i64> = chunks.iter().map(|chunk| chunk.dims()[1] as i64).collect();
            assert_eq!(sizes, fixture.reference.i64("vae.decode.chunk_frames"), "{device_name}");
            let expected = fixture.reference.f32("vae.decode.sample");
            let what = format!("{} {device_name} sample", fixture.name);
            // What diffusers returns is clamped.
            let video = Tensor::cat(chunks, 1).clamp(-1.0, 1.0);
            assert_matches(&what, &values(video), &expected, TOLERANCE);
        }
    }
}

#[test]
fn decode_hands_its_sink_one_frame_and_then_four_at_a_time() {
    for fixture in Fixture::all() {
        let (_, device) = &devices()[0];
        let latent = fixture.normalized_latent(device);
        let latent_frames = latent.dims()[1];
        let decoder = fixture.decoder(device);
        for tiling in [None, Some(fixture.tiling())] {
            let mut frames = Vec::new();
            let mut sink = |chunk: Tensor<4>| {
                frames.push(chunk.dims()[1]);
                ControlFlow::Continue(())
            };
            decoder.decode(latent.clone(), tiling, &mut sink).unwrap();
            let factor = fixture.config.temporal_factor();
            let mut expected = vec![factor; latent_frames];
            expected[0] = 1;
            assert_eq!(frames, expected, "{} {tiling:?}", fixture.name);
            assert_eq!(frames.iter().sum::<usize>(), fixture.config.frames(latent_frames));
        }
    }
}

#[test]
fn decode_stops_when_its_sink_does() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let mut calls = 0;
    let mut sink = |_| {
        calls += 1;
        ControlFlow::Break(())
    };
    let latent = fixture.normalized_latent(device);
    fixture.decoder(device).decode(latent, None, &mut sink).unwrap();
    assert_eq!(calls, 1);
}

#[test]
fn decode_in_f16_stays_near_the_exact_one() {
    let fixture = &Fixture::all()[0];
    for (name, device) in devices() {
        if !device.supports_dtype(DType::F16) {
            continue;
        }
        let video = |precision| {
            let weights = Weights::new(&fixture.weights, &device).with_conv_precision(precision);
            let decoder = WanVaeDecoder::load(&weights, &fixture.config).unwrap();
            values(decoder.decode_all(fixture.normalized_latent(&device), None).unwrap())
        };
        let error = max_error(&video(ConvPrecision::F16), &video(ConvPrecision::Exact));
        // Of the largest of many values, whose factors are rounded by up to 5e-4 a layer: 0.02 here.
        assert!(error > 0.0 && error < 5e-2, "{name}: f16 differs by {error}");
    }
}

#[test]
fn tiled_decode_matches_the_reference() {
    for fixture in Fixture::all() {
        for (device_name, device) in devices() {
            let decoder = fixture.decoder(&device);
            let latent = fixture.normalized_latent(&device);
            let video = decoder.decode_all(latent, Some(fixture.tiling())).unwrap();
            let frames = video.dims()[1];
            let ends = [0, frames - 1].map(|frame| video.clone().narrow(1, frame, 1)).to_vec();
            let expected = fixture.reference.f32("vae.tiled_decode.sample_first_last");
            let what = format!("{} {device_name} tiled", fixture.name);
            let ends = Tensor::cat(ends, 1).clamp(-1.0, 1.0);
            assert_matches(&what, &values(ends), &expected, TOLERANCE);
        }
    }
}

#[test]
fn tiles_larger_than_the_latent_change_nothing() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let decoder = fixture.decoder(device);
    let latent = fixture.normalized_latent(device);
    let tiling = Some(Tiling::standard(&fixture.config));
    let tiled = values(decoder.decode_all(latent.clone(), tiling).unwrap());
    assert_eq!(tiled, values(decoder.decode_all(latent, None).unwrap()));
}

#[test]
fn encode_matches_the_reference() {
    for fixture in Fixture::all() {
        for (device_name, device) in devices() {
            let what = |part: &str| format!("{} {device_name} {part}", fixture.name);
            let encoder = fixture.encoder(&device);
            let video = fixture.tensor("vae.encode.video", &device);
            let mut trace = |part: &str, value: &Tensor<4>| {
                let name = format!("vae.encode.{part}");
                if fixture.reference.has(&name) {
                    let expected = fixture.reference.f32(&name);
                    assert_matches(&what(&name), &values(value.clone()), &expected, TOLERANCE);
                }
            };
            let moments = encoder.encode_traced(video, &mut trace).unwrap();
            let mean = values(moments.mean());
            let expected = fixture.reference.f32("vae.encode.moments");
            assert_matches(&what("moments"), &values(moments.values), &expected, TOLERANCE);
            let expected = fixture.reference.f32("vae.encode.mean");
            assert_matches(&what("mean"), &mean, &expected, TOLERANCE);
        }
    }
}

#[test]
fn encode_normalized_undoes_what_decode_applies() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let encoder = fixture.encoder(device);
    let latent = encoder.encode_normalized(fixture.tensor("vae.encode.video", device)).unwrap();
    let per_channel: usize = latent.dims()[1..].iter().product();
    let restored: Vec<f32> = values(latent)
        .into_iter()
        .enumerate()
        .map(|(i, value)| {
            let channel = i / per_channel;
            value * fixture.config.latents_std[channel] + fixture.config.latents_mean[channel]
        })
        .collect();
    let error = max_error(&restored, &fixture.reference.f32("vae.encode.mean"));
    assert!(error <= TOLERANCE, "{error}");
}

#[test]
fn latents_are_those_of_their_tile_and_fade_into_the_next() {
    for fixture in Fixture::all() {
        for (device_name, device) in devices() {
            let tiling = Tiling::new(&fixture.config, [48, 48], [32, 32]).unwrap();
            let what = format!("{} {device_name}", fixture.name);
            encoded_tiles::check(&what, &fixture.encoder(&device), tiling, &device);
        }
    }
}

#[test]
fn tiles_larger_than_the_video_change_nothing() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let encoder = fixture.encoder(device);
    let video = fixture.tensor("vae.encode.video", device);
    let whole = values(encoder.encode_normalized(video.clone()).unwrap());
    for tiling in [None, Some(Tiling::standard(&fixture.config))] {
        let tiled = encoder.encode_normalized_in(video.clone(), tiling).unwrap();
        assert_eq!(values(tiled), whole);
    }
    let tiling = Tiling::new(&fixture.config, [8, 8], [8, 8]).unwrap();
    let odd = Tensor::zeros([3, 5, 16, 20], device);
    let error = encoder.encode_normalized_in(odd, Some(tiling)).unwrap_err().to_string();
    assert!(error.starts_with("the video is 20x16 pixels"), "{error}");
}

#[test]
fn encode_rejects_videos_it_cannot_cut_into_chunks() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let encoder = fixture.encoder(device);
    let message =
        |shape: [usize; 4]| encoder.encode(Tensor::zeros(shape, device)).unwrap_err().to_string();
    assert_eq!(message([3, 4, 16, 16]), "the video has 4 frames, expected a multiple of 4 plus 1");
    assert_eq!(
        message([3, 5, 16, 20]),
        "the video is 20x16 pixels, expected positive multiples of 8"
    );
}

#[test]
fn parameter_shapes_name_every_tensor_of_the_checkpoint_once() {
    for fixture in Fixture::all() {
        let mut listed = fixture.config.decoder_parameter_shapes();
        listed.extend(fixture.config.encoder_parameter_shapes());
        listed.sort();
        let stored: Vec<_> = fixture.weights.shapes().into_iter().collect();
        assert_eq!(listed, stored, "{}", fixture.name);
    }
}

#[test]
fn wan2_1_has_the_published_number_of_parameters() {
    let count = |shapes: Vec<(String, Vec<usize>)>| -> usize {
        shapes.into_iter().map(|(_, shape)| shape.into_iter().product::<usize>()).sum()
    };
    let config = WanVaeConfig::wan2_1();
    config.validate().unwrap();
    let decoder = count(config.decoder_parameter_shapes());
    assert_eq!(decoder + count(config.encoder_parameter_shapes()), 126_892_531);
    assert_eq!((decoder + 50_000) / 100_000, 733);
}

#[test]
fn decoder_and_encoder_load_only_their_own_half() {
    let folder = &fixture_folders("wan_")[0];
    let fixture = Fixture::open(folder);
    let (_, device) = &devices()[0];
    let weights = || FixtureWeights::open(&folder.join("vae"));
    let half = weights().without("encoder").without("quant_conv");
    WanVaeDecoder::load(&Weights::new(&half, device), &fixture.config).unwrap();
    let err = WanVaeEncoder::load(&Weights::new(&half, device), &fixture.config).unwrap_err();
    assert!(err.to_string().contains("\"encoder.conv_in.weight\" is missing"), "{err}");
    let half = weights().without("decoder").without("post_quant_conv");
    WanVaeEncoder::load(&Weights::new(&half, device), &fixture.config).unwrap();
}

/// A decoder narrower than the encoder, odd channels, time halved at other resolutions, portrait.
fn unusual_config() -> WanVaeConfig {
    let json = r#"{"base_dim": 3, "decoder_base_dim": 5, "z_dim": 2, "dim_mult": [1, 3, 2],
        "num_res_blocks": 1, "temperal_downsample": [true, false],
        "latents_mean": [0.5, -1.0], "latents_std": [2.0, 0.25]}"#;
    serde_json::from_str(json).unwrap()
}

#[test]
fn an_unusual_config_gives_the_same_video_and_latents_on_all_devices() {
    let config = unusual_config();
    let mut shapes = config.decoder_parameter_shapes();
    shapes.extend(config.encoder_parameter_shapes());
    let source = FixtureWeights::synthetic(shapes);
    let [cpu, wgpu] = devices().map(|(name, device)| {
        let weights = Weights::new(&source, &device);
        let latent: Vec<f32> = (0..2 * 4 * 5 * 3).map(|i| (0.7 * i as f32).sin()).collect();
        let latent = Tensor::from_data(TensorData::new(latent, [2, 4, 5, 3]), &device);
        let decoder = WanVaeDecoder::load(&weights, &config).unwrap();
        let video = decoder.decode_all(latent, None).unwrap();
        assert_eq!(video.dims(), [3, 7, 20, 12], "{name}");
        let encoder = WanVaeEncoder::load(&weights, &config).unwrap();
        let encoded = encoder.encode_normalized(video.clone()).unwrap();
        assert_eq!(encoded.dims(), [2, 4, 5, 3], "{name}");
        [values(video), values(encoded)]
    });
    for (cpu, wgpu) in cpu.iter().zip(&wgpu) {
        assert_matches("wgpu against cpu", wgpu, cpu, TOLERANCE);
        assert!(cpu.iter().any(|value| value.abs() > 0.01 && value.abs() < 0.99));
    }
}

#[test]
fn config_names_the_key_it_cannot_honor() {
    let cases = [
        (r#"{"is_residual": true}"#, "\"is_residual\" is true"),
        (r#"{"patch_size": 2}"#, "\"patch_size\" is 2"),
        (r#"{"attn_scales": [0.5]}"#, "\"attn_scales\" is [0.5]"),
        (r#"{"z_dim": 4}"#, "\"latents_mean\" is"),
        (r#"{"z_dim": 0}"#, "\"z_dim\" is 0"),
        (r#"{"base_dim": 1000000000000}"#, "\"base_dim\" is 1000000000000"),
        (r#"{"decoder_base_dim": 0}"#, "\"decoder_base_dim\" is 0"),
        (r#"{"base_dim": 1, "dim_mult": [1, 1, 1, 1]}"#, "\"decoder_base_dim\" is 1"),
        (r#"{"dim_mult": []}"#, "\"dim_mult\" is []"),
        (r#"{"dim_mult": [1, 0, 4, 4]}"#, "\"dim_mult\" is [1, 0, 4, 4]"),
        (r#"{"num_res_blocks": 0}"#, "\"num_res_blocks\" is 0"),
        (r#"{"temperal_downsample": [true]}"#, "\"temperal_downsample\" is [true]"),
        (r#"{"in_channels": 12}"#, "\"in_channels\" is 12"),
        (r#"{"out_channels": 12}"#, "\"out_channels\" is 12"),
        (r#"{"scale_factor_spatial": 16}"#, "\"scale_factor_spatial\" is 16"),
        (r#"{"scale_factor_temporal": 8}"#, "\"scale_factor_temporal\" is 8"),
        (
            r#"{"z_dim": 1, "latents_mean": [0.0], "latents_std": [0.0]}"#,
            "\"latents_std\" is [0.0]",
        ),
    ];
    for (json, expected) in cases {
        let config: WanVaeConfig = serde_json::from_str(json).unwrap();
        let message = config.validate().unwrap_err().to_string();
        assert!(message.starts_with(expected), "{json}: {message}");
    }
}

#[test]
fn an_empty_config_is_that_of_wan2_1() {
    let config: WanVaeConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(config, WanVaeConfig::wan2_1());
    assert_eq!((config.spatial_factor(), config.temporal_factor(), config.frames(21)), (8, 4, 81));
}

#[test]
fn tiling_rejects_sizes_that_are_not_whole_latents() {
    let config = WanVaeConfig::wan2_1();
    let message = |size, stride| Tiling::new(&config, size, stride).unwrap_err().to_string();
    assert!(message([100, 128], [64, 64]).starts_with("\"tile_sample_min_height\" is 100"));
    assert!(message([128, 128], [64, 0]).starts_with("\"tile_sample_stride_width\" is 0"));
    assert!(message([64, 64], [64, 72]).starts_with("\"tile_sample_stride_width\" is 72"));
    let standard = Tiling::new(&config, [256, 256], [192, 192]).unwrap();
    assert_eq!(standard, Tiling::standard(&config));
}

#[test]
fn memory_estimates_follow_from_the_largest_tensors() {
    let config = WanVaeConfig::wan2_1();
    // 96 channels of four frames at full size.
    assert_eq!(largest_tensor_elements(&config, 60, 104), 96 * 4 * 480 * 832);
    // Histories of 96 channels at full size alone are 7 convolutions of two frames.
    let bytes = decode_peak_bytes(&config, 60, 104);
    assert!(bytes > 7 * 2 * 96 * 480 * 832 * 4 && bytes < 7 << 30, "{bytes}");
    assert_eq!(decode_peak_bytes(&config, usize::MAX, usize::MAX), u64::MAX);
}

#[test]
fn tiling_within_limits_is_chosen_only_when_the_frame_exceeds_them() {
    let config = WanVaeConfig::wan2_1();
    let limit_128_mib = (128 << 20) / 4;
    assert_eq!(Tiling::within(&config, [32, 32], limit_128_mib, u64::MAX), None);
    let standard = Some(Tiling::standard(&config));
    assert_eq!(Tiling::within(&config, [60, 104], limit_128_mib, u64::MAX), standard);
    let smallest = Tiling::new(&config, [64, 64], [32, 32]).unwrap();
    assert_eq!(Tiling::within(&config, [60, 104], 1, 1), Some(smallest));
}
