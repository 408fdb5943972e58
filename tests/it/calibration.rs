//! Histograms and ranges of unusual values, and `cp-build amax`. Comparisons with pytorch-quantization are in
//! `shared/calibration.rs`.

use std::process::{Command, Output};

use centerpoint::build::calibrate::{AmaxMethod, Histogram, MAX_BINS, RangeError};
use serde_json::Value;

/// Later batches exceed the bins of the first by far.
#[test]
fn ranges_grow_from_nothing_and_the_number_of_bins_stays_limited() {
    let mut histogram = Histogram::new(2048).unwrap();
    for batch in [
        &[0.0; 7][..],
        &[1e-45, 0.0],
        &[1e-30, 5e-31],
        &[],
        &[1.0, -0.25],
        &[3.4e38, f32::MAX],
    ] {
        histogram.add(batch).unwrap();
        let bins = histogram.bins();
        assert!(bins.len() <= MAX_BINS, "{}", bins.len());
        assert!(histogram.range() >= histogram.max());
    }
    assert_eq!(histogram.total(), 15);
    assert_eq!(histogram.bins()[0], 13);
    // The width has doubled repeatedly, but at least half of the bins are always in use.
    assert!(histogram.bins().len() > MAX_BINS / 2);
    assert_eq!(histogram.amax(AmaxMethod::Max).unwrap().amax, f32::MAX);

    let before = histogram.clone();
    let error = histogram.add(&[1.0, f32::NAN]).unwrap_err();
    assert!(
        matches!(error, RangeError::NotFinite { index: 1, .. }),
        "{error}"
    );
    assert_eq!(histogram, before);
    assert_eq!(Histogram::new(100), Err(RangeError::Bins(100)));
}

/// Merged bins have the same counts as bins of twice the width.
#[test]
fn merged_bins_keep_their_values() {
    let low: Vec<f32> = (0..2048).map(|i| (i as f32 + 0.5) / 2048.0).collect();
    let mut histogram = Histogram::new(2048).unwrap();
    histogram.add(&low).unwrap();
    histogram.add(&[15.99]).unwrap();
    // Bins of width max/2048 up to 16 would be more than 8192, which takes two doublings.
    let width = low[2047] / 2048.0 * 4.0;
    assert_eq!(histogram.width(), width);
    assert_eq!(histogram.bins()[..512].iter().sum::<u64>(), 2048);
    assert!(histogram.bins()[..511].iter().all(|&n| n == 4));
    assert_eq!(histogram.bins().iter().sum::<u64>(), 2049);
}

fn cp_build(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cp-build"))
        .env_remove("RUST_LOG")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn amax_prints_the_range_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.f32");
    let write = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(&file, bytes).unwrap();
    };
    let path = file.to_str().unwrap();
    let printed = |arguments: &[&str]| -> Value {
        let run = cp_build(&[&["amax", path], arguments].concat());
        assert!(run.status.success(), "{run:?}");
        serde_json::from_slice(&run.stdout).unwrap()
    };
    write(&[1.0, 0.5, -1.0, 3.0]);
    let max = serde_json::json!({"amax": 3.0, "bins": 2048, "range": 3.0, "method": "max"});
    assert_eq!(printed(&["--method", "max"]), max);
    let grown = printed(&["--method", "max", "--batches", "2,2"]);
    assert_eq!(
        (&grown["bins"], &grown["range"]),
        (&6144.into(), &3.0.into())
    );
    let half = printed(&[
        "--method",
        "percentile",
        "--percentile",
        "50",
        "--bins",
        "300",
    ]);
    assert_eq!(
        half,
        serde_json::json!({"amax": 1.0, "bins": 300, "range": 3.0, "method": "percentile 50"})
    );
    assert_eq!(printed(&[])["method"], "mse");

    let refused = |arguments: &[&str], status: i32, parts: &[&str]| {
        let run = cp_build(&[&["amax", path], arguments].concat());
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(status), "{text}");
        assert!(run.stdout.is_empty());
        for part in parts {
            assert!(text.contains(part), "{text}: {part}");
        }
    };
    refused(&["--batches", "2,3"], 3, &[path, "5 values", "has 4"]);
    let most = u64::MAX.to_string();
    refused(&["--batches", &format!("{most},1")], 3, &[path, "has 4"]);
    refused(&["--bins", "7"], 2, &["7 bins", "256 to 8192"]);
    refused(
        &["--method", "percentile", "--percentile", "101"],
        2,
        &["percentile 101"],
    );
    write(&[1.0, 0.5, f32::NAN, 3.0]);
    refused(&["--batches", "2,2"], 6, &[path, "value 2 is NaN"]);
    write(&[]);
    refused(&[], 6, &[path, "no values"]);
    std::fs::write(&file, [0; 7]).unwrap();
    refused(&[], 3, &[path, "7 bytes"]);
    std::fs::remove_file(&file).unwrap();
    refused(&[], 3, &[path, "cannot read"]);
}
