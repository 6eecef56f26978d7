//! The CogVideoX autoencoder against reference tensors, on the CPU and on wgpu.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;
#[path = "common/encoded_tiles.rs"]
mod encoded_tiles;
#[path = "common/weights.rs"]
mod weights;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{Reference, assert_matches, devices, fixture_folders, max_error};
use qvgen::models::cogvideox_vae::{
    CogVideoXVaeConfig, CogVideoXVaeDecoder, CogVideoXVaeEncoder, decode_ops, decode_peak_bytes,
    largest_tensor_elements,
};
use qvgen::models::{Encoder, Tiling};
use qvgen::nn::{ConvPrecision, Limits, Weights};
use std::ops::ControlFlow;
use std::path::Path;
use weights::FixtureWeights;

/// Largest difference, relative to the root mean square.
const TOLERANCE: f32 = 1e-4;

/// A checkpoint with its reference results.
struct Fixture {
    name: String,
    config: CogVideoXVaeConfig,
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
        fixture_folders("cogvideox_").iter().map(|folder| Self::open(folder)).collect()
    }

    fn decoder(&self, device: &Device) -> CogVideoXVaeDecoder {
        CogVideoXVaeDecoder::load(&Weights::new(&self.weights, device), &self.config).unwrap()
    }

    fn encoder(&self, device: &Device) -> CogVideoXVaeEncoder {
        CogVideoXVaeEncoder::load(&Weights::new(&self.weights, device), &self.config).unwrap()
    }

    /// Tensor `name` of batch one, without the batch axis.
    fn tensor(&self, name: &str, device: &Device) -> Tensor<4> {
        let shape = self.reference.shape(name);
        assert_eq!((shape.len(), shape[0]), (5, 1), "{name}");
        let shape: [usize; 4] = shape[1..].try_into().unwrap();
        Tensor::from_data(TensorData::new(self.reference.f32(name), shape), device)
    }

    /// The reference latent as the denoiser would hand it over.
    fn scaled_latent(&self, device: &Device) -> Tensor<4> {
        self.tensor("vae.decode.latent", device) * self.config.scaling_factor
    }

    /// The tiling of the reference.
    fn tiling(&self) -> Tiling {
        let json = &self.reference.json["vae_tiling"];
        let of = |key: &str| ["height", "width"].map(|axis| &json[format!("tile_{key}_{axis}")]);
        let pixels = of("sample_min").map(|pixels| pixels.as_u64().unwrap() as usize);
        let overlap = of("overlap_factor").map(|share| share.as_f64().unwrap());
        Tiling::overlapping(&self.config, pixels, overlap).unwrap()
    }

    /// Lengths of the chunks that the reference latent is decoded in.
    fn latent_chunks(&self) -> Vec<usize> {
        let frames = self.reference.shape("vae.decode.latent")[2];
        let mut chunks = vec![2; (frames / 2).max(1)];
        chunks[0] = frames - 2 * (chunks.len() - 1);
        chunks
    }
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// One frame at a time, which is the least, or all at once.
const LIMITS: [usize; 2] = [1, usize::MAX];

