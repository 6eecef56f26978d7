//! MP4 (ISO/IEC 14496-12 and -15): one video track, its index before its data, no times of day.

use super::frames::Frames;
use super::h264::{self, Stream};
use super::output::Failure;
use std::io::{Read, Seek, SeekFrom, Write};

/// Largest index read for its metadata, bytes.
const MAX_INDEX: u64 = 64 << 20;
/// The comment of a file, as Apple and ffmpeg name it.
const COMMENT: &[u8; 4] = b"\xa9cmt";
/// Rotation-free placement, 16.16 and 2.30 fixed point.
const IDENTITY: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// Writes `frames` with `metadata`, JSON text, as the comment of the file.
pub(super) fn write(frames: &Frames, metadata: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let stream = h264::encode(frames)?;
    let mut head = Boxes::default();
    head.put(b"ftyp", |b| {
        b.bytes(b"isom");
        b.u32(0x200);
        b.bytes(b"isomiso2avc1mp41");
    });
    let media: usize = stream.samples.iter().map(|sample| sample.bytes.len()).sum();
    let mdat_len = u32::try_from(media + 8);
    // The index is as long with any offset in it, so its first build measures it.
    let measured = head.0.len() + index(frames, &stream, metadata, 0).0.len() + 8;
    let (Ok(mdat_len), Ok(offset)) = (mdat_len, u32::try_from(measured)) else {
        return Err(Failure::Limit(
            "an MP4 file holds up to 4 GiB of video; a folder of PNG files has no such limit"
                .to_string(),
        ));
    };
    out.write_all(&head.0)?;
    out.write_all(&index(frames, &stream, metadata, offset).0)?;
    out.write_all(&mdat_len.to_be_bytes())?;
    out.write_all(b"mdat")?;
    for sample in &stream.samples {
        out.write_all(&sample.bytes)?;
    }
    Ok(())
}

/// Boxes under construction.
#[derive(Debug, Default)]
struct Boxes(Vec<u8>);

