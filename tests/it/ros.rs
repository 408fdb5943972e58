//! The ROS 2 node beside a real rclpy node and CycloneDDS, in a network namespace of its own: what it publishes
//! must be what `cp-infer` says of the same points.
//!
//! Needs `CENTERPOINT_ROS_PYTHON`, an interpreter with the packages of `tests/ros/requirements.txt`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_cp-ros2");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An interpreter, and the option with which `unshare` makes a network namespace.
fn peer() -> (String, &'static str) {
    let python = std::env::var("CENTERPOINT_ROS_PYTHON")
        .expect("this test needs CENTERPOINT_ROS_PYTHON; `.ci/run` shows how to set it");
    let works = |option: &&str| {
        let tried = Command::new("unshare").args([option, "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let option = ["-rn", "-n"].into_iter().find(works);
    (python, option.expect("`unshare` makes a network namespace"))
}

/// A command in a network namespace of its own, without settings of ROS.
fn isolated(option: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .arg(option)
        .current_dir(ROOT)
        .env_remove("ROS_DOMAIN_ID")
        .env_remove("RMW_IMPLEMENTATION");
    command
}

/// Runs `tests/ros/run.py` and gives what it saw.
fn run(what: &str, folder: &Path) -> Value {
    let (python, option) = peer();
    let output = isolated(option)
        .args([&python, "tests/ros/run.py", what, "--node", NODE, "--out"])
        .arg(folder)
        .output()
        .expect("unshare runs");
    let log = std::fs::read_to_string(folder.join("node.log")).unwrap_or_default();
    assert!(output.status.success(), "{}\nnode:\n{log}", text(&output));
    let seen = std::fs::read(folder.join("seen.json")).expect("what was seen");
    serde_json::from_slice(&seen).expect("JSON")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The boxes that `cp-infer` finds, by arguments.
fn infer(arguments: &[&str]) -> Vec<Vec<Value>> {
    let output = Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .args([
            "--engine",
            "engines/demo/int8.plan",
            "--format",
            "json",
            "--layout",
            "xyzi",
        ])
        .args(["--intensity-scale", &(1.0 / 255.0).to_string()])
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .expect("cp-infer runs");
    assert!(output.status.success(), "{}", text(&output));
    let lines = String::from_utf8(output.stdout).expect("text");
    let boxes = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["boxes"].as_array().expect("boxes").clone()
    });
    boxes.collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"));
    list.iter().map(|v| v.as_f64().expect("a number")).collect()
}

/// Numbers as the f32 that they were.
fn singles(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

/// The boxes of a message are those of `cp-infer`: the same in every bit that the message has.
fn assert_same(found: &[Value], expected: &[Value], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of boxes");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(
            found["score"].as_f64().unwrap() as f32,
            expected["score"].as_f64().unwrap() as f32
        );
        for key in ["center", "size"] {
            assert_eq!(
                singles(&found[key]),
                singles(&expected[key]),
                "{what}: {key}"
            );
        }
        let yaw = expected["yaw"].as_f64().unwrap();
        let rotation = [0.0, 0.0, (yaw / 2.0).sin(), (yaw / 2.0).cos()];
        for (found, expected) in numbers(&found["rotation"]).into_iter().zip(rotation) {
            assert!(
                (found - expected).abs() < 1e-6,
                "{what}: rotation for {yaw}"
            );
        }
    }
}

fn count(seen: &Value, name: &str) -> usize {
    seen["counts"][name].as_u64().expect("a count") as usize
}

fn list<'a>(seen: &'a Value, name: &str) -> &'a [Value] {
    seen[name].as_array().expect("a list")
}

