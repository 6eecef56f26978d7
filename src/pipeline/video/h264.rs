//! H.264 samples for a container: Main profile, 4:2:0, BT.709 limited range, nearly lossless.

use super::color::{BT709, planes_420_from_rgb};
use super::frames::{Frames, Rate};
use super::output::Failure;
use rusty_h264_common::nal::{emulation_prevent_into, emulation_unprevent, split_annex_b};
use rusty_h264_common::{BitReader, BitWriter, Profile, YuvFrame};
use rusty_h264_encoder::{Encoder, EncoderConfig, Preset};

/// Quantization parameter of predicted frames, 0..=51; luma keeps 42 dB on pixel-sized detail and
/// 52 dB on smooth pictures.
const QP: u8 = 18;
/// Seconds between key frames: what a player may have to decode to seek.
const KEYFRAME_SECONDS: f64 = 2.0;
/// Macroblocks in a picture of level 5.2, the highest that decoders commonly accept.
const MAX_MACROBLOCKS: usize = 36_864;
/// Macroblocks across or down a picture of that level: `sqrt(8 · 36 864)`.
const MAX_MACROBLOCKS_ACROSS: usize = 543;

/// Frames that prediction may refer to.
const REFERENCE_FRAMES: u32 = 3;

const NAL_IDR: u8 = 5;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;

/// An encoded video.
#[derive(Debug)]
pub(super) struct Stream {
    /// Width in pixels, even.
    pub(super) width: usize,
    /// Height in pixels, even.
    pub(super) height: usize,
    /// Sequence parameter set, a NAL unit.
    pub(super) sps: Vec<u8>,
    /// Picture parameter set, a NAL unit.
    pub(super) pps: Vec<u8>,
    /// One sample per frame, in the order shown.
    pub(super) samples: Vec<Sample>,
}

/// One encoded frame.
#[derive(Debug)]
pub(super) struct Sample {
    /// NAL units, each behind its length as four big-endian bytes.
    pub(super) bytes: Vec<u8>,
    /// Whether decoding can start here.
    pub(super) is_key: bool,
}

/// Encodes `frames`; an odd width or height grows by one column or row that repeats the last.
pub(super) fn encode(frames: &Frames) -> Result<Stream, Failure> {
    let [height, width] =
        [frames.height(), frames.width()].map(|length| length.next_multiple_of(2));
    let pictures: Vec<YuvFrame> = frames
        .iter()
        .map(|rgb| {
            let planes = planes_420_from_rgb(rgb, [frames.height(), frames.width()], BT709);
            YuvFrame { width, height, y: planes.y, u: planes.cb, v: planes.cr }
        })
        .collect();
    let units = Encoder::new(config(frames, width, height)?)
        .and_then(|encoder| encoder.encode_all(&pictures))
        .map_err(|error| Failure::Encoder(error.to_string()))?;
    stream_from_units(&units, frames.rate(), width, height)
}

fn config(frames: &Frames, width: usize, height: usize) -> Result<EncoderConfig, Failure> {
    let mut config = EncoderConfig::new(width, height);
    let (across, down) = (config.mb_width(), config.mb_height());
    if across.max(down) > MAX_MACROBLOCKS_ACROSS || across * down > MAX_MACROBLOCKS {
        return Err(Failure::Limit(format!(
            "H.264 decoders accept up to 4096x2304 pixels in all and 8688 a side, this video has \
             {width}x{height}; a folder of PNG files has no such limit"
        )));
    }
    // Main is the widest supported profile that has CABAC; the 8x8 transform would need High.
    config.profile = Profile::Main;
    config.cabac = true;
    config.transform_8x8 = false;
    config.preset = Preset::Balanced;
    config.qp = QP;
    config.num_ref_frames = REFERENCE_FRAMES;
    config.framerate = frames.fps() as f32;
    config.gop_size = (KEYFRAME_SECONDS * frames.fps()).ceil() as u32;
    // The encoder raises the level for the size of the picture; the rate is left to its user.
    config.level_idc = level_from_rate((across * down) as f64 * frames.fps());
    Ok(config)
}

/// The lowest level, times ten, that allows this many macroblocks per second (H.264 table A-1).
fn level_from_rate(macroblocks_per_second: f64) -> u8 {
    const LEVELS: [(u8, f64); 7] = [
        (30, 40_500.0),
        (31, 108_000.0),
        (32, 216_000.0),
        (40, 245_760.0),
        (42, 522_240.0),
        (50, 589_824.0),
        (51, 983_040.0),
    ];
    LEVELS.iter().find(|(_, most)| macroblocks_per_second <= *most).map_or(52, |(level, _)| *level)
}

