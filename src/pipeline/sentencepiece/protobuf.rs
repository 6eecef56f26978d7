//! The fields of `sentencepiece_model.proto` that a Unigram tokenizer needs.
//!
//! A message is a list of fields: a varint `number·8 + wire type`, then a varint (0), eight bytes
//! (1), a length and as many bytes (2), or four bytes (5). Unknown fields are skipped, as the
//! format demands; a length that exceeds the file is an error.

/// The types of a piece.
pub(super) mod piece_type {
    pub(in super::super) const NORMAL: u64 = 1;
    pub(in super::super) const UNKNOWN: u64 = 2;
    pub(in super::super) const CONTROL: u64 = 3;
    pub(in super::super) const USER_DEFINED: u64 = 4;
}

/// One entry of the vocabulary; its id is its place.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Logarithm of its probability.
    pub(super) score: f32,
    /// One of [`piece_type`], or another number.
    pub(super) kind: u64,
}

/// A whole model; the values of [`Default`] are those of the schema.
#[derive(Clone, Debug)]
pub(super) struct ModelProto {
    pub(super) pieces: Vec<Piece>,
    /// 1 Unigram, 2 BPE, 3 word, 4 character.
    pub(super) model_type: u64,
    pub(super) unk_id: usize,
    pub(super) byte_fallback: bool,
    pub(super) treat_whitespace_as_suffix: bool,
    /// Whether there was a normalizer; every writer ends with it.
    pub(super) has_normalizer: bool,
    /// The normalization table, see [`super::Charsmap`]; may be empty.
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl Default for ModelProto {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            model_type: 1,
            unk_id: 0,
            byte_fallback: false,
            treat_whitespace_as_suffix: false,
            has_normalizer: false,
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

impl ModelProto {
    /// Reads a model. The message of an error says what is wrong.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self::default();
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => model.pieces.push(Piece::parse(value.bytes()?)?),
                2 => model.read_trainer_spec(value.bytes()?)?,
                3 => model.read_normalizer_spec(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(model)
    }

    fn read_trainer_spec(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                3 => self.model_type = value.varint()?,
                24 => self.treat_whitespace_as_suffix = value.varint()? != 0,
                35 => self.byte_fallback = value.varint()? != 0,
                40 => {
                    let id = value.varint()?;
                    self.unk_id = usize::try_from(id).map_err(|err| err.to_string())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer_spec(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.has_normalizer = true;
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                2 => self.charsmap = value.bytes()?.to_vec(),
                3 => self.add_dummy_prefix = value.varint()? != 0,
                4 => self.remove_extra_whitespaces = value.varint()? != 0,
                5 => self.escape_whitespaces = value.varint()? != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: piece_type::NORMAL };
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => {
                    let text = std::str::from_utf8(value.bytes()?);
                    piece.text = text.map_err(|err| format!("a piece is not text: {err}"))?.into();
                }
                2 => piece.score = value.float()?,
                3 => piece.kind = value.varint()?,
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// The content of a field.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Value<'a> {
    fn varint(self) -> Result<u64, String> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(self.unexpected()) }
    }

    fn bytes(self) -> Result<&'a [u8], String> {
        if let Self::Bytes(value) = self { Ok(value) } else { Err(self.unexpected()) }
    }

    fn float(self) -> Result<f32, String> {
        if let Self::Fixed32(value) = self {
            Ok(f32::from_le_bytes(value))
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(self) -> String {
        let kind = match self {
            Self::Varint(_) => "an integer",
            Self::Fixed64 => "eight bytes",
            Self::Bytes(_) => "a string",
            Self::Fixed32(_) => "four bytes",
        };
        format!("a field is unexpectedly {kind}")
    }
}

/// The fields of one message; ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "the message is cut off or not a protobuf".into()))
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// Seven bits per byte, the lowest first; ten bytes at most.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for index in 0..10 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_unknown_ones_skipped() {
        // piece { piece: "ab", score: -1.5, type: CONTROL, 200: 7 }, 9: fixed64, trainer { unk_id: 300 }
        let piece = [0x0a, 2, b'a', b'b', 0x15, 0, 0, 0xc0, 0xbf, 0x18, 3, 0xc0, 0x0c, 7];
        let mut bytes = vec![0x0a, piece.len() as u8];
        bytes.extend(piece);
        bytes.extend([0x49, 1, 2, 3, 4, 5, 6, 7, 8, 0x12, 4, 0xc0, 2, 0xac, 2]);
        let model = ModelProto::parse(&bytes).unwrap();
        let piece = &model.pieces[0];
        assert_eq!((piece.text.as_str(), piece.score, piece.kind), ("ab", -1.5, 3));
        assert_eq!((model.unk_id, model.model_type, model.add_dummy_prefix), (300, 1, true));
        // every cut but those between fields of the whole is an error
        let whole = [0, 16, 25, 31];
        for len in 0..bytes.len() {
            assert_eq!(ModelProto::parse(&bytes[..len]).is_ok(), whole.contains(&len), "{len}");
        }
    }

    #[test]
    fn wrong_types_and_endless_numbers_are_errors() {
        for bytes in [&[0x08, 1][..], &[0x0b], &[0x0a, 0xff], &[0xff; 11], &[0x12, 2, 0x1a, 0]] {
            assert!(ModelProto::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
