//! How the activations of a layer are quantized: one way for all, or one that depends on the step
//! of a run or on the frame of a token.

use super::{Bits, LogSpec, Scheme, TokenRange, TokenSpec};

/// Where in a run a forward pass is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunStep {
    /// Forward passes of the run before this one; guidance makes two of a step.
    pub call: usize,
    /// Denoising steps of the run before this one.
    pub step: usize,
    /// The timestep, in 0 to 1000.
    pub timestep: f32,
}

/// What chooses a group of quantizers.
#[derive(Clone, Debug, PartialEq)]
pub enum StepRule {
    /// The last group in the first forward pass, the one before in the next, and the first group
    /// once all had their turn: the released `QVGen` code in inference (`set_auto`).
    CallCountdown,
    /// The same, counting steps instead of forward passes.
    StepCountdown,
    /// The whole part of the timestep, modulo the number of groups: `QVGen` in training.
    TimestepModulo,
    /// By range: group `i` up to, but without, timestep `bounds[i]`, the last group from the last
    /// bound on. Ascending, one less than groups (`ViDiT-Q`: one bound at 500).
    TimestepRange(Vec<f32>),
}

impl StepRule {
    /// Name in files.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CallCountdown => "call_countdown",
            Self::StepCountdown => "step_countdown",
            Self::TimestepModulo => "timestep_modulo",
            Self::TimestepRange(_) => "timestep_range",
        }
    }

    /// The group of `groups` at `step`.
    pub fn group(&self, step: RunStep, groups: usize) -> usize {
        let last = groups.saturating_sub(1);
        match self {
            Self::CallCountdown => last.saturating_sub(step.call),
            Self::StepCountdown => last.saturating_sub(step.step),
            Self::TimestepModulo => step.timestep.max(0.0) as usize % groups.max(1),
            Self::TimestepRange(bounds) => {
                bounds.iter().take_while(|&&bound| step.timestep >= bound).count().min(last)
            }
        }
    }
}

/// Quantizers chosen by the step of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct ByStep {
    /// What chooses.
    pub rule: StepRule,
    /// One quantizer per group.
    pub specs: Vec<TokenSpec>,
}

impl ByStep {
    /// The quantizer at `step`.
    ///
    /// # Panics
    ///
    /// If there is none at all.
    pub fn spec(&self, step: RunStep) -> TokenSpec {
        self.specs[self.rule.group(step, self.specs.len())]
    }
}

/// One fixed range per latent frame (QVD's `per_batch` quantizers).
#[derive(Clone, Debug, PartialEq)]
pub struct PerFrame {
    /// Width of a code.
    pub bits: Bits,
    /// Range to grid.
    pub scheme: Scheme,
    /// `[lower, upper]` by frame; frames beyond the last have the last one's.
    pub ranges: Vec<[f32; 2]>,
}

impl PerFrame {
    /// The quantizer of tokens of `frame`.
    ///
    /// # Panics
    ///
    /// If there are no ranges.
    pub fn spec(&self, frame: usize) -> TokenSpec {
        let [min, max] = self.ranges[frame.min(self.ranges.len() - 1)];
        self.with_range(min, max)
    }

    /// The quantizer of tokens that belong to no frame: all ranges together.
    pub fn any_frame(&self) -> TokenSpec {
        let ends = |pick: fn(f32, f32) -> f32, end: usize| {
            self.ranges.iter().map(|range| range[end]).reduce(pick).unwrap_or(0.0)
        };
        self.with_range(ends(f32::min, 0), ends(f32::max, 1))
    }

    fn with_range(&self, min: f32, max: f32) -> TokenSpec {
        TokenSpec { bits: self.bits, scheme: self.scheme, range: TokenRange::Static { min, max } }
    }

