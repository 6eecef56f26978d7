//! Whose names the tensors of a file have, and what becomes of them.
//!
//! This program reads the names of diffusers' and transformers' checkpoints. Files from elsewhere
//! hold the same tensors under other names: the common ones are translated while they are opened,
//! the others are refused with a sentence that says what they are.
//!
//! | names | table |
//! |---|---|
//! | Wan's own repository, also with Comfy's prefix and in GGUF | [`wan`] |
//! | text encoders of llama.cpp (GGUF) and of Wan's own repository | [`t5`] |

mod t5;
mod table;
mod wan;

pub(super) use table::NameTable;

use super::error::quoted;
use super::{CheckpointError, ComponentKind, Tensors};

/// What stands before the names of a transformer in files of several components.
const COMFY_PREFIX: &str = "model.diffusion_model.";
/// What may stand before all names of a transformer's file.
const PREFIXES: [&str; 2] = ["diffusion_model.", "model."];

/// Kinds of files by the names of their tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// What a LoRA adds to a model.
    Lora,
    /// A transformer as the released QVGen code stores it.
    QvgenOfficial,
    /// A Wan transformer that also looks at an image.
    WanImage,
    /// A Wan transformer of diffusers.
    Wan,
    /// A Wan transformer of Wan's own repository.
    WanOriginal,
    /// A `CogVideoX` transformer of diffusers.
    CogVideoX,
    /// `CogVideoX` of its own repository.
    CogVideoXSat,
    /// A T5 encoder of transformers.
    T5,
    /// A T5 encoder of llama.cpp.
    T5LlamaCpp,
    /// The UMT5 encoder of Wan's own repository.
    Umt5Original,
    /// An autoencoder of diffusers.
    Vae,
    /// The autoencoder of Wan's own repository.
    WanVaeOriginal,
}

/// Ends of names that only one layout has; the first that is found decides.
const MARKS: [(Layout, &[&str]); 12] = [
    (Layout::Lora, &[".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight"]),
    (Layout::QvgenOfficial, &[".wquantizer.scale"]),
    (Layout::CogVideoXSat, &[".attention.query_key_value.weight"]),
    (Layout::WanImage, &["blocks.0.cross_attn.k_img.weight", "blocks.0.attn2.add_k_proj.weight"]),
    (Layout::CogVideoX, &["transformer_blocks.0.attn1.to_q.weight"]),
    (Layout::Wan, &["blocks.0.attn1.to_q.weight"]),
    (Layout::WanOriginal, &["blocks.0.self_attn.q.weight"]),
    (Layout::T5, &["encoder.block.0.layer.0.SelfAttention.q.weight"]),
    (Layout::T5LlamaCpp, &["enc.blk.0.attn_q.weight"]),
    (Layout::Umt5Original, &["blocks.0.attn.q.weight"]),
    (Layout::WanVaeOriginal, &["decoder.middle.0.residual.0.gamma"]),
    (Layout::Vae, &["decoder.conv_in.weight", "decoder.conv_in.conv.weight"]),
];

impl Layout {
    /// The layout of `tensors`, if their names are known.
    pub fn of(tensors: &Tensors) -> Option<Self> {
        let has = |mark: &&str| tensors.names().any(|name| name.ends_with(mark));
        MARKS.iter().find(|(_, marks)| marks.iter().any(&has)).map(|(layout, _)| *layout)
    }

    /// What a file of this layout is, as part of a sentence.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Lora => "a LoRA",
            Self::QvgenOfficial => "a checkpoint of the released QVGen code",
            Self::WanImage => "a Wan transformer for images to video",
            Self::Wan => "a Wan transformer in the diffusers layout",
            Self::WanOriginal => "a Wan transformer in the layout of Wan's own repository",
            Self::CogVideoX => "a CogVideoX transformer in the diffusers layout",
            Self::CogVideoXSat => "CogVideoX in the layout of its own (SAT) repository",
            Self::T5 => "a T5 text encoder",
            Self::T5LlamaCpp => "a T5 text encoder in the layout of llama.cpp",
            Self::Umt5Original => "a UMT5 text encoder in the layout of Wan's own repository",
            Self::Vae => "a VAE in the diffusers layout",
            Self::WanVaeOriginal => "a VAE in the layout of Wan's own repository",
        }
    }

    /// The component that it can stand for.
    const fn component(self) -> Option<ComponentKind> {
        match self {
            Self::Wan | Self::WanOriginal | Self::CogVideoX => Some(ComponentKind::Transformer),
            Self::T5 | Self::T5LlamaCpp | Self::Umt5Original => Some(ComponentKind::TextEncoder),
            Self::Vae => Some(ComponentKind::Vae),
            Self::Lora
            | Self::QvgenOfficial
            | Self::WanImage
            | Self::CogVideoXSat
            | Self::WanVaeOriginal => None,
        }
    }

    /// Class of diffusers whose parameters it has, where components of that kind have several.
    const fn class_name(self) -> Option<&'static str> {
        match self {
            Self::Wan | Self::WanOriginal => Some("WanTransformer3DModel"),
            Self::CogVideoX => Some("CogVideoXTransformer3DModel"),
            _ => None,
        }
    }

    /// What to do with a file that cannot stand for the component it was given as.
    const fn advice(self) -> &'static str {
        match self {
            Self::Lora => "give it with --lora FILE, beside the model that it was made for",
            Self::QvgenOfficial => "convert it with `qvgen import`",
            Self::WanImage => "only text-to-video models are supported",
            Self::CogVideoXSat | Self::WanVaeOriginal => "fetch the model in the diffusers layout",
            _ => "give the file of that component",
        }
    }

    /// What to do with a file that was given as a whole model.
    pub(super) const fn advice_alone(self) -> &'static str {
        match self.component() {
            Some(ComponentKind::Transformer) => {
                "give it with --transformer FILE, beside the folder of its model in the diffusers \
                 layout"
            }
            Some(ComponentKind::TextEncoder) => {
                "give it with --text-encoder FILE, beside the folder of a model"
            }
            _ => self.advice(),
        }
    }

    /// From its names to those that this program reads, if they differ.
    const fn table(self) -> Option<&'static NameTable> {
        match self {
            Self::WanOriginal => Some(&wan::ORIGINAL),
            Self::T5LlamaCpp => Some(&t5::LLAMA_CPP),
            Self::Umt5Original => Some(&t5::WAN_ORIGINAL),
            _ => None,
        }
    }
}

