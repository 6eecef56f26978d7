//! A LoRA as it is named on the command line.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A LoRA file as the user names it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFile {
    /// The safetensors file.
    pub path: PathBuf,
    /// Factor of what it adds.
    pub strength: f32,
}

impl LoraFile {
    /// What [`FromStr`] reads it from.
    pub fn to_argument(&self) -> String {
        format!("{}={}", self.path.display(), self.strength)
    }
}

impl FromStr for LoraFile {
    type Err = String;

    /// `FILE` or `FILE=STRENGTH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, strength) = match text.rsplit_once('=') {
            Some((path, strength)) => match strength.parse::<f32>() {
                Ok(strength) => (path, strength),
                // The name of a file may contain the sign.
                Err(_) if strength.contains(['.', '/', '\\']) => (text, 1.0),
                Err(_) => return Err(format!("the strength \"{strength}\" is no number")),
            },
            None => (text, 1.0),
        };
        if path.is_empty() || !strength.is_finite() {
            return Err("write FILE or FILE=STRENGTH, such as style.safetensors=0.8".to_owned());
        }
        Ok(Self { path: PathBuf::from(path), strength })
    }
}

/// The file's name and strength, for records.
impl fmt::Display for LoraFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.path.file_name().unwrap_or(OsStr::new(""));
        write!(f, "{}={}", name.to_string_lossy(), self.strength)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_strength_of_one_unless_it_says_otherwise() {
        let parse = |text: &str| text.parse::<LoraFile>().map(|file| (file.path, file.strength));
        assert_eq!(parse("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(parse("a.safetensors=0.5"), Ok(("a.safetensors".into(), 0.5)));
        assert_eq!(parse("a=b/c.safetensors"), Ok(("a=b/c.safetensors".into(), 1.0)));
        assert_eq!(parse("a=b/c.safetensors=-2"), Ok(("a=b/c.safetensors".into(), -2.0)));
        for text in ["a.safetensors", "a=b/c.safetensors", "a/b=-0.3"] {
            let file = text.parse::<LoraFile>().expect(text);
            assert_eq!(file.to_argument().parse(), Ok(file));
        }
        for text in ["", "=1", "a=x", "a=", "a=inf", "a=NaN"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
