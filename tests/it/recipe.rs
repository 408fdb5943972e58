//! From the demo model and its frames to INT8 plans.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use centerpoint::build::{ConfigOverrides, Folder, Job, Network, Outcome, Progress, quantize};
use centerpoint::internals::build::config::Recipe;
use centerpoint::points::ReadOptions;
use centerpoint::{Detector, Layout, Options, Plan, points};

use crate::common::repository;

struct Silent;

impl Progress for Silent {
    fn begin_at(&self, _: &str, _: usize, _: usize) {}
    fn advance(&self) {}
}

/// Quantises the demo model on `limit` frames.
fn quantized(recipe: &str, limit: i64, threads: usize, out: &Path) -> Outcome {
    let folder = Folder::read(&repository().join("engines/demo")).unwrap();
    let frames = points::list_frames(&[repository().join("calib/demo")], false);
    let mut overrides = ConfigOverrides::default();
    overrides.set("recipe", recipe);
    overrides.set("frames.limit", limit);
    overrides.set("frames.held_out", 3);
    let job = Job {
        folder: &folder,
        frames: &frames,
        layout: None,
        allow_low_sqnr: false,
        overrides: &overrides,
        scales: None,
        calibration: None,
        training: None,
        threads,
    };
    let outcome = quantize(&job, &Silent).unwrap();
    let network = Network {
        payload: &outcome.payload,
        pfn: &outcome.pfn,
        steps: outcome.steps.clone(),
        quantization: Some(outcome.record.clone()),
    };
    folder.write_cpu(out, network, None).unwrap();
    outcome
}

#[test]
fn the_plan_records_its_origin_and_detects_the_same_objects_as_the_float_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one.plan"), dir.path().join("two.plan"));
    let outcome = quantized("custom", 6, 1, &one);
    quantized("custom", 6, 3, &two);
    assert_eq!(
        std::fs::read(&one).unwrap(),
        std::fs::read(&two).unwrap(),
        "the bytes depend on the number of threads"
    );
    let plan = Plan::open(&one).unwrap();
    let manifest = plan.manifest();
    assert_eq!(manifest.target.precision, "int8");
    let record = manifest.quantization.as_ref().unwrap();
    assert_eq!(record, &outcome.record);
    assert_eq!((record.int8.len(), record.float.len()), (28, 0));
    assert_eq!(record.config.recipe, Recipe::Custom);
    assert_eq!(record.calibration.frames, 4);
    let sqnr = record.sqnr.as_ref().unwrap();
    assert_eq!((sqnr.frames, sqnr.outputs.len()), (2, 6));
    assert!(sqnr.figure > 28.0, "{sqnr:?}");
    assert!(sqnr.object_cells > 100, "{sqnr:?}");

    let frame = points::list_frames(&[repository().join("calib/demo")], false).remove(0);
    let options = ReadOptions {
        layout: None,
        default_layout: Layout::new(&plan.model().points.columns).unwrap(),
    };
    let cloud = points::read(&frame, &options).unwrap();
    let boxes = |plan: &Path| {
        let mut detector = Detector::load(plan, &Options::default()).unwrap();
        detector.detect(&cloud).unwrap().boxes.to_vec()
    };
    let (float, int8) = (
        boxes(&repository().join("engines/demo/fp32.plan")),
        boxes(&one),
    );
    let sure: Vec<_> = float.iter().filter(|b| b.score > 0.5).collect();
    assert!(sure.len() >= 3, "{}", sure.len());
    for expected in sure {
        let same = |b: &&centerpoint::Box3d| {
            let distance =
                (b.center[0] - expected.center[0]).hypot(b.center[1] - expected.center[1]);
            b.class == expected.class && distance < 0.2 && (b.score - expected.score).abs() < 0.1
        };
        assert!(int8.iter().any(|b| same(&b)), "{expected:?}");
    }
}

#[test]
fn nvidia_leaves_deconvolutions_in_float_and_is_less_accurate() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = quantized("nvidia", 6, 2, &dir.path().join("nvidia.plan"));
    let record = &outcome.record;
    let deblocks = [0, 1, 2].map(|i| format!("pts_neck.deblocks.{i}.0"));
    assert_eq!(record.float, deblocks);
    assert_eq!(record.int8.len(), 25);
    let custom = quantized("custom", 6, 2, &dir.path().join("custom.plan"));
    let figure = |outcome: &Outcome| outcome.record.sqnr.as_ref().unwrap().figure;
    assert!(figure(&custom) > figure(&outcome) + 10.0);
    // The plan records values beyond the ranges.
    let saturated = record.quantizers.iter().filter_map(|q| q.saturated);
    assert!(saturated.fold(0.0, f64::max) > 0.0);
}

fn build(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cp-build"))
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .arg("quantize")
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn the_command_reports_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let (model, frames) = (
        repository().join("engines/demo"),
        repository().join("calib/demo"),
    );
    let base = [
        "--model",
        model.to_str().unwrap(),
        "--frames",
        frames.to_str().unwrap(),
        "--out",
        "int8.plan",
    ];
    std::fs::write(
        dir.path().join("q.toml"),
        "frames = { limit = 2, held_out = 2 }",
    )
    .unwrap();
    let args = [
        "--config",
        "q.toml",
        "--skip",
        "pts_bbox_head.*",
        "--skip",
        "none.*",
    ];
    let run = build(
        dir.path(),
        &[&base[..], &args, &["--onnx", "onnx"]].concat(),
    );
    let (out, err) = (text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(0), "{err}");
    assert!(
        out.contains("int8.plan: cpu int8, 15 layers in INT8, 13 in float"),
        "{out}"
    );
    assert!(
        out.contains("dB on 1 frames") && out.contains("MB"),
        "{out}"
    );
    assert!(
        err.contains("\"none.*\"") && !err.contains("\"pts_bbox_head.*\""),
        "{err}"
    );
    assert!(Plan::open(&dir.path().join("int8.plan")).is_ok());
    let written = Folder::read(&dir.path().join("onnx")).unwrap();
    assert_eq!(written.quantization.unwrap().int8.len(), 15);

    for (args, status, needles) in [
        (&["--method", "median"][..], 2, ["median", "`mse`"]),
        (&["--equalize", "2"], 2, ["`equalize.alpha` is 2", "0 to 1"]),
        (
            &["--recipe", "nvidia", "--method", "max"],
            2,
            ["\"mse\"", "--recipe custom"],
        ),
        (
            &["--recipe", "best", "--limit", "3"],
            2,
            ["`frames.held_out`", "held-out"],
        ),
        (&["--config", "none.toml"], 2, ["none.toml", "cannot read"]),
    ] {
        let run = build(dir.path(), &[&base[..], args].concat());
        let err = text(&run.stderr);
        assert_eq!(run.status.code(), Some(status), "{err}");
        for needle in needles {
            assert!(err.contains(needle), "{needle}: {err}");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
