//! Scenes through the public API: the same bytes every time, and labels that fit the points.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::chain::Chain;
use crate::results::nuscenes::{Results, SampleBox};
use crate::synth::{CLASSES, Config, Dataset, LabelledFrame, generate, write_dataset};

fn frame(index: u64) -> LabelledFrame {
    generate(2024, index, &Config::default()).unwrap()
}

/// Rows of x, y, z, intensity, t.
fn rows(frame: &LabelledFrame) -> impl Iterator<Item = [f64; 5]> {
    let rows = frame.cloud.rows();
    rows.map(|row| std::array::from_fn(|column| f64::from(row[column])))
}

fn velocity(label: &SampleBox) -> [f64; 2] {
    label
        .velocity
        .map(|v| v.expect("every label has a velocity"))
}

/// Whether a point lies in the label's box, moved by `shift` and enlarged by `margin`.
fn inside(label: &SampleBox, point: &[f64; 5], shift: [f64; 2], margin: f64) -> bool {
    // Rotate by the conjugate quaternion, written out for a rotation about z.
    let [w, _, _, z] = label.rotation;
    let (cos, sin) = (w * w - z * z, 2.0 * w * z);
    let dx = point[0] - label.translation[0] - shift[0];
    let dy = point[1] - label.translation[1] - shift[1];
    let dz = point[2] - label.translation[2];
    let [width, length, height] = label.size;
    (cos * dx + sin * dy).abs() <= 0.5 * length + margin
        && (cos * dy - sin * dx).abs() <= 0.5 * width + margin
        && dz.abs() <= 0.5 * height + margin
}

/// All files of a folder and their bytes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let inner = contents(&path).into_iter();
            files.extend(inner.map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

fn dataset(out: &Path, threads: usize) -> Dataset {
    Dataset {
        seed: 5,
        first: 3,
        frames: 6,
        config: Config::default(),
        out: out.to_path_buf(),
        force: false,
        threads,
    }
}

#[test]
fn one_and_two_threads_write_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    write_dataset(&dataset(&one, 1), &|| ()).unwrap();
    write_dataset(&dataset(&two, 2), &|| ()).unwrap();
    let files = contents(&one);
    assert_eq!(files.len(), 8);
    assert!(files == contents(&two));
    // A part of the data set has the same frames.
    let single = generate(5, 7, &Config::default()).unwrap();
    let bytes: Vec<u8> = bytemuck::cast_slice(single.cloud.data()).to_vec();
    assert!(files["frames/000007.bin"] == bytes);
    let labels = Results::read(&one.join("labels.json")).unwrap();
    assert_eq!(labels.results["000007"], single.labels);
    assert_eq!(labels.results.len(), 6);
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest["seed"], 5);
    assert_eq!(manifest["config"]["scanner"]["beams"], 32);
}

#[test]
fn other_seeds_and_indices_make_other_frames() {
    let config = Config::default();
    let frame = |seed, index| generate(seed, index, &config).unwrap();
    let first = frame(1, 0);
    assert!(first == frame(1, 0));
    assert!(first.cloud != frame(2, 0).cloud);
    assert!(first.cloud != frame(1, 1).cloud);
}

#[test]
fn a_folder_with_files_is_only_replaced_with_force() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let mut job = dataset(folder.path(), 1);
    job.frames = 2;
    let refusal = Chain(&write_dataset(&job, &|| ()).unwrap_err()).to_string();
    assert!(refusal.contains("--force"), "{refusal}");
    assert!(
        refusal.contains(folder.path().to_str().unwrap()),
        "{refusal}"
    );
    job.force = true;
    write_dataset(&job, &|| ()).unwrap();
    job.first = 100;
    write_dataset(&job, &|| ()).unwrap();
    let names: Vec<String> = contents(folder.path()).into_keys().collect();
    let expected = [
        "frames/000100.bin",
        "frames/000101.bin",
        "labels.json",
        "manifest.json",
        "notes.txt",
    ];
    assert_eq!(names, expected);
}

