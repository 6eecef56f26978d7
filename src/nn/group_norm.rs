//! Normalization over groups of channels and all frames of a chunk, for chunks in several tensors.

use super::{WeightError, Weights, silu};
use crate::kernels::group_moments::{combine_moments, group_moments};
use crate::kernels::group_norm::{Params, group_norm};
use burn::tensor::{Int, Tensor};

pub use crate::kernels::group_norm::ChunkPlace;

/// `(x − mean) / √(variance + eps) · weight + bias`, mean and variance of each group of channels.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    groups: usize,
    eps: f64,
    /// Weight and bias.
    affine: FrameModulation,
}

/// What is done to normalized frames: `x · factor + offset`.
///
/// Both are `[channels, 1, 1, 1]`, or `[channels, frames, height, width]` of a coarser grid of which
/// each value serves its nearest frames and pixels; see [`Params::new`].
#[derive(Clone, Debug)]
pub struct FrameModulation {
    /// What normalized values are multiplied by.
    pub factor: Tensor<4>,
    /// What is added then.
    pub offset: Tensor<4>,
}

impl GroupNorm {
    /// The layer `name.weight`, `name.bias` of a checkpoint, `[channels]` each.
    ///
    /// # Errors
    ///
    /// If one of them is missing or unusable.
    ///
    /// # Panics
    ///
    /// If the channels are no multiple of `groups`.
    pub fn load(
        weights: &Weights<'_>,
        name: &str,
        channels: usize,
        groups: usize,
        eps: f64,
    ) -> Result<Self, WeightError> {
        assert!(channels.is_multiple_of(groups), "GroupNorm: {channels} channels in {groups}");
        let column = |part: &str| -> Result<Tensor<4>, WeightError> {
            let values = weights.tensor(&format!("{name}.{part}"), [channels])?;
            Ok(values.reshape([channels, 1, 1, 1]))
        };
        let affine = FrameModulation { factor: column("weight")?, offset: column("bias")? };
        Ok(Self { groups, eps, affine })
    }

    /// This layer's weight and bias, and a modulation after them if there is one.
    pub fn then(&self, modulation: Option<FrameModulation>) -> FrameModulation {
        let FrameModulation { factor, offset } = self.affine.clone();
        match modulation {
            None => self.affine.clone(),
            Some(after) => FrameModulation {
                factor: factor * after.factor.clone(),
                offset: offset * after.factor + after.offset,
            },
        }
    }

    /// Count, mean and sum of squared differences of each group, `[groups, 3]`, over all frames of a
    /// chunk: `[channels, frames, height, width]` in one or several runs.
    ///
    /// # Panics
    ///
    /// If there are no frames.
    pub fn moments(&self, runs: &[Tensor<4>]) -> Tensor<2> {
        let rows = runs.iter().map(|run| {
            let len = run.shape().num_elements() / self.groups;
            run.clone().reshape([self.groups, len])
        });
        if runs.iter().any(Tensor::is_autodiff) {
            return moments_with_gradients(&rows.collect::<Vec<_>>());
        }
        combine_moments(Tensor::cat(rows.map(group_moments).collect(), 1))
    }

    /// `silu` of the normalized and modulated frames `x [channels, frames, height, width]`, those
    /// of the chunk that `at` says; `moments` are the whole chunk's.
    ///
    /// `modulation` contains this layer's weight and bias ([`GroupNorm::then`]).
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn forward_silu(
        &self,
        x: Tensor<4>,
        moments: &Tensor<2>,
        modulation: &FrameModulation,
        at: ChunkPlace,
    ) -> Tensor<4> {
        let FrameModulation { factor, offset } = modulation;
        if x.is_autodiff() || moments.is_autodiff() || factor.is_autodiff() {
            let params = Params::new(x.dims(), factor.dims(), self.groups, at, self.eps as f32);
            let [factor, offset] = [factor, offset].map(|values| at_pixels(values, &params));
            return silu(self.normalized(x, moments) * factor + offset);
        }
        let modulation = [factor.clone(), offset.clone()];
        group_norm(x, moments.clone(), modulation, at, self.eps as f32, true)
    }

    /// The normalized frames in operations that gradients are known of.
    fn normalized(&self, x: Tensor<4>, moments: &Tensor<2>) -> Tensor<4> {
        let column = |index| moments.clone().narrow(1, index, 1);
        let deviation = (column(2) / column(0) + self.eps).sqrt();
        let shape = x.dims();
        let len = shape.iter().product::<usize>() / self.groups;
        ((x.reshape([self.groups, len]) - column(1)) / deviation).reshape(shape)
    }
}

