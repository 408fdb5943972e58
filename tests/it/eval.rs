//! The metrics against the results of nuscenes-devkit and perception_eval, through files and through the program, and
//! the behaviour on invalid files.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;
use std::path::Path;
use std::process::Command;

use centerpoint::internals::eval::{nuscenes, t4};
use centerpoint::internals::results::nuscenes::{Results, SampleBox};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A detection, or a label if `score` is −1.
fn sample_box(token: &str, class: &str, x: f64, y: f64, score: f64) -> SampleBox {
    SampleBox {
        sample_token: token.to_owned(),
        translation: [x, y, 0.5],
        size: [1.9, 4.6, 1.7],
        rotation: [1.0, 0.0, 0.0, 0.0],
        velocity: [Some(1.0), Some(0.0)],
        detection_name: class.to_owned(),
        detection_score: score,
        attribute_name: String::new(),
        ego_translation: [x, y, 0.5],
        num_pts: -1,
    }
}

/// Boxes of `samples` samples from a fixed random sequence. Positions are displaced by up to `noise` metres. With
/// `scored`, every tenth box is missing and the scores have only a few different values.
fn scene(samples: usize, noise: f64, scored: bool) -> Results {
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let mut results = Results::default();
    for s in 0..samples {
        let token = format!("{s:06}");
        let mut boxes = Vec::new();
        for i in 0..20 {
            let class = ["car", "truck", "bus", "bicycle", "pedestrian"][i % 5];
            let (x, y) = (random() * 60.0 - 30.0, random() * 60.0 - 30.0);
            let (dx, dy) = (random() * noise, random() * noise);
            let score = (random() * 5.0).floor() / 5.0;
            if scored && i % 10 == 9 {
                continue;
            }
            let score = if scored { score } else { -1.0 };
            boxes.push(sample_box(&token, class, x + dx, y + dy, score));
        }
        results.results.insert(token, boxes);
    }
    results
}

#[test]
fn labels_as_predictions_score_1() {
    let labels = scene(5, 0.0, false);
    let mut predictions = labels.clone();
    for (i, found) in predictions.results.values_mut().flatten().enumerate() {
        found.detection_score = 1.0 - i as f64 * 1e-3;
    }
    let config = nuscenes::Config::demo();
    let metrics = nuscenes::evaluate(&labels, &predictions, &config).unwrap();
    assert!((metrics.mean_ap - 1.0).abs() < 1e-12);
    // Labels without attributes leave that error at 1.
    assert_eq!(metrics.tp_errors, [0.0, 0.0, 0.0, 0.0, 1.0]);
    assert!((metrics.nd_score - 0.9).abs() < 1e-12);
    let metrics = t4::evaluate(&labels, &predictions, &t4::Config::default()).unwrap();
    assert!((metrics.map - 1.0).abs() < 1e-12);
}

#[test]
fn the_order_of_samples_does_not_matter() {
    let (labels, predictions) = (scene(12, 0.0, false), scene(12, 3.0, true));
    let config = nuscenes::Config::demo();
    let in_order = nuscenes::evaluate(&labels, &predictions, &config).unwrap();
    assert!(
        in_order.mean_ap > 0.1 && in_order.mean_ap < 0.9,
        "{}",
        in_order.mean_ap
    );

    let dir = tempfile::tempdir().unwrap();
    let shuffled = |results: &Results, name: &str, step: usize| {
        let mut samples: Vec<_> = results.results.iter().collect();
        let count = samples.len();
        samples = (0..count)
            .map(|i| samples[(i * step + 3) % count])
            .collect();
        let texts = samples
            .iter()
            .map(|(token, boxes)| format!("{}:{}", json!(token), json!(boxes)));
        let text = format!(
            "{{\"results\":{{{}}}}}",
            texts.collect::<Vec<_>>().join(",")
        );
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Results::read(&path).unwrap()
    };
    let (labels, predictions) = (shuffled(&labels, "g", 5), shuffled(&predictions, "p", 7));
    let shuffled = nuscenes::evaluate(&labels, &predictions, &config).unwrap();
    assert_eq!(shuffled, in_order);
}

