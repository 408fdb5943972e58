//! Reading damaged and hostile result files: an error that names the file, never a panic, and memory proportional to
//! the file.

use std::path::Path;

use centerpoint::internals::results::nuscenes::Results;

use super::{alone, measure};

/// Reads `path`; returns the result and the peak memory.
fn read(path: &Path) -> (Result<Results, String>, usize) {
    let read = || Results::read(path).map_err(|e| e.to_string());
    let (results, usage) = measure(read);
    (results, usage.peak)
}

/// A file of `samples` samples with `boxes` boxes each, as users of the devkit write it.
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

/// Bytes for an error's text and the reader's buffers.
const OVERHEAD: usize = 16 << 10;

#[test]
fn memory_stays_below_4_times_the_file() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        let smallest =
            r#"{"sample_token":"","translation":[0,0,0],"size":[1,1,1],"rotation":[1,0,0,0],
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
    });
}

#[test]
fn truncated_files_cause_errors_that_name_the_file() {
    alone(|| {
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
    });
}

#[test]
fn damaged_files_take_no_more_memory() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.json");
        let text = valid(4, 8).into_bytes();
        for i in 0..64 {
            for byte in *b"[]{}\",:0N\\\xff" {
                let mut damaged = text.clone();
                damaged[text.len() * i / 64] = byte;
                std::fs::write(&path, &damaged).unwrap();
                let (results, peak) = read(&path);
                if let Err(error) = results {
                    assert!(
                        error.contains("damaged.json: not a nuScenes result file"),
                        "{error}"
                    );
                }
                assert!(
                    peak <= 4 * text.len() + OVERHEAD,
                    "{i}: {peak} of {}",
                    text.len()
                );
            }
        }
    });
}
