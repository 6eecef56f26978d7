//! The position of a denoising step as a vector of sinusoids.

use burn::tensor::{Device, Tensor, TensorData};

/// `[cos(t·f₀) … cos(t·fₙ₋₁), sin(t·f₀) … sin(t·fₙ₋₁)]` as `[1, dim]`, with `n = dim/2` and
/// `fᵢ = 10000^(−i/n)`.
///
/// All in f32, as the published models compute it: at `t` near 1000 the rounding of a frequency
/// moves the angle by 1e-4.
pub fn timestep_sinusoid(timestep: f32, dim: usize, device: &Device) -> Tensor<2> {
    let half = dim / 2;
    let angles = (0..half).map(|i| {
        let exponent = -(10_000.0_f64.ln() as f32) * i as f32 / half as f32;
        timestep * exponent.exp()
    });
    let values: Vec<f32> = angles.clone().map(f32::cos).chain(angles.map(f32::sin)).collect();
    Tensor::from_data(TensorData::new(values, [1, 2 * half]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_come_first_and_frequencies_fall() {
        let values = timestep_sinusoid(2.0, 4, &Device::flex()).into_data();
        let values = values.try_to_vec::<f32>().expect("f32 values");
        let expected = [2.0_f32.cos(), 0.02_f32.cos(), 2.0_f32.sin(), 0.02_f32.sin()];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
    }
}
