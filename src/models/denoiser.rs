//! What every denoising transformer has in common, whatever its family.
//!
//! A [`DenoiserConfig`] is known from `transformer/config.json` alone: names and shapes of all
//! tensors, sizes of sequences, costs. It loads a [`Denoiser`] for sampling, which runs whole
//! passes, or [`Stages`] for whoever runs one block at a time, such as a trainer that must not
//! keep every activation.
//!
//! A latent is `[channels, frames, height, width]` in every family; where a checkpoint's reference
//! implementation orders it otherwise, the family turns it on the way in and out.

use super::LinearShape;
use crate::nn::{AttentionPrecision, Limits, RunClock, Trace, WeightError, Weights};
use burn::tensor::Tensor;
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

/// Sizes of a denoising transformer, and everything that follows from them.
pub trait DenoiserConfig: Debug + Send + Sync {
    /// Channels of a latent.
    fn in_channels(&self) -> usize;

    /// Channels of a prediction.
    fn out_channels(&self) -> usize;

    /// Width of a text embedding.
    fn text_dim(&self) -> usize;

    /// Width of a token.
    fn dim(&self) -> usize;

    /// Width of the feed-forward layers.
    fn ffn_dim(&self) -> usize;

    /// Heads of every attention.
    fn heads(&self) -> usize;

    /// Blocks.
    fn num_layers(&self) -> usize;

    /// The same with another number of blocks.
    fn with_num_layers(&self, num_layers: usize) -> Arc<dyn DenoiserConfig>;

    /// What the names of block `i`'s tensors start with, without `.i.`.
    fn block_prefix(&self) -> &'static str;

    /// Latent pixels that become one token: frames, rows, columns.
    fn patch(&self) -> [usize; 3];

    /// Most patches along frames, rows and columns.
    fn max_grid(&self) -> [usize; 3];

    /// Every linear layer, in the order in which they are loaded; each has a bias.
    fn linears(&self) -> Vec<LinearShape>;

    /// Name and shape of every tensor.
    fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)>;

    /// Patterns over the names of the linear layers that are worth keeping in full precision: those
    /// that see a timestep or a text once per pass, and the last one.
    fn sensitive_layers(&self) -> &'static [&'static str];

    /// Patterns over the names of the layers that bring a timestep into the blocks: their input
    /// depends on nothing else.
    fn timestep_projections(&self) -> &'static [&'static str];

    /// Whether the tensor `name` is zero in a model that begins as the identity: whatever scales a
    /// residual branch, and the last layer. All biases are as well.
    fn starts_at_zero(&self, name: &str) -> bool;

    /// How the model was published to be called, given the pixels that its autoencoder makes of a
    /// latent pixel, in a row.
    fn usual_call(&self, pixels_per_latent: usize) -> UsualCall;

    /// Tokens that a block works on, given those of the video and of the text.
    fn sequence_tokens(&self, tokens: usize, text_tokens: usize) -> usize;

    /// The arithmetic of one block over so many tokens, and of all a pass does besides.
    fn ops(&self, tokens: usize, text_tokens: usize) -> PassOps;

    /// The largest set of live activations of a pass over `tokens`, bytes, with what is kept of
    /// `prompts` texts of `text_tokens`; no tensor exceeds `max_elements`.
    fn activation_bytes(
        &self,
        tokens: usize,
        text_tokens: usize,
        prompts: usize,
        max_elements: usize,
    ) -> u64;

    /// Tensors of a block that autodiff keeps for its backward pass, and that live in a pass
    /// without gradients.
    fn block_tensors(&self) -> BlockTensors;

    /// The transformer whose tensors are at `weights`, with only the first `resident_blocks` blocks
    /// on the device; the others wait in host memory, packed as they are, and visit the device in
    /// every pass.
    ///
    /// `loaded(done, total)` is called after each block.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable, or the device fails.
    fn load_streamed(
        &self,
        weights: &Weights<'_>,
        limits: Limits,
        resident_blocks: usize,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Box<dyn Denoiser>, WeightError>;

    /// The same transformer in stages, for latents of a `grid` of patches; see [`Self::grid`].
    fn stages<'a>(
        &'a self,
        weights: &'a Weights<'a>,
        limits: Limits,
        grid: [usize; 3],
    ) -> Box<dyn Stages + 'a>;

    /// [`Self::load_streamed`] with every block on the device.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    fn load(
        &self,
        weights: &Weights<'_>,
        limits: Limits,
    ) -> Result<Box<dyn Denoiser>, WeightError> {
        self.load_streamed(weights, limits, self.num_layers(), &mut |_, _| ())
    }

    /// Patches along frames, rows and columns of a latent `[in_channels, frames, height, width]`;
    /// `None` if the channels do not fit, a size is no positive multiple of the patch, or the latent
    /// exceeds [`Self::max_grid`].
    fn grid_of(&self, [channels, frames, height, width]: [usize; 4]) -> Option<[usize; 3]> {
        let (patch, size, most) = (self.patch(), [frames, height, width], self.max_grid());
        let fits = |axis: usize| {
            let (patches, rest) = (size[axis] / patch[axis], size[axis] % patch[axis]);
            rest == 0 && (1..=most[axis]).contains(&patches)
        };
        let fits = channels == self.in_channels() && (0..3).all(fits);
        fits.then(|| [0, 1, 2].map(|axis| size[axis] / patch[axis]))
    }

    /// [`Self::grid_of`] a latent that fits.
    ///
    /// # Panics
    ///
    /// If it does not.
    fn grid(&self, latent: [usize; 4]) -> [usize; 3] {
        self.grid_of(latent).unwrap_or_else(|| {
            panic!(
                "a latent of {latent:?} for {} channels, patches of {:?} and at most {:?} of them",
                self.in_channels(),
                self.patch(),
                self.max_grid()
            )
        })
    }

    /// Latent frames that are sampled for a video of `latent_frames`: whole patches of them. The
    /// surplus comes first in a latent and is no part of the video.
    fn padded_frames(&self, latent_frames: usize) -> usize {
        latent_frames.next_multiple_of(self.patch()[0])
    }

    /// The linear layers of the blocks.
    fn block_linears(&self) -> Vec<LinearShape> {
        let is_of_block = |layer: &LinearShape| self.block_of(&layer.name).is_some();
        self.linears().into_iter().filter(is_of_block).collect()
    }

    /// The block that a tensor or layer of this name belongs to.
    fn block_of(&self, name: &str) -> Option<usize> {
        let rest = name.strip_prefix(self.block_prefix())?.strip_prefix('.')?;
        rest.split('.').next()?.parse().ok()
    }
}

