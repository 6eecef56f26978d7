//! `QVGEN_DUMP_WGSL=folder` writes every assembled shader there, for `naga` or a profiler.

use std::{env, fs, path::PathBuf};

/// Writes `source` as `<label>.wgsl` if dumping is on; a failed write is only logged.
pub(super) fn write(label: &str, source: &str) {
    let Some(folder) = env::var_os("QVGEN_DUMP_WGSL").map(PathBuf::from) else {
        return;
    };
    let stem: String = label.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let path = folder.join(format!("{stem}.wgsl"));
    if let Err(err) = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, source)) {
        log::warn!("QVGEN_DUMP_WGSL: {err} in {}", path.display());
    }
}
