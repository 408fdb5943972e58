//! `cp-build qat`: training in INT8 from the command line, on a small network.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use centerpoint::Plan;

use crate::toy::{self, Net, built, refused};

/// A model and 8 frames with labels: two objects each.
pub(crate) fn folder() -> tempfile::TempDir {
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

/// Quantises a model with the recipe `nvidia`.
pub(crate) fn quantized(folder: &Path, model: &str, args: &[&str]) {
    let quantize = [
        "quantize",
        "--model",
        model,
        "--pcd",
        "frames",
        "--recipe",
        "nvidia",
        "--allow-low-sqnr",
    ];
    built(folder, &[&quantize[..], args].concat());
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
    quantized(path, "model", &["--out", "ptq.plan"]);
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

/// Runs `cp-build` until it has written the file `state`, and kills it. Returns whether it left the file: it may have been
/// quicker.
pub(crate) fn killed_after_state(folder: &Path, args: &[&str]) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cp-build"))
        .current_dir(folder)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !folder.join("state").exists() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "no state");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    folder.join("state").exists()
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
    if killed_after_state(path, &with(&rest)) {
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

/// The column of the losses in a table.
pub(crate) fn losses(path: &Path) -> Vec<f64> {
    let log = std::fs::read_to_string(path).unwrap();
    let rows = log.lines().skip(1);
    rows.map(|row| row.split(',').nth(2).unwrap().parse().unwrap())
        .collect()
}

#[test]
fn a_report_of_sensitivity_chooses_the_layers() {
    let folder = folder();
    let path = folder.path();
    let measure = [
        "sensitivity",
        "--model",
        "model",
        "--pcd",
        "frames",
        "--allow-low-sqnr",
        "--out",
        "r.json",
    ];
    built(path, &measure);
    let report: serde_json::Value = serde_json::from_slice(&read(path, "r.json")).unwrap();
    let ranking = report["ranking"].as_array().unwrap();
    let names = ranking.iter().map(|row| row["layer"].as_str().unwrap());
    let names: Vec<&str> = names.collect();
    assert_eq!(names.len(), 10);

    let args = ["--steps", "2", "--check", "2", "--sensitivity", "r.json"];
    let base = [
        "qat",
        "--model",
        "model",
        "--pcd",
        "frames",
        "--recipe",
        "best",
        "--allow-low-sqnr",
    ];
    for (share, count) in [(None, 5), (Some("0.21"), 3)] {
        let mut all = [&base[..], &args, &["--out", "a.plan"]].concat();
        if let Some(share) = share {
            all.extend(["--train-share", share]);
        }
        built(path, &all);
        let plan = Plan::open(&path.join("a.plan")).unwrap();
        let manifest = serde_json::to_value(plan.manifest()).unwrap();
        let layers = manifest["quantization"]["training"]["layers"].as_array();
        let layers = layers.unwrap().iter().map(|l| l.as_str().unwrap());
        let mut found: Vec<&str> = layers.collect();
        let mut expected = names[names.len() - count..].to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    let refuse = |extra: &[&str]| {
        let all = [&base[..], extra, &["--out", "x.plan"]].concat();
        refused(path, &all, 6)
    };
    for (extra, expected) in [
        (["--train-layers", "*"], "cannot be used with"),
        (["--train-share", "0"], "above 0"),
    ] {
        let all = [
            &base[..],
            &["--sensitivity", "r.json", "--out", "x.plan"],
            &extra,
        ]
        .concat();
        let run = toy::build(path, &all);
        let message = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let mut cut = report.clone();
    cut.as_object_mut().unwrap().remove("ranking");
    std::fs::write(path.join("cut.json"), cut.to_string()).unwrap();
    let cut = refuse(&["--sensitivity", "cut.json"]);
    assert!(cut.contains("cut.json: the report is incomplete"), "{cut}");
    let mut other = report.clone();
    other["inputs"]["model.toml"] = "0123".into();
    std::fs::write(path.join("other.json"), other.to_string()).unwrap();
    let other = refuse(&["--sensitivity", "other.json"]);
    assert!(
        other.contains("another model: model.toml was 0123"),
        "{other}"
    );
}

#[test]
fn features_are_compared_too_if_their_loss_has_a_weight() {
    let folder = folder();
    let path = folder.path();
    let base = ["--steps", "12", "--check", "4", "--rate", "0.00001"];
    let run = |weight: &str| {
        let (plan, table) = (format!("{weight}.plan"), format!("{weight}.csv"));
        let args = ["--feature-weight", weight, "--out", &plan, "--log", &table];
        built(path, &with(&[&base[..], &args].concat()));
        (read(path, &plan), losses(&path.join(table)))
    };
    let (plain, without) = run("0");
    let (one, with_one) = run("1");
    let (_, with_two) = run("2");
    assert_ne!(plain, one);
    // Before the first step the networks are equal, and the loss is linear in the weight.
    let feature = with_one[0] - without[0];
    assert!(feature > 0.0, "{feature}");
    assert!((with_two[0] - without[0] - 2.0 * feature).abs() < 1e-6 * feature.max(1.0));

    let labels = [
        "--labels",
        "labels.json",
        "--loss",
        "labels",
        "--feature-weight",
        "1",
    ];
    let message = refused(
        path,
        &with(&[&labels[..], &["--out", "x.plan"]].concat()),
        2,
    );
    assert!(message.contains("qat.feature_weight"), "{message}");
}

#[test]
fn a_plot_shows_loss_and_figure() {
    let folder = folder();
    let path = folder.path();
    for name in ["a.svg", "a.png"] {
        let args = [
            "--steps", "6", "--check", "2", "--out", "a.plan", "--plot", name,
        ];
        built(path, &with(&args));
    }
    let svg = std::fs::read_to_string(path.join("a.svg")).unwrap();
    for part in [
        ">loss</text>",
        ">SQNR dB</text>",
        ">step</text>",
        "6 steps on 6 frames",
    ] {
        assert!(svg.contains(part), "{part}\n{svg}");
    }
    // A dot for each measurement.
    assert_eq!(svg.matches("<circle").count(), 3);
    assert!(read(path, "a.png").starts_with(b"\x89PNG"));
}

#[test]
fn what_is_left_out_is_told() {
    let folder = folder();
    let path = folder.path();
    let labels = std::fs::read_to_string(path.join("labels.json")).unwrap();
    let model = centerpoint::Model::read(&path.join("model/model.toml")).unwrap();
    let labels = labels.replace(&format!("\"{}\"", model.classes[0]), "\"submarine\"");
    std::fs::write(path.join("other.json"), labels).unwrap();
    let args = [
        "--steps",
        "2",
        "--check",
        "2",
        "--labels",
        "other.json",
        "--freeze",
        "nothing.*",
        "--out",
        "a.plan",
    ];
    let (_, warning) = built(path, &with(&args));
    assert!(
        warning.contains("ignored boxes of submarine (8)"),
        "{warning}"
    );
    assert_eq!(warning.matches("submarine").count(), 1, "{warning}");
    assert!(
        warning.contains("freeze pattern \"nothing.*\" matches no layer"),
        "{warning}"
    );
}

#[test]
fn labels_train_too_and_a_useless_training_keeps_the_first_network() {
    let folder = folder();
    let path = folder.path();
    quantized(path, "model", &["--out", "ptq.plan"]);
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
    let loss = losses(&path.join("l.csv"));
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

#[test]
fn the_pfn_is_trained_where_it_is_asked_for() {
    let folder = folder();
    let path = folder.path();
    let train = ["--steps", "20", "--check", "5", "--rate", "0.0001", "--out"];
    built(path, &with(&[&train[..], &["float.plan"]].concat()));
    let (text, _) = built(
        path,
        &with(&[&train[..], &["pfn.plan", "--train-pfn"]].concat()),
    );
    assert!(text.contains("trained weights"), "{text}");
    let pfn = |name: &str| {
        let plan = Plan::open(&path.join(name)).unwrap();
        plan.section("pfn").unwrap().as_ref().to_vec()
    };
    assert_ne!(pfn("float.plan"), pfn("pfn.plan"));
    let plan = Plan::open(&path.join("pfn.plan")).unwrap();
    let manifest = serde_json::to_value(plan.manifest()).unwrap();
    let layers = manifest["quantization"]["training"]["layers"].to_string();
    assert!(layers.contains("pfn_layers.0"), "{layers}");
    // The same with other threads.
    let two = [&train[..], &["two.plan", "--train-pfn", "--threads", "2"]].concat();
    built(path, &with(&two));
    assert_eq!(read(path, "pfn.plan"), read(path, "two.plan"));
}
