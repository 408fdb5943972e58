//! The main use: the shipped plans on the shipped frames.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use crate::common::repository;
use centerpoint::Plan;
use centerpoint::build::Folder;
use centerpoint::internals::eval::nuscenes::{Config, evaluate};
use centerpoint::internals::results::nuscenes::Results;

const FP32: &str = "engines/demo/fp32.plan";
pub(crate) const INT8: &str = "engines/demo/int8.plan";
const FRAMES: &str = "calib/demo/frames";

pub(crate) fn infer(plan: &str, args: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(repository())
        .args(["--engine", plan])
        .args(args)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{args:?}: {errors}");
    run
}

#[test]
fn the_readmes_command_prints_boxes_and_draws_them() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("boxes.png");
    let frame = format!("{FRAMES}/000003.bin");
    let run = infer(INT8, &["--pcd", &frame, "--bev", picture.to_str().unwrap()]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(
        text.contains("000003.bin") && text.contains("car"),
        "{text}"
    );
    assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn runs_on_one_and_two_threads_return_the_same_bytes() {
    check_runs(4);
}

#[test]
#[ignore = "nightly: takes a minute"]
fn twenty_runs_on_one_and_two_threads_return_the_same_bytes() {
    check_runs(20);
}

fn check_runs(count: usize) {
    for plan in [FP32, INT8] {
        let run = |threads: &str| {
            let args = ["--pcd", FRAMES, "--format", "json", "--threads", threads];
            infer(plan, &args).stdout
        };
        let first = run("1");
        assert_eq!(first.iter().filter(|&&byte| byte == b'\n').count(), 16);
        for i in 0..count {
            let threads = ["1", "2"][i % 2];
            assert!(
                run(threads) == first,
                "{plan}: run {i} on {threads} threads differs"
            );
        }
    }
}

/// The threshold is well below the measured value: this finds a broken stage, not a change of accuracy. Both
/// plans run on the same 16 frames, so their difference is due to the precision.
#[test]
fn both_plans_find_the_demo_frames_objects() {
    let folder = tempfile::tempdir().unwrap();
    let labels = Results::read(&repository().join("calib/demo/labels.json")).unwrap();
    let classes = ["car", "truck", "bus", "bicycle", "pedestrian"];
    let mean_ap = |plan: &str| {
        let out = folder.path().join("results.json");
        let to = out.to_str().unwrap();
        infer(
            plan,
            &["--pcd", FRAMES, "--format", "nuscenes", "--out", to],
        );
        let found = Results::read(&out).unwrap();
        let scores = evaluate(&labels, &found, &Config::for_classes(classes)).unwrap();
        scores.mean_ap
    };
    let (fp32, int8) = (mean_ap(FP32), mean_ap(INT8));
    assert!(fp32 > 0.5, "mAP {fp32}");
    assert!((fp32 - int8).abs() < 0.02, "mAP {fp32} and {int8}");
}

#[test]
fn compiling_the_shipped_model_reproduces_the_shipped_plan() {
    let shipped = repository().join(FP32);
    let accuracy = Plan::open(&shipped).unwrap().manifest().accuracy.clone();
    assert!(
        accuracy.is_some(),
        "the shipped plan carries its measured accuracy"
    );
    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("again.plan");
    let model = Folder::read(&repository().join("engines/demo")).unwrap();
    model.compile_cpu(&again, accuracy).unwrap();
    assert!(std::fs::read(shipped).unwrap() == std::fs::read(again).unwrap());
}

/// `best` measured its candidates when the plan was made; this rebuilds the chosen one.
#[test]
fn quantising_the_shipped_model_reproduces_the_shipped_int8_plan() {
    let shipped = Plan::open(&repository().join(INT8)).unwrap();
    let manifest = shipped.manifest();
    assert!(manifest.accuracy.is_some(), "it carries its accuracy");
    let record = manifest.quantization.as_ref().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("quantize.toml");
    std::fs::write(&config, toml::to_string(&record.config).unwrap()).unwrap();
    let again = folder.path().join("again.plan");
    let run = Command::new(env!("CARGO_BIN_EXE_cp-build"))
        .current_dir(repository())
        .args(["quantize", "--model", "engines/demo"])
        .args(["--frames", "calib/demo", "--recipe", "custom", "--config"])
        .arg(&config)
        .arg("--out")
        .arg(&again)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{errors}");
    let again = Plan::open(&again).unwrap();
    for section in ["pfn", "program", "weights"] {
        let bytes = |plan: &Plan| plan.section(section).unwrap().as_ref().to_vec();
        assert!(bytes(&shipped) == bytes(&again), "section `{section}`");
    }
    let hashes = |plan: &Plan| plan.manifest().inputs.clone();
    assert_eq!(hashes(&shipped), hashes(&again));
}
