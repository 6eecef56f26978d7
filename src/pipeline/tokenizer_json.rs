//! Tokenizers that come as `tokenizer.json`: handed to the `tokenizers` crate after a check.
//!
//! The crate trusts its file in places where a damaged one would make it panic or exhaust memory
//! later (normalization tables, scores, padding instructions); those are looked at first.

use super::charsmap::Charsmap;
use super::sentencepiece::{ModelError, check_piece};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{DecoderWrapper, PostProcessorWrapper, Tokenizer};

/// The parts that are checked.
#[derive(Deserialize)]
struct File {
    model: Model,
    normalizer: Option<Value>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Option<Value>,
    unk_id: Option<usize>,
}

/// Reads `tokenizer.json`, which must hold a Unigram model.
pub(super) fn parse(bytes: &[u8]) -> Result<Tokenizer, ModelError> {
    let file: File = serde_json::from_slice(bytes).map_err(|err| err.to_string())?;
    match file.model.kind.as_deref() {
        Some("Unigram") => {}
        Some("BPE") => return Err(ModelError::Kind("BPE")),
        Some("WordPiece") => return Err(ModelError::Kind("WordPiece")),
        Some("WordLevel") => return Err(ModelError::Kind("WordLevel")),
        _ => return Err(ModelError::Kind("of an unknown kind")),
    }
    let vocab: Vec<(String, f64)> = serde_json::from_value(file.model.vocab.unwrap_or_default())
        .map_err(|err| format!("vocabulary: {err}"))?;
    for (index, (piece, score)) in vocab.iter().enumerate() {
        check_piece(index, piece, *score)?;
    }
    if file.model.unk_id.is_none_or(|id| id >= vocab.len()) {
        return Err("the token for unknown text is missing".into());
    }
    check_tables(file.normalizer.as_ref())?;
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|err| err.to_string())?;
    // the caller does these
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|err| err.to_string())?;
    tokenizer.with_post_processor(None::<PostProcessorWrapper>);
    tokenizer.with_decoder(None::<DecoderWrapper>);
    Ok(tokenizer)
}

/// Checks every normalization table in a tree of normalizers.
fn check_tables(normalizer: Option<&Value>) -> Result<(), String> {
    match normalizer {
        Some(Value::Object(map)) => map.iter().try_for_each(|(key, value)| match value {
            Value::String(text) if key == "precompiled_charsmap" => {
                let table = base64(text).ok_or("normalization table is not base64")?;
                Charsmap::parse(&table).map(drop)
            }
            _ => check_tables(Some(value)),
        }),
        Some(Value::Array(list)) => list.iter().try_for_each(|value| check_tables(Some(value))),
        _ => Ok(()),
    }
}

/// Decodes base64 with the standard alphabet and padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut pending, mut bits) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        pending = (pending << 6 | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((pending >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded() {
        assert_eq!(base64("TWFu").unwrap(), b"Man");
        assert_eq!(base64("TWE=").unwrap(), b"Ma");
        assert_eq!(base64("TQ==").unwrap(), b"M");
        assert_eq!(base64("+/8A").unwrap(), [0xfb, 0xff, 0]);
        assert_eq!(base64("").unwrap(), b"");
        for text in ["T", "TQ=", "TWF_", "T===", "TW Fu", "=TWF"] {
            assert_eq!(base64(text), None, "{text}");
        }
    }
}