/// Runs `cp-build eval` and returns its exit code, output and errors.
fn eval(args: &[&str]) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_cp-build");
    let output = Command::new(program)
        .arg("eval")
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Label and prediction files of a small scene.
fn scene_files(dir: &Path) -> (String, String) {
    let write = |results: Results, name: &str| {
        let path = dir.join(name);
        results.write(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (labels, predictions) = (scene(4, 0.0, false), scene(4, 1.0, true));
    (write(labels, "gt.json"), write(predictions, "pred.json"))
}

#[test]
fn the_program_scores_files_as_the_library_does() {
    let dir = tempfile::tempdir().unwrap();
    let (gt, pred) = scene_files(dir.path());
    let (labels, predictions) = (scene(4, 0.0, false), scene(4, 1.0, true));

    let run = |args: &[&str]| {
        let (code, out, errors) = eval(&[&["--gt", &gt, "--pred", &pred], args].concat());
        assert_eq!(code, 0, "{errors}");
        (out, errors)
    };
    let metrics = nuscenes::evaluate(&labels, &predictions, &nuscenes::Config::default()).unwrap();
    let (out, errors) = run(&["--metric", "nuscenes", "--format", "json"]);
    assert_eq!(
        serde_json::from_str::<Map<String, Value>>(&out).unwrap(),
        metrics.to_json()
    );
    assert!(
        errors.contains("no labels for trailer, construction_vehicle"),
        "{errors}"
    );

    let metrics = nuscenes::evaluate(&labels, &predictions, &nuscenes::Config::demo()).unwrap();
    let classes = ["--classes", "car,truck,bus,bicycle,pedestrian"];
    let (out, errors) = run(&[&classes[..], &["--format", "json"]].concat());
    assert_eq!(
        serde_json::from_str::<Map<String, Value>>(&out).unwrap(),
        metrics.to_json()
    );
    assert_eq!(errors, "");
    let (out, _) = run(&classes);
    assert!(
        out.contains(&format!(
            "mAP {:.4}  NDS {:.4}  ",
            metrics.mean_ap, metrics.nd_score
        )),
        "{out}"
    );

    let metrics = t4::evaluate(&labels, &predictions, &t4::Config::default()).unwrap();
    let (out, _) = run(&["--metric", "t4", "--format", "json"]);
    assert_eq!(
        serde_json::from_str::<Map<String, Value>>(&out).unwrap(),
        metrics.to_json()
    );
}

#[test]
fn the_program_reports_mismatches() {
    let dir = tempfile::tempdir().unwrap();
    let (gt, pred) = scene_files(dir.path());

    let other = dir.path().join("other.json");
    std::fs::write(&other, r#"{"results":{"000001":[],"x":[]}}"#).unwrap();
    let (code, out, errors) = eval(&["--gt", &gt, "--pred", other.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (3, ""));
    for part in [
        "other.json",
        "3 only in the labels (000000, 000002, 000003)",
        "predictions (x)",
    ] {
        assert!(errors.contains(part), "{errors}");
    }

    std::fs::write(&other, r#"{"results":{"000001":[{}]}}"#).unwrap();
    let (code, _, errors) = eval(&["--gt", other.to_str().unwrap(), "--pred", &pred]);
    assert_eq!(code, 3);
    for part in [
        "other.json",
        "sample `000001`, box 0",
        "missing field `sample_token`",
    ] {
        assert!(errors.contains(part), "{errors}");
    }

    let (code, _, errors) = eval(&["--gt", "nowhere.json", "--pred", &pred]);
    assert_eq!(code, 3);
    assert!(errors.contains("nowhere.json: cannot read"), "{errors}");

    for usage in [
        &[][..],
        &["--pred", &pred],
        &["--plan", "x"],
        &["--pred", &pred, "--plan", "x"],
    ] {
        assert_eq!(eval(usage).0, 2, "{usage:?}");
    }
}

/// A folder with two frames for the tiny model, their labels next to it, and the model's plan.
fn tiny_data(dir: &Path) -> (String, String) {
    let frames = dir.join("frames");
    std::fs::create_dir(&frames).unwrap();
    let mut labels = Results::default();
    // Each point becomes a box at the centre of its cell: `tall` above 1 m, `low` below.
    for (token, [x, y, z]) in [
        ("000000", [2.2f32, -3.7, 2.0]),
        ("000001", [-5.5, 0.25, 0.5]),
    ] {
        let bytes = [x, y, z].map(f32::to_le_bytes).concat();
        std::fs::write(frames.join(token).with_extension("bin"), bytes).unwrap();
        let class = if z > 1.0 { "tall" } else { "low" };
        let center = [x, y].map(|v| f64::from(v.floor()) + 0.5);
        let label = sample_box(token, class, center[0], center[1], -1.0);
        labels.results.insert(token.to_owned(), vec![label]);
    }
    labels.write(&dir.join("labels.json")).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    (path(&common::write_plan(dir, common::MODEL)), path(&frames))
}

#[test]
fn the_program_scores_a_plan_on_frames() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, frames) = tiny_data(dir.path());
    let run = |args: &[&str]| eval(&[&["--plan", &plan, "--frames", &frames], args].concat());
    let (code, out, errors) = run(&["--format", "json"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let json: Value = serde_json::from_str(&out).unwrap();
    // The plan's classes, each detected at its position.
    assert_eq!(json["label_aps"].as_object().unwrap().len(), 2);
    for class in ["tall", "low"] {
        let ap = json["label_aps"][class]["0.5"].as_f64().unwrap();
        assert!((ap - 1.0).abs() < 1e-9, "{class}: {ap}");
        // Labels move at (1, 0), the tiny network's boxes at (3, −2).
        let error = json["label_tp_errors"][class]["vel_err"].as_f64().unwrap();
        assert!((error - 8f64.sqrt()).abs() < 1e-6, "{class}: {error}");
    }
    for stage in [
        "read", "pillars", "features", "scatter", "engine", "decode", "nms", "total",
    ] {
        assert!(json["times_ms"][stage].as_f64().unwrap() >= 0.0, "{stage}");
    }
    let (_, out, _) = run(&["--threads", "1"]);
    assert!(
        out.contains("mAP 1.0000") && out.contains("ms over 2 frames"),
        "{out}"
    );
    let (_, out, _) = run(&["--metric", "t4", "--format", "json"]);
    assert!(out.contains("times_ms") && out.contains("\"map\""), "{out}");

    // A frame without labels.
    std::fs::copy(
        format!("{frames}/000000.bin"),
        format!("{frames}/000002.bin"),
    )
    .unwrap();
    let (code, _, errors) = run(&[]);
    assert_eq!(code, 3);
    assert!(
        errors.contains("1 only in the predictions (000002)"),
        "{errors}"
    );
    // An invalid frame.
    std::fs::write(format!("{frames}/000002.bin"), "x").unwrap();
    let (code, _, errors) = run(&[]);
    assert_eq!(code, 3);
    assert!(errors.contains("000002.bin"), "{errors}");
    let (code, _, errors) = run(&["--labels", "nowhere.json"]);
    assert_eq!(code, 3);
    assert!(errors.contains("nowhere.json: cannot read"), "{errors}");
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.json");
        scene(1, 0.0, false).write(&path).unwrap();
        let mut damaged = std::fs::read(&path).unwrap();
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        for bytes in [damaged, noise] {
            std::fs::write(&path, &bytes).unwrap();
            if let Err(error) = Results::read(&path) {
                let error = error.to_string();
                prop_assert!(error.contains("damaged.json: not a nuScenes result file"), "{}", error);
            }
        }
    }

    #[test]
    fn scores_of_any_valid_boxes_are_within_bounds(
        seeds in prop::collection::vec((0usize..3, 0u8..5, 0i8..4, 0i8..4, 0u8..4), 0..60),
    ) {
        let (mut labels, mut predictions) = (Results::default(), Results::default());
        for token in ["a", "b", "c"] {
            labels.results.insert(token.to_owned(), vec![]);
            predictions.results.insert(token.to_owned(), vec![]);
        }
        for (sample, kind, x, y, score) in seeds {
            let token = ["a", "b", "c"][sample];
            let score = if kind < 2 { -1.0 } else { f64::from(score) / 3.0 };
            let side = if kind < 2 { &mut labels } else { &mut predictions };
            let found = sample_box(token, "car", f64::from(x) * 0.7, f64::from(y) * 0.7, score);
            side.results.get_mut(token).unwrap().push(found);
        }
        let config = nuscenes::Config::demo();
        let metrics = nuscenes::evaluate(&labels, &predictions, &config).unwrap();
        let car = &metrics.classes[0];
        prop_assert!(car.aps.iter().all(|ap| (0.0..=1.0 + 1e-9).contains(ap)), "{:?}", car.aps);
        prop_assert!((0.0..=1.0).contains(&metrics.nd_score));
        let metrics = t4::evaluate(&labels, &predictions, &t4::Config::default()).unwrap();
        prop_assert!(metrics.map.is_nan() || (0.0..=1.0 + 1e-9).contains(&metrics.map));
    }
}
