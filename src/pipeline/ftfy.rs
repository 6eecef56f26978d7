//! `ftfy.fix_text` of Python's ftfy 6 with its default settings, around the crate `plsfix`.
//!
//! `plsfix` ports ftfy's tables and its mojibake heuristic. Three of its steps differ from the
//! original, so those are done here and switched off or hidden there:
//!
//! | step | what `plsfix` 0.1 does | here |
//! |---|---|---|
//! | HTML entities | replaces them even where the text holds a `<`, other rules for `&#…;` and capitals | [`unescape_entities`] |
//! | terminal escapes | looks for NUL and `33[` instead of ESC and `[` | [`TERMINAL_ESCAPE`] |
//! | full-width macron U+FFE3 | keeps the first of its two characters | replaced between two passes |

use super::prompt::unescape_reference;
use plsfix::{Normalization, TextFixerConfig, fix_and_explain};
use regex::{Captures, Regex};
use std::borrow::Cow;
use std::sync::LazyLock;

/// ftfy cuts lines longer than this many characters.
const MAX_SEGMENT: usize = 1_000_000;

/// Rounds until a segment must be stable; each undoes one layer (`&amp;amp;`). ftfy has no limit,
/// but its heuristics give no guarantee to stop either.
const MAX_ROUNDS: usize = 256;

/// An entity as ftfy looks for it: the semicolon is required.
static ENTITY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").expect("the pattern is a constant"));

/// An ANSI escape sequence, such as the one that switches to red. `\d` is Unicode's, as in Python.
static TERMINAL_ESCAPE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("the pattern is a constant"));

/// Repairs encoding accidents and typographic variants, line by line.
///
/// Entities are replaced only up to the first line with a `<`: from there on the text is taken
/// for HTML.
pub(super) fn fix_text(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut has_entities = true;
    for line in text.split_inclusive('\n') {
        for segment in chunks(line) {
            has_entities &= !segment.contains('<');
            fixed.push_str(&fix_segment(segment, has_entities));
        }
    }
    fixed
}

