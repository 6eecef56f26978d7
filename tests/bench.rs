//! The benchmark as a library: reports, their readers, and suites on real devices.

#[path = "common/mod.rs"]
mod common;

use burn::tensor::{Int, Tensor, TensorData};
use common::wgpu_device;
use qvgen::bench::{
    self, Baseline, Clock, CpuClock, DeviceReport, Entry, Failure, Identity, Job, Outcome, Repeats,
    Report, SCHEMA_VERSION, Selection, Stopwatch, Suite, Verified, WallClock, Work,
};
use qvgen::kernels::ceiling_arithmetic::{Arithmetic, ceiling_arithmetic};
use qvgen::kernels::device::{self, OpenDevice};
use serde_json::{Value, json};
use std::path::PathBuf;

const REPEATS: Repeats = Repeats {
    warm_up: 0,
    least: 2,
    most: 2,
    seconds: 0.0,
    precision: 0.0,
    sample_seconds: 0.0,
    long_seconds: f64::INFINITY,
};

/// Work that adds numbers.
struct Adding(u64);

impl Job for Adding {
    fn run(&mut self) {
        std::hint::black_box((0..self.0).fold(0, |sum, i| std::hint::black_box(sum ^ i)));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        Verified::within(0.0, 0.0)
    }
}

fn adding(kernel: &str, precision: &str, count: u64) -> Entry {
    let identity = Identity::new(Suite::Matmul, "a <case>", kernel, precision, &[("tokens", 1)]);
    let ops = count as f64;
    let work = Work { f32_ops: ops, bytes: ops, ..Work::default() };
    Entry::new(identity, work, 1, move |_| Ok(Box::new(Adding(count))))
}

fn run(entries: &[Entry]) -> DeviceReport {
    bench::run_device(&OpenDevice::cpu(), entries, REPEATS, &|| false, &mut |_| ())
}

fn report() -> Report {
    let slow = adding("slow", "f32", 400_000).as_baseline(Baseline::F32);
    Report::new(vec![run(&[slow, adding("fast", "w4a4", 50_000)])])
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a writable folder");
        path
    }
}

#[test]
fn a_report_survives_json() {
    let (place, report) = (Place::new(), report());
    let path = place.write("a.json", serde_json::to_string(&report).unwrap());
    let read = bench::read_report(&path).unwrap();
    assert_same("", &serde_json::to_value(read).unwrap(), &serde_json::to_value(report).unwrap());
}

/// Equal but for the last bit of a number, which reading decimal digits may change.
fn assert_same(at: &str, a: &Value, b: &Value) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{at}");
            a.iter().for_each(|(key, value)| assert_same(&format!("{at}/{key}"), value, &b[key]));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter().zip(b).for_each(|(a, b)| assert_same(at, a, b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-14 * b.abs(), "{at}: {a} {b}");
        }
        _ => assert_eq!(a, b, "{at}"),
    }
}

#[test]
fn a_report_names_what_others_need_to_judge_it() {
    let report = serde_json::to_value(report()).unwrap();
    assert_eq!(report["schema"], "qvgen-bench");
    assert_eq!(report["kernels_digest"].as_str().unwrap().len(), 16);
    let device = &report["devices"][0];
    for field in ["name", "backend", "kind", "driver", "tier", "time_source", "is_software"] {
        assert!(!device[field].is_null(), "{field}");
    }
    let fast = &device["entries"][1];
    assert_eq!(fast["identity"]["parameters"]["tokens"], 1);
    assert_eq!(fast["outcome"]["status"], "timed");
    assert_eq!(fast["outcome"]["speed_ups"][0]["over"], "f32");
    assert!(fast["outcome"]["speed_ups"][0]["ratio"].as_f64().unwrap() > 1.0);
    assert!(fast["outcome"]["ceiling_fraction"].as_f64().unwrap() > 0.0);
}

/// Fields that came later are absent in older reports.
#[test]
fn a_report_without_later_fields_is_read() {
    let place = Place::new();
    let mut value = serde_json::to_value(report()).unwrap();
    let ceilings = value["devices"][0]["ceilings"].as_object_mut().unwrap();
    assert!(ceilings.remove("matrix_ops").is_some());
    let outcome = value["devices"][0]["entries"][0]["outcome"].as_object_mut().unwrap();
    assert!(outcome.remove("form").is_some());
    bench::read_report(&place.write("a.json", value.to_string())).unwrap();
}

