//! PNG: one picture, an animation, or a folder of pictures.

use super::canvas::{Area, Canvas};
use super::{MAX_PIXELS, Picture, Show, Trouble, png_files};
use png::{
    BlendOp, ColorType, Decoder, DecodingError, DisposeOp, FrameControl, Limits, Reader,
    Transformations,
};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::Path;

/// Shows the pictures of `folder`, in natural order of their names.
pub(super) fn read_folder(folder: &Path, show: &mut Show<'_>) -> Result<(), Trouble> {
    let files = png_files(folder)?;
    if files.is_empty() {
        let message = "the folder has no .png files; convert its pictures to PNG";
        return Err(Trouble::Unsupported(message.to_owned()));
    }
    for path in files {
        let in_file = |err: Trouble| match err {
            Trouble::Damaged(message) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Trouble::Damaged(format!("{message} in {name}"))
            }
            other => other,
        };
        let file = BufReader::new(File::open(&path)?);
        Animation::open(file).and_then(|mut animation| animation.first(show)).map_err(in_file)?;
    }
    Ok(())
}

/// Shows every frame of an animation, or the one picture there is.
pub(super) fn read(file: impl BufRead + Seek, show: &mut Show<'_>) -> Result<(), Trouble> {
    let mut animation = Animation::open(file)?;
    let Some(frames) = animation.reader.info().animation_control().map(|all| all.num_frames) else {
        return animation.first(show);
    };
    // Without a place in the animation, the first picture is for viewers that know none.
    if animation.reader.info().frame_control().is_none() {
        animation.decode()?;
    }
    for _ in 0..frames {
        animation.frame(show)?;
    }
    Ok(())
}

struct Animation<R: BufRead + Seek> {
    reader: Reader<R>,
    canvas: Canvas,
    /// The last frame as it was decoded: RGBA8, or gray and alpha.
    buffer: Vec<u8>,
    /// The last frame, RGBA8.
    rgba: Vec<u8>,
}

impl<R: BufRead + Seek> Animation<R> {
    fn open(file: R) -> Result<Self, Trouble> {
        let mut decoder = Decoder::new_with_limits(file, Limits { bytes: 8 * MAX_PIXELS });
        decoder
            .set_transformations(Transformations::normalize_to_color8() | Transformations::ALPHA);
        decoder.set_ignore_text_chunk(true);
        let reader = decoder.read_info()?;
        let canvas = Canvas::new(reader.info().width as usize, reader.info().height as usize)?;
        let len = reader.output_buffer_size().unwrap_or(usize::MAX);
        if len > 4 * MAX_PIXELS {
            return Err(Trouble::TooLarge("a frame exceeds the limit".to_owned()));
        }
        Ok(Self { reader, canvas, buffer: vec![0; len], rgba: Vec::new() })
    }

    /// Shows the first picture.
    fn first(&mut self, show: &mut Show<'_>) -> Result<(), Trouble> {
        let (width, height) = (self.canvas.width, self.canvas.height);
        let stride = self.decode()?;
        let area = Area { left: 0, top: 0, width, height };
        self.canvas.draw(area, &self.rgba, stride, false);
        show.picture(Picture { width, height, rgb: &self.canvas.rgb() })
    }

    /// Shows the next frame of the animation.
    fn frame(&mut self, show: &mut Show<'_>) -> Result<(), Trouble> {
        let (width, height) = (self.canvas.width, self.canvas.height);
        let stride = self.decode()?;
        let Some(control) = self.reader.info().frame_control().copied() else {
            return Err(Trouble::Damaged("a frame has no place".to_owned()));
        };
        let area = area_of(&control);
        let before = (control.dispose_op == DisposeOp::Previous).then(|| self.canvas.clone());
        self.canvas.draw(area, &self.rgba, stride, control.blend_op == BlendOp::Over);
        show.picture(Picture { width, height, rgb: &self.canvas.rgb() })?;
        if let Some(before) = before {
            self.canvas = before;
        } else if control.dispose_op == DisposeOp::Background {
            self.canvas.clear(area);
        }
        Ok(())
    }

    /// Reads the next frame into `rgba` and returns the bytes from row to row.
    fn decode(&mut self) -> Result<usize, Trouble> {
        let output = self.reader.next_frame(&mut self.buffer)?;
        self.rgba.clear();
        match output.color_type {
            ColorType::Rgba => self.rgba.extend_from_slice(&self.buffer),
            ColorType::GrayscaleAlpha => {
                let pixels = self.buffer.chunks_exact(2);
                self.rgba.extend(pixels.flat_map(|pixel| [pixel[0], pixel[0], pixel[0], pixel[1]]));
            }
            other => return Err(Trouble::Unsupported(format!("its pixels are {other:?}"))),
        }
        // Interlaced frames are spread over rows of the whole width.
        let is_interlaced = self.reader.info().interlaced;
        Ok(4 * if is_interlaced { self.canvas.width } else { output.width as usize })
    }
}

fn area_of(control: &FrameControl) -> Area {
    Area {
        left: control.x_offset as usize,
        top: control.y_offset as usize,
        width: control.width as usize,
        height: control.height as usize,
    }
}

impl From<DecodingError> for Trouble {
    fn from(err: DecodingError) -> Self {
        match err {
            DecodingError::IoError(err) => err.into(),
            DecodingError::LimitsExceeded => Self::TooLarge("a frame exceeds the limit".to_owned()),
            other => Self::Damaged(other.to_string()),
        }
    }
}
