//! The integers of a fixed workload: the same on every device that conforms.
//!
//! Packed products are exact in integers, whatever the kernel, the driver and the vendor. The
//! workload has scales of one and zero points of zero, so that a result is its accumulator, and it
//! is small enough for an f32 to hold every accumulator exactly.

use super::Failure;
use crate::kernels::qmatmul::reference_accumulators;
use crate::kernels::{PackedTensor, qmatmul};
use crate::quant::{Bits, Grid, PackedRows, pack_rows};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// What every conforming device gets: FNV-1a of all accumulators, 64 bits.
pub const CHECKSUM: u64 = 0x6D15_297A_1AA3_ED76;

/// Products: widths of weight and tokens, then tokens, out features and in features. None is a
/// multiple of a tile, and `in_features · max_w · max_x` is below 2^24.
const WORKLOAD: [(Bits, Bits, [usize; 3]); 5] = [
    (Bits::B3, Bits::B3, [70, 130, 1544]),
    (Bits::B4, Bits::B4, [70, 130, 1544]),
    (Bits::B8, Bits::B8, [70, 130, 250]),
    (Bits::B4, Bits::B8, [65, 129, 1000]),
    (Bits::B2, Bits::B4, [3, 67, 776]),
];

/// What a device computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksumReport {
    /// What it got, as 16 hexadecimal digits.
    pub actual: String,
    /// What it should have got.
    pub expected: String,
    /// Whether they are equal.
    pub is_right: bool,
}

/// Codes by the generator of "Numerical Recipes": integers alone, the same everywhere.
fn rows(bits: Bits, count: usize, in_features: usize, seed: u32) -> PackedRows {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16 & bits.max_code()
    };
    let codes: Vec<u32> = (0..count * in_features).map(|_| next()).collect();
    PackedRows {
        bits,
        in_features,
        group_size: in_features,
        codes: pack_rows(bits, &codes, in_features),
        grids: vec![Grid { scale: 1.0, zero_point: 0.0 }; count],
        code_sums: codes
            .chunks(in_features)
            .map(|row| row.iter().sum::<u32>().cast_signed())
            .collect(),
    }
}

fn workload() -> impl Iterator<Item = (PackedRows, PackedRows)> {
    (1..).zip(WORKLOAD).map(|(seed, (w_bits, x_bits, [tokens, out_features, in_features]))| {
        let x = rows(x_bits, tokens, in_features, 2 * seed);
        (x, rows(w_bits, out_features, in_features, 2 * seed + 1))
    })
}

fn fold(hash: u64, accumulators: impl IntoIterator<Item = i32>) -> u64 {
    accumulators
        .into_iter()
        .flat_map(i32::to_le_bytes)
        .fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;

/// The checksum by the plain-Rust twin.
pub fn twin_checksum() -> u64 {
    workload().fold(FNV_OFFSET, |hash, (x, w)| fold(hash, reference_accumulators(&x, &w)))
}

/// The checksum of `device`.
///
/// # Errors
///
/// If the device fails, or returns something that is no integer.
pub fn checksum(device: &Device) -> Result<ChecksumReport, Failure> {
    let mut hash = FNV_OFFSET;
    for (x, w) in workload() {
        let bias = Tensor::<1>::zeros([w.rows()], device);
        let [x, w] = [&x, &w].map(|rows| PackedTensor::from_rows(rows, device));
        let data = qmatmul(&x, &w, bias).try_into_data().map_err(Failure::device)?;
        let values = data.try_to_vec::<f32>().map_err(Failure::device)?;
        // An accumulator that is no integer cannot be right, and must not be rounded to one.
        let accumulators =
            values.iter().map(|value| if value.fract() == 0.0 { *value as i32 } else { i32::MIN });
        hash = fold(hash, accumulators);
    }
    Ok(ChecksumReport {
        actual: format!("{hash:016x}"),
        expected: format!("{CHECKSUM:016x}"),
        is_right: hash == CHECKSUM,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constant_is_the_twins() {
        assert_eq!(twin_checksum(), CHECKSUM, "{:#018x}", twin_checksum());
    }

    #[test]
    fn the_cpu_device_conforms() {
        assert!(checksum(&Device::flex()).unwrap().is_right);
    }

    #[test]
    fn every_accumulator_fits_an_f32() {
        for (x, w) in workload() {
            let most = x.bits.max_code() as usize * w.bits.max_code() as usize * x.in_features;
            assert!(most < 1 << 24, "{most}");
        }
    }

    #[test]
    fn one_wrong_integer_changes_the_sum() {
        assert_ne!(fold(FNV_OFFSET, [1, 2, 3]), fold(FNV_OFFSET, [1, 2, 4]));
        assert_ne!(fold(FNV_OFFSET, [1, 2]), fold(FNV_OFFSET, [2, 1]));
    }
}
