//! Rows of floats to packed codes.

use super::form::{Form, Task};
use super::parallel::for_each;
use crate::kernels::GRID_WORDS;
use crate::quant::{
    Bits, CODES_PER_BLOCK, Calibration, Grid, Scheme, TokenRange, TokenSpec, WeightSpec, calibrate,
    padded_len, range, words_per_row,
};

/// Values reduced side by side.
const LANES: usize = 16;
/// Values below which starting other processors takes longer than the work.
const PARALLEL_LEN: usize = 1 << 15;

/// Codes and grids, in the layout of [`PackedTensor`](crate::kernels::PackedTensor), of
/// activations `[tokens, in_features]`: exactly those of
/// [`quant::quantize_tokens`](crate::quant::quantize_tokens()).
///
/// # Panics
///
/// If `x` is no whole number of rows.
pub fn quantize_tokens(
    form: Form,
    x: &[f32],
    in_features: usize,
    spec: TokenSpec,
) -> (Vec<u32>, Vec<u32>) {
    let TokenSpec { bits, scheme, range } = spec;
    let range = Range::Tokens(range);
    quantize(form, x, in_features, in_features, Target { bits, scheme, range })
}

/// The same of a weight `[out_features, in_features]`: exactly those of
/// [`quant::quantize_weight`](crate::quant::quantize_weight()).
///
/// # Panics
///
/// If `w` is no whole number of rows, or the group size is no multiple of 32.
pub fn quantize_weight(
    form: Form,
    w: &[f32],
    in_features: usize,
    spec: WeightSpec,
) -> (Vec<u32>, Vec<u32>) {
    let WeightSpec { bits, scheme, group_size, calibration } = spec;
    let group_size = group_size.unwrap_or(in_features).min(in_features);
    assert!(
        group_size == in_features || group_size.is_multiple_of(CODES_PER_BLOCK),
        "group size {group_size} is no multiple of {CODES_PER_BLOCK}"
    );
    let range = Range::Calibrated(calibration);
    quantize(form, w, in_features, group_size, Target { bits, scheme, range })
}

/// Where the range of a group comes from.
#[derive(Clone, Copy)]
enum Range {
    Calibrated(Calibration),
    Tokens(TokenRange),
}

/// What values become.
#[derive(Clone, Copy)]
struct Target {
    bits: Bits,
    scheme: Scheme,
    range: Range,
}

impl Target {
    /// The grid of a group.
    #[inline(always)]
    fn grid(self, values: &[f32]) -> Grid {
        let Self { bits, scheme, range } = self;
        let (min, max) = match range {
            Range::Calibrated(Calibration::Mse) => {
                return calibrate(Calibration::Mse, scheme, bits, values);
            }
            Range::Calibrated(Calibration::MinMax) => extremes(values),
            Range::Tokens(TokenRange::Static { min, max }) => (min, max),
            Range::Tokens(TokenRange::Dynamic { clip_upper, clip_lower }) => {
                if !are_finite(values) {
                    // Not a number in, not a number out: it must show in every product.
                    return Grid { scale: f32::NAN, zero_point: 0.0 };
                }
                let (min, max) = extremes(values);
                (clip_lower * min, clip_upper * max)
            }
        };
        Grid::from_range(scheme, bits, min, max)
    }
}

#[inline(always)]
fn are_finite(values: &[f32]) -> bool {
    let largest = |lanes: [u32; LANES], values: &[f32]| {
        let mut lanes = lanes;
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = (*lane).max(value.to_bits() & 0x7FFF_FFFF);
        }
        lanes
    };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let lanes = chunks.iter().fold([0; LANES], |lanes, values| largest(lanes, values));
    largest(lanes, rest).iter().all(|&bits| f32::from_bits(bits).is_finite())
}

/// Smallest and largest value, as [`range`] finds them.
#[inline(always)]
fn extremes(values: &[f32]) -> (f32, f32) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let [first, ..] = values else { return range(values) };
    if first.is_nan() {
        return range(values);
    }
    // In this order a comparison that fails, as with NaN, changes nothing, and each is one
    // instruction.
    let (mut min, mut max) = ([*first; LANES], [*first; LANES]);
    for values in chunks {
        for lane in 0..LANES {
            min[lane] = if values[lane] < min[lane] { values[lane] } else { min[lane] };
            max[lane] = if values[lane] > max[lane] { values[lane] } else { max[lane] };
        }
    }
    let min = min.iter().chain(rest).copied().fold(*first, f32::min);
    let max = max.iter().chain(rest).copied().fold(*first, f32::max);
    (min, max)
}

