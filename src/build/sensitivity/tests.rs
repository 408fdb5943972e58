use std::collections::BTreeMap;
use std::path::Path;

use super::budget::{Action, LayerCost, Search, search};
use super::report::{LayerSensitivity, QuantizableLayer, Recorder};
use super::*;
use crate::build::BuildError;

/// Layers with known noise powers, which add up. The loss of mAP equals the noise.
struct NoiseModel {
    noise: Vec<f64>,
    labels: bool,
    /// The measured mixes, in order.
    seen: Vec<Mix>,
    /// Fails after this many measurements.
    most: usize,
}

impl NoiseModel {
    fn new(noise: &[f64]) -> Self {
        Self {
            noise: noise.to_vec(),
            labels: true,
            seen: Vec::new(),
            most: usize::MAX,
        }
    }

    fn layers(&self) -> Vec<QuantizableLayer> {
        let layers = self.noise.iter().enumerate();
        layers
            .map(|(i, _)| QuantizableLayer {
                name: format!("layer.{i}"),
                operator: "Conv".into(),
                macs: 1000 * (i as u64 + 1),
                times_ms: None,
            })
            .collect()
    }
}

impl Evaluate for NoiseModel {
    fn evaluate(&mut self, mix: &Mix) -> Result<Measurement> {
        if self.seen.len() == self.most {
            return Err(SensitivityError::Goal("stopped".into()).into());
        }
        self.seen.push(mix.clone());
        let noise: f64 = mix.int8_layers().map(|i| self.noise[i]).sum();
        let objects = -10.0 * noise.max(1e-14).log10();
        Ok(Measurement {
            mean_ap: self.labels.then_some(0.75 - noise),
            all: objects - 5.0,
            objects,
        })
    }
}

fn inputs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn names(ranking: &[LayerSensitivity]) -> Vec<&str> {
    ranking.iter().map(|r| r.layer.as_str()).collect()
}