/// `line` in pieces of at most [`MAX_SEGMENT`] characters.
fn chunks(mut line: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = line.char_indices().nth(MAX_SEGMENT).map_or(line.len(), |(at, _)| at);
        let (chunk, rest) = line.split_at(end);
        line = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn fix_segment(segment: &str, has_entities: bool) -> String {
    let mut text = segment.to_owned();
    for _ in 0..MAX_ROUNDS {
        let next = if has_entities { unescape_entities(&text) } else { Cow::Borrowed(&*text) };
        let mut next = plsfix(&next, &REPAIR);
        if next.contains('\u{ffe3}') {
            next = next.replace('\u{ffe3}', " \u{304}");
        }
        let next = plsfix(&next, &SIMPLIFY);
        let next = TERMINAL_ESCAPE.replace_all(&next, "");
        let next = plsfix(&next, &FINISH);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

/// Everything off; the passes switch on what is theirs.
const NOTHING: TextFixerConfig = TextFixerConfig {
    unescape_html: Some(false),
    remove_terminal_escapes: false,
    fix_encoding: false,
    restore_byte_a0: false,
    replace_lossy_sequences: false,
    decode_inconsistent_utf8: false,
    fix_c1_controls: false,
    fix_latin_ligatures: false,
    fix_character_width: false,
    uncurl_quotes: false,
    fix_line_breaks: false,
    remove_control_chars: false,
    normalization: None,
    max_decode_length: i32::MAX,
};

/// First pass: wrongly decoded text and ligatures.
const REPAIR: TextFixerConfig = TextFixerConfig {
    fix_encoding: true,
    restore_byte_a0: true,
    replace_lossy_sequences: true,
    decode_inconsistent_utf8: true,
    fix_c1_controls: true,
    fix_latin_ligatures: true,
    ..NOTHING
};

/// Second pass, before terminal escapes are removed: typographic variants.
const SIMPLIFY: TextFixerConfig = TextFixerConfig {
    fix_character_width: true,
    uncurl_quotes: true,
    fix_line_breaks: true,
    ..NOTHING
};

/// Last pass.
const FINISH: TextFixerConfig = TextFixerConfig {
    remove_control_chars: true,
    normalization: Some(Normalization::NFC),
    ..NOTHING
};

/// Runs `plsfix` with ampersands out of its sight: it replaces entities whatever its settings say.
fn plsfix(text: &str, config: &TextFixerConfig) -> String {
    let fix = |text: &str| fix_and_explain(text, false, Some(config)).text;
    if !text.contains('&') {
        return fix(text);
    }
    // An ASCII character that means nothing to any rule and to no composition. A segment that
    // contains all of them is left to `plsfix` as it is.
    match "~^|@#$%*_\\{}[]`".chars().find(|&mask| !text.contains(mask)) {
        Some(mask) => {
            let mask = mask.to_string();
            fix(&text.replace('&', &mask)).replace(&mask, "&")
        }
        None => fix(text),
    }
}

/// Replaces the unambiguous entities: those with a semicolon, and all-capital spellings of names
/// in small letters (`&EACUTE;`).
fn unescape_entities(text: &str) -> Cow<'_, str> {
    ENTITY.replace_all(text, |found: &Captures<'_>| {
        let entity = &found[0];
        whole_entity(entity).or_else(|| capital_entity(entity)).unwrap_or_else(|| entity.to_owned())
    })
}

/// The text of an entity that is known as a whole, not just up to a prefix.
fn whole_entity(entity: &str) -> Option<String> {
    let text = unescape_reference(entity);
    (!text.contains(';') || (entity == "&semi;")).then(|| text.into_owned())
}

/// The upper-case text of a name in small letters that was written in capitals.
fn capital_entity(entity: &str) -> Option<String> {
    let lower = entity.to_ascii_lowercase();
    let is_capital = entity.to_ascii_uppercase() == entity && lower != entity;
    (is_capital && !entity.starts_with("&#") && unescape_reference(entity) == entity)
        .then(|| whole_entity(&lower))
        .flatten()
        .map(|text| text.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_replaced_only_before_the_first_tag() {
        assert_eq!(fix_text("&lt;a&gt;\n&amp;"), "<a>\n&");
        assert_eq!(fix_text("&amp;\n<b>&amp;\n&amp;"), "&\n<b>&amp;\n&amp;");
        assert_eq!(fix_text("&amp;amp;amp;"), "&");
    }

    #[test]
    fn entities_in_capitals_are_replaced_where_the_name_is_not_taken() {
        assert_eq!(fix_text("P&EACUTE;REZ &NTILDE; &nTILDE; &SZLIG;"), "PÉREZ Ñ &nTILDE; SS");
        assert_eq!(fix_text("&GG; &semi; &#59; &notit; &#12ab;"), "≫ ; &#59; &notit; &#12ab;");
    }

    #[test]
    fn terminal_escapes_and_control_characters_vanish() {
        assert_eq!(fix_text("a\u{1b}[31;1mred\u{1b}[0m\u{7}\u{feff} 33[31m"), "ared 33[31m");
    }

    #[test]
    fn ampersands_survive_whatever_else_is_in_the_text() {
        assert_eq!(fix_text("a & b &unknown; ~^|@#$%*_"), "a & b &unknown; ~^|@#$%*_");
        assert_eq!(fix_text("~^|@#$%*_\\{}[]` & <"), "~^|@#$%*_\\{}[]` & <");
    }

    #[test]
    fn a_line_longer_than_a_segment_is_fixed_in_pieces() {
        let line = "，".repeat(MAX_SEGMENT + 3);
        assert_eq!(fix_text(&line), ",".repeat(MAX_SEGMENT + 3));
    }
}
