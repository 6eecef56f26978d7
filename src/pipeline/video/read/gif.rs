//! GIF: frames that change parts of a canvas and may be taken back.

use super::canvas::{Area, Canvas};
use super::{MAX_PIXELS, Picture, Show, Trouble};
use gif::{ColorOutput, DecodeOptions, DecodingError, DisposalMethod, MemoryLimit};
use std::io::Read;
use std::num::NonZeroU64;

/// Shows every frame, however long it is to be shown.
pub(super) fn read(file: impl Read, show: &mut Show<'_>) -> Result<(), Trouble> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    let limit = NonZeroU64::MIN.saturating_add(4 * MAX_PIXELS as u64);
    options.set_memory_limit(MemoryLimit::Bytes(limit));
    let mut decoder = options.read_info(file)?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let mut canvas = Canvas::new(width, height)?;
    while let Some(frame) = decoder.read_next_frame()? {
        let [left, top, frame_width, frame_height] =
            [frame.left, frame.top, frame.width, frame.height].map(usize::from);
        let area = Area { left, top, width: frame_width, height: frame_height };
        let before = (frame.dispose == DisposalMethod::Previous).then(|| canvas.clone());
        canvas.draw(area, &frame.buffer, 4 * frame_width, true);
        show.picture(Picture { width, height, rgb: &canvas.rgb() })?;
        if let Some(before) = before {
            canvas = before;
        } else if frame.dispose == DisposalMethod::Background {
            // Not the background color of the header: no viewer paints it.
            canvas.clear(area);
        }
    }
    Ok(())
}

impl From<DecodingError> for Trouble {
    fn from(err: DecodingError) -> Self {
        match err {
            DecodingError::Io(err) => err.into(),
            DecodingError::UnexpectedEof => Self::Damaged("it ends too early".to_owned()),
            DecodingError::MemoryLimit => Self::TooLarge("a frame exceeds the limit".to_owned()),
            other => Self::Damaged(other.to_string()),
        }
    }
}
