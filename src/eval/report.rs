//! Readable scores and latencies: aligned text tables, and the JSON of latencies.

use serde_json::{Map, Value, json};

use super::curve::nan_mean;
use super::{nuscenes, t4};
use crate::detection::Times;

/// Table of the scores of each class and their mean: average precision at each distance in metres and their mean (AP),
/// and the errors in translation (ATE, m), scale (ASE, 1 − IoU), orientation (AOE, rad), velocity (AVE, m/s) and
/// attribute (AAE, 1 − accuracy). `-` marks an error that a class does not define.
pub(crate) fn nuscenes_table(metrics: &nuscenes::Metrics) -> String {
    let mut rows = vec![header(
        &metrics.dist_ths,
        &["AP", "ATE", "ASE", "AOE", "AVE", "AAE"],
    )];
    for class in &metrics.classes {
        let scores = class.aps.iter().copied().chain([class.mean_ap()]);
        rows.push(row(&class.name, scores.chain(class.tp_errors)));
    }
    let aps = metrics.classes.iter().map(|c| c.aps.as_slice());
    let means = mean_by_distance(metrics.dist_ths.len(), aps);
    let means = means.into_iter().chain([metrics.mean_ap]);
    rows.push(row("mean", means.chain(metrics.tp_errors)));
    let counts = metrics.classes.iter().map(|c| (c.labels, c.predictions));
    format!(
        "{}\nmAP {:.4}  NDS {:.4}  {}\n",
        aligned(&rows),
        metrics.mean_ap,
        metrics.nd_score,
        boxes(counts)
    )
}

/// Table of the average precision of each class and their mean at each distance in metres. `-` marks a class without
/// labels and predictions.
pub(crate) fn t4_table(metrics: &t4::Metrics) -> String {
    let mut rows = vec![header(&metrics.dist_ths, &["AP"])];
    for class in &metrics.classes {
        let scores = class.aps.iter().copied().chain([class.mean_ap()]);
        rows.push(row(&class.name, scores));
    }
    let aps = metrics.classes.iter().map(|c| c.aps.as_slice());
    let means = mean_by_distance(metrics.dist_ths.len(), aps);
    rows.push(row("mean", means.into_iter().chain([metrics.map])));
    let counts = metrics.classes.iter().map(|c| (c.labels, c.predictions));
    format!(
        "{}\nmAP {}  {}\n",
        aligned(&rows),
        number(metrics.map, 4),
        boxes(counts)
    )
}

/// Table of the latency of each stage over the frames, in milliseconds. Empty without frames.
pub(crate) fn times_table(times: &[Times]) -> String {
    if times.is_empty() {
        return String::new();
    }
    let names = ["stage", "mean", "median", "90 %", "max"];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for (stage, latency) in latencies(times) {
        let values = [latency.mean, latency.median, latency.p90, latency.max];
        let cells = values.map(|ms| number(ms, 2));
        rows.push([vec![stage.to_owned()], cells.to_vec()].concat());
    }
    format!("{}\nms over {} frames\n", aligned(&rows), times.len())
}

/// Latency of each stage over the frames, in milliseconds: the median as `times_ms`, and `times_ms_mean`,
/// `times_ms_p90` and `times_ms_max`. Empty without frames.
pub(crate) fn times_json(times: &[Times]) -> Map<String, Value> {
    let mut json = Map::new();
    for (stage, latency) in latencies(times) {
        for (key, ms) in [
            ("times_ms", latency.median),
            ("times_ms_mean", latency.mean),
            ("times_ms_p90", latency.p90),
            ("times_ms_max", latency.max),
        ] {
            json.entry(key).or_insert_with(|| json!({}))[stage] = ms.into();
        }
    }
    json
}

/// The latency statistics of each stage. Empty without frames.
fn latencies(times: &[Times]) -> impl Iterator<Item = (&'static str, Latency)> {
    let stages = Times::default().stages().into_iter().enumerate();
    stages.filter_map(|(i, (stage, _))| {
        let ms = times.iter().map(|t| t.stages()[i].1).collect();
        Some((stage, Latency::new(ms)?))
    })
}

