//! A small world whose truth can be read back from its pictures.
//!
//! A [`Caption`] names a coloured shape, how it moves and what is behind it; a [`Scene`] adds where
//! and how large; [`render`] draws it as a [`Clip`]. A text-to-video model small enough to train
//! anywhere learns this world, and [`read`] says from pixels alone what a generated clip shows, so
//! that "does the video do what the text says" is a measurement and not an opinion.
//!
//! ```
//! use qvgen::world::{Caption, Scene, Scores, read, render};
//!
//! let caption: Caption = "a red circle moves right slowly over a blue background".parse()?;
//! let clip = render(&Scene::with_caption(caption, 7), 9, 64, 64);
//! assert_eq!(read(&clip).caption(), Some(caption));
//! assert!(Scores::of(caption, &clip).all);
//! # Ok::<(), qvgen::world::CaptionError>(())
//! ```
//!
//! Every length is relative to the frame, so a scene looks the same at any size and a speed means
//! the same way over the picture at any number of frames. There is no time but the clip: a word
//! of speed is a distance per clip. Drawing uses no clock, no thread and no function that is not
//! correctly rounded everywhere: the same seed gives the same bytes on every machine.

mod agreement;
mod caption;
mod clip;
mod matte;
mod read;
mod render;
mod rng;
mod scene;
mod scores;
#[cfg(test)]
mod tests;
mod words;

pub use agreement::{Agreement, MAX_PSNR, psnr, ssim};
pub use caption::{Caption, CaptionError, Split};
pub use clip::{Clip, ClipError};
pub use read::{Observation, read};
pub use render::render;
pub use scene::Scene;
pub use scores::Scores;
pub use words::{Background, Color, Direction, Motion, Shape, Speed};

/// Frames of a clip unless one asks for others: one second at [`FPS`].
pub const FRAMES: usize = 9;
/// Height and width of a clip in pixels unless one asks for others.
pub const SIDE: usize = 64;
/// Frames per second at which clips are meant to be shown.
pub const FPS: usize = 8;
