//! `qvgen devices`.

use super::output;
use crate::kernels::device::{Adapter, adapters};

/// Arguments of `qvgen devices`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Lists the adapters; `auto` takes the first.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let adapters = adapters();
    if args.json {
        return output::json(&adapters);
    }
    if adapters.is_empty() {
        output::line("no adapters; `--device cpu` still works, and `qvgen setup` may help");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = adapters.iter().map(row).collect();
    let header = ["#", "name", "backend", "kind", "tier", "largest binding", "workgroup", "driver"];
    output::line(&output::table(&header, &rows));
    Ok(())
}

fn row(adapter: &Adapter) -> Vec<String> {
    vec![
        adapter.index.to_string(),
        adapter.name.clone(),
        adapter.backend.clone(),
        adapter.kind.clone(),
        adapter.tier().to_owned(),
        output::bytes(adapter.max_binding_bytes),
        output::bytes(u64::from(adapter.workgroup_memory_bytes)),
        adapter.driver.clone(),
    ]
}
