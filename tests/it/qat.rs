//! `cp-build qat`: training in INT8 from the command line, on a small network.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use centerpoint::Plan;

use crate::toy::{self, Net, built, refused};

/// A model and 8 frames with labels: two objects each.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy::write_model(folder.path(), "model", Net::new());
    toy::write_frames(folder.path(), "frames", 8);
    let object = |frame: usize, name: &str, x: f64| {
        serde_json::json!({
            "sample_token": format!("frames{frame:03}"),
            "translation": [x, 1.0 - x, 1.0],
            "size": [1.9, 4.5, 1.6],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "velocity": [1.0, null],
            "detection_name": name,
            "detection_score": -1.0,
            "attribute_name": "",
            "num_pts": 5,
        })
    };
    let model = centerpoint::Model::read(&folder.path().join("model/model.toml")).unwrap();
    let results: serde_json::Map<String, serde_json::Value> = (0..8)
        .map(|frame| {
            let boxes = model.classes.iter().enumerate();
            let boxes = boxes.map(|(i, name)| object(frame, name, i as f64 * 3.0 - 4.0));
            (format!("frames{frame:03}"), boxes.collect())
        })
        .collect();
    let labels = serde_json::json!({"meta": {}, "results": results});
    std::fs::write(folder.path().join("labels.json"), labels.to_string()).unwrap();
    folder
}

const BASE: &[&str] = &[
    "qat",
    "--model",
    "model",
    "--pcd",
    "frames",
    "--recipe",
    "nvidia",
    "--allow-low-sqnr",
];

fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [BASE, args].concat()
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
fn a_training_brings_the_network_closer_to_the_float_one_and_records_it() {
    let folder = folder();
    let path = folder.path();
    let args = with(&[
        "--out", "a.plan", "--steps", "60", "--check", "20", "--rate", "0.00001", "--log", "a.csv",
    ]);
    let (text, _) = built(path, &args);
    assert!(text.contains("trained weights"), "{text}");
    let plan = Plan::open(&path.join("a.plan")).unwrap();
    let manifest = serde_json::to_value(plan.manifest()).unwrap();
    let record = &manifest["quantization"];
    let training = &record["training"];
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    assert!(
        number(&training["best"]) > number(&training["before"]) + 0.2,
        "{training}"
    );
    assert_eq!(number(&training["best"]), number(&record["sqnr"]["figure"]));
    assert_eq!(training["frames"], 6);
    assert_eq!(record["config"]["qat"]["steps"], 60);
    let log = std::fs::read_to_string(path.join("a.csv")).unwrap();
    let rows: Vec<&str> = log.lines().collect();
    assert_eq!(rows.len(), 61);
    assert_eq!(rows[0], "step,rate,loss,gradient_norm,SQNR");
    assert!(rows[19].ends_with(',') && !rows[20].ends_with(','), "{log}");
}

#[test]
fn a_network_with_weights_of_4_bits_is_trained_and_keeps_them() {
    let folder = folder();
    let path = folder.path();
    let base = ["--weight-bits", "4", "--rounding", "gptq", "--out"];
    let train = ["--steps", "40", "--check", "10", "--rate", "0.00001"];
    let (text, _) = built(path, &with(&[&base[..], &["a.plan"], &train].concat()));
    assert!(text.contains("trained weights"), "{text}");
    assert!(text.contains("4-bit weights, gptq"), "{text}");
    let plan = Plan::open(&path.join("a.plan")).unwrap();
    let manifest = serde_json::to_value(plan.manifest()).unwrap();
    let record = &manifest["quantization"];
    let [before, best] = ["before", "best"].map(|key| record["training"][key].as_f64().unwrap());
    assert!(best > before, "{before} {best}");
    let quantizers = record["quantizers"].as_array().unwrap();
    let weights = quantizers.iter().filter(|q| q["kind"] == "weight");
    assert!(weights.clone().count() > 0);
    for weight in weights {
        assert_eq!(weight["bits"], 4, "{weight}");
    }
}

/// The ranges of the activations in a plan.
fn ranges(path: &Path) -> Vec<f64> {
    let plan = Plan::open(path).unwrap();
    let manifest = serde_json::to_value(plan.manifest()).unwrap();
    let quantizers = manifest["quantization"]["quantizers"].as_array().unwrap();
    let activations = quantizers.iter().filter(|q| q["kind"] == "activation");
    activations
        .map(|q| q["amax"][0].as_f64().unwrap())
        .collect()
}

