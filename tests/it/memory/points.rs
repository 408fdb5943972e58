//! Reading a point cloud takes at most four times the file, whatever the file claims; accumulating sweeps
//! allocates nothing once it is warm.

use std::fs;

use centerpoint::points::{Pose, ReadOptions, SweepBuffer};
use centerpoint::{Layout, PointCloud, points};

use super::{Usage, alone, measure};
use crate::common::frames::{self, ENCODINGS, Encoding, Field, XYZI};

/// Bytes for a reader's buffers and an error's text, beyond those for the file.
const CONSTANT: usize = 160 << 10;

const OPTIONS: ReadOptions = ReadOptions {
    layout: None,
    default_layout: Layout::KITTI,
};

/// Reads `bytes` as a file called `name` and checks how much memory that takes.
fn read_within_bounds(name: &str, bytes: &[u8]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let (result, usage) = measure(|| {
        if name.ends_with(".json") {
            points::read_sweeps(&path, &OPTIONS, 1000).map(drop)
        } else {
            points::read(&path, &OPTIONS).map(drop)
        }
    });
    let limit = 4 * bytes.len() + CONSTANT;
    assert!(
        usage.peak <= limit,
        "{name} of {} bytes took {usage:?}: {result:?}",
        bytes.len()
    );
    result.map_err(|error| error.to_string())
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let from = from.as_bytes();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn the_densest_valid_files_take_4_times_their_size() {
    alone(|| {
        let scan = frames::scan(100_000);
        read_within_bounds("a.bin", &frames::bin(&scan)).unwrap();
        read_within_bounds("a.npy", &frames::npy(&scan, 4)).unwrap();
        let fortran = replaced(&frames::npy(&scan, 4), "False", "True ");
        read_within_bounds("a.npy", &fortran).unwrap();
        // A value of one byte, or of two characters, takes four bytes in memory.
        let bytes: [Field<'_>; 3] = ["x", "y", "z"].map(|name| (name, 'U', 1, 1));
        let digits: Vec<f64> = (0..300_000).map(|i| f64::from(i * 7 % 10)).collect();
        for encoding in [Encoding::Ascii, Encoding::Binary] {
            read_within_bounds("a.pcd", &frames::pcd(&bytes, &digits, encoding)).unwrap();
        }
        let wide: Vec<f64> = scan.iter().map(|v| f64::from(*v)).collect();
        for encoding in ENCODINGS {
            read_within_bounds("a.pcd", &frames::pcd(&XYZI, &wide, encoding)).unwrap();
        }
    });
}

#[test]
fn headers_that_claim_too_much_take_no_memory() {
    alone(|| {
        let values: Vec<f64> = (0..400).map(f64::from).collect();
        for encoding in ENCODINGS {
            let good = frames::pcd(&XYZI, &values, encoding);
            let claims = [
                ("POINTS 100", "POINTS 16777216"),
                ("WIDTH 100", "WIDTH 16777216"),
                ("COUNT 1 1 1 1", "COUNT 1 1 1 4294967295"),
                ("intensity", "padding"),
            ];
            for used in 1..1usize << claims.len() {
                let mut bytes = good.clone();
                for (i, (from, to)) in claims.iter().enumerate() {
                    if used & 1 << i != 0 {
                        bytes = replaced(&bytes, from, to);
                    }
                }
                // A file without intensity is still valid.
                assert_eq!(read_within_bounds("a.pcd", &bytes).is_err(), used != 0b1000);
            }
            let many = "FIELDS ".to_owned() + &"x ".repeat(30_000);
            read_within_bounds("a.pcd", &replaced(&good, "FIELDS", &many)).unwrap_err();
            read_within_bounds("a.pcd", &replaced(&good, "FIELDS", &"#".repeat(1 << 20)))
                .unwrap_err();
        }
        let good = frames::npy(&[1.0; 400], 4);
        for shape in [
            "(4611686018427387904, 4)",
            "(100, 4, 1, 1, 1, 1, 1, 1, 1, 1)",
            "(1000000000, 4)",
        ] {
            read_within_bounds("a.npy", &replaced(&good, "(100, 4)", shape)).unwrap_err();
        }
        let mut long = good.clone();
        long[6] = 2;
        long[8..12].copy_from_slice(&(60u32 << 10).to_le_bytes());
        read_within_bounds("a.npy", &long).unwrap_err();
    });
}

/// Compressed bodies that are larger, smaller or cut off against what they claim.
#[test]
fn streams_that_claim_too_much_take_no_memory() {
    alone(|| {
        let points = 1 << 20;
        let empty = frames::pcd(&XYZI, &[], Encoding::Compressed);
        let header = String::from_utf8(empty[..empty.len() - 8].to_vec()).unwrap();
        let header = header.replace("WIDTH 0", &format!("WIDTH {points}"));
        let header = header.replace("POINTS 0", &format!("POINTS {points}"));
        let claimed = points * 16u32;
        // The longest copies decompress to 88 times their size, which makes the claim plausible…
        let mut dense = vec![0u8, 7];
        while dense.len() < claimed as usize / 88 {
            dense.extend([0xE0, 255, 0]);
        }
        // …but false, or the stream is broken at its end, or cut off.
        let mut longer = dense.clone();
        longer.extend([0xFF, 255, 255]);
        let mut cut = dense.clone();
        cut.extend([31, 1, 2]);
        for (body, expected) in [
            (&dense, "decompress to"),
            (&cut, "end within a piece"),
            (&longer, "decompress to"),
            (&vec![31; 33 * 100], "decompress to"),
            (&vec![0xFF; 4000], "bytes back"),
        ] {
            let mut bytes = header.clone().into_bytes();
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(claimed.to_le_bytes());
            bytes.extend(body);
            let text = read_within_bounds("a.pcd", &bytes).unwrap_err();
            assert!(text.contains(expected), "{text}");
        }
    });
}

#[test]
fn lists_of_tiny_entries_take_4_times_their_size() {
    alone(|| {
        let list = |entry: &str, count: usize| {
            format!(r#"{{"sweeps":[{}]}}"#, vec![entry; count].join(","))
        };
        for entry in [
            r#"{"file":"","stamp_ns":0,"pose":null}"#,
            r#"{"file":"","stamp_ns":0,"pose":{"translation":[0,0,0],"rotation":[1,0,0,0]}}"#,
            r#"{"file":"a.bin","stamp_ns":0,"pose":null,"other":[[[[[[]]]]]]}"#,
            "[[[[",
            "{}",
        ] {
            // Just past a power of two, where a growing list has most unused capacity.
            for count in [300, 8193, 16_385, 32_769] {
                if entry.len() * count < 1 << 20 {
                    read_within_bounds("a.json", list(entry, count).as_bytes()).unwrap_err();
                }
            }
        }
    });
}

#[test]
fn accumulation_allocates_nothing_once_warm() {
    alone(|| {
        let cloud = PointCloud::new(Layout::KITTI, frames::scan(5000)).unwrap();
        let pose = Pose::new([1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 0.0]).ok();
        let mut buffer = SweepBuffer::new(3, 18_000);
        let mut out = PointCloud::empty(Layout::KITTI);
        let mut scratch = Vec::new();
        let columns = centerpoint::Layout::XYZIT.columns().to_vec();
        for stamp in 0..20 {
            let (done, usage) = measure(|| {
                buffer.push(&cloud, stamp, pose).unwrap();
                let done = buffer.accumulate(&mut out);
                out.select(&columns, 0.5, &mut scratch).unwrap();
                done
            });
            if stamp >= 4 {
                assert_eq!(done.points_over_capacity, 2000);
                assert_eq!(usage, Usage { peak: 0, count: 0 }, "at sweep {stamp}");
            }
        }
    });
}
