//! Scenes: a caption, and everything it leaves open.

use super::caption::{Caption, Split};
use super::rng::Rng;

/// Share of the frame that stays free around the object in every frame.
const MARGIN: f64 = 0.02;
/// Smallest and largest [`Scene::size`].
const SIZES: [f64; 2] = [0.24, 0.30];

/// One film of the world, independent of its size and of its number of frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scene {
    /// What is seen.
    pub caption: Caption,
    /// Centroid `[x, y]` of the object in the first frame, in widths and heights of the frame.
    pub start: [f64; 2],
    /// Size of the object as a share of the frame's shorter side: the diameter of a circle;
    /// other shapes are about as conspicuous.
    pub size: f64,
}

impl Scene {
    /// A scene with a caption of the split, every caption equally likely; `seed` decides all.
    pub fn random(split: Split, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let captions: Vec<_> = split.captions().collect();
        Self::place(captions[rng.below(captions.len())], rng)
    }

    /// The scene of a caption; `seed` decides where and how large the object is.
    pub fn with_caption(caption: Caption, seed: u64) -> Self {
        // Not the stream of `random`, whose first number has chosen a caption.
        Self::place(caption, Rng::new(!seed))
    }

    /// Whether the caption is kept from training.
    pub const fn is_held_out(&self) -> bool {
        self.caption.is_held_out()
    }

    /// Centroid `[x, y]` at `time`, 0 in the first frame and 1 in the last.
    pub fn center(&self, time: f64) -> [f64; 2] {
        let travel = self.caption.motion.travel();
        [self.start[0] + time * travel[0], self.start[1] + time * travel[1]]
    }

    /// Draws size and start so that the object lies within the frame from beginning to end.
    fn place(caption: Caption, mut rng: Rng) -> Self {
        let size = rng.uniform(SIZES[0], SIZES[1]);
        let extent = caption.shape.extent();
        let travel = caption.motion.travel();
        let mut along = |axis: usize| {
            let low = MARGIN + size * extent[axis][0] - travel[axis].min(0.0);
            let high = 1.0 - MARGIN - size * extent[axis][1] - travel[axis].max(0.0);
            rng.uniform(low, high)
        };
        Self { caption, start: [along(0), along(1)], size }
    }
}
