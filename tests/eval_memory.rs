//! The reader of result files on damaged and hostile files: an error that names the file, never a panic,
//! and memory in proportion to the file.

#[path = "common/alloc.rs"]
mod alloc;

use std::path::Path;

use centerpoint::output::nuscenes::Results;
use proptest::prelude::*;

/// Reads `path`; the result, and the most memory in use meanwhile.
fn read(path: &Path) -> (Result<Results, String>, usize) {
    let read = || Results::read(path).map_err(|e| e.to_string());
    let (results, usage) = alloc::measure(read);
    (results, usage.peak)
}

/// A file of `samples` samples with `boxes` boxes each, as the devkit's users write it.
fn valid(samples: usize, boxes: usize) -> String {
    let one = |token: usize| {
        format!(
            r#"{{"sample_token": "{token:06}", "translation": [12.5, -3.25, 0.5], "size": [1.9, 4.6,
            1.7], "rotation": [0.5, 0.0, 0.0, 0.8660254037844386], "velocity": [NaN, NaN],
            "detection_name": "car", "detection_score": 0.25, "attribute_name": "vehicle.moving"}}"#
        )
    };
    let sample = |s: usize| format!("\"{s:06}\": [{}]", vec![one(s); boxes].join(", "));
    let samples: Vec<_> = (0..samples).map(sample).collect();
    format!(
        r#"{{"meta": {{"use_lidar": true}}, "results": {{{}}}}}"#,
        samples.join(", ")
    )
}

/// Room for an error's text and the reader's own buffers, in bytes.
const OVERHEAD: usize = 16 << 10;

#[test]
fn memory_stays_below_4_times_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.json");
    let smallest = r#"{"sample_token":"","translation":[0,0,0],"size":[1,1,1],"rotation":[1,0,0,0],
        "detection_name":""}"#
        .replace("\n        ", "");
    for (what, text) in [
        ("ordinary", valid(200, 30)),
        (
            "smallest boxes",
            format!(
                r#"{{"results":{{"":[{}]}}}}"#,
                vec![smallest; 20_000].join(",")
            ),
        ),
        (
            "only NaN",
            format!(r#"{{"x":[{}]}}"#, vec!["NaN"; 100_000].join(",")),
        ),
        ("deep", "[".repeat(500_000)),
        (
            "one long string",
            format!(r#"{{"x":"{}"}}"#, "a".repeat(500_000)),
        ),
        (
            "remarks",
            format!(r#"{{"meta":{{"x":[{}]}}}}"#, vec!["0"; 500_000].join(",")),
        ),
        (
            "deep remarks",
            format!(r#"{{"meta":{}"#, "[".repeat(500_000)),
        ),
        ("escapes", format!(r#"{{"{}"#, "\\n".repeat(500_000))),
    ] {
        std::fs::write(&path, &text).unwrap();
        let (_, peak) = read(&path);
        eprintln!(
            "{what}: {:.2} times the file",
            peak as f64 / text.len() as f64
        );
        assert!(
            peak <= 4 * text.len() + OVERHEAD,
            "{what}: {peak} of {}",
            text.len()
        );
    }
}

#[test]
fn truncated_files_are_errors_that_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("truncated.json");
    let text = valid(8, 16);
    std::fs::write(&path, &text).unwrap();
    assert!(read(&path).0.is_ok());
    for i in 0..64 {
        let part = &text[..text.len() * i / 64];
        std::fs::write(&path, part).unwrap();
        let (results, peak) = read(&path);
        let error = results.unwrap_err();
        assert!(
            error.contains("truncated.json: not a nuScenes result file"),
            "{i}: {error}"
        );
        assert!(
            peak <= 4 * part.len() + OVERHEAD,
            "{i}: {peak} of {}",
            part.len()
        );
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        text in prop::collection::vec(any::<u8>(), 0..200),
    ) {
            let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.json");
        let mut damaged = valid(2, 2).into_bytes();
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        for bytes in [damaged, text] {
            std::fs::write(&path, &bytes).unwrap();
            let (results, peak) = read(&path);
            if let Err(error) = results {
                prop_assert!(error.contains("damaged.json: "), "{}", error);
            }
            prop_assert!(peak <= 4 * bytes.len() + OVERHEAD, "{} of {}", peak, bytes.len());
        }
    }
}
