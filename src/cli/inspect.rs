//! `qvgen inspect`.

use super::output;
use crate::pipeline::inspect::{Inspection, inspect};
use serde_json::Value;
use std::path::PathBuf;

/// Arguments of `qvgen inspect`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Model folder, `.safetensors` file or index, `.gguf` file, or a video written by `qvgen sample`
    path: PathBuf,
    /// List every tensor and every linear layer
    #[arg(long)]
    layers: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Says what is at the path.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let inspection = inspect(&args.path, args.layers)?;
    if args.json {
        return output::json(&inspection);
    }
    match inspection {
        Inspection::Video { settings } => print_value("", &settings),
        Inspection::Weights(weights) => {
            if let Some(layout) = weights.layout {
                output::line(&format!("{}: {layout}", args.path.display()));
            }
            output::line(&weights.summary());
            print_tensors(&weights.tensors);
        }
        Inspection::Model(model) => {
            output::line(&format!("{} ({})", args.path.display(), model.class_name));
            for component in &model.components {
                output::line(&format!("{:<13} {}", component.name, component.class_name));
                if let Some(weights) = &component.weights {
                    output::line(&format!("{:<13} {}", "", weights.summary()));
                }
                for (key, value) in &component.facts {
                    output::line(&format!("{:<13} {key} = {value}", ""));
                }
                if let Some(weights) = &component.weights {
                    print_tensors(&weights.tensors);
                }
            }
        }
    }
    Ok(())
}

fn print_tensors(tensors: &[crate::pipeline::inspect::TensorFact]) {
    if tensors.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = tensors
        .iter()
        .map(|tensor| {
            let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
            let quantized = tensor.quantized.clone().unwrap_or_default();
            vec![tensor.name.clone(), tensor.dtype.clone(), shape.join("x"), quantized]
        })
        .collect();
    output::line(&output::table(&["tensor", "type", "shape", "quantized"], &rows));
}

fn print_value(indent: &str, value: &Value) {
    if let Value::Object(map) = value {
        for (key, value) in map {
            if value.is_object() {
                output::line(&format!("{indent}{key}"));
                print_value(&format!("{indent}  "), value);
            } else {
                output::line(&format!("{indent}{key} = {value}"));
            }
        }
    }
}