#[test]
#[ignore = "needs CENTERPOINT_ROS_PYTHON, unshare"]
fn clouds_of_rclpy_come_back_as_the_boxes_of_cp_infer() {
    let folder = tempfile::tempdir().unwrap();
    let seen = run("stream", folder.path());
    let paths: Vec<String> = (0..16)
        .map(|number| {
            folder
                .path()
                .join(format!("{number:06}.bin"))
                .display()
                .to_string()
        })
        .collect();
    let arguments: Vec<&str> = std::iter::once("--pcd")
        .chain(paths.iter().map(String::as_str))
        .collect();
    let expected = infer(&arguments);
    assert_eq!(expected.len(), 16);
    assert!(
        expected.iter().all(|boxes| boxes.len() > 10),
        "frames that show something"
    );

    let sent = list(&seen, "sent");
    let detections = list(&seen, "detections");
    assert_eq!(seen["status"], 0, "{}", seen["log"]);
    assert_eq!(sent.len(), 200);
    // Every cloud is accounted for.
    let malformed = seen["malformed"].as_u64().unwrap() as usize;
    let [received, processed, dropped, malformed_seen, lost] =
        ["received", "processed", "dropped", "malformed", "lost"].map(|name| count(&seen, name));
    assert_eq!(malformed, 10);
    assert_eq!(
        received + lost,
        sent.len() + malformed,
        "{}",
        seen["counts"]
    );
    assert_eq!(
        received,
        processed + dropped + malformed_seen,
        "{}",
        seen["counts"]
    );
    // A machine that stands still for seconds loses clouds in spite of a reliable transport.
    assert!(malformed_seen <= malformed && malformed_seen + lost >= malformed);
    assert_eq!(count(&seen, "unwanted"), 0);
    assert_eq!(detections.len(), count(&seen, "processed"));
    let log = seen["log"].as_str().unwrap();
    assert!(log.contains("a cloud was left out: "), "{log}");

    let frame_of: BTreeMap<i64, &Value> = sent
        .iter()
        .map(|s| (s["stamp"].as_i64().unwrap(), s))
        .collect();
    let mut forms = BTreeMap::new();
    for detection in detections {
        let sent = frame_of[&detection["stamp"].as_i64().unwrap()];
        let what = format!("frame {} as {}", sent["frame"], sent["form"]);
        assert_eq!(detection["frame_id"], "lidar", "{what}");
        let boxes = &expected[sent["frame"].as_u64().unwrap() as usize];
        assert_same(list(detection, "boxes"), boxes, &what);
        for (found, expected) in list(detection, "boxes").iter().zip(boxes) {
            assert_eq!(found["class"], expected["class"], "{what}");
        }
        *forms.entry(sent["form"].as_str().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(forms.len(), 4, "all forms came through: {forms:?}");

    for markers in list(&seen, "markers") {
        let sent = frame_of[&markers["stamp"].as_i64().unwrap()];
        let boxes = expected[sent["frame"].as_u64().unwrap() as usize].len();
        assert_eq!(markers["first"], 3);
        assert_eq!(
            (markers["cubes"].as_u64(), markers["texts"].as_u64()),
            (Some(boxes as u64), Some(boxes as u64))
        );
    }
    assert_eq!(list(&seen, "markers").len(), detections.len());
    for (name, at_most) in [
        ("processing_time", 0),
        ("cyclic_time", 1),
        ("pipeline_latency", 0),
    ] {
        let numbers = numbers(&seen["debug"][name]);
        assert!(
            numbers.len() + at_most >= 1 && numbers.iter().all(|ms| *ms > 0.0),
            "{name}: {numbers:?}"
        );
    }
    diagnostics(&seen, &frame_of);
}

fn diagnostics(seen: &Value, frame_of: &BTreeMap<i64, &Value>) {
    let named = |name: &str| -> Vec<&Value> {
        let all = list(seen, "diagnostics").iter();
        all.filter(|status| status["name"] == format!("lidar_centerpoint: {name}"))
            .collect()
    };
    let frames = named("centerpoint_trt");
    assert!(
        frames
            .iter()
            .all(|status| frame_of.contains_key(&status["stamp"].as_i64().unwrap()))
    );
    let last = frames.last().expect("a report on a frame");
    assert_eq!(last["hardware_id"], "lidar_centerpoint");
    assert_eq!(last["level"], 0);
    assert_eq!(last["values"]["is_num_pillars_within_range"], "True");
    assert_eq!(
        last["values"]["clouds_malformed"],
        seen["counts"]["malformed"].to_string()
    );
    let times = named("processing_time_status");
    let last = times.last().expect("a report on time");
    for key in [
        "is_processing_time_ms_in_expected_range",
        "processing_time_ms",
        "is_consecutive_processing_delay_in_range",
        "consecutive_processing_delay_ms",
    ] {
        assert!(last["values"][key].is_string(), "{key}: {last}");
    }
}

#[test]
#[ignore = "needs CENTERPOINT_ROS_PYTHON, unshare"]
fn clouds_that_nobody_wants_boxes_of_cost_no_work() {
    let folder = tempfile::tempdir().unwrap();
    let seen = run("unwatched", folder.path());
    assert_eq!(seen["status"], 0, "{}", seen["log"]);
    let counts = ["received", "unwanted", "processed", "dropped"].map(|name| count(&seen, name));
    assert_eq!(counts, [10, 5, 5, 0], "{}", seen["log"]);
    assert_eq!(seen["detections"], 5);
}

#[test]
#[ignore = "needs CENTERPOINT_ROS_PYTHON, unshare"]
fn sweeps_are_put_together_by_the_poses_of_tf() {
    let folder = tempfile::tempdir().unwrap();
    let seen = run("sweeps", folder.path());
    assert_eq!(seen["status"], 0, "{}", seen["log"]);
    let sent = list(&seen, "sent");
    assert_eq!(count(&seen, "processed"), sent.len());
    let (detections, objects) = (list(&seen, "detections"), list(&seen, "objects"));
    let mut different = 0;
    for (number, sent) in sent.iter().enumerate() {
        let mut sweeps = vec![sweep(sent)];
        let before = number.checked_sub(1).map(|before| &seen["sent"][before]);
        let known = |sent: &Value| !sent["pose"].is_null();
        if let Some(before) = before.filter(|before| known(before) && known(sent)) {
            sweeps.push(sweep(before));
            different += 1;
        }
        let path = folder.path().join(format!("{number}.json"));
        let text = serde_json::json!({ "sweeps": sweeps, "layout": "xyzi" }).to_string();
        std::fs::write(&path, text).unwrap();
        let expected = &infer(&["--sweeps", path.to_str().unwrap()])[0];
        assert!(expected.len() > 10);
        assert_eq!(detections[number]["stamp"], sent["stamp"]);
        assert_close(
            list(&detections[number], "boxes"),
            expected,
            &format!("cloud {number}"),
        );
        assert_eq!(objects[number]["stamp"], sent["stamp"]);
        autoware(
            list(&objects[number], "boxes"),
            expected,
            list(&detections[number], "boxes"),
        );
    }
    assert_eq!(different, 3, "clouds with one before them");
    let log = seen["log"].as_str().unwrap();
    assert!(log.contains("after the newest sample"), "{log}");
}

/// A sweep of a list, where the scanner was by then.
fn sweep(sent: &Value) -> Value {
    let pose = match sent["pose"].as_array() {
        None => Value::Null,
        Some(pose) => {
            let [x, y, yaw] = [0, 1, 2].map(|i| pose[i].as_f64().unwrap());
            serde_json::json!({
                "translation": [x + yaw.cos(), y + yaw.sin(), 2.0],
                "rotation": [(yaw / 2.0).cos(), 0.0, 0.0, (yaw / 2.0).sin()],
            })
        }
    };
    let file = format!("{:06}.bin", sent["frame"].as_u64().unwrap());
    serde_json::json!({ "file": file, "stamp_ns": sent["stamp"], "pose": pose })
}

/// As [`assert_same`], but for the last bits of poses that were composed and interpolated elsewhere.
fn assert_close(found: &[Value], expected: &[Value], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of boxes");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["class"], expected["class"], "{what}");
        for key in ["center", "size"] {
            for (f, e) in numbers(&found[key])
                .into_iter()
                .zip(numbers(&expected[key]))
            {
                assert!((f - e).abs() < 1e-3, "{what}: {key}: {f} for {e}");
            }
        }
        let (f, e) = (
            found["score"].as_f64().unwrap(),
            expected["score"].as_f64().unwrap(),
        );
        assert!((f - e).abs() < 1e-3, "{what}: score {f} for {e}");
    }
}

/// Autoware's objects are those of vision_msgs, with labels and the velocity in the object's own frame.
fn autoware(objects: &[Value], expected: &[Value], detections: &[Value]) {
    assert_eq!(objects.len(), detections.len());
    for ((object, detection), expected) in objects.iter().zip(detections).zip(expected) {
        let label = match expected["class"].as_str().unwrap() {
            "car" => 1,
            "truck" => 2,
            "bus" => 3,
            "bicycle" => 6,
            "pedestrian" => 7,
            other => panic!("{other}"),
        };
        assert_eq!(object["label"], label);
        assert_eq!(object["availability"], u8::from(label <= 4));
        assert_eq!(
            (&object["shape"], &object["has_twist"]),
            (&0.into(), &true.into())
        );
        for key in ["center", "size", "rotation"] {
            assert_eq!(object[key], detection[key]);
        }
        assert_eq!(object["score"].as_f64(), detection["score"].as_f64());
        let (own, world) = (numbers(&object["twist"]), numbers(&expected["velocity"]));
        let (sin, cos) = expected["yaw"].as_f64().unwrap().sin_cos();
        let turned = [cos * own[0] - sin * own[1], sin * own[0] + cos * own[1]];
        for (turned, world) in turned.into_iter().zip(world) {
            assert!((turned - world).abs() < 1e-2, "{object}");
        }
    }
}

/// Runs the node where it must not begin; status and what it said.
fn refused(engine: &str, ros: &[&str]) -> (i32, String) {
    let output = Command::new(NODE)
        .args(["--engine", engine, "--ros-args"])
        .args(ros)
        .current_dir(ROOT)
        .output()
        .expect("cp-ros2 runs");
    (output.status.code().expect("a status"), text(&output))
}

#[test]
fn wrong_plans_parameters_and_names_end_with_the_status_of_cp_infer() {
    const PLAN: &str = "engines/demo/int8.plan";
    for (engine, ros, status, told) in [
        ("nowhere.plan", vec![], 4, "nowhere.plan"),
        ("calib/demo/frames/000000.bin", vec![], 4, "000000.bin"),
        (PLAN, vec!["-x"], 2, "\"-x\""),
        (PLAN, vec!["-r", "__node:=1"], 2, "begins with a digit"),
        (
            PLAN,
            vec!["-p", "score_threshold:=0.5"],
            2,
            "post_process_params.score_threshold",
        ),
        (
            PLAN,
            vec!["-p", "model_params.downsample_factor:=4"],
            2,
            "is 4, but the plan has 2",
        ),
        (
            PLAN,
            vec!["--params-file", "nowhere.yaml"],
            2,
            "nowhere.yaml",
        ),
        (PLAN, vec!["-p", "build_only:=true"], 0, ""),
    ] {
        let (found, said) = refused(engine, &ros);
        assert_eq!(found, status, "{engine} {ros:?}: {said}");
        assert!(said.contains(told), "{engine} {ros:?}: {said}");
    }
}

/// The README's commands for newcomers, each in a terminal of its own.
const COMMANDS: [&str; 3] = [
    "cargo run --release --features ros2 --bin cp-ros2 -- --engine engines/demo/int8.plan \
     --ros-args -r '~/input/pointcloud:=/points'",
    "python examples/ros2/publish.py",
    "python examples/ros2/listen.py",
];

#[test]
#[ignore = "needs CENTERPOINT_ROS_PYTHON, unshare"]
fn the_readmes_three_commands_end_with_boxes_on_a_topic() {
    let (python, option) = peer();
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    for command in COMMANDS {
        assert!(readme.lines().any(|line| line == command), "{command}");
    }
    // The node that is built already, and three messages instead of all there will ever be.
    let [node, publish, listen] = COMMANDS.map(|command| {
        let built = command.replace("cargo run --release --features ros2 --bin cp-ros2 --", NODE);
        built.replace("python ", &format!("{python} "))
    });
    let script = format!(
        "{python} -c 'import sys; sys.path.insert(0, \"tests/ros\"); import peer; peer.loopback()' || exit 9
         export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
         {node} & node=$!
         {publish} & publish=$!
         timeout 120 {listen} 3; listened=$?
         kill -INT $node $publish; wait $node || exit 8; exit $listened"
    );
    let output = isolated(option)
        .args(["bash", "-c", &script])
        .output()
        .expect("bash runs");
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches(" boxes\n").count(), 3, "{}", text(&output));
    assert!(said.contains("car 0."), "{said}");
}
