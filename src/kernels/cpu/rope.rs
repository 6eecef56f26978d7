//! Rotations of pairs of channels.

use super::form::{Form, Task};
use super::parallel::for_each;
use crate::kernels::rope::{Params, rotate};

/// Tokens of a task.
const TOKENS: usize = 64;
/// Values above which all processors take part.
const PARALLEL_LEN: usize = 1 << 17;

/// Exactly what [`rope::reference`](crate::kernels::rope::reference) computes.
///
/// # Panics
///
/// If the lengths are not those of `params`.
pub fn rope(form: Form, [x, cos, sin]: [&[f32]; 3], params: Params) -> Vec<f32> {
    let [tokens, width] = params.shape();
    let pairs = params.pairs as usize;
    assert_eq!(x.len(), tokens * width, "values of {tokens} tokens");
    assert_eq!([cos.len(), sin.len()], [tokens * pairs; 2], "angles of {tokens} tokens");
    let mut y = vec![0.0; x.len()];
    if y.is_empty() {
        return y;
    }
    let angles = cos.chunks(TOKENS * pairs).zip(sin.chunks(TOKENS * pairs));
    let parts = y.chunks_mut(TOKENS * width).zip(x.chunks(TOKENS * width)).zip(angles);
    for_each(x.len() >= PARALLEL_LEN, parts.collect(), |_, ((y, x), (cos, sin))| {
        form.run(Part { y, x, cos, sin, params });
    });
    y
}

struct Part<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    params: Params,
}

impl Task for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(self) {
        let Self { y, x, cos, sin, params } = self;
        rotate(y, x, cos, sin, params);
    }
}
