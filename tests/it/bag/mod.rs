//! Bags read and MCAP files written by `cp-infer`, compared with other implementations.

#[cfg(feature = "mcap")]
#[path = "../../common/bag.rs"]
mod made;

#[cfg(feature = "mcap")]
mod damage;
#[cfg(feature = "mcap")]
mod oracle;

use std::process::{Command, Output};

use crate::common::repository;

const PLAN: &str = "engines/demo/int8.plan";

/// Runs `cp-infer` with the demo plan.
fn infer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(repository())
        .env_remove("RUST_LOG")
        .args(["--engine", PLAN])
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(not(feature = "mcap"))]
#[test]
fn a_build_without_mcap_says_how_to_enable_it() {
    for args in [
        &["--bag", "drive.mcap"][..],
        &["--pcd", "calib/demo/frames/000000.bin", "--out", "x.mcap"],
        &["--pcd", "calib/demo/frames/000000.bin", "--format", "mcap"],
    ] {
        let run = infer(args);
        assert_eq!(run.status.code(), Some(2), "{args:?}");
        let errors = text(&run.stderr);
        assert!(errors.contains("--features mcap"), "{errors}");
    }
    assert!(!repository().join("x.mcap").exists());
}