/// How a model was published to be called; a folder's `sampling.json` can say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsualCall {
    /// Frames.
    pub frames: usize,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Strength of classifier-free guidance.
    pub guidance_scale: f32,
    /// Frames per second.
    pub fps: f64,
    /// Tokens that every prompt is padded or cut to.
    pub text_tokens: usize,
}

/// Multiplications and additions of a pass, by what they are part of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PassOps {
    /// Linear layers of one block.
    pub block_linears: f64,
    /// Attention of one block.
    pub block_attention: f64,
    /// Everything outside the blocks.
    pub rest: f64,
}

impl PassOps {
    /// Those of a pass through `num_layers` blocks.
    pub fn total(&self, num_layers: usize) -> f64 {
        num_layers as f64 * (self.block_linears + self.block_attention) + self.rest
    }
}

/// Tensors of a block per token of its sequence: `[of the token's width, of the feed-forward
/// layer's]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTensors {
    /// Kept by autodiff.
    pub kept: [usize; 2],
    /// At once in a pass without gradients.
    pub live: [usize; 2],
    /// Kept by autodiff of the token's width, per token of a text that is not in the sequence.
    pub kept_of_text: usize,
}

/// A denoising transformer on a device.
pub trait Denoiser: Debug + Send + Sync {
    /// Its sizes.
    fn config(&self) -> &dyn DenoiserConfig;

    /// What its layers ask where in a run they are: `timestep_context` begins a step of it and
    /// `forward_at` a call.
    fn clock(&self) -> &RunClock;

    /// Begins a run: layers whose quantizers depend on the step count from here.
    fn begin_run(&self) {
        self.clock().restart();
    }

    /// Whether it computes something else at another step of a run: then it serves one run at a
    /// time.
    fn depends_on_step(&self) -> bool {
        self.clock().is_read()
    }

    /// The same with attention in another precision.
    #[must_use]
    fn with_attention(self: Box<Self>, precision: AttentionPrecision) -> Box<dyn Denoiser>;

