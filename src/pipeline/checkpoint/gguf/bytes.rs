//! Numbers and strings from a file that may announce anything.

use std::io::{self, ErrorKind, Read};

/// What ended the reading of a header.
#[derive(Debug)]
pub(super) enum Problem {
    /// The operating system refused.
    Io(io::Error),
    /// The file contradicts itself or the format, as part of a sentence.
    Text(String),
    /// The file is whole, but of a kind that is not read: what it is, and what would be read.
    Unsupported(String, String),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A reader that counts what it has read and stops at a limit.
#[derive(Debug)]
pub(super) struct Bytes<R> {
    inner: R,
    position: u64,
    limit: u64,
}

impl<R: Read> Bytes<R> {
    /// Reads from `inner`, which stands at the byte `position` of the file, up to byte `limit`.
    pub(super) fn new(inner: R, position: u64, limit: u64) -> Self {
        Self { inner, position, limit }
    }

    /// Bytes from the start of the file.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        self.advance(N as u64)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(of_io)?;
        Ok(bytes)
    }

    /// A string of at most `most` bytes, after its length.
    pub(super) fn string(&mut self, most: u64) -> Result<String, Problem> {
        let len = self.u64()?;
        if len > most {
            return Err(format!("a name or text in its header has {len} bytes").into());
        }
        self.advance(len)?;
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut self.inner).take(len).read_to_end(&mut bytes);
        if read.map_err(Problem::Io)? as u64 != len {
            return Err(ends_early());
        }
        String::from_utf8(bytes).map_err(|err| format!("its header is {}", err.utf8_error()).into())
    }

    /// Leaves out `len` bytes.
    pub(super) fn skip(&mut self, len: u64) -> Result<(), Problem> {
        self.advance(len)?;
        let copied = io::copy(&mut Read::by_ref(&mut self.inner).take(len), &mut io::sink());
        if copied.map_err(Problem::Io)? == len { Ok(()) } else { Err(ends_early()) }
    }

    fn advance(&mut self, len: u64) -> Result<(), Problem> {
        self.position = self.position.saturating_add(len);
        if self.position > self.limit {
            return Err(format!("its header takes more than {} bytes", self.limit).into());
        }
        Ok(())
    }
}

fn of_io(err: io::Error) -> Problem {
    if err.kind() == ErrorKind::UnexpectedEof { ends_early() } else { Problem::Io(err) }
}

fn ends_early() -> Problem {
    Problem::Text("it ends within its header".to_owned())
}
