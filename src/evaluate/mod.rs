//! How well a model does what its prompts say, and how far it agrees with another model.
//!
//! | file | what it decides |
//! |---|---|
//! | `cases` | which captions and prompts are sampled: seen and held out, every word as often |
//! | `sampling` | many clips in one process: text and decoder loaded once, on the CPU side by side |
//! | `evaluator` | one model's clips, and its velocities beside a reference's |
//! | `scores`, `table` | what the numbers are, for programs and for people |
//! | `sheet` | the clips themselves, with marks |
//!
//! Scores of captions come from [`crate::world`], whose truth is read back from pixels: names are
//! those of common benchmarks, values are comparable with each other and with nothing else. Clips
//! of a model and of its reference start from the same noise and the same text, so what differs
//! between them is the transformer.
//!
//! A score is measured once per seed, as a mean over clips; [`Statistic`] is the mean and the
//! standard deviation of those over the seeds.

mod cases;
mod error;
mod evaluator;
mod sampling;
mod scores;
mod settings;
mod sheet;
mod table;

pub use cases::{Case, balanced_cases, knows_the_world, prompt_cases};
pub use error::EvaluateError;
pub use evaluator::{Evaluated, Evaluator, Progress, Stage, check_reference};
pub use sampling::{ClipSampler, Sample};
pub use scores::{
    AgreementScores, CaptionScores, Captions, ClipReport, Evaluation, LevelScore, SCHEMA, Statistic,
};
pub use settings::{EvaluationSettings, sample_seed};
pub use sheet::contact_sheet;
