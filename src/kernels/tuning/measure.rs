//! Verifying and timing the forms of a packed product on made-up codes.

use crate::kernels::EpilogueKind;
use crate::kernels::qmatmul::Params;
use crate::kernels::qmatmul_form::{Form, Product};
use crate::quant::{Bits, pack_rows};
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::server::Handle;
use std::time::Instant;

/// Tokens beyond which the time only grows in proportion.
pub(super) const MOST_TOKENS: u32 = 2048;
/// Tokens whose integers are compared.
const VERIFIED_TOKENS: u32 = 130;
/// Runs that are timed; the fastest counts.
const RUNS: usize = 3;
/// The form that every other must agree with.
const PORTABLE: Form = Form::Tile { rows: 1, columns: 1 };

/// A form and its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) form: Form,
    /// Wall clock of one product.
    pub(crate) seconds: f64,
}

/// Times every form of `forms` that gives the integers of the portable one.
pub(super) fn candidates(
    client: &Client,
    forms: &[Form],
    product: Product,
    params: Params,
) -> Vec<Measured> {
    let product = Product { epilogue: EpilogueKind::Bias, ..product };
    let params = Params { m: params.m.min(MOST_TOKENS), ..params };
    let buffers = Buffers::new(client, product, params);
    let mut measured = Vec::new();
    for &form in forms {
        if !buffers.agrees(client, form, product, params) {
            log::warn!("{form} gives other integers than {PORTABLE} and is not used: {product:?}");
            continue;
        }
        if let Some(seconds) = buffers.time(client, form, product, params) {
            measured.push(Measured { form, seconds });
        }
    }
    measured
}

/// Codes that differ by position, in device layout, with their grids.
fn made_up_rows(bits: Bits, rows: usize, k: usize, group_size: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut codes, mut grids) = (Vec::new(), Vec::new());
    let mut state = 1_u32;
    for _ in 0..rows {
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> (32 - bits.get())
        };
        let row: Vec<u32> = (0..k).map(next).collect();
        codes.extend(pack_rows(bits, &row, k));
        for group in row.chunks(group_size) {
            grids.extend([1.0_f32.to_bits(), 0, group.iter().sum()]);
        }
    }
    (codes, grids)
}

/// Whether floats, none of them below zero, are equal up to the rounding of their sums.
fn are_near(actual: &[u8], expected: &[u8]) -> bool {
    let float = |bytes: &[u8]| bytemuck::pod_read_unaligned::<f32>(bytes);
    let near = |(a, b): (&[u8], &[u8])| (float(a) - float(b)).abs() <= 1e-5 * float(b);
    actual.len() == expected.len() && actual.chunks_exact(4).zip(expected.chunks_exact(4)).all(near)
}

/// Made-up inputs on a device.
struct Buffers {
    reads: Vec<Handle>,
    y: Handle,
}

impl Buffers {
    fn new(client: &Client, product: Product, params: Params) -> Self {
        let (m, n, k) = (params.m as usize, params.n as usize, params.k as usize);
        let upload = |words: &[u32]| client.create_from_slice(bytemuck::cast_slice(words));
        let (x_codes, x_grid) = made_up_rows(product.x_bits, m, k, k);
        let (w_codes, w_grid) = made_up_rows(product.w_bits, n, k, params.group_size as usize);
        let reads = [&x_codes, &x_grid, &w_codes, &w_grid, &vec![0; n]];
        let reads = reads.into_iter().map(|words| upload(words)).collect();
        Self { reads, y: client.empty(4 * m * n) }
    }

    /// Whether `form` gives the integers of the portable one for the first tokens; of groups, whose
    /// sums are floats and depend on the order, the same up to rounding.
    fn agrees(&self, client: &Client, form: Form, product: Product, params: Params) -> bool {
        if form == PORTABLE {
            return true;
        }
        let product = Product { raw: !product.grouped, ..product };
        let params = Params { m: params.m.min(VERIFIED_TOKENS), ..params };
        let result = |form: Form| {
            let y = client.empty(4 * params.m as usize * params.n as usize);
            form.dispatch(client, product, &self.reads, &y, params);
            client.read_one(y).ok()
        };
        let (Some(actual), Some(expected)) = (result(form), result(PORTABLE)) else {
            return false;
        };
        if product.raw { actual == expected } else { are_near(&actual, &expected) }
    }

    fn time(&self, client: &Client, form: Form, product: Product, params: Params) -> Option<f64> {
        let run = || {
            let start = Instant::now();
            form.dispatch(client, product, &self.reads, &self.y, params);
            pollster::block_on(client.sync()).ok()?;
            Some(start.elapsed().as_secs_f64())
        };
        run()?; // compiles
        (0..RUNS).map(|_| run()).collect::<Option<Vec<_>>>()?.into_iter().reduce(f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_neither_wrong_nor_nan_nor_short() {
        let bytes = |values: &[f32]| bytemuck::cast_slice::<f32, u8>(values).to_vec();
        let expected = bytes(&[1.0, 4e6]);
        assert!(are_near(&bytes(&[1.0, 4e6 + 2.0]), &expected));
        for wrong in [&[1.001, 4e6][..], &[1.0, f32::NAN], &[1.0]] {
            assert!(!are_near(&bytes(wrong), &expected), "{wrong:?}");
        }
    }
}
