//! The readers of point clouds through the public API: round trips, real frames, and files broken in many ways.
#![allow(clippy::unwrap_used, clippy::panic)] // Also in test helpers.

use crate::common::repository;
use crate::frames;

use std::fs;
use std::path::{Path, PathBuf};

use centerpoint::internals::chain::Chain;
use centerpoint::points::{FrameError, ReadOptions};
use centerpoint::{Column, Layout, PointCloud, points};
use frames::{ENCODINGS, Encoding, Field, XYZI};
use proptest::prelude::*;

pub(crate) const OPTIONS: ReadOptions = ReadOptions {
    layout: None,
    default_layout: Layout::KITTI,
};

pub(crate) fn read_with(layout: &str, path: &Path) -> Result<PointCloud, FrameError> {
    let layout = Some(layout.parse().unwrap());
    points::read(path, &ReadOptions { layout, ..OPTIONS })
}

/// Writes `bytes` to a new file and reads it.
fn read_bytes(name: &str, bytes: &[u8]) -> Result<PointCloud, FrameError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    points::read(&path, &OPTIONS)
}

/// A valid file of each format, with 1000 points of x y z intensity.
fn valid_files() -> Vec<(&'static str, Vec<u8>)> {
    let scan = frames::scan(1000);
    let wide: Vec<f64> = scan.iter().map(|v| f64::from(*v)).collect();
    vec![
        ("a.bin", frames::bin(&scan)),
        ("a.npy", frames::npy(&scan, 4)),
        ("ascii.pcd", frames::pcd(&XYZI, &wide, Encoding::Ascii)),
        ("binary.pcd", frames::pcd(&XYZI, &wide, Encoding::Binary)),
        (
            "compressed.pcd",
            frames::pcd(&XYZI, &wide, Encoding::Compressed),
        ),
    ]
}

#[test]
fn every_format_round_trips() {
    let scan = frames::scan(1000);
    for (name, bytes) in valid_files() {
        let cloud = read_bytes(name, &bytes).unwrap();
        assert_eq!(cloud.layout(), Layout::KITTI, "{name}");
        assert_eq!(cloud.data(), scan, "{name}");
    }
}

#[test]
fn pcd_fields_of_every_type_are_converted_and_others_skipped() {
    let types = [('F', 4), ('F', 8), ('I', 1), ('I', 2), ('I', 4), ('I', 8)];
    let unsigned = [('U', 1), ('U', 2), ('U', 4), ('U', 8)];
    for (kind, size) in types.into_iter().chain(unsigned) {
        let low = if kind == 'U' { 0.0 } else { -128.0 };
        let fields: [Field<'_>; 8] = [
            ("_", 'U', 1, 3),
            ("y", kind, size, 1),
            ("timestamp", 'F', 8, 1),
            ("x", kind, size, 1),
            ("normal", 'F', 4, 3),
            ("laser", 'U', 2, 1),
            ("z", 'F', 8, 1),
            ("rgb", 'U', 4, 1),
        ];
        let row = |i: f64| {
            [
                1.,
                2.,
                3.,
                low + i,
                1e18,
                100. - i,
                7.,
                8.,
                9.,
                500. + i,
                i / 4.,
                5.,
            ]
        };
        let values: Vec<f64> = (0..100).flat_map(|i| row(f64::from(i))).collect();
        let expected: Vec<f32> = (0..100)
            .map(f64::from)
            .flat_map(|i| [low + i, 100. - i, 500. + i, i / 4.].map(|v| v as f32))
            .collect();
        for encoding in ENCODINGS {
            let bytes = frames::pcd(&fields, &values, encoding);
            let cloud = read_bytes("a.pcd", &bytes).unwrap();
            assert_eq!(cloud.layout().to_string(), "y,x,ring,z");
            assert_eq!(cloud.data(), expected, "{kind}{size} {encoding:?}");
        }
    }
}

#[test]
fn nan_and_infinite_values_are_kept() {
    let values = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::INFINITY];
    let wide = values.map(f64::from);
    let mut files = vec![
        ("a.bin", frames::bin(&values)),
        ("a.npy", frames::npy(&values, 4)),
    ];
    files.extend(ENCODINGS.map(|encoding| ("a.pcd", frames::pcd(&XYZI, &wide, encoding))));
    for (name, bytes) in files {
        let cloud = read_bytes(name, &bytes).unwrap();
        assert!(cloud.data()[0].is_nan(), "{name}");
        assert_eq!(cloud.data()[1..], values[1..], "{name}");
    }
}

