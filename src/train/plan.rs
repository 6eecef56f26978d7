//! What a training will take, estimated before anything is loaded.

use super::config::Config;
use super::open_dataset::latent_shape;
use super::{TrainError, check_layers};
use crate::method::qvgen::{Auxiliary, RankSchedule, Recipe};
use crate::models::DenoiserConfig;
use crate::pipeline::model::VideoModel;
use serde::Serialize;

/// Everything is kept and computed in 32 bits.
const FLOAT: u64 = 4;
/// Bytes on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrainMemory {
    /// Values of all parameters, grids and factors of Φ included.
    pub weights: u64,
    /// The weights with which the step computes, quantized and with Φ.
    pub effective_weights: u64,
    /// The sum over the batch, and the clip at hand.
    pub gradients: u64,
    /// First and second moments.
    pub moments: u64,
    /// The moving average.
    pub averages: u64,
    /// The full-precision model to imitate.
    pub teacher: u64,
    /// What is kept of a forward pass for its backward pass.
    pub activations: u64,
}

impl TrainMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [
            self.weights,
            self.effective_weights,
            self.gradients,
            self.moments,
            self.averages,
            self.teacher,
            self.activations,
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Sizes, work and memory of a training.
#[derive(Clone, Debug, Serialize)]
pub struct TrainPlan {
    /// Where it runs.
    pub device: String,
    /// What is done, such as `qvgen w4a4`.
    pub method: String,
    /// Updates.
    pub steps: usize,
    /// Clips per update.
    pub batch: usize,
    /// Updates per phase of rank decay; absent without Φ.
    pub phase_steps: Option<usize>,
    /// Ranks of the phases; empty without Φ.
    pub ranks: Vec<usize>,
    /// Quantized and all linear layers.
    pub layers: [usize; 2],
    /// LoRA files that are added to the model first.
    pub loras: Vec<String>,
    /// Parameters of the model.
    pub model_parameters: u64,
    /// Parameters that are trained.
    pub trained_parameters: u64,
    /// `[channels, frames, height, width]` of a clip's latent as the transformer takes it.
    pub latent_shape: [usize; 4],
    /// Tokens of a clip.
    pub tokens: usize,
    /// Whether every block is computed twice.
    pub recompute: bool,
    /// Memory as configured.
    pub memory: TrainMemory,
    /// Memory with `loop.recompute` the other way around.
    pub memory_otherwise: TrainMemory,
    /// Memory with `loop.recompute` and one clip per update.
    pub smallest: TrainMemory,
}

/// What an estimate depends on.
struct Sizes<'a> {
    config: &'a Config,
    recipe: Option<&'a Recipe>,
    model: &'a dyn DenoiserConfig,
    tokens: usize,
    text_tokens: usize,
    /// Clips computed side by side.
    side_by_side: u64,
}

impl TrainPlan {
    /// The plan of `config` for `model`, on a device of that name.
    ///
    /// # Errors
    ///
    /// If layers, ranks or sizes in `config` do not fit the model.
    pub fn new(config: &Config, model: &VideoModel, device: String) -> Result<Self, TrainError> {
        let recipe = config.recipe()?;
        check_layers(config, recipe.as_ref(), model)?;
        let shape = model.padded_shape(latent_shape(&config.data, model)?);
        Self::of_sizes(config, &*model.transformer, shape, model.text_tokens, device)
    }

    /// The plan for a transformer of sizes `model`, clips of latents `latent_shape` and captions of
    /// `text_tokens` tokens.
    ///
    /// # Errors
    ///
    /// If the ranks make no schedule.
    pub fn of_sizes(
        config: &Config,
        model: &dyn DenoiserConfig,
        latent_shape: [usize; 4],
        text_tokens: usize,
        device: String,
    ) -> Result<Self, TrainError> {
        let recipe = config.recipe()?;
        let schedule = match recipe.as_ref().map(|recipe| &recipe.auxiliary) {
            Some(Auxiliary::Phi { ranks, annealing, .. }) => {
                Some((RankSchedule::new(ranks.clone(), *annealing, config.training.steps)?, ranks))
            }
            _ => None,
        };
        let tokens = model.grid(latent_shape).iter().product::<usize>();
        let scope = config.scope(model);
        let linears = model.linears();
        let quantized =
            linears.iter().filter(|linear| scope.of(&linear.name).weights.is_some()).count();
        let is_cpu = device == "CPU";
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let side_by_side = if is_cpu { config.training.batch.min(threads) } else { 1 };
        let sizes = Sizes {
            config,
            recipe: recipe.as_ref(),
            model,
            tokens,
            text_tokens,
            side_by_side: side_by_side as u64,
        };
        let (recompute, batch) = (config.training.recompute, config.training.batch);
        Ok(Self {
            device,
            method: format!("{} {}", config.method_name(), config.bits),
            steps: config.training.steps,
            batch,
            phase_steps: schedule.as_ref().map(|(schedule, _)| schedule.phase_steps()),
            ranks: schedule.map_or_else(Vec::new, |(_, ranks)| ranks.clone()),
            layers: [quantized, linears.len()],
            loras: config.loras.iter().map(ToString::to_string).collect(),
            model_parameters: sizes.model_parameters(),
            trained_parameters: sizes.trained(),
            latent_shape,
            tokens,
            recompute,
            memory: sizes.memory(recompute, batch),
            memory_otherwise: sizes.memory(!recompute, batch),
            smallest: sizes.memory(true, 1),
        })
    }

