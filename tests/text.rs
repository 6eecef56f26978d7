//! Prompt cleaning and tokenizers against the reference.

#![allow(clippy::unwrap_used, reason = "a helper that fails should fail the test")]

mod common;

use common::{Reference, fixture, fixture_folders};
use qvgen::pipeline::prompt;
use qvgen::pipeline::tokenizer::{TextError, Tokenizer};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|err| panic!("{err}: {}", path.display()))
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn vocab_size(checkpoint: &Path) -> usize {
    let config = read_json(&checkpoint.join("text_encoder/config.json"));
    config["vocab_size"].as_u64().unwrap() as usize
}

/// A folder with the given files; removed when dropped.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// The tokenizer of `spiece.model` with ten sentinel tokens, as the given class treats it.
fn sentence_piece(model: &[u8], class: &str) -> Tokenizer {
    let config = json!({"tokenizer_class": class, "extra_ids": 10}).to_string();
    let folder = folder(&[("spiece.model", model), ("tokenizer_config.json", config.as_bytes())]);
    Tokenizer::open(folder.path(), usize::MAX).unwrap()
}

/// The files of the first Wan checkpoint's tokenizer, `tokenizer.json` parsed.
fn wan_files() -> (Value, Vec<u8>) {
    let tokenizer = fixture_folders("wan_")[0].join("tokenizer");
    (read_json(&tokenizer.join("tokenizer.json")), read(&tokenizer.join("spiece.model")))
}

fn open_json(json: &Value, vocab_size: usize) -> Result<Tokenizer, TextError> {
    let folder = folder(&[("tokenizer.json", json.to_string().as_bytes())]);
    Tokenizer::open(folder.path(), vocab_size)
}

/// The message of a failure; of the path, which must come last, the file name at most is kept.
fn failure(result: Result<Tokenizer, TextError>) -> String {
    let message = result.unwrap_err().to_string();
    let (message, path) = message.rsplit_once(' ').unwrap();
    assert!(Path::new(path).is_absolute(), "{message} {path}");
    let file = Path::new(path).file_name().unwrap().to_string_lossy();
    if file.starts_with('.') { message.to_owned() } else { format!("{message} {file}") }
}

/// Whether the library `SentencePiece`, which knows no special tokens in text, is a reference.
fn is_plain(text: &str) -> bool {
    !["</s>", "<pad>", "<extra_id_"].iter().any(|token| text.contains(token))
}

/// Checkpoints in the fixture, of all families.
fn checkpoints() -> Vec<PathBuf> {
    let folders = fixture_folders("").into_iter();
    folders.filter(|path| path.join("tokenizer").is_dir()).collect()
}

#[test]
fn prompts_are_cleaned_as_the_reference_does() {
    let reference = read_json(&fixture("text").join("prompt_clean.json"));
    let cases = reference["cases"].as_array().unwrap();
    for case in cases {
        let units: Vec<u16> =
            serde_json::from_value(case["input_utf16"].clone()).expect("UTF-16 code units");
        let input = String::from_utf16_lossy(&units);
        assert_eq!(prompt::clean(&input), case["cleaned"].as_str().unwrap(), "{input:?}");
    }
    assert_eq!(cases.len(), 35);
}

#[test]
fn the_prompts_of_a_checkpoint_are_tokenized_and_those_of_wan_cleaned_before() {
    for checkpoint in checkpoints() {
        let reference = Reference::open(&checkpoint);
        let tokenizer =
            Tokenizer::open(&checkpoint.join("tokenizer"), vocab_size(&checkpoint)).unwrap();
        let (expected, mask) =
            (reference.i64("text.input_ids"), reference.i64("text.attention_mask"));
        let max_length = reference.shape("text.input_ids")[1];
        for (row, key) in ["prompt", "negative_prompt"].into_iter().enumerate() {
            let mut prompt = reference.json[key].as_str().unwrap().to_owned();
            if let Some(cleaned) = reference.json.get("cleaned_prompts") {
                prompt = prompt::clean(&prompt);
                assert_eq!(prompt, cleaned[row].as_str().unwrap());
            }
            let tokens = tokenizer.encode(&prompt, max_length).unwrap();
            let row = row * max_length..(row + 1) * max_length;
            let actual: Vec<i64> = tokens.ids.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(actual, expected[row.clone()], "{}", checkpoint.display());
            let actual: Vec<i64> = tokens.attention_mask().into_iter().map(i64::from).collect();
            assert_eq!(actual, mask[row], "{}", checkpoint.display());
        }
    }
}