#[test]
fn scales_are_trained_and_written_unless_their_rate_is_0() {
    let folder = folder();
    let path = folder.path();
    let quantize = [
        "quantize", "--model", "model", "--pcd", "frames", "--recipe", "nvidia",
    ];
    built(
        path,
        &[&quantize[..], &["--allow-low-sqnr", "--out", "ptq.plan"]].concat(),
    );
    let before = ranges(&path.join("ptq.plan"));
    for (rate, out) in [("1", "trained.plan"), ("0", "fixed.plan")] {
        let args = [
            "--steps",
            "60",
            "--check",
            "10",
            "--rate",
            "0.00001",
            "--scale-rate",
            rate,
        ];
        let (text, _) = built(path, &with(&[&args[..], &["--out", out]].concat()));
        assert!(text.contains("trained weights"), "{text}");
    }
    assert_eq!(before, ranges(&path.join("fixed.plan")));
    let after = ranges(&path.join("trained.plan"));
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(moved, before.len(), "{before:?} {after:?}");
}

#[test]
fn bytes_do_not_depend_on_threads_and_survive_a_kill() {
    let folder = folder();
    let path = folder.path();
    let train = ["--steps", "60", "--check", "5", "--rate", "0.001", "--out"];
    for (out, threads) in [("one.plan", "1"), ("two.plan", "2"), ("again.plan", "2")] {
        built(
            path,
            &with(&[&train[..], &[out, "--threads", threads]].concat()),
        );
    }
    let expected = read(path, "one.plan");
    assert_eq!(expected, read(path, "two.plan"));
    assert_eq!(expected, read(path, "again.plan"));

    // Killed after the first measurement that was written; whatever the time, the rest gives the same bytes.
    let rest = [&train[..], &["rest.plan", "--state", "state"]].concat();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cp-build"))
        .current_dir(path)
        .args(with(&rest))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !path.join("state").exists() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "no state");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if path.join("state").exists() {
        // Of another training, or damaged: refused, and left where it is.
        let other = with(&[
            "--steps", "70", "--check", "5", "--out", "b.plan", "--state", "state",
        ]);
        let message = refused(path, &other, 4);
        assert!(message.contains("other options"), "{message}");
        let state = read(path, "state");
        std::fs::write(path.join("cut"), &state[..state.len() - 4]).unwrap();
        let cut = [&train[..], &["b.plan", "--state", "cut"]].concat();
        assert!(refused(path, &with(&cut), 4).contains("cut short"));
    }
    built(path, &with(&rest));
    assert_eq!(expected, read(path, "rest.plan"));
    assert!(!path.join("state").exists());
}

#[test]
fn labels_train_too_and_a_useless_training_keeps_the_first_network() {
    let folder = folder();
    let path = folder.path();
    built(
        path,
        &[
            "quantize",
            "--model",
            "model",
            "--pcd",
            "frames",
            "--recipe",
            "nvidia",
            "--allow-low-sqnr",
            "--out",
            "ptq.plan",
        ],
    );
    // A rate that only destroys.
    let args = [
        "--steps", "4", "--check", "2", "--rate", "0.5", "--out", "bad.plan",
    ];
    let (text, warning) = built(path, &with(&args));
    assert!(text.contains("the weights before the training"), "{text}");
    assert!(warning.contains("did not help"), "{warning}");
    let weights = |name: &str| {
        let plan = Plan::open(&path.join(name)).unwrap();
        plan.section("weights").unwrap().as_ref().to_vec()
    };
    assert_eq!(weights("ptq.plan"), weights("bad.plan"));

    let labels = [
        "--steps",
        "20",
        "--check",
        "10",
        "--labels",
        "labels.json",
        "--schedule",
        "nvidia",
    ];
    let (text, _) = built(
        path,
        &with(
            &[
                &labels[..],
                &["--select", "map", "--out", "l.plan", "--log", "l.csv"],
            ]
            .concat(),
        ),
    );
    assert!(text.contains("mAP"), "{text}");
    let log = std::fs::read_to_string(path.join("l.csv")).unwrap();
    let loss: Vec<f64> = log
        .lines()
        .skip(1)
        .map(|row| row.split(',').nth(2).unwrap().parse().unwrap())
        .collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&loss[15..]) < mean(&loss[..5]), "{loss:?}");

    let without = with(&["--loss", "labels", "--out", "x.plan"]);
    assert!(refused(path, &without, 2).contains("--labels"));
    let frozen = with(&["--freeze", "*", "--out", "x.plan"]);
    assert!(refused(path, &frozen, 2).contains("qat.train_layers"));
    std::fs::write(path.join("few.json"), r#"{"meta": {}, "results": {}}"#).unwrap();
    let few = with(&["--labels", "few.json", "--out", "x.plan"]);
    assert!(refused(path, &few, 3).contains("frames000"));
}
