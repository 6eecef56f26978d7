//! JSON from outside: bounded in size, without repeated keys.

use super::CheckpointError;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

/// Far above any configuration (a few kilobytes) and any index (a few hundred).
const MAX_JSON_BYTES: u64 = 16 << 20;

/// Reads the JSON document at `path`, at most 16 MiB.
///
/// # Errors
///
/// If the file cannot be read, is too large or no JSON; the message names file and line.
pub fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    read_json_as(path)
}

pub(super) fn read_json_as<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let mut bytes = Vec::new();
    let read = open_file(path)?.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(CheckpointError::io("read", path))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(CheckpointError::TooLarge { limit: MAX_JSON_BYTES, path: path.to_owned() });
    }
    serde_json::from_slice(&bytes).map_err(|source| CheckpointError::Json {
        line: source.line(),
        column: source.column(),
        path: path.to_owned(),
        source,
    })
}

/// Opens an ordinary file; anything else could block forever or never end.
pub(super) fn open_file(path: &Path) -> Result<File, CheckpointError> {
    let metadata = fs::metadata(path).map_err(CheckpointError::io("open", path))?;
    if !metadata.is_file() {
        return Err(CheckpointError::NotAFile { path: path.to_owned() });
    }
    File::open(path).map_err(CheckpointError::io("open", path))
}

/// A JSON object in which every key occurs once.
#[derive(Debug)]
pub(super) struct UniqueMap<V>(pub(super) BTreeMap<String, V>);

impl<V> UniqueMap<V> {
    /// Adds an entry or reports the repetition.
    pub(super) fn insert<E: serde::de::Error>(&mut self, key: String, value: V) -> Result<(), E> {
        if self.0.contains_key(&key) {
            return Err(E::custom(format_args!("{} occurs twice", super::error::quoted(&key))));
        }
        self.0.insert(key, value);
        Ok(())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = UniqueMap(BTreeMap::new());
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value().map_err(|err| {
                        let key = super::error::quoted(&key);
                        A::Error::custom(format_args!("{key}: {err}"))
                    })?;
                    entries.insert(key, value)?;
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}
