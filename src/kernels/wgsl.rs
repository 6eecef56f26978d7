//! From a shader file to the text handed to the GPU: constants first, then imports spliced in.

use std::fmt::Write as _;

/// A compile-time constant, written before the shader's own text.
#[derive(Clone, Copy, Debug)]
pub enum Const {
    /// `const NAME: u32 = …u;`
    U32(&'static str, u32),
    /// `const NAME: bool = …;`
    Bool(&'static str, bool),
    /// `alias NAME = type;`; an alias of `f16` also emits `enable f16;`.
    Alias(&'static str, &'static str),
    /// Which fragment the line `#import NAME` stands for.
    Import(&'static str, &'static str),
}

/// Fragments a shader may `#import` by name.
const SHARED: &[(&str, &str)] = &[
    ("bytes", include_str!("../../shaders/shared/bytes.wgsl")),
    ("codes", include_str!("../../shaders/shared/codes.wgsl")),
    ("conv3d_frames", include_str!("../../shaders/shared/conv3d_frames.wgsl")),
    ("dot_packed", include_str!("../../shaders/shared/dot_packed.wgsl")),
    ("dot_portable", include_str!("../../shaders/shared/dot_portable.wgsl")),
    ("reduce", include_str!("../../shaders/shared/reduce.wgsl")),
    ("token_extremes", include_str!("../../shaders/shared/token_extremes.wgsl")),
    ("uniform", include_str!("../../shaders/shared/uniform.wgsl")),
];

/// The full text of shader `name`.
///
/// # Panics
///
/// On an unknown import: the shader set is fixed at build time, so that is a bug.
pub(crate) fn assemble(name: &str, source: &str, constants: &[Const]) -> String {
    let mut text = String::new();
    if constants.iter().any(|constant| matches!(constant, Const::Alias(_, "f16"))) {
        text.push_str("enable f16;\n");
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