/// [`GroupNorm::moments`] of groups `[groups, len]` in operations that gradients are known of.
fn moments_with_gradients(runs: &[Tensor<2>]) -> Tensor<2> {
    let total = |terms: Vec<Tensor<2>>| Tensor::cat(terms, 1).sum_dim(1);
    let count = runs.iter().map(|run| run.dims()[1]).sum::<usize>() as f64;
    let mean = total(runs.iter().map(|run| run.clone().sum_dim(1)).collect()) / count;
    let squares = runs.iter().map(|run| {
        let difference = run.clone() - mean.clone();
        (difference.clone() * difference).sum_dim(1)
    });
    let squares = total(squares.collect());
    Tensor::cat(vec![mean.ones_like() * count, mean, squares], 1)
}

/// The value of each pixel, by nearest neighbor; a single one per channel stays that.
fn at_pixels(values: &Tensor<4>, params: &Params) -> Tensor<4> {
    let [channels, frames, height, width] = values.dims();
    if [frames, height, width] == [1; 3] {
        return values.clone();
    }
    let places: Vec<i32> =
        (0..params.frames as usize).map(|frame| params.factor_frame(frame) as i32).collect();
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(places.as_slice(), &values.device());
    let scale = 1 << params.shift;
    let frames: Tensor<4> = values.clone().select(1, places);
    let pixels: Tensor<5> = frames.reshape([channels * count, height, 1, width, 1]);
    pixels.expand([channels * count, height, scale, width, scale]).reshape([
        channels,
        count,
        height * scale,
        width * scale,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn tensor(seed: f32, shape: [usize; 4], device: &Device) -> Tensor<4> {
        let len = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..len).map(|i| (seed + 1.7 * i as f32).sin()).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().try_to_vec().expect("f32 values")
    }

    /// A chunk of three frames in two runs, modulated by two frames of a quarter of the size.
    struct Case {
        x: Tensor<4>,
        norm: GroupNorm,
        modulation: FrameModulation,
    }

    impl Case {
        fn new(device: &Device) -> Self {
            let affine = FrameModulation {
                factor: tensor(2.0, [4, 1, 1, 1], device),
                offset: tensor(3.0, [4, 1, 1, 1], device),
            };
            Self {
                x: tensor(1.0, [4, 3, 4, 2], device),
                norm: GroupNorm { groups: 2, eps: 1e-3, affine },
                modulation: FrameModulation {
                    factor: tensor(4.0, [4, 2, 2, 1], device),
                    offset: tensor(5.0, [4, 2, 2, 1], device),
                },
            }
        }

        fn y(&self) -> Tensor<4> {
            let runs = [(0, 1), (1, 2)].map(|(first, n)| self.x.clone().narrow(1, first, n));
            let moments = self.norm.moments(&runs);
            let modulation = self.norm.then(Some(self.modulation.clone()));
            let mut first_frame = 0;
            let parts = runs.into_iter().map(|run| {
                let at = ChunkPlace { first_frame, frames: 3 };
                first_frame += run.dims()[1];
                self.norm.forward_silu(run, &moments, &modulation, at)
            });
            Tensor::cat(parts.collect(), 1)
        }
    }

    #[test]
    fn the_steps_that_gradients_are_known_of_give_the_same() {
        let plain = values(Case::new(&Device::flex()).y());
        let mut case = Case::new(&Device::flex().autodiff());
        case.x = case.x.require_grad();
        for (plain, steps) in plain.iter().zip(values(case.y())) {
            assert!((plain - steps).abs() <= 1e-5, "{plain} against {steps}");
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_the_sum_of_squares() {
        let loss = |y: Tensor<4>| (y.clone() * y).sum();
        let device = Device::flex();
        let of =
            |case: &Case| loss(case.y()).into_data().try_to_vec::<f32>().expect("f32 values")[0];
        let mut tracked = Case::new(&device.clone().autodiff());
        tracked.x = tracked.x.require_grad();
        tracked.modulation.factor = tracked.modulation.factor.require_grad();
        let gradients = loss(tracked.y()).backward();
        let inputs = [&tracked.x, &tracked.modulation.factor];
        let gradients = inputs.map(|input| values(input.grad(&gradients).expect("a gradient")));
        for (which, gradients) in gradients.into_iter().enumerate() {
            for (i, gradient) in gradients.into_iter().enumerate() {
                let moved = |step: f32| {
                    let mut case = Case::new(&device);
                    let input = if which == 0 { &mut case.x } else { &mut case.modulation.factor };
                    let shape = input.dims();
                    let mut values = values(input.clone());
                    values[i] += step;
                    *input = Tensor::from_data(TensorData::new(values, shape), &device);
                    of(&case)
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((gradient - slope).abs() <= 2e-2, "{which}, {i}: {gradient}, {slope}");
            }
        }
    }
}