#[test]
fn files_without_names_use_the_given_or_the_models_layout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    fs::write(&path, frames::bin(&[1.; 20])).unwrap();
    assert_eq!(points::read(&path, &OPTIONS).unwrap().len(), 5);
    let waymo = read_with("waymo", &path).unwrap();
    assert_eq!((waymo.len(), waymo.layout()), (4, Layout::WAYMO));
    let text = read_with("x,y,z", &path).unwrap_err().to_string();
    for part in ["a.bin", "80 bytes", "12", "--layout"] {
        assert!(text.contains(part), "{text}");
    }
    let nuscenes = folder.path().join("b.pcd.bin");
    fs::copy(&path, &nuscenes).unwrap();
    assert_eq!(
        points::read(&nuscenes, &OPTIONS).unwrap().layout(),
        Layout::NUSCENES
    );
    assert_eq!(read_with("xyzi", &nuscenes).unwrap().len(), 5);
}

#[test]
fn a_frame_without_points_must_say_so() {
    for name in ["a.bin", "a.pcd.bin", "a.pcd", "a.npy"] {
        let error = read_bytes(name, b"").unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let error = read_bytes("a.bin", b"").unwrap_err().to_string();
    assert!(error.contains("the file is empty"), "{error}");
    for encoding in ENCODINGS {
        assert!(
            read_bytes("a.pcd", &frames::pcd(&XYZI, &[], encoding))
                .unwrap()
                .is_empty()
        );
    }
    assert!(
        read_bytes("a.npy", &frames::npy(&[], 4))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn invalid_frames_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("notes.txt"), "x y z").unwrap();
    fs::create_dir(at("folder.bin")).unwrap();
    for (name, part) in [
        ("notes.txt", ".pcd.bin"),
        ("folder.bin", "no frames in this folder"),
        ("missing.bin", "No such file"),
        ("missing.pcd", "No such file"),
    ] {
        let error = points::read(&at(name), &OPTIONS).unwrap_err();
        let text = Chain(&error).to_string();
        assert!(text.contains(name) && text.contains(part), "{text}");
    }
    let sparse = fs::File::create(at("huge.bin")).unwrap();
    sparse.set_len((1 << 30) + 16).unwrap();
    let text = points::read(&at("huge.bin"), &OPTIONS)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("huge.bin") && text.contains("1073741840"),
        "{text}"
    );
}

#[test]
fn folders_are_listed_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["b.bin", "a.pcd", "c.txt", "a.bin", "d.npy"] {
        fs::write(at(name), "").unwrap();
    }
    fs::create_dir(at("sub.bin")).unwrap();
    fs::write(at("sub.bin/e.bin"), "").unwrap();
    let single: PathBuf = "z/unseen.bin".into();
    let listed = points::list_frames(&[single.clone(), folder.path().to_path_buf()], false);
    let expected = ["a.bin", "a.pcd", "b.bin", "d.npy"].map(at);
    assert_eq!(listed[0], single);
    assert_eq!(listed[1..], expected);
    // A data set has its frames in a folder of that name.
    fs::create_dir_all(at("set/frames")).unwrap();
    fs::write(at("set/frames/f.bin"), "").unwrap();
    fs::write(at("set/labels.json"), "").unwrap();
    let listed = points::list_frames(&[at("set")], false);
    assert_eq!(listed, [at("set/frames/f.bin")]);
    fs::write(at("set/own.bin"), "").unwrap();
    let listed = points::list_frames(&[at("set")], false);
    assert_eq!(listed, [at("set/own.bin")]);
    // A folder without frames does not hide the others.
    fs::create_dir(at("none")).unwrap();
    let listed = points::list_frames(&[at("none"), at("set")], false);
    assert_eq!(listed, [at("none"), at("set/own.bin")]);
    let text = points::read(&listed[0], &OPTIONS).unwrap_err().to_string();
    assert!(text.contains("none") && text.contains(".npy"), "{text}");

    let listed = points::list_frames(&[folder.path().to_path_buf()], true);
    let expected = [
        "a.bin",
        "a.pcd",
        "b.bin",
        "d.npy",
        "set/frames/f.bin",
        "set/own.bin",
        "sub.bin/e.bin",
    ];
    assert_eq!(listed, expected.map(at));
}

