//! A contact sheet: the clips themselves, three frames each, marked by what their captions ask.

use super::{Case, EvaluateError, Evaluated, Sample};
use crate::pipeline::PipelineError;
use crate::pipeline::video::Frames;
use crate::world::{Clip, Scores};

/// Clips side by side.
const COLUMNS: usize = 4;
/// Frames of a clip: first, middle, last.
const SHOWN: usize = 3;
/// Pixels between clips and between marks.
const GAP: usize = 8;
/// Pixels between the frames of a clip.
const SEAM: usize = 2;
/// Frames are enlarged to at least this height.
const MIN_HEIGHT: usize = 96;
/// Pixels of a dot of a mark.
const DOT: usize = 2;

const PAPER: [u8; 3] = [250, 250, 248];
const PASS: [u8; 3] = [22, 128, 60];
const FAIL: [u8; 3] = [200, 40, 40];
const NEUTRAL: [u8; 3] = [200, 200, 198];

/// A tick and a cross, so that color is not needed to tell them apart.
const TICK: [&[u8; 7]; 7] =
    [b"       ", b"      #", b"     ##", b"#   ## ", b"## ##  ", b" ###   ", b"  #    "];
const CROSS: [&[u8; 7]; 7] =
    [b"#     #", b"##   ##", b" ## ## ", b"  ###  ", b" ## ## ", b"##   ##", b"#     #"];
/// Pixels of a mark.
const MARK: usize = TICK.len() * DOT;

/// The clips of the first seed as one picture: for each its first, middle and last frame; below
/// them those of the reference, if there is one; below those a mark for each of shape, color,
/// motion and background, in this order. The frame around a clip says whether all are right.
///
/// # Errors
///
/// If there is no clip.
pub fn contact_sheet(
    cases: &[Case],
    evaluated: &Evaluated,
    reference: Option<&[Vec<Sample>]>,
) -> Result<Frames, EvaluateError> {
    let nothing = || EvaluateError::Setting("there is no clip for a contact sheet".to_owned());
    let samples = evaluated.runs.first().ok_or_else(nothing)?;
    let reference = reference.and_then(<[_]>::first);
    let [_, height, width] = samples.first().ok_or_else(nothing)?.clip.shape();
    let layout = Layout {
        scale: MIN_HEIGHT.div_ceil(height.max(1)),
        frame: [height, width],
        strips: 1 + usize::from(reference.is_some()),
        has_marks: cases.iter().any(|case| case.scene.is_some()),
    };
    let mut page = layout.page(samples.len());
    for (index, sample) in samples.iter().enumerate() {
        let scores = evaluated.evaluation.clips.get(index).and_then(|clip| clip.scores.as_ref());
        let theirs = reference.and_then(|samples| samples.get(index));
        layout.draw(
            &mut page,
            index,
            [Some(&sample.clip), theirs.map(|sample| &sample.clip)],
            scores,
        );
    }
    let frames = Frames::new(page.width, page.rgb.len() / 3 / page.width, 1.0, page.rgb);
    Ok(frames.map_err(PipelineError::from)?)
}

/// Where things are on the sheet, pixels.
struct Layout {
    scale: usize,
    /// Height and width of a frame before scaling.
    frame: [usize; 2],
    /// Rows of frames per clip.
    strips: usize,
    has_marks: bool,
}

impl Layout {
    /// Height and width of a clip with its border.
    fn cell(&self) -> [usize; 2] {
        let [height, width] = self.frame.map(|side| side * self.scale);
        let marks = if self.has_marks { GAP / 2 + MARK + GAP / 2 } else { 0 };
        [self.strips * (height + SEAM) + SEAM + marks, SHOWN * (width + SEAM) + SEAM]
    }

    fn page(&self, clips: usize) -> Page {
        let [height, width] = self.cell().map(|side| side + GAP);
        let columns = clips.clamp(1, COLUMNS);
        let (width, height) = (columns * width + GAP, clips.div_ceil(columns) * height + GAP);
        Page { width, rgb: PAPER.repeat(width * height) }
    }

    fn draw(
        &self,
        page: &mut Page,
        index: usize,
        strips: [Option<&Clip>; 2],
        scores: Option<&Scores>,
    ) {
        let columns = (page.width - GAP) / (self.cell()[1] + GAP);
        let [height, width] = self.cell();
        let y = GAP + index / columns * (height + GAP);
        let x = GAP + index % columns * (width + GAP);
        let color = |is_right: bool| if is_right { PASS } else { FAIL };
        let border = scores.map_or(NEUTRAL, |scores| color(scores.all));
        let [frame_height, frame_width] = self.frame.map(|side| side * self.scale);
        page.fill([y, x], [self.strips * (frame_height + SEAM) + SEAM, width], border);
        for (strip, clip) in strips.into_iter().flatten().enumerate() {
            let last = clip.frames().saturating_sub(1);
            for (place, frame) in [0, last / 2, last].into_iter().enumerate() {
                let corner = [
                    y + SEAM + strip * (frame_height + SEAM),
                    x + SEAM + place * (frame_width + SEAM),
                ];
                page.picture(corner, clip.frame(frame), self.frame, self.scale);
            }
        }
        let Some(scores) = scores else { return };
        let below = y + self.strips * (frame_height + SEAM) + SEAM + GAP / 2;
        let words = [scores.shape, scores.color, scores.speed, scores.background];
        for (i, is_right) in words.into_iter().enumerate() {
            let mark = if is_right { TICK } else { CROSS };
            page.mark([below, x + i * (MARK + GAP)], mark, color(is_right));
        }
    }
}

struct Page {
    width: usize,
    /// `[height, width, 3]`.
    rgb: Vec<u8>,
}

impl Page {
    fn fill(&mut self, [y, x]: [usize; 2], [height, width]: [usize; 2], color: [u8; 3]) {
        for row in y..y + height {
            let start = (row * self.width + x) * 3;
            for pixel in self.rgb[start..start + width * 3].chunks_exact_mut(3) {
                pixel.copy_from_slice(&color);
            }
        }
    }

    fn picture(&mut self, [y, x]: [usize; 2], rgb: &[u8], [_, width]: [usize; 2], scale: usize) {
        for (i, pixel) in rgb.chunks_exact(3).enumerate() {
            let corner = [y + i / width * scale, x + i % width * scale];
            self.fill(corner, [scale; 2], [pixel[0], pixel[1], pixel[2]]);
        }
    }

    fn mark(&mut self, [y, x]: [usize; 2], mark: [&[u8; 7]; 7], color: [u8; 3]) {
        for (i, line) in mark.into_iter().enumerate() {
            for (j, _) in line.iter().enumerate().filter(|(_, dot)| **dot == b'#') {
                self.fill([y + i * DOT, x + j * DOT], [DOT; 2], color);
            }
        }
    }
}
