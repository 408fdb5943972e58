//! The nuScenes detection metric: mean average precision over centre distances, true positive errors, and their
//! combination, the nuScenes detection score (NDS).
//!
//! Follows the definition (Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", 2020, section 3)
//! and equals `DetectionEval` of nuscenes-devkit 1.2.0, except:
//!
//! - Bicycles inside bicycle racks are scored. Result files do not contain the racks, which are annotations of the
//!   data set.
//! - The distance to the ego vehicle comes from `ego_translation` in the files; the devkit computes it from the ego
//!   poses. Without it, every box is in range.
//! - Boxes of classes that are not in the [`Config`] are skipped and counted; the devkit refuses them.
//! - Predictions with equal scores are ranked by sample token, the last one first, instead of by file order, so the
//!   order of samples in a file does not matter. Within a sample the order is the devkit's: the last one first.

mod settings;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::EvalError;
use super::curve::{
    Curve, LEVELS, average_precision, first_level, interpolate, nan_mean, over_recall,
};
use super::matching::{Sample, check, class_samples, precision_recall, take_nearest, unscored};
use crate::results::nuscenes::{Results, SampleBox};
pub use settings::Config;
pub(crate) use settings::{Class, MAX_BOXES, TpError};

/// The scores of one class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMetrics {
    /// The class.
    pub name: String,
    /// Number of scored labels.
    pub labels: usize,
    /// Number of scored predictions.
    pub predictions: usize,
    /// Average precision at each distance, 0 to 1.
    pub aps: Vec<f64>,
    /// True positive errors in the order of [`TpError::ALL`]; NaN where undefined.
    pub tp_errors: [f64; 5],
}

impl ClassMetrics {
    /// Mean of the average precision over the distances.
    pub fn mean_ap(&self) -> f64 {
        self.aps.iter().sum::<f64>() / self.aps.len() as f64
    }
}

/// The scores of a set of predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// The matching distances in metres, the columns of [`ClassMetrics::aps`].
    pub dist_ths: Vec<f64>,
    /// The classes in the order of [`Config::classes`].
    pub classes: Vec<ClassMetrics>,
    /// Mean average precision (mAP) over classes and distances.
    pub mean_ap: f64,
    /// Mean errors over the classes that define them, in the order of [`TpError::ALL`].
    pub tp_errors: [f64; 5],
    /// 1 − error, at least 0, in the same order.
    pub tp_scores: [f64; 5],
    /// nuScenes detection score.
    pub nd_score: f64,
    /// Number of boxes of each class that is not in the settings.
    pub unscored: BTreeMap<String, usize>,
}

impl Metrics {
    /// The scores under the devkit's keys (`DetectionMetrics.serialize`), NaN as `null`.
    pub fn to_json(&self) -> Map<String, Value> {
        let by_class = |value: &dyn Fn(&ClassMetrics) -> Value| -> Value {
            let classes = self.classes.iter();
            classes
                .map(|c| (c.name.clone(), value(c)))
                .collect::<Map<_, _>>()
                .into()
        };
        let by_error = |values: &[f64; 5]| -> Value {
            let errors = TpError::ALL.iter().zip(values);
            errors
                .map(|(e, v)| (e.key().to_owned(), json!(v)))
                .collect::<Map<_, _>>()
                .into()
        };
        let by_distance = |aps: &[f64]| -> Value {
            // Python's `str(float)`: 1 m is "1.0".
            let columns = self.dist_ths.iter().zip(aps);
            columns
                .map(|(d, v)| (format!("{d:?}"), json!(v)))
                .collect::<Map<_, _>>()
                .into()
        };
        let entries = [
            ("label_aps", by_class(&|c| by_distance(&c.aps))),
            ("mean_dist_aps", by_class(&|c| json!(c.mean_ap()))),
            ("mean_ap", self.mean_ap.into()),
            ("label_tp_errors", by_class(&|c| by_error(&c.tp_errors))),
            ("tp_errors", by_error(&self.tp_errors)),
            ("tp_scores", by_error(&self.tp_scores)),
            ("nd_score", self.nd_score.into()),
        ];
        entries
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect()
    }
}