#[cfg(unix)]
#[test]
fn any_file_name_is_listed_and_links_to_folders_are_not_followed_down() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let odd = folder
        .path()
        .join(std::ffi::OsStr::from_bytes(b"\xff\xfe.BIN"));
    fs::write(&odd, frames::bin(&[1.0; 4])).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("round")).unwrap();
    let listed = points::list_frames(&[folder.path().to_path_buf()], true);
    assert_eq!(listed, [odd]);
    assert_eq!(points::read(&listed[0], &OPTIONS).unwrap().len(), 1);
}

/// Each format truncated at every 1/64: an error that names the file, or, for a `.bin`, fewer rows.
#[test]
fn truncated_files_are_errors() {
    for (name, bytes) in valid_files() {
        for part in 0..64 {
            let cut = bytes.len() * part / 64;
            match read_bytes(name, &bytes[..cut]) {
                Err(error) => {
                    assert!(error.to_string().contains(name), "{error}");
                    let rows = cut.is_multiple_of(16) && cut > 0;
                    assert!(name != "a.bin" || !rows, "{error}");
                }
                Ok(cloud) => {
                    assert_eq!((name, cut % 16), ("a.bin", 0), "{cut} of {}", bytes.len());
                    assert_eq!(cloud.len(), cut / 16);
                }
            }
        }
    }
}

/// PCL fills its binary files up to a whole page with zeros.
#[test]
fn a_pcd_may_be_longer_than_its_header_says() {
    for (name, bytes) in valid_files().split_off(2) {
        let whole = read_bytes(name, &bytes).unwrap();
        for (tail, warnings) in [
            (&[0; 4096][..], 0),
            (b"\n \n", 0),
            (b"1 2 3 4\n", 1),
            (b"\0\0\0x", 1),
        ] {
            let cloud = read_bytes(name, &[&bytes, tail].concat()).unwrap();
            assert_eq!(cloud, whole, "{name}");
            let found = cloud.warnings();
            assert_eq!(found.len(), warnings, "{name} {tail:?}: {found:?}");
            for warning in found {
                let expected = format!("{} bytes follow the last point", tail.len());
                assert!(warning.to_string().contains(&expected), "{warning}");
            }
        }
    }
}