    /// What the blocks need of a prompt; `embeds` is `[tokens, text_dim]`. It depends on nothing
    /// else, so it is computed once per prompt and not once per step.
    ///
    /// # Panics
    ///
    /// If `embeds` has not `text_dim` columns.
    fn text_context(&self, embeds: Tensor<2>, trace: &mut Trace<'_>) -> TextContext;

    /// What the transformer needs of a timestep, in 0 to 1000. It depends on nothing else, so it is
    /// computed once per step and not once per prompt of the step.
    fn timestep_context(&self, timestep: f32, trace: &mut Trace<'_>) -> TimestepContext;

    /// The prediction `[out_channels, frames, height, width]` at `latent`
    /// `[in_channels, frames, height, width]`.
    ///
    /// # Panics
    ///
    /// As [`DenoiserConfig::grid`], or if a context is another family's.
    fn forward_at(
        &self,
        latent: Tensor<4>,
        timestep: &TimestepContext,
        text: &TextContext,
        trace: &mut Trace<'_>,
    ) -> Tensor<4>;

    /// [`Self::forward_at`] at a timestep that is used once.
    ///
    /// # Panics
    ///
    /// As [`Self::forward_at`].
    fn forward(&self, latent: Tensor<4>, timestep: f32, text: &TextContext) -> Tensor<4> {
        self.forward_traced(latent, timestep, text, &mut Trace::off())
    }

    /// [`Self::forward`] with a view of the intermediate tensors.
    ///
    /// # Panics
    ///
    /// As [`Self::forward_at`].
    fn forward_traced(
        &self,
        latent: Tensor<4>,
        timestep: f32,
        text: &TextContext,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        let timestep = self.timestep_context(timestep, trace);
        self.forward_at(latent, &timestep, text, trace)
    }
}

/// What a family keeps of a prompt or a timestep.
trait Context: Any + Debug + Send + Sync {}
impl<T: Any + Debug + Send + Sync> Context for T {}

/// A prompt as the blocks of a transformer see it; see [`Denoiser::text_context`].
#[derive(Clone, Debug)]
pub struct TextContext(Arc<dyn Context>);

/// A timestep as the blocks and the head of a transformer see it; see
/// [`Denoiser::timestep_context`].
#[derive(Clone, Debug)]
pub struct TimestepContext(Arc<dyn Context>);

impl TextContext {
    /// Wraps what a family keeps of a prompt.
    pub(super) fn new(context: impl Any + Debug + Send + Sync) -> Self {
        Self(Arc::new(context))
    }

    /// What the family that made it keeps.
    ///
    /// # Panics
    ///
    /// If another family made it.
    pub(super) fn of<T: Any>(&self) -> &T {
        let context: &dyn Any = &*self.0;
        context.downcast_ref().expect("the text context comes from a model of the same family")
    }
}

impl TimestepContext {
    /// Wraps what a family keeps of a timestep.
    pub(super) fn new(context: impl Any + Debug + Send + Sync) -> Self {
        Self(Arc::new(context))
    }

    /// What the family that made it keeps.
    ///
    /// # Panics
    ///
    /// If another family made it.
    pub(super) fn of<T: Any>(&self) -> &T {
        let context: &dyn Any = &*self.0;
        context.downcast_ref().expect("the timestep context comes from a model of the same family")
    }
}

/// A transformer one stage at a time, each of which loads its own parameters and no others.
///
/// `embed`, every block in turn, `head`: the same computation as [`Denoiser::forward`].
pub trait Stages {
    /// What comes before the blocks; the timestep is in 0 to 1000, `text` `[tokens, text_dim]`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    fn embed(
        &self,
        latent: Tensor<4>,
        timestep: f32,
        text: Tensor<2>,
    ) -> Result<Embedded, WeightError>;

    /// Block `index` with what it sees beside the tokens: a function from tokens to tokens.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    fn block(&self, index: usize, conditions: &[Tensor<2>]) -> Result<BlockPass, WeightError>;

    /// What comes after the blocks: the prediction `[out_channels, frames, height, width]`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    fn head(
        &self,
        hidden: Vec<Tensor<2>>,
        conditions: &[Tensor<2>],
    ) -> Result<Tensor<4>, WeightError>;

    /// The shapes that [`Self::embed`] gives for a text of `text_tokens`.
    fn shapes(&self, text_tokens: usize) -> EmbeddedShapes;
}

/// A block that is ready to run: the tokens of [`Embedded::hidden`] before and after it.
pub type BlockPass = Box<dyn Fn(Vec<Tensor<2>>) -> Vec<Tensor<2>> + Send>;

/// A latent, a timestep and a text as the blocks take them.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// What every block changes: `[tokens, dim]` in as many parts as the limits ask for.
    pub hidden: Vec<Tensor<2>>,
    /// What the blocks and the head see beside: timestep and text, in the order of the family.
    pub conditions: Vec<Tensor<2>>,
}

/// Shapes of the tensors of an [`Embedded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedShapes {
    /// Of the tokens.
    pub hidden: Vec<[usize; 2]>,
    /// Of the conditions.
    pub conditions: Vec<[usize; 2]>,
}
