//! Pseudo-random numbers for the scenes: SplitMix64 and a few distributions.
//!
//! The same seed must produce the same bytes for ever, so this small generator is our own: a dependency's
//! streams may change between versions. SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014) passes BigCrush and has a period of 2^64, far more than the few hundred thousand draws of
//! a frame. Not for cryptography.

use std::f64::consts::TAU;

/// A stream of pseudo-random numbers, determined by seed, frame index and purpose.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

/// The increment of SplitMix64: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function: a bijection that avalanches.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// Creates the stream for one `purpose` of frame `index` in the data set of `seed`. Streams of different
    /// purposes are independent: a change in one (the scanner) does not affect the others (the scene).
    pub(crate) fn new(seed: u64, index: u64, purpose: u64) -> Self {
        let mut state = 0;
        for word in [seed, index, purpose] {
            state = mix(state ^ word).wrapping_add(GOLDEN);
        }
        Self { state }
    }

    /// The next 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`, with 53 random bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer in `low..=high`.
    pub(crate) fn int(&mut self, low: u32, high: u32) -> u32 {
        let span = f64::from(high.saturating_sub(low)) + 1.0;
        low + (self.uniform() * span) as u32
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// −1 or +1 with equal probability.
    pub(crate) fn sign(&mut self) -> f64 {
        if self.chance(0.5) { 1.0 } else { -1.0 }
    }

    /// Normal with mean 0 and standard deviation `sigma` (Box–Muller; the second value is dropped).
    pub(crate) fn normal(&mut self, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        sigma * radius * (TAU * self.uniform()).cos()
    }

    /// Exponential with the given mean.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    /// Index into `weights`, with probability proportional to the weight.
    pub(crate) fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        for (index, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return index;
            }
        }
        weights.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_match_published_splitmix64() {
        // First outputs of the published generator for state 1234567.
        let mut rng = Rng { state: 1_234_567 };
        let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn streams_differ_in_every_word() {
        let mut firsts: Vec<u64> = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
            .iter()
            .map(|&(seed, index, purpose)| Rng::new(seed, index, purpose).next_u64())
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 5);
    }

    #[test]
    fn distributions_have_their_moments() {
        let mut rng = Rng::new(7, 0, 0);
        let n = 100_000;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let uniform: Vec<f64> = (0..n).map(|_| rng.range(2.0, 4.0)).collect();
        assert!((mean(&uniform) - 3.0).abs() < 0.01);
        let normal: Vec<f64> = (0..n).map(|_| rng.normal(2.0)).collect();
        assert!(mean(&normal).abs() < 0.03);
        let square: Vec<f64> = normal.iter().map(|v| v * v).collect();
        assert!((mean(&square) - 4.0).abs() < 0.1);
        let exponential: Vec<f64> = (0..n).map(|_| rng.exponential(5.0)).collect();
        assert!((mean(&exponential) - 5.0).abs() < 0.1);
        let mut counts = [0u32; 3];
        for _ in 0..n {
            counts[rng.weighted(&[1.0, 0.0, 3.0])] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((f64::from(counts[0]) / n as f64 - 0.25).abs() < 0.01);
        assert!((0..1000).all(|_| (3..=5).contains(&rng.int(3, 5))));
    }
}