/// Scores `predictions` against `labels`.
///
/// As in the devkit, a class without labels has an average precision of 0 and errors of 1, so list only classes that
/// occur in the labels. A detector that predicts no attributes has an attribute error of 1, which limits its NDS to
/// 0.9.
///
/// # Errors
/// `EvalError` if the sides have different samples, a box is invalid, a sample has too many predictions, or the
/// settings are inconsistent.
pub fn evaluate(
    labels: &Results,
    predictions: &Results,
    config: &Config,
) -> Result<Metrics, EvalError> {
    config.check()?;
    check(labels, predictions)?;
    let limit = config.max_boxes_per_sample;
    if let Some((sample, boxes)) = predictions.results.iter().find(|(_, b)| b.len() > limit) {
        return Err(EvalError::TooManyBoxes {
            sample: sample.clone(),
            boxes: boxes.len(),
            limit,
        });
    }
    let score = |class: &Class| {
        let samples = class_samples(labels, predictions, &class.name, class.range);
        score_class(&samples, class, config)
    };
    let classes: Vec<_> = config.classes.iter().map(score).collect();
    let mean_ap = classes.iter().map(ClassMetrics::mean_ap).sum::<f64>() / classes.len() as f64;
    let tp_errors = std::array::from_fn(|e| nan_mean(classes.iter().map(|c| c.tp_errors[e])));
    // An error that no class defines is NaN and scores 0, as with Python's `max(0.0, nan)`.
    let tp_scores = tp_errors.map(|error: f64| (1.0 - error).max(0.0));
    let weight = config.mean_ap_weight;
    let total = weight * mean_ap + tp_scores.iter().sum::<f64>();
    let names = config.classes.iter().map(|c| c.name.as_str());
    Ok(Metrics {
        dist_ths: config.dist_ths.clone(),
        mean_ap,
        tp_errors,
        tp_scores,
        nd_score: total / (weight + TpError::ALL.len() as f64),
        unscored: unscored(labels, predictions, names),
        classes,
    })
}

/// The scores of the class of `samples`.
fn score_class(samples: &[Sample], class: &Class, config: &Config) -> ClassMetrics {
    let curves: Vec<_> = config
        .dist_ths
        .iter()
        .map(|threshold| accumulate(samples, class, *threshold))
        .collect();
    let tp_curves = config
        .dist_ths
        .iter()
        .zip(&curves)
        .find(|(d, _)| **d == config.dist_th_tp);
    let tp_error = |error: usize| match tp_curves {
        Some((_, curves)) if !class.undefined.contains(&TpError::ALL[error]) => {
            curves.mean_error(error, config.min_recall)
        }
        _ => f64::NAN,
    };
    ClassMetrics {
        name: class.name.clone(),
        labels: samples.iter().map(|s| s.labels.len()).sum(),
        predictions: samples.iter().map(|s| s.predictions.len()).sum(),
        aps: curves
            .iter()
            .map(|c| average_precision(&c.precision, config.min_recall, config.min_precision))
            .collect(),
        tp_errors: std::array::from_fn(tp_error),
    }
}

/// Precision, confidence and running mean errors by recall level (`DetectionMetricData`).
#[derive(Debug)]
struct Curves {
    precision: Curve,
    confidence: Curve,
    errors: [Curve; 5],
}

impl Curves {
    /// The devkit's curves without any match.
    const NOTHING_FOUND: Curves = Curves {
        precision: [0.0; LEVELS],
        confidence: [0.0; LEVELS],
        errors: [[1.0; LEVELS]; 5],
    };

    /// The mean of an error from `min_recall` to the greatest recall (`calc_tp`); 1 if that is not above
    /// `min_recall`.
    fn mean_error(&self, error: usize, min_recall: f64) -> f64 {
        let first = first_level(min_recall);
        let last = self.confidence.iter().rposition(|c| *c != 0.0).unwrap_or(0);
        match self.errors[error].get(first..=last) {
            Some(counted) if !counted.is_empty() => {
                counted.iter().sum::<f64>() / counted.len() as f64
            }
            _ => 1.0,
        }
    }
}

