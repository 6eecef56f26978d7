//! A transformer whose quantizers depend on the step computes, at each step, what the transformer
//! with that step's quantizers computes.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::devices;
use qvgen::models::Denoiser;
use qvgen::nn::{Limits, Linear, PackedLinear, Trace, WeightError, WeightSource, Weights};
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::noise::standard_normal;
use qvgen::quant::{
    ActivationQuantizer, Bits, ByStep, Calibration, QuantizedLayer, Scheme, StepRule, TokenRange,
    TokenSpec, WeightSpec, quantize_weight,
};

/// A full-precision source whose linear layers arrive packed, all with one quantizer.
struct Quantized<'a> {
    source: &'a dyn WeightSource,
    quantizer: ActivationQuantizer,
}

impl WeightSource for Quantized<'_> {
    fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.source.values(name, shape)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.source.rows(name, shape, rows)
    }

    fn linear(
        &self,
        name: &str,
        n: usize,
        k: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let weight = self.values(&format!("{name}.weight"), &[n, k])?;
        let bias = has_bias.then(|| self.values(&format!("{name}.bias"), &[n])).transpose()?;
        let scheme = Scheme::AsymmetricReal;
        let calibration = Calibration::MinMax;
        let spec = WeightSpec { bits: Bits::B8, scheme, group_size: None, calibration };
        let rows = quantize_weight(&weight, k, spec);
        let layer = QuantizedLayer::plain(rows, scheme, bias, Some(self.quantizer.clone()));
        Ok(Linear::Packed(PackedLinear::from_layer(&layer, usize::MAX, device)))
    }
}

fn spec(bits: Bits) -> TokenSpec {
    TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL }
}

#[test]
fn every_call_of_a_run_has_the_quantizers_of_its_group() {
    let folder = EmbeddedModel::unpack(EmbeddedName::Pocket).expect("a temporary folder");
    let model = VideoModel::open(folder.path()).expect("the embedded model");
    let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).expect("weights");
    for (name, device) in devices() {
        let load = |quantizer, resident| -> Box<dyn Denoiser> {
            let source = Quantized { source: weights.source(), quantizer };
            let weights = Weights::new(&source, &device);
            let config = &model.transformer;
            config.load_streamed(&weights, Limits::default(), resident, &mut |_, _| {}).unwrap()
        };
        let shape = [model.transformer.in_channels(), 2, 4, 6];
        let noise = standard_normal(1, 0, shape.iter().product());
        let latent = Tensor::<4>::from_data(TensorData::new(noise, shape), &device);
        let embeds = [model.text_tokens, model.transformer.text_dim()];
        let text = Tensor::<2>::ones(embeds, &device);
        // Two calls of a step and one of the next: what guidance and its end do.
        let run = |transformer: &dyn Denoiser| -> Vec<Vec<u8>> {
            let off = &mut Trace::off();
            transformer.begin_run();
            let context = transformer.text_context(text.clone(), off);
            let calls = [(900.0, 2), (400.0, 1)].into_iter().flat_map(|(timestep, calls)| {
                let timestep = transformer.timestep_context(timestep, off);
                let call = |_| transformer.forward_at(latent.clone(), &timestep, &context, off);
                (0..calls).map(call).collect::<Vec<_>>()
            });
            calls.map(|velocity| velocity.into_data().bytes().to_vec()).collect()
        };
        let fixed = |bits| run(&*load(spec(bits).into(), usize::MAX));
        let (eight, four) = (fixed(Bits::B8), fixed(Bits::B4));
        assert_ne!(eight[0], four[0]);
        let rules = [
            (StepRule::StepCountdown, [false, false, true]),
            (StepRule::TimestepRange(vec![500.0]), [false, false, true]),
            (StepRule::TimestepModulo, [true, true, true]),
        ];
        for resident in [usize::MAX, 0] {
            for (rule, is_four) in &rules {
                // The first of the groups in 4 bits.
                let specs = vec![spec(Bits::B4), spec(Bits::B8)];
                let steps = ByStep { rule: rule.clone(), specs };
                let transformer = load(ActivationQuantizer::ByStep(steps), resident);
                assert!(transformer.depends_on_step());
                let choose = |(call, &is_four): (usize, &bool)| {
                    if is_four { four[call].clone() } else { eight[call].clone() }
                };
                let expected: Vec<_> = is_four.iter().enumerate().map(choose).collect();
                for _ in 0..2 {
                    let actual = run(&*transformer);
                    assert!(actual == expected, "{rule:?} on {name}, {resident} resident");
                }
            }
        }
    }
}
