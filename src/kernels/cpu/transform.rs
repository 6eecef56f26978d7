//! Rows of floats before their quantizer: a shift and a factor by channel, and a blockwise
//! Walsh–Hadamard transform.

use super::form::{Form, Task};
use super::parallel::for_each;
use crate::quant::hadamard_block;

/// Values below which starting other processors takes longer than the work.
const PARALLEL_LEN: usize = 1 << 15;

/// `H · ((x − offset) · factor)` of rows of `in_features`, in place: to the last bit that of
/// [`quant::affine_hadamard`](crate::quant::affine_hadamard()).
///
/// # Panics
///
/// If a length does not fit.
pub fn transform(
    form: Form,
    x: &mut [f32],
    in_features: usize,
    affine: Option<[&[f32]; 2]>,
    block: Option<usize>,
) {
    assert!(
        in_features > 0 && x.len().is_multiple_of(in_features),
        "{} values are no rows of {in_features}",
        x.len()
    );
    for row in affine.iter().flatten() {
        assert_eq!(row.len(), in_features, "length of offset and factor");
    }
    let is_long = x.len() >= PARALLEL_LEN;
    let rows = x.chunks_mut(in_features).collect();
    for_each(is_long, rows, |_, row| form.run(Row { row, affine, block }));
}

struct Row<'a> {
    row: &'a mut [f32],
    affine: Option<[&'a [f32]; 2]>,
    block: Option<usize>,
}

impl Task for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(self) {
        let Self { row, affine, block } = self;
        if let Some([offset, factor]) = affine {
            for ((value, offset), factor) in row.iter_mut().zip(offset).zip(factor) {
                *value = (*value - offset) * factor;
            }
        }
        match block {
            // Of known width, so that the compiler unrolls the stages.
            Some(64) => row.as_chunks_mut::<64>().0.iter_mut().for_each(|b| hadamard_block(b)),
            Some(128) => row.as_chunks_mut::<128>().0.iter_mut().for_each(|b| hadamard_block(b)),
            Some(block) => row.chunks_exact_mut(block).for_each(hadamard_block),
            None => {}
        }
    }
}
