//! Up to 255 colors that stand for all colors of a video, and how pixels are made of them.

use super::frames::Frames;
use color_quant::NeuQuant;
use std::collections::{BTreeMap, BTreeSet};

/// Most colors of a palette; GIF's 256th index is left for "as before".
pub(super) const MAX_COLORS: usize = 255;
/// Pixels that are counted to choose a palette; more change it by less than it can show.
const MAX_SAMPLES: usize = 1 << 20;
/// Bits per channel that make one cell, within which colors are not told apart.
const CELL_BITS: u32 = 7;
/// Palette colors that mix to the color of one cell.
const MIX: usize = 8;
/// The mixture of a cell that was not needed yet; no index reaches this value.
const UNKNOWN: [u8; MIX] = [u8::MAX; MIX];

/// Thresholds of 8x8 ordered dithering, 0..64, each once: neighbors differ as much as possible.
const BAYER: [[u8; 8]; 8] = [
    [0, 32, 8, 40, 2, 34, 10, 42],
    [48, 16, 56, 24, 50, 18, 58, 26],
    [12, 44, 4, 36, 14, 46, 6, 38],
    [60, 28, 52, 20, 62, 30, 54, 22],
    [3, 35, 11, 43, 1, 33, 9, 41],
    [51, 19, 59, 27, 49, 17, 57, 25],
    [15, 47, 7, 39, 13, 45, 5, 37],
    [63, 31, 55, 23, 61, 29, 53, 21],
];

/// The colors of one video. One palette and one fixed pattern for all frames keep still parts
/// from flickering.
#[derive(Debug)]
pub(super) struct Palette {
    colors: Vec<[u8; 3]>,
    /// Mixtures by cell, found when first needed; empty if the palette has every color itself.
    mixtures: Vec<[u8; MIX]>,
}

impl Palette {
    /// The palette of `frames`: its very colors if they are few, else the quantizer's choice.
    pub(super) fn from_frames(frames: &Frames) -> Self {
        if let Some(colors) = few_colors(frames) {
            return Self { colors, mixtures: Vec::new() };
        }
        let map = NeuQuant::new(1, MAX_COLORS, &samples(frames)).color_map_rgb();
        let mut colors: Vec<[u8; 3]> = map.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
        colors.sort_unstable();
        colors.dedup();
        Self { colors, mixtures: vec![UNKNOWN; 1 << (3 * CELL_BITS)] }
    }

    /// The colors, RGB after RGB.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.colors.concat()
    }

    /// Indices of the pixels of one frame `rgb` `[height, width, 3]`.
    pub(super) fn indices(&mut self, rgb: &[u8], width: usize) -> Vec<u8> {
        let mut indices = Vec::with_capacity(rgb.len() / 3);
        for (row, line) in rgb.chunks_exact(3 * width).enumerate() {
            for (column, pixel) in line.chunks_exact(3).enumerate() {
                let color = [pixel[0], pixel[1], pixel[2]];
                indices.push(if self.mixtures.is_empty() {
                    self.colors.binary_search(&color).map_or(0, |index| index as u8)
                } else {
                    let threshold = usize::from(BAYER[row % 8][column % 8]);
                    self.mixture(color)[threshold * MIX / 64]
                });
            }
        }
        indices
    }

    /// The palette colors whose mean is nearest to `color`, from dark to bright: each makes up for
    /// the error that those before it left, as Thomas Knoll's pattern dithering does.
    fn mixture(&mut self, color: [u8; 3]) -> [u8; MIX] {
        let cell = cell_of(color);
        if self.mixtures[cell] == UNKNOWN {
            let middle = color.map(|c| i32::from(c >> (8 - CELL_BITS) << (8 - CELL_BITS)));
            let mut error = [0; 3];
            let mut mixture = UNKNOWN;
            for slot in &mut mixture {
                let wanted = [0, 1, 2].map(|c| middle[c] + error[c]);
                let nearest = (0..self.colors.len())
                    .min_by_key(|&i| distance(self.colors[i].map(i32::from), wanted))
                    .unwrap_or(0);
                let chosen = self.colors[nearest].map(i32::from);
                error = [0, 1, 2].map(|c| error[c] + middle[c] - chosen[c]);
                *slot = nearest as u8;
            }
            mixture.sort_by_key(|&index| brightness(self.colors[usize::from(index)]));
            self.mixtures[cell] = mixture;
        }
        self.mixtures[cell]
    }
}

/// Where `color` lies in a table of cells.
fn cell_of(color: [u8; 3]) -> usize {
    color.iter().fold(0, |cell, &c| cell << CELL_BITS | usize::from(c >> (8 - CELL_BITS)))
}

/// RGBA pixels to choose a palette from: every color present, the frequent ones more often, but
/// only by the square root, or a small colorful thing would find no color of its own.
fn samples(frames: &Frames) -> Vec<u8> {
    let pixels = frames.data().len() / 3;
    // An odd step does not keep to the same columns.
    let step = pixels.div_ceil(MAX_SAMPLES) | 1;
    let mut counts = BTreeMap::new();
    for pixel in frames.data().chunks_exact(3).step_by(step) {
        let color = [pixel[0], pixel[1], pixel[2]];
        counts.entry(cell_of(color)).or_insert((color, 0_u32)).1 += 1;
    }
    let mut samples = Vec::new();
    for ([r, g, b], count) in counts.into_values() {
        for _ in 0..count.isqrt() {
            samples.extend([r, g, b, u8::MAX]);
        }
    }
    samples
}

/// All colors of `frames` in order, if they fit a palette.
fn few_colors(frames: &Frames) -> Option<Vec<[u8; 3]>> {
    let mut colors = BTreeSet::new();
    let mut last = None;
    for pixel in frames.data().chunks_exact(3) {
        let color = [pixel[0], pixel[1], pixel[2]];
        if last != Some(color) && colors.insert(color) && colors.len() > MAX_COLORS {
            return None;
        }
        last = Some(color);
    }
    Some(colors.into_iter().collect())
}

/// Squared distance of two colors.
fn distance(a: [i32; 3], b: [i32; 3]) -> i32 {
    (0..3).map(|c| (a[c] - b[c]).pow(2)).sum()
}

/// Luma in thousandths.
fn brightness([r, g, b]: [u8; 3]) -> u32 {
    299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b)
}
