//! Whole trainings as a user runs them: the program itself on a tiny model, interrupted in every
//! way a process can be.

#[path = "../common/mod.rs"]
mod common;
mod configs;
mod export;
mod figures;
mod folders;
mod interruptions;

use qvgen::train::{Metric, read_metrics};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The tiny model of the fixtures.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wan_a")
}

/// A temporary place with a configuration for a training of seconds.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with_model(&model())
    }

    fn with_model(model: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = format!(
            "model = {model:?}\nout = {:?}\nbits = \"w4a4\"\nmethod = \"lsq\"\n\
             [loop]\nsteps = 20\nbatch = 2\n\
             [optimizer]\nlearning_rate = 1e-3\naverage_decay = 0.9\n\
             [data]\nrandom = 12\nframes = 5\nwidth = 32\nheight = 32\nhold_out = 2\n\
             [checkpoint]\nevery = 4\n[log]\nevery = 5\nvalidation_every = 5\n",
            folder.path().join("out")
        );
        std::fs::write(folder.path().join("train.toml"), text).expect("a configuration");
        Self { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("train.toml")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// `qvgen train` with further arguments.
    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qvgen"));
        command.env_remove("RUST_LOG").arg("train").arg(self.config());
        command.args(["--device", "cpu"]).args(more);
        command
    }

    fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().expect("the program starts")
    }

    /// Runs and succeeds; what was said on stderr.
    #[track_caller]
    fn trains(&self, more: &[&str]) -> String {
        let output = self.run(more);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        said
    }

    /// Fails with exit code 1 and one sentence that contains all of `words`.
    #[track_caller]
    fn is_refused(&self, more: &[&str], words: &[&str]) {
        let output = self.run(more);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let error = said.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("no error line in {said:?}"));
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
        assert!(!error.contains("stopped in the middle"), "a panic: {error}");
    }

    fn metrics(&self) -> Vec<Metric> {
        read_metrics(&self.out().join("metrics.jsonl")).expect("measurements")
    }

    /// Everything that must not depend on interruptions: measurements without their durations, to
    /// the last bit.
    fn trajectory(&self) -> Vec<(usize, Vec<u64>)> {
        let bits = |metric: &Metric| match metric {
            Metric::Step(step) => vec![step.loss.to_bits(), step.gradient_norm.to_bits()],
            Metric::Validation(validation) => vec![
                validation.loss.to_bits(),
                validation.loss_without_phi.unwrap_or_default().to_bits(),
            ],
            Metric::Spectrum { singular_values, .. } => {
                singular_values.values().flatten().map(|value| u64::from(value.to_bits())).collect()
            }
        };
        self.metrics().iter().map(|metric| (metric.step(), bits(metric))).collect()
    }

    /// The weights of the exported model.
    fn weights(&self) -> Vec<u8> {
        let path = "model/transformer/diffusion_pytorch_model.safetensors";
        std::fs::read(self.out().join(path)).expect("an exported model")
    }

    fn checkpoints(&self) -> Vec<String> {
        names(&self.out().join("checkpoints"))
    }
}

/// Names of everything in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