/// Latency statistics of one stage, in milliseconds.
struct Latency {
    mean: f64,
    median: f64,
    p90: f64,
    max: f64,
}

impl Latency {
    /// A percentile (the median, too) is the smallest time that this share of the frames does not exceed.
    fn new(mut ms: Vec<f64>) -> Option<Latency> {
        ms.sort_by(f64::total_cmp);
        let percentile = |p: usize| {
            ms.get((ms.len() * p).div_ceil(100).saturating_sub(1))
                .copied()
        };
        Some(Latency {
            mean: nan_mean(ms.iter().copied()),
            median: percentile(50)?,
            p90: percentile(90)?,
            max: percentile(100)?,
        })
    }
}

/// The median of ascending values: the middle one, or the mean of the two in the middle; 0 without values.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + sorted[middle - 1]) / 2.0,
        (None, _) => 0.0,
    }
}

/// Mean average precision over the classes at each distance.
fn mean_by_distance<'a>(
    distances: usize,
    aps: impl Iterator<Item = &'a [f64]> + Clone,
) -> Vec<f64> {
    let mean = |d: usize| nan_mean(aps.clone().filter_map(|aps| aps.get(d).copied()));
    (0..distances).map(mean).collect()
}

/// The header row: "class", the distances, the other columns.
fn header(dist_ths: &[f64], others: &[&str]) -> Vec<String> {
    let distances = dist_ths.iter().map(f64::to_string);
    let others = others.iter().map(|name| (*name).to_owned());
    ["class".to_owned()]
        .into_iter()
        .chain(distances)
        .chain(others)
        .collect()
}

/// A row with a name and numbers.
fn row(name: &str, values: impl Iterator<Item = f64>) -> Vec<String> {
    [name.to_owned()]
        .into_iter()
        .chain(values.map(|v| number(v, 3)))
        .collect()
}

/// Formats a number; `-` for NaN.
fn number(value: f64, decimals: usize) -> String {
    if value.is_nan() {
        "-".to_owned()
    } else {
        format!("{value:.decimals$}")
    }
}

/// "(12 labels, 15 predictions)".
fn boxes(counts: impl Iterator<Item = (usize, usize)>) -> String {
    let (labels, predictions) = counts.fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
    format!("({labels} labels, {predictions} predictions)")
}

/// Formats rows as lines: the first column left-aligned, the others right-aligned, separated by two spaces.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|row| row.get(c));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text += &match c {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let metrics = t4::Metrics {
            dist_ths: vec![0.5, 1.0],
            classes: vec![
                t4::ClassMetrics {
                    name: "pedestrian".to_owned(),
                    labels: 3,
                    predictions: 4,
                    aps: vec![0.25, 0.75],
                },
                t4::ClassMetrics {
                    name: "bus".to_owned(),
                    labels: 0,
                    predictions: 0,
                    aps: vec![f64::NAN; 2],
                },
            ],
            map: 0.5,
            unscored: Default::default(),
        };
        let expected = "\
class         0.5      1     AP
pedestrian  0.250  0.750  0.500
bus             -      -      -
mean        0.250  0.750  0.500

mAP 0.5000  (3 labels, 4 predictions)
";
        assert_eq!(t4_table(&metrics), expected);
    }

    #[test]
    fn latencies_are_means_and_ranks() {
        let with_total = |ms: f64| Times {
            total: ms,
            ..Times::default()
        };
        let times: Vec<_> = (1..=10).rev().map(|ms| with_total(f64::from(ms))).collect();
        let json = times_json(&times);
        for (key, expected) in [
            ("times_ms", 5.0),
            ("times_ms_mean", 5.5),
            ("times_ms_p90", 9.0),
            ("times_ms_max", 10.0),
        ] {
            assert_eq!(json[key]["total"], expected);
            assert_eq!(json[key].as_object().unwrap().len(), 8);
        }
        let table = times_table(&times);
        assert!(
            table.contains("total     5.50    5.00  9.00  10.00\n"),
            "{table}"
        );
        assert!(times_json(&[]).is_empty());
        assert_eq!(times_table(&[]), "");
    }
}