/// Each is refused with one sentence that contains the words.
#[test]
fn foreign_newer_and_hostile_files_are_refused_in_a_sentence() {
    let place = Place::new();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(report()).unwrap();
        change(&mut value);
        value.to_string().into_bytes()
    };
    let timed = "/devices/0/entries/0/outcome/seconds/median";
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no report", b"".to_vec()),
        ("no report", b"{".to_vec()),
        ("no report", vec![0xFF; 100]),
        ("no report", "[".repeat(100_000).into_bytes()),
        ("\"schema\"", b"[1, 2]".to_vec()),
        ("\"schema\"", br#"{"schema": "another"}"#.to_vec()),
        ("version 2", with(&|v| v["schema_version"] = json!(SCHEMA_VERSION + 1))),
        ("version 0", with(&|v| v["schema_version"] = json!("one"))),
        ("devices", with(&|v| drop(v.as_object_mut().unwrap().remove("devices")))),
        ("no report", with(&|v| v["devices"][0]["time_source"] = json!("sundial"))),
        ("impossible", with(&|v| *v.pointer_mut(timed).unwrap() = json!(0.0))),
        ("impossible", with(&|v| *v.pointer_mut(timed).unwrap() = json!(-1.0))),
        ("no report", with(&|v| *v.pointer_mut(timed).unwrap() = json!(null))),
        ("no report", with(&|v| *v.pointer_mut(timed).unwrap() = json!("fast"))),
    ];
    for (index, (words, bytes)) in cases.into_iter().enumerate() {
        let path = place.write(&format!("{index}.json"), &bytes);
        let message = bench::read_report(&path).unwrap_err().to_string();
        assert!(message.contains(words), "{index}: {words:?} is not in {message:?}");
        assert!(!message.contains('\n'), "{index}: {message:?}");
        assert!(message.contains(&format!("{index}.json")), "{message:?}");
    }
    let missing = bench::read_report(&place.0.path().join("missing.json"));
    assert!(missing.unwrap_err().to_string().contains("missing.json"));
}

#[test]
fn names_in_a_report_move_no_cursor_and_make_no_markup() {
    let place = Place::new();
    let mut value = serde_json::to_value(report()).unwrap();
    value["devices"][0]["name"] = json!("evil\u{1b}[2J<script>alert(1)</script>");
    value["devices"][0]["entries"][0]["identity"]["kernel"] = json!("\r\nforged line");
    value["devices"][0]["entries"][0]["outcome"]["form"] = json!("\u{1b}[2Jtile");
    let path = place.write("a.json", value.to_string());
    let report = bench::read_report(&path).unwrap();
    assert_eq!(report.devices[0].entries[0].timed().unwrap().form.as_deref(), Some("[2Jtile"));
    let comparison = bench::compare(&[("a.json".to_owned(), report.clone())]);
    let text = format!("{:?}", comparison.devices);
    assert!(!text.contains("\\u{1b}") && text.contains("evil"), "{text}");
    assert_eq!(comparison.tables[0].rows[0][1], "forged line");
    let page = bench::html::page(&report).unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
}

#[test]
fn the_page_is_one_file_without_links_and_its_figures_are_xml() {
    let page = bench::html::page(&report()).unwrap();
    let without = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!without.contains("http:") && !without.contains("https:"), "a link");
    for forbidden in ["<script", "<link", "<img", "@import", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.matches("<svg").count() >= 2, "a roofline and a speed-up");
    assert!(page.contains("a &lt;case&gt;"));
}

#[test]
fn devices_are_compared_by_their_own_best_and_worst() {
    let mut fast = report();
    let name = |report: &mut Report, name: &str| report.devices[0].name = name.to_owned();
    let mut slow = fast.clone();
    name(&mut fast, "fast");
    name(&mut slow, "slow");
    // A machine that is ten times slower throughout.
    for entry in &mut slow.devices[0].entries {
        if let Outcome::Timed(timed) = &mut entry.outcome {
            timed.seconds.median *= 10.0;
            timed.ops_per_second /= 10.0;
        }
    }
    let reports = [("a".to_owned(), fast), ("b".to_owned(), slow)];
    let comparison = bench::compare(&reports);
    assert_eq!(comparison.devices.len(), 2);
    for row in &comparison.tables[0].rows {
        let (a, b) = (&row[3..6], &row[6..9]);
        assert_eq!(a[1..], b[1..], "fractions of their own do not show the factor");
    }
    let best: Vec<&String> = comparison.tables[0].rows.iter().map(|row| &row[4]).collect();
    assert!(best.contains(&&"100 %".to_owned()), "{best:?}");
}

#[test]
fn what_a_device_lacks_is_empty_in_the_comparison() {
    let both = report();
    let mut one = both.clone();
    one.devices[0].entries.pop();
    one.devices[0].checksum.is_right = false;
    let reports = [("a".to_owned(), both), ("b".to_owned(), one)];
    let comparison = bench::compare(&reports);
    assert_eq!(comparison.tables[0].rows[1][6..9], ["", "", ""]);
    assert!(comparison.warnings.iter().any(|warning| warning.contains("other integers")));
}

