//! `shaders/quantize_heads.wgsl` — 8-bit codes of queries and keys, a scale per token and head.
//!
//! Keys are centered first: channels that are large in every key, the usual outliers, would take
//! the range of the codes from all others, and moving all keys by one vector changes no softmax
//! (`SageAttention`, arXiv:2410.02367).

use super::launch::linear_grid;
use super::params::params;
use super::{Const, Element, Kernel, Tier};

/// The kernel and its specialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeHeads {
    /// Channels per head: a multiple of 4.
    pub head_dim: u32,
    /// Type of the tokens.
    pub element: Element,
    /// Whether the codes are of the difference from the mean: keys.
    pub center: bool,
}

params! {
    pub struct Params {
        /// Rows of `x`.
        pub tokens: u32,
        /// Heads side by side in a row.
        pub heads: u32,
    }
}

impl QuantizeHeads {
    /// The dispatch for `params`.
    pub fn grid(self, params: Params) -> [u32; 3] {
        let heads = params.tokens as usize * params.heads as usize;
        linear_grid(heads.div_ceil(self.workgroup_size() as usize))
    }
}

impl Kernel for QuantizeHeads {
    const NAME: &'static str = "quantize_heads";
    const SOURCE: &'static str = include_str!("../../shaders/quantize_heads.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for element in Element::ALL {
            for center in [false, true] {
                all.extend([16, 128].map(|head_dim| Self { head_dim, element, center }));
            }
        }
        all
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        vec![
            Const::Alias("Elem", self.element.wgsl()),
            Const::Bool("CENTER", self.center),
            Const::U32("HEAD_DIM", self.head_dim),
        ]
    }
}

/// Codes of a head of a token and what they mean.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadCodes {
    /// A code per channel, −127 … 127.
    pub codes: Vec<i8>,
    /// What a code of 1 stands for.
    pub scale: f32,
    /// `Σ x · mean`, 0 where the codes are centered.
    pub product: f32,
}

/// Plain-Rust twin of the shader: the heads of the first token, then of the next.
pub fn reference(kernel: QuantizeHeads, x: &[f32], mean: &[f32], params: Params) -> Vec<HeadCodes> {
    let (head_dim, heads) = (kernel.head_dim as usize, params.heads as usize);
    let head = |(i, x): (usize, &[f32])| {
        let mean = &mean[i % heads * head_dim..][..head_dim];
        let product = x.iter().zip(mean).map(|(x, mean)| x * mean).sum::<f32>();
        let subtract = if kernel.center { 1.0 } else { 0.0 };
        let values: Vec<f32> = x.iter().zip(mean).map(|(x, mean)| x - subtract * mean).collect();
        let product = if kernel.center { 0.0 } else { product };
        if !values.iter().all(|value| value.is_finite()) {
            return HeadCodes { codes: vec![0; head_dim], scale: f32::NAN, product };
        }
        let top = values.iter().fold(0.0_f32, |top, value| top.max(value.abs()));
        let inverse = if top > 1e-30 { 127.0 / top } else { 0.0 };
        let code = |value: &f32| (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        HeadCodes { codes: values.iter().map(code).collect(), scale: top / 127.0, product }
    };
    x.chunks_exact(head_dim).enumerate().map(head).collect()
}