/// Matches predictions, best first, to the nearest free label within `threshold` metres (`accumulate`).
fn accumulate(samples: &[Sample], class: &Class, threshold: f64) -> Curves {
    let positives: usize = samples.iter().map(|s| s.labels.len()).sum();
    let mut ranking: Vec<(usize, &SampleBox)> = samples
        .iter()
        .enumerate()
        .flat_map(|(i, sample)| sample.predictions.iter().map(move |p| (i, *p)))
        .collect();
    // Ascending and stable, then reversed: of equal scores the last one is first.
    ranking.sort_by(|a, b| a.1.detection_score.total_cmp(&b.1.detection_score));
    ranking.reverse();

    let mut taken: Vec<_> = samples
        .iter()
        .map(|s| vec![false; s.labels.len()])
        .collect();
    let mut hits = Vec::with_capacity(ranking.len());
    let mut hit_scores = Vec::new();
    let mut hit_errors = [const { Vec::new() }; 5];
    for (sample, prediction) in &ranking {
        let labels = &samples[*sample].labels;
        let found = take_nearest(prediction, labels, &mut taken[*sample], threshold);
        hits.push(found.is_some());
        if let Some(found) = found {
            hit_scores.push(prediction.detection_score);
            for (error, values) in TpError::ALL.iter().zip(&mut hit_errors) {
                values.push(error.measure(labels[found], prediction, class));
            }
        }
    }
    if hit_scores.is_empty() {
        return Curves::NOTHING_FOUND;
    }

    let (precision, recall) = precision_recall(&hits, positives);
    let scores: Vec<_> = ranking.iter().map(|(_, p)| p.detection_score).collect();
    let confidence = over_recall(&recall, &scores);
    // Interpolation needs ascending positions: the lowest confidence first.
    hit_scores.reverse();
    let errors = hit_errors.map(|values| {
        let mut means = running_mean(&values);
        means.reverse();
        confidence.map(|c| interpolate(c, &hit_scores, &means))
    });
    Curves {
        precision: over_recall(&recall, &precision),
        confidence,
        errors,
    }
}

