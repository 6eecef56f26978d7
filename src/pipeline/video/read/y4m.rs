//! YUV4MPEG2: a line of text, then planes.
//!
//! The format cannot name a matrix; what [`write()`](crate::pipeline::video::write) writes, what
//! ffmpeg is asked for and what readers assume is BT.601.

use super::{Picture, Show, Trouble, pixels};
use crate::pipeline::video::color::{BT601, Range};
use rayon::prelude::*;
use std::io::{BufRead, Read};

/// Longest line of text, bytes.
const MAX_LINE: u64 = 1024;

/// Shows every frame.
pub(super) fn read(file: &mut impl BufRead, show: &mut Show<'_>) -> Result<(), Trouble> {
    let header = line(file)?.ok_or_else(|| Trouble::Damaged("it is empty".to_owned()))?;
    let format = Format::parse(&header)?;
    while let Some(line) = line(file)? {
        if line != "FRAME" && !line.starts_with("FRAME ") {
            let message = format!("no frame begins where frame {} should", show.count + 1);
            return Err(Trouble::Damaged(message));
        }
        let planes = format.read_planes(file)?;
        let rgb = format.rgb(&planes);
        show.picture(Picture { width: format.width, height: format.height, rgb: &rgb })?;
    }
    Ok(())
}

/// The next line without its end; `None` where the file ends.
fn line(file: &mut impl BufRead) -> Result<Option<String>, Trouble> {
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(Trouble::Damaged("a line of text has no end".to_owned()));
    }
    let text = String::from_utf8(bytes);
    Ok(Some(text.map_err(|_| Trouble::Damaged("a line of text is none".to_owned()))?))
}

/// What the header says.
#[derive(Debug)]
struct Format {
    width: usize,
    height: usize,
    chroma: Chroma,
    range: Range,
}

/// Where the samples of color are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Chroma {
    /// Nowhere.
    None,
    /// One for every `step` pixels across and down; sample 0 lies at `offset` pixels from the first
    /// pixel of the row.
    Samples { step: [usize; 2], offset: f32 },
}

impl Format {
    fn parse(header: &str) -> Result<Self, Trouble> {
        let mut tokens = header.split(' ');
        if tokens.next() != Some("YUV4MPEG2") {
            return Err(Trouble::Damaged("it does not begin with YUV4MPEG2".to_owned()));
        }
        let (mut width, mut height, mut chroma, mut range) = (None, None, "420", Range::Limited);
        for token in tokens.filter(|token| !token.is_empty()) {
            let (key, value) = token.split_at(token.chars().next().map_or(0, char::len_utf8));
            match key {
                "W" => width = value.parse().ok(),
                "H" => height = value.parse().ok(),
                "C" => chroma = value,
                "X" if value == "COLORRANGE=FULL" => range = Range::Full,
                _ => {}
            }
        }
        let (Some(width), Some(height)) = (width, height) else {
            return Err(Trouble::Damaged("its header has no width and height".to_owned()));
        };
        pixels(width, height)?;
        Ok(Self { width, height, chroma: Chroma::parse(chroma)?, range })
    }

    /// Rows and columns of a plane of color.
    fn chroma_size(&self) -> [usize; 2] {
        match self.chroma {
            Chroma::None => [0, 0],
            Chroma::Samples { step: [across, down], .. } => {
                [self.height.div_ceil(down), self.width.div_ceil(across)]
            }
        }
    }

    /// Luma, then the two planes of color.
    fn read_planes(&self, file: &mut impl Read) -> Result<Vec<u8>, Trouble> {
        let [rows, columns] = self.chroma_size();
        let len = self.width * self.height + 2 * rows * columns;
        // Grows with what is there, not with what the header promises.
        let mut planes = Vec::new();
        if file.take(len as u64).read_to_end(&mut planes)? != len {
            return Err(Trouble::Damaged("it ends within a frame".to_owned()));
        }
        Ok(planes)
    }

