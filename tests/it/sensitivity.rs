//! `cp-build sensitivity` on a small model: it measures the networks that `cp-build quantize` builds.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use centerpoint::Plan;
use centerpoint::internals::build::sensitivity::Report;
use serde_json::Value;

use crate::toy::{self, Net, build, built, refused};

/// A folder with a model, frames to calibrate on and frames to measure on. The labels are the boxes detected by the
/// float network, so its mAP is the maximum for these scores.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy::write_model(folder.path(), "model", Net::new());
    toy::write_frames(folder.path(), "calib", 4);
    toy::write_frames(folder.path(), "frames", 4);
    let compile = [
        "compile",
        "--model",
        "model",
        "--target",
        "cpu",
        "--out",
        "fp32.plan",
    ];
    built(folder.path(), &compile);
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(folder.path())
        .args(["--engine", "fp32.plan", "--pcd", "frames"])
        .args(["--format", "nuscenes", "--out", "labels.json"])
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    folder
}

const ARGS: [&str; 9] = [
    "sensitivity",
    "--model",
    "model",
    "--frames",
    "frames",
    "--calibrate-on",
    "calib",
    "--out",
    "report.json",
];

fn read(path: &Path) -> Report {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn mean_ap(folder: &Path, plan: &str) -> f64 {
    let eval = [
        "eval", "--plan", plan, "--frames", "frames", "--format", "json",
    ];
    let (json, _) = built(folder, &eval);
    let json: Value = serde_json::from_str(&json).unwrap();
    json["mean_ap"].as_f64().unwrap()
}

#[test]
fn quantize_builds_the_mix_that_sensitivity_measured() {
    let folder = folder();
    let args = [
        &ARGS[..],
        &["--budget", "0.003", "--skip-list", "skip.toml"],
    ]
    .concat();
    let (text, _) = built(folder.path(), &args);
    let report = read(&folder.path().join("report.json"));
    let layers = report.layers.len();
    assert_eq!(layers, 10);
    assert_eq!(report.layers[0].name, "blocks.0");
    // 8 channels with 2 × 9 weights each, at 256 cells.
    assert_eq!(report.layers[0].macs, 8 * 2 * 9 * 256);
    assert_eq!(report.ranking.len(), layers);
    assert!(report.measurements.len() >= 2 + 2 * layers);
    assert!(
        text.contains("searching for a drop of at most 0.003 mAP"),
        "{text}"
    );

    // The float network and all layers in INT8, measured with the user's programs.
    let float = report.float().unwrap();
    assert_eq!(float.mean_ap, Some(mean_ap(folder.path(), "fp32.plan")));
    let quantize = ["quantize", "--model", "model", "--frames", "calib"];
    let whole = [&quantize[..], &["--recipe", "custom", "--out", "int8.plan"]].concat();
    built(folder.path(), &whole);
    let int8 = report.int8().unwrap();
    assert_eq!(int8.mean_ap, Some(mean_ap(folder.path(), "int8.plan")));
    assert!(int8.objects > 10.0 && int8.objects < 60.0, "{int8:?}");

    // The mix.
    let search = report.search.clone().unwrap();
    let mixed = [
        &quantize[..],
        &["--config", "skip.toml", "--out", "mix.plan"],
    ]
    .concat();
    let (_, warnings) = built(folder.path(), &mixed);
    assert_eq!(warnings, "");
    assert_eq!(
        search.measured.mean_ap,
        Some(mean_ap(folder.path(), "mix.plan"))
    );
    let plan = Plan::open(&folder.path().join("mix.plan")).unwrap();
    let record = plan.manifest().quantization.as_ref().unwrap();
    assert_eq!(record.float, search.skip);
    assert!(search.measured.drop_from(float).unwrap() <= 0.003);
    assert!(!search.skip.is_empty() && search.skip.len() < layers);
}

#[test]
fn sqnr_matches_that_of_the_plans_held_out_frames() {
    let folder = folder();
    std::fs::remove_file(folder.path().join("labels.json")).unwrap();
    let args = ["sensitivity", "--model", "model", "--frames", "calib"];
    let args = [&args[..], &["--out", "report.json", "--min-sqnr", "200"]].concat();
    let message = refused(folder.path(), &args, 3);
    assert!(message.contains("one frame to measure on"), "{message}");
    let args = [&args[..], &["--allow-low-sqnr"]].concat();
    let run = build(folder.path(), &args);
    assert_eq!(run.status.code(), Some(7));
    let message = String::from_utf8(run.stderr).unwrap();
    assert!(message.contains("200 dB"), "{message}");
    // The report still has all measurements.
    let report = read(&folder.path().join("report.json"));
    let quantize = ["quantize", "--model", "model", "--frames", "calib"];
    let quantize = [&quantize[..], &["--recipe", "custom", "--out", "int8.plan"]].concat();
    built(folder.path(), &quantize);
    let plan = Plan::open(&folder.path().join("int8.plan")).unwrap();
    let sqnr = plan.manifest().quantization.clone().unwrap().sqnr.unwrap();
    assert_eq!(sqnr.frames, 1);
    let mean = |values: Vec<f64>| {
        let noise: f64 = values.iter().map(|db| 10_f64.powf(-db / 10.0)).sum();
        -10.0 * (noise / values.len() as f64).log10()
    };
    let measured = report.int8().unwrap();
    let all = mean(sqnr.outputs.iter().map(|o| o.all).collect());
    let objects = mean(sqnr.outputs.iter().map(|o| o.objects).collect());
    assert!((measured.all - all).abs() < 1e-9, "{measured:?} {all}");
    assert!(
        (measured.objects - objects).abs() < 1e-9,
        "{measured:?} {objects}"
    );
    assert_eq!(measured.mean_ap, None);
}

#[test]
fn a_second_run_yields_the_same_report_and_other_inputs_are_refused() {
    let folder = folder();
    let path = folder.path().join("report.json");
    built(folder.path(), &ARGS);
    let first = std::fs::read(&path).unwrap();
    // Simulate an interrupted run by removing half of the measurements.
    let mut half: Value = serde_json::from_slice(&first).unwrap();
    let measurements = half["measurements"].as_object_mut().unwrap();
    let keep = measurements.len() / 2;
    *measurements = measurements.clone().into_iter().take(keep).collect();
    half.as_object_mut().unwrap().remove("ranking");
    std::fs::write(&path, half.to_string()).unwrap();
    let (text, _) = built(folder.path(), &[&ARGS[..], &["--threads", "1"]].concat());
    assert!(std::fs::read(&path).unwrap() == first);
    assert!(
        text.contains("alone mAP") && text.contains("deblocks.0"),
        "{text}"
    );

    std::fs::write(folder.path().join("q.toml"), "[calibration]\nbins = 1024\n").unwrap();
    let other = [&ARGS[..], &["--config", "q.toml"]].concat();
    let message = refused(folder.path(), &other, 6);
    assert!(
        message.contains("config.calibration.bins was 2048, now 1024"),
        "{message}"
    );
    assert!(
        std::fs::read(&path).unwrap() == first,
        "the report is untouched"
    );
    let fewer = [&ARGS[..], &["--limit", "2"]].concat();
    assert!(refused(folder.path(), &fewer, 6).contains("frames was "));
}

#[test]
fn an_empty_set_of_layers_is_an_error() {
    let folder = folder();
    std::fs::write(
        folder.path().join("q.toml"),
        "[placement]\nskip = [\"*\"]\n",
    )
    .unwrap();
    let args = [&ARGS[..], &["--config", "q.toml"]].concat();
    let message = refused(folder.path(), &args, 2);
    assert!(
        message.contains("no layer is left to quantise"),
        "{message}"
    );
    let both = [&ARGS[..], &["--budget", "0.1", "--min-sqnr", "3"]].concat();
    let run = toy::build(folder.path(), &both);
    assert_eq!(run.status.code(), Some(2));
}
