//! `shaders/self_test.wgsl` — what a device must get right before its results are believed.
//!
//! Software drivers are the reason: Mesa's llvmpipe before version 25 ends every loop after
//! 65 535 iterations, and nothing but a wrong sum tells.

use super::launch::{contiguous_i32, empty_like, launch};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::IntTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cubecl::CubeBackend;

/// Iterations of the long loop: beyond 65 535.
const LOOPS: u32 = 70_001;
const WORKGROUP_SIZE: u32 = 64;

/// The kernel; it has one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelfTest;

params! {
    pub struct Params {
        /// 0.5, at run time so that no compiler rounds it.
        pub half: f32,
    }
}

impl Kernel for SelfTest {
    const NAME: &'static str = "self_test";
    const SOURCE: &'static str = include_str!("../../shaders/self_test.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        vec![Self]
    }

    fn workgroup_size(&self) -> u32 {
        WORKGROUP_SIZE
    }

    fn constants(&self) -> Vec<Const> {
        Vec::new()
    }
}

/// What each word of the result must be, and what a user is told if it is not.
pub const EXPECTED: [(u32, &str); 8] = [
    (LOOPS, "a loop ended before its last iteration"),
    (dot(LOOPS | 0xFF00_0000, 0xFF01_0203), "dot4U8Packed gave a wrong sum"),
    (0, "0.5 was not rounded to 0"),
    (2, "1.5 was not rounded to 2"),
    (2, "2.5 was not rounded to 2"),
    (LOOPS.wrapping_mul(0x1_0001), "an integer product did not wrap around"),
    (WORKGROUP_SIZE * (WORKGROUP_SIZE - 1) / 2, "a sum across a workgroup is wrong"),
    (1, "a shift lost its highest bit"),
];

const fn dot(x: u32, w: u32) -> u32 {
    let mut sum = 0;
    let mut shift = 0;
    while shift < 32 {
        sum += (x >> shift & 255) * (w >> shift & 255);
        shift += 8;
    }
    sum
}

/// The first fact that `result` gets wrong, in words.
pub fn first_failure(result: &[u32]) -> Option<String> {
    if result.len() != EXPECTED.len() {
        return Some(format!("{} results came back instead of {}", result.len(), EXPECTED.len()));
    }
    EXPECTED
        .iter()
        .zip(result)
        .find(|((expected, _), actual)| expected != *actual)
        .map(|((expected, what), actual)| format!("{what} ({actual} instead of {expected})"))
}

#[backend_extension(Cube, Flex)]
trait SelfTestOp: Backend {
    fn self_test(seed: IntTensor<Self>) -> IntTensor<Self>;
}

impl SelfTestOp for CubeBackend {
    fn self_test(seed: IntTensor<Self>) -> IntTensor<Self> {
        let seed = contiguous_i32(seed);
        let result = empty_like(&seed, Shape::new([EXPECTED.len()]), DType::I32);
        launch(SelfTest, &[&seed], &[&result], Params { half: 0.5 }, [1, 1, 1]);
        result
    }
}

impl SelfTestOp for Flex {
    fn self_test(_seed: IntTensor<Self>) -> IntTensor<Self> {
        super::launch::flex_from_u32(EXPECTED.map(|(word, _)| word).to_vec(), [EXPECTED.len()])
    }
}

/// Runs the test on `device`; `Err` says in words what it got wrong.
///
/// # Errors
///
/// If a result is wrong or none comes back.
pub fn self_test(device: &Device) -> Result<(), String> {
    let seed = TensorData::new(vec![LOOPS.cast_signed()], [1]);
    let seed = Tensor::<1, Int>::from_data(seed, device);
    let result = Tensor::<1, Int>::from_dispatch(Dispatch::self_test(seed.into_dispatch()));
    let words = result
        .try_into_data()
        .map_err(|err| format!("it returned no result: {err:?}"))?
        .try_to_vec::<i32>()
        .map_err(|err| format!("it returned no integers: {err:?}"))?;
    first_failure(bytemuck::cast_slice(&words)).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_word_is_noticed_and_named() {
        let right = EXPECTED.map(|(word, _)| word);
        assert_eq!(first_failure(&right), None);
        for (i, (_, what)) in EXPECTED.iter().enumerate() {
            let mut wrong = right;
            wrong[i] ^= 4;
            assert!(first_failure(&wrong).is_some_and(|failure| failure.contains(what)));
        }
        assert!(first_failure(&right[1..]).is_some());
    }
}
