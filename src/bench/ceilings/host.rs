//! What the CPU device reaches at most, where no shader can say it.

use super::super::random::{packed_weight, rows_of, values};
use super::super::{Failure, Job, Verified};
use crate::kernels::{PackedTensor, qmatmul};
use crate::quant::{Bits, PackedRows};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

/// A copy by all threads of the processor.
pub(super) struct HostCopy {
    x: Vec<u64>,
    y: Vec<u64>,
}

impl HostCopy {
    pub(super) fn new(bytes: usize) -> Self {
        let x: Vec<u64> = (0..bytes as u64 / 8).collect();
        Self { y: vec![0; x.len()], x }
    }
}

impl Job for HostCopy {
    fn run(&mut self) {
        let chunk = 1 << 17;
        let pairs = self.y.par_chunks_mut(chunk).zip(self.x.par_chunks(chunk));
        pairs.for_each(|(y, x)| y.copy_from_slice(x));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        Verified::within(if self.x == self.y { 0.0 } else { 1.0 }, 0.0)
    }
}

/// Burn's product of two square matrices on the CPU.
pub(super) struct HostProduct {
    x: Tensor<2>,
    y: Option<Tensor<2>>,
}

impl HostProduct {
    /// Rows and columns.
    pub(super) const SIDE: usize = 768;

    pub(super) fn new() -> Self {
        let x = values(Self::SIDE * Self::SIDE, 1, 1.0);
        let x = TensorData::new(x, [Self::SIDE, Self::SIDE]);
        Self { x: Tensor::from_data(x, &Device::flex()), y: None }
    }
}

impl Job for HostProduct {
    fn run(&mut self) {
        self.y = Some(self.x.clone().matmul(self.x.clone()));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let Some(y) = &self.y else { return Err(Failure::Device("it was not run".into())) };
        let n = Self::SIDE;
        let x = values(n * n, 1, 1.0);
        let last = y.clone().narrow(0, n - 1, 1).try_into_data().map_err(Failure::device)?;
        let expected: Vec<f32> = (0..n)
            .map(|j| {
                let term = |k: usize| f64::from(x[(n - 1) * n + k]) * f64::from(x[k * n + j]);
                (0..n).map(term).sum::<f64>() as f32
            })
            .collect();
        let last: Vec<f32> = last.try_to_vec().map_err(Failure::device)?;
        Verified::compare(&last, &expected, 1e-4)
    }
}

/// This crate's product of 8-bit codes, large enough that ordering its operands hardly counts: the
/// inner loop is the processor's own dot product of bytes.
pub(super) struct HostCodes {
    rows: [PackedRows; 2],
    x: PackedTensor,
    w: PackedTensor,
    y: Option<Tensor<2>>,
}

impl HostCodes {
    /// Rows of both operands and their length.
    pub(super) const SIZE: [usize; 3] = [512, 1536, 1536];

    pub(super) fn new() -> Self {
        let [m, n, k] = Self::SIZE;
        let rows = [(m, 1), (n, 2)].map(|(rows, seed)| packed_weight(Bits::B8, rows, k, seed, 1.0));
        let [x, w] = rows.each_ref().map(|rows| PackedTensor::from_rows(rows, &Device::flex()));
        Self { rows, x, w, y: None }
    }
}

impl Job for HostCodes {
    fn run(&mut self) {
        let bias = Tensor::<1>::zeros([Self::SIZE[1]], &Device::flex());
        self.y = Some(qmatmul(&self.x, &self.w, bias));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let Some(y) = &self.y else { return Err(Failure::Device("it was not run".into())) };
        let [m, n, _] = Self::SIZE;
        let last = y.clone().narrow(0, m - 1, 1).try_into_data().map_err(Failure::device)?;
        let last: Vec<f32> = last.try_to_vec().map_err(Failure::device)?;
        let [x, w] = &self.rows;
        let expected = qmatmul::reference(&rows_of(x, &[m - 1]), w, &vec![0.0; n]);
        Verified::compare(&last, &expected, 1e-5)
    }
}