/// Some suites' jobs on a device, verified and timed at the smallest size.
fn assert_verified(open: &OpenDevice, suites: &[Suite]) {
    let selection = Selection {
        tokens: vec![33],
        block_tokens: 16,
        ..Selection::for_device(&OpenDevice::cpu(), true)
    };
    let mut entries = bench::entries(&selection, open);
    entries.retain(|entry| suites.contains(&entry.identity.suite));
    let report = bench::run_device(open, &entries, REPEATS, &|| false, &mut |_| ());
    assert!(report.checksum.is_right, "{}: {:?}", report.name, report.checksum);
    for entry in &report.entries {
        let timed = entry.timed().unwrap_or_else(|| {
            panic!("{} on {}: {:?}", entry.identity, report.name, entry.outcome)
        });
        assert!(timed.seconds.median > 0.0 && timed.error <= timed.tolerance);
        let identity = &entry.identity;
        let has_form = match identity.suite {
            Suite::Matmul => identity.kernel.split('+').any(|kernel| kernel == "qmatmul"),
            Suite::Attention => identity.kernel == "attention" && identity.precision != "int8",
            _ => false,
        };
        assert_eq!(timed.form.is_some(), has_form, "{identity}");
    }
    for suite in suites {
        assert!(report.entries.iter().any(|entry| entry.identity.suite == *suite), "{suite}");
    }
    let steps = report.entries.iter().filter(|entry| entry.identity.suite == Suite::Step);
    for step in steps.filter(|_| open.adapter.is_some()) {
        let parts = step.timed().unwrap().breakdown.as_ref().unwrap();
        assert!(parts.kernels.iter().any(|k| k.kernel.starts_with("attention")), "{parts:?}");
    }
}

#[test]
fn every_suite_is_verified_on_the_cpu_device() {
    assert_verified(&OpenDevice::cpu(), &Suite::ALL);
}

// On an adapter in two halves, which compile side by side.

#[test]
fn suites_of_kernels_are_verified_on_an_adapter() {
    assert_verified(&wgpu(), &Suite::ALL[..Suite::ALL.len() / 2]);
}

#[test]
fn suites_of_passes_and_steps_are_verified_on_an_adapter() {
    assert_verified(&wgpu(), &Suite::ALL[Suite::ALL.len() / 2..]);
}

/// Arithmetic that keeps a processor busy for a while.
struct Busy {
    seed: Tensor<1, Int>,
    y: Option<Tensor<1, Int>>,
}

impl Job for Busy {
    fn run(&mut self) {
        self.y = Some(ceiling_arithmetic(self.seed.clone(), Arithmetic::F32, 1 << 13, 2048));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.take().ok_or_else(|| Failure::device("not run"))?;
        y.try_into_data().map_err(Failure::device)?;
        Verified::within(0.0, 0.0)
    }
}

#[test]
fn a_sample_ends_with_the_work_and_not_with_its_submission() {
    let open = wgpu();
    if !open.adapter.as_ref().is_some_and(|adapter| adapter.is_software()) {
        return; // a GPU is done before anybody looks
    }
    let seed = Tensor::from_data(TensorData::new(vec![3_i32], [1]), &open.device);
    let mut job = Busy { seed, y: None };
    let (mut stopwatch, mut cpu) = (Stopwatch::new(&open), CpuClock::default());
    stopwatch.sample(1, &mut job).unwrap(); // compiles
    cpu.now();
    let sample = stopwatch.sample(3, &mut job).unwrap();
    let before = cpu.now();
    job.verify().unwrap();
    let rest = cpu.now() - before;
    assert!(rest < 0.5 * sample.cpu, "{rest} s after a sample of {} s", sample.cpu);

    let mut wall = WallClock::default();
    wall.now();
    let (_, ticks) = open.device.profile(|| job.run()).unwrap();
    let stamped = pollster::block_on(ticks.resolve()).unwrap().duration().as_secs_f64();
    let whole = wall.now();
    assert!((0.3 * whole..=whole).contains(&stamped), "{stamped} s of {whole} s");
}

/// The adapter that the other tests use, with what is known of it.
fn wgpu() -> OpenDevice {
    let _ = wgpu_device(); // its message, if there is none
    let backend = std::env::var("QVGEN_TEST_BACKEND").ok();
    let name = std::env::var("QVGEN_TEST_DEVICE").ok();
    let selection = name.map_or(device::Selection::Auto, device::Selection::Named);
    device::open(&selection, backend.as_deref()).unwrap()
}
