//! The folder of a training: who may write there, and what belongs to it.

use crate::pipeline::atomic::{AtomicFile, OutputError, remove_folder, remove_leftovers};
use crate::pipeline::companions::MARKER;
use crate::train::TrainError;
use crate::train::state;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to do with a training that is in the folder already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Refuse.
    #[default]
    New,
    /// Go on with it; begin if there is none.
    Resume,
    /// Delete it.
    Restart,
}

/// The folder, ours alone until the value is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Creates the folder if needed, locks it, and deletes what `mode` says.
    ///
    /// # Errors
    ///
    /// If another training writes there, it holds one that `mode` does not expect, or the file
    /// system refuses.
    pub fn claim(path: &Path, mode: Mode) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(OutputError::io("create", path))?;
        let lock_path = path.join("lock");
        let lock = File::options().create(true).append(true).open(&lock_path);
        let lock = lock.map_err(OutputError::io("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(TrainError::Setting(format!(
                    "another training is writing to {}; wait for it, or choose another `out`",
                    path.display()
                )));
            }
            Err(TryLockError::Error(err)) => {
                log::warn!("two trainings in one folder would not be noticed: {err}");
            }
        }
        let folder = Self { path: path.to_owned(), _lock: lock };
        for place in [folder.path.clone(), folder.checkpoints(), folder.samples()] {
            fs::create_dir_all(&place).map_err(OutputError::io("create", &place))?;
            remove_leftovers(&place)?;
        }
        match mode {
            Mode::New => folder.require_unused()?,
            Mode::Resume => {}
            Mode::Restart => folder.clear()?,
        }
        Ok(folder)
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The file of measurements.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Where sample videos are.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// Where figures are.
    pub fn figures(&self) -> PathBuf {
        self.path.join("figures")
    }

    /// The model in the end.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Writes the configuration with everything filled in.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_config(&self, text: &str) -> Result<(), TrainError> {
        let path = self.path.join("config.toml");
        let mut file = AtomicFile::create(&path)?;
        file.write_all(text.as_bytes()).map_err(OutputError::io("write", &path))?;
        Ok(file.commit()?)
    }

    fn require_unused(&self) -> Result<(), TrainError> {
        let last = state::list(&self.checkpoints())?.pop();
        if last.is_none() && !self.metrics().exists() {
            return Ok(());
        }
        let steps = last.map_or_else(String::new, |(step, _)| format!(" of {step} steps"));
        Err(TrainError::Setting(format!(
            "the folder holds a training{steps} already; go on with it by --resume, delete it by \
             --restart, or choose another `out`: {}",
            self.path.display()
        )))
    }

    /// Deletes the outputs of an earlier training, and nothing else.
    fn clear(&self) -> Result<(), TrainError> {
        for (_, path) in state::list(&self.checkpoints())? {
            remove_folder(&path)?;
        }
        if self.model().join(MARKER).is_file() {
            remove_folder(&self.model())?;
        }
        let samples = fs::read_dir(self.samples()).map_err(OutputError::io("list", &self.path))?;
        let samples = samples.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b"step-") && path.is_file()
        });
        let metrics = Some(self.metrics()).filter(|path| path.exists());
        for path in samples.chain(metrics) {
            fs::remove_file(&path).map_err(OutputError::io("remove", &path))?;
        }
        Ok(())
    }
}
