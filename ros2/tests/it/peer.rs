//! The node next to a real rclpy node and CycloneDDS, in a network namespace of its own: it must publish the boxes that
//! the library detects in the same points.
//!
//! Needs `CENTERPOINT_ROS_PYTHON`, an interpreter with the packages of `ros2/tests/peer/requirements.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use centerpoint::points::ReadOptions;
use centerpoint::{Box3d, Detector, Options, PointCloud, points};
use serde_json::Value;

use super::{NODE, text};

/// The demo plan, from the root of the repository.
const PLAN: &str = "engines/demo/int8.plan";

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Python interpreter, and the option that makes `unshare` create a network namespace.
fn peer() -> (String, &'static str) {
    let python = std::env::var("CENTERPOINT_ROS_PYTHON")
        .expect("this test needs CENTERPOINT_ROS_PYTHON; `.ci/run` shows how to set it");
    let works = |option: &&str| {
        let tried = Command::new("unshare").args([option, "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let option = ["-rn", "-n"].into_iter().find(works);
    (
        python,
        option.expect("`unshare` creates a network namespace"),
    )
}

/// A command in a network namespace of its own, without ROS settings.
fn isolated(option: &str) -> Command {
    isolate(Command::new("unshare"), option)
}

/// Completes the command `unshare`, as [`isolated`].
fn isolate(mut command: Command, option: &str) -> Command {
    command
        .arg(option)
        .current_dir(root())
        .env_remove("ROS_DOMAIN_ID")
        .env_remove("RMW_IMPLEMENTATION");
    command
}

/// Runs a scenario of `ros2/tests/peer/run.py` and returns what it observed.
fn run(scenario: &str, folder: &Path) -> Value {
    let (python, option) = peer();
    observe(isolated(option), &python, &[scenario], folder)
}

/// Runs `ros2/tests/peer/run.py` in an isolated command.
fn observe(mut isolated: Command, python: &str, arguments: &[&str], folder: &Path) -> Value {
    let output = isolated
        .args([python, "ros2/tests/peer/run.py"])
        .args(arguments)
        .args(["--node", NODE, "--out"])
        .arg(folder)
        .output()
        .expect("unshare runs");
    let log = std::fs::read_to_string(folder.join("node.log")).unwrap_or_default();
    assert!(output.status.success(), "{}\nnode:\n{log}", text(&output));
    let seen = std::fs::read(folder.join("seen.json")).expect("observations");
    serde_json::from_slice(&seen).expect("JSON")
}

/// The detector that the node is compared with.
struct Reference(Detector);

impl Reference {
    fn new() -> Self {
        let options = Options {
            intensity_scale: Some((1.0_f64 / 255.0) as f32),
            ..Options::default()
        };
        Self(Detector::load(&root().join(PLAN), &options).expect("the demo plan"))
    }

    fn detect(&mut self, cloud: &PointCloud) -> Vec<Box3d> {
        self.0.detect(cloud).expect("boxes").boxes.to_vec()
    }

    fn read_options() -> ReadOptions {
        let layout = "xyzi".parse().expect("a layout");
        ReadOptions {
            layout: Some(layout),
            default_layout: layout,
        }
    }

    /// The boxes in a file of x, y, z, intensity.
    fn boxes(&mut self, path: &Path) -> Vec<Box3d> {
        let cloud = points::read(path, &Self::read_options()).expect("a frame");
        self.detect(&cloud)
    }

    /// The boxes in a list of sweeps.
    fn boxes_of_sweeps(&mut self, list: &Path) -> Vec<Box3d> {
        let capacity = self.0.model().points.capacity;
        let sweeps = points::read_sweeps(list, &Self::read_options(), capacity);
        let (cloud, _) = sweeps.expect("a list of sweeps");
        self.detect(&cloud)
    }

    /// The name of a box's class.
    fn class(&self, bbox: &Box3d) -> &str {
        &self.0.model().classes[bbox.class as usize]
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is not a list"));
    list.iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn as_f32(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

/// Checks that a message has the expected boxes, bit for bit where it has the values themselves.
fn assert_same(found: &[Value], expected: &[Box3d], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of boxes");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["score"].as_f64().unwrap() as f32, expected.score);
        assert_eq!(as_f32(&found["center"]), expected.center, "{what}: center");
        assert_eq!(as_f32(&found["size"]), expected.size, "{what}: size");
        let yaw = f64::from(expected.yaw);
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
fn clouds_from_rclpy_become_the_boxes_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let seen = run("stream", folder.path());
    let mut reference = Reference::new();
    let expected: Vec<Vec<Box3d>> = (0..16)
        .map(|number| reference.boxes(&folder.path().join(format!("{number:06}.bin"))))
        .collect();
    assert!(
        expected.iter().all(|boxes| boxes.len() > 10),
        "every frame has boxes"
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
    // A machine that stalls for seconds loses clouds even over a reliable transport.
    assert!(malformed_seen <= malformed && malformed_seen + lost >= malformed);
    assert_eq!(count(&seen, "unwanted"), 0);
    assert_eq!(detections.len(), count(&seen, "processed"));
    let log = seen["log"].as_str().unwrap();
    assert!(log.contains("skipped a cloud: "), "{log}");

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
            assert_eq!(found["class"], reference.class(expected), "{what}");
        }
        *forms.entry(sent["form"].as_str().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(forms.len(), 4, "all forms arrived: {forms:?}");

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
fn clouds_are_not_processed_without_subscribers() {
    let folder = tempfile::tempdir().unwrap();
    let seen = run("unwatched", folder.path());
    assert_eq!(seen["status"], 0, "{}", seen["log"]);
    let counts = ["received", "unwanted", "processed", "dropped"].map(|name| count(&seen, name));
    assert_eq!(counts, [10, 5, 5, 0], "{}", seen["log"]);
    assert_eq!(seen["detections"], 5);
}

/// With the stand-in for NVIDIA's driver.
#[test]
#[ignore = "needs CENTERPOINT_ROS_PYTHON, unshare"]
fn a_gpu_publishes_the_cpus_boxes() {
    let (python, option) = peer();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("stand-in.log");
    let detections = |device: &str| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let command = standin::setup::command("unshare", tmp, &log);
        let seen = observe(
            isolate(command, option),
            &python,
            &["single", "--device", device, "--points", "40000"],
            folder.path(),
        );
        assert_eq!(seen["status"], 0, "{}", seen["log"]);
        seen["detections"].clone()
    };
    let expected = detections("cpu");
    assert!(!log.exists(), "the CPU needs no driver");
    let frames = expected.as_array().unwrap();
    assert_eq!(frames.len(), 4);
    assert!(frames.iter().all(|boxes| boxes[2].is_object()));
    assert_eq!(detections("cuda"), expected);
    assert_eq!(standin::setup::faults(&log), [""; 0]);
}

#[test]
#[ignore = "needs CENTERPOINT_ROS_PYTHON, unshare"]
fn sweeps_are_accumulated_by_the_poses_of_tf() {
    let folder = tempfile::tempdir().unwrap();
    let seen = run("sweeps", folder.path());
    assert_eq!(seen["status"], 0, "{}", seen["log"]);
    let sent = list(&seen, "sent");
    assert_eq!(count(&seen, "processed"), sent.len());
    let (detections, objects) = (list(&seen, "detections"), list(&seen, "objects"));
    let mut reference = Reference::new();
    let mut accumulated = 0;
    for (number, sent) in sent.iter().enumerate() {
        let mut sweeps = vec![sweep(sent)];
        let before = number.checked_sub(1).map(|before| &seen["sent"][before]);
        let known = |sent: &Value| !sent["pose"].is_null();
        if let Some(before) = before.filter(|before| known(before) && known(sent)) {
            sweeps.push(sweep(before));
            accumulated += 1;
        }
        let path = folder.path().join(format!("{number}.json"));
        let text = serde_json::json!({ "sweeps": sweeps, "layout": "xyzi" }).to_string();
        std::fs::write(&path, text).unwrap();
        let expected = reference.boxes_of_sweeps(&path);
        assert!(expected.len() > 10);
        assert_eq!(detections[number]["stamp"], sent["stamp"]);
        assert_close(
            &reference,
            list(&detections[number], "boxes"),
            &expected,
            &format!("cloud {number}"),
        );
        assert_eq!(objects[number]["stamp"], sent["stamp"]);
        autoware(
            &reference,
            list(&objects[number], "boxes"),
            &expected,
            list(&detections[number], "boxes"),
        );
    }
    assert_eq!(accumulated, 3, "clouds with a past sweep");
    let log = seen["log"].as_str().unwrap();
    assert!(log.contains("after the newest sample"), "{log}");
}

/// An entry of a sweep list, with the scanner's pose.
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

/// Like [`assert_same`], with a tolerance because the poses were composed and interpolated differently.
fn assert_close(reference: &Reference, found: &[Value], expected: &[Box3d], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of boxes");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["class"], reference.class(expected), "{what}");
        for (key, expected) in [("center", expected.center), ("size", expected.size)] {
            for (f, e) in as_f32(&found[key]).into_iter().zip(expected) {
                assert!((f - e).abs() < 1e-3, "{what}: {key}: {f} for {e}");
            }
        }
        let (f, e) = (found["score"].as_f64().unwrap(), f64::from(expected.score));
        assert!((f - e).abs() < 1e-3, "{what}: score {f} for {e}");
    }
}

/// Checks that Autoware's objects are the boxes of vision_msgs, with labels and velocities in the object's own frame.
fn autoware(reference: &Reference, objects: &[Value], expected: &[Box3d], detections: &[Value]) {
    assert_eq!(objects.len(), detections.len());
    for ((object, detection), expected) in objects.iter().zip(detections).zip(expected) {
        let label = match reference.class(expected) {
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
        let (own, world) = (numbers(&object["twist"]), expected.velocity.map(f64::from));
        let (sin, cos) = f64::from(expected.yaw).sin_cos();
        let turned = [cos * own[0] - sin * own[1], sin * own[0] + cos * own[1]];
        for (turned, world) in turned.into_iter().zip(world) {
            assert!((turned - world).abs() < 1e-2, "{object}");
        }
    }
}

/// Runs the node when it must not start; returns its exit status and output.
fn start(engine: &str, ros: &[&str]) -> (i32, String) {
    let output = Command::new(NODE)
        .args(["--engine", engine, "--ros-args"])
        .args(ros)
        .current_dir(root())
        .output()
        .expect("cp-ros2 runs");
    (output.status.code().expect("a status"), text(&output))
}

#[test]
fn invalid_plans_parameters_and_names_have_the_exit_status_of_cp_infer() {
    for (engine, ros, status, message) in [
        ("nowhere.plan", vec![], 4, "nowhere.plan"),
        ("calib/demo/frames/000000.bin", vec![], 4, "000000.bin"),
        (PLAN, vec!["-x"], 2, "\"-x\""),
        (PLAN, vec!["-r", "__node:=1"], 2, "starts with a digit"),
        (
            PLAN,
            vec!["-p", "post_process.score_threshold:=0.5"],
            2,
            "post_process_params.score_threshold",
        ),
        (
            PLAN,
            vec!["-p", "model_params.downsample_factor:=4"],
            2,
            "4, but the plan has 2",
        ),
        (
            PLAN,
            vec!["--params-file", "nowhere.yaml"],
            2,
            "nowhere.yaml",
        ),
        (PLAN, vec!["-p", "build_only:=true"], 0, ""),
    ] {
        let (found, printed) = start(engine, &ros);
        assert_eq!(found, status, "{engine} {ros:?}: {printed}");
        assert!(printed.contains(message), "{engine} {ros:?}: {printed}");
    }
}

/// The commands of the book's page on ROS 2, each for a terminal of its own.
const COMMANDS: [&str; 3] = [
    "cargo run --release -p centerpoint-ros2 -- --engine engines/demo/int8.plan \
     --ros-args -r '~/input/pointcloud:=/points' -p densification_params.num_past_frames:=0",
    "python examples/ros2/publish.py",
    "python examples/ros2/listen.py",
];

#[test]
#[ignore = "needs CENTERPOINT_ROS_PYTHON, unshare"]
fn the_books_three_commands_publish_boxes() {
    let (python, option) = peer();
    let book = std::fs::read_to_string(root().join("docs/src/ros2.md")).unwrap();
    for command in COMMANDS {
        assert!(book.lines().any(|line| line == command), "{command}");
    }
    // Uses the node that is already built, and stops after three messages.
    let [node, publish, listen] = COMMANDS.map(|command| {
        let built = command.replace("cargo run --release -p centerpoint-ros2 --", NODE);
        built.replace("python ", &format!("{python} "))
    });
    let script = format!(
        "{python} -c 'import sys; sys.path.insert(0, \"ros2/tests/peer\"); import peer; peer.loopback()' || exit 9
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
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.matches(" boxes\n").count(), 3, "{}", text(&output));
    assert!(printed.contains("car 0."), "{printed}");
    // A newcomer's first run does not warn of missing transforms.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.to_lowercase().contains("transform"), "{errors}");
}
