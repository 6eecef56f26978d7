//! Which linear layers are quantized: patterns over their names.
//!
//! The released QVGen code quantizes every linear layer; keeping the few that see a timestep or the
//! text once per pass and the last one in full precision costs little and is the default here.
//! Which those are, the model says.

use crate::quant::{ParsePrecisionError, Precision};
use std::fmt;
use std::str::FromStr;

/// Why layers are kept.
const KEPT_REASON: &str =
    "kept by default: it sees a timestep or a text once per pass, or is the last layer";

/// `pattern=precision`; `*` in the pattern stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Pattern over full layer names, such as `blocks.0.*` or `*.ffn.net.2`.
    pub pattern: String,
    /// Precision of the layers it names.
    pub precision: Precision,
}

impl Rule {
    fn matches(&self, name: &str) -> bool {
        is_match(&self.pattern, name)
    }
}

/// Whether `pattern`, in which `*` stands for any run of characters, names the whole of `name`.
fn is_match(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    false
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.precision)
    }
}

/// A rule that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRuleError {
    /// No `=`, or nothing before it.
    #[error("\"{0}\" is no rule: write pattern=precision, for example blocks.0.*=w8a8")]
    NoPrecision(String),
    /// The right side is no precision.
    #[error(transparent)]
    Precision(#[from] ParsePrecisionError),
}

impl FromStr for Rule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((pattern, precision)) if !pattern.is_empty() => {
                Ok(Self { pattern: pattern.to_owned(), precision: precision.parse()? })
            }
            _ => Err(ParseRuleError::NoPrecision(text.to_owned())),
        }
    }
}

/// The precision of every layer: a default, layers that are kept, and rules, of which the last that
/// matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Layers that nothing else is said of.
    pub precision: Precision,
    /// Patterns of layers that stay in full precision unless a rule names them.
    pub kept: &'static [&'static str],
    /// Exceptions, the weakest first.
    pub rules: Vec<Rule>,
}

impl Scope {
    /// `precision` everywhere.
    pub fn every_layer(precision: Precision) -> Self {
        Self::recommended(precision, &[])
    }

    /// `precision` but for the layers worth keeping, which the patterns `kept` name.
    pub fn recommended(precision: Precision, kept: &'static [&'static str]) -> Self {
        Self { precision, kept, rules: Vec::new() }
    }

    /// Gives layers that `patterns` name this precision as well, if they are only kept by default;
    /// rules that are asked for still come before.
    #[must_use]
    pub fn including(mut self, patterns: &[&str]) -> Self {
        let rules = patterns
            .iter()
            .map(|&pattern| Rule { pattern: pattern.to_owned(), precision: self.precision });
        self.rules.splice(0..0, rules);
        self
    }

    /// The precision of layer `name`.
    pub fn of(&self, name: &str) -> Precision {
        match self.rules.iter().rev().find(|rule| rule.matches(name)) {
            Some(rule) => rule.precision,
            None if self.kept.iter().any(|pattern| is_match(pattern, name)) => Precision::FULL,
            None => self.precision,
        }
    }

    /// Why layer `name` has the precision that it has.
    pub fn reason(&self, name: &str) -> String {
        match self.rules.iter().rev().find(|rule| rule.matches(name)) {
            Some(rule) => format!("--layer {rule}"),
            None if self.kept.iter().any(|pattern| is_match(pattern, name)) => {
                KEPT_REASON.to_owned()
            }
            None => format!("the precision asked for is {}", self.precision),
        }
    }

    /// Rules that match none of `names`: most likely misspelled.
    pub fn unused_rules<'a>(&'a self, names: &[String]) -> Vec<&'a Rule> {
        let is_unused = |rule: &&Rule| !names.iter().any(|name| rule.matches(name));
        self.rules.iter().filter(is_unused).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &[&str] = &["condition_embedder.*", "proj_out"];

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_match_whole_names() {
        let matches = |pattern: &str, name: &str| rule(&format!("{pattern}=full")).matches(name);
        assert!(matches("proj_out", "proj_out"));
        assert!(!matches("proj_out", "proj_out.x"));
        assert!(!matches("proj", "proj_out"));
        assert!(matches("blocks.0.*", "blocks.0.attn1.to_q"));
        assert!(!matches("blocks.1.*", "blocks.10.attn1.to_q"));
        assert!(matches("*.to_q", "blocks.0.attn1.to_q"));
        assert!(matches("blocks.*.ffn.*.proj", "blocks.3.ffn.net.0.proj"));
        assert!(!matches("blocks.*.ffn.*.proj", "blocks.3.ffn.net.2"));
        assert!(matches("*", "anything"));
    }

    #[test]
    fn the_last_matching_rule_decides() {
        let w4a4 = "w4a4".parse().unwrap();
        let mut scope = Scope::recommended(w4a4, KEPT);
        assert_eq!(scope.of("blocks.0.attn1.to_q"), w4a4);
        assert_eq!(scope.of("condition_embedder.time_proj"), Precision::FULL);
        scope.rules.push(rule("condition_embedder.*=w8a8"));
        assert_eq!(scope.of("condition_embedder.time_proj").to_string(), "w8a8");
        assert_eq!(scope.of("proj_out"), Precision::FULL);
    }

    #[test]
    fn layers_kept_by_default_can_be_included_but_not_against_a_rule() {
        let w4a4 = "w4a4".parse().unwrap();
        let of = |scope: &Scope| scope.of("condition_embedder.time_proj").to_string();
        let mut scope = Scope::recommended(w4a4, KEPT).including(&["*.time_proj"]);
        assert_eq!(of(&scope), "w4a4");
        assert_eq!(scope.of("condition_embedder.text_embedder.linear_1"), Precision::FULL);
        scope.rules.push(rule("*.time_proj=w8a8"));
        assert_eq!(of(&scope), "w8a8");
        assert_eq!(of(&scope.including(&["*.time_proj"])), "w8a8");
    }

    #[test]
    fn a_rule_that_names_nothing_is_reported() {
        let mut scope = Scope::recommended("w4a4".parse().unwrap(), KEPT);
        scope.rules.push(rule("block.0.*=full"));
        let unused = scope.unused_rules(&["blocks.0.attn1.to_q".to_owned()]);
        assert_eq!(unused, [&rule("block.0.*=full")]);
    }

    #[test]
    fn rules_without_precision_are_refused() {
        assert!("blocks.0".parse::<Rule>().unwrap_err().to_string().contains("pattern=precision"));
        assert!("a=w5a5".parse::<Rule>().unwrap_err().to_string().contains("w4a4"));
    }
}
