//! Names such as `w4a4`: the widths of weights and activations in one word.

use super::Bits;
use std::fmt;
use std::str::FromStr;

/// Widths of weights and activations; `None` is floating point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Precision {
    /// Width of the weights.
    pub weights: Option<Bits>,
    /// Width of the activations.
    pub activations: Option<Bits>,
}

impl Precision {
    /// Nothing quantized.
    pub const FULL: Self = Self { weights: None, activations: None };

    /// The precision of layers that have these: one, `mixed (…)`, or `full`.
    pub fn summary(layers: impl Iterator<Item = Self>) -> String {
        let mut found: Vec<String> = layers
            .filter(|precision| precision.weights.is_some())
            .map(|precision| precision.to_string())
            .collect();
        found.sort();
        found.dedup();
        match found.as_slice() {
            [] => Self::FULL.to_string(),
            [one] => one.clone(),
            several => format!("mixed ({})", several.join(", ")),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.weights, self.activations) {
            (None, _) => write!(f, "full"),
            (Some(weights), None) => write!(f, "w{weights}a16"),
            (Some(weights), Some(activations)) => write!(f, "w{weights}a{activations}"),
        }
    }
}

/// A precision that is not one; the message lists what is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no precision: use full, or w<2|3|4|6|8>a<3|4|6|8|16>, for example w4a4, w3a3, w6a6, w8a8 or w4a16"
)]
pub struct ParsePrecisionError(String);

impl FromStr for Precision {
    type Err = ParsePrecisionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePrecisionError(text.to_owned());
        let lower = text.to_lowercase();
        if lower == "full" {
            return Ok(Self::FULL);
        }
        let (weights, activations) =
            lower.strip_prefix('w').and_then(|rest| rest.split_once('a')).ok_or_else(error)?;
        let bits = |text: &str| text.parse().ok().and_then(Bits::from_u32);
        let weights = Some(bits(weights).ok_or_else(error)?);
        let activations = match activations {
            "16" | "32" => None,
            narrow => {
                Some(bits(narrow).filter(|bits| Bits::OF_TOKENS.contains(bits)).ok_or_else(error)?)
            }
        };
        Ok(Self { weights, activations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_are_read_as_they_are_written() {
        for name in ["full", "w4a4", "w3a3", "w6a6", "w4a6", "w8a8", "w4a16", "w2a8"] {
            assert_eq!(name.parse::<Precision>().unwrap().to_string(), name);
        }
        assert_eq!("W4A32".parse::<Precision>().unwrap().to_string(), "w4a16");
    }

    #[test]
    fn other_words_are_refused_with_the_list() {
        for name in ["", "w", "w4", "4a4", "w5a4", "w4a2", "w4a", "wa", "w16a16"] {
            let message = name.parse::<Precision>().unwrap_err().to_string();
            assert!(message.contains("w4a4"), "{name}: {message}");
        }
    }
}
