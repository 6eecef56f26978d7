//! What was done to a model, layer by layer.

use super::ChoiceReport;
use crate::method::Rounding;
use crate::method::ptq::{ActivationMode, Measures, Method};
use crate::models::LinearShape;
use crate::pipeline::calibrate::CalibrationReport;
use serde::Serialize;
use serde_json::{Value, json};

/// File of the output folder that holds the report.
pub const REPORT_FILE: &str = "quantization.json";

/// Version of that document.
const SCHEMA: u32 = 1;

/// One quantized layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Full name; that of a layer of the text encoder begins with its folder.
    pub name: String,
    /// Precision, such as `w4a4`.
    pub precision: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// `‖W − Ŵ‖ / ‖W‖`, of the transformed weight where there is a transform.
    pub relative_error: f64,
    /// Bits per weight, grids and everything else included.
    pub bits_per_weight: f64,
    /// Bytes in the source.
    pub bytes_before: u64,
    /// Bytes of codes, grids and everything else.
    pub bytes_after: u64,
    /// The post-training method, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// What was measured of its output and its input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measures: Option<Measures>,
}

/// A linear layer that stays in full precision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftAlone {
    /// Full name.
    pub name: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// Why.
    pub reason: String,
}

/// All that was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QuantizeReport {
    /// The post-training method, if one was asked for.
    pub method: Option<Method>,
    /// Where ranges of activations come from, if a method was asked for.
    pub activations: Option<ActivationMode>,
    /// What was observed; `None` if nothing was: then methods that look at a layer's input have
    /// seen standard normal numbers, and errors are measured on such.
    pub calibration: Option<CalibrationReport>,
    /// Quantized layers, in order.
    pub layers: Vec<LayerReport>,
    /// Linear layers of the transformer that stay in full precision.
    pub left_alone: Vec<LeftAlone>,
    /// What `auto` has chosen from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<ChoiceReport>,
    /// Weight files of the quantized components before, bytes.
    pub bytes_before: u64,
    /// The same after.
    pub bytes_after: u64,
}

impl QuantizeReport {
    /// Stored bits per weight over all quantized layers.
    pub fn mean_bits(&self) -> f64 {
        let weights = |layer: &LayerReport| (layer.shape[0] * layer.shape[1]) as f64;
        let bits: f64 =
            self.layers.iter().map(|layer| layer.bits_per_weight * weights(layer)).sum();
        bits / self.layers.iter().map(weights).sum::<f64>().max(1.0)
    }

    /// Mean over the layers of the relative error of their outputs; `None` if it was not measured.
    pub fn mean_output_error(&self) -> Option<f64> {
        let errors: Vec<f64> = self
            .layers
            .iter()
            .filter_map(|layer| layer.measures.as_ref().map(|measures| measures.output_error))
            .collect();
        (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
    }

    /// Where the inputs come from that methods have seen, in a sentence.
    pub fn data(&self) -> String {
        match (&self.calibration, self.method) {
            (Some(report), _) => format!(
                "inputs observed over {} clips of {} steps, {} tokens kept of each layer",
                report.clips, report.steps, report.samples
            ),
            (None, Some(method)) if method.needs_data() => {
                "data-free: nothing was observed, the method has seen standard normal inputs"
                    .to_owned()
            }
            (None, _) => "data-free: the method looks at weights alone".to_owned(),
        }
    }

    /// The document of [`REPORT_FILE`].
    ///
    /// # Panics
    ///
    /// Never: a report has only keys and values that JSON can hold.
    pub fn to_json(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("a report is plain data");
        value["schema"] = json!(SCHEMA);
        value["generator"] = json!(concat!("qvgen ", env!("CARGO_PKG_VERSION")));
        value["data"] = json!(self.data());
        value["mean_bits_per_weight"] = json!(self.mean_bits());
        value
    }
}

/// The layers of `linears` that `rounding` leaves in full precision.
pub(super) fn left_alone(rounding: &Rounding, linears: &[LinearShape]) -> Vec<LeftAlone> {
    let one = |linear: &LinearShape| LeftAlone {
        name: linear.name.clone(),
        shape: [linear.out_features, linear.in_features],
        reason: rounding.scope.reason(&linear.name),
    };
    linears.iter().filter(|linear| rounding.layer(&linear.name).is_none()).map(one).collect()
}