#[test]
fn decode_matches_the_reference_chunk_by_chunk() {
    for fixture in Fixture::all() {
        for (device_name, device) in devices() {
            for max_elements in LIMITS {
                let decoder = fixture.decoder(&device).with_limits(Limits { max_elements });
                let latent = fixture.scaled_latent(&device);
                let (mut stream, mut chunks, mut first) = (decoder.stream(), Vec::new(), 0);
                for (k, frames) in fixture.latent_chunks().into_iter().enumerate() {
                    let mut observe = |part: &str, value: &Tensor<4>| {
                        let name = format!("vae.decode.chunk{k}.{part}");
                        if fixture.reference.has(&name) {
                            let what = format!("{} {device_name} {name}", fixture.name);
                            let expected = fixture.reference.f32(&name);
                            assert_matches(&what, &values(value.clone()), &expected, TOLERANCE);
                        }
                    };
                    let chunk = latent.clone().narrow(1, first, frames);
                    first += frames;
                    chunks.push(stream.decode_traced(chunk, &mut observe));
                }
                let sizes: Vec<i64> = chunks.iter().map(|chunk| chunk.dims()[1] as i64).collect();
                assert_eq!(sizes, fixture.reference.i64("vae.decode.chunk_frames"));
                let expected = fixture.reference.f32("vae.decode.sample");
                let what = format!("{} {device_name} sample", fixture.name);
                assert_matches(&what, &values(Tensor::cat(chunks, 1)), &expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn decode_hands_its_sink_a_chunk_at_a_time() {
    for fixture in Fixture::all() {
        let (_, device) = &devices()[0];
        let latent = fixture.scaled_latent(device);
        let latent_frames = latent.dims()[1];
        let decoder = fixture.decoder(device);
        for tiling in [None, Some(fixture.tiling())] {
            let mut frames = Vec::new();
            let mut sink = |chunk: Tensor<4>| {
                frames.push(chunk.dims()[1] as i64);
                ControlFlow::Continue(())
            };
            decoder.decode(latent.clone(), tiling, &mut sink).unwrap();
            let expected = fixture.reference.i64("vae.decode.chunk_frames");
            assert_eq!(frames, expected, "{} {tiling:?}", fixture.name);
            let total = usize::try_from(expected.iter().sum::<i64>()).unwrap();
            assert_eq!(total, fixture.config.frames(latent_frames), "{}", fixture.name);
        }
    }
}

#[test]
fn decode_stops_where_its_sink_does() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let latent = fixture.scaled_latent(device);
    let latent = Tensor::cat(vec![latent.clone(), latent], 1);
    let mut calls = 0;
    let mut sink = |_| {
        calls += 1;
        ControlFlow::Break(())
    };
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
            let decoder = CogVideoXVaeDecoder::load(&weights, &fixture.config).unwrap();
            values(decoder.decode_all(fixture.scaled_latent(&device), None).unwrap())
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
            let latent = fixture.scaled_latent(&device);
            let video = decoder.decode_all(latent, Some(fixture.tiling())).unwrap();
            let frames = video.dims()[1];
            let ends = [0, frames - 1].map(|frame| video.clone().narrow(1, frame, 1)).to_vec();
            let expected = fixture.reference.f32("vae.tiled_decode.sample_first_last");
            let what = format!("{} {device_name} tiled", fixture.name);
            assert_matches(&what, &values(Tensor::cat(ends, 1)), &expected, TOLERANCE);
        }
    }
}

#[test]
fn tiles_larger_than_the_latent_change_nothing() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let decoder = fixture.decoder(device);
    let latent = fixture.scaled_latent(device);
    let tiling = Some(Tiling::standard(&fixture.config));
    let tiled = values(decoder.decode_all(latent.clone(), tiling).unwrap());
    assert_eq!(tiled, values(decoder.decode_all(latent, None).unwrap()));
}

#[test]
fn encode_matches_the_reference() {
    for fixture in Fixture::all() {
        for (device_name, device) in devices() {
            for max_elements in LIMITS {
                let what = |part: &str| format!("{} {device_name} {part}", fixture.name);
                let encoder = fixture.encoder(&device).with_limits(Limits { max_elements });
                let video = fixture.tensor("vae.encode.video", &device);
                let mut observe = |part: &str, value: &Tensor<4>| {
                    let name = format!("vae.encode.{part}");
                    if fixture.reference.has(&name) {
                        let expected = fixture.reference.f32(&name);
                        assert_matches(&what(&name), &values(value.clone()), &expected, TOLERANCE);
                    }
                };
                let moments = encoder.encode_traced(video, &mut observe).unwrap();
                let mean = values(moments.mean());
                let expected = fixture.reference.f32("vae.encode.moments");
                assert_matches(&what("moments"), &values(moments.values), &expected, TOLERANCE);
                let expected = fixture.reference.f32("vae.encode.mean");
                assert_matches(&what("mean"), &mean, &expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn encode_normalized_undoes_what_decode_applies() {
    let fixture = &Fixture::all()[0];
    let (_, device) = &devices()[0];
    let encoder = fixture.encoder(device);
    let latent = encoder.encode_normalized(fixture.tensor("vae.encode.video", device)).unwrap();
    let restored = values(latent / fixture.config.scaling_factor);
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
    assert!(message([3, 7, 16, 16]).starts_with("the video has 7 frames, expected "));
    assert!(message([3, 0, 16, 16]).starts_with("the video has 0 frames, expected "));
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
        assert_eq!(listed, fixture.weights.shapes(), "{}", fixture.name);
    }
}

#[test]
fn cogvideox_has_the_published_number_of_parameters() {
    let count = |shapes: Vec<(String, Vec<usize>)>| -> usize {
        shapes.into_iter().map(|(_, shape)| shape.into_iter().product::<usize>()).sum()
    };
    let config = CogVideoXVaeConfig::cogvideox_2b();
    config.validate().unwrap();
    let decoder = count(config.decoder_parameter_shapes());
    assert_eq!(decoder + count(config.encoder_parameter_shapes()), 215_583_907);
    assert_eq!((decoder + 50_000) / 100_000, 1234);
}

#[test]
fn decoder_and_encoder_load_only_their_own_half() {
    let folder = &fixture_folders("cogvideox_")[0];
    let fixture = Fixture::open(folder);
    let (_, device) = &devices()[0];
    let half = FixtureWeights::open(&folder.join("vae")).without("encoder");
    CogVideoXVaeDecoder::load(&Weights::new(&half, device), &fixture.config).unwrap();
    let err = CogVideoXVaeEncoder::load(&Weights::new(&half, device), &fixture.config).unwrap_err();
    let message = err.to_string();
    assert!(message.starts_with("tensor \"encoder.") && message.contains(" is missing"), "{err}");
    let half = FixtureWeights::open(&folder.join("vae")).without("decoder");
    CogVideoXVaeEncoder::load(&Weights::new(&half, device), &fixture.config).unwrap();
}

/// Three resolutions, one change in time, other widths, an epsilon that shows.
fn unusual_config() -> CogVideoXVaeConfig {
    let json = r#"{"block_out_channels": [3, 6, 9], "latent_channels": 2, "layers_per_block": 2,
        "norm_num_groups": 3, "norm_eps": 0.01, "temporal_compression_ratio": 2,
        "scaling_factor": 0.5,
        "down_block_types": ["CogVideoXDownBlock3D", "CogVideoXDownBlock3D", "CogVideoXDownBlock3D"],
        "up_block_types": ["CogVideoXUpBlock3D", "CogVideoXUpBlock3D", "CogVideoXUpBlock3D"]}"#;
    serde_json::from_str(json).unwrap()
}

#[test]
fn an_unusual_config_gives_the_same_video_and_latents_on_all_devices_and_in_all_runs() {
    let config = unusual_config();
    let mut shapes = config.decoder_parameter_shapes();
    shapes.extend(config.encoder_parameter_shapes());
    let source = FixtureWeights::synthetic(shapes);
    for (latent_frames, frames) in [(1, 1), (4, 8), (5, 9)] {
        let mut all = Vec::new();
        for (name, device) in devices() {
            for max_elements in [1, 2 * 9 * 20 * 12, usize::MAX] {
                let weights = Weights::new(&source, &device);
                let latent = (0..2 * latent_frames * 5 * 3).map(|i| (0.7 * i as f32).sin());
                let data = TensorData::new(latent.collect(), [2, latent_frames, 5, 3]);
                let limits = Limits { max_elements };
                let decoder = CogVideoXVaeDecoder::load(&weights, &config).unwrap();
                let latent = Tensor::from_data(data, &device);
                let video = decoder.with_limits(limits).decode_all(latent, None).unwrap();
                assert_eq!(video.dims(), [3, frames, 20, 12], "{name}");
                let encoder = CogVideoXVaeEncoder::load(&weights, &config).unwrap();
                let encoder = encoder.with_limits(limits);
                let encoded = encoder.encode_normalized(video.clone()).unwrap();
                assert_eq!(encoded.dims(), [2, latent_frames, 5, 3], "{name}");
                all.push([values(video), values(encoded)]);
            }
        }
        for other in &all[1..] {
            for (other, first) in other.iter().zip(&all[0]) {
                assert_matches("against the first", other, first, TOLERANCE);
                assert!(first.iter().any(|value| value.abs() > 0.01));
            }
        }
    }
}

#[test]
fn config_names_the_key_it_cannot_honor() {
    let cases = [
        (r#"{"block_out_channels": []}"#, "\"block_out_channels\" is []"),
        (r#"{"block_out_channels": [128, 0, 256, 512]}"#, "\"block_out_channels\" is"),
        (r#"{"latent_channels": 0}"#, "\"latent_channels\" is 0"),
        (r#"{"layers_per_block": 1000}"#, "\"layers_per_block\" is 1000"),
        (r#"{"norm_num_groups": 0}"#, "\"norm_num_groups\" is 0"),
        (r#"{"norm_num_groups": 48}"#, "\"norm_num_groups\" is 48"),
        (r#"{"sample_height": 0}"#, "\"sample_height\" is 0"),
        (r#"{"temporal_compression_ratio": 3}"#, "\"temporal_compression_ratio\" is 3"),
        (r#"{"temporal_compression_ratio": 16}"#, "\"temporal_compression_ratio\" is 16"),
        (r#"{"down_block_types": ["CogVideoXDownBlock3D"]}"#, "\"down_block_types\" is"),
        (r#"{"up_block_types": ["A", "B", "C", "D"]}"#, "\"up_block_types\" is"),
        (r#"{"in_channels": 12}"#, "\"in_channels\" is 12"),
        (r#"{"out_channels": 12}"#, "\"out_channels\" is 12"),
        (r#"{"act_fn": "gelu"}"#, "\"act_fn\" is gelu"),
        (r#"{"shift_factor": 0.1}"#, "\"shift_factor\" is a number"),
        (r#"{"latents_mean": [0.0]}"#, "\"latents_mean\" is a list"),
        (r#"{"latents_std": [1.0]}"#, "\"latents_std\" is a list"),
        (r#"{"use_quant_conv": true}"#, "\"use_quant_conv\" is true"),
        (r#"{"use_post_quant_conv": true}"#, "\"use_post_quant_conv\" is true"),
        (r#"{"norm_eps": 0.0}"#, "\"norm_eps\" is 0"),
        (r#"{"scaling_factor": 0.0}"#, "\"scaling_factor\" is 0"),
    ];
    for (json, expected) in cases {
        let config: CogVideoXVaeConfig = serde_json::from_str(json).unwrap();
        let message = config.validate().unwrap_err().to_string();
        assert!(message.starts_with(expected), "{json}: {message}");
    }
}

#[test]
fn an_empty_config_is_that_of_cogvideox_2b() {
    let config: CogVideoXVaeConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(config, CogVideoXVaeConfig::cogvideox_2b());
    assert_eq!((config.spatial_factor(), config.temporal_factor()), (8, 4));
    // An even number of latent frames becomes three frames more than what was encoded.
    assert_eq!([1, 2, 3, 4, 13, 21].map(|frames| config.frames(frames)), [1, 8, 9, 16, 49, 81]);
}

#[test]
fn tiles_overlap_as_those_of_the_reference() {
    let config = CogVideoXVaeConfig::cogvideox_2b();
    let standard = Tiling::overlapping(&config, [240, 360], [1.0 / 6.0, 1.0 / 5.0]).unwrap();
    assert_eq!(standard, Tiling::standard(&config));
    assert_eq!(standard, Tiling::new(&config, [240, 360], [200, 288]).unwrap());
    let message = |size, share| Tiling::overlapping(&config, size, share).unwrap_err().to_string();
    assert!(message([100, 128], [0.5; 2]).starts_with("\"tile_sample_min_height\" is 100"));
    assert!(message([128, 128], [0.5, 1.0]).starts_with("\"tile_overlap_factor_width\" is 1"));
    assert!(message([128, 128], [0.3, 0.5]).starts_with("\"tile_overlap_factor_height\" is 0.3"));
}

#[test]
fn memory_estimates_follow_from_the_largest_tensors() {
    let config = CogVideoXVaeConfig::cogvideox_2b();
    // What a convolution of 256 channels at full size remembers.
    assert_eq!(largest_tensor_elements(&config, 60, 90), 256 * 2 * 480 * 720);
    // Two chunks of nine frames in 128 channels, and less than four more.
    let chunk = 128 * 9 * 480 * 720 * 4;
    let bytes = decode_peak_bytes(&config, 60, 90);
    assert!(bytes > 2 * chunk && bytes < 8 * chunk, "{bytes}");
    assert_eq!(decode_peak_bytes(&config, usize::MAX, usize::MAX), u64::MAX);
}

#[test]
fn videos_are_encoded_in_the_largest_tiles_that_a_device_can_bind() {
    let config = CogVideoXVaeConfig::cogvideox_2b();
    let within = |elements| Tiling::within_encoding(&config, [49, 480, 720], elements);
    // The history of the first convolution of 128 channels: two whole frames, or two of a tile.
    let most = 128 * 2 * 480 * 720;
    assert_eq!((within(most), within(most - 1).is_some()), (None, true));
    let tile = |size, stride| Some(Tiling::new(&config, [size; 2], [stride; 2]).unwrap());
    assert_eq!(within(128 * 2 * 256 * 256), tile(256, 192));
    assert_eq!(within(1), tile(64, 32));
}

#[test]
fn decoding_49_frames_of_480_by_720_takes_309_tera_operations() {
    let config = CogVideoXVaeConfig::cogvideox_2b();
    let chunks = [3, 2, 2, 2, 2, 2];
    let ops: u64 = chunks.iter().map(|&frames| decode_ops(&config, frames, 60, 90).total()).sum();
    // 315 in the reference, which enlarges latents and frames before it convolves them.
    assert_eq!(ops / 1_000_000_000_000, 309);
}
