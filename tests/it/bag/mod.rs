//! Bags read and MCAP files written by `cp-infer`, compared with other implementations.

#[cfg(feature = "mcap")]
mod damage;
#[cfg(feature = "mcap")]
mod oracle;

use std::process::{Command, Output};

#[cfg(feature = "mcap")]
use crate::common::bag as made;
use crate::common::repository;

const PLAN: &str = "engines/demo/int8.plan";

/// Runs `cp-infer` with the demo plan.
fn infer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(repository())
        .env_remove("RUST_LOG")
        .args(["--engine", PLAN])
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(not(feature = "mcap"))]
#[test]
fn a_build_without_mcap_says_how_to_enable_it() {
    for args in [
        &["--bag", "drive.mcap"][..],
        &["--pcd", "calib/demo/frames/000000.bin", "--out", "x.mcap"],
        &["--pcd", "calib/demo/frames/000000.bin", "--format", "mcap"],
    ] {
        let run = infer(args);
        assert_eq!(run.status.code(), Some(2), "{args:?}");
        let errors = text(&run.stderr);
        assert!(errors.contains("--features mcap"), "{errors}");
    }
    assert!(!repository().join("x.mcap").exists());
}

/// The file that `--out` writes is a bag with the frames' points.
#[cfg(feature = "mcap")]
#[test]
fn our_own_files_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("boxes.mcap");
    let path = path.to_str().unwrap();
    let frames = [
        "calib/demo/frames/000000.bin",
        "calib/demo/frames/000003.bin",
    ];
    let written = infer(&[&["--pcd"], &frames[..], &["--out", path]].concat());
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    let boxes = |args: &[&str]| -> Vec<serde_json::Value> {
        let run = infer(&[args, &["--format", "json"]].concat());
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        let output = text(&run.stdout);
        let lines = output.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            serde_json::json!([line["points"], line["dropped"], line["boxes"]])
        });
        lines.collect()
    };
    let expected = boxes(&[&["--pcd"], &frames[..]].concat());
    assert_eq!(expected.len(), 2);
    assert_eq!(boxes(&["--bag", path]), expected);
}
