//! Weights of 4 bits and the choice of their codes, through the binary, on the demo model.

use std::path::Path;

use centerpoint::points::ReadOptions;
use centerpoint::{Box3d, Detector, Layout, Options, Plan, points};

use crate::common::repository;
use crate::toy::{built, refused};

/// Quantises the demo model on eight of its frames.
fn quantize(folder: &Path, args: &[&str]) -> (String, String) {
    built(folder, &[&base()[..], args].concat())
}

fn base() -> Vec<&'static str> {
    static PATHS: std::sync::OnceLock<[String; 2]> = std::sync::OnceLock::new();
    let [model, frames] = PATHS.get_or_init(|| {
        ["engines/demo", "calib/demo"].map(|path| repository().join(path).display().to_string())
    });
    vec![
        "quantize",
        "--model",
        model,
        "--frames",
        frames,
        "--limit",
        "8",
        "--recipe",
        "custom",
        "--equalize",
        "0.75",
        "--method",
        "mse",
    ]
}

fn boxes(plan: &Path) -> Vec<Box3d> {
    let frame = points::list_frames(&[repository().join("calib/demo")], false).remove(0);
    let mut detector = Detector::load(plan, &Options::default()).unwrap();
    let options = ReadOptions {
        layout: None,
        default_layout: Layout::new(&Plan::open(plan).unwrap().model().points.columns).unwrap(),
    };
    let cloud = points::read(&frame, &options).unwrap();
    detector.detect(&cloud).unwrap().boxes.to_vec()
}

fn figure(plan: &Path) -> f64 {
    let manifest = serde_json::to_value(Plan::open(plan).unwrap().manifest()).unwrap();
    manifest["quantization"]["sqnr"]["figure"].as_f64().unwrap()
}

#[test]
fn a_plan_of_4_bits_is_smaller_and_finds_the_same_objects() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let four = ["--weight-bits", "4"];
    quantize(path, &["--out", "w8.plan"]);
    quantize(path, &[&four[..], &["--out", "near.plan"]].concat());
    let gptq = [&four[..], &["--rounding", "gptq"]].concat();
    let (text, _) = quantize(
        path,
        &[
            &gptq[..],
            &["--out", "w4.plan", "--threads", "1", "--onnx", "onnx"],
        ]
        .concat(),
    );
    assert!(text.contains("4-bit weights, gptq"), "{text}");
    quantize(
        path,
        &[&gptq[..], &["--out", "two.plan", "--threads", "2"]].concat(),
    );
    let bytes = |name: &str| std::fs::read(path.join(name)).unwrap();
    assert_eq!(bytes("w4.plan"), bytes("two.plan"), "threads");
    let len = |name: &str| bytes(name).len() as f64;
    assert!(len("w4.plan") < 0.65 * len("w8.plan"));
    let [eight, near, four] =
        ["w8", "near", "w4"].map(|name| figure(&path.join(name.to_owned() + ".plan")));
    assert!(near + 2.0 < four && four < eight, "{near} {four} {eight}");

    let float = boxes(&repository().join("engines/demo/fp32.plan"));
    let found = boxes(&path.join("w4.plan"));
    let sure: Vec<_> = float.iter().filter(|b| b.score > 0.5).collect();
    assert!(sure.len() >= 3, "{}", sure.len());
    for expected in sure {
        let same = |b: &Box3d| {
            let distance =
                (b.center[0] - expected.center[0]).hypot(b.center[1] - expected.center[1]);
            b.class == expected.class && distance < 0.4 && (b.score - expected.score).abs() < 0.2
        };
        assert!(found.iter().any(same), "{expected:?}");
    }

    let record =
        serde_json::to_value(Plan::open(&path.join("w4.plan")).unwrap().manifest()).unwrap();
    let record = &record["quantization"];
    assert_eq!(record["config"]["weights"]["rounding"], "gptq");
    let quantizers = record["quantizers"].as_array().unwrap();
    for quantizer in quantizers {
        let weight = quantizer["kind"] == "weight";
        assert_eq!(quantizer["bits"] == 4, weight, "{quantizer}");
    }
    let (text, _) = built(
        path,
        &["inspect", "w4.plan", "--show", "layers", "quantizers"],
    );
    assert!(text.contains("kB of weights of 4 bits"), "{text}");

    // The folder holds the same codes.
    built(path, &["compile", "--model", "onnx", "--out", "again.plan"]);
    let weights = |name: &str| {
        let plan = Plan::open(&path.join(name)).unwrap();
        plan.section("weights").unwrap().as_ref().to_vec()
    };
    assert_eq!(weights("w4.plan"), weights("again.plan"));
}

#[test]
fn layers_by_name_have_their_own_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let args = [
        "--weight-bits",
        "4=pts_backbone.*",
        "--weight-bits",
        "8=*.0.0",
        "--weight-bits",
        "4=none",
        "--out",
        "x.plan",
    ];
    let (_, err) = quantize(path, &args);
    assert!(err.contains("\"none\"") && !err.contains("*.0.0"), "{err}");
    let manifest =
        serde_json::to_value(Plan::open(&path.join("x.plan")).unwrap().manifest()).unwrap();
    let quantizers = manifest["quantization"]["quantizers"].as_array().unwrap();
    let mut counts = [0, 0];
    for quantizer in quantizers.iter().filter(|q| q["kind"] == "weight") {
        let layer = quantizer["layer"].as_str().unwrap();
        let four = layer.starts_with("pts_backbone.") && !layer.ends_with(".0.0");
        assert_eq!(quantizer["bits"] == 4, four, "{quantizer}");
        counts[usize::from(four)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    for (bits, needle) in [("3", "4 or 8"), ("x=*", "4 or 8"), ("", "weights.bits")] {
        let err = refused(
            path,
            &[&base()[..], &["--out", "y.plan", "--weight-bits", bits]].concat(),
            2,
        );
        assert!(err.contains(needle), "{err}");
    }
    let args = ["--out", "y.plan", "--rounding", "up"];
    let err = refused(path, &[&base()[..], &args].concat(), 2);
    assert!(err.contains("up") && err.contains("`adaround`"), "{err}");
}
