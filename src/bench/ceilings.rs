//! What a device reaches at most: measured by micro-kernels in the same run as everything else.

use super::{Bound, Failure, Job, Repeats, Samples, Stopwatch, Verified, WallClock, Work, measure};
use crate::kernels::ceiling_arithmetic::{self, Arithmetic, CeilingArithmetic, ceiling_arithmetic};
use crate::kernels::ceiling_copy::ceiling_copy;
use crate::kernels::device::OpenDevice;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

mod host;
use host::{HostCodes, HostCopy, HostProduct};

/// Something per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// At the median time.
    pub per_second: f64,
    /// Median absolute deviation of the time, relative to it.
    pub relative_spread: f64,
}

/// The limits of a device; `None` where it has no such thing, or its kernel failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy.
    pub copy_bytes: Option<Rate>,
    /// Multiplications and additions in f32. On the CPU device by Burn's matrix product, whose
    /// inner loop is written for each processor.
    pub f32_ops: Option<Rate>,
    /// Multiplications and additions in f16.
    pub f16_ops: Option<Rate>,
    /// Multiplications and additions of bytes by `dot4U8Packed`. On the CPU device by this crate's
    /// product of 8-bit codes, whose inner loop is written for each processor, too.
    pub dot4_ops: Option<Rate>,
    /// Multiplications and additions of f16 by matrix units, with f32 sums.
    #[serde(default)]
    pub matrix_ops: Option<Rate>,
}

/// Invocations, steps and copied bytes of the micro-kernels.
struct Size {
    invocations: usize,
    steps: u32,
    copy_bytes: usize,
}

impl Size {
    fn of(open: &OpenDevice) -> Self {
        let most = open.max_elements().saturating_mul(4);
        match &open.adapter {
            // Beyond the caches of a large card; at most 69 giga-operations are below any watchdog.
            Some(adapter) if !adapter.is_software() => {
                Self { invocations: 1 << 20, steps: 256, copy_bytes: most.min(256 << 20) }
            }
            _ => Self { invocations: 1 << 13, steps: 256, copy_bytes: most.min(64 << 20) },
        }
    }
}

impl Ceilings {
    /// Measures all of them on an open device; what fails is logged and left out.
    pub fn measure(open: &OpenDevice, stopwatch: &mut Stopwatch, repeats: Repeats) -> Self {
        let size = Size::of(open);
        let mut rate = |what: &str, amount: f64, job: Result<Box<dyn Job>, Failure>| {
            let samples = job.and_then(|mut job| timed(stopwatch, repeats, job.as_mut()));
            let summary = samples.map(|samples| samples.summary(|sample| Some(sample.primary)));
            match summary {
                Ok(Some(time)) if time.median > 0.0 => Some(Rate {
                    per_second: amount / time.median,
                    relative_spread: time.spread / time.median,
                }),
                Ok(_) => None,
                Err(failure) => {
                    log::warn!("no {what} rate: it {failure}");
                    None
                }
            }
        };
        let bytes = 2.0 * size.copy_bytes as f64;
        if open.adapter.is_none() {
            let n = HostProduct::SIDE as f64;
            let codes = 2.0 * HostCodes::SIZE.map(|size| size as f64).iter().product::<f64>();
            return Self {
                copy_bytes: rate("copy", bytes, Ok(Box::new(HostCopy::new(size.copy_bytes)))),
                f32_ops: rate("f32", 2.0 * n.powi(3), Ok(Box::new(HostProduct::new()))),
                dot4_ops: rate("8-bit", codes, Ok(Box::new(HostCodes::new()))),
                ..Self::default()
            };
        }
        let mut arithmetic = |what, arithmetic| {
            let ops = ceiling_arithmetic::ops(arithmetic, size.invocations, size.steps);
            rate(what, ops, Ok(Box::new(ArithmeticJob::new(open, arithmetic))))
        };
        let f32_ops = arithmetic("f32", Arithmetic::F32);
        let has_f16 = open.device.supports_dtype(DType::F16);
        let f16_ops = has_f16.then(|| arithmetic("f16", Arithmetic::F16)).flatten();
        let dot4_ops = arithmetic("dot4", Arithmetic::Dot4);
        let matrix = Arithmetic::matrix_of(&open.device);
        let matrix_ops = matrix.and_then(|matrix| arithmetic("matrix", matrix));
        let copy_bytes = rate("copy", bytes, CopyJob::boxed(&open.device, size.copy_bytes));
        Self { copy_bytes, f32_ops, f16_ops, dot4_ops, matrix_ops }
    }

