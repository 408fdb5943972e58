//! Tests of the settings, with a model and parameters like Autoware's.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

/// A model like Autoware's `centerpoint_tiny`.
const TINY: &str = r#"
name = "tiny"
classes = ["CAR", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN", "TRAILER"]
[points]
columns = ["x", "y", "z", "t"]
sweeps = 2
capacity = 2000000
[grid]
range = [-76.8, -76.8, -4.0, 76.8, 76.8, 6.0]
voxel_size = [0.32, 0.32, 10.0]
max_points_per_pillar = 32
max_pillars = 40000
[pfn]
mean_offset = true
center_offset_axes = 2
in_features = 9
layers = [32, 32]
[head]
downsample = 2
size_order = "wlh"
rotation = "neg_cos_neg_sin"
[[head.tasks]]
classes = ["CAR", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN"]
outputs = ["heatmap", "reg", "height", "dim", "rot", "vel"]
[decode]
score = 0.35
yaw_norm = { CAR = 0.3, TRUCK = 0.3, BUS = 0.3, BICYCLE = 0.3, PEDESTRIAN = 0.0, TRAILER = 0.0 }
[[nms]]
kind = "circle"
scope = "all"
radius = 0.5
[[nms]]
kind = "iou"
groups = [["CAR", "TRUCK", "BUS", "BICYCLE", "TRAILER"], ["PEDESTRIAN"]]
threshold = 0.1
search_distance = 10.0
[[remap]]
from = "CAR"
to = "TRAILER"
min_area = 36.0
max_area = 999.999
"#;

/// The parameters of Autoware's three files; the matrices have the only rule of [`TINY`].
fn autoware() -> BTreeMap<String, Value> {
    let matrix = |cell: Value, other: Value| {
        let mut cells = vec![other; 64];
        cells[12] = cell;
        Value::List(cells)
    };
    let names = ["CAR", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN"].map(|n| Value::String(n.into()));
    let float = |values: &[f64]| list(values);
    let text = |text: &str| Value::String(text.into());
    [
        ("encoder_onnx_path", text("$(var model_path)/x.onnx")),
        ("trt_precision", text("fp16")),
        ("cloud_capacity", Value::Integer(2_000_000)),
        ("model_params.class_names", Value::List(names.into())),
        ("model_params.point_feature_size", Value::Integer(4)),
        ("model_params.max_voxel_size", Value::Integer(40000)),
        (
            "model_params.point_cloud_range",
            float(&[-76.8, -76.8, -4.0, 76.8, 76.8, 6.0]),
        ),
        ("model_params.voxel_size", float(&[0.32, 0.32, 10.0])),
        ("model_params.downsample_factor", Value::Integer(2)),
        ("model_params.encoder_in_feature_size", Value::Integer(9)),
        ("model_params.has_variance", Value::Bool(false)),
        ("model_params.has_twist", Value::Bool(false)),
        ("post_process_params.score_threshold", Value::Double(0.45)),
        (
            "post_process_params.circle_nms_dist_threshold",
            Value::Double(0.7),
        ),
        (
            "post_process_params.iou_nms_search_distance_2d",
            Value::Double(12.0),
        ),
        ("post_process_params.iou_nms_threshold", Value::Double(0.2)),
        (
            "post_process_params.yaw_norm_thresholds",
            float(&[0.1, 0.2, 0.3, 0.4, 0.5]),
        ),
        ("densification_params.world_frame_id", text("odom")),
        ("densification_params.num_past_frames", Value::Integer(1)),
        (
            "diagnostics.max_allowed_processing_time_ms",
            Value::Double(80.0),
        ),
        (
            "diagnostics.max_acceptable_consecutive_delay_ms",
            Value::Integer(500),
        ),
        (
            "diagnostics.validation_callback_interval_ms",
            Value::Double(50.0),
        ),
        (
            "allow_remapping_by_area_matrix",
            matrix(Value::Integer(1), Value::Integer(0)),
        ),
        (
            "min_area_matrix",
            matrix(Value::Double(36.0), Value::Double(0.0)),
        ),
        (
            "max_area_matrix",
            matrix(Value::Double(999.999), Value::Double(0.0)),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn tiny() -> Model {
    Model::parse(TINY, Path::new("tiny.toml")).unwrap()
}

fn list(values: &[f64]) -> Value {
    Value::List(values.iter().copied().map(Value::Double).collect())
}

fn settings(values: BTreeMap<String, Value>) -> Result<Settings, ParameterError> {
    let mut parameters = Parameters::default();
    for (name, value) in values {
        parameters.set(&name, value, Path::new("some.yaml"));
    }
    Settings::new(parameters, &tiny(), "/points")
}

#[test]
fn defaults_are_the_plan_and_autowares_limits() {
    let settings = settings(BTreeMap::new()).unwrap();
    assert_eq!((settings.vision, settings.autoware), (true, false));
    assert_eq!((settings.past, settings.world_frame.as_str()), (1, "map"));
    assert_eq!(settings.budget, Budget::default());
    assert_eq!(settings.status_period, Duration::from_millis(100));
    assert_eq!(
        (&settings.decode, &settings.nms),
        (&tiny().decode, &tiny().nms)
    );
    assert_eq!(
        settings.clouds,
        CloudQos {
            reliable: false,
            depth: 1
        }
    );
}

#[test]
fn autowares_parameters_are_applied() {
    let settings = settings(autoware()).unwrap();
    assert!(!settings.twist);
    assert_eq!(settings.world_frame, "odom");
    assert_eq!(
        (settings.budget.frame_ms, settings.budget.delay_ms),
        (80.0, 500.0)
    );
    assert_eq!(settings.status_period, Duration::from_millis(50));
    assert_eq!(settings.decode.score, [[0.45f32; 6]]);
    assert_eq!(settings.decode.yaw_norm, [0.1, 0.2, 0.3, 0.4, 0.5, 0.0]);
    assert!(matches!(&settings.nms[0].kind, NmsKind::Circle { radius } if *radius == [0.7; 6]));
    assert_eq!(settings.nms[0].suppressors, Suppressors::Kept);
    assert_eq!(settings.nms[1].suppressors, Suppressors::All);
    assert_eq!(settings.without_pose, WithoutPose::Drop);
    let NmsKind::Iou {
        threshold,
        search_distance,
    } = settings.nms[1].kind
    else {
        panic!("{:?}", settings.nms);
    };
    assert_eq!((threshold, search_distance), (0.2, 12.0));
}

#[test]
fn thresholds_by_class_and_distance_are_applied() {
    let mut parameters = BTreeMap::new();
    let name = "post_process_params.score_thresholds";
    parameters.insert(name.into(), list(&[0.1, 0.2, 0.3, 0.4, 0.5]));
    let by_class = settings(parameters.clone()).unwrap();
    assert_eq!(by_class.decode.score, [[0.1, 0.2, 0.3, 0.4, 0.5, 0.35]]);

    let prefix = "model_params.score_thresholds";
    parameters.insert(format!("{prefix}.upper_bounds"), list(&[50.0, 90.0]));
    let missing = settings(parameters.clone()).unwrap_err().to_string();
    assert!(missing.contains("2 distance bands without"), "{missing}");
    let flat: Vec<f64> = (0..10).map(|i| f64::from(i) / 10.0).collect();
    parameters.insert(format!("{prefix}.thresholds"), list(&flat));
    let by_band = settings(parameters.clone()).unwrap();
    assert_eq!(by_band.decode.bands, [50.0, 90.0]);
    assert_eq!(by_band.decode.score[1], [0.5, 0.6, 0.7, 0.8, 0.9, 0.0]);
    parameters.insert(format!("{prefix}.upper_bounds"), list(&[90.0, 50.0]));
    assert!(settings(parameters).is_err());
}

#[test]
fn contradictions_are_errors_with_both_values() {
    let cases: [(&str, Value, &[&str]); 8] = [
        (
            "model_params.class_names",
            Value::List(vec![]),
            &["[]", "\"CAR\", \"TRUCK\""],
        ),
        (
            "model_params.max_voxel_size",
            Value::Integer(30000),
            &["30000", "40000"],
        ),
        (
            "model_params.voxel_size",
            list(&[0.32, 0.32, 8.0]),
            &["8.0", "10.0"],
        ),
        (
            "model_params.downsample_factor",
            Value::Integer(1),
            &["`: 1,", "has 2"],
        ),
        (
            "model_params.has_variance",
            Value::Bool(true),
            &["true", "false"],
        ),
        ("cloud_capacity", Value::Integer(7), &["7", "2000000"]),
        (
            "densification_params.num_past_frames",
            Value::Integer(2),
            &["`: 2,", "has 1"],
        ),
        (
            "allow_remapping_by_area_matrix",
            list(&[0.0; 64]),
            &["0 rules", "1 different rules"],
        ),
    ];
    for (name, value, expected) in cases {
        let mut parameters = autoware();
        parameters.insert(name.into(), value);
        let error = settings(parameters).unwrap_err();
        assert!(
            matches!(error, ParameterError::Contradiction { .. }),
            "{error}"
        );
        for expected in expected.iter().chain([&name]) {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

#[test]
fn wrong_types_ranges_and_names_are_errors() {
    let text = |text: &str| Value::String(text.into());
    for (name, value, expected) in [
        (
            "post_process_params.score_threshold",
            Value::Double(1.5),
            "from 0 to 1",
        ),
        (
            "post_process_params.score_threshold",
            text("high"),
            "\"high\"",
        ),
        (
            "post_process_params.yaw_norm_thresholds",
            list(&[0.1]),
            "1 values for 5 classes",
        ),
        (
            "densification_params.num_past_frames",
            Value::Integer(-1),
            "non-negative integer",
        ),
        (
            "densification_params.world_frame_id",
            Value::Integer(1),
            "a string",
        ),
        ("model_params.has_twist", text("yes"), "true or false"),
        ("output", text("markers"), "vision, autoware"),
        (
            "qos_overrides./points.subscription.reliability",
            text("maybe"),
            "reliable or best_effort",
        ),
        (
            "densification_params.without_pose",
            text("wait"),
            "alone or drop",
        ),
        (
            "post_process_params.iou_nms_suppressors",
            text("none"),
            "kept or all",
        ),
        (
            "qos_overrides./points.subscription.depth",
            Value::Integer(0),
            "1 to 1000",
        ),
        (
            "post_process_params.has_twist",
            Value::Double(0.5),
            "did you mean `model_params.has_twist`?",
        ),
        (
            "nonsense",
            Value::Double(0.5),
            "key `nonsense`: unknown parameter",
        ),
    ] {
        let error = settings(BTreeMap::from([(name.to_owned(), value)])).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[test]
fn outputs_and_quality_of_service_are_configurable() {
    let both = Value::List(vec![
        Value::String("autoware".into()),
        Value::String("vision".into()),
    ]);
    let prefix = "qos_overrides./points.subscription";
    let parameters = BTreeMap::from([
        ("output".to_owned(), both),
        (
            format!("{prefix}.reliability"),
            Value::String("reliable".into()),
        ),
        (format!("{prefix}.depth"), Value::Integer(5)),
    ]);
    let settings = settings(parameters).unwrap();
    assert!(settings.vision && settings.autoware);
    assert_eq!(
        settings.clouds,
        CloudQos {
            reliable: true,
            depth: 5
        }
    );
}

/// Autoware's rules hold where its files set the step and the sweeps, unless a parameter says otherwise.
#[test]
fn suppressors_and_clouds_without_a_pose_are_configurable() {
    let given = |path: &str, more: &[(&str, &str)]| {
        let mut parameters = Parameters::default();
        for (name, value) in autoware() {
            parameters.set(&name, value, Path::new(path));
        }
        for (name, word) in more {
            parameters.set(name, Value::String((*word).into()), Path::new(COMMAND_LINE));
        }
        let settings = Settings::new(parameters, &tiny(), "/points").unwrap();
        (settings.nms[1].suppressors, settings.without_pose)
    };
    let plans = (Suppressors::Kept, WithoutPose::Alone);
    let autowares = (Suppressors::All, WithoutPose::Drop);
    let words = |suppressors, without_pose| {
        [
            ("post_process_params.iou_nms_suppressors", suppressors),
            ("densification_params.without_pose", without_pose),
        ]
    };
    assert_eq!(given(COMMAND_LINE, &[]), plans);
    assert_eq!(given("common.param.yaml", &[]), autowares);
    assert_eq!(given("common.param.yaml", &words("kept", "alone")), plans);
    assert_eq!(given(COMMAND_LINE, &words("all", "drop")), autowares);
}

/// The newest files, and those that only `cp-build import` took.
#[test]
fn files_are_read_as_by_the_import() {
    let mut files = vec![
        "densification_params:\n  num_past_frames: 1\nmax_allowed_processing_time_ms: 80\n",
        "version: v4.1\nclass_remapper_param_path: none.yaml\nallow_remapping_by_area_matrix: []\n",
    ];
    let read = |lines: &[&str]| -> Result<Settings, ParameterError> {
        let folder = tempfile::tempdir().unwrap();
        let mut parameters = Parameters::default();
        for (number, lines) in lines.iter().enumerate() {
            let lines = lines.lines().map(|line| format!("    {line}\n"));
            let text = format!("/**:\n  ros__parameters:\n{}", lines.collect::<String>());
            let path = folder.path().join(format!("{number}.yaml"));
            std::fs::write(&path, text).unwrap();
            parameters.read(&path, |_| true)?;
        }
        Settings::new(parameters, &tiny(), "/points")
    };
    let error = read(&files).unwrap_err().to_string();
    assert!(
        error.contains("1.yaml") && error.contains("0 values; expected 64"),
        "{error}"
    );
    files.truncate(1);
    let bands = "\
model_params:
  yaw_norm_thresholds: [0.1, 0.2, 0.3, 0.4, 0.5]
  detection_score_thresholds:
    distance_bin_upper_limits: [50.0, inf]
    min_confidence_scores:
      CAR: [0.1, 0.2]
      TRUCK: [0.3, 0.4]
      BUS: [0.5, 0.6]
      BICYCLE: [0.7, 0.8]
      PEDESTRIAN: [0.9, 1.0]
";
    files.push(bands);
    let settings = read(&files).unwrap();
    assert_eq!(settings.decode.bands, [50.0, f32::INFINITY]);
    assert_eq!(settings.decode.score[1], [0.2, 0.4, 0.6, 0.8, 1.0, 0.0]);
    assert_eq!(settings.decode.yaw_norm[..5], [0.1, 0.2, 0.3, 0.4, 0.5]);
    assert_eq!(settings.budget.frame_ms, 80.0);
    files[1] = "version: v4.0\n";
    let error = read(&files).unwrap_err().to_string();
    assert!(
        error.contains("1.yaml: key `version`: `v4.0`; expected 4.1"),
        "{error}"
    );
    files[1] = "num_proposals: 500\n";
    let error = read(&files).unwrap_err().to_string();
    assert!(error.contains("autoware_lidar_transfusion"), "{error}");
}

#[test]
fn the_mounting_of_the_sensor_is_configurable() {
    let list = |values: &[f64]| Value::List(values.iter().map(|v| Value::Double(*v)).collect());
    let given = |name: &str, value: Value| settings(BTreeMap::from([(name.to_owned(), value)]));
    let none = settings(BTreeMap::new()).unwrap();
    assert_eq!(
        (none.extrinsic, none.ground, none.ignore_box),
        (None, None, None)
    );
    let numbers = [0.9, 0.0, 2.0, 0.0, 1.5, -90.0];
    let mounted = given("extrinsic", list(&numbers)).unwrap();
    assert_eq!(mounted.extrinsic, Some(Extrinsic::new(numbers).unwrap()));
    let auto = given("ground", Value::String("auto".into())).unwrap();
    assert_eq!(auto.ground, Some(GroundHeight::Auto));
    for (value, height) in [(Value::Double(-1.75), -1.75), (Value::Integer(-2), -2.0)] {
        assert_eq!(
            given("ground", value).unwrap().ground,
            Some(GroundHeight::At(height))
        );
    }
    let ignored = given("ignore_box", list(&[-1.0, -1.0, 0.0, 4.0, 1.0, 2.0])).unwrap();
    assert_eq!(
        ignored.ignore_box,
        Some([[-1.0, -1.0, 0.0], [4.0, 1.0, 2.0]])
    );
    for (name, value, part) in [
        ("extrinsic", list(&[1.0, 2.0]), "a list of 6 numbers"),
        ("ground", Value::String("low".into()), "auto"),
        ("ground", Value::Double(f64::NAN), "auto"),
        (
            "ignore_box",
            list(&[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
            "the least x, y, z",
        ),
    ] {
        let error = given(name, value).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
}
