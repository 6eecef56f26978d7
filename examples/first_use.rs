//! What the first clip of the pocket model compiles: CPU time by kernel, of the first clip less
//! that of a second one in the same program, and what the second took.
//!
//! `MESA_SHADER_CACHE_DISABLE=true cargo run --release --example first_use [-- pocket-w4a4]`
//!
//! Without that variable the driver's own cache answers from the second run on. Times are those of
//! the process, waiting for the device after each dispatch. On a graphics card they are those of
//! the device, which know nothing of compiling: there `examples/peers/first_use.py` tells the whole.

use anyhow::Context;
use cpu_time::ProcessTime;
use qvgen::kernels::device::{self, Selection};
use qvgen::kernels::{KernelTime, profile_kernels};
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::defaults::SamplingDefaults;
use qvgen::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::plan::Plan;
use qvgen::pipeline::sample::Sampler;
use qvgen::pipeline::settings::{SampleSettings, TilingChoice};
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "pocket-w4a4".to_owned());
    let name = EmbeddedName::of(Path::new(&name)).context("pocket, pocket-w4a4 or pocket-w3a3")?;
    let unpacked = EmbeddedModel::unpack(name)?;
    let model = VideoModel::open(unpacked.path())?;
    let settings = settings(&model.defaults)?;
    let open = device::open(&Selection::Auto, None)?;
    let weights = model.weights(ComponentKind::Transformer, None, open.max_elements())?;
    let plan = Plan::new(&model, &settings, &weights, &open, None);
    let sampler = Sampler { model: &model, device: &open, cancel: Cancel::default() };
    let clip = || -> anyhow::Result<(f64, Vec<KernelTime>)> {
        let start = ProcessTime::now();
        let (result, kernels) = profile_kernels(&open.device, || {
            sampler.run(&settings, &plan, &weights, &mut |_, _, _| ())
        });
        result?;
        Ok((start.elapsed().as_secs_f64(), kernels))
    };
    let ((first, cold), (second, warm)) = (clip()?, clip()?);
    println!("{}, {}", open.describe(), name.name());
    let mut rows: Vec<(&str, f64, f64)> = cold
        .iter()
        .map(|kernel| {
            let again = warm.iter().find(|other| other.name == kernel.name);
            let again = again.map_or(0.0, |again| again.seconds);
            (kernel.name, kernel.seconds - again, again)
        })
        .collect();
    let [compiled, ran] =
        rows.iter().fold([0.0, 0.0], |[a, b], (_, compiled, ran)| [a + compiled, b + ran]);
    rows.push(("operations of Burn, loading", first - second - compiled, second - ran));
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    println!("{:30} {:>9} {:>9}", "seconds of CPU time", "first", "again");
    for (kernel, compiled, ran) in rows {
        println!("{kernel:30} {compiled:9.2} {ran:9.2}");
    }
    println!("first clip {first:.2} s, second {second:.2} s");
    Ok(())
}

/// What `qvgen sample` takes of the model without further arguments.
fn settings(defaults: &SamplingDefaults) -> anyhow::Result<SampleSettings> {
    Ok(SampleSettings {
        prompt: defaults.prompt.clone().context("the model suggests no prompt")?,
        negative_prompt: defaults.negative_prompt.clone(),
        frames: defaults.frames,
        width: defaults.width,
        height: defaults.height,
        steps: defaults.steps,
        guidance_scale: defaults.guidance_scale,
        dynamic_guidance: false,
        late_guidance_drop: defaults.late_guidance_drop,
        flow_shift: None,
        scheduler: None,
        seed: 0,
        fps: defaults.fps,
        attention: Default::default(),
        vae_precision: Default::default(),
        tiling: TilingChoice::Auto,
    })
}
