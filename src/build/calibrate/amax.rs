//! Calibration methods: from a histogram to its amax (the absolute value of code 127), and from an amax to
//! a scale.
//!
//! | method | amax |
//! |---|---|
//! | `max` | greatest absolute value |
//! | `mse` | centre of the bin with the least mean squared error, summed over bin centres |
//! | `entropy` | bin edge with the least Kullback–Leibler divergence between the counts and 128 levels |
//! | `percentile` | lower edge of the bin that reaches this share of all values |
//!
//! The methods are those of pytorch-quantization, in f64. Candidates start at bin 128, because 8 bits have
//! more levels than there are bins below it. Every method returns 0 for a tensor of zeros.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, RangeError};

/// First candidate bin.
const FIRST: usize = 128;
/// Levels of a code's absolute value.
const LEVELS: usize = 128;
/// Largest code.
pub(crate) const MAX_CODE: f32 = 127.0;
/// Greatest amax with scale 1: up to here, activations count as zero (pytorch-quantization's epsilon,
/// 2⁻²⁴).
pub const ZERO_AMAX: f32 = 1.0 / (1 << 24) as f32;

/// How to pick the amax of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AmaxMethod {
    /// Greatest absolute value.
    Max,
    /// Least mean squared error.
    Mse,
    /// Least Kullback–Leibler divergence.
    Entropy,
    /// Covers this share of the values, in percent, 0 to 100.
    Percentile(f64),
}

impl fmt::Display for AmaxMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AmaxMethod::Max => f.write_str("max"),
            AmaxMethod::Mse => f.write_str("mse"),
            AmaxMethod::Entropy => f.write_str("entropy"),
            AmaxMethod::Percentile(percent) => write!(f, "percentile {percent}"),
        }
    }
}

/// The range picked by a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Amax {
    /// Absolute value of code 127.
    pub amax: f32,
    /// The bin whose centre (`mse`) or lower edge was picked; the number of bins stands for the upper edge
    /// of the last one. `None` if the range does not come from a bin.
    pub bin: Option<usize>,
}

impl Histogram {
    /// Picks the range by `method`.
    ///
    /// # Errors
    /// [`RangeError::Empty`] without values, [`RangeError::Percentile`] outside 0 to 100.
    pub fn amax(&self, method: AmaxMethod) -> Result<Amax, RangeError> {
        if let AmaxMethod::Percentile(percent) = method
            && !(0.0..=100.0).contains(&percent)
        {
            return Err(RangeError::Percentile(percent));
        }
        if self.total() == 0 {
            return Err(RangeError::Empty);
        }
        if method == AmaxMethod::Max || self.max() == 0.0 {
            return Ok(Amax {
                amax: self.max(),
                bin: None,
            });
        }
        let (bin, amax) = match method {
            AmaxMethod::Mse => {
                let bin = mse(self);
                (bin, self.center(bin))
            }
            AmaxMethod::Entropy => {
                let bin = entropy(self);
                (bin, self.edge(bin))
            }
            AmaxMethod::Percentile(percent) => {
                let bin = percentile(self, percent);
                (bin, self.edge(bin))
            }
            AmaxMethod::Max => (self.bins().len(), f64::from(self.max())),
        };
        Ok(Amax {
            amax: amax as f32,
            bin: Some(bin),
        })
    }

    /// Share of the values beyond `amax`, 0 to 1. Counts whole bins, so it is too low by at most one bin. 0
    /// without values.
    pub fn share_beyond(&self, amax: f32) -> f64 {
        let bins = self.bins().iter().enumerate();
        // Methods return the edge rounded to f32.
        let beyond = bins.filter(|(bin, _)| self.edge(*bin) as f32 >= amax && amax < self.max());
        beyond.map(|(_, n)| *n).sum::<u64>() as f64 / self.total().max(1) as f64
    }
}

/// The bin whose centre, used as amax, minimises the sum of count · (fq(c) − c)² over all centres c; the
/// first of equals.
fn mse(histogram: &Histogram) -> usize {
    let bins = histogram.bins();
    let filled = bins.iter().enumerate().filter(|(_, n)| **n > 0);
    let (centers, counts): (Vec<f64>, Vec<f64>) = filled
        .map(|(bin, &n)| (histogram.center(bin), n as f64))
        .unzip();
    let mut best = (f64::INFINITY, FIRST);
    for bin in FIRST..bins.len() {
        let step = histogram.center(bin) / f64::from(MAX_CODE);
        let errors = centers.iter().zip(&counts).map(|(&center, &count)| {
            let error = fake_quantize(center, step) - center;
            count * (error * error)
        });
        let sum = errors.sum::<f64>();
        if sum < best.0 {
            best = (sum, bin);
        }
    }
    best.1
}

