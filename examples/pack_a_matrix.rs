//! What a weight loses at each width, per bit that is really stored.
//!
//! `cargo run --release --example pack_a_matrix`

use qvgen::quant::{Bits, Calibration, Scheme, WeightSpec, quantize_weight};

const OUT_FEATURES: usize = 64;
const IN_FEATURES: usize = 1536;

fn main() {
    let weight: Vec<f32> = (0..OUT_FEATURES * IN_FEATURES).map(bell).collect();
    println!("bits  group  calibration  bits/weight  relative error");
    for bits in Bits::ALL {
        for group_size in [None, Some(64)] {
            for calibration in [Calibration::MinMax, Calibration::Mse] {
                let scheme = Scheme::AsymmetricReal;
                let spec = WeightSpec { bits, scheme, group_size, calibration };
                let packed = quantize_weight(&weight, IN_FEATURES, spec);
                let error = relative_error(&weight, &packed.values());
                let group = group_size.map_or("row".to_owned(), |size| size.to_string());
                println!(
                    "{bits:<4}  {group:<5}  {:<11}  {:>11.3}  {error:.4}",
                    format!("{calibration:?}"),
                    packed.bits_per_value()
                );
            }
        }
    }
}

/// A bell-shaped distribution from a sum of sines: weights look like that.
fn bell(i: usize) -> f32 {
    let x = i as f32;
    (x * 0.711).sin() + (x * 1.313).sin() + (x * 2.197).sin() + (x * 3.931).sin()
}

fn relative_error(weight: &[f32], values: &[f32]) -> f32 {
    let square = |x: f32| x * x;
    let error: f32 = weight.iter().zip(values).map(|(w, v)| square(w - v)).sum();
    (error / weight.iter().map(|&w| square(w)).sum::<f32>()).sqrt()
}