/// The running mean of the values that are not NaN, 0 before the first one; 1 everywhere if there are none (`cummean`).
fn running_mean(values: &[f64]) -> Vec<f64> {
    if values.iter().all(|v| v.is_nan()) {
        return vec![1.0; values.len()];
    }
    let (mut sum, mut count) = (0.0, 0);
    let mean = |v: &f64| {
        if !v.is_nan() {
            sum += v;
            count += 1;
        }
        if count == 0 {
            0.0
        } else {
            sum / f64::from(count)
        }
    };
    values.iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A car at `x`, `y` with a score, −1 for a label.
    fn car(x: f64, y: f64, score: f64) -> SampleBox {
        SampleBox {
            sample_token: "s".to_owned(),
            translation: [x, y, 0.0],
            size: [2.0, 4.0, 1.5],
            rotation: [1.0, 0.0, 0.0, 0.0],
            velocity: [Some(0.0); 2],
            detection_name: "car".to_owned(),
            detection_score: score,
            attribute_name: "vehicle.parked".to_owned(),
            ego_translation: [x, y, 0.0],
            num_pts: -1,
        }
    }

    fn sample(boxes: Vec<SampleBox>) -> Results {
        Results {
            results: BTreeMap::from([("s".to_owned(), boxes)]),
            ..Results::default()
        }
    }

    fn score(labels: Vec<SampleBox>, predictions: Vec<SampleBox>) -> Metrics {
        let config = Config::for_classes(["car"]);
        evaluate(&sample(labels), &sample(predictions), &config).unwrap()
    }

    #[test]
    fn one_hit_and_one_miss_by_hand() {
        let mut hit = car(0.3, 0.4, 0.9);
        hit.velocity = [Some(3.0), Some(-4.0)];
        hit.size = [2.0, 4.0, 3.0];
        hit.attribute_name = "vehicle.moving".to_owned();
        let labels = vec![car(0.0, 0.0, -1.0), car(10.0, 0.0, -1.0)];
        let metrics = score(labels, vec![hit, car(20.0, 0.0, 0.8)]);
        // Recall reaches 50 %, with precision 1 below and 1/2 at it. Levels 11 % to 100 % count, minus 0.1.
        let ap = (39.0 * 0.9 + 0.4) / 90.0 / 0.9;
        let class = &metrics.classes[0];
        // The distance is exactly 0.5 m, which is not below the first threshold.
        for (found, expected) in class.aps.iter().zip([0.0, ap, ap, ap]) {
            assert!((found - expected).abs() < 1e-12, "{:?}", class.aps);
        }
        for (found, expected) in class.tp_errors.iter().zip([0.5, 0.5, 0.0, 5.0, 1.0]) {
            assert!((found - expected).abs() < 1e-12, "{:?}", class.tp_errors);
        }
        // The scores of the errors are 0.5, 0.5, 1, 0, 0.
        let nds = (5.0 * 0.75 * ap + 2.0) / 10.0;
        assert!((metrics.nd_score - nds).abs() < 1e-12);
        assert_eq!((class.labels, class.predictions), (2, 2));
    }

    #[test]
    fn boxes_out_of_range_and_without_points_do_not_count() {
        let mut empty = car(5.0, 0.0, -1.0);
        empty.num_pts = 0;
        let labels = vec![
            car(0.0, 0.0, -1.0),
            empty,
            car(30.0, 40.0, -1.0),
            car(29.0, 40.0, -1.0),
        ];
        let predictions = vec![
            car(0.0, 0.0, 0.5),
            car(60.0, 0.0, 0.9),
            car(29.0, 40.0, 0.4),
        ];
        let metrics = score(labels, predictions);
        let class = &metrics.classes[0];
        assert_eq!((class.labels, class.predictions), (2, 2));
        assert!((metrics.mean_ap - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_last_of_equal_scores_ranks_first() {
        let labels = || vec![car(0.0, 0.0, -1.0)];
        let (near, far) = (|| car(0.1, 0.0, 0.5), || car(0.3, 0.0, 0.5));
        let error = |predictions| score(labels(), predictions).classes[0].tp_errors[0];
        assert!((error(vec![near(), far()]) - 0.3).abs() < 1e-12);
        assert!((error(vec![far(), near()]) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn unknown_values_are_ignored() {
        let (mut label, mut other) = (car(0.0, 0.0, -1.0), car(9.0, 0.0, -1.0));
        label.velocity = [None, Some(0.0)];
        label.attribute_name.clear();
        let metrics = score(vec![label.clone()], vec![car(0.0, 0.0, 0.9)]);
        // Velocity and attribute are unknown: the devkit's error is 1.
        assert_eq!(metrics.classes[0].tp_errors, [0.0, 0.0, 0.0, 1.0, 1.0]);
        other.detection_name = "animal".to_owned();
        let metrics = score(vec![label, other], vec![car(0.0, 0.0, 0.9)]);
        assert_eq!(metrics.unscored, BTreeMap::from([("animal".to_owned(), 1)]));
        assert!((metrics.mean_ap - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_class_without_labels_scores_0_and_cones_have_no_heading() {
        let config = Config::default();
        let metrics = evaluate(&sample(vec![]), &sample(vec![]), &config).unwrap();
        assert_eq!((metrics.mean_ap, metrics.nd_score), (0.0, 0.0));
        let json = metrics.to_json();
        assert_eq!(json["label_aps"]["car"]["1.0"], 0.0);
        assert_eq!(json["label_tp_errors"]["car"]["vel_err"], 1.0);
        assert!(json["label_tp_errors"]["traffic_cone"]["orient_err"].is_null());
        assert!(json["label_tp_errors"]["barrier"]["vel_err"].is_null());
        assert_eq!(json["label_tp_errors"]["barrier"]["orient_err"], 1.0);
    }

    #[test]
    fn mismatches_are_refused() {
        let labels = sample(vec![]);
        let mut predictions = labels.clone();
        for token in ["t", "u", "v", "w"] {
            predictions.results.insert(token.to_owned(), vec![]);
        }
        let error = evaluate(&labels, &predictions, &Config::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with(": 4 only in the predictions (t, u, v, …)"),
            "{error}"
        );
        let error = evaluate(&predictions, &labels, &Config::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with(": 4 only in the labels (t, u, v, …)"),
            "{error}"
        );

        let many = sample(vec![car(0.0, 0.0, 0.5); 501]);
        let error = evaluate(&labels, &many, &Config::default()).unwrap_err();
        assert!(
            error.to_string().contains("`s` has 501 predictions"),
            "{error}"
        );

        let mut unsound = sample(vec![car(0.0, 0.0, f64::NAN)]);
        let error = evaluate(&labels, &unsound, &Config::default()).unwrap_err();
        assert!(
            error.to_string().contains("box 0: detection_score: NaN"),
            "{error}"
        );
        unsound = sample(vec![car(0.0, f64::INFINITY, 0.5)]);
        assert!(evaluate(&unsound, &labels, &Config::default()).is_err());
    }

    #[test]
    fn settings_are_checked_and_survive_serde() {
        let config = Config::default();
        let text = serde_json::to_string(&config).unwrap();
        assert!(
            text.contains(r#""undefined":["orient_err","vel_err","attr_err"]"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), config);
        assert!(serde_json::from_str::<Config>(r#"{"dist_th":[1]}"#).is_err());

        let refused = |change: fn(&mut Config)| {
            let mut config = Config::demo();
            change(&mut config);
            evaluate(&sample(vec![]), &sample(vec![]), &config)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(|c| c.classes.clear()).contains("classes"));
        assert!(
            refused(|c| c.classes[1].name = "car".to_owned()).contains("`car` is listed twice")
        );
        assert!(refused(|c| c.dist_th_tp = 3.0).contains("dist_th_tp 3"));
        assert!(refused(|c| c.min_recall = 1.0).contains("min_recall 1"));
        assert!(refused(|c| c.min_precision = f64::NAN).contains("min_precision NaN"));
    }
}