/// `min(rint(x / step), 127) · step` for x ≥ 0, rounding half to even.
fn fake_quantize(x: f64, step: f64) -> f64 {
    /// Adding and subtracting this rounds to an integer, half to even. `f64::round_ties_even` compiles to a
    /// function call on baseline x86-64.
    const ROUND: f64 = 1.5 * (1_u64 << 52) as f64;
    let code = (x / step).min(f64::from(MAX_CODE));
    ((code + ROUND) - ROUND) * step
}

/// The number of bins to keep so that 128 levels diverge least from the counts; the last of equals.
///
/// The distribution p consists of the counts of the first n bins, with all later counts added to the last
/// of them. In q, each filled bin has the mean of its level, one of 128. The divergence is Σ p·ln(p/q),
/// computed here as a sum over levels, each the difference of two running sums.
fn entropy(histogram: &Histogram) -> usize {
    /// Divergences closer than this count as equal, because the running sums have rounding errors.
    const ROUNDING: f64 = 1e-12;
    let mut counts = histogram.bins().to_vec();
    // As in the reference, the second bin's count replaces that of the first, which holds the zeros.
    if let [zero, first, ..] = &mut counts[..] {
        *zero = *first;
    }
    let filled = counts.iter().filter(|&&n| n > 0).count();
    if filled <= 1 {
        // As in the reference: the lower edge of the only filled bin. If none, all values are in the first.
        return counts.iter().position(|&n| n > 0).unwrap_or(1);
    }
    let total: u64 = counts.iter().sum();
    let plogp = |n: u64| n as f64 * (n.max(1) as f64).ln();
    // Running sums over the bins before each one: counts, filled bins, n·ln n.
    let mut before = vec![(0_u64, 0_u64, 0.0_f64)];
    let mut sums = (0, 0, 0.0);
    for &n in &counts {
        sums = (sums.0 + n, sums.1 + u64::from(n > 0), sums.2 + plogp(n));
        before.push(sums);
    }

    let mut best = (f64::INFINITY, counts.len());
    for bins in FIRST..=counts.len() {
        let (kept, _, _) = before[bins];
        let last = counts[bins - 1];
        let clipped = total - kept;
        // Nothing to compare, or p has values where q has none.
        if kept == 0 || (last == 0 && clipped > 0) {
            continue;
        }
        let mut sum = before[bins - 1].2 + plogp(last + clipped);
        for level in 0..LEVELS {
            // The bins for which bin · 128 / bins is this level.
            let from = (level * bins).div_ceil(LEVELS);
            let to = ((level + 1) * bins).div_ceil(LEVELS);
            let (n, filled) = (before[to].0 - before[from].0, before[to].1 - before[from].1);
            if n > 0 {
                let extra = if to == bins { clipped } else { 0 };
                sum -= (n + extra) as f64 * (n as f64 / filled as f64).ln();
            }
        }
        let divergence = sum / total as f64 + (kept as f64).ln() - (total as f64).ln();
        if divergence <= best.0 + ROUNDING {
            best = (divergence.min(best.0), bins);
        }
    }
    best.1
}

/// The first bin at which the cumulative share reaches `percent`; the number of bins if rounding keeps the
/// sum below.
fn percentile(histogram: &Histogram, percent: f64) -> usize {
    let total = histogram.total() as f64;
    let mut share = 0.0;
    let reached = histogram.bins().iter().position(|&n| {
        // A sum of quotients, as in NumPy: another order of operations sometimes picks another bin.
        share += n as f64 / total;
        share >= percent / 100.0
    });
    reached.unwrap_or(histogram.bins().len())
}

/// The scale of an amax: the value of a code is `code · scale`. For an amax of 2⁻²⁴ or less the scale is 1,
/// which makes all codes 0. Applies to activations and to channels of weights.
pub fn scale(amax: f32) -> f32 {
    scale_of(amax, MAX_CODE)
}

