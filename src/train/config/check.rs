//! Values that are of the right type but make no sense.

use super::{Config, Start, TrainError, setting};

/// One number and what it must be.
struct Number {
    key: &'static str,
    value: f64,
    is_right: bool,
    expected: &'static str,
}

fn number(key: &'static str, value: f64, is_right: bool, expected: &'static str) -> Number {
    Number { key, value, is_right, expected }
}

fn positive(key: &'static str, value: f64) -> Number {
    number(key, value, value > 0.0 && value.is_finite(), "a positive number")
}

fn not_negative(key: &'static str, value: f64) -> Number {
    number(key, value, value >= 0.0 && value.is_finite(), "0 or more")
}

fn share(key: &'static str, value: f64) -> Number {
    number(key, value, (0.0..=1.0).contains(&value), "a share from 0 to 1")
}

fn decay(key: &'static str, value: f64) -> Number {
    number(key, value, (0.0..1.0).contains(&value), "at least 0 and below 1")
}

fn count(key: &'static str, value: usize) -> Number {
    number(key, value as f64, value > 0, "at least 1")
}

impl Config {
    /// Checks everything that can be checked without opening the model.
    ///
    /// # Errors
    ///
    /// One sentence that names the key, its value and what is expected.
    pub fn check(&self) -> Result<(), TrainError> {
        let numbers = [self.loop_numbers(), self.optimizer_numbers(), self.other_numbers()];
        if let Some(wrong) = numbers.into_iter().flatten().find(|number| !number.is_right) {
            let Number { key, value, expected, .. } = wrong;
            return Err(setting(format!("{key} is {value}, expected {expected}")));
        }
        if self.model.is_empty() || self.out.as_os_str().is_empty() {
            let key = if self.model.is_empty() { "model" } else { "out" };
            return Err(setting(format!("{key} is empty, expected a folder")));
        }
        if self.start == Start::Random && !self.loras.is_empty() {
            return Err(setting("start = \"random\" has nothing to add a LoRA to; leave one out"));
        }
        if self.bits.weights.is_none() {
            self.check_full_precision()?;
        } else if self.start == Start::Random {
            return Err(setting("start = \"random\" has nothing to quantize; use bits = \"full\""));
        }
        self.check_data()?;
        self.recipe().map(drop)
    }

    fn loop_numbers(&self) -> Vec<Number> {
        let settings = &self.training;
        vec![
            count("loop.steps", settings.steps),
            count("loop.batch", settings.batch),
            share("loop.caption_dropout", settings.caption_dropout),
            positive("loop.timestep_shift", settings.timestep_shift),
        ]
    }

    fn optimizer_numbers(&self) -> Vec<Number> {
        let settings = &self.optimizer;
        let mut numbers = vec![
            not_negative("optimizer.learning_rate", settings.learning_rate),
            not_negative("optimizer.scale_learning_rate", settings.scale_learning_rate),
            not_negative("optimizer.low_rank_learning_rate", settings.low_rank_learning_rate),
            not_negative("optimizer.clip_learning_rate", settings.clip_learning_rate),
            share("optimizer.warmup", settings.warmup),
            share("optimizer.final_share", settings.final_share),
            decay("optimizer.beta1", settings.beta1),
            decay("optimizer.beta2", settings.beta2),
            positive("optimizer.epsilon", settings.epsilon),
            not_negative("optimizer.weight_decay", settings.weight_decay),
            positive("optimizer.max_gradient_norm", settings.max_gradient_norm),
        ];
        let average = settings.average_decay;
        numbers.extend(average.map(|value| decay("optimizer.average_decay", value)));
        numbers
    }

