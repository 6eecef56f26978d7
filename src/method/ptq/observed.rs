//! What is known of a layer's input: a bounded number of its tokens, and statistics of all of them.

use super::vidit_q::DECAY;
use crate::kernels::STATISTICS;
use crate::kernels::channel_statistics::reference;
use serde::Serialize;

/// Ranges into which timesteps 0 to 1000 are divided, of equal width.
pub const TIMESTEP_RANGES: usize = 4;

/// The range of a timestep.
pub fn timestep_range(timestep: f32) -> usize {
    // The cast saturates: what is no timestep falls into the first or last range.
    ((timestep / 1000.0 * TIMESTEP_RANGES as f32) as usize).min(TIMESTEP_RANGES - 1)
}

/// The timesteps at which ranges end, but for the last.
pub fn range_bounds() -> Vec<f32> {
    (1..TIMESTEP_RANGES).map(|i| 1000.0 * i as f32 / TIMESTEP_RANGES as f32).collect()
}

/// Where inputs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The layer was observed while the full-precision model sampled.
    Sampling,
    /// Standard normal numbers: nothing was observed.
    DataFree,
}

/// Where in a run a token was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// The timestep, 0 to 1000.
    pub timestep: f32,
    /// The latent frame of the token.
    pub frame: u32,
}

/// Statistics of the channels of an input, one value each.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStatistics {
    /// Tokens.
    pub tokens: u64,
    /// `[STATISTICS, channels]`; see [`crate::kernels::channel_statistics()`].
    pub values: Vec<f32>,
}

impl ChannelStatistics {
    /// Channels.
    pub fn channels(&self) -> usize {
        self.values.len() / STATISTICS
    }

    fn row(&self, index: usize) -> &[f32] {
        let channels = self.channels();
        &self.values[index * channels..(index + 1) * channels]
    }

    /// Smallest values.
    pub fn min(&self) -> &[f32] {
        self.row(0)
    }

    /// Largest values.
    pub fn max(&self) -> &[f32] {
        self.row(1)
    }

    /// Moving averages of the largest magnitudes.
    pub fn moving_max(&self) -> &[f32] {
        self.row(2)
    }

    /// Largest magnitudes.
    pub fn absmax(&self) -> Vec<f32> {
        self.min().iter().zip(self.max()).map(|(min, max)| max.max(-min)).collect()
    }

    /// Means.
    pub fn mean(&self) -> Vec<f32> {
        self.row(3).iter().map(|sum| sum / self.tokens.max(1) as f32).collect()
    }

    /// Root mean squares.
    pub fn rms(&self) -> Vec<f32> {
        self.row(4).iter().map(|sum| (sum / self.tokens.max(1) as f32).sqrt()).collect()
    }

    /// Those of both; moving averages are weighted by tokens.
    fn joined(&self, other: &Self) -> Self {
        let (a, b) = (self.tokens as f32, other.tokens as f32);
        let channels = self.channels();
        let join = |(i, (x, y)): (usize, (&f32, &f32))| match i / channels {
            0 => x.min(*y),
            1 => x.max(*y),
            2 => (a * x + b * y) / (a + b).max(1.0),
            _ => x + y,
        };
        let pairs = self.values.iter().zip(&other.values);
        Self { tokens: self.tokens + other.tokens, values: pairs.enumerate().map(join).collect() }
    }
}

/// What is known of the input of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Where it comes from.
    pub origin: Origin,
    /// Channels.
    pub in_features: usize,
    /// Some tokens, `[places, in_features]`.
    pub rows: Vec<f32>,
    /// Where they were seen.
    pub places: Vec<Place>,
    /// Statistics of all tokens by range of timesteps; `None` where nothing was seen.
    pub by_range: Vec<Option<ChannelStatistics>>,
    /// Whether every forward pass had one token: then it depends on the timestep alone.
    pub is_temporal: bool,
    /// Whether tokens are those of latent frames.
    pub has_frames: bool,
}

impl Observed {
    /// Standard normal inputs, for lack of observed ones.
    pub fn data_free(in_features: usize, tokens: usize, seed: u64) -> Self {
        Self::of_rows(in_features, standard_normal(in_features * tokens, seed), Origin::DataFree)
    }