impl Boxes {
    /// Appends a box of `kind` with the content that `fill` appends.
    fn put(&mut self, kind: &[u8; 4], fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.u32(0);
        self.bytes(kind);
        fill(self);
        let len = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// As [`Boxes::put`], for a box that starts with a version of 0 and `flags`.
    fn put_full(&mut self, kind: &[u8; 4], flags: u32, fill: impl FnOnce(&mut Self)) {
        self.put(kind, |b| {
            b.u32(flags);
            fill(b);
        });
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32s(&mut self, values: &[u32]) {
        values.iter().for_each(|&value| self.u32(value));
    }
}

/// The `moov` box; the samples follow each other from `offset`, counted from the file's start.
fn index(frames: &Frames, stream: &Stream, metadata: &str, offset: u32) -> Boxes {
    let rate = frames.rate();
    // A frame lasts about a thousand ticks, fine enough for players that calculate in ticks.
    let ticks = if rate.seconds == 1 { 1000 } else { 1 };
    let (timescale, step) = (rate.frames * ticks, rate.seconds * ticks);
    let duration = (stream.samples.len() as u32).saturating_mul(step);
    let mut boxes = Boxes::default();
    boxes.put(b"moov", |b| {
        b.put_full(b"mvhd", 0, |b| {
            b.u32s(&[0, 0, timescale, duration, 0x1_0000]); // creation, modification, …, speed
            b.u16(0x100); // volume
            b.zeros(10);
            b.u32s(&IDENTITY);
            b.zeros(24);
            b.u32(2); // next track
        });
        b.put(b"trak", |b| {
            b.put_full(b"tkhd", 3, |b| {
                b.u32s(&[0, 0, 1, 0, duration]); // creation, modification, track, reserved
                b.zeros(16);
                b.u32s(&IDENTITY);
                b.u32s(&[(stream.width as u32) << 16, (stream.height as u32) << 16]);
            });
            b.put(b"mdia", |b| {
                b.put_full(b"mdhd", 0, |b| {
                    b.u32s(&[0, 0, timescale, duration]);
                    b.u16(0x55c4); // language "und"
                    b.u16(0);
                });
                handler(b, b"vide", b"VideoHandler\0");
                b.put(b"minf", |b| {
                    b.put_full(b"vmhd", 1, |b| b.zeros(8));
                    b.put(b"dinf", |b| {
                        b.put_full(b"dref", 0, |b| {
                            b.u32(1);
                            b.put_full(b"url ", 1, |_| {}); // the data is in this file
                        });
                    });
                    b.put(b"stbl", |b| sample_table(b, stream, step, offset));
                });
            });
        });
        b.put(b"udta", |b| comment(b, metadata));
    });
    boxes
}

fn handler(boxes: &mut Boxes, kind: &[u8; 4], name: &[u8]) {
    boxes.put_full(b"hdlr", 0, |b| {
        b.u32(0);
        b.bytes(kind);
        b.zeros(12);
        b.bytes(name);
    });
}

/// What the samples are, how long each lasts, and where it lies.
fn sample_table(boxes: &mut Boxes, stream: &Stream, step: u32, offset: u32) {
    let count = stream.samples.len() as u32;
    boxes.put_full(b"stsd", 0, |b| {
        b.u32(1);
        sample_entry(b, stream);
    });
    boxes.put_full(b"stts", 0, |b| b.u32s(&[1, count, step]));
    let keys: Vec<u32> =
        (1..).zip(&stream.samples).filter(|(_, s)| s.is_key).map(|(number, _)| number).collect();
    boxes.put_full(b"stss", 0, |b| {
        b.u32(keys.len() as u32);
        b.u32s(&keys);
    });
    boxes.put_full(b"stsc", 0, |b| b.u32s(&[1, 1, count, 1])); // one chunk with all samples
    boxes.put_full(b"stsz", 0, |b| {
        b.u32s(&[0, count]);
        stream.samples.iter().for_each(|sample| b.u32(sample.bytes.len() as u32));
    });
    boxes.put_full(b"stco", 0, |b| b.u32s(&[1, offset]));
}

fn sample_entry(boxes: &mut Boxes, stream: &Stream) {
    const DPI_72: u32 = 72 << 16;
    boxes.put(b"avc1", |b| {
        b.zeros(6);
        b.u16(1); // data reference
        b.zeros(16);
        b.u16(stream.width as u16);
        b.u16(stream.height as u16);
        b.u32s(&[DPI_72, DPI_72, 0]);
        b.u16(1); // frames per sample
        b.zeros(32); // compressor name
        b.u16(24); // bits per pixel
        b.u16(0xffff); // no color table
        b.put(b"avcC", |b| {
            b.bytes(&[1]);
            b.bytes(&stream.sps[1..4]); // profile, constraints, level
            b.bytes(&[0xff, 0xe1]); // lengths of four bytes; one sequence parameter set
            b.u16(stream.sps.len() as u16);
            b.bytes(&stream.sps);
            b.bytes(&[1]);
            b.u16(stream.pps.len() as u16);
            b.bytes(&stream.pps);
        });
        b.put(b"colr", |b| {
            b.bytes(b"nclx");
            [1, 1, 1].iter().for_each(|&bt709| b.u16(bt709)); // primaries, transfer, matrix
            b.bytes(&[0]); // limited range
        });
        b.put(b"pasp", |b| b.u32s(&[1, 1]));
    });
}

fn comment(boxes: &mut Boxes, text: &str) {
    boxes.put_full(b"meta", 0, |b| {
        handler(b, b"mdir", &[0]);
        b.put(b"ilst", |b| {
            b.put(COMMENT, |b| {
                b.put(b"data", |b| {
                    b.u32s(&[1, 0]); // UTF-8, any locale
                    b.bytes(text.as_bytes());
                });
            });
        });
    });
}

/// The comment of an MP4 file, if it has one; damaged files have none.
pub(super) fn read_comment(file: &mut (impl Read + Seek)) -> Option<String> {
    let index = read_index(file)?;
    let meta = child(child(&index, b"udta")?, b"meta")?;
    let item = child(child(meta.get(4..)?, b"ilst")?, COMMENT)?;
    String::from_utf8(child(item, b"data")?.get(8..)?.to_vec()).ok()
}

/// The content of the `moov` box.
fn read_index(file: &mut (impl Read + Seek)) -> Option<Vec<u8>> {
    let end = file.seek(SeekFrom::End(0)).ok()?;
    let mut at = 0_u64;
    while at < end {
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut head = [0; 16];
        file.read_exact(&mut head[..8]).ok()?;
        let word =
            |from: usize| u64::from(u32::from_be_bytes([0, 1, 2, 3].map(|i| head[from + i])));
        let (mut len, mut head_len) = (word(0), 8);
        if len == 1 {
            file.read_exact(&mut head[8..]).ok()?;
            len = u64::from_be_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|i| head[i]));
            head_len = 16;
        } else if len == 0 {
            len = end - at;
        }
        let content = len.checked_sub(head_len)?;
        if head[4..8] == *b"moov" {
            if content > MAX_INDEX || content > end - at {
                return None;
            }
            let mut bytes = vec![0; content as usize];
            file.read_exact(&mut bytes).ok()?;
            return Some(bytes);
        }
        at = at.checked_add(len)?;
    }
    None
}

/// The content of the first box of `kind` in `boxes`.
fn child<'a>(mut boxes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    loop {
        let (head, _) = boxes.split_first_chunk::<8>()?;
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let content = boxes.get(8..len)?;
        if head[4..] == *kind {
            return Some(content);
        }
        boxes = &boxes[len..];
    }
}
