//! How large frames are split into overlapping tiles for decoding and encoding.

use super::{AutoencoderConfig, ConfigError};

/// Size and distance of tiles, `[height, width]` in latents; neighbors share the difference.
///
/// Each tile sees zeros beyond its own border, so its result differs from that of the whole frame;
/// the shared pixels fade from one tile into the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    pub(super) size: [usize; 2],
    pub(super) stride: [usize; 2],
    /// Pixels per latent.
    pub(super) factor: usize,
}

impl Tiling {
    /// The tiles of the autoencoder's reference.
    pub fn standard(config: &dyn AutoencoderConfig) -> Self {
        config.standard_tiling()
    }

    /// Tiles of `size` pixels that share a part `overlap` of their size with the next ones,
    /// `[height, width]` each; the stride is rounded down to whole latents.
    ///
    /// # Errors
    ///
    /// If a size is no multiple of the pixels per latent, or what is shared is not the same in
    /// pixels and in latents.
    pub fn overlapping(
        config: &dyn AutoencoderConfig,
        size: [usize; 2],
        overlap: [f64; 2],
    ) -> Result<Self, ConfigError> {
        let factor = config.spatial_factor();
        let names = ["tile_overlap_factor_height", "tile_overlap_factor_width"];
        let mut stride = [0; 2];
        for axis in [0, 1] {
            let (pixels, share) = (size[axis], overlap[axis]);
            stride[axis] = ((pixels / factor) as f64 * (1.0 - share)) as usize * factor;
            let shared = (pixels as f64 * share) as usize;
            if pixels.is_multiple_of(factor)
                && (stride[axis] == 0 || stride[axis] + shared != pixels)
            {
                let expected = "expected a part of the tile that is a whole number of latents";
                return Err(ConfigError {
                    field: names[axis],
                    actual: share.to_string(),
                    expected,
                });
            }
        }
        Self::new(config, size, stride)
    }

    /// Tiles of `size` pixels, `stride` pixels apart, `[height, width]` each.
    ///
    /// # Errors
    ///
    /// If a value is no multiple of the pixels per latent, zero, or a stride exceeds its size.
    pub fn new(
        config: &dyn AutoencoderConfig,
        size: [usize; 2],
        stride: [usize; 2],
    ) -> Result<Self, ConfigError> {
        let factor = config.spatial_factor();
        let check = |holds, field, actual: usize, expected| {
            let actual = actual.to_string();
            if holds { Ok(()) } else { Err(ConfigError { field, actual, expected }) }
        };
        let names = [
            ("tile_sample_min_height", "tile_sample_stride_height"),
            ("tile_sample_min_width", "tile_sample_stride_width"),
        ];
        for ((size, stride), (size_name, stride_name)) in size.into_iter().zip(stride).zip(names) {
            let whole = |pixels: usize| pixels > 0 && pixels.is_multiple_of(factor);
            let expected = "expected a positive multiple of the pixels per latent";
            check(whole(size), size_name, size, expected)?;
            check(whole(stride), stride_name, stride, expected)?;
            check(stride <= size, stride_name, stride, "expected no more than the tile")?;
        }
        let latents = |pixels: [usize; 2]| pixels.map(|pixels| pixels / factor);
        Ok(Self { size: latents(size), stride: latents(stride), factor })
    }

    /// The largest of a few tilings with which no tensor exceeds `max_elements` and decoding
    /// stays within `max_bytes`; `None` if the whole frame does.
    ///
    /// If none does, the smallest one.
    pub fn within(
        config: &dyn AutoencoderConfig,
        [latent_height, latent_width]: [usize; 2],
        max_elements: u64,
        max_bytes: u64,
    ) -> Option<Self> {
        Self::fitting(config, [latent_height, latent_width], |[height, width]| {
            config.largest_decode_elements(height, width) <= max_elements
                && config.decode_peak_bytes(height, width) <= max_bytes
        })
    }

    /// The largest of the same tilings with which no tensor exceeds `max_elements` while a video of
    /// `frames` of `height × width` pixels is encoded; `None` if none does for whole frames.
    ///
    /// If none does, the smallest one.
    pub fn within_encoding(
        config: &dyn AutoencoderConfig,
        [frames, height, width]: [usize; 3],
        max_elements: u64,
    ) -> Option<Self> {
        let factor = config.spatial_factor();
        Self::fitting(config, [height / factor, width / factor], |[height, width]| {
            let [height, width] = [height * factor, width * factor];
            config.largest_encode_elements(frames, height, width) <= max_elements
        })
    }

    /// `None` if a frame of `whole` latents `fits`, else the largest tiles that do, or the smallest
    /// there are.
    fn fitting(
        config: &dyn AutoencoderConfig,
        whole: [usize; 2],
        fits: impl Fn([usize; 2]) -> bool,
    ) -> Option<Self> {
        if fits(whole) {
            return None;
        }
        let candidates = [512, 384, 256, 192, 128, 64].map(|size| {
            // An overlap of a quarter, but at least what two convolutions at latent size see.
            Self::of_pixels(config, size, size - (size / 4).max(32))
        });
        let fitting = candidates.iter().find(|tiling| fits(tiling.size));
        fitting.or(candidates.last()).copied()
    }

    /// Square tiles, size and stride rounded down to whole latents.
    pub(super) fn of_pixels(config: &dyn AutoencoderConfig, size: usize, stride: usize) -> Self {
        let factor = config.spatial_factor();
        let latents = |pixels: usize| [(pixels / factor).max(1); 2];
        Self { size: latents(size), stride: latents(stride), factor }
    }

    /// `[height, width]` of a tile in latents.
    pub fn latent_size(&self) -> [usize; 2] {
        self.size
    }

    /// Whether a latent of that size takes more than one tile.
    pub(super) fn splits(&self, latent_height: usize, latent_width: usize) -> bool {
        latent_height > self.size[0] || latent_width > self.size[1]
    }

    /// Whether frames of that many pixels take more than one tile and can be cut into tiles.
    pub(super) fn splits_frame(&self, height: usize, width: usize) -> bool {
        let is_whole = |pixels: usize| pixels > 0 && pixels.is_multiple_of(self.factor);
        let is_larger = self.splits(height / self.factor, width / self.factor);
        is_larger && is_whole(height) && is_whole(width)
    }

    /// Latents that neighbors share, `[height, width]`.
    pub(super) fn overlap(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.size[axis] - self.stride[axis])
    }
}