#[test]
fn checkpoints_tokenize_as_the_reference_does() {
    for checkpoint in checkpoints() {
        let reference = read_json(&checkpoint.join("reference.json"));
        let tokenizer =
            Tokenizer::open(&checkpoint.join("tokenizer"), vocab_size(&checkpoint)).unwrap();
        for case in reference["tokenizer_cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let what = format!("{} {text:?}", checkpoint.display());
            assert_eq!(tokenizer.ids(text).unwrap(), ids(&case["ids"]), "{what}");
            let (cut, expected) = (tokenizer.encode(text, 16).unwrap(), ids(&case["ids_max16"]));
            assert_eq!(cut.ids[..cut.len], expected, "{what}");
            assert_eq!(cut.ids[cut.len..], vec![tokenizer.pad_id(); 16 - cut.len], "{what}");
        }
    }
}

#[test]
fn a_folder_without_tokenizer_json_gives_the_same_ids() {
    for checkpoint in checkpoints() {
        let model = read(&checkpoint.join("tokenizer/spiece.model"));
        let fast = sentence_piece(&model, "T5TokenizerFast");
        let slow = sentence_piece(&model, "T5Tokenizer");
        let reference = read_json(&checkpoint.join("reference.json"));
        for case in reference["tokenizer_cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let what = format!("{} {text:?}", checkpoint.display());
            assert_eq!(fast.ids(text).unwrap(), ids(&case["tokenizers_json_ids"]), "fast {what}");
            if is_plain(text) {
                assert_eq!(slow.ids(text).unwrap(), ids(&case["sentencepiece_ids"]), "slow {what}");
            }
        }
    }
}

#[test]
fn the_full_normalization_table_is_applied() {
    for name in ["t5", "umt5"] {
        let file = |extension: &str| fixture("text").join(format!("{name}_nmt_nfkc.{extension}"));
        let model = read(&file("spiece.model"));
        let fast = sentence_piece(&model, "T5TokenizerFast");
        let slow = sentence_piece(&model, "T5Tokenizer");
        for case in read_json(&file("json"))["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                fast.ids(text).unwrap(),
                ids(&case["tokenizers_json_ids"]),
                "{name} {text:?}"
            );
            let key = if is_plain(text) { "sentencepiece_ids" } else { "ids" };
            assert_eq!(slow.ids(text).unwrap(), ids(&case[key]), "{name} {text:?}");
        }
        // the table drops control characters and makes spaces of others
        for tokenizer in [&fast, &slow] {
            let expected = tokenizer.ids("a cat").unwrap();
            assert_eq!(tokenizer.ids("\u{7}a\u{2003}\u{b}\u{1}cat\u{feff}\t").unwrap(), expected);
        }
    }
}

#[test]
fn unknown_text_falls_back_to_bytes_where_the_model_says_so() {
    let (mut json, _) = wan_files();
    let vocab = json["model"]["vocab"].as_array_mut().unwrap();
    let first = vocab.len() as u32;
    vocab.extend((0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), 0.0])));
    json["model"]["byte_fallback"] = true.into();
    let tokenizer = open_json(&json, 1000).unwrap();
    let ids = tokenizer.ids("🐼").unwrap();
    let bytes = "🐼".bytes().map(|byte| first + u32::from(byte));
    assert_eq!(ids[ids.len() - 5..], bytes.chain([1]).collect::<Vec<_>>());
}

#[test]
fn instructions_in_tokenizer_json_to_pad_or_truncate_are_not_followed() {
    let (mut json, _) = wan_files();
    let expected = open_json(&json, 1000).unwrap().ids("a cat").unwrap();
    json["padding"] = json!({"strategy": {"Fixed": u32::MAX}, "direction": "Left",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"});
    json["truncation"] = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst",
        "stride": 0});
    assert_eq!(open_json(&json, 1000).unwrap().ids("a cat").unwrap(), expected);
}

