//! Packed products on the best device of this machine: verified against the plain-Rust twin, then
//! timed.
//!
//! `cargo run --release --example run_one_kernel`

use qvgen::bench::{MatmulCase, Repeats, WallClock, measure_matmul};
use qvgen::kernels::device::{self, Selection};
use qvgen::quant::Bits;

fn main() -> anyhow::Result<()> {
    let open = device::open(&Selection::Auto, None)?;
    println!("{}", open.describe());
    println!("precision  median ms  spread ms  GOP/s  difference from the twin");
    for bits in [Bits::B3, Bits::B4, Bits::B8] {
        let case = MatmulCase { bits, tokens: 256, out_features: 1536, in_features: 1536 };
        let mut clock = WallClock::default();
        let measured = measure_matmul(case, &open.device, &mut clock, Repeats::default())?;
        println!(
            "W{bits}A{bits:<7} {:>9.2} {:>10.2} {:>6.1}  {:.1e}",
            measured.seconds.median * 1e3,
            measured.seconds.spread * 1e3,
            measured.operations_per_second / 1e9,
            measured.error
        );
    }
    Ok(())
}
