//! Reads bags written by PyPI's rosbags and mcap, and lets Foxglove's schemas read what is written.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{infer, text};
use crate::common::repository;

const FRAMES: &str = "calib/demo/frames";
/// Frames per bag.
const COUNT: u64 = 4;
/// Stamp of the first frame in ns.
const STAMP: u64 = 1_700_000_000_000_000_000;
/// Time between frames in ns.
const STEP: u64 = 100_000_000;

/// Runs a script of `tests/oracle` and returns its standard output.
fn python(script: &str, args: &[&str]) -> String {
    let script = repository().join("tests/oracle").join(script);
    let output = Command::new(crate::oracle::python())
        .current_dir(repository())
        .arg(script)
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The JSON lines of a run. Standard error must contain `warning`, or be empty if `warning` is.
fn json(args: &[&str], warning: &str) -> Vec<Value> {
    let run = infer(&[args, &["--format", "json"]].concat());
    let errors = text(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{args:?}: {errors}");
    // The look at the first frame finds a single sweep; only the rest is of interest here.
    let errors = errors
        .lines()
        .filter(|line| !line.contains("WARN  centerpoint::cli::input"));
    let errors = errors.collect::<Vec<_>>().join("\n");
    assert!(errors.contains(warning), "{args:?}: {errors}");
    assert_eq!(warning.is_empty(), errors.is_empty(), "{args:?}: {errors}");
    let lines = text(&run.stdout);
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The frames' names.
fn names(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["frame"].as_str().unwrap())
        .collect()
}

/// The lines without the frames' names.
fn nameless(mut lines: Vec<Value>) -> Vec<Value> {
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("frame").unwrap();
    }
    lines
}

/// The results of `cp-infer --pcd` for the points that the script put into the bag.
fn from_files(made: &Path, name: &str, layout: &str) -> Vec<Value> {
    let files = (0..COUNT).map(|i| made.join(format!("expected/{name}/{i}.bin")));
    let files: Vec<String> = files.map(|file| file.display().to_string()).collect();
    let mut args = vec!["--layout", layout, "--pcd"];
    args.extend(files.iter().map(String::as_str));
    let lines = json(&args, "");
    let boxes = |line: &Value| line["boxes"].as_array().unwrap().len();
    let all: usize = lines.iter().map(boxes).sum();
    assert!(all > 60, "only {all} boxes to compare");
    nameless(lines)
}

#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn bags_and_files_with_the_same_points_have_the_same_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    python("write_bag.py", &[FRAMES, made.to_str().unwrap()]);
    let one_sweep = "no transforms (/tf): each frame has one sweep";
    let expected = from_files(&made, "points", "xyzit");
    let stamped: Vec<String> = (0..COUNT)
        .map(|i| format!("/points@{}", STAMP + i * STEP))
        .collect();
    for bag in [
        "plain",
        "zstd",
        "zstd/zstd.mcap",
        "lz4.mcap",
        "loose.mcap",
        "two",
    ] {
        let path = made.join(bag);
        let found = json(&["--bag", path.to_str().unwrap()], one_sweep);
        assert_eq!(names(&found), stamped, "{bag}");
        assert_eq!(nameless(found), expected, "{bag}");
    }
    let layouts = made.join("layouts.mcap");
    for (topic, layout) in [
        ("doubles", "xyzit"),
        ("big", "xyzit"),
        ("rows", "xyzit"),
        ("xyzirc", "xyzi"),
    ] {
        let name = format!("/{topic}");
        let args = ["--bag", layouts.to_str().unwrap(), "--topic", &name];
        let found = nameless(json(&args, one_sweep));
        assert_eq!(found, from_files(&made, topic, layout), "{topic}");
    }
    refusals(&made);
    sweeps(&made);
}

/// Unreadable input is reported with what to do.
fn refusals(made: &Path) {
    let bag = |name: &str| made.join(name).display().to_string();
    let refused = |args: &[&str], status: i32, parts: &[&str]| {
        let run = infer(args);
        let errors = text(&run.stderr);
        assert_eq!(run.status.code(), Some(status), "{args:?}: {errors}");
        for part in parts {
            assert!(errors.contains(part), "{args:?}: {errors}");
        }
    };
    let database = ["database.db3", "ros2 bag convert -i", "storage_id: mcap"];
    refused(&["--bag", &bag("database")], 3, &database);
    refused(&["--bag", &bag("database/database.db3")], 3, &database);
    refused(
        &["--bag", &bag("expected")],
        3,
        &["no .mcap in this folder"],
    );
    refused(
        &["--bag", &bag("expected/tf/0.json")],
        3,
        &["0.json: not an MCAP file"],
    );
    refused(
        &["--bag", &bag("nowhere")],
        3,
        &["nowhere: cannot read the bag"],
    );
    let all = [
        "--topic",
        "/big (sensor_msgs/msg/PointCloud2, 4 messages)",
        "/xyzirc",
    ];
    refused(&["--bag", &bag("layouts.mcap")], 2, &all);
    let chatter = ["has the type std_msgs/msg/String", "  /points ("];
    refused(&["--bag", &bag("zstd"), "--topic", "/chatter"], 2, &chatter);
    refused(
        &["--bag", &bag("zstd"), "--topic", "/x"],
        2,
        &["no topic /x", "  /points ("],
    );
    let message = ["compressed individually", "4 frames could not be processed"];
    refused(&["--bag", &bag("message")], 3, &message);
}

