//! Shader parameters and their Rust mirror, kept equal by a test instead of a comment.

/// The Rust side of a shader's `struct Params`; `tests/shaders.rs` compares the two.
pub trait ParamsMirror: bytemuck::Pod + std::fmt::Debug {
    /// Name and byte offset of each field, in order.
    const FIELDS: &'static [(&'static str, usize)];
}

/// Defines `Params`, a `#[repr(C)]` struct of 4-byte scalars, with its [`ParamsMirror`].
macro_rules! params {
    (pub struct Params { $($(#[$doc:meta])* pub $field:ident: $ty:ty,)+ }) => {
        /// `struct Params` of the shader.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params {
            $($(#[$doc])* pub $field: $ty,)+
        }

        impl $crate::kernels::ParamsMirror for Params {
            const FIELDS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!(Params, $field)),)+];
        }
    };
}
pub(crate) use params;
