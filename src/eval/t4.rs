//! The average precision of TIER IV's T4 metric (AWML's `T4MetricV2`, which is `Ap` and `Map` of
//! autoware_perception_evaluation with `NuscenesObjectMatcher`).
//!
//! Differences from nuScenes:
//!
//! - Predictions are matched within each frame, best first; of equal scores the first one leads.
//! - Precision is made monotonic: at each recall, the best precision at or beyond it.
//! - A class without labels and predictions has no score (NaN) and is excluded from the mean; a class with only
//!   predictions scores 0.
//!
//! Over all frames, predictions are ranked by `np.argsort(scores)[::-1]`, whose order of equal scores depends on the
//! machine. This implementation always uses the order of machines with AVX-512.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::EvalError;
use super::curve::{average_precision, nan_mean, over_recall};
use super::matching::{Sample, check, class_samples, precision_recall, take_nearest, unscored};
use crate::results::nuscenes::Results;

/// Recall levels up to this one do not count.
const MIN_RECALL: f64 = 0.1;

/// Precision up to this value does not count.
const MIN_PRECISION: f64 = 0.1;

/// The metric's settings; the default is AWML's five classes with unlimited range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The classes to score.
    pub classes: Vec<String>,
    /// Matching thresholds: a prediction matches a label nearer than this, metres.
    pub dist_ths: Vec<f64>,
    /// Boxes at least this far from the ego vehicle are not scored, metres.
    pub range: Option<f64>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            classes: ["car", "truck", "bus", "bicycle", "pedestrian"]
                .map(str::to_owned)
                .into(),
            dist_ths: vec![0.5, 1.0, 2.0, 4.0],
            range: None,
        }
    }
}

/// The scores of one class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMetrics {
    /// The class.
    pub name: String,
    /// Number of scored labels.
    pub labels: usize,
    /// Number of scored predictions.
    pub predictions: usize,
    /// Average precision at each distance, 0 to 1; NaN if there is nothing to score.
    pub aps: Vec<f64>,
}

impl ClassMetrics {
    /// Mean of the average precision over the distances; NaN if there is nothing to score.
    pub fn mean_ap(&self) -> f64 {
        nan_mean(self.aps.iter().copied())
    }
}

/// The scores of a set of predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// The matching distances in metres, the columns of [`ClassMetrics::aps`].
    pub dist_ths: Vec<f64>,
    /// The classes in the order of [`Config::classes`].
    pub classes: Vec<ClassMetrics>,
    /// Mean average precision over the classes with a score; NaN if there are none.
    pub map: f64,
    /// Number of boxes of each class that is not in the settings.
    pub unscored: BTreeMap<String, usize>,
}

impl Metrics {
    /// `{"ap": {class: [at each distance]}, "map": …}`, NaN as `null`.
    pub fn to_json(&self) -> Map<String, Value> {
        let classes = self.classes.iter();
        let ap: Map<_, _> = classes.map(|c| (c.name.clone(), json!(c.aps))).collect();
        Map::from_iter([
            ("ap".to_owned(), ap.into()),
            ("map".to_owned(), self.map.into()),
        ])
    }
}

/// Scores `predictions` against `labels`.
///
/// # Errors
/// `EvalError` if the sides have different samples or a box is invalid.
pub fn evaluate(
    labels: &Results,
    predictions: &Results,
    config: &Config,
) -> Result<Metrics, EvalError> {
    check(labels, predictions)?;
    let range = config.range.unwrap_or(f64::INFINITY);
    let score = |name: &String| {
        let samples = class_samples(labels, predictions, name, range);
        ClassMetrics {
            name: name.clone(),
            labels: samples.iter().map(|s| s.labels.len()).sum(),
            predictions: samples.iter().map(|s| s.predictions.len()).sum(),
            aps: config
                .dist_ths
                .iter()
                .map(|threshold| score_class(&samples, *threshold))
                .collect(),
        }
    };
    let classes: Vec<_> = config.classes.iter().map(score).collect();
    Ok(Metrics {
        dist_ths: config.dist_ths.clone(),
        map: nan_mean(classes.iter().map(ClassMetrics::mean_ap)),
        unscored: unscored(
            labels,
            predictions,
            config.classes.iter().map(String::as_str),
        ),
        classes,
    })
}

/// Average precision of the class of `samples`.
fn score_class(samples: &[Sample], threshold: f64) -> f64 {
    let positives: usize = samples.iter().map(|s| s.labels.len()).sum();
    let found: Vec<_> = samples
        .iter()
        .flat_map(|s| match_frame(s, threshold))
        .collect();
    if positives == 0 && found.is_empty() {
        return f64::NAN;
    }
    let scores: Vec<_> = found.iter().map(|(score, _)| *score).collect();
    let hits: Vec<_> = rank(&scores).into_iter().map(|i| found[i].1).collect();
    let (mut precision, recall) = precision_recall(&hits, positives);
    let mut best = 0.0f64;
    for value in precision.iter_mut().rev() {
        best = best.max(*value);
        *value = best;
    }
    average_precision(&over_recall(&recall, &precision), MIN_RECALL, MIN_PRECISION)
}