/// Names under which other programs know the parameters of a transformer of `class_name`.
pub(super) fn foreign_names(class_name: &str) -> Option<&'static NameTable> {
    (Layout::WanOriginal.class_name() == Some(class_name)).then_some(&wan::ORIGINAL)
}

/// `tensors` under the names of the component `kind`, whose class is `class_name`.
///
/// Names of no known layout stay as they are: what is missing is reported when it is asked for.
///
/// # Errors
///
/// If the file is something else; the message says what, and what to do with it.
pub(super) fn as_component(
    tensors: Tensors,
    kind: ComponentKind,
    class_name: &str,
) -> Result<Tensors, CheckpointError> {
    check_architecture(&tensors, kind)?;
    let Some(layout) = Layout::of(&tensors) else { return Ok(tensors) };
    let fits_class = layout.class_name().is_none_or(|class| class == class_name);
    if layout.component() != Some(kind) || !fits_class {
        return Err(CheckpointError::Foreign {
            found: layout.description(),
            wanted: format!("the {} ({class_name})", kind.name().replace('_', " ")),
            advice: layout.advice(),
            path: tensors.path().to_owned(),
        });
    }
    let tensors = if kind == ComponentKind::Transformer { unprefixed(tensors)? } else { tensors };
    match layout.table() {
        Some(table) => translated(tensors, table, layout),
        None => Ok(tensors),
    }
}

/// Refuses GGUF files that say they are of another architecture.
fn check_architecture(tensors: &Tensors, kind: ComponentKind) -> Result<(), CheckpointError> {
    let known: &[&str] = match kind {
        ComponentKind::Transformer => &["wan"],
        ComponentKind::TextEncoder => &["t5", "t5encoder"],
        _ => &[],
    };
    match tensors.metadata().get("general.architecture") {
        Some(found) if !known.contains(&found.as_str()) => Err(CheckpointError::Unsupported {
            found: format!("a GGUF file of architecture {} as {}", quoted(found), kind.name()),
            supported: if known.is_empty() { "safetensors".to_owned() } else { known.join(", ") },
            path: tensors.path().to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The names behind a prefix; of a file of several components, the transformer's alone.
fn unprefixed(tensors: Tensors) -> Result<Tensors, CheckpointError> {
    let is_comfy = tensors.names().any(|name| name.starts_with(COMFY_PREFIX));
    let is_everywhere = |prefix: &&str| tensors.names().all(|name| name.starts_with(prefix));
    let prefix =
        if is_comfy { Some(COMFY_PREFIX) } else { PREFIXES.into_iter().find(is_everywhere) };
    match prefix {
        Some(prefix) => tensors.renamed(|name| name.strip_prefix(prefix).map(str::to_owned)),
        None => Ok(tensors),
    }
}

/// `tensors` under the names of `table`.
///
/// The decoder of a text encoder's file is left out; a transformer must be known as a whole, since
/// what is left out of it would be missing in the video.
fn translated(
    tensors: Tensors,
    table: &NameTable,
    layout: Layout,
) -> Result<Tensors, CheckpointError> {
    let unknown = tensors.names().find(|name| table.translate(name).is_none());
    if let (Some(unknown), Some(ComponentKind::Transformer)) = (unknown, layout.component()) {
        return Err(CheckpointError::Unsupported {
            found: format!("tensor {} in {}", quoted(unknown), layout.description()),
            supported: "text-to-video models".to_owned(),
            path: tensors.path().to_owned(),
        });
    }
    tensors.renamed(|name| table.translate(name))
}