    /// RGB8 `[height, width, 3]`; between samples of color it is interpolated.
    fn rgb(&self, planes: &[u8]) -> Vec<u8> {
        let (luma, chroma) = planes.split_at(self.width * self.height);
        let [rows, columns] = self.chroma_size();
        let (cb, cr) = chroma.split_at(rows * columns);
        let (step, offset) = match self.chroma {
            Chroma::None => ([1, 1], 0.0),
            Chroma::Samples { step, offset } => (step, offset),
        };
        let across: Vec<Between> =
            (0..self.width).map(|x| Between::new(x, step[0], offset, columns)).collect();
        let center = (step[1] - 1) as f32 / 2.0;
        let mut rgb = vec![0; 3 * luma.len()];
        let by_row = rgb.par_chunks_exact_mut(3 * self.width).zip(luma.par_chunks(self.width));
        by_row.enumerate().for_each(|(y, (target, luma))| {
            let down = Between::new(y, step[1], center, rows);
            for ((target, &luma), across) in target.chunks_exact_mut(3).zip(luma).zip(&across) {
                let [cb, cr] = match self.chroma {
                    Chroma::None => [128.0; 2],
                    Chroma::Samples { .. } => [cb, cr].map(|plane| {
                        down.mix(|row| across.mix(|x| f32::from(plane[row * columns + x])))
                    }),
                };
                target.copy_from_slice(&BT601.rgb([f32::from(luma), cb, cr], self.range));
            }
        });
        rgb
    }
}

impl Chroma {
    fn parse(name: &str) -> Result<Self, Trouble> {
        let samples = |across, down, offset| Ok(Self::Samples { step: [across, down], offset });
        match name {
            // As JPEG and MPEG-1 have it: in the middle of four pixels.
            "420" | "420jpeg" => samples(2, 2, 0.5),
            "420mpeg2" | "420paldv" => samples(2, 2, 0.0),
            "422" => samples(2, 1, 0.0),
            "444" => samples(1, 1, 0.0),
            "mono" => Ok(Self::None),
            other => Err(Trouble::Unsupported(format!(
                "its color format {:?} is not 420, 422, 444 or mono with 8 bits; convert it with \
                 `ffmpeg -i IN.y4m -pix_fmt yuv444p OUT.y4m`",
                other.chars().take(20).collect::<String>()
            ))),
        }
    }
}

/// A place between two samples.
#[derive(Clone, Copy, Debug)]
struct Between {
    first: usize,
    second: usize,
    /// Weight of the second.
    weight: f32,
}

impl Between {
    /// Of pixel `at`, where every `step` pixels have one of `len` samples.
    fn new(at: usize, step: usize, offset: f32, len: usize) -> Self {
        let place = ((at as f32 - offset) / step as f32).max(0.0);
        let last = len.saturating_sub(1);
        let first = (place as usize).min(last);
        Self { first, second: (first + 1).min(last), weight: place - place.floor() }
    }

    fn mix(self, sample: impl Fn(usize) -> f32) -> f32 {
        if self.weight == 0.0 {
            return sample(self.first);
        }
        sample(self.first) * (1.0 - self.weight) + sample(self.second) * self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_other_programs_are_understood() {
        let format =
            Format::parse("YUV4MPEG2 W352 H288 F30000:1001 Ip A128:117 C420mpeg2 XYSCSS=420")
                .unwrap();
        assert_eq!((format.width, format.height, format.range), (352, 288, Range::Limited));
        assert_eq!(format.chroma, Chroma::Samples { step: [2, 2], offset: 0.0 });
        let format = Format::parse("YUV4MPEG2 H2 W3 XCOLORRANGE=FULL Cmono").unwrap();
        assert_eq!((format.chroma, format.range), (Chroma::None, Range::Full));
        for bad in [
            "",
            "RIFF",
            "YUV4MPEG2",
            "YUV4MPEG2 W4 H0",
            "YUV4MPEG2 W-1 H4",
            "YUV4MPEG2 W4 H4 C420p10",
            "YUV4MPEG2 W99999999999 H99999999999",
        ] {
            assert!(Format::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn samples_lie_where_their_standard_puts_them() {
        let weights = |offset| -> Vec<(usize, f32)> {
            (0..4).map(|x| Between::new(x, 2, offset, 2)).map(|b| (b.first, b.weight)).collect()
        };
        assert_eq!(weights(0.0), [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5)]);
        assert_eq!(weights(0.5), [(0, 0.0), (0, 0.25), (0, 0.75), (1, 0.25)]);
    }
}
