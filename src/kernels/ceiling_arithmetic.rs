//! `shaders/ceiling_arithmetic.wgsl` — the arithmetic rates of a device.
//!
//! Thirty-two values per invocation, or eight matrices per subgroup, and no memory in the loop:
//! what is measured is the rate at which the device multiplies and adds in f32, in f16, bytes by
//! `dot4U8Packed`, or f16 by its matrix units. The loop's own counter and branch are one
//! instruction in ten at most.

use super::element::matrix_constants;
use super::launch::{contiguous_i32, empty_like, flex_from_u32, flex_words, launch};
use super::launch::{linear_grid, u32_from};
use super::params::params;
use super::{AdapterFacts, Const, Kernel, Tier};
use burn::backend::tensor::IntTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::{Device, Int, Tensor};
use burn_cubecl::CubeBackend;

/// Vectors of four that an invocation advances, or matrices of a subgroup.
const CHAINS: u32 = 8;
/// Matrices are products of every one of two factors with every one of four.
const MATRIX_COLUMNS: u32 = 4;

/// What is multiplied and added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, in pairs where the device can.
    F16,
    /// Four unsigned bytes at a time into 32 bits.
    Dot4,
    /// 16-bit floats by matrix units, with 32-bit sums.
    Matrix {
        /// Rows, columns and depth of a unit: 8 or 16.
        size: u32,
        /// Invocations of a subgroup: 8 to 64.
        subgroup: u32,
    },
}

impl Arithmetic {
    /// Every kind, with the common sizes of matrices.
    pub const ALL: [Self; 6] = [
        Self::F32,
        Self::F16,
        Self::Dot4,
        Self::Matrix { size: 8, subgroup: 8 },
        Self::Matrix { size: 8, subgroup: 32 },
        Self::Matrix { size: 16, subgroup: 32 },
    ];

    /// The matrix units of `device`, if it has any that kernels can use.
    pub fn matrix_of(device: &Device) -> Option<Self> {
        let facts = AdapterFacts::of(device);
        let (size, subgroup) = (facts.matrix_size, facts.fixed_subgroup());
        let is_known = matches!(size, 8 | 16) && (8..=64).contains(&subgroup);
        (facts.offers(Tier::Matrix) && is_known).then_some(Self::Matrix { size, subgroup })
    }

    /// Factor and term: floats stay small integers, bytes stay busy.
    pub const fn operands(self) -> [i32; 2] {
        match self {
            Self::F32 | Self::F16 => [-1, 7],
            Self::Dot4 => [0x7F35_A3E1, 0x0102_0407],
            Self::Matrix { .. } => [-1, 1],
        }
    }
}

/// The kernel, specialized to what it multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CeilingArithmetic {
    /// What is multiplied and added.
    pub arithmetic: Arithmetic,
}

params! {
    pub struct Params {
        /// Invocations that store a result.
        pub count: u32,
        /// Steps of every value.
        pub steps: u32,
        /// What a value is multiplied by.
        pub factor: i32,
        /// What is added.
        pub term: i32,
    }
}

impl CeilingArithmetic {
    /// Parameters for `count` invocations of `steps`.
    pub fn params(&self, count: usize, steps: u32) -> Params {
        let [factor, term] = self.arithmetic.operands();
        Params { count: u32_from(count), steps, factor, term }
    }

    /// Workgroups for `count` invocations.
    pub fn grid(&self, count: usize) -> [u32; 3] {
        linear_grid(count.div_ceil(self.workgroup_size() as usize))
    }
}

impl Kernel for CeilingArithmetic {
    const NAME: &'static str = "ceiling_arithmetic";
    const SOURCE: &'static str = include_str!("../../shaders/ceiling_arithmetic.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        Arithmetic::ALL.map(|arithmetic| Self { arithmetic }).to_vec()
    }

    fn tier(&self) -> Tier {
        match self.arithmetic {
            Arithmetic::F32 | Arithmetic::Dot4 => Tier::Core,
            Arithmetic::F16 => Tier::Half,
            Arithmetic::Matrix { .. } => Tier::Matrix,
        }
    }

    fn workgroup_size(&self) -> u32 {
        match self.arithmetic {
            Arithmetic::Matrix { subgroup, .. } => 4 * subgroup,
            _ => 256,
        }
    }

    fn constants(&self) -> Vec<Const> {
        let vectors = |element, fragment| {
            vec![
                Const::Alias("Elem", element),
                Const::Import("advanced", "advanced_vectors"),
                Const::Import("multiply_add", fragment),
            ]
        };
        match self.arithmetic {
            Arithmetic::F32 => vectors("f32", "multiply_add_float"),
            Arithmetic::F16 => vectors("f16", "multiply_add_float"),
            Arithmetic::Dot4 => vectors("u32", "multiply_add_dot"),
            Arithmetic::Matrix { size, subgroup } => {
                let own = vec![
                    Const::U32("SUBGROUP", subgroup),
                    Const::Import("advanced", "advanced_matrices"),
                ];
                [own, matrix_constants(size)].concat()
            }
        }
    }
}