fn quantize(
    form: Form,
    values: &[f32],
    in_features: usize,
    group_size: usize,
    target: Target,
) -> (Vec<u32>, Vec<u32>) {
    assert!(
        in_features > 0 && group_size > 0 && values.len().is_multiple_of(in_features),
        "{} values are no rows of {in_features}",
        values.len()
    );
    let rows = values.len() / in_features;
    let words = words_per_row(target.bits, in_features);
    let grid_words = in_features.div_ceil(group_size) * GRID_WORDS;
    let mut codes = vec![0; rows * words];
    let mut grids = vec![0; rows * grid_words];
    let outputs = codes.chunks_mut(words).zip(grids.chunks_mut(grid_words));
    let rows = values.chunks(in_features).zip(outputs).collect();
    for_each(values.len() >= PARALLEL_LEN, rows, |_, (values, (codes, grids))| {
        form.run(Row { values, group_size, target, codes, grids });
    });
    (codes, grids)
}

struct Row<'a> {
    values: &'a [f32],
    group_size: usize,
    target: Target,
    codes: &'a mut [u32],
    grids: &'a mut [u32],
}

impl Task for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(self) {
        let Self { values, group_size, target, codes: words, grids } = self;
        let mut codes = vec![0_u8; padded_len(values.len())];
        let groups = values.chunks(group_size).zip(codes.chunks_mut(group_size));
        for ((values, codes), words) in groups.zip(grids.as_chunks_mut::<GRID_WORDS>().0) {
            let grid = target.grid(values);
            for (code, &value) in codes.iter_mut().zip(values) {
                *code = grid.code(target.scheme, target.bits, value) as u8;
            }
            let sum = codes.iter().map(|&code| u32::from(code)).sum::<u32>();
            *words = [grid.scale.to_bits(), grid.zero_point.to_bits(), sum];
        }
        match target.bits {
            Bits::B2 => pack::<2>(&codes, words),
            Bits::B3 => pack::<3>(&codes, words),
            Bits::B4 => pack::<4>(&codes, words),
            Bits::B6 => pack::<6>(&codes, words),
            Bits::B8 => pack::<8>(&codes, words),
        }
    }
}

/// Bytes to words of `B`-bit codes.
#[inline(always)]
fn pack<const B: usize>(codes: &[u8], words: &mut [u32]) {
    let bytes = bytemuck::cast_slice_mut::<_, u8>(words);
    for (codes, bytes) in codes.as_chunks::<8>().0.iter().zip(bytes.as_chunks_mut::<B>().0) {
        let codes = u64::from_le_bytes(*codes);
        let packed = if B == 8 { codes } else { squeeze::<B>(codes) };
        bytes.copy_from_slice(&packed.to_le_bytes()[..B]);
    }
}

/// Eight codes of `B < 8` bits, from a byte each to side by side.
#[inline(always)]
const fn squeeze<const B: usize>(codes: u64) -> u64 {
    if B == 6 {
        // Wider than the gaps: what moves and what stays would overlap.
        let pairs = (codes & 0x003F_003F_003F_003F) | (codes & 0x3F00_3F00_3F00_3F00) >> 2;
        let fours = (pairs & 0xFFF_0000_0FFF) | (pairs & 0x0FFF_0000_0FFF_0000) >> 4;
        return (fours & 0xFF_FFFF) | (fours & 0xFF_FFFF_0000_0000) >> 8;
    }
    let pairs = (codes | codes >> (8 - B)) & (((1 << (2 * B)) - 1) * 0x0001_0001_0001_0001);
    let fours = (pairs | pairs >> (16 - 2 * B)) & (((1 << (4 * B)) - 1) * 0x1_0000_0001);
    (fours | fours >> (32 - 4 * B)) & ((1 << (8 * B)) - 1)
}
