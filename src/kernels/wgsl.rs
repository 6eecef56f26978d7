//! From a shader file to the text handed to the GPU: constants first, then imports spliced in.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// A compile-time constant, written before the shader's own text.
#[derive(Clone, Copy, Debug)]
pub enum Const {
    /// `const NAME: u32 = …u;`
    U32(&'static str, u32),
    /// `const NAME: bool = …;`
    Bool(&'static str, bool),
    /// `alias NAME = type;`, preceded by the `enable` that the type needs.
    Alias(&'static str, &'static str),
    /// Which fragment the line `#import NAME` stands for.
    Import(&'static str, &'static str),
}

/// Fragments a shader may `#import` by name.
const SHARED: &[(&str, &str)] = &[
    ("activation", include_str!("../../shaders/shared/activation.wgsl")),
    ("advanced_matrices", include_str!("../../shaders/shared/advanced_matrices.wgsl")),
    ("advanced_vectors", include_str!("../../shaders/shared/advanced_vectors.wgsl")),
    ("affine_none", include_str!("../../shaders/shared/affine_none.wgsl")),
    ("affine_rows", include_str!("../../shaders/shared/affine_rows.wgsl")),
    ("attention_patches", include_str!("../../shaders/shared/attention_patches.wgsl")),
    ("bytes", include_str!("../../shaders/shared/bytes.wgsl")),
    ("code_units", include_str!("../../shaders/shared/code_units.wgsl")),
    ("codes", include_str!("../../shaders/shared/codes.wgsl")),
    ("conv3d_frames", include_str!("../../shaders/shared/conv3d_frames.wgsl")),
    ("conv3d_tiles", include_str!("../../shaders/shared/conv3d_tiles.wgsl")),
    ("conv3d_weights", include_str!("../../shaders/shared/conv3d_weights.wgsl")),
    ("conv3d_weights_shared", include_str!("../../shaders/shared/conv3d_weights_shared.wgsl")),
    ("dot_packed", include_str!("../../shaders/shared/dot_packed.wgsl")),
    ("dot_portable", include_str!("../../shaders/shared/dot_portable.wgsl")),
    ("epilogue_bias", include_str!("../../shaders/shared/epilogue_bias.wgsl")),
    ("epilogue_branch", include_str!("../../shaders/shared/epilogue_branch.wgsl")),
    (
        "epilogue_branch_residual",
        include_str!("../../shaders/shared/epilogue_branch_residual.wgsl"),
    ),
    ("epilogue_gated", include_str!("../../shaders/shared/epilogue_gated.wgsl")),
    ("epilogue_residual", include_str!("../../shaders/shared/epilogue_residual.wgsl")),
    ("float_product_registers", include_str!("../../shaders/shared/float_product_registers.wgsl")),
    ("float_product_tiles", include_str!("../../shaders/shared/float_product_tiles.wgsl")),
    ("float_tokens_broadcast", include_str!("../../shaders/shared/float_tokens_broadcast.wgsl")),
    ("float_tokens_loaded", include_str!("../../shaders/shared/float_tokens_loaded.wgsl")),
    ("hadamard", include_str!("../../shaders/shared/hadamard.wgsl")),
    ("layer_norm", include_str!("../../shaders/shared/layer_norm.wgsl")),
    ("log_sum_exp", include_str!("../../shaders/shared/log_sum_exp.wgsl")),
    ("multiply_add_dot", include_str!("../../shaders/shared/multiply_add_dot.wgsl")),
    ("multiply_add_float", include_str!("../../shaders/shared/multiply_add_float.wgsl")),
    ("packed_product", include_str!("../../shaders/shared/packed_product.wgsl")),
    ("quads_scalar", include_str!("../../shaders/shared/quads_scalar.wgsl")),
    ("quads_vector", include_str!("../../shaders/shared/quads_vector.wgsl")),
    ("quantize_row", include_str!("../../shaders/shared/quantize_row.wgsl")),
    ("reduce", include_str!("../../shaders/shared/reduce.wgsl")),
    ("row_hadamard", include_str!("../../shaders/shared/row_hadamard.wgsl")),
    ("row_whole", include_str!("../../shaders/shared/row_whole.wgsl")),
    ("rows_scalar", include_str!("../../shaders/shared/rows_scalar.wgsl")),
    ("rows_vector", include_str!("../../shaders/shared/rows_vector.wgsl")),
    ("token_extremes", include_str!("../../shaders/shared/token_extremes.wgsl")),
    ("tokens_broadcast", include_str!("../../shaders/shared/tokens_broadcast.wgsl")),
    ("tokens_loaded", include_str!("../../shaders/shared/tokens_loaded.wgsl")),
    ("uniform", include_str!("../../shaders/shared/uniform.wgsl")),
    ("weight_quads_scalar", include_str!("../../shaders/shared/weight_quads_scalar.wgsl")),
    ("weight_quads_vector", include_str!("../../shaders/shared/weight_quads_vector.wgsl")),
    ("weight_units", include_str!("../../shaders/shared/weight_units.wgsl")),
    ("zero_points", include_str!("../../shaders/shared/zero_points.wgsl")),
];

/// SHA-256 of `sources` and of every fragment, in hexadecimal.
pub(crate) fn hash(sources: &[&str]) -> String {
    let mut digest = Sha256::new();
    for text in sources.iter().chain(SHARED.iter().map(|(_, text)| text)) {
        digest.update(text.as_bytes());
        digest.update([0]);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The full text of shader `name`.
///
/// # Panics
///
/// On an unknown import: the shader set is fixed at build time, so that is a bug.
pub(crate) fn assemble(name: &str, source: &str, constants: &[Const]) -> String {
    let mut text = String::new();
    let uses =
        |what| move |constant: &Const| matches!(constant, Const::Alias(_, ty) if ty.contains(what));
    if constants.iter().any(uses("f16")) {
        text.push_str("enable f16;\n");
    }
    if constants.iter().any(uses("coop_mat")) {
        text.push_str("enable wgpu_cooperative_matrix;\n");
    }
    for constant in constants {
        match constant {
            Const::U32(name, value) => writeln!(text, "const {name}: u32 = {value}u;"),
            Const::Bool(name, value) => writeln!(text, "const {name}: bool = {value};"),
            Const::Alias(name, ty) => writeln!(text, "alias {name} = {ty};"),
            Const::Import(..) => Ok(()),
        }
        .expect("writing to a String cannot fail");
    }
    splice(&mut text, &mut Vec::new(), name, source, constants);
    text
}

fn splice<'a>(
    text: &mut String,
    imported: &mut Vec<&'a str>,
    name: &str,
    source: &'a str,
    constants: &[Const],
) {
    for line in source.lines() {
        let Some(wanted) = line.strip_prefix("#import ").map(str::trim) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let import = constants
            .iter()
            .find_map(|constant| match constant {
                Const::Import(from, to) if *from == wanted => Some(*to),
                _ => None,
            })
            .unwrap_or(wanted);
        if imported.contains(&import) {
            continue;
        }
        let (key, fragment) = SHARED
            .iter()
            .find(|(key, _)| *key == import)
            .unwrap_or_else(|| panic!("{name}.wgsl imports unknown fragment {import:?}"));
        imported.push(key);
        splice(text, imported, name, fragment, constants);
    }
}
