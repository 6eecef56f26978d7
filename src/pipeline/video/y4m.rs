//! YUV4MPEG2: uncompressed planes behind one line of text, what encoders and metrics read.
//!
//! Chroma has full resolution (`C444`), so only the rounding of the color transform is lost. The
//! format cannot name a matrix; readers assume BT.601, limited range, so that is what is written.

use super::color::{BT601, planes_444_from_rgb};
use super::frames::Frames;
use super::output::Failure;
use std::io::Write;

/// Writes `frames`.
pub(super) fn write(frames: &Frames, out: &mut dyn Write) -> Result<(), Failure> {
    let rate = frames.rate();
    writeln!(
        out,
        "YUV4MPEG2 W{} H{} F{}:{} Ip A1:1 C444 XCOLORRANGE=LIMITED",
        frames.width(),
        frames.height(),
        rate.frames,
        rate.seconds
    )?;
    for rgb in frames.iter() {
        out.write_all(b"FRAME\n")?;
        let planes = planes_444_from_rgb(rgb, BT601);
        for plane in [planes.y, planes.cb, planes.cr] {
            out.write_all(&plane)?;
        }
    }
    Ok(())
}
