//! Tokenizers that come as `spiece.model` only: a Unigram model of `SentencePiece`.
//!
//! The file is a protobuf message; the few fields that matter are read by [`protobuf`]. The search
//! for the best pieces is the one of the `tokenizers` crate, the normalization before it is ours,
//! because transformers has two, which disagree in corner cases:
//!
//! | | replaces | first `▁` |
//! |---|---|---|
//! | slow class (`T5Tokenizer`), the library `SentencePiece` itself | the longest known string | always added |
//! | fast class (`T5TokenizerFast`), a conversion | whole graphemes, else single characters | not where the text starts with one |

mod protobuf;

use super::charsmap::Charsmap;
use protobuf::{ModelProto, Piece, piece_type};
use tokenizers::Model as _;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::{NormalizedString, Normalizer as _};

/// What a space becomes before the search.
const SPACE: char = '▁';

/// Longest piece in bytes, far above any real one: the search tree is as deep.
pub(super) const MAX_PIECE_BYTES: usize = 4096;

/// Which of the two implementations of transformers is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    /// `SentencePiece` itself.
    Slow,
    /// The conversion to the `tokenizers` crate.
    Fast,
}

/// Why a model cannot be used.
#[derive(Debug)]
pub(super) enum ModelError {
    /// It is of another kind, named here.
    Kind(&'static str),
    /// It is damaged or uses something that is not implemented.
    Damaged(String),
}

impl<T: Into<String>> From<T> for ModelError {
    fn from(message: T) -> Self {
        Self::Damaged(message.into())
    }
}

/// A Unigram tokenizer.
#[derive(Debug)]
pub(super) struct SentencePiece {
    unigram: Unigram,
    charsmap: Charsmap,
    /// The same table for whole graphemes; for [`Flavor::Fast`] only.
    precompiled: Option<Precompiled>,
    flavor: Flavor,
    remove_extra_whitespaces: bool,
    add_dummy_prefix: bool,
    /// Tokens that are cut out of the text before anything else, and their ids.
    special: Vec<(String, u32)>,
    pieces: usize,
}

impl SentencePiece {
    /// Reads `spiece.model`.
    pub(super) fn parse(bytes: &[u8], flavor: Flavor) -> Result<Self, ModelError> {
        let proto = ModelProto::parse(bytes)?;
        match proto.model_type {
            1 => {}
            2 => return Err(ModelError::Kind("BPE")),
            3 => return Err(ModelError::Kind("word")),
            4 => return Err(ModelError::Kind("character")),
            other => return Err(format!("model type {other} is unknown").into()),
        }
        if proto.treat_whitespace_as_suffix || !proto.escape_whitespaces {
            return Err("spaces are not marked in front of words, which is not supported".into());
        }
        if !proto.has_normalizer {
            return Err("the message ends before the normalizer".into());
        }
        check_pieces(&proto.pieces, proto.unk_id)?;
        let special = proto.pieces.iter().zip(0..).filter(|(piece, _)| piece.is_special());
        let special = special.map(|(piece, id)| (piece.text.clone(), id)).collect();
        let map = proto.charsmap.as_slice();
        let has_map = !map.is_empty();
        let charsmap = if has_map { Charsmap::parse(map)? } else { Charsmap::default() };
        let precompiled = (has_map && flavor == Flavor::Fast)
            .then(|| Precompiled::from(map).map_err(|err| err.to_string()))
            .transpose()?;
        let pieces = proto.pieces.len();
        let vocab =
            proto.pieces.into_iter().map(|piece| (piece.text, piece.score.into())).collect();
        let unigram = Unigram::from(vocab, Some(proto.unk_id), proto.byte_fallback)
            .map_err(|err| err.to_string())?;
        Ok(Self {
            unigram,
            charsmap,
            precompiled,
            flavor,
            remove_extra_whitespaces: proto.remove_extra_whitespaces,
            add_dummy_prefix: proto.add_dummy_prefix,
            special,
            pieces,
        })
    }

    /// Adds a token with its id; one that is a piece of the model already keeps the model's id.
    pub(super) fn add_special(&mut self, token: &str, id: u32) {
        let id = self.unigram.token_to_id(token).unwrap_or(id);
        if !token.is_empty() && self.special.iter().all(|(known, _)| known != token) {
            self.special.push((token.to_owned(), id));
        }
    }

    /// Number of pieces in the model itself.
    pub(super) fn pieces(&self) -> usize {
        self.pieces
    }

    /// Largest id that can come out, plus one.
    pub(super) fn id_bound(&self) -> usize {
        let special = self.special.iter().map(|&(_, id)| id as usize + 1).max();
        special.unwrap_or(0).max(self.pieces)
    }

    /// Whether a text that ends in `</s>` gets no second one.
    pub(super) fn keeps_end(&self) -> bool {
        self.flavor == Flavor::Slow
    }

