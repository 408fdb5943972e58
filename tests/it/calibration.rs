//! `cp-build amax`. Comparisons with pytorch-quantization are in
//! `shared/calibration.rs`.

use std::process::{Command, Output};

use serde_json::Value;

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
