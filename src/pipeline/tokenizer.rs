//! From a prompt to the ids that the text encoder (T5, UMT5) is fed.
//!
//! Checkpoints ship `tokenizer.json` (Wan) or `spiece.model` only (`CogVideoX`); both hold a Unigram
//! model. The rules around it are T5's: no token in front, `</s>` behind, truncation keeps `</s>`,
//! padding fills the right.

use super::sentencepiece::{Flavor, ModelError, SentencePiece};
use super::tokenizer_json;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Sentinel tokens of a T5 tokenizer, where no file says how many.
const DEFAULT_EXTRA_IDS: u64 = 100;

/// More sentinel tokens than any vocabulary has; a limit against damaged files.
const MAX_EXTRA_IDS: u64 = 100_000;

/// Why a prompt could not be tokenized; messages name the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The folder has none of the known files.
    #[error("neither tokenizer.json nor spiece.model in {}", path.display())]
    Missing {
        /// Folder searched.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("the tokenizer is damaged: {message} in {}", path.display())]
    Damaged {
        /// What is wrong with it.
        message: String,
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer is no Unigram model.
    #[error("the tokenizer is {kind}, expected Unigram in {}", path.display())]
    Kind {
        /// The kind of model found.
        kind: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A token that every prompt needs is unknown.
    #[error("token \"{token}\" is missing in {}", path.display())]
    NoToken {
        /// The token.
        token: String,
        /// The file.
        path: PathBuf,
    },
    /// The text encoder has no embedding for some of the tokens.
    #[error("the tokenizer has {tokens} tokens, the text encoder {vocab_size}: {}", path.display())]
    Vocabulary {
        /// Ids of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        vocab_size: usize,
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// No room for even the end of a prompt.
    #[error("a prompt of at most 0 tokens is not possible")]
    NoRoom,
    /// The text cannot be tokenized.
    #[error("the text cannot be tokenized: {message} by {}", path.display())]
    Encode {
        /// What the model reports.
        message: String,
        /// The tokenizer's file.
        path: PathBuf,
    },
}

/// A tokenized prompt of a fixed length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// Ids, `[max_length]`: the prompt, `</s>`, padding.
    pub ids: Vec<u32>,
    /// Number of ids that are not padding, `</s>` included.
    pub len: usize,
}

impl PromptTokens {
    /// Which ids are not padding, `[max_length]`.
    #[must_use]
    pub fn attention_mask(&self) -> Vec<bool> {
        (0..self.ids.len()).map(|index| index < self.len).collect()
    }
}

#[derive(Debug)]
enum Model {
    Json(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<SentencePiece>),
}

/// The tokenizer of a checkpoint.
#[derive(Debug)]
pub struct Tokenizer {
    model: Model,
    pad: u32,
    eos: u32,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads the folder `tokenizer` of a checkpoint; `tokenizer.json` is preferred.
    ///
    /// `vocab_size` is the number of rows of the text encoder's embedding.
    ///
    /// # Errors
    ///
    /// If the files are missing, damaged, of another kind than Unigram, lack the tokens for padding
    /// or end, or have more tokens than `vocab_size`.
    pub fn open(folder: &Path, vocab_size: usize) -> Result<Self, TextError> {
        let settings = Settings::read(folder)?;
        let (json, spiece) = (folder.join("tokenizer.json"), folder.join("spiece.model"));
        let (model, path) = if json.is_file() {
            let model = tokenizer_json::parse(&read(&json)?);
            (model.map(|model| Model::Json(model.into())), json)
        } else if spiece.is_file() {
            (settings.sentence_piece(&read(&spiece)?), spiece)
        } else {
            return Err(TextError::Missing { path: folder.to_owned() });
        };
        let model = model.map_err(|err| match err {
            ModelError::Kind(kind) => TextError::Kind { kind, path: path.clone() },
            ModelError::Damaged(message) => TextError::Damaged { message, path: path.clone() },
        })?;
        let tokens = model.id_bound();
        if tokens > vocab_size {
            return Err(TextError::Vocabulary { tokens, vocab_size, path });
        }
        let id = |token: &str| {
            let missing = || TextError::NoToken { token: token.into(), path: path.clone() };
            model.id_of(token).ok_or_else(missing)
        };
        let (pad, eos) = (id(&settings.pad)?, id(&settings.eos)?);
        Ok(Self { model, pad, eos, path })
    }

    /// The id that fills a prompt up.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// The ids of `text` and `</s>`, however many there are.
    ///
    /// # Errors
    ///
    /// If the model cannot tokenize the text.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let (ids, keeps_end) = match &self.model {
            Model::Json(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false);
                (encoding.map(|it| it.get_ids().to_vec()).map_err(|err| err.to_string()), false)
            }
            Model::SentencePiece(model) => (model.encode(text), model.keeps_end()),
        };
        let encode = |message| TextError::Encode { message, path: self.path.clone() };
        let mut ids = ids.map_err(encode)?;
        if !(keeps_end && ids.last() == Some(&self.eos)) {
            ids.push(self.eos);
        }
        Ok(ids)
    }

    /// The ids of `text` and `</s>`, cut or padded to `max_length`.
    ///
    /// # Errors
    ///
    /// If the model cannot tokenize the text, or `max_length` is 0.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<PromptTokens, TextError> {
        let last = max_length.checked_sub(1).ok_or(TextError::NoRoom)?;
        let mut ids = self.ids(text)?;
        if ids.len() > max_length {
            log::warn!("the prompt has {} tokens, only {max_length} are used", ids.len());
            ids.truncate(last);
            ids.push(self.eos);
        }
        let len = ids.len();
        ids.resize(max_length, self.pad);
        Ok(PromptTokens { ids, len })
    }
}

