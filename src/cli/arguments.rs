//! Arguments that several commands share, and values with units.

use super::output;
use crate::kernels::device::{self, BACKENDS, OpenDevice, Selection};
use crate::method::{Rounding, Rule, Scope};
use crate::models::DenoiserConfig;
use crate::quant::{Calibration, Precision, Scheme};
use anyhow::bail;
use clap::ValueEnum;

/// Where to run.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DeviceArgs {
    /// Adapter: `auto`, `cpu` (plain Rust, no GPU), an index or part of a name from `qvgen devices`
    #[arg(long, default_value = "auto", help_heading = "Device")]
    pub(super) device: String,
    /// Graphics interface, if the best one is not wanted
    #[arg(long, value_parser = BACKENDS, help_heading = "Device")]
    pub(super) backend: Option<String>,
}

impl DeviceArgs {
    /// Opens and tests the device.
    ///
    /// # Errors
    ///
    /// If there is none of that name, or it computes wrong results.
    pub(super) fn open(&self) -> anyhow::Result<OpenDevice> {
        let selection = match self.device.to_lowercase().as_str() {
            "auto" => Selection::Auto,
            "cpu" => Selection::Cpu,
            _ => Selection::Named(self.device.clone()),
        };
        if let (Selection::Cpu, Some(backend)) = (&selection, &self.backend) {
            bail!("--device cpu uses no graphics interface; leave --backend {backend} out");
        }
        let open = device::open(&selection, self.backend.as_deref())?;
        if let Some(adapter) = open.adapter.as_ref().filter(|adapter| adapter.is_software()) {
            log::warn!(
                "{} is a software adapter: expect it to be slow; --device cpu is faster",
                adapter.describe()
            );
        }
        Ok(open)
    }
}

/// How weights are rounded.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RoundingArgs {
    /// Precision of some layers: pattern=precision, `*` stands for anything; repeatable, the last
    /// that matches decides. By default `condition_embedder.*=full` and `proj_out=full`
    #[arg(long = "layer", value_name = "PATTERN=PRECISION", help_heading = "Quantization")]
    rules: Vec<Rule>,
    /// Quantize the embedders and the last layer too, as the released QVGen code does
    #[arg(long, help_heading = "Quantization")]
    every_layer: bool,
    /// Weights that share a scale, a multiple of 32; without it, one scale per output channel
    #[arg(long, value_name = "N", help_heading = "Quantization")]
    group_size: Option<usize>,
    /// Grid of the weights [default: asymmetric-real]
    #[arg(long, value_enum, help_heading = "Quantization")]
    scheme: Option<SchemeArg>,
    /// How the range of the weights is found [default: mse]
    #[arg(long, value_enum, help_heading = "Quantization")]
    calibration: Option<CalibrationArg>,
}

/// Grids of weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemeArg {
    /// Symmetric about zero
    Symmetric,
    /// Integer zero point
    Asymmetric,
    /// Real-valued zero point, as QVGen trains it
    AsymmetricReal,
}

/// Ranges of weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CalibrationArg {
    /// The extremes
    Minmax,
    /// The range of least error, out of 80
    Mse,
}

impl RoundingArgs {
    /// A flag that was given, if any.
    pub(super) fn first_flag(&self) -> Option<&'static str> {
        let given = [
            (!self.rules.is_empty(), "--layer"),
            (self.every_layer, "--every-layer"),
            (self.group_size.is_some(), "--group-size"),
            (self.scheme.is_some(), "--scheme"),
            (self.calibration.is_some(), "--calibration"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }

    /// The rounding of a transformer; `None` for full precision.
    ///
    /// # Errors
    ///
    /// If a rule names no layer or the group size is impossible.
    pub(super) fn rounding(
        &self,
        precision: Precision,
        transformer: &dyn DenoiserConfig,
    ) -> anyhow::Result<Option<Rounding>> {
        let names: Vec<String> =
            transformer.linears().into_iter().map(|layer| layer.name).collect();
        let mut scope = if self.every_layer {
            Scope::every_layer(precision)
        } else {
            Scope::recommended(precision, transformer.sensitive_layers())
        };
        scope.rules.extend(self.rules.iter().cloned());
        if let Some(rule) = scope.unused_rules(&names).first() {
            bail!(
                "--layer {rule}: the pattern names none of the {} linear layers, such as \"{}\"; \
                 `qvgen inspect MODEL --layers` lists them",
                names.len(),
                names.last().map_or("", String::as_str)
            );
        }
        if let Some(size) = self.group_size
            && (size == 0 || size % 32 != 0)
        {
            bail!("--group-size: {size} is no positive multiple of 32");
        }
        let mut rounding = Rounding::new(scope);
        rounding.group_size = self.group_size;
        rounding.weight_scheme = match self.scheme {
            Some(SchemeArg::Symmetric) => Scheme::Symmetric,
            Some(SchemeArg::Asymmetric) => Scheme::Asymmetric,
            Some(SchemeArg::AsymmetricReal) | None => Scheme::AsymmetricReal,
        };
        rounding.calibration = match self.calibration {
            Some(CalibrationArg::Minmax) => Calibration::MinMax,
            Some(CalibrationArg::Mse) | None => Calibration::Mse,
        };
        let quantizes = names.iter().any(|name| rounding.layer(name).is_some());
        Ok(quantizes.then_some(rounding))
    }
}

/// Refuses weight files so small that there would be thousands.
///
/// # Errors
///
/// Names the flag and the least size.
pub(super) fn check_shard(bytes: u64) -> anyhow::Result<()> {
    const LEAST: u64 = 16 << 20;
    if bytes < LEAST {
        bail!("--max-shard: {} is below {}", output::bytes(bytes), output::bytes(LEAST));
    }
    Ok(())
}

/// `832x480` as width and height.
pub(super) fn parse_size(text: &str) -> Result<(usize, usize), String> {
    text.to_lowercase()
        .split_once('x')
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
        .ok_or_else(|| "expected WIDTHxHEIGHT in pixels, for example 832x480".to_owned())
}

/// `8GiB`, `512MiB` or a plain number of bytes; units are powers of 1024 however they are written.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_lowercase();
    let units =
        [("tib", 40), ("gib", 30), ("gb", 30), ("g", 30), ("mib", 20), ("mb", 20), ("m", 20)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| lower.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((&lower, 0));
    let value: f64 =
        number.trim().parse().map_err(|_| "expected a size such as 8GiB or 512MiB".to_owned())?;
    let bytes = value * 2_f64.powi(shift);
    if bytes.is_finite() && bytes >= 1.0 {
        // The cast saturates, which is as good as no limit.
        Ok(bytes as u64)
    } else {
        Err("expected a positive size such as 8GiB or 512MiB".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_width_times_height() {
        assert_eq!(parse_size("832x480"), Ok((832, 480)));
        assert_eq!(parse_size("832X480"), Ok((832, 480)));
        for text in ["", "832", "832x", "x480", "832x480x3", "-1x2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn byte_sizes_have_units() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_bytes("1.5 m"), Ok(3 << 19));
        assert_eq!(parse_bytes("1000"), Ok(1000));
        for text in ["", "GiB", "-1GiB", "0", "nan", "infGiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
