//! Latents of a video that is encoded in tiles, of any autoencoder.

use crate::common::assert_matches;
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::models::{Encoder, Tiling};

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn columns(x: &Tensor<4>, start: usize, len: usize) -> Tensor<4> {
    x.clone().narrow(2, 0, 4).narrow(3, start, len)
}

/// Encodes a video of 48 by 80 pixels, of which a latent has 8, in tiles of 48 that begin 32 apart.
pub(crate) fn check(what: &str, encoder: &dyn Encoder, tiling: Tiling, device: &Device) {
    let numbers = (0..3 * 5 * 48 * 80).map(|i| (0.013 * (i as f32).powf(1.1)).sin());
    let video = TensorData::new(numbers.collect(), [3, 5, 48, 80]);
    let video = Tensor::<4>::from_data(video, device);
    let tiled = encoder.encode_normalized_in(video.clone(), Some(tiling)).unwrap();
    let whole = encoder.encode_normalized(video.clone()).unwrap();
    assert_eq!(tiled.dims(), whole.dims(), "{what}");
    let tile = |start: usize, width: usize| {
        encoder.encode_normalized(video.clone().narrow(3, 8 * start, 8 * width)).unwrap()
    };
    let (first, second) = (tile(0, 6), tile(4, 6));
    let same = |which: &str, actual: Tensor<4>, expected: Tensor<4>| {
        assert_matches(&format!("{what} {which}"), &values(actual), &values(expected), 1e-5);
    };
    same("the first alone", columns(&tiled, 0, 4), columns(&first, 0, 4));
    same("the second alone", columns(&tiled, 6, 2), columns(&second, 2, 2));
    same("where it begins", columns(&tiled, 4, 1), columns(&first, 4, 1));
    let half = (columns(&first, 5, 1) + columns(&second, 1, 1)) * 0.5;
    same("half of both", columns(&tiled, 5, 1), half);
    // Inside they are near those of the whole frame, and no others are: norms and attention see a
    // tile instead of the frame.
    let square = |x: Tensor<4>| values(x).iter().map(|x| x * x).sum::<f32>();
    for [inside, other] in [[1, 3], [6, 2]] {
        let tiled = columns(&tiled, inside, 2);
        let error = |start| {
            let whole = columns(&whole, start, 2);
            (square(tiled.clone() - whole.clone()) / square(whole)).sqrt()
        };
        let [near, far] = [inside, other].map(error);
        assert!(near < 0.6 && far > 0.75, "{what}: {near}, {far}");
    }
}
