//! Names of tensors in LoRA files, of which every program has its own.
//!
//! | program | such as |
//! |---|---|
//! | diffusers, PEFT | `transformer.blocks.0.attn1.to_q.lora_A.weight`, `base_model.model.….lora_B.weight` |
//! | Comfy, DiffSynth | `diffusion_model.blocks.0.self_attn.q.lora_down.weight`, `….diff`, `….diff_b` |
//! | kohya's and musubi's scripts | `lora_unet_blocks_0_self_attn_q.lora_up.weight`, `….alpha` |

use super::super::layout::{NameTable, foreign_names};
use std::collections::BTreeMap;

/// What stands before the names of a transformer's layers; several may follow each other.
const PREFIXES: [&str; 6] = [
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "model.",
    "pipe.dit.",
];

/// What stands before names whose dots became underscores.
const UNDERSCORED: [&str; 2] = ["lora_unet_", "lora_transformer_"];

/// Ends of names, what they stand for, and which parameter of the layer they change.
const SUFFIXES: [(&str, Part, &str); 11] = [
    (".lora_A.weight", Part::Down, ".weight"),
    (".lora_A.default.weight", Part::Down, ".weight"),
    (".lora_down.weight", Part::Down, ".weight"),
    (".lora.down.weight", Part::Down, ".weight"),
    (".lora_B.weight", Part::Up, ".weight"),
    (".lora_B.default.weight", Part::Up, ".weight"),
    (".lora_up.weight", Part::Up, ".weight"),
    (".lora.up.weight", Part::Up, ".weight"),
    (".alpha", Part::Alpha, ".weight"),
    (".diff", Part::Difference, ".weight"),
    (".diff_b", Part::Difference, ".bias"),
];

/// Parts of names that only other methods have.
const OTHER_METHODS: [(&str, &str); 7] = [
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".hada_w", "LoHa"),
    (".lokr_w", "LoKr"),
    (".lora_mid", "Tucker"),
    (".oft_", "OFT"),
    (".lora_B.bias", "biased LoRA"),
];

/// The part that a tensor has in the change of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// `A`, from the input to the low rank.
    Down,
    /// `B`, from the low rank to the output.
    Up,
    /// Numerator of the scale.
    Alpha,
    /// The whole change.
    Difference,
}

/// What the name of a tensor says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Part of the change of this parameter.
    Part(Part, String),
    /// Part of the change of a layer that the model does not have.
    NoLayer,
    /// Part of another method.
    OtherMethod(&'static str),
    /// Nothing known.
    Unknown,
}

/// The parameters of a model under all their names.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    parameters: &'a BTreeMap<&'a str, &'a [usize]>,
    table: Option<&'static NameTable>,
    /// From a layer's name with underscores to ours.
    underscored: BTreeMap<String, String>,
}

impl<'a> Keys<'a> {
    /// For the parameters of a transformer of `class_name`.
    pub(super) fn new(class_name: &str, parameters: &'a BTreeMap<&'a str, &'a [usize]>) -> Self {
        let table = foreign_names(class_name);
        let layers = parameters.keys().filter_map(|name| name.strip_suffix(".weight"));
        let underscored = layers
            .flat_map(|ours| {
                let theirs = table.and_then(|table| table.translate_back(ours));
                let names = [Some(ours.to_owned()), theirs].into_iter().flatten();
                names.map(|name| (name.replace('.', "_"), ours.to_owned())).collect::<Vec<_>>()
            })
            .collect();
        Self { parameters, table, underscored }
    }

    /// What the tensor `name` is for.
    pub(super) fn parse(&self, name: &str) -> Key {
        if let Some((_, method)) = OTHER_METHODS.iter().find(|(part, _)| name.contains(part)) {
            return Key::OtherMethod(method);
        }
        let suffix = SUFFIXES.iter().find_map(|(suffix, part, parameter)| {
            Some((name.strip_suffix(suffix)?, *part, *parameter))
        });
        let Some((module, part, parameter)) = suffix else { return Key::Unknown };
        match self.parameter(module, parameter) {
            Some(parameter) => Key::Part(part, parameter),
            None => Key::NoLayer,
        }
    }

    /// The model's parameter `suffix` of the layer that a file calls `module`.
    fn parameter(&self, module: &str, suffix: &str) -> Option<String> {
        let known = |layer: &str| {
            // A table of its own, such as a modulation, is no layer with a weight.
            [format!("{layer}{suffix}"), layer.to_owned()]
                .into_iter()
                .find(|name| self.parameters.contains_key(name.as_str()))
        };
        if let Some(flat) = UNDERSCORED.iter().find_map(|prefix| module.strip_prefix(prefix)) {
            return self.underscored.get(flat).and_then(|layer| known(layer));
        }
        let mut module = module;
        loop {
            let theirs = self.table.and_then(|table| table.translate(module));
            if let Some(parameter) = known(module).or_else(|| known(theirs.as_deref()?)) {
                return Some(parameter);
            }
            module = PREFIXES.iter().find_map(|prefix| module.strip_prefix(prefix))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_s_names_lead_to_the_same_parameter() {
        let shape: &[usize] = &[2, 2];
        let names = ["blocks.0.attn1.to_q.weight", "blocks.0.attn1.to_q.bias", "scale_shift_table"];
        let parameters = names.iter().map(|&name| (name, shape)).collect();
        let keys = Keys::new("WanTransformer3DModel", &parameters);
        for (name, part, parameter) in [
            ("transformer.blocks.0.attn1.to_q.lora_A.weight", Part::Down, 0),
            ("base_model.model.blocks.0.attn1.to_q.lora_B.weight", Part::Up, 0),
            ("base_model.model.transformer.blocks.0.attn1.to_q.lora_B.default.weight", Part::Up, 0),
            ("blocks.0.attn1.to_q.lora_down.weight", Part::Down, 0),
            ("diffusion_model.blocks.0.self_attn.q.lora_up.weight", Part::Up, 0),
            ("lora_unet_blocks_0_self_attn_q.alpha", Part::Alpha, 0),
            ("lora_unet_blocks_0_attn1_to_q.lora_down.weight", Part::Down, 0),
            ("diffusion_model.blocks.0.self_attn.q.diff", Part::Difference, 0),
            ("diffusion_model.blocks.0.self_attn.q.diff_b", Part::Difference, 1),
            ("diffusion_model.head.modulation.diff", Part::Difference, 2),
        ] {
            assert_eq!(keys.parse(name), Key::Part(part, names[parameter].to_owned()), "{name}");
        }
        assert_eq!(keys.parse("transformer.blocks.1.attn1.to_q.lora_A.weight"), Key::NoLayer);
        assert_eq!(keys.parse("text_encoder.blocks.0.attn1.to_q.lora_A.weight"), Key::NoLayer);
        assert_eq!(keys.parse("blocks.0.attn1.to_q.weight"), Key::Unknown);
        assert_eq!(keys.parse("a.hada_w1_a"), Key::OtherMethod("LoHa"));
    }
}
