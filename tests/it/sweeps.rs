//! Sweeps through the public API: lists in JSON, and precision far from the origin. `shared/sweeps.rs` has two real
//! sweeps.
#![allow(clippy::unwrap_used, clippy::panic)] // Also in test helpers.

use std::fs;

use centerpoint::points::{Pose, ReadOptions, SweepBuffer};
use centerpoint::{Layout, PointCloud, points};
use nalgebra::{Isometry3, Translation3, Vector3};
use serde_json::{Value, json};

pub(crate) const OPTIONS: ReadOptions = ReadOptions {
    layout: None,
    default_layout: Layout::KITTI,
};

/// A folder with `a.bin` and `b.bin` (one point each) and `list.json`.
fn folder_with(list: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, x) in [("a.bin", 1.0f32), ("b.bin", 2.0)] {
        let row: Vec<u8> = [x, 0.0, 0.0, 9.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        fs::write(folder.path().join(name), row).unwrap();
    }
    fs::write(folder.path().join("list.json"), list).unwrap();
    folder
}

fn list() -> Value {
    json!({"sweeps": [
        {"file": "a.bin", "stamp_ns": 1_500_000_000,
         "pose": {"translation": [10, 0, 0], "rotation": [1, 0, 0, 0]}},
        {"file": "b.bin", "stamp_ns": 1_250_000_000,
         "pose": {"translation": [7, 0, 0], "rotation": [1, 0, 0, 0]}},
    ]})
}

#[test]
fn a_list_becomes_one_cloud_newest_first() {
    let folder = folder_with(&list().to_string());
    let path = folder.path().join("list.json");
    let (cloud, done) = points::read_sweeps(&path, &OPTIONS, 100).unwrap();
    assert_eq!(cloud.layout(), Layout::XYZIT);
    assert_eq!(
        cloud.data(),
        [1.0, 0.0, 0.0, 9.0, 0.0, -1.0, 0.0, 0.0, 9.0, 0.25]
    );
    assert_eq!((done.sweeps, done.points_over_capacity), (2, 0));
    let (cloud, done) = points::read_sweeps(&path, &OPTIONS, 1).unwrap();
    assert_eq!((cloud.len(), done.points_over_capacity), (1, 1));
}

#[test]
fn the_users_layout_overrides_the_lists() {
    let mut with_layout = list();
    with_layout["layout"] = json!("x,y,z,t");
    let folder = folder_with(&with_layout.to_string());
    let path = folder.path().join("list.json");
    let (cloud, _) = points::read_sweeps(&path, &OPTIONS, 100).unwrap();
    assert_eq!(cloud.data(), [1.0, 0.0, 0.0, 9.0, -1.0, 0.0, 0.0, 9.25]);
    let user = ReadOptions {
        layout: Some(Layout::KITTI),
        ..OPTIONS
    };
    let (cloud, _) = points::read_sweeps(&path, &user, 100).unwrap();
    assert_eq!(cloud.layout(), Layout::XYZIT);
}

#[test]
fn a_sweep_without_a_pose_is_left_out() {
    let mut no_pose = list();
    no_pose["sweeps"][1]["pose"] = Value::Null;
    let folder = folder_with(&no_pose.to_string());
    let path = folder.path().join("list.json");
    let (cloud, done) = points::read_sweeps(&path, &OPTIONS, 100).unwrap();
    assert_eq!((cloud.len(), done.sweeps_without_pose), (1, 1));
    no_pose["sweeps"].as_array_mut().unwrap().swap_remove(0);
    fs::write(&path, no_pose.to_string()).unwrap();
    let (cloud, done) = points::read_sweeps(&path, &OPTIONS, 100).unwrap();
    assert_eq!((cloud.data()[0], done.sweeps_without_pose), (2.0, 0));
}

