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

/// The first frame of a bag has no past sweep, which is no fault; that later ones have none is.
#[cfg(feature = "mcap")]
#[test]
fn the_first_frame_of_a_bag_needs_no_past_sweep() {
    use centerpoint::internals::bag::messages::{Header, PointCloud2, Time};

    let frame = std::fs::read(repository().join("calib/demo/frames/000003.bin")).unwrap();
    let (points, _) = frame.as_chunks::<20>();
    // The newest sweep of the frame, without its age.
    let newest = points.iter().filter(|point| point[16..] == [0; 4]);
    let data: Vec<u8> = newest.flat_map(|point| &point[..16]).copied().collect();
    let cloud = |index: u64| PointCloud2 {
        header: Header {
            stamp: Time::from_nanoseconds((index * made::STEP) as i64),
            frame_id: "lidar".into(),
        },
        width: (data.len() / 16) as u32,
        row_step: data.len() as u32,
        data: data.clone(),
        ..made::cloud(0, 0)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drive.mcap");
    for (frames, status) in [(1, 0), (2, 3)] {
        let entries = (0..frames).map(|index| {
            let time = index * made::STEP + made::LOG_DELAY;
            (
                "/points",
                "sensor_msgs/msg/PointCloud2",
                time,
                made::cdr(&cloud(index)),
            )
        });
        let entries: Vec<made::Entry> = entries.collect();
        std::fs::write(&path, made::bag(&entries, made::options(None, 1 << 20))).unwrap();
        let run = infer(&["--bag", path.to_str().unwrap(), "--strict"]);
        let errors = text(&run.stderr);
        assert_eq!(run.status.code(), Some(status), "{errors}");
        let refused =
            errors.contains("/points@100000000: ") && errors.contains("the frame is one sweep");
        assert_eq!(refused, frames == 2, "{errors}");
    }
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