    /// Operations per second in f32 now, to see clocks that fall.
    pub(super) fn f32_now(open: &OpenDevice, stopwatch: &mut Stopwatch) -> Option<f64> {
        let repeats = Repeats { warm_up: 1, least: 5, most: 5, ..Repeats::default() };
        let (mut job, ops): (Box<dyn Job>, f64) = if open.adapter.is_some() {
            let size = Size::of(open);
            let ops = ceiling_arithmetic::ops(Arithmetic::F32, size.invocations, size.steps);
            (Box::new(ArithmeticJob::new(open, Arithmetic::F32)), ops)
        } else {
            (Box::new(HostProduct::new()), 2.0 * (HostProduct::SIDE as f64).powi(3))
        };
        let samples = timed(stopwatch, repeats, job.as_mut()).ok()?;
        Some(ops / samples.summary(|sample| Some(sample.primary))?.best)
    }

    /// Operations per second of codes, by whatever the device is best at.
    pub fn integer_ops(&self) -> Option<f64> {
        best([self.dot4_ops, self.matrix_ops, self.f16_ops, self.f32_ops])
    }

    /// Operations per second of 16-bit floats, which larger ones can stand for.
    pub fn half_ops(&self) -> Option<f64> {
        best([None, self.matrix_ops, self.f16_ops, self.f32_ops])
    }

    /// Seconds that `work` takes at least at these rates, and what limits it; `None` if a rate
    /// that it needs is missing.
    pub fn floor(&self, work: &Work) -> Option<(f64, Bound)> {
        let seconds = |ops: f64, rate: Option<f64>| {
            if ops == 0.0 { Some(0.0) } else { rate.map(|rate| ops / rate) }
        };
        let rate = |rate: Option<Rate>| rate.map(|rate| rate.per_second);
        let compute = seconds(work.f32_ops, rate(self.f32_ops))?
            + seconds(work.f16_ops, self.half_ops())?
            + seconds(work.integer_ops, self.integer_ops())?;
        let memory = seconds(work.bytes, rate(self.copy_bytes))?;
        let bound = if memory > compute { Bound::Bandwidth } else { Bound::Compute };
        Some((compute.max(memory), bound)).filter(|(seconds, _)| *seconds > 0.0)
    }
}

/// The largest rate that there is.
fn best(rates: [Option<Rate>; 4]) -> Option<f64> {
    rates.into_iter().flatten().map(|rate| rate.per_second).reduce(f64::max)
}

/// Verifies a job and takes its samples.
pub(super) fn timed(
    stopwatch: &mut Stopwatch,
    repeats: Repeats,
    job: &mut dyn Job,
) -> Result<Samples, Failure> {
    job.run();
    job.verify()?;
    let sample = &mut |runs| stopwatch.sample(runs, job);
    let samples = measure(&mut WallClock::default(), repeats, sample)?;
    job.verify()?;
    Ok(samples)
}

/// An exact comparison of words.
fn equal(actual: &[i32], expected: impl Iterator<Item = i32>) -> Result<Verified, Failure> {
    let wrong = actual.iter().zip(expected).filter(|(a, e)| **a != *e).count();
    Verified::within(wrong as f64 / actual.len().max(1) as f64, 0.0)
}

fn read(words: Tensor<1, Int>) -> Result<Vec<i32>, Failure> {
    let data = words.try_into_data().map_err(Failure::device)?;
    data.try_to_vec().map_err(Failure::device)
}

struct ArithmeticJob {
    arithmetic: Arithmetic,
    seed: Tensor<1, Int>,
    invocations: usize,
    steps: u32,
    y: Option<Tensor<1, Int>>,
}

impl ArithmeticJob {
    fn new(open: &OpenDevice, arithmetic: Arithmetic) -> Self {
        let Size { invocations, steps, .. } = Size::of(open);
        let seed = Tensor::from_data(TensorData::new(vec![3_i32], [1]), &open.device);
        Self { arithmetic, seed, invocations, steps, y: None }
    }
}

