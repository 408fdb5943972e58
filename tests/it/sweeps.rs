//! Sweeps through the public API: lists in JSON, precision far from the origin, and the two real
//! AV2 sweeps, whose static structure must coincide after ego motion compensation.
#![allow(clippy::unwrap_used, clippy::panic)] // Also in test helpers.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use crate::common::shared;
use centerpoint::points::{self, Layout, PointCloud, Pose, ReadOptions, SweepBuffer};
use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion, Vector3};
use serde_json::{Value, json};

const PAST: &str = "315966265259836000";
const NOW: &str = "315966265360032000";

const OPTIONS: ReadOptions = ReadOptions {
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

fn pose(isometry: &Isometry3<f64>) -> Pose {
    let t = isometry.translation.vector;
    let q = isometry.rotation;
    Pose::new([t.x, t.y, t.z], [q.w, q.i, q.j, q.k]).unwrap()
}

/// Largest error of points moved by the crate, and of points moved by f32 composition as in peer projects.
fn errors(past: &Isometry3<f64>, now: &Isometry3<f64>, truth: &Isometry3<f64>) -> (f64, f64) {
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

/// The folder of the AV2 fixture with its labels and poses; prints a line and returns `None` if it is missing.
fn av2() -> Option<(PathBuf, Value)> {
    let folder = shared("data/frames/av2")?;
    let bytes = fs::read(folder.join("sweeps.json")).unwrap();
    Some((folder, serde_json::from_slice(&bytes).unwrap()))
}

fn numbers<const N: usize>(value: &Value, keys: [&str; N]) -> [f64; N] {
    keys.map(|key| value[key].as_f64().unwrap())
}

const TRANSLATION: [&str; 3] = ["tx_m", "ty_m", "tz_m"];
const ROTATION: [&str; 4] = ["qw", "qx", "qy", "qz"];

fn av2_isometry(value: &Value) -> Isometry3<f64> {
    let [w, x, y, z] = numbers(value, ROTATION);
    Isometry3::from_parts(
        numbers(value, TRANSLATION).into(),
        UnitQuaternion::from_quaternion(Quaternion::new(w, x, y, z)),
    )
}

/// The two sweeps of the AV2 fixture with their poses.
pub(crate) fn av2_sweeps(capacity: usize) -> Option<SweepBuffer> {
    let (folder, labels) = av2()?;
    let options = ReadOptions {
        layout: Some("x,y,z,intensity,_".parse().unwrap()),
        ..OPTIONS
    };
    let mut buffer = SweepBuffer::new(1, capacity);
    for stamp in [PAST, NOW] {
        let cloud = points::read(&folder.join(format!("{stamp}.bin")), &options).unwrap();
        let pose = pose(&av2_isometry(&labels[stamp]["city_SE3_ego"]));
        let stamp = stamp.parse().unwrap();
        buffer.push(&cloud, stamp, Some(pose)).unwrap();
    }
    Some(buffer)
}

#[test]
fn av2_city_poses_are_composed_in_f64() {
    let Some((_, labels)) = av2() else {
        return;
    };
    let [now, past] = [NOW, PAST].map(|stamp| av2_isometry(&labels[stamp]["city_SE3_ego"]));
    let truth = now.inverse() * past;
    let (in_f64, in_f32) = errors(&past, &now, &truth);
    println!("AV2 city frame: worst error {in_f64:.2e} m in f64, {in_f32:.2e} m in f32");
    assert!(in_f64 < 3e-5, "{in_f64}");
    assert!(in_f32 > 3.0 * in_f64, "{in_f32}");
}

/// Whether a point belongs to static structure: above ground, 5 to 60 m away, in no labelled box. Each box is
/// enlarged by 0.3 m per side.
fn is_static(point: Vector3<f32>, boxes: &[(Isometry3<f64>, Vector3<f64>)]) -> bool {
    let range = point.xy().norm();
    (5.0..60.0).contains(&range)
        && point.z > 0.6
        && boxes.iter().all(|(pose, half)| {
            let inside = pose.inverse_transform_point(&point.cast().into()).coords;
            inside.abs().iter().zip(half.iter()).any(|(a, b)| a > b)
        })
}

fn boxes(labels: &Value) -> Vec<(Isometry3<f64>, Vector3<f64>)> {
    let size = |label| numbers(label, ["length_m", "width_m", "height_m"]);
    let labels = labels["boxes"].as_array().unwrap();
    labels
        .iter()
        .map(|label| {
            (
                av2_isometry(label),
                Vector3::from(size(label)) / 2.0 + Vector3::repeat(0.3),
            )
        })
        .collect()
}

/// Distances from each of `points` to the nearest of `others`, at most 1 m, in ascending order.
fn nearest(points: &[Vector3<f32>], others: &[Vector3<f32>]) -> Vec<f32> {
    let cell = |p: &Vector3<f32>| [p.x, p.y, p.z].map(|v| v.floor() as i32);
    let mut grid: HashMap<[i32; 3], Vec<Vector3<f32>>> = HashMap::new();
    for other in others {
        grid.entry(cell(other)).or_default().push(*other);
    }
    let near = |p: &Vector3<f32>| {
        let [x, y, z] = cell(p);
        let around = (0..27).map(|i| [x + i % 3 - 1, y + i / 3 % 3 - 1, z + i / 9 - 1]);
        let found = around.filter_map(|cell| grid.get(&cell)).flatten();
        found.map(|other| (other - p).norm()).fold(1.0, f32::min)
    };
    let mut distances: Vec<f32> = points.iter().map(near).collect();
    distances.sort_by(f32::total_cmp);
    distances
}

#[test]
fn static_structure_coincides_after_compensation() {
    let Some((folder, labels)) = av2() else {
        return;
    };
    // The fixture's poses, as a list for this crate.
    let entry = |stamp: &str, with_motion: bool| {
        let newest = &labels[if with_motion { stamp } else { NOW }]["city_SE3_ego"];
        json!({
            "file": folder.canonicalize().unwrap().join(format!("{stamp}.bin")),
            "stamp_ns": stamp.parse::<i64>().unwrap(),
            "pose": {
                "translation": numbers(newest, TRANSLATION),
                "rotation": numbers(newest, ROTATION),
            },
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sweeps.json");
    let sweeps = |with_motion: bool| {
        let sweeps = [entry(NOW, with_motion), entry(PAST, with_motion)];
        let list = json!({"sweeps": sweeps, "layout": "x,y,z,intensity,_"});
        fs::write(&path, list.to_string()).unwrap();
        let (cloud, done) = points::read_sweeps(&path, &OPTIONS, 300_000).unwrap();
        assert_eq!((cloud.len(), done.sweeps), (99_466 + 99_229, 2));
        assert_eq!(cloud.layout().to_string(), "x,y,z,intensity,skip,t");
        cloud
    };
    let boxes = [NOW, PAST].map(|stamp| boxes(&labels[stamp])).concat();
    let split = |cloud: &PointCloud, sweep: usize| -> Vec<Vector3<f32>> {
        let rows = cloud.rows().filter(|row| (row[5] != 0.0) == (sweep == 1));
        rows.map(|row| Vector3::new(row[0], row[1], row[2]))
            .collect()
    };
    let (before, after) = (sweeps(false), sweeps(true));
    assert!(after.rows().all(|row| row[5] == 0.0 || row[5] == 0.100196));
    let newest = split(&after, 0);
    assert_eq!(newest, split(&before, 0));
    // The same points of the past sweep before and after compensation, in the same order.
    let (raw, moved) = (split(&before, 1), split(&after, 1));
    let kept: Vec<usize> = (0..raw.len())
        .filter(|&i| is_static(raw[i], &boxes))
        .collect();
    let figures = [&raw, &moved].map(|points| {
        let points: Vec<Vector3<f32>> = kept.iter().map(|&i| points[i]).collect();
        let distances = nearest(&points, &newest);
        let mean = distances.iter().sum::<f32>() / distances.len() as f32;
        (distances[distances.len() / 2], mean)
    });
    let [(median_before, mean_before), (median_after, mean_after)] = figures;
    println!(
        "{} static points, distance to the nearest point of the newest sweep: median {:.1} mm → \
         {:.1} mm, mean {:.1} mm → {:.1} mm",
        kept.len(),
        median_before * 1e3,
        median_after * 1e3,
        mean_before * 1e3,
        mean_after * 1e3
    );
    assert!(kept.len() > 10_000, "{}", kept.len());
    // Measured: the median falls to 0.50 of its previous value, the mean to 0.55. The remainder is the distance
    // between neighbouring points of one scan.
    assert!(median_after < 0.6 * median_before, "{figures:?}");
    assert!(mean_after < 0.65 * mean_before, "{figures:?}");
}
