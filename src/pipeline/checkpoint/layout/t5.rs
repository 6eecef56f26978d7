//! Encoders of T5 and UMT5 in the names of transformers' `T5EncoderModel` and `UMT5EncoderModel`.

use super::NameTable;

/// llama.cpp (`gguf-py/gguf/constants.py`, architectures `t5` and `t5encoder`).
pub(super) const LLAMA_CPP: NameTable = NameTable {
    single: &[("token_embd", "shared"), ("enc.output_norm", "encoder.final_layer_norm")],
    blocks: ("enc.blk.", "encoder.block."),
    in_block: &[
        ("attn_norm", "layer.0.layer_norm"),
        ("attn_q", "layer.0.SelfAttention.q"),
        ("attn_k", "layer.0.SelfAttention.k"),
        ("attn_v", "layer.0.SelfAttention.v"),
        ("attn_o", "layer.0.SelfAttention.o"),
        ("attn_rel_b", "layer.0.SelfAttention.relative_attention_bias"),
        ("ffn_norm", "layer.1.layer_norm"),
        ("ffn_gate", "layer.1.DenseReluDense.wi_0"),
        ("ffn_up", "layer.1.DenseReluDense.wi_1"),
        ("ffn_down", "layer.1.DenseReluDense.wo"),
    ],
};

/// Wan's own repository (`wan/modules/t5.py`).
pub(super) const WAN_ORIGINAL: NameTable = NameTable {
    single: &[("token_embedding", "shared"), ("norm", "encoder.final_layer_norm")],
    blocks: ("blocks.", "encoder.block."),
    in_block: &[
        ("norm1", "layer.0.layer_norm"),
        ("attn.q", "layer.0.SelfAttention.q"),
        ("attn.k", "layer.0.SelfAttention.k"),
        ("attn.v", "layer.0.SelfAttention.v"),
        ("attn.o", "layer.0.SelfAttention.o"),
        ("pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias"),
        ("norm2", "layer.1.layer_norm"),
        ("ffn.gate.0", "layer.1.DenseReluDense.wi_0"),
        ("ffn.fc1", "layer.1.DenseReluDense.wi_1"),
        ("ffn.fc2", "layer.1.DenseReluDense.wo"),
    ],
};
