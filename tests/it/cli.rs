//! `cp-infer` as a program: its output and exit status.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{MODEL, write_kitti, write_plan};

/// Runs the tiny plan on both frames of [`folder`].
const FRAMES: [&str; 7] = [
    "--engine",
    "tiny.plan",
    "--pcd",
    "a.bin",
    "b.bin",
    "--layout",
    "kitti",
];

fn infer(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with the tiny plan and two frames, `a.bin` with two pillars and `b.bin` with one.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_plan(folder.path(), MODEL);
    write_kitti(
        &folder.path().join("a.bin"),
        &[[2.2, -3.7, 2.0, 0.0], [-7.9, 7.9, 0.25, 0.0]],
    );
    write_kitti(&folder.path().join("b.bin"), &[[0.5, 0.5, 3.0, 1.0]]);
    folder
}

#[test]
fn json_lines_have_the_documented_fields() {
    let folder = folder();
    let run = infer(
        folder.path(),
        &[
            "--engine",
            "tiny.plan",
            "--pcd",
            "a.bin",
            "b.bin",
            "--layout",
            "kitti",
            "--format",
            "json",
        ],
    );
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let lines: Vec<serde_json::Value> = text(&run.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[0]["frame"], &lines[0]["points"]),
        (&"a.bin".into(), &2.into())
    );
    let found = &lines[0]["boxes"][0];
    assert_eq!(found["class"], "tall");
    assert_eq!(found["center"], serde_json::json!([2.5, -3.5, 2.0]));
    assert_eq!(found["velocity"], serde_json::json!([3.0, -2.0]));
    assert_eq!(lines[0]["boxes"].as_array().unwrap().len(), 2);
    assert!(
        lines[0].get("times_ms").is_none(),
        "times differ from run to run: only when asked for"
    );
    for counter in [
        "non_finite",
        "out_of_range",
        "pillar_points",
        "pillars",
        "candidates",
    ] {
        assert_eq!(lines[0]["dropped"][counter], 0, "{counter}");
    }
}

#[test]
fn times_are_reported_on_request() {
    let folder = folder();
    let run = infer(
        folder.path(),
        &[
            "--engine",
            "tiny.plan",
            "--pcd",
            "a.bin",
            "--layout",
            "kitti",
            "--format",
            "json",
            "--times",
        ],
    );
    let line: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    for stage in [
        "read", "pillars", "features", "scatter", "engine", "decode", "nms", "total",
    ] {
        assert!(line["times_ms"][stage].as_f64().unwrap() >= 0.0, "{stage}");
    }
}

#[test]
fn a_profile_does_not_change_results() {
    let folder = folder();
    let frames = [&FRAMES[..], &["--format", "json"]].concat();
    let plain = infer(folder.path(), &frames);
    let profiled = infer(folder.path(), &[&frames[..], &["--profile"]].concat());
    assert!(profiled.status.success());
    assert_eq!(text(&profiled.stdout), text(&plain.stdout));
    assert!(plain.stderr.is_empty());

    let table = text(&profiled.stderr);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0].join(" "), "profile of 2 frames:", "{table}");
    let names: Vec<&str> = rows[2..].iter().map(|row| row[4]).collect();
    assert_eq!(
        names,
        ["heatmap", "reg", "height", "dim", "rot", "vel", "total"]
    );
    let number = |text: &str| text.parse::<f64>().unwrap();
    let layers: f64 = rows[2..8].iter().map(|row| number(row[0])).sum();
    assert!((number(rows[8][0]) - layers).abs() < 0.01, "{table}");
    assert_eq!(rows[8][3], "100.0");
}

#[test]
fn every_run_and_thread_count_returns_the_same_bytes() {
    let folder = folder();
    let run = |threads: &str| {
        let args = [
            "--engine",
            "tiny.plan",
            "--pcd",
            ".",
            "--layout",
            "kitti",
            "--format",
            "json",
        ];
        let run = infer(
            folder.path(),
            &[&args[..], &["--threads", threads]].concat(),
        );
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        run.stdout
    };
    let first = run("1");
    assert!(!first.is_empty());
    for threads in ["1", "2", "3", "0"] {
        assert_eq!(run(threads), first, "{threads} threads");
    }
}

#[test]
fn a_bin_has_the_plans_columns() {
    let folder = folder();
    let rows: [[f32; 3]; 1] = [[2.2, -3.7, 2.0]];
    let bytes: Vec<u8> = rows
        .iter()
        .flatten()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    std::fs::write(folder.path().join("c.bin"), bytes).unwrap();
    let run = infer(
        folder.path(),
        &[
            "--engine",
            "tiny.plan",
            "--pcd",
            "c.bin",
            "--format",
            "json",
        ],
    );
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert!(text(&run.stdout).contains("\"points\":1"));
}

#[test]
fn a_bad_frame_is_reported_and_the_others_are_processed() {
    let folder = folder();
    std::fs::write(folder.path().join("bad.bin"), [0; 17]).unwrap();
    let run = infer(
        folder.path(),
        &[
            "--engine",
            "tiny.plan",
            "--pcd",
            "a.bin",
            "bad.bin",
            "gone.bin",
            "b.bin",
            "--layout",
            "kitti",
            "--format",
            "json",
        ],
    );
    assert_eq!(run.status.code(), Some(3));
    assert_eq!(
        text(&run.stdout).lines().count(),
        2,
        "both good frames are there"
    );
    let errors = text(&run.stderr);
    assert!(
        errors.contains("bad.bin") && errors.contains("17") && errors.contains("16"),
        "{errors}"
    );
    assert!(errors.contains("gone.bin"), "{errors}");
}