/// Past sweeps are placed by the transforms.
fn sweeps(made: &Path) {
    let lists = (0..COUNT).map(|i| made.join(format!("expected/tf/{i}.json")));
    let expected: Vec<Value> = lists
        .flat_map(|list| json(&["--sweeps", list.to_str().unwrap()], ""))
        .collect();
    let expected = nameless(expected);
    let points = |line: &Value| line["points"].as_u64().unwrap();
    assert!(
        points(&expected[1]) > 3 * points(&expected[0]) / 2,
        "the second frame has two sweeps"
    );

    let bag = made.join("tf").display().to_string();
    assert_close(&nameless(json(&["--bag", &bag], "")), &expected);
    // The map does not move in odom, so both are equivalent world frames.
    let odom = ["--bag", &bag, "--fixed-frame", "odom"];
    assert_close(&nameless(json(&odom, "")), &expected);
    // Relative to the vehicle nothing moves, so the boxes differ.
    let vehicle = nameless(json(&["--bag", &bag, "--fixed-frame", "base_link"], ""));
    assert_ne!(vehicle[1..], expected[1..]);
    let nowhere = ["--bag", &bag, "--fixed-frame", "nowhere"];
    let nowhere = nameless(json(
        &nowhere,
        "no transform mentions the frame \"nowhere\"",
    ));
    assert_eq!(nowhere, from_files_without_past(made));
}

/// The results for the newest sweeps alone.
fn from_files_without_past(made: &Path) -> Vec<Value> {
    let files = (0..COUNT).map(|i| made.join(format!("expected/tf/{i}.bin")));
    let lines =
        files.flat_map(|file| json(&["--layout", "xyzit", "--pcd", file.to_str().unwrap()], ""));
    nameless(lines.collect())
}

/// Compares boxes with a tolerance, because the poses were computed differently.
fn assert_close(found: &[Value], expected: &[Value]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["points"], expected["points"]);
        let (found, expected) = (&found["boxes"], &expected["boxes"]);
        let numbers = |value: &Value| -> Vec<f64> { flat(value) };
        let (found, expected) = (numbers(found), numbers(expected));
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }
}

/// All numbers in a value, in order.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        Value::Object(values) => values.values().flat_map(flat).collect(),
        other => other.as_f64().into_iter().collect(),
    }
}

#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn written_files_can_be_read_with_foxgloves_schemas() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    python("write_bag.py", &[FRAMES, made.to_str().unwrap()]);
    let bag = made.join("two").display().to_string();
    let one = format!("{FRAMES}/000000.bin");
    let other = format!("{FRAMES}/000001.bin");
    for (input, first, frame_id) in [
        (&["--bag", &bag][..], STAMP, "lidar"),
        (&["--pcd", &one, &other], 0, "lidar"),
    ] {
        let run = |name: &str| {
            let out = folder.path().join(name);
            let out = out.to_str().unwrap().to_owned();
            let done = infer(&[input, &["--out", &out]].concat());
            assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
            assert!(done.stdout.is_empty());
            out
        };
        let out = run("boxes.mcap");
        assert_eq!(
            std::fs::read(&out).unwrap(),
            std::fs::read(run("again.mcap")).unwrap(),
            "{input:?}: the output is deterministic"
        );
        let lines = python("read_mcap.py", &[&out]);
        let found: Vec<Value> = lines
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        let expected = infer(&[input, &["--format", "json"]].concat());
        let expected = text(&expected.stdout);
        let expected: Vec<Value> = expected
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(found.len(), expected.len());
        let all = expected
            .iter()
            .flat_map(|line| line["boxes"].as_array().unwrap());
        assert!(all.count() > 40, "too few boxes to compare");
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found["stamp"], first + STEP * index as u64);
            assert_eq!(found["frame_id"], frame_id);
            assert_eq!(found["columns"], "x,y,z,intensity,t");
            assert_eq!(found["offsets"], serde_json::json!([0, 4, 8, 12, 16]));
            assert_eq!(found["points"], expected["points"]);
            let points = repository().join(format!("{FRAMES}/{index:06}.bin"));
            let hash: String = Sha256::digest(std::fs::read(points).unwrap())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(found["sha256"], hash.as_str());
            same_boxes(&found["boxes"], &expected["boxes"]);
        }
    }
}

fn same_boxes(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_array().unwrap(), expected.as_array().unwrap());
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["class"], expected["class"]);
        // JSON has the shortest digits that parse to the same f32.
        for key in ["score", "center", "size"] {
            let floats = |value: &Value| -> Vec<f32> {
                flat(value)
                    .into_iter()
                    .map(|number| number as f32)
                    .collect()
            };
            assert_eq!(floats(&found[key]), floats(&expected[key]), "{key}");
        }
        let yaw = |value: &Value| value["yaw"].as_f64().unwrap();
        assert!((yaw(found) - yaw(expected)).abs() < 1e-6, "{expected}");
        let [vx, vy] = flat(&expected["velocity"])[..] else {
            panic!("{expected}");
        };
        let shown = flat(&found["velocity"]);
        assert_eq!(shown.is_empty(), vx.hypot(vy) < 0.5, "{expected}");
        for (a, b) in shown.iter().zip([vx, vy]) {
            assert!((a - b).abs() < 1e-5, "velocity: {a} {b}");
        }
    }
}
