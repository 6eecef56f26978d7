//! Scenes become pixels.

use super::clip::Clip;
use super::scene::Scene;
use super::words::Shape;

/// How much lighter the background is at the top, and darker at the bottom, than its colour.
const GRADIENT: f64 = 10.0;

/// Half the side of a square, half the span of a cross and half the width of its bars, height of
/// a triangle: all for size 1, chosen so that the areas are alike.
const SQUARE: f64 = 0.45;
const CROSS: [f64; 2] = [0.55, 0.18];
const TRIANGLE: f64 = 1.1;
/// Half of the square root of three.
const SIN_60: f64 = 0.866_025_403_784_438_6;

impl Shape {
    /// How far a shape of size 1 reaches from its centroid: `[[left, right], [up, down]]`.
    pub(super) fn extent(self) -> [[f64; 2]; 2] {
        match self {
            Self::Circle => [[0.5; 2]; 2],
            Self::Square => [[SQUARE; 2]; 2],
            Self::Cross => [[CROSS[0]; 2]; 2],
            Self::Triangle => {
                let half = TRIANGLE / SIN_60 / 2.0;
                [[half; 2], [TRIANGLE * 2.0 / 3.0, TRIANGLE / 3.0]]
            }
        }
    }

    /// Area of a shape of size 1.
    pub(super) fn area(self) -> f64 {
        match self {
            Self::Circle => std::f64::consts::PI / 4.0,
            Self::Square => 4.0 * SQUARE * SQUARE,
            Self::Cross => 8.0 * CROSS[0] * CROSS[1] - 4.0 * CROSS[1] * CROSS[1],
            Self::Triangle => TRIANGLE * TRIANGLE / SIN_60 / 2.0,
        }
    }

    /// Distance of `[x, y]` from the outline of a shape of that size about the origin, negative
    /// inside. Outside of corners it is too short, which keeps them sharp.
    fn distance(self, size: f64, [x, y]: [f64; 2]) -> f64 {
        match self {
            Self::Circle => (x * x + y * y).sqrt() - size / 2.0,
            Self::Square => x.abs().max(y.abs()) - SQUARE * size,
            Self::Cross => {
                let [long, short] = CROSS.map(|half| half * size);
                let bar = |along: f64, across: f64| (along.abs() - long).max(across.abs() - short);
                bar(x, y).min(bar(y, x))
            }
            Self::Triangle => {
                let height = TRIANGLE * size;
                let sides = x.abs() * SIN_60 - (y + height * 2.0 / 3.0) / 2.0;
                sides.max(y - height / 3.0)
            }
        }
    }

    /// Share of the pixel at `[x, y]` that a shape of that size, in pixels, covers.
    pub(super) fn coverage(self, size: f64, point: [f64; 2]) -> f64 {
        (0.5 - self.distance(size, point)).clamp(0.0, 1.0)
    }
}

/// Draws a scene: an antialiased object at real-valued positions over a background that is a
/// little lighter at the top than at the bottom. A clip of one frame shows the start.
pub fn render(scene: &Scene, frames: usize, height: usize, width: usize) -> Clip {
    let mut pixels = Vec::with_capacity(frames * height * width * 3);
    let empty = empty_frame(scene, height, width);
    for frame in 0..frames {
        let time = frame as f64 / frames.saturating_sub(1).max(1) as f64;
        let start = pixels.len();
        pixels.extend_from_slice(&empty);
        draw(scene, time, &mut pixels[start..], [height, width]);
    }
    Clip::from_rendered([frames, height, width], pixels)
}

fn empty_frame(scene: &Scene, height: usize, width: usize) -> Vec<u8> {
    let base = scene.caption.background.rgb();
    let row = |y: usize| {
        let lift = GRADIENT * (1.0 - (2 * y + 1) as f64 / height as f64);
        base.map(|channel| (f64::from(channel) + lift).round().clamp(0.0, 255.0) as u8)
    };
    (0..height).flat_map(|y| std::iter::repeat_n(row(y), width)).flatten().collect()
}

/// Puts the object onto one frame.
fn draw(scene: &Scene, time: f64, pixels: &mut [u8], [height, width]: [usize; 2]) {
    let shape = scene.caption.shape;
    let size = scene.size * height.min(width) as f64;
    let color = scene.caption.color.rgb();
    let center = scene.center(time);
    let center = [center[0] * width as f64, center[1] * height as f64];
    let span = |axis: usize, end: usize| {
        let reach = shape.extent()[axis];
        let low = (center[axis] - reach[0] * size - 1.0).max(0.0) as usize;
        let high = (center[axis] + reach[1] * size + 2.0).max(0.0) as usize;
        low..high.min(end)
    };
    for y in span(1, height) {
        for x in span(0, width) {
            let point = [x as f64 + 0.5 - center[0], y as f64 + 0.5 - center[1]];
            let share = shape.coverage(size, point);
            if share > 0.0 {
                let pixel = &mut pixels[(y * width + x) * 3..][..3];
                for (value, ink) in pixel.iter_mut().zip(color) {
                    let mixed = f64::from(*value) * (1.0 - share) + f64::from(ink) * share;
                    *value = mixed.round() as u8;
                }
            }
        }
    }
}
