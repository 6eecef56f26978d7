//! `qvgen pretrain`.

use super::arguments::DeviceArgs;
use super::output;
use super::progress::StageBar;
use crate::pipeline::cancel::Cancel;
use crate::train::pretrain::{PretrainEvent, PretrainSettings, Pretraining};
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `qvgen pretrain`; what is left out is what the model in this program was made with.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of the model to write, in the diffusers layout
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Go on from this autoencoder (the `vae` folder of an earlier result)
    #[arg(long, value_name = "FOLDER", help_heading = "Autoencoder")]
    autoencoder: Option<PathBuf>,
    /// Updates of the autoencoder [default: 4000]
    #[arg(long, value_name = "N", help_heading = "Autoencoder")]
    autoencoder_steps: Option<usize>,
    /// Clips per update of the autoencoder [default: 4]
    #[arg(long, value_name = "N", help_heading = "Autoencoder")]
    autoencoder_batch: Option<usize>,
    /// Highest learning rate of the autoencoder [default: 0.002]
    #[arg(long, value_name = "RATE", help_heading = "Autoencoder")]
    autoencoder_learning_rate: Option<f64>,
    /// Clips that are drawn for the denoiser [default: 4096]
    #[arg(long, value_name = "N", help_heading = "Denoiser")]
    clips: Option<usize>,
    /// Updates of the denoiser [default: 6000]
    #[arg(long, value_name = "N", help_heading = "Denoiser")]
    steps: Option<usize>,
    /// Clips per update of the denoiser [default: 16]
    #[arg(long, value_name = "N", help_heading = "Denoiser")]
    batch: Option<usize>,
    /// Highest learning rate of the denoiser [default: 0.001]
    #[arg(long, value_name = "RATE", help_heading = "Denoiser")]
    learning_rate: Option<f64>,
    /// Start of all random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    fn settings(&self) -> PretrainSettings {
        let defaults = PretrainSettings::new(self.out.clone());
        PretrainSettings {
            seed: self.seed,
            autoencoder: self.autoencoder.clone(),
            autoencoder_steps: self.autoencoder_steps.unwrap_or(defaults.autoencoder_steps),
            autoencoder_batch: self.autoencoder_batch.unwrap_or(defaults.autoencoder_batch),
            autoencoder_learning_rate: self
                .autoencoder_learning_rate
                .unwrap_or(defaults.autoencoder_learning_rate),
            clips: self.clips.unwrap_or(defaults.clips),
            steps: self.steps.unwrap_or(defaults.steps),
            batch: self.batch.unwrap_or(defaults.batch),
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            ..defaults
        }
    }
}

/// Trains the model.
pub(super) fn run(args: &Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    let settings = args.settings();
    settings.check()?;
    let device = args.device.open()?;
    let started = Instant::now();
    let mut bar = StageBar::new(quiet);
    let mut average = Average::default();
    let mut report = |event: PretrainEvent<'_>| match event {
        PretrainEvent::Autoencoder(report, steps) => {
            let mean = average.of("autoencoder", report.difference);
            log::info!("autoencoder {} of {steps}: difference {mean:.4}", report.step + 1);
            bar.advance_saying(
                "autoencoder",
                report.step + 1,
                steps,
                &format!("difference {mean:.4}"),
            );
        }
        PretrainEvent::Latents(done, clips) => bar.advance("latents", "clips", done, clips),
        PretrainEvent::Denoiser(report, steps) => {
            let mean = average.of("denoiser", report.loss);
            log::info!("denoiser {} of {steps}: loss {mean:.4}", report.step + 1);
            bar.advance_saying("denoiser", report.step + 1, steps, &format!("loss {mean:.4}"));
        }
    };
    let mut pretraining =
        Pretraining { settings, device: &device, cancel: cancel.clone(), report: &mut report };
    pretraining.run()?;
    bar.finish();
    output::line(&format!(
        "{}: a model trained in {:.0} s on {}; `qvgen sample {}` makes a video with it",
        args.out.display(),
        started.elapsed().as_secs_f64(),
        device.describe(),
        args.out.display()
    ));
    Ok(())
}

/// A running mean of a stage's values, over about fifty of them.
#[derive(Default)]
struct Average {
    stage: &'static str,
    value: f64,
    count: usize,
}

impl Average {
    fn of(&mut self, stage: &'static str, value: f64) -> f64 {
        if self.stage != stage {
            *self = Self { stage, ..Self::default() };
        }
        self.count += 1;
        self.value += (value - self.value) / self.count.min(50) as f64;
        self.value
    }
}
