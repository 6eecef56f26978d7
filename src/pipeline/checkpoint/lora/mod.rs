//! LoRA files: small changes of a model's weights, added while the model is read.
//!
//! `W + strength · (alpha / rank) · B · A`, with `A` `[rank, in_features]` and `B`
//! `[out_features, rank]` (Hu et al., arXiv 2106.09685, section 4.1); without an `alpha` the factor
//! is `strength` alone, as in diffusers. Sums are in f32. Some files also hold plain differences,
//! which are added as they are. No merged copy of the model is ever written: whoever asks a
//! [`Checkpoint`](super::Checkpoint) for a parameter gets the sum.

mod file;
mod keys;

pub use file::LoraFile;

use super::error::quoted;
use super::{CheckpointError, Tensors};
use keys::{Key, Keys, Part};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Names that an error lists before it only counts.
const SHOWN: usize = 4;

/// A LoRA that fits a model.
#[derive(Debug)]
pub struct Lora {
    file: LoraFile,
    tensors: Tensors,
    /// By the parameter that they change.
    changes: BTreeMap<String, Change>,
}

/// What is added to a parameter; the names are those of tensors in the file.
#[derive(Debug)]
enum Change {
    /// `factor · up · down`.
    LowRank { down: String, up: String, rank: usize, factor: f32 },
    /// `factor · difference`.
    Whole { difference: String, factor: f32 },
}

/// Tensors found for a parameter.
#[derive(Debug, Default)]
struct Found {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
    difference: Option<String>,
}

impl Lora {
    /// Opens `file` and matches it to the transformer of `class_name` with these `parameters`.
    ///
    /// # Errors
    ///
    /// If the file is no LoRA, is of a kind that is not implemented, or does not fit the model:
    /// the message names layer and shapes.
    pub fn open(
        file: &LoraFile,
        class_name: &str,
        parameters: &[(String, Vec<usize>)],
    ) -> Result<Self, CheckpointError> {
        let tensors = Tensors::open(&file.path)?;
        let problem = |problem: String| CheckpointError::Unfit { problem, path: file.path.clone() };
        let shapes: BTreeMap<&str, &[usize]> =
            parameters.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        let found = find(&tensors, &Keys::new(class_name, &shapes)).map_err(problem)?;
        let mut changes = BTreeMap::new();
        for (parameter, found) in found {
            let shape = shapes[parameter.as_str()];
            let change = found.change(&tensors, file.strength, (&parameter, shape))?;
            changes.insert(parameter, change);
        }
        Ok(Self { file: file.clone(), tensors, changes })
    }

    /// The file and its strength.
    pub fn file(&self) -> &LoraFile {
        &self.file
    }

    /// What the file holds.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The parameters that it changes, sorted.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = &str> {
        self.changes.keys().map(String::as_str)
    }

    /// Whether it changes `parameter`.
    pub fn changes(&self, parameter: &str) -> bool {
        self.changes.contains_key(parameter)
    }

    /// Adds to `values`, which are the given rows of `parameter`, what the file says.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or holds a value that is not finite.
    pub(super) fn add_to(
        &self,
        parameter: &str,
        rows: &[usize],
        values: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let Some(change) = self.changes.get(parameter) else { return Ok(()) };
        let width = values.len() / rows.len().max(1);
        if width == 0 {
            return Ok(());
        }
        match change {
            Change::Whole { difference, factor } => {
                let all = self.tensors.floats(difference)?;
                for (&row, values) in rows.iter().zip(values.chunks_exact_mut(width)) {
                    add(values, *factor, &all[row * width..(row + 1) * width]);
                }
            }
            Change::LowRank { down, up, rank, factor } => {
                let (down, up) = (self.tensors.floats(down)?, self.tensors.floats(up)?);
                rows.par_iter().zip(values.par_chunks_exact_mut(width)).for_each(
                    |(row, values)| {
                        let mut change = vec![0.0; width];
                        let weights = &up[row * rank..(row + 1) * rank];
                        for (&weight, down) in weights.iter().zip(down.chunks_exact(width)) {
                            add(&mut change, weight, down);
                        }
                        add(values, *factor, &change);
                    },
                );
            }
        }
        Ok(())
    }
}

/// `values += factor · change`.
fn add(values: &mut [f32], factor: f32, change: &[f32]) {
    values.iter_mut().zip(change).for_each(|(value, change)| *value += factor * change);
}

