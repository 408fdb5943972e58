//! The C library as seen by its users: header, symbols, installation, and invalid calls.
//!
//! The library under test is the one that cargo built beside this program.

mod gpu;
mod hammer;
mod header;
mod install;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::common::repository;

/// A folder with only the library and the programs, as in `target/release`.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = fresh("capi-built");
        let deps = std::env::current_exe().unwrap();
        for library in ["libcenterpoint.so", "libcenterpoint.a"] {
            let from = deps.parent().unwrap().join(library);
            std::fs::hard_link(&from, folder.join(library))
                .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        for (name, from) in [
            ("cp-build", env!("CARGO_BIN_EXE_cp-build")),
            ("cp-infer", env!("CARGO_BIN_EXE_cp-infer")),
        ] {
            std::fs::hard_link(from, folder.join(name)).unwrap();
        }
        folder
    })
}

/// An installation of [`built`].
fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let folder = fresh("capi-installed");
        run(install_command(built()).arg("--prefix").arg(&folder));
        folder
    })
}

/// `cp-build install` from a folder.
fn install_command(from: &Path) -> Command {
    let mut command = Command::new(from.join("cp-build"));
    command.arg("install").env_remove("DESTDIR");
    command
}

/// A new empty folder on the build's file system, which allows hard links.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Output {
    let done = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        done.status.success(),
        "{command:?}: {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    done
}

/// The program named by the environment variable, otherwise `name` in PATH.
fn tool(variable: &str, name: &str) -> PathBuf {
    let tool = std::env::var_os(variable).map_or_else(|| name.into(), PathBuf::from);
    let found = Command::new(&tool).arg("--version").output();
    let works = found.is_ok_and(|done| done.status.success());
    assert!(
        works,
        "{}: install {name} or set {variable}",
        tool.display()
    );
    tool
}

/// The compilers for C and C++.
fn compilers() -> [PathBuf; 2] {
    [tool("CC", "cc"), tool("CXX", "c++")]
}

/// The folder of the C headers in the repository.
fn include() -> PathBuf {
    repository().join("src/capi/include")
}

/// The plan and the frame for the programs under test.
fn demo() -> [PathBuf; 2] {
    ["engines/demo/int8.plan", "calib/demo/frames/000003.bin"].map(|path| repository().join(path))
}

/// `-flag` and its value in one argument.
fn joined(flag: &str, value: impl AsRef<OsStr>) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(flag);
    text.push(value);
    text
}
