//! Packed products on the best device of this machine: verified against the plain-Rust twin, then
//! timed.
//!
//! `cargo run --release --example run_one_kernel`

use anyhow::Context;
use qvgen::bench::{Repeats, Selection as Work, Suite, entries, run_device};
use qvgen::kernels::device::{self, Selection};
use qvgen::quant::Bits;

fn main() -> anyhow::Result<()> {
    let open = device::open(&Selection::Auto, None)?;
    println!("{}", open.describe());
    let mut work = Work::for_device(&open, true);
    work.suites = vec![Suite::Matmul];
    work.bits = vec![Bits::B3, Bits::B4, Bits::B8];
    let report =
        run_device(&open, &entries(&work, &open), Repeats::default(), &|| false, &mut |_| ());
    println!("median ms  spread ms  difference from the twin  what");
    for entry in &report.entries {
        let timed =
            entry.timed().with_context(|| format!("{} was not verified", entry.identity))?;
        println!(
            "{:>9.2}  {:>9.2}  {:>24.1e}  {}",
            timed.seconds.median * 1e3,
            timed.seconds.spread * 1e3,
            timed.error,
            entry.identity
        );
    }
    Ok(())
}