#[test]
fn mixes_are_serialised_as_text() {
    let mix = Mix::int8(4).with(1, false).with(9, false);
    let text = serde_json::to_string(&mix).unwrap();
    assert_eq!(text, "\"8f88\"");
    assert_eq!(serde_json::from_str::<Mix>(&text).unwrap(), mix);
    assert_eq!(mix.int8_layers().collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!(mix.float_layers().collect::<Vec<_>>(), [1]);
    let error = serde_json::from_str::<Mix>("\"8x\"").unwrap_err();
    assert!(error.to_string().contains("`x`"), "{error}");
}

#[test]
fn every_layer_is_measured_alone_and_left_out_and_then_ranked() {
    let mut made = NoiseModel::new(&[1e-3, 1e-2, 1e-4]);
    let mut report = Report::new(inputs(&[]), made.layers());
    report.rank();
    assert_eq!(report.ranking, [], "no measurements yet");
    let mut recorder = Recorder {
        report: &mut report,
        path: None,
        measure: &mut made,
    };
    ablate(3, &mut recorder).unwrap();
    report.rank();
    let seen: Vec<String> = made.seen.iter().cloned().map(String::from).collect();
    assert_eq!(
        seen,
        ["fff", "888", "8ff", "f88", "f8f", "8f8", "ff8", "88f"]
    );
    assert_eq!(names(&report.ranking), ["layer.1", "layer.0", "layer.2"]);
    // A loss that small is chance, so noise decides.
    let mut lucky = report.clone();
    let alone = Mix::float(3).with(2, true);
    if let Some(measured) = lucky.measurements.get_mut(&alone) {
        measured.mean_ap = Some(0.7494);
        measured.objects = 25.0;
    }
    lucky.rank();
    assert_eq!(names(&lucky.ranking), ["layer.1", "layer.2", "layer.0"]);
    let worst = &report.ranking[0];
    assert!((worst.alone.mean_ap.unwrap() - 0.74).abs() < 1e-12);
    assert!((worst.left_out.mean_ap.unwrap() - (0.75 - 1.1e-3)).abs() < 1e-12);
    let table = report.table();
    let first = table.lines().nth(1).unwrap();
    let cells: Vec<&str> = first.split_whitespace().collect();
    // A noise of 1e-2 is 20 dB; all layers have 1.11e-2, which is 19.55 dB, and 29.59 dB without this one.
    assert_eq!(
        cells,
        [
            "layer.1", "33.3", "%", "-0.0100", "15.0", "20.0", "+0.0100", "+10.04", "+10.04"
        ]
    );
    assert!(
        table.contains("float: mAP 0.7500\nINT8:  mAP 0.7389 (-0.0111)"),
        "{table}"
    );
}

#[test]
fn without_labels_the_ranking_is_by_sqnr_at_objects() {
    let mut made = NoiseModel::new(&[1e-4, 1e-3, 1e-2]);
    made.labels = false;
    let mut report = Report::new(inputs(&[]), made.layers());
    let mut recorder = Recorder {
        report: &mut report,
        path: None,
        measure: &mut made,
    };
    ablate(3, &mut recorder).unwrap();
    report.rank();
    assert_eq!(names(&report.ranking), ["layer.2", "layer.1", "layer.0"]);
    assert!(!report.table().contains("mAP"), "{}", report.table());
}

/// Runs the analysis and a search with a report file.
fn run(
    made: &mut NoiseModel,
    path: &Path,
    inputs_now: &BTreeMap<String, String>,
) -> Result<Report> {
    let mut report = Report::open(path, inputs_now.clone(), made.layers())?;
    let options = Options {
        goal: Some(Goal::MeanApDrop(2e-3)),
        cost: Cost::Macs,
    };
    super::run(&mut report, Some(path), &options, made)?;
    Ok(report)
}

#[test]
fn a_run_continues_where_it_was_interrupted() {
    let noise = [1e-3, 8e-4, 1e-4, 3e-3];
    let folder = tempfile::tempdir().unwrap();
    let (whole, pieces) = (
        folder.path().join("whole.json"),
        folder.path().join("pieces.json"),
    );
    let inputs = inputs(&[("frames", "a")]);
    let mut uninterrupted = NoiseModel::new(&noise);
    run(&mut uninterrupted, &whole, &inputs).unwrap();
    let mut seen = Vec::new();
    for most in [1, 0, 4, 5, usize::MAX] {
        let mut made = NoiseModel::new(&noise);
        made.most = most;
        let done = run(&mut made, &pieces, &inputs);
        assert_eq!(done.is_ok(), most == usize::MAX);
        seen.append(&mut made.seen);
    }
    assert_eq!(seen, uninterrupted.seen, "nothing is measured twice");
    assert_eq!(
        std::fs::read(&whole).unwrap(),
        std::fs::read(&pieces).unwrap()
    );
    // Once more: all measurements exist.
    let mut again = NoiseModel::new(&noise);
    run(&mut again, &whole, &inputs).unwrap();
    assert_eq!(again.seen, []);
}

#[test]
fn a_report_of_other_inputs_is_refused_with_the_differences() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let hash = "0123456789abcdef".repeat(4);
    let mut made = NoiseModel::new(&[1e-3, 1e-3]);
    run(
        &mut made,
        &path,
        &inputs(&[("frames", &hash), ("model.toml", "a")]),
    )
    .unwrap();
    let refused = |found: Result<Report>| match found {
        Err(BuildError::Sensitivity(error))
            if matches!(*error, SensitivityError::OtherInputs { .. }) =>
        {
            error.to_string()
        }
        other => panic!("{other:?}"),
    };
    let error = refused(run(
        &mut made,
        &path,
        &inputs(&[("frames", "b"), ("labels", "c")]),
    ));
    for part in [
        "report.json",
        "frames was 0123456789ab…, now b",
        "labels was none, now c",
        "model.toml was a, now none",
        "--out",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let mut other = NoiseModel::new(&[1e-3; 3]);
    let error = refused(run(
        &mut other,
        &path,
        &inputs(&[("frames", &hash), ("model.toml", "a")]),
    ));
    assert!(
        error.contains("its 2 layers differ from the model's 3"),
        "{error}"
    );
}

#[test]
fn invalid_reports_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let open = || Report::open(&path, inputs(&[]), NoiseModel::new(&[1.0]).layers());
    for text in ["", "[]", "{\"results\": {}}", "{\"producer\": 3}"] {
        std::fs::write(&path, text).unwrap();
        let error = open().unwrap_err();
        assert!(
            matches!(error, SensitivityError::NotAReport { .. }),
            "{text}: {error}"
        );
        assert!(error.to_string().contains("report.json"), "{error}");
    }
    // A measurement with the wrong number of layers.
    let mut report = Report::new(inputs(&[]), NoiseModel::new(&[1.0]).layers());
    let measured = NoiseModel::new(&[1.0]).evaluate(&Mix::int8(1)).unwrap();
    report.measurements.insert(Mix::int8(2), measured);
    std::fs::write(&path, report.to_json()).unwrap();
    let error = open().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a measurement of 2 layers, expected 1"),
        "{error}"
    );
}

fn layer_costs(costs: &[f64]) -> Vec<LayerCost<'static>> {
    let names = ["a", "b", "c", "d", "e", "f"];
    let layers = names.into_iter().zip(costs);
    layers
        .map(|(name, &cost)| LayerCost { name, cost })
        .collect()
}

fn searched(noise: &[f64], costs: &[f64], goal: Goal) -> Search {
    let mut made = NoiseModel::new(noise);
    search(&layer_costs(costs), goal, Cost::Macs, &mut made).unwrap()
}

