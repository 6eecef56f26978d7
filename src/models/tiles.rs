//! Decoding and encoding large frames in overlapping tiles that are blended into each other.
//!
//! A tile goes from its first to its last frame before the next one, so that the device holds the
//! memory of one tile only. The host holds the result (4 bytes per value) and, of the tiles, one
//! whole, the strip it shares with its right neighbor, and a row of strips shared with the row below.

use super::autoencoder::VideoSink;
use super::{AutoencoderError, Encoder, Tiling};
use burn::tensor::{Device, Tensor, TensorData};
use std::ops::ControlFlow;

/// What tiles need of a decoder.
pub(super) trait TileSource {
    /// Where it decodes.
    fn device(&self) -> &Device;

    /// Frames of each part of the video, as they are handed out.
    fn chunk_frames(&self, latent_frames: usize) -> Vec<usize>;

    /// Decodes a tile from its first to its last frame, part by part.
    fn decode_chunks(&self, latent: &Tensor<4>, sink: &mut VideoSink<'_>) -> ControlFlow<()>;
}

/// Pixels or latents on the host, `[planes, height, width]`: a plane is one channel of one frame.
#[derive(Clone, Debug)]
struct Image {
    planes: usize,
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Image {
    fn new(planes: usize, height: usize, width: usize) -> Self {
        Self { planes, height, width, values: vec![0.0; planes * height * width] }
    }

    fn row(&self, plane: usize, row: usize) -> &[f32] {
        &self.values[(plane * self.height + row) * self.width..][..self.width]
    }

    fn row_mut(&mut self, plane: usize, row: usize) -> &mut [f32] {
        &mut self.values[(plane * self.height + row) * self.width..][..self.width]
    }

    /// The part of `height × width` that begins at `(top, left)`.
    fn part(&self, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Self {
        let mut part = Self::new(self.planes, height, width);
        for plane in 0..self.planes {
            for row in 0..height {
                let source = &self.row(plane, top + row)[left..][..width];
                part.row_mut(plane, row).copy_from_slice(source);
            }
        }
        part
    }

    /// Puts as much of `part` as fits at `(top, left)`, but no more than `limit`.
    fn put(&mut self, part: &Self, [top, left]: [usize; 2], limit: [usize; 2]) {
        let height = part.height.min(limit[0]).min(self.height - top);
        let width = part.width.min(limit[1]).min(self.width - left);
        for plane in 0..self.planes {
            for row in 0..height {
                let source = &part.row(plane, row)[..width];
                self.row_mut(plane, top + row)[left..][..width].copy_from_slice(source);
            }
        }
    }

    /// Fades from the last rows of `above` into the first ones of this image.
    fn blend_top(&mut self, above: &Self) {
        let shared = above.height.min(self.height);
        for plane in 0..self.planes {
            for row in 0..shared {
                let theirs = above.row(plane, above.height - shared + row);
                let (own, other) = fade(row, shared);
                for (value, theirs) in self.row_mut(plane, row).iter_mut().zip(theirs) {
                    *value = theirs * other + *value * own;
                }
            }
        }
    }

    /// Fades from the last columns of `left` into the first ones of this image.
    fn blend_left(&mut self, left: &Self) {
        let shared = left.width.min(self.width);
        for plane in 0..self.planes {
            for row in 0..self.height {
                let theirs = &left.row(plane, row)[left.width - shared..];
                for (column, value) in self.row_mut(plane, row)[..shared].iter_mut().enumerate() {
                    let (own, other) = fade(column, shared);
                    *value = theirs[column] * other + *value * own;
                }
            }
        }
    }
}

/// Weights of a tile and of its neighbor at pixel `index` of `shared` ones.
fn fade(index: usize, shared: usize) -> (f32, f32) {
    let own = index as f64 / shared as f64;
    (own as f32, (1.0 - own) as f32)
}

/// The image of `height × width` latents, each `scale` wide in it, that `tile` gives in parts: it is
/// told where one begins and its size, in latents.
///
/// Tiles are made and blended in raster order: a tile with the one above and then with the one on
/// the left, each as it is after its own blending; what it shares with the next ones is kept before
/// it is cropped.
fn blended(
    [height, width]: [usize; 2],
    tiling: Tiling,
    scale: usize,
    mut tile: impl FnMut([usize; 2], [usize; 2]) -> Result<Image, AutoencoderError>,
) -> Result<Image, AutoencoderError> {
    let keep = tiling.stride.map(|latents| latents * scale);
    let overlap = tiling.overlap().map(|latents| latents * scale);
    let mut canvas: Option<Image> = None;
    let mut above: Vec<Image> = Vec::new();
    for top in (0..height).step_by(tiling.stride[0]) {
        let (mut below, mut left): (Vec<Image>, Option<Image>) = (Vec::new(), None);
        for (column, start) in (0..width).step_by(tiling.stride[1]).enumerate() {
            let size = [tiling.size[0].min(height - top), tiling.size[1].min(width - start)];
            let mut tile = tile([top, start], size)?;
            if let Some(above) = above.get(column) {
                tile.blend_top(above);
            }
            if let Some(left) = &left {
                tile.blend_left(left);
            }
            let (shared_h, shared_w) = (overlap[0].min(tile.height), overlap[1].min(tile.width));
            below.push(tile.part([tile.height - shared_h, 0], [shared_h, tile.width]));
            left = Some(tile.part([0, tile.width - shared_w], [tile.height, shared_w]));
            let canvas = canvas
                .get_or_insert_with(|| Image::new(tile.planes, height * scale, width * scale));
            canvas.put(&tile, [top * scale, start * scale], keep);
        }
        above = below;
    }
    Ok(canvas.expect("a frame has a tile"))
}

/// Decodes `latent` in tiles.
pub(super) fn decode_tiles(
    source: &impl TileSource,
    latent: &Tensor<4>,
    tiling: Tiling,
    sink: &mut VideoSink<'_>,
) -> Result<(), AutoencoderError> {
    let [_, latent_frames, height, width] = latent.dims();
    let frames = source.chunk_frames(latent_frames).iter().sum();
    let canvas = blended([height, width], tiling, tiling.factor, |start, size| {
        decode_tile(source, &part(latent, start, size), frames, tiling.factor)
    })?;
    let _ = send(source, &canvas, &source.chunk_frames(latent_frames), sink);
    Ok(())
}

/// Encodes `video` in tiles, to normalized latents.
pub(super) fn encode_tiles(
    encoder: &(impl Encoder + ?Sized),
    video: &Tensor<4>,
    tiling: Tiling,
) -> Result<Tensor<4>, AutoencoderError> {
    let [_, _, height, width] = video.dims();
    let factor = tiling.factor;
    let size = [height / factor, width / factor];
    let mut channels = 1;
    let canvas = blended(size, tiling, 1, |start, size| {
        let pixels = |latents: [usize; 2]| latents.map(|latents| latents * factor);
        let latent = encoder.encode_normalized(part(video, pixels(start), pixels(size)))?;
        let [z_dim, frames, height, width] = latent.dims();
        channels = z_dim;
        Ok(Image { planes: z_dim * frames, height, width, values: read(latent)? })
    })?;
    let shape = [channels, canvas.planes / channels, size[0], size[1]];
    Ok(Tensor::from_data(TensorData::new(canvas.values, shape), &video.device()))
}

/// The part of frames `[channels, frames, height, width]` that begins at `start`.
fn part(frames: &Tensor<4>, start: [usize; 2], size: [usize; 2]) -> Tensor<4> {
    frames.clone().narrow(2, start[0], size[0]).narrow(3, start[1], size[1])
}

/// All frames of one tile, `[3·frames, height, width]`, not finished.
fn decode_tile(
    source: &impl TileSource,
    latent: &Tensor<4>,
    frames: usize,
    factor: usize,
) -> Result<Image, AutoencoderError> {
    let [_, _, height, width] = latent.dims();
    let mut tile = Image::new(3 * frames, height * factor, width * factor);
    let plane = tile.height * tile.width;
    let (mut done, mut failure) = (0, None);
    let _ = source.decode_chunks(latent, &mut |chunk| {
        let count = chunk.dims()[1];
        match read(chunk) {
            Ok(values) => {
                for (channel, values) in values.chunks_exact(count * plane).enumerate() {
                    let start = (channel * frames + done) * plane;
                    tile.values[start..][..values.len()].copy_from_slice(values);
                }
                done += count;
                ControlFlow::Continue(())
            }
            Err(err) => {
                failure = Some(err);
                ControlFlow::Break(())
            }
        }
    });
    failure.map_or(Ok(tile), Err)
}

fn read(tensor: Tensor<4>) -> Result<Vec<f32>, AutoencoderError> {
    let device = |message: String| AutoencoderError::Device { message };
    let data = tensor.try_into_data().map_err(|err| device(format!("{err:?}")))?;
    data.try_into_vec::<f32>().map_err(|err| device(format!("{err:?}")))
}

/// Hands out the finished frames as decoding without tiles does.
fn send(
    source: &impl TileSource,
    canvas: &Image,
    chunk_frames: &[usize],
    sink: &mut VideoSink<'_>,
) -> ControlFlow<()> {
    let plane = canvas.height * canvas.width;
    let frames: usize = chunk_frames.iter().sum();
    let mut start = 0;
    for &count in chunk_frames {
        let mut values = Vec::with_capacity(3 * count * plane);
        for channel in 0..3 {
            let first = (channel * frames + start) * plane;
            values.extend_from_slice(&canvas.values[first..][..count * plane]);
        }
        let data = TensorData::new(values, [3, count, canvas.height, canvas.width]);
        sink(Tensor::from_data(data, source.device()))?;
        start += count;
    }
    ControlFlow::Continue(())
}
