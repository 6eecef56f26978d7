//! Choices on disk: one small JSON file per adapter, driver and kernel text.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What the file holds.
#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Contents {
    /// Name, interface and driver.
    adapter: String,
    /// Hash of the kernels' text.
    kernels: String,
    /// Form by class of shape.
    forms: BTreeMap<String, String>,
}

/// The file of one adapter, driver and kernel text.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    adapter: String,
    kernels: String,
}

impl Store {
    /// The file in the user's cache; `None` where the system names none.
    pub(super) fn of_user(adapter: &str, kernels: &str) -> Option<Self> {
        Some(Self::in_folder(&dirs::cache_dir()?.join("qvgen").join("forms"), adapter, kernels))
    }

    fn in_folder(folder: &Path, adapter: &str, kernels: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(adapter.as_bytes());
        digest.update([0]);
        digest.update(kernels.as_bytes());
        let name: String = digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Self {
            path: folder.join(name + ".json"),
            adapter: adapter.to_owned(),
            kernels: kernels.to_owned(),
        }
    }

    /// The forms that it names; none if there is no file, or not one that this program wrote for
    /// this adapter and these kernels.
    pub(super) fn read(&self) -> BTreeMap<String, String> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
            Err(err) => return self.ignored(&err.to_string()),
        };
        match serde_json::from_str::<Contents>(&text) {
            Ok(contents) if contents.adapter != self.adapter => self.ignored("another adapter's"),
            Ok(contents) if contents.kernels != self.kernels => self.ignored("of other kernels"),
            Ok(contents) => contents.forms,
            Err(err) => self.ignored(&err.to_string()),
        }
    }

    fn ignored(&self, why: &str) -> BTreeMap<String, String> {
        log::warn!("measured forms are ignored and measured again: {why}: {}", self.path.display());
        BTreeMap::new()
    }

    /// Adds a choice; readers see the file before or after it, never between.
    pub(super) fn insert(&self, class: &str, form: &str) -> io::Result<()> {
        let mut forms = self.read();
        forms.insert(class.to_owned(), form.to_owned());
        let (adapter, kernels) = (self.adapter.clone(), self.kernels.clone());
        let text = serde_json::to_string_pretty(&Contents { adapter, kernels, forms })?;
        let folder = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(&self.path).map_err(|err| err.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path) -> Store {
        Store::in_folder(folder, "Card (vulkan, 1.2)", "abc")
    }

    #[test]
    fn what_was_inserted_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("not/yet"));
        assert_eq!(store.read(), BTreeMap::new());
        store.insert("a", "tile 1×1").unwrap();
        store.insert("b", "registers").unwrap();
        store.insert("a", "tile 2×2").unwrap();
        let expected = [("a", "tile 2×2"), ("b", "registers")];
        assert_eq!(store.read(), expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        let files = fs::read_dir(store.path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "temporary files stay behind");
    }

    #[test]
    fn a_corrupt_file_is_ignored_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for text in [&b"{\"adapter\": \"Card"[..], b"", b"[]", &[0xff, 0xfe, 0x00]] {
            fs::write(&store.path, text).unwrap();
            assert_eq!(store.read(), BTreeMap::new());
            store.insert("a", "registers").unwrap();
            assert_eq!(store.read().len(), 1);
        }
    }

    #[test]
    fn another_adapter_or_other_kernels_share_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.insert("a", "registers").unwrap();
        for (adapter, kernels) in [("Card (vulkan, 1.3)", "abc"), ("Card (vulkan, 1.2)", "abd")] {
            let mut other = Store::in_folder(folder.path(), adapter, kernels);
            assert_eq!(other.read(), BTreeMap::new());
            // Not even if the file of one takes the place of the other's.
            other.path.clone_from(&store.path);
            assert_eq!(other.read(), BTreeMap::new());
        }
        assert_eq!(store.read().len(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(store(&file.join("below")).insert("a", "registers").is_err());
    }
}
