//! Statistics of times as `trtexec` defines them (`samples/common/sampleReporting.cpp` in NVIDIA/TensorRT).
//!
//! The percentile P of n sorted times is the largest one after removing the ⌊(100 − P) / 100 · n⌋ largest: a
//! measured time, never a mean of two. 0 % is the shortest, 100 % the longest. `trtexec` computes the number to
//! remove in 32-bit floats, which is one too low for some pairs of P and n (99 % of 100 times); here it is
//! exact. The median is the middle time, or the mean of the two middle ones. The coefficient of variation is
//! the standard deviation (of all n, not n − 1) over the mean.

use serde::Serialize;

pub(crate) use crate::eval::report::median;

/// `trtexec` calls a measurement with a larger coefficient of variation (in percent) unstable.
pub(crate) const UNSTABLE: f64 = 2.5;

/// The default percentiles: those of `trtexec`, and one more.
pub(crate) const PERCENTILES: [f64; 4] = [90.0, 95.0, 99.0, 99.9];

/// Statistics of a series of times, in their unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Minimum.
    pub min: f64,
    /// Maximum.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub median: f64,
    /// Percentiles, in the requested order.
    pub percentiles: Vec<Percentile>,
    /// Standard deviation over mean, in percent.
    pub variation: f64,
}

/// One percentile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentile {
    /// 0 to 100.
    pub percent: f64,
    /// The time.
    pub value: f64,
}

impl Summary {
    /// Summarises `values`, in any order; all 0 if empty.
    pub(crate) fn new(values: &[f64], percentiles: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let squares: f64 = sorted.iter().map(|v| (v - mean).powi(2)).sum();
        Self {
            min,
            max,
            mean,
            median: median(&sorted),
            percentiles: percentiles
                .iter()
                .map(|&percent| Percentile {
                    percent,
                    value: percentile(&sorted, percent),
                })
                .collect(),
            variation: if mean > 0.0 {
                (squares / count).sqrt() / mean * 100.0
            } else {
                0.0
            },
        }
    }

    /// Whether the variation exceeds [`UNSTABLE`].
    pub(crate) fn is_unstable(&self) -> bool {
        self.variation > UNSTABLE
    }
}

/// The percentile `percent` (0 to 100) of ascending values; 0 if empty.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    // 99.9 is not exact in binary: 0.1 % of 1000 would be 0.99999.
    const ROUNDING: f64 = 1e-9;
    let exclude = ((100.0 - percent) * sorted.len() as f64 / 100.0 + ROUNDING) as usize;
    let at = sorted.len().saturating_sub(1 + exclude);
    sorted.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1, 2, …, n.
    fn ramp(n: usize) -> Vec<f64> {
        (1..=n).map(|v| v as f64).collect()
    }

    #[test]
    fn percentiles_are_measured_times() {
        // By hand: remove the floor((100 - P) / 100 * n) largest.
        for (n, percent, expected) in [
            (100, 90.0, 90.0),
            (100, 95.0, 95.0),
            (100, 99.0, 99.0),
            (100, 99.9, 100.0),
            (1000, 99.9, 999.0),
            (999, 99.9, 999.0),
            (10, 90.0, 9.0),
            (10, 95.0, 10.0),
            (10, 99.0, 10.0),
            (7, 50.0, 4.0),
            (8, 50.0, 4.0),
            (8, 100.0, 8.0),
            (8, 0.0, 1.0),
            (1, 0.0, 1.0),
            (1, 99.0, 1.0),
            (3, 66.7, 3.0),
            (3, 66.6, 2.0),
        ] {
            assert_eq!(
                percentile(&ramp(n), percent),
                expected,
                "{percent} % of {n}"
            );
        }
        assert_eq!(percentile(&[], 50.0), 0.0);
    }

    #[test]
    fn a_summary_of_known_numbers() {
        // Mean 5, variance (9 + 1 + 1 + 1 + 0 + 0 + 4 + 16) / 8 = 4.
        let values = [9.0, 2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0];
        let found = Summary::new(&values, &[90.0, 50.0]);
        assert_eq!((found.min, found.max), (2.0, 9.0));
        assert_eq!((found.mean, found.median), (5.0, 4.5));
        assert!((found.variation - 40.0).abs() < 1e-12, "{found:?}");
        assert!(found.is_unstable());
        let percentiles: Vec<f64> = found.percentiles.iter().map(|p| p.value).collect();
        assert_eq!(percentiles, [9.0, 4.0]);
        assert_eq!(Summary::new(&[], &PERCENTILES), Summary::default());
        assert!(!Summary::new(&[1.0, 1.05], &[]).is_unstable());
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[1.0, 4.0, 9.0]), 4.0);
        assert_eq!(median(&[1.0, 4.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    #[ignore = "needs CENTERPOINT_PYTHON"]
    fn percentiles_equal_those_of_numpy() {
        let python = std::env::var_os("CENTERPOINT_PYTHON").unwrap();
        // The other tests cover cases such as 90 % of 100: NumPy's floats are off by one for some (99.9 % of 1000).
        let percentiles = [0.0, 12.5, 50.0, 75.0, 96.875, 100.0, 90.0, 95.0, 99.0, 99.9];
        // Whole numbers, which text preserves, with ties.
        let mut state = 12_345u32;
        for count in [1, 2, 3, 7, 8, 64, 97, 101, 997, 1024, 4999] {
            let values: Vec<f64> = (0..count)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    f64::from(state >> 16)
                })
                .collect();
            let script = format!(
                "import numpy as n; v = n.array({values:?}); \
                 print(v.min(), v.max(), v.mean(), n.median(v), v.std() / v.mean() * 100, \
                 *n.percentile(v, {percentiles:?}, method='inverted_cdf'))"
            );
            let run = std::process::Command::new(&python)
                .args(["-c", &script])
                .output()
                .unwrap();
            let text = String::from_utf8(run.stdout).unwrap();
            let expected: Vec<f64> = text
                .split_whitespace()
                .map(|v| v.parse().unwrap())
                .collect();
            let found = Summary::new(&values, &percentiles);
            let mut all = vec![
                found.min,
                found.max,
                found.mean,
                found.median,
                found.variation,
            ];
            all.extend(found.percentiles.iter().map(|p| p.value));
            assert_eq!(
                all.len(),
                expected.len(),
                "{}",
                String::from_utf8_lossy(&run.stderr)
            );
            for (found, expected) in all.iter().zip(&expected) {
                let error = (found - expected).abs();
                assert!(
                    error <= 1e-9 * expected.max(1.0),
                    "{count}: {all:?}, {expected:?}"
                );
            }
        }
    }
}
