//! For tests: starts a program so that it finds the stand-in, and reads the report.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder in `tmp`, the caller's `CARGO_TARGET_TMPDIR`, with the stand-in's libraries.
fn folder(tmp: &Path) -> PathBuf {
    // Cargo builds the libraries of dependencies beside the test program.
    let program = std::env::current_exe().unwrap();
    let library = program.with_file_name("libstandin.so");
    let folder = tmp.join("standin");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1", "libnvrtc.so.12"] {
        // Replaced as a whole: another process may be running with it.
        let own = folder.join(format!("{name}-{}", std::process::id()));
        std::fs::copy(&library, &own).unwrap();
        std::fs::rename(&own, folder.join(name)).unwrap();
    }
    folder
}

/// A command that finds the stand-in, with its report in `log` and the compiled kernels in `tmp`, the caller's
/// `CARGO_TARGET_TMPDIR`.
pub fn command(program: impl AsRef<OsStr>, tmp: &Path, log: &Path) -> Command {
    static FOLDER: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let mut command = Command::new(program);
    command
        .env("LD_LIBRARY_PATH", FOLDER.get_or_init(|| folder(tmp)))
        .env("XDG_CACHE_HOME", tmp.join("standin/cache"))
        .env("CENTERPOINT_STANDIN_CACHE", tmp.join("emulation"))
        .env("CENTERPOINT_STANDIN_LOG", log)
        .env_remove("CENTERPOINT_NVRTC")
        .env_remove("CENTERPOINT_TEST_DEVICE")
        .env_remove("RUST_LOG");
    command
}

/// The lines of a report that are no counts of calls.
pub fn faults(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    assert!(
        text.contains("calls: cuInit 1"),
        "the stand-in was not used: {text}"
    );
    let lines = text.lines().filter(|line| !line.starts_with("calls: "));
    lines.map(str::to_owned).collect()
}
