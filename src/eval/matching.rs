//! Selection of boxes and matching of predictions to labels, shared by both metrics.

use std::collections::BTreeMap;

use super::EvalError;
use crate::results::nuscenes::{Results, SampleBox};

/// The boxes of one class in one sample, in the order of the files.
pub(super) struct Sample<'a> {
    /// Labels.
    pub(super) labels: Vec<&'a SampleBox>,
    /// Predictions.
    pub(super) predictions: Vec<&'a SampleBox>,
}

/// Checks that both sides have valid boxes for the same samples (as asserted by the devkit).
pub(super) fn check(labels: &Results, predictions: &Results) -> Result<(), EvalError> {
    labels.check()?;
    predictions.check()?;
    let only_in = |these: &Results, those: &Results| -> Vec<String> {
        let tokens = these.results.keys();
        tokens
            .filter(|t| !those.results.contains_key(*t))
            .cloned()
            .collect()
    };
    let missing = only_in(labels, predictions);
    let unexpected = only_in(predictions, labels);
    if missing.is_empty() && unexpected.is_empty() {
        Ok(())
    } else {
        Err(EvalError::Samples {
            missing,
            unexpected,
        })
    }
}

/// The scored boxes of class `name`, by sample in token order.
///
/// Keeps boxes less than `range` metres from the ego vehicle (in the xy plane) unless they state that they contain no
/// points. This is the devkit's `filter_eval_boxes` without its bicycle racks, which are annotations that result files
/// do not contain.
pub(super) fn class_samples<'a>(
    labels: &'a Results,
    predictions: &'a Results,
    name: &str,
    range: f64,
) -> Vec<Sample<'a>> {
    let scored = |boxes: &'a [SampleBox]| -> Vec<&'a SampleBox> {
        let kept = |b: &&SampleBox| {
            let [x, y, _] = b.ego_translation;
            b.detection_name == name && (x * x + y * y).sqrt() < range && b.num_pts != 0
        };
        boxes.iter().filter(kept).collect()
    };
    let samples = labels.results.iter();
    samples
        .map(|(token, boxes)| Sample {
            labels: scored(boxes),
            predictions: predictions
                .results
                .get(token)
                .map_or(vec![], |boxes| scored(boxes)),
        })
        .collect()
}

/// The number of boxes of both sides whose class is not in `names`, by class. They are not scored; a caller can warn
/// about a misspelt name.
pub(super) fn unscored<'n>(
    labels: &Results,
    predictions: &Results,
    names: impl Iterator<Item = &'n str> + Clone,
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for found in labels.boxes().chain(predictions.boxes()) {
        if names.clone().all(|name| name != found.detection_name) {
            *counts.entry(found.detection_name.clone()).or_default() += 1;
        }
    }
    counts
}

/// Finds the nearest label that is not yet `taken` and is nearer than `threshold`, and marks it as taken.
///
/// Distances are between centres in the xy plane. Of labels at the same distance, the first wins.
pub(super) fn take_nearest(
    prediction: &SampleBox,
    labels: &[&SampleBox],
    taken: &mut [bool],
    threshold: f64,
) -> Option<usize> {
    let mut nearest = None;
    let mut least = threshold;
    for (i, label) in labels.iter().enumerate() {
        let distance = center_distance(label, prediction);
        if !taken[i] && distance < least {
            (nearest, least) = (Some(i), distance);
        }
    }
    if let Some(i) = nearest {
        taken[i] = true;
    }
    nearest
}

/// Distance between the centres in the xy plane, in metres.
pub(super) fn center_distance(a: &SampleBox, b: &SampleBox) -> f64 {
    let (dx, dy) = (
        b.translation[0] - a.translation[0],
        b.translation[1] - a.translation[1],
    );
    (dx * dx + dy * dy).sqrt()
}

/// Precision and recall after each prediction of a ranking.
///
/// `hits` states for each prediction, best first, whether it matches a label; `positives` is the number of labels.
pub(super) fn precision_recall(hits: &[bool], positives: usize) -> (Vec<f64>, Vec<f64>) {
    let mut found = 0.0;
    let counted = hits.iter().enumerate().map(|(i, hit)| {
        found += f64::from(u8::from(*hit));
        (found / (i + 1) as f64, found / positives.max(1) as f64)
    });
    counted.unzip()
}
