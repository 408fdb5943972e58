//! Which boxes are scored, and which label a prediction finds: the parts that both metrics share.

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

/// Checks that both sides hold sound boxes of the same samples (what the devkit asserts).
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

/// The scored boxes of class `name`, by sample in the order of the tokens.
///
/// Kept are boxes whose ego vehicle is nearer than `range` metres (in the xy plane) and that do not
/// say that they hold no point at all: the devkit's `filter_eval_boxes` but for its bicycle racks,
/// which are annotations that result files do not carry.
pub(super) fn of_class<'a>(
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

/// How many boxes of both sides are of no class in `names`, by class: left out of the score, which is
/// worth a warning where a name is misspelt.
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

/// The nearest label that is not `taken`, if it is nearer than `threshold`; it is taken then.
///
/// Distances are between centres in the xy plane; of labels at the same distance the first counts.
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

/// True and false positives counted down to each prediction of a ranking, as precision and recall.
///
/// `hits` says of each prediction, best first, whether it found a label; there are `positives` labels.
pub(super) fn precision_recall(hits: &[bool], positives: usize) -> (Vec<f64>, Vec<f64>) {
    let mut found = 0.0;
    let counted = hits.iter().enumerate().map(|(i, hit)| {
        found += f64::from(u8::from(*hit));
        (found / (i + 1) as f64, found / positives.max(1) as f64)
    });
    counted.unzip()
}
