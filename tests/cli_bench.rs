//! `qvgen bench` as a user runs it.

use serde_json::Value;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qvgen"))
        .env_remove("RUST_LOG")
        .arg("bench")
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn a_quick_run_prints_a_table_and_writes_both_reports() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let [json, html] = ["a.json", "a.html"].map(|name| place.path().join(name));
    let [json_path, html_path] = [&json, &html].map(|path| path.to_str().expect("UTF-8"));
    let output = run(&[
        "matmul", "quantize", "--quick", "--device", "cpu", "--json", json_path, "--html",
        html_path,
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for words in ["CPU", "SOFTWARE", "qmatmul", "w4a4", "of ceiling", "× burn", "checksum"] {
        assert!(table.contains(words), "{words:?} is not in {table}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("a report")).unwrap();
    assert_eq!(report["devices"][0]["checksum"]["is_right"], true);
    assert!(std::fs::read_to_string(&html).expect("a page").contains("</html>"));

    let output = run(&["compare", json_path, json_path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for words in ["A = CPU", "B = CPU", "A of best", "B × worst", "software"] {
        assert!(table.contains(words), "{words:?} is not in {table}");
    }
}

#[test]
fn the_list_names_every_suite_and_model() {
    let list = text(&run(&["list"]).stdout);
    for name in ["matmul", "train-step", "svd", "wan-14b", "pocket"] {
        assert!(list.contains(name), "{name}");
    }
}

#[test]
fn wrong_usage_is_refused_before_anything_is_measured() {
    for (arguments, words) in [
        (&["matmuls"][..], "expected one of matmul"),
        (&["--bits", "5"], "expected 2, 3, 4, 6 or 8"),
        (&["--tokens", "0"], "expected a number"),
        (&["--backend", "cuda"], "vulkan"),
        (&["--precisions", "w5a5"], "no precision"),
        (&["--device", "cpu", "--backend", "gl"], "leave --backend out"),
        (&["--json", "/nowhere/at/all.json", "--device", "cpu"], "/nowhere/at"),
        (&["compare"], "FILE"),
        (&["compare", "/nowhere.json"], "nowhere.json"),
    ] {
        let output = run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let message = text(&output.stderr);
        assert!(message.contains(words), "{words:?} is not in {message:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
}