/// Takes the parameter sets out of the Annex B access `units`; a container keeps them once.
fn stream_from_units(
    units: &[Vec<u8>],
    rate: Rate,
    width: usize,
    height: usize,
) -> Result<Stream, Failure> {
    let (mut sps, mut pps) = (Vec::new(), Vec::new());
    let mut samples = Vec::with_capacity(units.len());
    for unit in units {
        let mut sample = Sample { bytes: Vec::with_capacity(unit.len()), is_key: false };
        for nal in split_annex_b(unit) {
            match nal[0] & 0x1f {
                NAL_SPS => sps = with_usability(nal, rate)?,
                NAL_PPS => pps = nal.to_vec(),
                kind => {
                    sample.is_key |= kind == NAL_IDR;
                    sample.bytes.extend((nal.len() as u32).to_be_bytes());
                    sample.bytes.extend(nal);
                }
            }
        }
        samples.push(sample);
    }
    Ok(Stream { width, height, sps, pps, samples })
}

/// The sequence parameter set `nal` with video usability information, which the encoder omits:
/// square pixels, color, frame rate, and that frames are shown in the order coded, without which
/// players hold back as many frames as the level allows.
fn with_usability(nal: &[u8], rate: Rate) -> Result<Vec<u8>, Failure> {
    let broken = || Failure::Encoder("unexpected sequence parameter set".to_string());
    let (&header, payload) = nal.split_first().ok_or_else(broken)?;
    let payload = emulation_unprevent(payload);
    // The syntax ends with vui_parameters_present_flag = 0, then a stop bit and zeros.
    let zeros = payload.last().filter(|last| **last != 0).ok_or_else(broken)?.trailing_zeros();
    let flag_at = (payload.len() * 8).checked_sub(zeros as usize + 2).ok_or_else(broken)?;
    let mut reader = BitReader::new(&payload);
    let mut writer = BitWriter::new();
    for _ in 0..flag_at {
        writer.write_bit(reader.read_bit().map_err(|_| broken())?);
    }
    if reader.read_bit() != Ok(false) {
        return Err(broken());
    }
    write_usability(&mut writer, rate);
    writer.rbsp_trailing_bits();
    let mut out = vec![header];
    emulation_prevent_into(&writer.into_bytes(), &mut out);
    Ok(out)
}

/// Video usability information, H.264 annex E.1.1, with its presence flag.
fn write_usability(writer: &mut BitWriter, rate: Rate) {
    const BT709_CODE: u32 = 1;
    writer.write_bit(true); // vui_parameters_present_flag
    writer.write_bit(true); // aspect_ratio_info_present_flag
    writer.write_bits(1, 8); // aspect_ratio_idc: square
    writer.write_bit(false); // overscan_info_present_flag
    writer.write_bit(true); // video_signal_type_present_flag
    writer.write_bits(5, 3); // video_format: unspecified
    writer.write_bit(false); // video_full_range_flag
    writer.write_bit(true); // colour_description_present_flag
    for _primaries_transfer_matrix in 0..3 {
        writer.write_bits(BT709_CODE, 8);
    }
    writer.write_bit(false); // chroma_loc_info_present_flag
    writer.write_bit(true); // timing_info_present_flag
    writer.write_bits(rate.seconds, 32); // num_units_in_tick; a tick is half a frame
    writer.write_bits(2 * rate.frames, 32); // time_scale
    writer.write_bit(true); // fixed_frame_rate_flag
    writer.write_bit(false); // nal_hrd_parameters_present_flag
    writer.write_bit(false); // vcl_hrd_parameters_present_flag
    writer.write_bit(false); // pic_struct_present_flag
    writer.write_bit(true); // bitstream_restriction_flag
    writer.write_bit(true); // motion_vectors_over_pic_boundaries_flag
    writer.write_ue(0); // max_bytes_per_pic_denom: no limit
    writer.write_ue(0); // max_bits_per_mb_denom: no limit
    writer.write_ue(15); // log2_max_mv_length_horizontal
    writer.write_ue(15); // log2_max_mv_length_vertical
    writer.write_ue(0); // max_num_reorder_frames
    writer.write_ue(REFERENCE_FRAMES); // max_dec_frame_buffering
}
