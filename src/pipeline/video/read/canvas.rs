//! The picture that frames of an animation change.

use super::{Trouble, pixels};

/// Where on the canvas a frame lies, in pixels; it may reach beyond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// RGBA8 `[height, width, 4]`, transparent at first.
#[derive(Clone, Debug)]
pub(super) struct Canvas {
    pub(super) width: usize,
    pub(super) height: usize,
    rgba: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Result<Self, Trouble> {
        let pixels = pixels(width, height)?;
        Ok(Self { width, height, rgba: vec![0; 4 * pixels] })
    }

    /// Replaces pixels by those of `rgba`, whose rows are `stride` bytes apart; with `is_over`,
    /// transparent ones let the old shine through.
    pub(super) fn draw(&mut self, area: Area, rgba: &[u8], stride: usize, is_over: bool) {
        let Some((columns, rows)) = self.inside(area) else { return };
        for (row, source) in (0..rows).zip(rgba.chunks(stride.max(1))) {
            let at = 4 * ((area.top + row) * self.width + area.left);
            let target = &mut self.rgba[at..at + 4 * columns];
            for (old, new) in target.chunks_exact_mut(4).zip(source.chunks_exact(4)) {
                match new[3] {
                    u8::MAX => old.copy_from_slice(new),
                    _ if !is_over => old.copy_from_slice(new),
                    0 => {}
                    _ => blend(old, new),
                }
            }
        }
    }

    /// Makes `area` transparent.
    pub(super) fn clear(&mut self, area: Area) {
        let Some((columns, rows)) = self.inside(area) else { return };
        for row in area.top..area.top + rows {
            let at = 4 * (row * self.width + area.left);
            self.rgba[at..at + 4 * columns].fill(0);
        }
    }

    /// RGB8 `[height, width, 3]` on black.
    pub(super) fn rgb(&self) -> Vec<u8> {
        let on_black = |pixel: &[u8]| {
            let alpha = u32::from(pixel[3]);
            [0, 1, 2].map(|c| ((u32::from(pixel[c]) * alpha + 127) / 255) as u8)
        };
        self.rgba.chunks_exact(4).flat_map(on_black).collect()
    }

    /// Columns and rows of `area` that lie on the canvas.
    fn inside(&self, area: Area) -> Option<(usize, usize)> {
        let columns = self.width.checked_sub(area.left)?.min(area.width);
        let rows = self.height.checked_sub(area.top)?.min(area.height);
        (columns > 0 && rows > 0).then_some((columns, rows))
    }
}

/// Porter and Duff's "over" on straight alpha, as the PNG specification gives it.
fn blend(old: &mut [u8], new: &[u8]) {
    let (over, under) = (u32::from(new[3]) * 255, u32::from(old[3]) * (255 - u32::from(new[3])));
    let alpha = over + under;
    for c in 0..3 {
        let sum = u32::from(new[c]) * over + u32::from(old[c]) * under;
        old[c] = (sum / alpha.max(1)) as u8;
    }
    old[3] = (alpha / 255) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_beyond_the_canvas_are_cut() {
        let mut canvas = Canvas::new(2, 2).unwrap();
        let white = vec![255; 4 * 9];
        canvas.draw(Area { left: 1, top: 1, width: 3, height: 3 }, &white, 12, true);
        assert_eq!(canvas.rgb(), [[0; 3], [0; 3], [0; 3], [255; 3]].concat());
        canvas.draw(Area { left: 9, top: 0, width: 3, height: 3 }, &white, 12, true);
        canvas.clear(Area { left: 0, top: 1, width: 65_535, height: 65_535 });
        assert_eq!(canvas.rgb(), [0; 12]);
    }

    #[test]
    fn half_transparent_pixels_mix() {
        let mut canvas = Canvas::new(1, 1).unwrap();
        let area = Area { left: 0, top: 0, width: 1, height: 1 };
        canvas.draw(area, &[200, 0, 0, 255], 4, true);
        canvas.draw(area, &[0, 100, 0, 128], 4, true);
        assert_eq!(canvas.rgb(), [99, 50, 0]);
        canvas.draw(area, &[0, 100, 0, 128], 4, false);
        assert_eq!(canvas.rgb(), [0, 50, 0]);
    }
}