    /// The quantizers of `tokens` tokens, the first of them number `first` of the video, in runs of
    /// equal frames; `per_frame` tokens make a frame.
    ///
    /// # Panics
    ///
    /// If there are no ranges.
    pub fn runs(&self, first: usize, tokens: usize, per_frame: usize) -> Vec<(usize, TokenSpec)> {
        let (mut runs, end, per_frame) = (Vec::new(), first + tokens, per_frame.max(1));
        let mut at = first;
        while at < end {
            let frame = at / per_frame;
            // Frames beyond the last range share it.
            let is_last = frame + 1 >= self.ranges.len();
            let next = if is_last { end } else { end.min((frame + 1) * per_frame) };
            runs.push((next - at, self.spec(frame)));
            at = next;
        }
        runs
    }
}

/// How the activations of a layer are quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum ActivationQuantizer {
    /// One quantizer for all tokens of all steps.
    Uniform(TokenSpec),
    /// One of several, chosen by the step.
    ByStep(ByStep),
    /// One fixed range per latent frame.
    PerFrame(PerFrame),
    /// Codes of logarithms (`HiDi-TQ` of QVD), for inputs that depend on the timestep alone.
    Log(LogSpec),
}

impl From<TokenSpec> for ActivationQuantizer {
    fn from(spec: TokenSpec) -> Self {
        Self::Uniform(spec)
    }
}

impl ActivationQuantizer {
    /// The widest code.
    pub fn bits(&self) -> Bits {
        match self {
            Self::Uniform(spec) => spec.bits,
            Self::ByStep(steps) => {
                steps.specs.iter().map(|spec| spec.bits).max().unwrap_or(Bits::B8)
            }
            Self::PerFrame(frames) => frames.bits,
            Self::Log(log) => log.bits,
        }
    }

    /// Whether the same input may become other codes at another step.
    pub fn depends_on_step(&self) -> bool {
        matches!(self, Self::ByStep(steps) if steps.specs.windows(2).any(|two| two[0] != two[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(call: usize, step: usize, timestep: f32) -> RunStep {
        RunStep { call, step, timestep }
    }

    #[test]
    fn groups_follow_calls_steps_and_timesteps() {
        let group = |rule: StepRule, at| rule.group(at, 50);
        assert_eq!(group(StepRule::CallCountdown, step(0, 0, 999.0)), 49);
        assert_eq!(group(StepRule::CallCountdown, step(49, 24, 500.0)), 0);
        assert_eq!(group(StepRule::CallCountdown, step(99, 49, 1.0)), 0);
        assert_eq!(group(StepRule::StepCountdown, step(49, 24, 500.0)), 25);
        assert_eq!(group(StepRule::TimestepModulo, step(0, 0, 999.9)), 49);
        assert_eq!(group(StepRule::TimestepModulo, step(0, 0, 751.0)), 1);
        let ranges = StepRule::TimestepRange(vec![250.0, 500.0]);
        let of = |t| ranges.group(step(0, 0, t), 3);
        assert_eq!([0.0, 249.9, 250.0, 499.0, 500.0, 1000.0].map(of), [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn runs_of_frames_cover_the_tokens_in_order() {
        let frames = PerFrame {
            bits: Bits::B8,
            scheme: Scheme::Asymmetric,
            ranges: vec![[-1.0, 1.0], [-2.0, 3.0], [-4.0, 2.0]],
        };
        let lengths = |first, tokens| -> Vec<(usize, TokenSpec)> { frames.runs(first, tokens, 4) };
        let spec = |frame| frames.spec(frame);
        assert_eq!(lengths(0, 4), [(4, spec(0))]);
        assert_eq!(lengths(2, 5), [(2, spec(0)), (3, spec(1))]);
        assert_eq!(lengths(7, 30), [(1, spec(1)), (29, spec(2))]);
        assert_eq!(lengths(100, 2), [(2, spec(2))]);
        let any = TokenRange::Static { min: -4.0, max: 3.0 };
        assert_eq!(frames.any_frame().range, any);
    }

    #[test]
    fn equal_groups_do_not_depend_on_the_step() {
        let spec =
            TokenSpec { bits: Bits::B4, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
        let by = |specs| {
            let rule = StepRule::CallCountdown;
            ActivationQuantizer::ByStep(ByStep { rule, specs }).depends_on_step()
        };
        assert!(!by(vec![spec; 3]));
        assert!(by(vec![spec, TokenSpec { bits: Bits::B8, ..spec }]));
    }
}
