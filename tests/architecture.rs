//! Who may import whom. The table is the architecture; these tests keep it true.

use std::fs;
use std::path::{Path, PathBuf};

/// `(module, modules it may import)`; anything else is an error.
const ALLOWED: &[(&str, &[&str])] = &[
    ("quant", &[]),
    ("kernels", &["quant"]),
    ("nn", &["kernels", "quant"]),
    ("models", &["nn"]),
    ("method", &["nn", "kernels", "quant"]),
    ("pipeline", &["models", "method", "nn", "kernels", "quant"]),
    ("world", &[]),
    ("train", &["world", "pipeline", "models", "method", "nn", "kernels", "quant"]),
    ("evaluate", &["world", "train", "pipeline", "models", "method", "nn", "kernels", "quant"]),
    ("bench", &["train", "pipeline", "models", "method", "nn", "kernels", "quant"]),
    (
        "cli",
        &[
            "bench", "evaluate", "world", "train", "pipeline", "models", "method", "nn", "kernels",
            "quant",
        ],
    ),
];

/// `(external crate, the only modules that may name it)`.
const OWNED: &[(&str, &[&str])] = &[
    ("burn_cubecl", &["kernels"]),
    ("burn_wgpu", &["kernels"]),
    ("wgpu", &["kernels"]),
    ("safetensors", &["pipeline"]),
    ("tokenizers", &["pipeline"]),
    ("png", &["pipeline"]),
    ("gif", &["pipeline"]),
    ("rusty_h264_encoder", &["pipeline"]),
    ("plotters", &["train", "bench"]),
    ("toml", &["train"]),
    ("clap", &["cli"]),
    ("anyhow", &["cli"]),
    ("indicatif", &["cli"]),
];

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .map(|entry| entry.expect("a readable directory entry").path())
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect()
}

/// Calls `check` with every line of code in `src/<module>`.
fn for_each_line(module: &str, mut check: impl FnMut(&str, &str)) {
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module)) {
        let text = fs::read_to_string(&file).expect("a readable source file");
        for (number, line) in text.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                check(&format!("{}:{}", file.display(), number + 1), line);
            }
        }
    }
}

fn identifiers_after<'a>(line: &'a str, marker: &str) -> impl Iterator<Item = String> + use<'a> {
    let parts: Vec<&str> = line.split(marker).skip(1).collect();
    parts
        .into_iter()
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

#[test]
fn modules_import_only_what_the_table_allows() {
    for (module, allowed) in ALLOWED {
        for_each_line(module, |place, line| {
            for used in identifiers_after(line, "crate::") {
                let known = ALLOWED.iter().any(|(name, _)| *name == used);
                assert!(
                    !known || used == *module || allowed.contains(&used.as_str()),
                    "{place}: `{module}` may not import `{used}`"
                );
            }
        });
    }
}

#[test]
fn external_crates_are_named_only_where_they_are_owned() {
    for (module, _) in ALLOWED {
        for_each_line(module, |place, line| {
            for (name, owners) in OWNED {
                let used = line.contains(&format!("{name}::"))
                    && identifiers_after(line, &format!("{name}::")).next().is_some();
                let starts_word = line.find(&format!("{name}::")).is_some_and(|at| {
                    at == 0
                        || !line[..at]
                            .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
                assert!(
                    !(used && starts_word) || owners.contains(module),
                    "{place}: `{name}` belongs to {owners:?}"
                );
            }
        });
    }
}

#[test]
fn every_module_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).expect("src").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            let name = entry.file_name().expect("a name").to_string_lossy().into_owned();
            let listed = ALLOWED.iter().any(|(module, _)| *module == name);
            assert!(listed, "src/{name} is not in the import table");
        }
    }
}

#[test]
fn every_shader_has_its_binding_and_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root.join("shaders")).expect("shaders") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ext| ext == "wgsl") {
            let stem = path.file_stem().expect("a stem").to_string_lossy().into_owned();
            for place in ["src/kernels", "tests/kernels"] {
                let twin = root.join(place).join(format!("{stem}.rs"));
                assert!(twin.is_file(), "{} has no {}", path.display(), twin.display());
            }
        }
    }
}

/// Files outside `src/models` that may name the modules of a family: the list of families, and what
/// makes the model inside the program.
const FAMILY_LISTS: [&str; 3] = ["pipeline/family.rs", "train/pretrain/", "bench/models.rs"];

#[test]
fn a_family_of_models_is_named_in_its_own_folder_and_the_list() {
    for (module, _) in ALLOWED.iter().filter(|(module, _)| *module != "models") {
        for_each_line(module, |place, line| {
            let names_one = ["models::wan", "models::cogvideox"].iter().any(|f| line.contains(f));
            assert!(
                !names_one || FAMILY_LISTS.iter().any(|list| place.contains(list)),
                "{place}: a family is named outside of the list in src/pipeline/family.rs"
            );
        });
    }
}