/// Operations of `count` invocations of `steps`: two per product.
pub fn ops(arithmetic: Arithmetic, count: usize, steps: u32) -> f64 {
    let of_step = match arithmetic {
        Arithmetic::F32 | Arithmetic::F16 => f64::from(4 * CHAINS * 2),
        Arithmetic::Dot4 => f64::from(4 * CHAINS * 8),
        Arithmetic::Matrix { size, subgroup } => {
            f64::from(CHAINS * 2 * size.pow(3)) / f64::from(subgroup)
        }
    };
    count as f64 * f64::from(steps) * of_step
}

/// The sum of lane `lane`'s values of vectors that `advance` is applied to.
fn vectors(seed: u32, lane: u32, steps: u32, advance: impl Fn(i32) -> i32) -> i32 {
    (0..4 * CHAINS).fold(0_i32, |sum, offset| {
        let start = (seed + lane % 16 + offset).cast_signed();
        sum.wrapping_add((0..steps).fold(start, |value, _| advance(value)))
    })
}

/// The sum of lane `lane`'s values of a subgroup's matrices.
fn matrices(size: u32, subgroup: u32, seed: u32, lane: u32, params: Params) -> i32 {
    let value = |chain: u32, row: u32, column: u32| -> i32 {
        let (i, j) = (chain / MATRIX_COLUMNS, chain % MATRIX_COLUMNS);
        let product = |k: u32| {
            let x = params.factor * ((row + k + i + seed) % 3).cast_signed() + params.term;
            x * (((k + 2 * column + j) % 4).cast_signed() - 1)
        };
        params.steps.cast_signed() * (0..size).map(product).sum::<i32>()
    };
    let own = (lane % subgroup..size * size).step_by(subgroup as usize);
    own.flat_map(|at| (0..CHAINS).map(move |chain| value(chain, at / size, at % size))).sum()
}

/// Plain-Rust twin of the shader: the results of `params.count` invocations.
pub fn reference(arithmetic: Arithmetic, seed: u32, params: Params) -> Vec<u32> {
    let Params { factor, term, steps, .. } = params;
    let result = |lane: u32| match arithmetic {
        // Small integers: exact in every float.
        Arithmetic::F32 | Arithmetic::F16 => {
            vectors(seed, lane, steps, |value| value * factor + term)
        }
        Arithmetic::Dot4 => vectors(seed, lane, steps, |value| {
            let pairs = value.to_le_bytes().into_iter().zip(factor.to_le_bytes());
            let dot: i32 = pairs.map(|(a, b)| i32::from(a) * i32::from(b)).sum();
            dot.wrapping_add(term)
        }),
        Arithmetic::Matrix { size, subgroup } => matrices(size, subgroup, seed, lane, params),
    };
    // Lanes repeat after at most 64 invocations.
    let results: Vec<u32> = (0..64).map(|lane| result(lane).cast_unsigned()).collect();
    (0..params.count as usize).map(|i| results[i % 64]).collect()
}

#[backend_extension(Cube, Flex)]
trait CeilingArithmeticOp: Backend {
    fn ceiling_arithmetic(
        seed: IntTensor<Self>,
        kernel: CeilingArithmetic,
        params: Params,
    ) -> IntTensor<Self>;
}

impl CeilingArithmeticOp for CubeBackend {
    fn ceiling_arithmetic(
        seed: IntTensor<Self>,
        kernel: CeilingArithmetic,
        params: Params,
    ) -> IntTensor<Self> {
        let seed = contiguous_i32(seed);
        let count = params.count as usize;
        let y = empty_like(&seed, Shape::new([count]), DType::I32);
        launch(kernel, &[&seed], &[&y], params, kernel.grid(count));
        y
    }
}

impl CeilingArithmeticOp for Flex {
    fn ceiling_arithmetic(
        seed: IntTensor<Self>,
        kernel: CeilingArithmetic,
        params: Params,
    ) -> IntTensor<Self> {
        let y = reference(kernel.arithmetic, flex_words(&seed.to_contiguous())[0], params);
        flex_from_u32(y, [params.count as usize])
    }
}

/// `count` invocations of `steps`, see [`ops`] for their number; the result is [`reference()`]'s.
///
/// # Panics
///
/// If `seed` is empty or `count` is 0.
pub fn ceiling_arithmetic(
    seed: Tensor<1, Int>,
    arithmetic: Arithmetic,
    count: usize,
    steps: u32,
) -> Tensor<1, Int> {
    assert!(seed.dims()[0] > 0 && count > 0, "ceiling_arithmetic: {count} invocations");
    let kernel = CeilingArithmetic { arithmetic };
    let params = kernel.params(count, steps);
    Tensor::from_dispatch(Dispatch::ceiling_arithmetic(seed.into_dispatch(), kernel, params))
}