#[test]
fn a_goal_that_int8_meets_skips_nothing() {
    let found = searched(&[1e-4, 1e-4], &[1.0, 1.0], Goal::MeanApDrop(1e-3));
    assert_eq!((found.skip.len(), found.int8_share), (0, 1.0));
    assert_eq!(found.steps, []);
}

#[test]
fn the_best_gain_for_its_cost_is_left_out_first() {
    // By gain alone it would be b; by gain per cost it is c.
    let found = searched(
        &[1e-4, 5e-3, 4e-3],
        &[1.0, 10.0, 1.0],
        Goal::MeanApDrop(6e-3),
    );
    assert_eq!(found.skip, ["c"]);
    assert_eq!(found.int8_share, 11.0 / 12.0);
    assert!((found.measured.mean_ap.unwrap() - 0.7449).abs() < 1e-12);
    // A free layer comes first, however small its gain.
    let found = searched(&[1e-3, 5e-3], &[-1.0, 1.0], Goal::MeanApDrop(5e-3));
    assert_eq!(found.skip, ["a"]);
}

#[test]
fn a_layer_that_proves_unnecessary_is_put_back() {
    // First a (best for its cost), which is not enough, then b, which suffices without a.
    let found = searched(&[2e-3, 9e-3], &[1.0, 5.0], Goal::MeanApDrop(2e-3));
    let steps: Vec<(Action, &str, bool)> = found
        .steps
        .iter()
        .map(|s| (s.action, s.layer.as_str(), s.met))
        .collect();
    assert_eq!(
        steps,
        [
            (Action::LeftOut, "a", false),
            (Action::LeftOut, "b", true),
            (Action::PutBack, "a", true),
        ]
    );
    assert_eq!(found.skip, ["b"]);
    let found = searched(&[2e-3, 9e-3], &[1.0, 5.0], Goal::MeanApDrop(1e-3));
    assert_eq!(found.steps[2].action, Action::Kept);
    assert_eq!(found.skip, ["a", "b"]);
}

#[test]
fn equal_layers_are_left_out_in_order() {
    let found = searched(&[1e-3; 4], &[1.0; 4], Goal::MeanApDrop(2e-3));
    assert_eq!(found.skip, ["a", "b"]);
}

#[test]
fn an_sqnr_goal_needs_no_labels() {
    let mut made = NoiseModel::new(&[1e-3, 1e-2]);
    made.labels = false;
    let layers = layer_costs(&[1.0, 1.0]);
    let found = search(&layers, Goal::ObjectSqnr(25.0), Cost::Macs, &mut made).unwrap();
    assert_eq!(found.skip, ["b"]);
    // Only the float network has more.
    let found = search(&layers, Goal::ObjectSqnr(100.0), Cost::Macs, &mut made).unwrap();
    assert_eq!(found.skip, ["a", "b"]);
    for (goal, part) in [
        (Goal::ObjectSqnr(200.0), "200 dB"),
        (Goal::MeanApDrop(1e-3), "--labels"),
    ] {
        let error = search(&layers, goal, Cost::Macs, &mut made).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let mut labelled = NoiseModel::new(&[1e-3, 1e-2]);
    let error = search(&layers, Goal::MeanApDrop(-1.0), Cost::Macs, &mut labelled).unwrap_err();
    assert!(error.to_string().contains("-1"), "{error}");
}

/// Noise caused by pairs of layers, so gains shrink as layers are left out.
struct Pairs(usize);

impl Evaluate for Pairs {
    fn evaluate(&mut self, mix: &Mix) -> Result<Measurement> {
        let layers: Vec<usize> = mix.int8_layers().collect();
        let pairs = layers
            .iter()
            .flat_map(|a| layers.iter().map(move |b| a * 7 + b * 3));
        let noise: f64 = pairs.map(|p| 1e-5 * (p % 11) as f64).sum();
        self.0 += 1;
        Ok(Measurement {
            mean_ap: Some(0.7 - noise),
            all: 0.0,
            objects: -10.0 * noise.max(1e-14).log10(),
        })
    }
}

#[test]
fn the_mix_meets_the_goal_and_no_layer_of_it_can_be_put_back() {
    let layers = layer_costs(&[3.0, 1.0, 4.0, 1.5, 9.0, 2.0]);
    for drop in [0.0, 1e-4, 4e-4, 1e-3, 2e-3] {
        let goal = Goal::MeanApDrop(drop);
        let mut pairs = Pairs(0);
        let found = search(&layers, goal, Cost::Macs, &mut pairs).unwrap();
        let float = pairs.evaluate(&Mix::float(6)).unwrap();
        assert!(
            goal.is_met(&float, &pairs.evaluate(&found.mix).unwrap()),
            "{drop}"
        );
        for layer in found.mix.float_layers() {
            let more = pairs.evaluate(&found.mix.with(layer, true)).unwrap();
            assert!(
                !goal.is_met(&float, &more),
                "{drop}: layer {layer} is unnecessary"
            );
        }
    }
}