    fn other_numbers(&self) -> Vec<Number> {
        let recipe = &self.recipe;
        let mut numbers = vec![
            count("checkpoint.every", self.checkpoint.every),
            count("checkpoint.keep", self.checkpoint.keep),
            count("log.every", self.log.every),
        ];
        let counts = [
            ("recipe.rank", recipe.rank),
            ("data.random", self.data.random),
            ("data.frames", self.data.frames),
            ("data.width", self.data.width),
            ("data.height", self.data.height),
            ("log.sample_steps", self.log.sample_steps),
        ];
        numbers.extend(counts.into_iter().filter_map(|(key, value)| Some(count(key, value?))));
        if let Some(lambda) = recipe.lambda {
            let is_right = lambda > 0.0 && lambda <= 1.0;
            numbers.push(number("recipe.lambda", lambda, is_right, "above 0 and at most 1"));
        }
        numbers.extend(recipe.sharpness.map(|value| positive("recipe.sharpness", value)));
        let drop = recipe.late_guidance_drop;
        numbers.extend(drop.map(|value| share("recipe.late_guidance_drop", value)));
        numbers
    }

    /// What belongs to quantization has no place without.
    fn check_full_precision(&self) -> Result<(), TrainError> {
        let given = [
            ("method", self.method.is_some()),
            ("layers", !self.layers.is_empty()),
            ("every_layer", self.every_layer),
            ("[recipe]", self.recipe != super::RecipeChanges::default()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => {
                Err(setting(format!("{key} has no place with bits = \"full\"; leave it out")))
            }
            None => Ok(()),
        }
    }

    fn check_data(&self) -> Result<(), TrainError> {
        let data = &self.data;
        let sources = [
            ("cache", data.cache.is_some()),
            ("world", data.world.is_some()),
            ("random", data.random.is_some()),
        ];
        let given: Vec<&str> =
            sources.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        match given.as_slice() {
            [_] => Ok(()),
            [] => Err(setting(
                "no clips to train on: give one of data.cache, data.world and \
                 data.random",
            )),
            several => Err(setting(format!(
                "data has {}, expected one source of clips",
                several.join(" and ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Override};

    fn refusal(set: &str) -> String {
        let text = "model = \"m\"\nout = \"o\"\n[data]\nrandom = 4\n";
        let overrides: Vec<Override> =
            set.split(' ').map(|set| Override::parse(set).expect("key=value")).collect();
        Config::from_text(text, "x.toml", &overrides).expect_err(set).to_string()
    }

    #[test]
    fn values_out_of_range_are_refused_with_key_and_range() {
        for (set, words) in [
            ("loop.steps=0", "loop.steps is 0, expected at least 1"),
            ("loop.caption_dropout=1.5", "loop.caption_dropout is 1.5, expected a share"),
            ("loop.timestep_shift=0", "loop.timestep_shift is 0, expected a positive number"),
            ("optimizer.beta1=1", "optimizer.beta1 is 1, expected at least 0 and below 1"),
            ("optimizer.learning_rate=nan", "optimizer.learning_rate is NaN"),
            ("optimizer.average_decay=-0.1", "optimizer.average_decay is -0.1"),
            ("recipe.lambda=0", "recipe.lambda is 0, expected above 0"),
            ("recipe.rank=0", "recipe.rank is 0"),
            ("checkpoint.keep=0", "checkpoint.keep is 0"),
            ("model=\"\"", "model is empty"),
            ("method=lsq recipe.rank=4", "recipe.rank: method lsq has nothing of the kind"),
            ("method=efficient-dm recipe.lambda=1", "recipe.lambda: method efficient-dm"),
            ("recipe.sharpness=3", "recipe.sharpness belongs to recipe.loss = \"mixed\""),
            ("recipe.rank=4 recipe.ranks=[4,2]", "recipe.ranks stands instead"),
            ("bits=full method=lsq", "method has no place with bits = \"full\""),
            ("start=random", "bits = \"full\""),
            ("data.cache=x", "cache and random"),
        ] {
            let error = refusal(set);
            assert!(error.contains(words), "{set}: {error}");
        }
    }
}
