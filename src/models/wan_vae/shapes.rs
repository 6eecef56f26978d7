//! Names and shapes of all parameters, without loading any.

use super::WanVaeConfig;
use super::config::Resampled;

/// A list of parameters in the making.
struct Shapes(Vec<(String, Vec<usize>)>);

impl Shapes {
    fn push(&mut self, name: &str, weight: &[usize]) {
        self.0.push((format!("{name}.weight"), weight.to_vec()));
        self.0.push((format!("{name}.bias"), vec![weight[0]]));
    }

    fn conv(&mut self, name: &str, from: usize, to: usize, window: [usize; 3]) {
        let [t, h, w] = window;
        self.push(name, &[to, from, t, h, w]);
    }

    fn gamma(&mut self, name: &str, channels: usize, ones: usize) {
        let mut shape = vec![1; ones + 1];
        shape[0] = channels;
        self.0.push((format!("{name}.gamma"), shape));
    }

    fn res_block(&mut self, name: &str, from: usize, to: usize) {
        self.gamma(&format!("{name}.norm1"), from, 3);
        self.conv(&format!("{name}.conv1"), from, to, [3, 3, 3]);
        self.gamma(&format!("{name}.norm2"), to, 3);
        self.conv(&format!("{name}.conv2"), to, to, [3, 3, 3]);
        if from != to {
            self.conv(&format!("{name}.conv_shortcut"), from, to, [1, 1, 1]);
        }
    }

    fn mid_block(&mut self, name: &str, channels: usize) {
        self.res_block(&format!("{name}.resnets.0"), channels, channels);
        let attention = format!("{name}.attentions.0");
        self.gamma(&format!("{attention}.norm"), channels, 2);
        self.push(&format!("{attention}.to_qkv"), &[3 * channels, channels, 1, 1]);
        self.push(&format!("{attention}.proj"), &[channels, channels, 1, 1]);
        self.res_block(&format!("{name}.resnets.1"), channels, channels);
    }

    fn resample(&mut self, name: &str, from: usize, to: usize, time_to: usize, step: Resampled) {
        self.push(&format!("{name}.resample.1"), &[to, from, 3, 3]);
        if step.time {
            self.conv(&format!("{name}.time_conv"), from, time_to, [3, 1, 1]);
        }
    }

    fn head(&mut self, name: &str, from: usize, to: usize) {
        self.gamma(&format!("{name}.norm_out"), from, 3);
        self.conv(&format!("{name}.conv_out"), from, to, [3, 3, 3]);
    }
}

impl WanVaeConfig {
    /// Name and shape of each parameter of the decoder, `post_quant_conv` included.
    ///
    /// The configuration should be valid; see [`WanVaeConfig::validate`].
    pub fn decoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Shapes(Vec::new());
        let (_, channels) = self.mid_channels();
        shapes.conv("post_quant_conv", self.z_dim, self.z_dim, [1, 1, 1]);
        shapes.conv("decoder.conv_in", self.z_dim, channels, [3, 3, 3]);
        shapes.mid_block("decoder.mid_block", channels);
        let mut last = channels;
        for (i, level) in self.up_levels().iter().enumerate() {
            let name = format!("decoder.up_blocks.{i}");
            let channels = level.out_channels;
            for j in 0..level.blocks {
                let from = level.block_in_channels(j);
                shapes.res_block(&format!("{name}.resnets.{j}"), from, channels);
            }
            if let Some(step) = level.resampled {
                let name = format!("{name}.upsamplers.0");
                shapes.resample(&name, channels, channels / 2, 2 * channels, step);
            }
            last = channels;
        }
        shapes.head("decoder", last, self.out_channels);
        shapes.0
    }

    /// Name and shape of each parameter of the encoder, `quant_conv` included.
    ///
    /// The configuration should be valid; see [`WanVaeConfig::validate`].
    pub fn encoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Shapes(Vec::new());
        let (channels, _) = self.mid_channels();
        shapes.conv("encoder.conv_in", self.in_channels, self.base_dim, [3, 3, 3]);
        let mut index = 0;
        for level in self.down_levels() {
            let channels = level.out_channels;
            for j in 0..level.blocks {
                let name = format!("encoder.down_blocks.{index}");
                shapes.res_block(&name, level.block_in_channels(j), channels);
                index += 1;
            }
            if let Some(step) = level.resampled {
                let name = format!("encoder.down_blocks.{index}");
                shapes.resample(&name, channels, channels, channels, step);
                index += 1;
            }
        }
        shapes.mid_block("encoder.mid_block", channels);
        shapes.head("encoder", channels, 2 * self.z_dim);
        shapes.conv("quant_conv", 2 * self.z_dim, 2 * self.z_dim, [1, 1, 1]);
        shapes.0
    }
}