/// As [`scale`], for codes up to `most`.
pub(crate) fn scale_of(amax: f32, most: f32) -> f32 {
    if amax > ZERO_AMAX { amax / most } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::quantize;

    fn histogram(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::new(2048).unwrap();
        histogram.add(values).unwrap();
        histogram
    }

    /// The reference's loop, step by step.
    fn naive_entropy(histogram: &Histogram) -> usize {
        let mut counts: Vec<f64> = histogram.bins().iter().map(|&n| n as f64).collect();
        counts[0] = counts[1];
        let mut best = (f64::INFINITY, 0);
        for bins in 128..=counts.len() {
            let mut levels = vec![(0.0, 0.0); 128];
            for bin in 0..bins {
                if counts[bin] > 0.0 {
                    let level = &mut levels[bin * 128 / bins];
                    *level = (level.0 + counts[bin], level.1 + 1.0);
                }
            }
            let mut p = counts[..bins].to_vec();
            p[bins - 1] += counts[bins..].iter().sum::<f64>();
            let q = |bin: usize| match levels[bin * 128 / bins] {
                (n, filled) if counts[bin] > 0.0 => n / filled,
                _ => 0.0,
            };
            let (p_sum, q_sum): (f64, f64) = (p.iter().sum(), (0..bins).map(q).sum());
            let terms = (0..bins).filter(|&bin| p[bin] > 0.0);
            let divergence: f64 = terms
                .map(|bin| p[bin] / p_sum * (p[bin] / p_sum / (q(bin) / q_sum)).ln())
                .sum();
            if divergence <= best.0 {
                best = (divergence, bins);
            }
        }
        best.1
    }

    #[test]
    fn entropy_matches_the_plain_loop() {
        for power in [1, 2, 3, 5] {
            let values: Vec<f32> = (0..3000_u32)
                .map(|i| ((i * 7919 % 3001) as f32 / 3001.0).powi(power) * 3.0)
                .collect();
            let histogram = histogram(&values);
            let amax = histogram.amax(AmaxMethod::Entropy).unwrap();
            assert_eq!(amax.bin, Some(naive_entropy(&histogram)), "power {power}");
        }
    }

    /// By this measure, clipping the larger of two values to the smaller loses nothing.
    #[test]
    fn the_last_of_equal_divergences_wins() {
        for (small, large) in [(1.0, 2.0), (0.7, 3.0), (5.0, 5.5)] {
            let values: Vec<f32> = (0..1000)
                .map(|i| if i % 3 == 0 { small } else { large })
                .collect();
            let amax = histogram(&values).amax(AmaxMethod::Entropy).unwrap();
            assert_eq!((amax.amax, amax.bin), (large, Some(2048)));
        }
    }

    #[test]
    fn entropy_does_not_clip_everything_away() {
        // No value is below half of the range: the reference would pick the edge below all of them.
        let values: Vec<f32> = (0..1000).map(|i| 0.5 + i as f32 / 2000.0).collect();
        let amax = histogram(&values).amax(AmaxMethod::Entropy).unwrap().amax;
        assert!(amax > 0.75, "{amax}");
    }

    #[test]
    fn the_amax_of_zeros_is_0_and_an_empty_histogram_has_none() {
        let zeros = histogram(&[0.0, -0.0]);
        let empty = histogram(&[]);
        for method in [
            AmaxMethod::Max,
            AmaxMethod::Mse,
            AmaxMethod::Entropy,
            AmaxMethod::Percentile(99.0),
        ] {
            let amax = zeros.amax(method).unwrap();
            assert_eq!((amax.amax, amax.bin), (0.0, None), "{method}");
            assert_eq!(scale(amax.amax), 1.0);
            assert_eq!(empty.amax(method), Err(RangeError::Empty), "{method}");
        }
    }

    #[test]
    fn the_share_beyond_an_amax_counts_the_bins_above_it() {
        // Bin i contains the values i and i + 0.5: 4096 values in 2048 bins of width 1.
        let values: Vec<f32> = (0..4096)
            .map(|i| i as f32 / 2.0 * 2048.0 / 2047.5)
            .collect();
        let histogram = histogram(&values);
        assert_eq!(histogram.share_beyond(histogram.max()), 0.0);
        assert_eq!(histogram.share_beyond(1e9), 0.0);
        assert_eq!(histogram.share_beyond(0.0), 1.0);
        let half = histogram.amax(AmaxMethod::Percentile(50.0)).unwrap().amax;
        assert!((histogram.share_beyond(half) - 0.5).abs() < 1e-3);
        assert_eq!(Histogram::new(2048).unwrap().share_beyond(1.0), 0.0);
    }

    #[test]
    fn percentiles_must_be_between_0_and_100() {
        for percent in [-1.0, 100.5, f64::NAN] {
            let error = histogram(&[1.0]).amax(AmaxMethod::Percentile(percent));
            assert!(matches!(error, Err(RangeError::Percentile(_))), "{error:?}");
        }
        let half = histogram(&[1.0, 2.0, 3.0, 4.0]).amax(AmaxMethod::Percentile(50.0));
        assert_eq!(half.unwrap().bin, Some(1024));
    }

    #[test]
    fn codes_round_half_to_even_and_saturate() {
        let codes = [0.5, 1.5, -2.5, 126.5, 127.5, 1e30, -1e30, f32::NAN];
        let codes = codes.map(|x| quantize(x, 1.0));
        assert_eq!(codes, [0, 2, -2, 126, 127, 127, -128, 0]);
        assert_eq!(scale(254.0), 2.0);
        assert_eq!(scale(ZERO_AMAX), 1.0);
        assert!(scale(ZERO_AMAX * 1.001) < 1e-8);
    }
}
