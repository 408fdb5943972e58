//! Reading damaged and hostile calibration files: an error that names the file, never a panic, and memory proportional
//! to the file.

use std::path::Path;

use centerpoint::internals::build::calibrate::Calibration;

use super::{alone, measure};

/// Reads `path`; returns the error, if any, and the peak memory.
fn read(path: &Path) -> (Option<String>, usize) {
    let read = || Calibration::read(path).err().map(|e| e.to_string());
    let (error, usage) = measure(read);
    (error, usage.peak)
}

/// Bytes for the longest list while it grows, and for the reader's buffers.
const OVERHEAD: usize = 128 << 10;

/// A calibration file with `tensors` tensors of `bins` bins and `channels` channels.
pub(super) fn file(tensors: usize, bins: usize, channels: usize) -> String {
    let histogram = format!(
        r#"{{"range":0,"width":0,"max":0,"zeros":0,"counts":[{}]}}"#,
        vec!["0"; bins].join(",")
    );
    let list = vec!["0"; channels].join(",");
    let stats = format!(
        r#"{{"all":{histogram},"occupied":{histogram},"min":0,"channel_max":[{list}],"occupied_channel_max":[{list}],"channel_mean":[{list}],"occupied_channel_mean":[{list}]}}"#
    );
    let tensors: Vec<String> = (0..tensors).map(|i| format!(r#""{i}":{stats}"#)).collect();
    format!(
        r#"{{"version":2,"producer":"","key":{{"model":"","frames":"","options":""}},"tensors":{{{}}}}}"#,
        tensors.join(",")
    )
}

#[test]
fn memory_stays_below_4_times_the_file() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.calib.json");
        let head = r#"{"version":2,"producer":"#;
        let open = file(1, 256, 1);
        let open = open.split("0,0").next().unwrap();
        for (what, text, good) in [
            ("small tensors", file(500, 256, 1), true),
            ("one more than half", file(30, 4097, 4097), true),
            ("large tensors", file(40, 8192, 8192), true),
            ("too many bins", file(1, 8193, 1), false),
            ("too many channels", file(1, 256, 8193), false),
            ("endless", format!("{open}{}", "1,".repeat(500_000)), false),
            ("deep", "[".repeat(500_000), false),
            (
                "deep tensors",
                format!("{open}{}", "[".repeat(500_000)),
                false,
            ),
            (
                "long string",
                format!(r#"{head}"{}"}}"#, "a".repeat(500_000)),
                false,
            ),
            (
                "escapes",
                format!(r#"{head}"{}"#, "\\n".repeat(500_000)),
                false,
            ),
            (
                "long number",
                format!("{open}{}", "1".repeat(500_000)),
                false,
            ),
        ] {
            std::fs::write(&path, &text).unwrap();
            let (error, peak) = read(&path);
            let times = peak as f64 / text.len() as f64;
            eprintln!("{what}: {times:.2} times the file");
            assert_eq!(error.is_none(), good, "{what}: {error:?}");
            assert!(
                peak <= 4 * text.len() + OVERHEAD,
                "{what}: {peak} of {}",
                text.len()
            );
        }
    });
}

#[test]
fn damaged_files_are_refused_or_read() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.calib.json");
        let text = file(2, 256, 3).into_bytes();
        for i in 0..64 {
            let at = text.len() * i / 64;
            std::fs::write(&path, &text[..at]).unwrap();
            let (error, _) = read(&path);
            assert!(
                error.is_some_and(|e| e.contains("damaged.calib.json: invalid calibration")),
                "{i}"
            );
            for byte in *b"[]{}\",:0N-\\\xff" {
                let mut damaged = text.clone();
                damaged[at] = byte;
                std::fs::write(&path, &damaged).unwrap();
                let (error, peak) = read(&path);
                let named = |e: String| e.contains("damaged.calib.json: invalid calibration");
                assert!(error.is_none_or(named), "{i}");
                assert!(peak <= 4 * text.len() + OVERHEAD, "{i}: {peak}");
            }
        }
    });
}
