//! Comparison of two plans that took turns: the ratio of their times, with its spread.
//!
//! The frames of two plans in the same round form a pair. A disturbance longer than a frame slows both, and
//! leaves their ratio unchanged.

use serde::Serialize;

use super::run::Recording;
use super::stats::{Summary, percentile};

/// Time of a plan relative to the first one; 0.5 is half the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// Index of the reference plan.
    pub base: usize,
    /// Index of the compared plan.
    pub plan: usize,
    /// Pairs of frames.
    pub pairs: usize,
    /// Ratio of the medians of all frames.
    pub of_medians: f64,
    /// Median of the pairs' ratios.
    pub median: f64,
    /// 5 % and 95 % percentiles of the pairs' ratios.
    pub spread: [f64; 2],
}

impl Comparison {
    /// Compares every recording but the first with the first.
    pub(crate) fn all(recordings: &[Recording]) -> Vec<Self> {
        let latencies = recordings.iter().map(|recording| {
            let frames = recording.samples.iter();
            frames.map(|sample| sample.latency_ms).collect()
        });
        let latencies: Vec<Vec<f64>> = latencies.collect();
        let Some((base, others)) = latencies.split_first() else {
            return Vec::new();
        };
        let others = others.iter().enumerate();
        others.map(|(i, ms)| Self::new(i + 1, base, ms)).collect()
    }

    /// Increases both indices by `first`, for a report of several comparisons.
    pub(crate) fn after(self, first: usize) -> Self {
        Self {
            base: self.base + first,
            plan: self.plan + first,
            ..self
        }
    }

    /// Compares plan `plan` with latencies `ms` to plan 0 with latencies `base`, frame by frame.
    fn new(plan: usize, base: &[f64], ms: &[f64]) -> Self {
        let mut ratios: Vec<f64> = base.iter().zip(ms).map(|(base, ms)| ms / base).collect();
        ratios.sort_by(f64::total_cmp);
        let [base, other] = [base, ms].map(|ms| Summary::new(ms, &[]).median);
        Self {
            base: 0,
            plan,
            pairs: ratios.len(),
            of_medians: other / base,
            median: super::stats::median(&ratios),
            spread: [5.0, 95.0].map(|percent| percentile(&ratios, percent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_pair_frames_of_the_same_round() {
        // The machine slows down by a factor of two after the second pair.
        let base = [10.0, 10.0, 20.0, 20.0, 20.0];
        let other = [5.0, 6.0, 10.0, 10.0, 12.0];
        let found = Comparison::new(1, &base, &other);
        assert_eq!((found.base, found.plan, found.pairs), (0, 1, 5));
        assert_eq!(found.of_medians, 0.5);
        assert_eq!(found.median, 0.5);
        assert_eq!(found.spread, [0.5, 0.6]);
    }
}