    /// Refuses a training that cannot fit into `limit` bytes.
    ///
    /// # Errors
    ///
    /// Says how much is missing and what to change.
    pub fn check(&self, limit: Option<u64>) -> Result<(), TrainError> {
        let gib = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
        let needed = self.memory.total();
        let Some(limit) = limit.filter(|&limit| needed > limit) else { return Ok(()) };
        let advice = if !self.recompute && self.memory_otherwise.total() <= limit {
            "set loop.recompute = true"
        } else if self.smallest.total() <= limit {
            "set loop.recompute = true and loop.batch = 1"
        } else {
            "no setting makes it fit, see --dry-run"
        };
        Err(TrainError::Setting(format!(
            "the training needs about {:.1} GiB but --max-memory allows {:.1} GiB; {advice}",
            gib(needed),
            gib(limit)
        )))
    }

    /// The plan in words: what and how, sizes by `bytes`.
    pub fn lines(&self, bytes: &dyn Fn(u64) -> String) -> Vec<(&'static str, String)> {
        let [quantized, linears] = self.layers;
        let [_, frames, height, width] = self.latent_shape;
        let ranks: Vec<String> = self.ranks.iter().map(ToString::to_string).collect();
        let phases = self.phase_steps.map_or_else(String::new, |phase_steps| {
            let rest = self.steps - phase_steps * self.ranks.len();
            format!("; Φ of rank {} for {phase_steps} each, then {rest} without", ranks.join(", "))
        });
        let loras: String = self.loras.iter().map(|lora| format!(", with {lora}")).collect();
        let memory = &self.memory;
        let otherwise = if self.recompute { "without" } else { "with" };
        vec![
            ("method", format!("{}, {quantized} of {linears} linear layers", self.method)),
            (
                "model",
                format!(
                    "{} parameters, {} trained{loras}",
                    count(self.model_parameters),
                    count(self.trained_parameters)
                ),
            ),
            ("device", self.device.clone()),
            ("clips", format!("latents of {frames}x{height}x{width}, {} tokens", self.tokens)),
            ("steps", format!("{} updates of {} clips{phases}", self.steps, self.batch)),
            (
                "memory",
                format!(
                    "about {}: weights {}, of the step {}, gradients {}, moments {}, averages {}, \
                     teacher {}, activations {} ({} {otherwise} recompute)",
                    bytes(memory.total()),
                    bytes(memory.weights),
                    bytes(memory.effective_weights),
                    bytes(memory.gradients),
                    bytes(memory.moments),
                    bytes(memory.averages),
                    bytes(memory.teacher),
                    bytes(memory.activations),
                    bytes(self.memory_otherwise.activations),
                ),
            ),
        ]
    }

    /// What would make it fit into `limit` bytes, and what is not implemented that other trainers
    /// have; nothing if it fits.
    pub fn fitting(&self, limit: Option<u64>, bytes: &dyn Fn(u64) -> String) -> Vec<String> {
        let Some(limit) = limit.filter(|&limit| self.memory.total() > limit) else {
            return Vec::new();
        };
        let verdict = |memory: &TrainMemory| {
            let fits = if memory.total() <= limit { "fits" } else { "does not fit" };
            format!("{}, {fits}", bytes(memory.total()))
        };
        let mut lines = vec![format!("limit    {}; to fit into it:", bytes(limit))];
        if !self.recompute {
            lines.push(format!("  loop.recompute = true: {}", verdict(&self.memory_otherwise)));
        }
        lines.push(format!("  and loop.batch = 1: {}", verdict(&self.smallest)));
        let smallest = &self.smallest;
        let saved = [
            ("moments in host memory", smallest.moments),
            ("a 16-bit teacher", smallest.teacher / 2),
            ("16-bit gradients", smallest.gradients / 2),
        ];
        let saved: Vec<String> = saved
            .into_iter()
            .filter(|(_, saving)| *saving > 0)
            .map(|(what, saving)| format!("{what} (saves {})", bytes(saving)))
            .collect();
        lines.push(format!("  not implemented: {}", saved.join(", ")));
        lines.push("  not implemented: several devices".to_owned());
        lines
    }
}