impl Job for ArithmeticJob {
    fn run(&mut self) {
        let seed = self.seed.clone();
        self.y = Some(ceiling_arithmetic(seed, self.arithmetic, self.invocations, self.steps));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let Some(y) = &self.y else { return Err(Failure::Device("it was not run".into())) };
        let kernel = CeilingArithmetic { arithmetic: self.arithmetic };
        let params = kernel.params(self.invocations, self.steps);
        let expected = ceiling_arithmetic::reference(self.arithmetic, 3, params);
        equal(&read(y.clone())?, expected.into_iter().map(u32::cast_signed))
    }
}

struct CopyJob {
    x: Tensor<1, Int>,
    y: Option<Tensor<1, Int>>,
}

impl CopyJob {
    fn boxed(device: &Device, bytes: usize) -> Result<Box<dyn Job>, Failure> {
        let words = bytes / 16 * 4;
        let x = (0..words as i32).map(|i| i.wrapping_mul(-0x61C8_8647)).collect::<Vec<_>>();
        let x = Tensor::from_data(TensorData::new(x, [words]), device);
        Ok(Box::new(Self { x, y: None }))
    }
}

impl Job for CopyJob {
    fn run(&mut self) {
        self.y = Some(ceiling_copy(self.x.clone()));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let Some(y) = &self.y else { return Err(Failure::Device("it was not run".into())) };
        // Both ends: all of it would take longer than the measurement.
        let len = y.dims()[0];
        let part = len.min(1 << 16);
        for start in [0, len - part] {
            let actual = read(y.clone().narrow(0, start, part))?;
            let expected = (start..start + part).map(|i| (i as i32).wrapping_mul(-0x61C8_8647));
            equal(&actual, expected)?;
        }
        Verified::within(0.0, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_longer_of_arithmetic_and_memory() {
        let rate = |per_second| Some(Rate { per_second, relative_spread: 0.0 });
        let ceilings = Ceilings {
            copy_bytes: rate(100.0),
            f32_ops: rate(10.0),
            f16_ops: None,
            dot4_ops: rate(40.0),
            matrix_ops: None,
        };
        let work = |f32_ops, integer_ops, bytes| Work { f32_ops, f16_ops: 0.0, integer_ops, bytes };
        assert_eq!(ceilings.floor(&work(20.0, 40.0, 1.0)), Some((3.0, Bound::Compute)));
        assert_eq!(ceilings.floor(&work(0.0, 40.0, 500.0)), Some((5.0, Bound::Bandwidth)));
        assert_eq!(ceilings.floor(&Work::default()), None);
        let faster = Ceilings { matrix_ops: rate(80.0), f16_ops: rate(20.0), ..ceilings };
        assert_eq!(faster.floor(&work(20.0, 160.0, 1.0)), Some((4.0, Bound::Compute)));
        let half = Work { f16_ops: 160.0, ..Work::default() };
        assert_eq!(faster.floor(&half), Some((2.0, Bound::Compute)));
        assert_eq!(ceilings.floor(&half), Some((16.0, Bound::Compute)));
        assert_eq!(Ceilings::default().floor(&work(1.0, 0.0, 0.0)), None);
    }

    #[test]
    fn the_cpu_has_a_bandwidth_and_rates_of_floats_and_codes() {
        let open = OpenDevice::cpu();
        let repeats = Repeats { warm_up: 0, least: 2, most: 2, ..Repeats::default() };
        let ceilings = Ceilings::measure(&open, &mut Stopwatch::new(&open), repeats);
        assert!(
            ceilings.copy_bytes.and(ceilings.f32_ops).and(ceilings.dot4_ops).is_some(),
            "{ceilings:?}"
        );
        assert!(ceilings.integer_ops().is_some_and(|rate| rate > 1e8));
    }

    #[test]
    fn one_wrong_word_of_a_ceiling_is_refused() {
        assert!(equal(&[1, 2], [1, 2].into_iter()).is_ok());
        assert!(equal(&[1, 2], [1, 3].into_iter()).is_err());
    }
}