#[test]
fn broken_lists_are_errors_that_name_the_file() {
    let changed = |pointer: &str, value: Value| {
        let mut list = list();
        *list.pointer_mut(pointer).unwrap() = value;
        list.to_string()
    };
    let with_key = |pointer: &str| {
        let mut list = list();
        list.pointer_mut(pointer).unwrap()["extra"] = json!(1);
        list.to_string()
    };
    let mut without_pose = list();
    without_pose["sweeps"][1]
        .as_object_mut()
        .unwrap()
        .remove("pose");
    for (text, expected) in [
        (String::new(), "list.json: not a list of sweeps: EOF"),
        ("[]".into(), "not a list of sweeps"),
        (list().to_string() + "x", "trailing characters"),
        (r#"{"sweeps":[]}"#.into(), "0 sweeps"),
        (with_key(""), "unknown field `extra`"),
        (with_key("/sweeps/0"), "unknown field `extra`"),
        (with_key("/sweeps/0/pose"), "unknown field `extra`"),
        (without_pose.to_string(), "missing field `pose`"),
        (changed("/sweeps/0/stamp_ns", json!(1.5)), "invalid type"),
        (
            changed("/sweeps/0/stamp_ns", json!(0)),
            "newest sweep first",
        ),
        (
            changed("/sweeps/1/pose/rotation", json!([1, 0, 0, 1])),
            "list.json: b.bin: the rotation",
        ),
        (
            changed("/sweeps/1/pose/rotation", json!([1, 0, 0])),
            "invalid length 3",
        ),
        (
            list().to_string().replace("10", "1e999"),
            "number out of range",
        ),
        (
            changed("/sweeps/1/file", json!("c.bin")),
            "c.bin: cannot read",
        ),
        (
            changed("/sweeps/1/file", json!("list.json")),
            "list.json: unknown frame format",
        ),
    ] {
        let folder = folder_with(&text);
        let path = folder.path().join("list.json");
        let error = points::read_sweeps(&path, &OPTIONS, 100)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{text}\n{error}");
    }
    let folder = folder_with("");
    let error = points::read_sweeps(&folder.path().join("none.json"), &OPTIONS, 1).unwrap_err();
    assert!(error.to_string().contains("none.json"), "{error}");
}

#[test]
fn truncated_lists_are_errors() {
    let text = list().to_string();
    for part in 0..64 {
        let folder = folder_with(&text[..text.len() * part / 64]);
        let path = folder.path().join("list.json");
        let error = points::read_sweeps(&path, &OPTIONS, 100)
            .unwrap_err()
            .to_string();
        assert!(error.contains("list.json"), "{error}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn changed_lists_do_not_panic(
        place in proptest::prelude::any::<proptest::sample::Index>(),
        value in proptest::sample::select(b"0-9.eE\"{}[],: \\nx\xff".to_vec()),
        insert in proptest::prelude::any::<bool>(),
    ) {
        let mut text = list().to_string().into_bytes();
        let place = place.index(text.len());
        if insert {
            text.insert(place, value);
        } else {
            text[place] = value;
        }
        let folder = folder_with("");
        let path = folder.path().join("list.json");
        fs::write(&path, text).unwrap();
        if let Err(error) = points::read_sweeps(&path, &OPTIONS, 100) {
            // The list, or a frame named in it, which is in the same folder.
            let folder = folder.path().to_string_lossy().into_owned();
            assert!(error.to_string().starts_with(&folder), "{error}");
        }
    }
}

/// A pose from translation and rotation vector, in f64.
fn isometry(translation: [f64; 3], rotation: [f64; 3]) -> Isometry3<f64> {
    Isometry3::new(translation.into(), rotation.into())
}

pub(crate) fn pose(isometry: &Isometry3<f64>) -> Pose {
    let t = isometry.translation.vector;
    let q = isometry.rotation;
    Pose::new([t.x, t.y, t.z], [q.w, q.i, q.j, q.k]).unwrap()
}

/// Largest error of points moved by the crate, and of points moved by f32 composition as in peer projects.
pub(crate) fn errors(
    past: &Isometry3<f64>,
    now: &Isometry3<f64>,
    truth: &Isometry3<f64>,
) -> (f64, f64) {
    let points: Vec<Vector3<f32>> = (0..1000)
        .map(|i| i as f32)
        .map(|i| {
            Vector3::new(
                80.0 * (i * 0.1).cos(),
                80.0 * (i * 0.37).sin(),
                i * 0.01 - 3.0,
            )
        })
        .collect();
    let rows = points.iter().flat_map(|p| [p.x, p.y, p.z, 0.0]).collect();
    let cloud = PointCloud::new(Layout::KITTI, rows).unwrap();
    let newest = PointCloud::empty(Layout::KITTI);
    let mut buffer = SweepBuffer::new(1, 10_000);
    buffer.push(&cloud, 0, Some(pose(past))).unwrap();
    buffer.push(&newest, 100_000_000, Some(pose(now))).unwrap();
    let mut out = PointCloud::empty(Layout::KITTI);
    buffer.accumulate(&mut out);
    let in_f32 = now.cast::<f32>().inverse() * past.cast::<f32>();
    let distance = |a: Vector3<f32>, b: &Vector3<f32>| {
        (a.cast::<f64>() - truth.transform_point(&b.cast().into()).coords).norm()
    };
    let worst = |moved: &mut dyn Iterator<Item = Vector3<f32>>| {
        moved
            .zip(&points)
            .map(|(a, b)| distance(a, b))
            .fold(0.0, f64::max)
    };
    (
        worst(&mut out.rows().map(|row| Vector3::new(row[0], row[1], row[2]))),
        worst(
            &mut points
                .iter()
                .map(|p| in_f32.transform_point(&(*p).into()).coords),
        ),
    )
}

#[test]
fn poses_far_from_the_origin_keep_their_precision() {
    // The truth is the same motion near the origin; then the map's origin is moved away.
    let now = isometry([0.513, -0.247, 0.121], [0.01, -0.02, 1.2]);
    let past = isometry([-0.971, 0.738, 0.013], [0.0, 0.01, 1.1]);
    let truth = now.inverse() * past;
    let (near, near_f32) = errors(&past, &now, &truth);
    assert!(near < 3e-5 && near_f32 < 1e-4, "{near} {near_f32}");
    let away = Translation3::new(1e6, -1e6, 100.0);
    let (far, far_f32) = errors(&(away * past), &(away * now), &truth);
    println!("1e6 m from the origin: worst error {far:.2e} m in f64, {far_f32:.2e} m in f32");
    assert!(far < 3e-5, "{far}");
    assert!(far_f32 > 0.02, "{far_f32}");
}
