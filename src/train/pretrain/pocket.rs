//! Sizes of the pocket model: a Wan model small enough to be trained on a laptop.

use crate::models::t5::T5Config;
use crate::models::wan::WanConfig;
use crate::models::wan_vae::WanVaeConfig;
use crate::world::FRAMES;
use serde_json::{Value, json};

/// Frames, height and width of its clips.
pub(super) const SIZE: [usize; 3] = [FRAMES, 32, 32];

/// Tokens of a caption; the longest has eleven and an end.
pub(super) const TEXT_TOKENS: usize = 16;

/// Channels of a latent.
const Z_DIM: usize = 8;

/// The autoencoder: four pixels to a latent where Wan's has eight, and four frames as there. At
/// eight, this few channels lose the shape of small objects.
pub(super) fn vae_config() -> WanVaeConfig {
    WanVaeConfig {
        base_dim: 8,
        z_dim: Z_DIM,
        dim_mult: vec![1, 2, 2],
        temperal_downsample: vec![true, true],
        num_res_blocks: 1,
        latents_mean: vec![0.0; Z_DIM],
        latents_std: vec![1.0; Z_DIM],
        ..WanVaeConfig::wan2_1()
    }
}

/// The autoencoder's `config.json`.
pub(super) fn vae_config_json(config: &WanVaeConfig) -> Value {
    json!({
        "_class_name": "AutoencoderKLWan", "attn_scales": [], "base_dim": config.base_dim,
        "decoder_base_dim": null, "dim_mult": config.dim_mult, "dropout": 0.0,
        "in_channels": 3, "out_channels": 3, "is_residual": false, "patch_size": null,
        "latents_mean": config.latents_mean, "latents_std": config.latents_std,
        "num_res_blocks": config.num_res_blocks, "scale_factor_spatial": config.spatial_factor(),
        "scale_factor_temporal": config.temporal_factor(),
        "temperal_downsample": config.temperal_downsample,
        "z_dim": config.z_dim,
    })
}

/// The denoiser, for a text encoder of those sizes.
pub(super) fn transformer_config(text: &T5Config) -> WanConfig {
    WanConfig {
        num_attention_heads: 4,
        attention_head_dim: 24,
        in_channels: Z_DIM,
        out_channels: Z_DIM,
        text_dim: text.d_model,
        freq_dim: 64,
        ffn_dim: 384,
        num_layers: 4,
        cross_attn_norm: true,
        eps: 1e-6,
        rope_max_seq_len: 1024,
    }
}

/// The denoiser's `config.json`.
pub(super) fn transformer_config_json(config: &WanConfig) -> Value {
    json!({
        "_class_name": "WanTransformer3DModel", "added_kv_proj_dim": null,
        "attention_head_dim": config.attention_head_dim, "cross_attn_norm": true,
        "eps": config.eps, "ffn_dim": config.ffn_dim, "freq_dim": config.freq_dim,
        "image_dim": null, "in_channels": config.in_channels,
        "num_attention_heads": config.num_attention_heads, "num_layers": config.num_layers,
        "out_channels": config.out_channels, "patch_size": [1, 2, 2],
        "pos_embed_seq_len": null, "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": config.rope_max_seq_len, "text_dim": config.text_dim,
    })
}

/// The scheduler's `scheduler_config.json`: Wan's, with noise levels spread evenly.
pub(super) fn scheduler_config_json() -> Value {
    json!({
        "_class_name": "UniPCMultistepScheduler", "beta_end": 0.02, "beta_schedule": "linear",
        "beta_start": 0.0001, "disable_corrector": [], "dynamic_thresholding_ratio": 0.995,
        "final_sigmas_type": "zero", "flow_shift": 1.0, "lower_order_final": true,
        "num_train_timesteps": 1000, "predict_x0": true, "prediction_type": "flow_prediction",
        "rescale_betas_zero_snr": false, "sample_max_value": 1.0, "solver_order": 2,
        "solver_p": null, "solver_type": "bh2", "steps_offset": 0, "thresholding": false,
        "timestep_spacing": "linspace", "trained_betas": null, "use_beta_sigmas": false,
        "use_exponential_sigmas": false, "use_flow_sigmas": true, "use_karras_sigmas": false,
    })
}

/// The folder's `model_index.json`.
pub(super) fn model_index_json() -> Value {
    json!({
        "_class_name": "WanPipeline",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    })
}