/// The tensors of the file by the parameter that they change.
fn find(tensors: &Tensors, keys: &Keys<'_>) -> Result<BTreeMap<String, Found>, String> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut unmatched = Vec::new();
    let mut is_lora = false;
    for name in tensors.names() {
        match keys.parse(name) {
            Key::Part(part, parameter) => {
                is_lora = true;
                let found = found.entry(parameter).or_default();
                let place = match part {
                    Part::Down => &mut found.down,
                    Part::Up => &mut found.up,
                    Part::Alpha => &mut found.alpha,
                    Part::Difference => &mut found.difference,
                };
                if let Some(other) = place.replace(name.to_owned()) {
                    let (name, other) = (quoted(name), quoted(&other));
                    return Err(format!("{other} and {name} are for the same layer"));
                }
            }
            Key::OtherMethod(method) => {
                return Err(format!(
                    "{} belongs to the {method} method, which is not implemented, only plain LoRA",
                    quoted(name)
                ));
            }
            Key::NoLayer => {
                is_lora = true;
                unmatched.push(name);
            }
            Key::Unknown => unmatched.push(name),
        }
    }
    if !is_lora {
        let names: Vec<String> = unmatched.iter().take(SHOWN).map(|name| quoted(name)).collect();
        return Err(format!(
            "this is no LoRA, no tensor has a name such as \"…to_q.lora_A.weight\" (it holds {})",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ));
    }
    if !unmatched.is_empty() {
        let names: Vec<String> = unmatched.iter().take(SHOWN).map(|name| quoted(name)).collect();
        let more = if unmatched.len() > SHOWN { ", …" } else { "" };
        return Err(format!(
            "{} of its {} tensors match no layer of this model ({}{more}); it was made for another \
             model",
            unmatched.len(),
            tensors.names().len(),
            names.join(", ")
        ));
    }
    Ok(found)
}

impl Found {
    /// What the tensors say, if they fit the `parameter` of that shape.
    fn change(
        self,
        tensors: &Tensors,
        strength: f32,
        (parameter, shape): (&str, &[usize]),
    ) -> Result<Change, CheckpointError> {
        let layer = parameter.strip_suffix(".weight").unwrap_or(parameter);
        let fail = |problem: String| CheckpointError::Unfit {
            problem: format!("layer \"{layer}\" {problem}"),
            path: tensors.path().to_owned(),
        };
        let shape_of = |name: &str| tensors.info(name).map_or(&[][..], |info| info.shape());
        let (down, up) = match (self.down, self.up, self.difference) {
            (None, None, Some(difference)) => {
                let found = shape_of(&difference);
                if found != shape {
                    return Err(fail(mismatch(shape, found)));
                }
                return Ok(Change::Whole { difference, factor: strength });
            }
            (Some(down), Some(up), None) => (down, up),
            (None, None, None) => {
                return Err(fail("has an alpha but nothing that it scales".to_owned()));
            }
            (_, _, Some(_)) => {
                return Err(fail("has both a difference and a low-rank pair".to_owned()));
            }
            (down, ..) => {
                let (half, other) = if down.is_some() { ("A", "B") } else { ("B", "A") };
                return Err(fail(format!(
                    "has lora_{half} but no lora_{other}; the file is incomplete, fetch it again"
                )));
            }
        };
        let ([rank, width, columns @ ..], [rows, up_rank, ones @ ..]) =
            (shape_of(&down), shape_of(&up))
        else {
            return Err(fail(format!(
                "has no matrices: {:?}, {:?}",
                shape_of(&down),
                shape_of(&up)
            )));
        };
        if rank != up_rank {
            return Err(fail(format!("has lora_A of rank {rank} and lora_B of rank {up_rank}")));
        }
        // A convolution's rows are its filters; its second half has size one in every direction.
        let changed: Vec<usize> = [&[*rows, *width], columns].concat();
        if changed != shape || ones.iter().any(|&dim| dim != 1) || *rank == 0 {
            return Err(fail(mismatch(shape, &changed)));
        }
        let factor = match self.alpha {
            None => strength,
            Some(alpha) => match tensors.floats(&alpha)?.as_slice() {
                [alpha] => strength * alpha / *rank as f32,
                values => return Err(fail(format!("has an alpha of {} values", values.len()))),
            },
        };
        Ok(Change::LowRank { down, up, rank: *rank, factor })
    }
}

fn mismatch(shape: &[usize], found: &[usize]) -> String {
    format!("has shape {shape:?}, but the LoRA changes {found:?}; it was made for another model")
}

/// Opens the files in order.
///
/// # Errors
///
/// As [`Lora::open`].
pub fn open_loras(
    files: &[LoraFile],
    class_name: &str,
    parameters: &[(String, Vec<usize>)],
) -> Result<Vec<Lora>, CheckpointError> {
    files.iter().map(|file| Lora::open(file, class_name, parameters)).collect()
}
