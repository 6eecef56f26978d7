//! Names and shapes of all parameters, without loading any.

use super::CogVideoXVaeConfig;
use super::config::Level;

/// A list of parameters in the making.
struct Shapes {
    list: Vec<(String, Vec<usize>)>,
    /// Channels of the latents that norms are modulated by; `None` in the encoder.
    modulated_by: Option<usize>,
}

impl Shapes {
    fn push(&mut self, name: &str, weight: &[usize]) {
        self.list.push((format!("{name}.weight"), weight.to_vec()));
        self.list.push((format!("{name}.bias"), vec![weight[0]]));
    }

    fn conv(&mut self, name: &str, from: usize, to: usize) {
        self.push(&format!("{name}.conv"), &[to, from, 3, 3, 3]);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        let Some(latent_channels) = self.modulated_by else { return self.push(name, &[channels]) };
        self.push(&format!("{name}.norm_layer"), &[channels]);
        for part in ["conv_y", "conv_b"] {
            self.push(&format!("{name}.{part}.conv"), &[channels, latent_channels, 1, 1, 1]);
        }
    }

    fn res_blocks(&mut self, name: &str, level: &Level) {
        let to = level.out_channels;
        for i in 0..level.blocks {
            let (name, from) = (format!("{name}.resnets.{i}"), level.block_in_channels(i));
            self.norm(&format!("{name}.norm1"), from);
            self.conv(&format!("{name}.conv1"), from, to);
            self.norm(&format!("{name}.norm2"), to);
            self.conv(&format!("{name}.conv2"), to, to);
            if from != to {
                self.push(&format!("{name}.conv_shortcut"), &[to, from, 1, 1, 1]);
            }
        }
    }

    fn level(&mut self, name: &str, level: &Level, resampler: &str) {
        self.res_blocks(name, level);
        if level.resampled.is_some() {
            let channels = level.out_channels;
            self.push(&format!("{name}.{resampler}.0.conv"), &[channels, channels, 3, 3]);
        }
    }

    fn head(&mut self, name: &str, from: usize, to: usize) {
        self.norm(&format!("{name}.norm_out"), from);
        self.conv(&format!("{name}.conv_out"), from, to);
    }
}

impl CogVideoXVaeConfig {
    /// The two residual blocks between the levels.
    pub(super) fn mid_level(&self) -> Level {
        let channels = self.mid_channels();
        Level { in_channels: channels, out_channels: channels, blocks: 2, resampled: None }
    }

    /// Name and shape of each parameter of the decoder.
    ///
    /// The configuration should be valid; see [`CogVideoXVaeConfig::validate`].
    pub fn decoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let latent_channels = self.latent_channels;
        let mut shapes = Shapes { list: Vec::new(), modulated_by: Some(latent_channels) };
        shapes.conv("decoder.conv_in", latent_channels, self.mid_channels());
        shapes.res_blocks("decoder.mid_block", &self.mid_level());
        for (i, level) in self.up_levels().iter().enumerate() {
            shapes.level(&format!("decoder.up_blocks.{i}"), level, "upsamplers");
        }
        shapes.head("decoder", self.block_out_channels[0], self.out_channels);
        shapes.list
    }

    /// Name and shape of each parameter of the encoder.
    ///
    /// The configuration should be valid; see [`CogVideoXVaeConfig::validate`].
    pub fn encoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Shapes { list: Vec::new(), modulated_by: None };
        shapes.conv("encoder.conv_in", self.in_channels, self.block_out_channels[0]);
        for (i, level) in self.down_levels().iter().enumerate() {
            shapes.level(&format!("encoder.down_blocks.{i}"), level, "downsamplers");
        }
        shapes.res_blocks("encoder.mid_block", &self.mid_level());
        shapes.head("encoder", self.mid_channels(), 2 * self.latent_channels);
        shapes.list
    }
}