/// The score of each prediction of a frame, and whether it matches a label nearer than `threshold` metres. Matches come
/// before misses; each group is ordered best first.
fn match_frame(sample: &Sample, threshold: f64) -> Vec<(f64, bool)> {
    let mut ranking = sample.predictions.clone();
    ranking.sort_by(|a, b| b.detection_score.total_cmp(&a.detection_score));
    let mut taken = vec![false; sample.labels.len()];
    let mut found: Vec<_> = ranking
        .iter()
        .map(|p| {
            let label = take_nearest(p, &sample.labels, &mut taken, threshold);
            (p.detection_score, label.is_some())
        })
        .collect();
    found.sort_by_key(|(_, hit)| !hit);
    found
}

/// Indices of `scores`, from highest to lowest.
///
/// Equal scores have the same order as in `np.argsort` on a machine with AVX-512, where the reference results were
/// computed: that of a bitonic sorting network that never swaps equal keys. NumPy uses one for up to 256 keys; this
/// function uses one for any number.
fn rank(scores: &[f64]) -> Vec<usize> {
    let width = scores.len().next_power_of_two().max(8);
    let mut keys: Vec<_> = scores.iter().copied().enumerate().collect();
    keys.resize(width, (usize::MAX, f64::INFINITY));
    let mut compare = |low: usize, high: usize| {
        if keys[low].1 > keys[high].1 {
            keys.swap(low, high);
        }
    };
    let mut block = 2;
    while block <= width {
        // Both halves of each block are sorted. Comparing mirrored positions makes each half bitonic, with the
        // lower keys in the first half; repeatedly halving the distance then sorts them.
        for start in (0..width).step_by(block) {
            for i in 0..block / 2 {
                compare(start + i, start + block - 1 - i);
            }
        }
        let mut distance = block / 4;
        while distance > 0 {
            for start in (0..width).step_by(2 * distance) {
                for i in start..start + distance {
                    compare(i, i + distance);
                }
            }
            distance /= 2;
        }
        block *= 2;
    }
    keys.iter()
        .take(scores.len())
        .rev()
        .map(|(i, _)| *i)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::Box3d;
    use crate::results::nuscenes::SampleBox;
    use proptest::prelude::*;

    fn car(x: f32, score: f32) -> SampleBox {
        let detected = Box3d {
            center: [x, 0.0, 0.0],
            size: [4.0, 2.0, 1.5],
            yaw: 0.0,
            velocity: [0.0; 2],
            score,
            class: 0,
        };
        SampleBox::from_box3d(&detected, "s", "car")
    }

    fn score(labels: Vec<SampleBox>, predictions: Vec<SampleBox>) -> Metrics {
        let sample = |boxes| Results {
            results: BTreeMap::from([("s".to_owned(), boxes)]),
            ..Results::default()
        };
        evaluate(&sample(labels), &sample(predictions), &Config::default()).unwrap()
    }

    #[test]
    fn precision_is_the_best_at_or_beyond_a_recall() {
        // Miss, hit, hit with two labels: precision 0, 1/2, 2/3 at recall 0, 1/2, 1. Made monotonic, it is 2/3
        // everywhere.
        let labels = vec![car(0.0, -1.0), car(10.0, -1.0)];
        let metrics = score(labels, vec![car(5.0, 0.9), car(0.0, 0.8), car(10.0, 0.7)]);
        let expected = (2.0 / 3.0 - 0.1) / 0.9;
        assert!((metrics.classes[0].aps[0] - expected).abs() < 1e-12);
        assert!((metrics.map - expected).abs() < 1e-12);
    }

    #[test]
    fn classes_with_nothing_to_score_have_no_score() {
        let metrics = score(vec![], vec![]);
        assert!(metrics.map.is_nan());
        assert_eq!(
            metrics.to_json()["ap"]["bus"],
            json!([null, null, null, null])
        );
        let metrics = score(vec![], vec![car(0.0, 0.5)]);
        assert_eq!(metrics.map, 0.0);
        let metrics = score(vec![car(0.0, -1.0)], vec![]);
        assert_eq!(metrics.map, 0.0);
    }

    #[test]
    fn equal_scores_rank_as_in_numpy() {
        // np.argsort([1.0] * n)[::-1] of NumPy 2.4 with AVX-512.
        assert_eq!(rank(&[1.0; 3]), [2, 1, 0]);
        assert_eq!(rank(&[1.0; 11]), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        // np.argsort([i * 7 % 4 for i in range(20)])[::-1], on the same machine.
        let scores: Vec<_> = (0..20).map(|i| f64::from(i * 7 % 4)).collect();
        assert_eq!(
            rank(&scores),
            [
                17, 1, 9, 13, 5, 6, 18, 2, 10, 14, 3, 19, 15, 7, 11, 16, 8, 12, 4, 0
            ]
        );
        assert_eq!(rank(&[]), [0usize; 0]);
    }

    proptest! {
        #[test]
        fn ranks_are_a_descending_permutation(
            scores in prop::collection::vec((0u8..9).prop_map(f64::from), 0..400)
        ) {
            let mut ranks = rank(&scores);
            prop_assert!(ranks.windows(2).all(|w| scores[w[0]] >= scores[w[1]]));
            ranks.sort_unstable();
            prop_assert!(ranks.into_iter().eq(0..scores.len()));
        }
    }
}