    /// Inputs of which `rows` `[tokens, in_features]` are all there are, seen from the first timestep
    /// to the last.
    ///
    /// # Panics
    ///
    /// If `rows` is no whole number of rows.
    pub fn of_rows(in_features: usize, rows: Vec<f32>, origin: Origin) -> Self {
        let tokens = rows.len() / in_features;
        assert_eq!(rows.len(), tokens * in_features, "rows of {in_features}");
        let timestep = |row: usize| 1000.0 * (row as f32 + 0.5) / tokens as f32;
        let none =
            [f32::MAX, f32::MIN, -1.0, 0.0, 0.0].map(|value| vec![value; in_features]).concat();
        let statistics = |range: usize| {
            let those = rows.chunks_exact(in_features).enumerate();
            let those = those.filter(|(row, _)| timestep_range(timestep(*row)) == range);
            let those: Vec<f32> = those.flat_map(|(_, row)| row).copied().collect();
            (!those.is_empty()).then(|| ChannelStatistics {
                tokens: (those.len() / in_features) as u64,
                values: reference(&those, &none, DECAY),
            })
        };
        Self {
            origin,
            in_features,
            by_range: (0..TIMESTEP_RANGES).map(statistics).collect(),
            places: (0..tokens).map(|row| Place { timestep: timestep(row), frame: 0 }).collect(),
            is_temporal: false,
            has_frames: false,
            rows,
        }
    }

    /// Statistics of all ranges together; `None` if nothing was seen.
    pub fn overall(&self) -> Option<ChannelStatistics> {
        let seen = self.by_range.iter().flatten().cloned();
        seen.reduce(|a, b| a.joined(&b))
    }

    /// Numbers of the rows to solve with, and of those to measure with: every fourth is held out.
    /// Where there are few, or timesteps are all there is, both are all.
    pub fn split(&self) -> [Vec<usize>; 2] {
        let all: Vec<usize> = (0..self.places.len()).collect();
        if self.is_temporal || all.len() < 16 {
            return [all.clone(), all];
        }
        let (held_out, solving) = all.into_iter().partition(|row| row % 4 == 3);
        [solving, held_out]
    }

    /// The rows of these numbers, one after the other.
    pub fn rows_of(&self, numbers: &[usize]) -> Vec<f32> {
        let k = self.in_features;
        numbers.iter().flat_map(|&row| &self.rows[row * k..(row + 1) * k]).copied().collect()
    }

    /// One row for each timestep, in descending order of timesteps as a run has them.
    pub fn timestep_features(&self) -> Vec<f32> {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        let timestep = |row: usize| self.places[row].timestep;
        order.sort_by(|&a, &b| timestep(b).total_cmp(&timestep(a)));
        order.dedup_by(|a, b| timestep(*a) == timestep(*b));
        self.rows_of(&order)
    }
}

/// Standard normal numbers: pairs by Box and Muller (Ann. Math. Statist. 29, 1958) of `SplitMix64`.
fn standard_normal(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut one = || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * uniform()).cos()) as f32
    };
    (0..len).map(|_| one()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_fall_into_ranges_of_equal_width() {
        let ranges = [0.0, 249.0, 250.0, 600.0, 999.0, 1000.0, -1.0, f32::NAN].map(timestep_range);
        assert_eq!(ranges, [0, 0, 1, 2, 3, 3, 0, 0]);
        assert_eq!(range_bounds(), [250.0, 500.0, 750.0]);
    }

    #[test]
    fn data_free_inputs_are_standard_normal() {
        let observed = Observed::data_free(40, 500, 1);
        let all = observed.overall().expect("statistics");
        assert!(all.mean().iter().all(|mean| mean.abs() < 0.2), "{:?}", all.mean());
        assert!(all.rms().iter().all(|rms| (rms - 1.0).abs() < 0.15), "{:?}", all.rms());
        let [solving, held_out] = observed.split();
        assert_eq!((solving.len(), held_out.len()), (375, 125));
    }

    #[test]
    fn statistics_of_ranges_join() {
        let of = |tokens, values: [f32; 5]| ChannelStatistics { tokens, values: values.to_vec() };
        let mut observed = Observed::data_free(1, 4, 0);
        observed.by_range = vec![
            Some(of(1, [-1.0, 2.0, 2.0, 1.0, 5.0])),
            None,
            Some(of(3, [-4.0, 0.0, 4.0, -4.0, 16.0])),
        ];
        let all = observed.overall().expect("statistics");
        assert_eq!(all, of(4, [-4.0, 2.0, 3.5, -3.0, 21.0]));
        assert_eq!(all.absmax(), [4.0]);
    }

    #[test]
    fn features_have_one_row_per_timestep_from_noise_to_data() {
        let mut observed = Observed::data_free(1, 4, 0);
        observed.rows = vec![1.0, 2.0, 1.0, 3.0];
        let timesteps = [500.0, 900.0, 500.0, 100.0];
        observed.places = timesteps.map(|timestep| Place { timestep, frame: 0 }).to_vec();
        assert_eq!(observed.timestep_features(), [2.0, 1.0, 3.0]);
    }
}