impl Sizes<'_> {
    fn model_parameters(&self) -> u64 {
        let elements = |shape: &[usize]| shape.iter().fold(1, |n: u64, &d| n * d as u64);
        self.model.parameter_shapes().iter().map(|(_, shape)| elements(shape)).sum()
    }

    /// Elements of the quantized weights, their grids and clips, and the factors beside them.
    fn quantized(&self) -> [u64; 3] {
        let scope = self.config.scope(self.model);
        let rank = match self.recipe.map(|recipe| &recipe.auxiliary) {
            None | Some(Auxiliary::None) => 0,
            Some(Auxiliary::Lora { rank }) => *rank,
            Some(Auxiliary::Phi { ranks, .. }) => ranks.first().copied().unwrap_or(0),
        };
        let (mut weights, mut grids, mut factors) = (0, 0, 0);
        for linear in self.model.linears() {
            if scope.of(&linear.name).weights.is_none() {
                continue;
            }
            let (rows, columns) = (linear.out_features as u64, linear.in_features as u64);
            weights += rows * columns;
            grids += 2 * rows + 2;
            factors += rank as u64 * (rows + columns);
        }
        [weights, grids, factors]
    }

    fn trains_lora(&self) -> bool {
        let auxiliary = self.recipe.map(|recipe| &recipe.auxiliary);
        matches!(auxiliary, Some(Auxiliary::Lora { .. }))
    }

    fn trained(&self) -> u64 {
        let [_, grids, factors] = self.quantized();
        let model = if self.trains_lora() { 0 } else { self.model_parameters() };
        model + grids + factors
    }

    /// Bytes of so many tensors `[of the width, of the feed-forward layer's]` per token.
    fn per_token(&self, [wide, deep]: [usize; 2]) -> u64 {
        FLOAT * (wide * self.model.dim() + deep * self.model.ffn_dim()) as u64
    }

    fn memory(&self, recompute: bool, batch: usize) -> TrainMemory {
        let model = self.model_parameters();
        let [weights, grids, factors] = self.quantized();
        let trained = self.trained();
        let (layers, tensors) = (self.model.num_layers() as u64, self.model.block_tensors());
        let tokens = self.model.sequence_tokens(self.tokens, self.text_tokens) as u64;
        // Of a LoRA the gradients of the merged weights exist as well.
        let gradients = if self.trains_lora() { trained + model } else { trained };
        let copies = if batch > 1 { 1 + self.side_by_side.min(batch as u64) } else { 1 };
        let block = tokens * self.per_token(tensors.kept)
            + self.text_tokens as u64 * self.per_token([tensors.kept_of_text, 0]);
        let live = tokens * self.per_token(tensors.live);
        let inputs = layers * tokens * FLOAT * self.model.dim() as u64;
        // One block's worth of gradients of activations comes on top.
        let activations = if recompute { inputs + 2 * block } else { (layers + 1) * block } + live;
        let has_teacher = self.recipe.is_some_and(Recipe::needs_teacher);
        TrainMemory {
            weights: FLOAT * (model + grids + factors),
            effective_weights: FLOAT * if recompute { weights / layers.max(1) } else { weights },
            gradients: FLOAT * gradients * copies,
            moments: 2 * FLOAT * trained,
            averages: self.config.optimizer.average_decay.map_or(0, |_| FLOAT * trained),
            teacher: if has_teacher { FLOAT * model } else { 0 },
            activations: activations * self.side_by_side.min(batch as u64),
        }
    }
}

/// A number of parameters in thousands, millions or billions.
fn count(value: u64) -> String {
    let value = value as f64;
    if value < 1e6 {
        format!("{:.1} thousand", value / 1e3)
    } else if value < 1e9 {
        format!("{:.1} million", value / 1e6)
    } else {
        format!("{:.2} billion", value / 1e9)
    }
}
