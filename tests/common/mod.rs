//! Comparison of tensors with a failure message one can act on, and access to the fixtures.

#![allow(dead_code, reason = "every test file uses its own part of this module")]

use burn::tensor::Device;
use qvgen::kernels::device::{self, Selection};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Asserts `|actual − expected| ≤ abs + rel·|expected|` for every element.
#[track_caller]
pub(crate) fn assert_close(what: &str, actual: &[f32], expected: &[f32], rel: f32, abs: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    let bad: Vec<usize> = (0..actual.len())
        .filter(|&i| {
            let within = (actual[i] - expected[i]).abs() <= abs + rel * expected[i].abs();
            !within // also true for NaN
        })
        .collect();
    let shown =
        bad.iter().take(8).map(|&i| format!("  [{i}] got {} expected {}", actual[i], expected[i]));
    assert!(
        bad.is_empty(),
        "{what}: {} of {} elements differ (rel {rel:e}, abs {abs:e})\n{}",
        bad.len(),
        actual.len(),
        shown.collect::<Vec<_>>().join("\n"),
    );
}

/// Largest difference relative to the root mean square of `expected`: the fixtures' measure.
/// NaN anywhere gives infinity.
#[track_caller]
pub(crate) fn max_error(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len(), "lengths differ");
    let mean_square = expected.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
        / expected.len().max(1) as f64;
    let worst = actual
        .iter()
        .zip(expected)
        .map(|(a, e)| (a - e).abs())
        .fold(0.0_f32, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) });
    worst / (mean_square.sqrt() as f32).max(1e-6)
}

/// Asserts that [`max_error`] is at most `tolerance`.
#[track_caller]
pub(crate) fn assert_matches(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    let error = max_error(actual, expected);
    assert!(error <= tolerance, "{what}: max |Δ| / rms = {error:e}, tolerance {tolerance:e}");
}

/// The CPU device and the wgpu device that tests run on.
pub(crate) fn devices() -> [(&'static str, Device); 2] {
    [("cpu", Device::flex()), ("wgpu", wgpu_device())]
}

/// The adapter that tests run on: the best, or the one that `QVGEN_TEST_BACKEND` (vulkan, gl, …)
/// and `QVGEN_TEST_DEVICE` (index or name) choose.
///
/// A missing adapter fails the test: skipping silently would hide every kernel bug.
pub(crate) fn wgpu_device() -> Device {
    static POOL: [OnceLock<Device>; SEATS] = [const { OnceLock::new() }; SEATS];
    thread_local! {
        static SEAT: Seat = Seat::take();
    }
    let open = || {
        let backend = std::env::var("QVGEN_TEST_BACKEND").ok();
        let name = std::env::var("QVGEN_TEST_DEVICE").ok();
        let selection = name.map_or(Selection::Auto, Selection::Named);
        let open = device::open(&selection, backend.as_deref()).unwrap_or_else(|e| panic!("{e}"));
        assert!(open.adapter.is_some(), "no adapter: `qvgen setup` installs one on Debian");
        open.device
    };
    SEAT.with(|seat| POOL[seat.0].get_or_init(open).clone())
}

/// Devices among which tests are spread: a software adapter compiles on one thread for each.
const SEATS: usize = 2;
/// Tests on each of them.
static TAKEN: Mutex<[usize; SEATS]> = Mutex::new([0; SEATS]);

/// A test's place at the device with the fewest tests.
struct Seat(usize);

impl Seat {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (0..SEATS).min_by_key(|&place| taken[place]).unwrap();
        taken[place] += 1;
        Self(place)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[self.0] -= 1;
    }
}

/// Folder of the reference data: `QVGEN_FIXTURES`, else the copy in this repository.
pub(crate) fn fixtures() -> PathBuf {
    std::env::var_os("QVGEN_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), PathBuf::from)
}

/// The folder `name` in [`fixtures`], or the copy in this repository if there is none.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let folder = fixtures().join(name);
    if folder.is_dir() {
        return folder;
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The folders `<prefix>*` in [`fixtures`], sorted; never empty.
pub(crate) fn fixture_folders(prefix: &str) -> Vec<PathBuf> {
    let root = fixtures();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|err| panic!("{err}: {}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.is_dir() && path.file_name().unwrap().to_string_lossy().starts_with(prefix)
        })
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no {prefix}* in {}", root.display());
    folders
}

/// A `reference.safetensors` with its `reference.json`.
pub(crate) struct Reference {
    bytes: Vec<u8>,
    /// The description beside the tensors.
    pub(crate) json: serde_json::Value,
}

impl Reference {
    /// Reads both files of `folder`.
    pub(crate) fn open(folder: &Path) -> Self {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).unwrap_or_else(|err| panic!("{err}: {}", path.display()))
        };
        let json = serde_json::from_slice(&read("reference.json")).unwrap();
        Self { bytes: read("reference.safetensors"), json }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// Whether tensor `name` exists.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.tensors().names().into_iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    /// Shape of tensor `name`.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec()
    }

    /// Values of tensor `name`, as f64 whatever it is stored as.
    pub(crate) fn f64(&self, name: &str) -> Vec<f64> {
        fn map<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.chunks_exact(N).map(|chunk| f(chunk.try_into().unwrap())).collect()
        }
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|err| panic!("{name}: {err}"));
        let bytes = tensor.data();
        match tensor.dtype() {
            Dtype::F64 => map(bytes, f64::from_le_bytes),
            Dtype::F32 => map(bytes, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::I64 => map(bytes, |b| i64::from_le_bytes(b) as f64),
            Dtype::I32 => map(bytes, |b| f64::from(i32::from_le_bytes(b))),
            Dtype::I16 => map(bytes, |b| f64::from(i16::from_le_bytes(b))),
            Dtype::U8 | Dtype::BOOL => map(bytes, |b: [u8; 1]| f64::from(b[0])),
            other => panic!("{name}: {other:?} is not read by the tests"),
        }
    }

    /// Values of tensor `name` as f32.
    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.f64(name).into_iter().map(|value| value as f32).collect()
    }

    /// Values of the integer tensor `name`.
    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        self.f64(name).into_iter().map(|value| value as i64).collect()
    }
}
