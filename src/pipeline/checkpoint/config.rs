//! Configurations with errors that name the key.
//!
//! `serde_json` reports what was expected but not where. Deserializing through [`At`], which
//! passes everything on to the value it wraps, notes the keys on the way back from an error.

use super::CheckpointError;
use super::error::shorten;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};
use std::cell::RefCell;
use std::path::Path;

/// Converts the document `value`, read from `path`, to a configuration.
///
/// # Errors
///
/// If a value is missing or of another type; the message names key, value and file.
pub fn config_from_json<T: DeserializeOwned>(
    value: &Value,
    path: &Path,
) -> Result<T, CheckpointError> {
    let blame = RefCell::new(Blame::default());
    T::deserialize(At { value, blame: &blame }).map_err(|err| {
        let Blame { mut keys, value } = blame.into_inner();
        keys.reverse();
        let key = keys.join(".");
        let problem = match value {
            Some(value) => format!("{key:?} is {}: {err}", shorten(&value.to_string())),
            None => err.to_string(),
        };
        CheckpointError::Config { key, problem: shorten(&problem), path: path.to_owned() }
    })
}

/// Keys from the innermost outwards, and the innermost value.
#[derive(Default)]
struct Blame {
    keys: Vec<String>,
    value: Option<Value>,
}

/// A value that remembers where an error arose.
#[derive(Clone, Copy)]
struct At<'a> {
    value: &'a Value,
    blame: &'a RefCell<Blame>,
}

impl<'a> At<'a> {
    /// Deserializes the child `value` at `key`.
    fn child<S: DeserializeSeed<'a>>(
        blame: &'a RefCell<Blame>,
        key: impl ToString,
        value: &'a Value,
        seed: S,
    ) -> Result<S::Value, Error> {
        seed.deserialize(At { value, blame }).inspect_err(|_| {
            let mut blame = blame.borrow_mut();
            blame.value.get_or_insert_with(|| value.clone());
            blame.keys.push(key.to_string());
        })
    }
}

impl<'de> Deserializer<'de> for At<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let blame = self.blame;
        match self.value {
            Value::Array(items) => {
                let mut left = Items { items: items.iter().enumerate(), blame };
                let result = visitor.visit_seq(&mut left)?;
                // A type of fixed length stops reading when it is full.
                if left.items.next().is_none() {
                    Ok(result)
                } else {
                    Err(Error::invalid_length(items.len(), &"fewer elements"))
                }
            }
            Value::Object(map) => {
                visitor.visit_map(Entries { entries: map.iter(), value: None, blame })
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
    blame: &'a RefCell<Blame>,
}

impl<'de> SeqAccess<'de> for &mut Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let next = self.items.next();
        next.map(|(index, value)| At::child(self.blame, index, value, seed)).transpose()
    }
}

struct Entries<'a> {
    entries: serde_json::map::Iter<'a>,
    value: Option<(&'a String, &'a Value)>,
    blame: &'a RefCell<Blame>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.value = self.entries.next();
        let key = self.value.map(|(key, _)| key.as_str().into_deserializer());
        key.map(|key: StrDeserializer<'_, Error>| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (key, value) = self.value.take().expect("serde asks for a key before its value");
        At::child(self.blame, key, value, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Config {
        num_layers: u32,
        eps: f64,
        patch_size: [u32; 3],
        #[serde(default)]
        rope: Option<Rope>,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Rope {
        theta: Vec<f32>,
    }

    fn parse(value: &Value) -> Result<Config, String> {
        config_from_json(value, Path::new("x/config.json")).map_err(|err| err.to_string())
    }

    #[test]
    fn a_configuration_may_have_other_keys_and_null_options() {
        let value = json!({
            "other": [{}], "rope": null, "num_layers": 3, "eps": 1, "patch_size": [1, 2, 2]
        });
        let config = Config { num_layers: 3, eps: 1.0, patch_size: [1, 2, 2], rope: None };
        assert_eq!(parse(&value), Ok(config));
    }

    #[test]
    fn an_error_names_key_value_and_file() {
        let good = json!({"num_layers": 3, "eps": 1, "patch_size": [1, 2, 2]});
        for (key, value, expected) in [
            ("num_layers", json!("two"), "\"num_layers\" is \"two\": invalid type"),
            ("num_layers", json!(-1), "\"num_layers\" is -1: invalid value"),
            ("eps", json!(null), "\"eps\" is null: invalid type"),
            ("patch_size", json!([1, 2.5, 2]), "\"patch_size.1\" is 2.5: invalid type"),
            ("patch_size", json!([1, 2]), "\"patch_size\" is [1,2]: invalid length 2"),
            ("patch_size", json!([1, 2, 2, 2]), "\"patch_size\" is [1,2,2,2]: invalid length 4"),
            ("rope", json!({"theta": [1, "a"]}), "\"rope.theta.1\" is \"a\": invalid type"),
            ("rope", json!({}), "\"rope\" is {}: missing field `theta`"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let err = parse(&bad).unwrap_err();
            assert!(err.starts_with(expected) && err.ends_with(" in x/config.json"), "{err}");
        }
        let err = parse(&json!({"eps": 1})).unwrap_err();
        assert_eq!(err, "missing field `num_layers` in x/config.json");
        assert!(parse(&json!([])).is_err());
    }
}
