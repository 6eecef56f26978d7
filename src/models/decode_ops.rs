//! The arithmetic of an autoencoder, by kind of layer.

/// Multiplications and additions of decoding some latent frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOps {
    /// 3×3×3 convolutions.
    pub causal: u64,
    /// 3×3 convolutions of upsampled frames.
    pub upsampling: u64,
    /// Convolutions that double the frames.
    pub in_time: u64,
    /// Convolutions of single pixels.
    pub pointwise: u64,
    /// Attention among the pixels of a frame.
    pub attention: u64,
}

impl DecodeOps {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.causal + self.upsampling + self.in_time + self.pointwise + self.attention
    }
}