impl Model {
    fn id_of(&self, token: &str) -> Option<u32> {
        match self {
            Self::Json(tokenizer) => tokenizer.token_to_id(token),
            Self::SentencePiece(model) => model.id_of(token),
        }
    }

    /// Largest id plus one.
    fn id_bound(&self) -> usize {
        match self {
            Self::Json(tokenizer) => {
                let ids = tokenizer.get_vocab(true).into_values();
                ids.max().map_or(0, |id| id as usize + 1)
            }
            Self::SentencePiece(model) => model.id_bound(),
        }
    }
}

/// What the small JSON files beside the model say.
struct Settings {
    pad: String,
    eos: String,
    flavor: Flavor,
    /// Sentinel tokens `<extra_id_…>` behind the model's own pieces.
    extra_ids: u64,
    /// Further tokens with their ids.
    added: Vec<(String, u32)>,
}

impl Settings {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, each if it
    /// exists.
    fn read(folder: &Path) -> Result<Self, TextError> {
        let [config, special, added] =
            ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
                .map(|name| read_json(&folder.join(name)));
        let (config, special, added) = (config?, special?, added?);
        let token = |key: &str, default: &str| {
            // either a string, or an object that has it as "content"
            let text =
                |value: &Value| value.get("content").unwrap_or(value).as_str().map(Into::into);
            [&special, &config]
                .into_iter()
                .find_map(|map| text(map.get(key)?))
                .unwrap_or(default.into())
        };
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let extra_ids = config.get("extra_ids").and_then(Value::as_u64);
        Ok(Self {
            pad: token("pad_token", "<pad>"),
            eos: token("eos_token", "</s>"),
            flavor: if class.ends_with("Fast") { Flavor::Fast } else { Flavor::Slow },
            extra_ids: extra_ids.unwrap_or(DEFAULT_EXTRA_IDS).min(MAX_EXTRA_IDS),
            added: added_tokens(&config, &added),
        })
    }

    /// Builds the tokenizer from `spiece.model`.
    fn sentence_piece(&self, bytes: &[u8]) -> Result<Model, ModelError> {
        let mut model = SentencePiece::parse(bytes, self.flavor)?;
        for (token, id) in &self.added {
            model.add_special(token, *id);
        }
        // transformers numbers them backwards: the last one comes first
        for (index, id) in (0..self.extra_ids).rev().zip(model.pieces() as u64..) {
            let id = u32::try_from(id).map_err(|err| err.to_string())?;
            model.add_special(&format!("<extra_id_{index}>"), id);
        }
        Ok(Model::SentencePiece(model.into()))
    }
}

/// The tokens of `added_tokens.json` (`{token: id}`) and of `added_tokens_decoder` in
/// `tokenizer_config.json` (`{id: {"content": token}}`).
fn added_tokens(config: &Value, added: &Value) -> Vec<(String, u32)> {
    let named = added.as_object().into_iter().flatten();
    let named =
        named.filter_map(|(token, id)| Some((token.clone(), u32::try_from(id.as_u64()?).ok()?)));
    let numbered = config.get("added_tokens_decoder").and_then(Value::as_object);
    let numbered = numbered.into_iter().flatten();
    let numbered = numbered.filter_map(|(id, token)| {
        Some((token.get("content")?.as_str()?.to_owned(), id.parse().ok()?))
    });
    named.chain(numbered).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, TextError> {
    std::fs::read(path).map_err(|source| TextError::Read { path: path.to_owned(), source })
}

/// The content of a JSON file; null if it does not exist.
fn read_json(path: &Path) -> Result<Value, TextError> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read(path)?)
        .map_err(|err| TextError::Damaged { message: err.to_string(), path: path.to_owned() })
}
