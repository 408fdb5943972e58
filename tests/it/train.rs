//! `cp-build train`: training in float from the command line, on a small network.

use std::path::Path;

use centerpoint::internals::build::onnx::Graph;

use crate::qat::{folder, killed_after_state, losses, quantized};
use crate::toy::{built, refused};

const BASE: &[&str] = &[
    "train",
    "--model",
    "model",
    "--pcd",
    "frames",
    "--labels",
    "labels.json",
    "--batch",
    "4",
];

fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [BASE, args].concat()
}

fn network(folder: &Path, name: &str) -> Graph {
    Graph::read(&folder.join(name).join("pts_backbone_neck_head.onnx")).unwrap()
}

#[test]
fn a_network_learns_from_nothing_and_keeps_its_normalisation() {
    let folder = folder();
    let path = folder.path();
    let args = [
        "--from-nothing",
        "--steps",
        "60",
        "--check",
        "20",
        "--rate",
        "0.01",
        "--no-augment",
        "--out",
        "new",
        "--log",
        "a.csv",
    ];
    let (text, _) = built(path, &with(&args));
    assert!(text.contains("trained on 6 frames"), "{text}");
    let losses = losses(&path.join("a.csv"));
    assert_eq!(losses.len(), 60);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[50..]) < 0.5 * mean(&losses[..5]), "{losses:?}");
    let (old, new) = (network(path, "model"), network(path, "new"));
    let nodes =
        |graph: &Graph| -> Vec<String> { graph.nodes().map(|n| n.op().to_owned()).collect() };
    assert_eq!(nodes(&old), nodes(&new));
    for name in ["blocks.0.weight", "norm.0.running_mean", "norm.up.weight"] {
        let values = |graph: &Graph| graph.floats(name).unwrap().unwrap().data;
        assert_ne!(values(&old), values(&new), "{name}");
    }
    let manifest = std::fs::read_to_string(path.join("new/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let record = &manifest["training"];
    assert_eq!(record["config"]["steps"], 60);
    assert_eq!(record["result"]["frames"], 6);

    // The new folder is one like any other.
    quantized(path, "new", &["--out", "q.plan"]);
    let again = [
        "train",
        "--model",
        "new",
        "--pcd",
        "frames",
        "--labels",
        "labels.json",
        "--steps",
        "2",
        "--out",
        "again",
    ];
    built(path, &again);
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_a_stop() {
    let folder = folder();
    let path = folder.path();
    let train = [
        "--from-nothing",
        "--steps",
        "12",
        "--check",
        "4",
        "--micro-batch",
        "3",
        "--out",
    ];
    for (out, threads) in [("one", "1"), ("two", "2")] {
        built(
            path,
            &with(&[&train[..], &[out, "--threads", threads]].concat()),
        );
    }
    let bytes = |name: &str| {
        ["pts_backbone_neck_head.onnx", "pts_voxel_encoder.onnx"]
            .map(|file| std::fs::read(path.join(name).join(file)).unwrap())
    };
    assert_eq!(bytes("one"), bytes("two"));
    let rest = with(&[&train[..], &["rest", "--state", "state"]].concat());
    let stopped = killed_after_state(path, &rest);
    if stopped {
        let other = with(&["--steps", "14", "--out", "b", "--state", "state"]);
        assert!(refused(path, &other, 4).contains("other options"));
        let labels = std::fs::read_to_string(path.join("labels.json")).unwrap();
        std::fs::write(path.join("labels.json"), labels.clone() + "\n").unwrap();
        let force = [&rest[..], &["--force"]].concat();
        assert!(refused(path, &force, 4).contains("labels"));
        std::fs::write(path.join("labels.json"), labels).unwrap();
    }
    let force = [&rest[..], &["--force"]].concat();
    built(path, &force);
    assert_eq!(bytes("one"), bytes("rest"));
    assert!(!path.join("state").exists());
}

#[test]
fn a_useless_training_keeps_the_weights() {
    let folder = folder();
    let path = folder.path();
    let args = [
        "--steps", "4", "--check", "2", "--rate", "0", "--freeze", "norm.*", "--out", "same",
    ];
    let (text, warning) = built(path, &with(&args));
    assert!(text.contains("the weights before the training"), "{text}");
    assert!(warning.contains("did not help"), "{warning}");
    let (old, new) = (network(path, "model"), network(path, "same"));
    for tensor in &old.proto().initializer {
        let values = |graph: &Graph| graph.floats(tensor.name()).unwrap().unwrap().data;
        assert_eq!(values(&old), values(&new), "{}", tensor.name());
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let folder = folder();
    let path = folder.path();
    let frozen = with(&["--freeze", "*", "--out", "x"]);
    assert!(refused(path, &frozen, 2).contains("a layer to train"));
    std::fs::write(path.join("few.json"), r#"{"meta": {}, "results": {}}"#).unwrap();
    let few = [
        "train", "--model", "model", "--pcd", "frames", "--labels", "few.json", "--out", "x",
        "--force",
    ];
    assert!(refused(path, &few, 3).contains("frames000"));
    quantized(path, "model", &["--out", "q.plan", "--onnx", "q"]);
    let quantised = [
        "train",
        "--model",
        "q",
        "--pcd",
        "frames",
        "--labels",
        "labels.json",
        "--out",
        "x",
        "--force",
    ];
    assert!(refused(path, &quantised, 4).contains("cp-build qat"));
}