#[test]
fn a_prompt_of_the_full_length_keeps_its_end() {
    let (json, _) = wan_files();
    let tokenizer = open_json(&json, 1000).unwrap();
    let all = tokenizer.ids("a panda plays guitar").unwrap();
    let exact = tokenizer.encode("a panda plays guitar", all.len()).unwrap();
    assert_eq!((&exact.ids, exact.len), (&all, all.len()));
    let cut = tokenizer.encode("a panda plays guitar", 3).unwrap();
    assert_eq!(cut.ids, [all[0], all[1], 1]);
    assert_eq!(tokenizer.encode("a panda", 1).unwrap().ids, [1]);
    let message = tokenizer.encode("a panda", 0).unwrap_err().to_string();
    assert_eq!(message, "a prompt of at most 0 tokens is not possible");
}

#[test]
fn unusable_tokenizers_are_rejected_with_the_file_named() {
    let (json, spiece) = wan_files();
    let edited = |edit: fn(&mut Value)| {
        let mut json = json.clone();
        edit(&mut json);
        failure(open_json(&json, 1000))
    };
    assert_eq!(
        edited(|json| json["model"]["type"] = "BPE".into()),
        "the tokenizer is BPE, expected Unigram in tokenizer.json"
    );
    assert_eq!(
        edited(|json| json["model"]["unk_id"] = Value::Null),
        "the tokenizer is damaged: the token for unknown text is missing in tokenizer.json"
    );
    for token in ["<pad>", "</s>"] {
        // renamed wherever it stands
        let text = json.to_string().replace(&format!("{token:?}"), "\"<gone>\"");
        let renamed = serde_json::from_str(&text).unwrap();
        let expected = format!("token {token:?} is missing in tokenizer.json");
        assert_eq!(failure(open_json(&renamed, 1000)), expected);
    }
    let tokens = json["model"]["vocab"].as_array().unwrap().len();
    assert!(open_json(&json, tokens).is_ok());
    assert_eq!(
        failure(open_json(&json, tokens - 1)),
        format!(
            "the tokenizer has {tokens} tokens, the text encoder {}: tokenizer.json",
            tokens - 1
        )
    );
    let open = |files: &[(&str, &[u8])]| {
        let folder = folder(files);
        failure(Tokenizer::open(folder.path(), 1000))
    };
    assert_eq!(open(&[]), "neither tokenizer.json nor spiece.model in");
    assert_eq!(
        open(&[("tokenizer.json", b"not JSON")]),
        "the tokenizer is damaged: expected ident at line 1 column 2 in tokenizer.json"
    );
    assert_eq!(
        open(&[("spiece.model", &spiece), ("tokenizer_config.json", b"{")]),
        "the tokenizer is damaged: EOF while parsing an object at line 1 column 1 in tokenizer_config.json"
    );
    assert_eq!(
        open(&[("spiece.model", &[0x12, 2, 0x18, 2])]),
        "the tokenizer is BPE, expected Unigram in spiece.model"
    );
    assert!(open(&[("spiece.model", b"")]).starts_with("the tokenizer is damaged"));
}

#[test]
fn damaged_files_give_errors_or_ids_but_no_panic() {
    let (json, spiece) = wan_files();
    let json = json.to_string().into_bytes();
    let folder = tempfile::tempdir().unwrap();
    let attempt = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).unwrap();
        let ids =
            Tokenizer::open(folder.path(), 1000).and_then(|it| it.ids("ﬁne  ①💃 e\u{301}\u{7}"));
        fs::remove_file(folder.path().join(name)).unwrap();
        ids.is_ok()
    };
    assert!(attempt("spiece.model", &spiece) && attempt("tokenizer.json", &json));
    for (name, whole) in [("spiece.model", spiece), ("tokenizer.json", json)] {
        let mut survivors = 0;
        for index in (0..whole.len()).step_by(whole.len() / 150) {
            let mut damaged = whole.clone();
            damaged[index] ^= 1 << (index % 7);
            survivors += usize::from(attempt(name, &damaged));
            assert!(!attempt(name, &whole[..index]), "{name} cut at {index}");
        }
        assert!(survivors > 0, "{name}");
    }
}

#[test]
fn a_normalization_table_that_points_outside_itself_is_rejected() {
    let (mut json, _) = wan_files();
    for table in ["", "AAAA", "BAAAAAAAAAA=", "/////w=="] {
        json["normalizer"]["normalizers"][0]["precompiled_charsmap"] = table.into();
        let message = failure(open_json(&json, 1000));
        assert!(message.contains("normalization table"), "{table:?}: {message}");
    }
}