    /// The id of a token, if it has one.
    pub(super) fn id_of(&self, token: &str) -> Option<u32> {
        let special = self.special.iter().find(|(known, _)| known == token);
        special.map(|&(_, id)| id).or_else(|| self.unigram.token_to_id(token))
    }

    /// The ids of `text`, without `</s>`.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((at, token, id)) = self.next_special(rest) {
            self.encode_plain(&rest[..at], &mut ids)?;
            ids.push(id);
            rest = &rest[at + token.len()..];
        }
        self.encode_plain(rest, &mut ids)?;
        Ok(ids)
    }

    /// The first special token in `text`, the longest if several start there.
    fn next_special(&self, text: &str) -> Option<(usize, &str, u32)> {
        self.special
            .iter()
            .filter_map(|(token, id)| Some((text.find(token.as_str())?, token.as_str(), *id)))
            .min_by_key(|&(at, token, _)| (at, std::cmp::Reverse(token.len())))
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let normalized = match self.flavor {
            Flavor::Slow => self.normalize_slow(text),
            Flavor::Fast => self.normalize_fast(text)?,
        };
        // the conversion searches word by word
        let starts = normalized.match_indices(SPACE).map(|(at, _)| at).filter(|&at| at > 0);
        let ends: Vec<usize> = match self.flavor {
            Flavor::Slow => vec![normalized.len()],
            Flavor::Fast => starts.chain([normalized.len()]).collect(),
        };
        let mut start = 0;
        for end in ends {
            let tokens = self.unigram.tokenize(&normalized[start..end]);
            ids.extend(tokens.map_err(|err| err.to_string())?.into_iter().map(|token| token.id));
            start = end;
        }
        Ok(())
    }

    /// `normalizer.cc` of `SentencePiece`.
    fn normalize_slow(&self, mut text: &str) -> String {
        let mut normalized = String::with_capacity(text.len() + SPACE.len_utf8());
        let mut is_after_space = self.remove_extra_whitespaces;
        let mut has_prefix = !self.add_dummy_prefix;
        while let Some(first) = text.chars().next() {
            let single = &text[..first.len_utf8()];
            let (len, mut part) =
                self.charsmap.longest_prefix(text).unwrap_or((single.len(), single));
            text = &text[len..];
            if is_after_space {
                part = part.trim_start_matches(' ');
            }
            if !has_prefix && (!part.is_empty() || !self.remove_extra_whitespaces) {
                normalized.push(SPACE);
                has_prefix = true;
            }
            if !part.is_empty() {
                normalized.extend(part.chars().map(|c| if c == ' ' { SPACE } else { c }));
                is_after_space = self.remove_extra_whitespaces && part.ends_with(' ');
            }
        }
        if self.remove_extra_whitespaces {
            normalized.truncate(normalized.trim_end_matches(SPACE).len());
        }
        normalized
    }

    /// What transformers builds for the `tokenizers` crate: table, strip on the right, runs of
    /// spaces to one mark, one mark in front.
    fn normalize_fast(&self, text: &str) -> Result<String, String> {
        let mut string = NormalizedString::from(text);
        if let Some(precompiled) = &self.precompiled {
            precompiled.normalize(&mut string).map_err(|err| err.to_string())?;
        }
        let mut normalized = String::with_capacity(text.len() + SPACE.len_utf8());
        let mut is_after_space = false;
        for c in string.get().trim_end().chars() {
            if c != ' ' {
                normalized.push(c);
            } else if !is_after_space {
                normalized.push(SPACE);
            }
            is_after_space = c == ' ';
        }
        if !normalized.is_empty() && !normalized.starts_with(SPACE) {
            normalized.insert(0, SPACE);
        }
        Ok(normalized)
    }
}

/// Rejects what would make the search fail later.
fn check_pieces(pieces: &[Piece], unk_id: usize) -> Result<(), String> {
    for (piece, index) in pieces.iter().zip(0..) {
        check_piece(index, &piece.text, piece.score.into())?;
    }
    match pieces.get(unk_id) {
        Some(piece) if piece.kind == piece_type::UNKNOWN => Ok(()),
        _ => Err(format!("piece {unk_id} is not the one for unknown text")),
    }
}

/// Rejects a piece that would make the search fail later.
pub(super) fn check_piece(index: usize, text: &str, score: f64) -> Result<(), String> {
    if text.len() > MAX_PIECE_BYTES {
        return Err(format!("piece {index} is {} bytes long", text.len()));
    }
    if !score.is_finite() {
        return Err(format!("piece {index} has score {score}"));
    }
    Ok(())
}

impl Piece {
    /// Whether the piece is not text but a mark, to be cut out before the search.
    fn is_special(&self) -> bool {
        let is_mark = [piece_type::UNKNOWN, piece_type::CONTROL, piece_type::USER_DEFINED];
        is_mark.contains(&self.kind) && !self.text.is_empty()
    }
}