#[test]
fn exit_codes_distinguish_errors() {
    let folder = folder();
    std::fs::write(folder.path().join("other.plan"), b"no plan at all").unwrap();
    for (code, words, args) in [
        (2, "--engine", &["--pcd", "a.bin"][..]),
        (2, "--pcd", &["--engine", "tiny.plan"]),
        (
            2,
            "--score",
            &["--engine", "tiny.plan", "--pcd", "a.bin", "--score", "2"],
        ),
        (
            2,
            "colour",
            &[
                "--engine",
                "tiny.plan",
                "--pcd",
                "a.bin",
                "--layout",
                "x,y,z,colour",
            ],
        ),
        (
            3,
            "gone.bin",
            &["--engine", "tiny.plan", "--pcd", "gone.bin"],
        ),
        (4, "gone.plan", &["--engine", "gone.plan", "--pcd", "a.bin"]),
        (
            4,
            "other.plan",
            &["--engine", "other.plan", "--pcd", "a.bin"],
        ),
        (
            1,
            "no/such",
            &[
                "--engine",
                "tiny.plan",
                "--pcd",
                "a.bin",
                "--out",
                "no/such/file",
            ],
        ),
    ] {
        let run = infer(folder.path(), args);
        let errors = text(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(words), "{args:?}: {errors}");
    }
}

#[test]
fn cuda_without_a_gpu_is_an_error_with_advice() {
    let folder = folder();
    let run = Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(folder.path())
        .env("CUDA_VISIBLE_DEVICES", "")
        .args([
            "--engine",
            "tiny.plan",
            "--pcd",
            "a.bin",
            "--device",
            "cuda",
        ])
        .output()
        .unwrap();
    let errors = text(&run.stderr);
    assert_eq!(run.status.code(), Some(5), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    let built = cfg!(feature = "cuda");
    assert_eq!(
        errors.contains("built without the feature `cuda`"),
        !built,
        "{errors}"
    );
    assert!(errors.contains("use `--device cpu`"), "{errors}");
}

#[test]
fn every_format_and_the_picture_are_written() {
    let folder = folder();
    let run = |more: &[&str]| {
        let run = infer(folder.path(), &[&FRAMES[..], more].concat());
        assert_eq!(
            run.status.code(),
            Some(0),
            "{more:?}: {}",
            text(&run.stderr)
        );
        text(&run.stdout)
    };
    assert!(run(&[]).contains("tall"));
    assert!(run(&["--format", "kitti", "--out", "labels"]).is_empty());
    let label = std::fs::read_to_string(folder.path().join("labels/a.txt")).unwrap();
    assert_eq!(label.lines().next().unwrap().split(' ').count(), 16);
    run(&[
        "--format",
        "nuscenes",
        "--out",
        "results.json",
        "--bev",
        "pictures",
    ]);
    let results = centerpoint::internals::results::nuscenes::Results::read(
        &folder.path().join("results.json"),
    )
    .unwrap();
    assert_eq!(results.results["a"].len(), 2);
    assert_eq!(results.results["b"][0].sample_token, "b");
    for picture in ["pictures/a.png", "pictures/b.png"] {
        let bytes = std::fs::read(folder.path().join(picture)).unwrap();
        assert!(bytes.starts_with(b"\x89PNG"), "{picture}");
    }
}

#[test]
fn sweeps_make_one_frame() {
    let folder = folder();
    let pose = |x: f64| serde_json::json!({"translation": [x, 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]});
    let list = serde_json::json!({"layout": "kitti", "sweeps": [
        {"file": "b.bin", "stamp_ns": 200_000_000, "pose": pose(1.0)},
        {"file": "b.bin", "stamp_ns": 100_000_000, "pose": pose(0.0)},
    ]});
    std::fs::write(folder.path().join("sweeps.json"), list.to_string()).unwrap();
    let run = infer(
        folder.path(),
        &[
            "--engine",
            "tiny.plan",
            "--sweeps",
            "sweeps.json",
            "--format",
            "json",
        ],
    );
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let line: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(line["points"], 2);
    let centers: Vec<f64> = line["boxes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["center"][0].as_f64().unwrap())
        .collect();
    assert_eq!(
        centers,
        [-0.5, 0.5],
        "the old sweep was seen 1 m further back, the scores are equal"
    );
}

#[test]
fn frames_with_the_same_name_are_rejected() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("other")).unwrap();
    write_kitti(&folder.path().join("other/a.bin"), &[[0.5, 0.5, 3.0, 1.0]]);
    let frames = [
        "--engine",
        "tiny.plan",
        "--pcd",
        "a.bin",
        "other/a.bin",
        "--layout",
        "kitti",
    ];
    let run = infer(
        folder.path(),
        &[&frames[..], &["--format", "nuscenes"]].concat(),
    );
    let errors = text(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("other/a.bin") && errors.contains("`a`"),
        "{errors}"
    );
    let run = infer(
        folder.path(),
        &[&frames[..], &["--format", "json"]].concat(),
    );
    assert_eq!(
        run.status.code(),
        Some(0),
        "JSON lines name whole paths: {}",
        text(&run.stderr)
    );
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let folder = folder();
    let mut run = Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(folder.path())
        .args([
            "--engine",
            "tiny.plan",
            "--layout",
            "kitti",
            "--format",
            "json",
            "--pcd",
        ])
        .args(vec!["a.bin"; 2000])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(run.stdout.take());
    let run = run.wait_with_output().unwrap();
    assert_eq!(
        (run.status.code(), text(&run.stderr)),
        (Some(0), String::new())
    );
}
