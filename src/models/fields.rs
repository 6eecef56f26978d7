//! Reading a `config.json` that may say anything.

use super::ConfigError;
use serde_json::Value;

/// What a whole number may be.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    max: u64,
    expected: &'static str,
}

/// A width of a layer, a number of heads.
pub(super) const WIDTH: Bound =
    Bound { max: 1 << 15, expected: "expected a whole number from 1 to 32768" };
/// A side of a patch.
pub(super) const PATCH: Bound = Bound { max: 16, expected: "expected a whole number from 1 to 16" };
/// A number of blocks.
pub(super) const LAYERS: Bound =
    Bound { max: 1024, expected: "expected a whole number from 1 to 1024" };
/// A number of token ids.
pub(super) const VOCABULARY: Bound =
    Bound { max: 1 << 24, expected: "expected a whole number from 1 to 16777216" };

/// The top-level values of a configuration; absent ones read as null.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Value);

impl<'a> Fields<'a> {
    pub(super) fn get(self, field: &str) -> &'a Value {
        self.0.get(field).unwrap_or(&Value::Null)
    }

    /// The error that `field` is not what was `expected`.
    pub(super) fn error(self, field: &'static str, expected: &'static str) -> ConfigError {
        /// Enough to recognize the value; a hostile one may be megabytes long.
        const SHOWN: usize = 80;
        let value = self.get(field);
        let mut actual =
            if value.is_null() { "null or missing".to_owned() } else { value.to_string() };
        if let Some((end, _)) = actual.char_indices().nth(SHOWN) {
            actual.truncate(end);
            actual.push('…');
        }
        ConfigError { field, actual, expected }
    }

    /// A whole number from 1 to the bound's maximum.
    pub(super) fn size(self, field: &'static str, bound: Bound) -> Result<usize, ConfigError> {
        self.get(field)
            .as_u64()
            .filter(|size| (1..=bound.max).contains(size))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| self.error(field, bound.expected))
    }

    /// The small positive number that keeps a normalization from dividing by zero.
    pub(super) fn epsilon(self, field: &'static str) -> Result<f64, ConfigError> {
        self.get(field)
            .as_f64()
            .filter(|&eps| eps > 0.0 && eps < 1.0)
            .ok_or_else(|| self.error(field, "expected a number between 0 and 1"))
    }

    /// A positive number that something is divided by.
    pub(super) fn factor(self, field: &'static str) -> Result<f64, ConfigError> {
        self.get(field)
            .as_f64()
            .filter(|factor| (1e-3..=1e3).contains(factor))
            .ok_or_else(|| self.error(field, "expected a number from 0.001 to 1000"))
    }

    /// A truth value.
    pub(super) fn flag(self, field: &'static str) -> Result<bool, ConfigError> {
        self.get(field).as_bool().ok_or_else(|| self.error(field, "expected true or false"))
    }

    /// Refuses every value of `field` but those that `accept` takes.
    pub(super) fn require(
        self,
        field: &'static str,
        accept: impl Fn(&Value) -> bool,
        expected: &'static str,
    ) -> Result<(), ConfigError> {
        if accept(self.get(field)) { Ok(()) } else { Err(self.error(field, expected)) }
    }
}