#[test]
fn points_are_counted_and_well_formed() {
    for index in 0..5 {
        let frame = frame(index);
        for label in &frame.labels {
            let newest = rows(&frame).filter(|row| row[4] == 0.0);
            let count = newest
                .filter(|row| inside(label, row, [0.0; 2], 0.0))
                .count();
            // Rounding may put a point on a face on either side.
            assert!(
                label.num_pts.abs_diff(count as i64) <= 1,
                "{label:?}: {count}"
            );
        }
        let mut oldest = 0.0;
        for row in rows(&frame) {
            assert!(row.iter().all(|value| value.is_finite()));
            assert!((0.0..=1.0).contains(&row[3]));
            assert!(row[4] == 0.0 || (row[4] - 0.1).abs() < 1e-7);
            assert!(row[4] >= oldest, "the newest sweep comes first");
            oldest = row[4];
            let range = row[0].hypot(row[1]);
            assert!((1.0..110.0).contains(&range), "{range}");
        }
        let count = frame.cloud.len();
        assert!((25_000..60_000).contains(&count), "{count}");
    }
}

#[test]
fn classes_have_their_expected_frequencies() {
    let frames = 60;
    let mut counts = [0.0; 5];
    for index in 0..frames {
        for label in frame(index).labels {
            let [x, y, _] = label.ego_translation;
            assert!(x.hypot(y) < 100.0);
            let class = CLASSES
                .iter()
                .position(|name| *name == label.detection_name);
            if x.hypot(y) < 50.0 {
                counts[class.expect("a known class")] += 1.0 / frames as f64;
            }
        }
    }
    let expected = [(8.0, 20.0), (1.8, 4.5), (0.8, 2.5), (2.0, 5.0), (5.0, 13.0)];
    for ((name, count), (low, high)) in CLASSES.iter().zip(counts).zip(expected) {
        assert!((low..high).contains(&count), "{count} {name}s within 50 m");
    }
}

#[test]
fn static_structure_coincides_and_moving_objects_trail() {
    let (mut distances, mut shifted, mut unshifted) = (Vec::new(), 0, 0);
    for index in 0..8 {
        let frame = frame(index);
        let near_label = |row: &[f64; 5]| {
            let mut labels = frame.labels.iter();
            labels.any(|label| inside(label, row, [0.0; 2], 2.0))
        };
        // Upright structure within 15 m: walls, poles, trunks.
        let upright: Vec<[f64; 5]> = rows(&frame)
            .filter(|row| row[0].hypot(row[1]) < 15.0 && (0.6..2.2).contains(&row[2]))
            .filter(|row| !near_label(row))
            .collect();
        let (old, new): (Vec<_>, Vec<_>) = upright.into_iter().partition(|row| row[4] > 0.0);
        if new.len() > 200 {
            distances.extend(old.iter().step_by(5).map(|a| {
                let to = new.iter().map(|b| (a[0] - b[0]).hypot(a[1] - b[1]));
                to.fold(f64::MAX, f64::min)
            }));
        }
        for label in &frame.labels {
            let [vx, vy] = velocity(label);
            let length = label.size[1];
            if vx.hypot(vy) * 0.1 < 0.1 * length || label.num_pts < 30 {
                continue;
            }
            for row in rows(&frame).filter(|row| row[4] > 0.0) {
                // Above the ground, and in only one of the two places.
                if row[2] < label.translation[2] - 0.3 * label.size[2] {
                    continue;
                }
                let back = inside(label, &row, [-0.1 * vx, -0.1 * vy], 0.08);
                let stay = inside(label, &row, [0.0; 2], 0.08);
                shifted += usize::from(back && !stay);
                unshifted += usize::from(stay && !back);
            }
        }
    }
    distances.sort_by(f64::total_cmp);
    assert!(distances.len() > 500, "{}", distances.len());
    let median = distances[distances.len() / 2];
    assert!(median < 0.06, "median distance {median} m");
    assert!(
        shifted > 200 && shifted > 20 * unshifted,
        "{shifted} points trail, {unshifted} do not"
    );
}