#[test]
fn extra_bytes_of_headerless_files_are_errors() {
    for (name, mut bytes) in valid_files().into_iter().take(2) {
        bytes.extend(b"1 2 3 4\n");
        let text = read_bytes(name, &bytes).unwrap_err().to_string();
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn pcd_fields_are_found_in_any_case_and_lists_of_values_are_skipped() {
    let fields: [Field<'_>; 6] = [
        ("X", 'F', 4, 1),
        ("Y", 'F', 8, 1),
        ("intensity", 'F', 4, 3),
        ("Z", 'I', 2, 1),
        ("Intensity", 'U', 1, 1),
        ("Timestamp", 'F', 8, 1),
    ];
    for encoding in ENCODINGS {
        let bytes = frames::pcd(&fields, &[1., 2., 7., 7., 7., -3., 255., 1e9], encoding);
        let cloud = read_bytes("a.pcd", &bytes).unwrap();
        assert_eq!(cloud.layout(), Layout::KITTI);
        assert_eq!(cloud.data(), [1., 2., -3., 255.], "{encoding:?}");
        let error = cloud
            .select(&[Column::Ring], 1.0, &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`x,y,z,intensity` and, not used, intensity,Timestamp;"),
            "{error}"
        );
    }
    let bytes = frames::pcd(&fields[..2], &[1., 2.], Encoding::Binary);
    let error = read_bytes("a.pcd", &bytes).unwrap_err().to_string();
    assert!(
        error.contains("no field z") && error.contains("X,Y"),
        "{error}"
    );
}

#[test]
fn a_viewpoint_is_reported() {
    let bytes = frames::pcd(&XYZI, &[1., 2., 3., 4.], Encoding::Ascii);
    let text = String::from_utf8(bytes).unwrap();
    for (pose, warned) in [
        ("0 0 0 1 0 0 0", false),
        ("0.0 -0 0 1.0 0 0 0", false),
        ("0 0 1.8 1 0 0 0", true),
        ("0 0 0 0.7071 0 0 0.7071", true),
        ("nonsense", true),
    ] {
        let text = text.replace("0 0 0 1 0 0 0", pose);
        let cloud = read_bytes("a.pcd", text.as_bytes()).unwrap();
        assert_eq!(cloud.data(), [1., 2., 3., 4.]);
        let found: Vec<String> = cloud.warnings().iter().map(|w| w.to_string()).collect();
        assert_eq!(found.len(), usize::from(warned), "{pose}: {found:?}");
        assert!(
            found
                .iter()
                .all(|text| text.contains(pose) && text.contains("--extrinsic"))
        );
    }
}

/// Reads any bytes: no panic, and an error names the file.
fn check_survives(name: &str, bytes: &[u8]) -> Result<(), TestCaseError> {
    match read_bytes(name, bytes) {
        Ok(cloud) => {
            prop_assert_eq!(cloud.rows().len(), cloud.len());
            prop_assert!(cloud.layout().position(Column::X).is_some());
        }
        Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_not_panic(
        name in prop::sample::select(vec!["a.bin", "a.pcd.bin", "a.pcd", "a.npy"]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        check_survives(name, &bytes)?;
    }

    #[test]
    fn random_bytes_after_a_valid_header_do_not_panic(
        at in 1..5usize,
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let (name, valid) = valid_files().swap_remove(at);
        let header = if at == 1 { 128 } else { valid.windows(5).position(|w| w == b"DATA ").unwrap() + 5 };
        let line = valid[header..].iter().position(|b| *b == b'\n').unwrap();
        let header = if at == 1 { 128 } else { header + line + 1 };
        check_survives(name, &[&valid[..header], &bytes].concat())?;
    }

    #[test]
    fn changed_bytes_do_not_panic(
        at in 0..5usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..8),
        in_header in any::<bool>(),
    ) {
        let (name, mut bytes) = valid_files().swap_remove(at);
        for (place, value, kind) in edits {
            let range = if in_header { bytes.len().min(256) } else { bytes.len() };
            let place = place.index(range);
            match kind {
                0 => bytes[place] = value,
                1 => bytes.insert(place, value),
                _ => { bytes.remove(place); }
            }
        }
        check_survives(name, &bytes)?;
    }

    #[test]
    fn changed_numbers_in_headers_do_not_panic(
        at in 1..5usize,
        which in any::<prop::sample::Index>(),
        number in prop::sample::select(vec![
            "0", "1", "-1", "3", "8", "255", "65536", "16777216", "4294967295", "4294967296",
            "18446744073709551615", "18446744073709551616", "1e9", "nan", "",
        ]),
    ) {
        let (name, bytes) = valid_files().swap_remove(at);
        let numbers: Vec<usize> = (8..256)
            .filter(|i| bytes[*i].is_ascii_digit() && !bytes[i - 1].is_ascii_digit())
            .collect();
        let begin = numbers[which.index(numbers.len())];
        let end = begin + bytes[begin..].iter().take_while(|b| b.is_ascii_digit()).count();
        check_survives(name, &[&bytes[..begin], number.as_bytes(), &bytes[end..]].concat())?;
    }

    #[test]
    fn lzf_round_trips(
        bytes in prop::collection::vec(0..4u8, 0..2000),
        repeat in 1..400usize,
    ) {
        // One-byte intensities, and coordinates that compress in other lengths.
        let fields: [Field<'_>; 4] =
            [("x", 'U', 1, 1), ("y", 'F', 4, 1), ("z", 'F', 8, 1), ("i", 'U', 2, 1)];
        let values: Vec<f64> = bytes
            .iter()
            .enumerate()
            .flat_map(|(i, b)| [f64::from(*b), (i / repeat) as f64, i as f64, f64::from(*b) * 257.0])
            .collect();
        let bytes = frames::pcd(&fields, &values, Encoding::Compressed);
        let cloud = read_bytes("a.pcd", &bytes).unwrap();
        let expected: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        prop_assert_eq!(cloud.data(), &expected[..]);
    }
}

/// Reads files written by pypcd4 and NumPy, and compares with the values that they read.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn files_of_other_writers_are_read_correctly() {
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/write_frames.py");
    let real = repository().join("../shared/data/frames/autoware/ground_segmentation_test.pcd");
    let output = std::process::Command::new(crate::oracle::python())
        .args([script.as_ref(), folder.path(), &real])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    print!("{printed}");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut compared = 0;
    for line in printed.lines().filter(|line| !line.starts_with("skipped")) {
        let [file, columns, expected] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("the script printed `{line}`");
        };
        let cloud = points::read(&folder.path().join(file), &OPTIONS).unwrap();
        assert_eq!(cloud.layout().to_string(), columns, "{file}");
        let expected = fs::read(folder.path().join(expected)).unwrap();
        assert!(
            frames::bin(cloud.data()) == expected,
            "{file}: other values"
        );
        compared += 1;
    }
    println!("{compared} files compared");
}
