//! `cp-build install`, and C++ programs that use the installation: with CMake and pkg-config, with the shared
//! and the static library, at the prefix and after moving the tree.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{built, compilers, demo, fresh, install_command, installed, joined, run, tool};
use crate::common::{repository, variable};

/// A box as numbers: score, centre, size, yaw, velocity.
type Detected = (String, [f32; 10]);

/// The boxes of `cp-infer` for the demo frame.
fn expected() -> Vec<Detected> {
    let [plan, frame] = demo();
    let done = run(Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .args(["--format", "json", "--engine"])
        .arg(plan)
        .arg("--pcd")
        .arg(frame));
    let line: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let boxes = line["boxes"].as_array().unwrap().iter().map(|found| {
        let mut numbers = vec![&found["score"]];
        for list in ["center", "size"] {
            numbers.extend(found[list].as_array().unwrap());
        }
        numbers.push(&found["yaw"]);
        numbers.extend(found["velocity"].as_array().unwrap());
        let numbers: Vec<f32> = numbers.iter().map(|n| n.as_f64().unwrap() as f32).collect();
        (
            found["class"].as_str().unwrap().to_owned(),
            numbers.try_into().unwrap(),
        )
    });
    boxes.collect()
}

/// Runs the example and compares its boxes with [`expected`], bit by bit.
fn check(program: &Path) {
    let done = run(Command::new(program)
        .args(demo())
        .env("LD_LIBRARY_PATH", installed().join("lib")));
    let text = String::from_utf8(done.stdout).unwrap();
    let found: Vec<Detected> = text
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let class = words.next().unwrap().to_owned();
            let numbers: Vec<f32> = words.map(|word| word.parse().unwrap()).collect();
            (class, numbers.try_into().unwrap())
        })
        .collect();
    let expected = expected();
    assert!(expected.len() > 3);
    assert_eq!(found, expected, "{}", program.display());
}

/// CMake.
fn cmake() -> PathBuf {
    variable("CENTERPOINT_CMAKE").into()
}

/// Configures and builds the example against an installation.
fn build(cmake: &Path, prefix: &Path, name: &str, settings: &[OsString]) -> PathBuf {
    let build = fresh(name);
    run(Command::new(cmake)
        .arg("-S")
        .arg(repository().join("examples/cpp"))
        .arg("-B")
        .arg(&build)
        .arg(joined("-DCMAKE_PREFIX_PATH=", prefix))
        .args([
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Werror",
        ])
        .args(settings));
    run(Command::new(cmake).arg("--build").arg(&build));
    build.join("detect")
}

#[test]
#[ignore = "needs CENTERPOINT_CMAKE"]
fn cmake_projects_find_both_libraries_and_detect_like_cp_infer() {
    let cmake = cmake();
    let shared = build(
        &cmake,
        installed(),
        "capi-shared",
        &["-DCENTERPOINT_STATIC=OFF".into()],
    );
    check(&shared);
    // Programs load the SONAME, which allows a compatible library to replace this one.
    let needed = run(Command::new(tool("OBJDUMP", "objdump"))
        .arg("-p")
        .arg(&shared));
    let needed = String::from_utf8_lossy(&needed.stdout).into_owned();
    assert!(needed.contains("libcenterpoint.so.0\n"), "{needed}");

    // A moved tree, in a folder not searched by CMake, with the static library.
    let folder = fresh("capi-moved");
    let (before, moved) = (folder.join("before"), folder.join("tree"));
    let mut install = install_command(built());
    run(install
        .args(["--libdir", "lib/x"])
        .arg("--prefix")
        .arg(&before));
    std::fs::rename(before, &moved).unwrap();
    let config = moved.join("lib/x/cmake/centerpoint");
    let settings = [
        "-DCENTERPOINT_STATIC=ON".into(),
        joined("-Dcenterpoint_DIR=", config),
    ];
    let linked = build(&cmake, &moved, "capi-static", &settings);
    // The program contains the library.
    std::fs::remove_dir_all(&moved).unwrap();
    check(&linked);
}

#[test]
#[ignore = "needs pkg-config"]
fn pkg_config_has_all_compiler_flags() {
    let ([_, cxx], pkg_config) = (compilers(), tool("PKG_CONFIG", "pkg-config"));
    let lib = installed().join("lib");
    for (linking, name) in [(None, "shared"), (Some("--static"), "static")] {
        let flags = run(Command::new(&pkg_config)
            .args(["--cflags", "--libs"])
            .args(linking)
            .arg("centerpoint >= 0.1")
            .env("PKG_CONFIG_PATH", lib.join("pkgconfig")));
        let flags = String::from_utf8(flags.stdout).unwrap();
        let program = fresh("capi-pkg-config").join(name);
        // Without the shared library the linker uses the static one.
        let flags = flags.split_whitespace().map(|flag| match (linking, flag) {
            (Some(_), "-lcenterpoint") => "-l:libcenterpoint.a",
            _ => flag,
        });
        run(Command::new(&cxx)
            .arg("-std=c++17")
            .arg(repository().join("examples/cpp/detect.cpp"))
            .args(flags)
            .arg("-o")
            .arg(&program));
        check(&program);
    }
}

/// A folder with `cp-build` and placeholders for the libraries.
fn placeholder_build(name: &str) -> PathBuf {
    let folder = fresh(name);
    std::fs::hard_link(env!("CARGO_BIN_EXE_cp-build"), folder.join("cp-build")).unwrap();
    std::fs::write(folder.join("libcenterpoint.so"), "shared").unwrap();
    std::fs::write(folder.join("libcenterpoint.a"), "static").unwrap();
    folder
}

/// Names below a folder, with the targets of links.
fn tree(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(&inner).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            match path.read_link() {
                Ok(to) => names.push(format!("{name} -> {}", to.display())),
                Err(_) if path.is_dir() => folders.push(path),
                Err(_) => names.push(name),
            }
        }
    }
    names.sort();
    names
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "the library is installed on Linux only"
)]
fn files_are_written_below_destdir_and_refer_to_the_prefix() {
    let (from, staged) = (placeholder_build("capi-pretended"), fresh("capi-destdir"));
    // Twice, to replace existing files.
    for _ in 0..2 {
        let done = run(install_command(&from)
            .args(["--prefix", "/opt/cp", "--libdir", "lib/aarch64-linux-gnu"])
            .env("DESTDIR", &staged));
        let printed = String::from_utf8(done.stdout).unwrap();
        let first = staged.join("opt/cp/bin/cp-build");
        assert!(
            printed.starts_with(&format!("{}\n", first.display())),
            "{printed}"
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    let lib = "opt/cp/lib/aarch64-linux-gnu";
    let expected = [
        "opt/cp/bin/cp-build".to_owned(),
        "opt/cp/include/centerpoint/centerpoint.h".to_owned(),
        "opt/cp/include/centerpoint/centerpoint.hpp".to_owned(),
        format!("{lib}/cmake/centerpoint/centerpoint-config-version.cmake"),
        format!("{lib}/cmake/centerpoint/centerpoint-config.cmake"),
        format!("{lib}/libcenterpoint.a"),
        format!("{lib}/libcenterpoint.so -> libcenterpoint.so.0"),
        format!("{lib}/libcenterpoint.so.0 -> libcenterpoint.so.{version}"),
        format!("{lib}/libcenterpoint.so.{version}"),
        format!("{lib}/pkgconfig/centerpoint.pc"),
        "opt/cp/share/doc/centerpoint/LICENSE-APACHE".to_owned(),
        "opt/cp/share/doc/centerpoint/LICENSE-MIT".to_owned(),
    ];
    assert_eq!(tree(&staged), expected);
    let read = |path: &str| std::fs::read_to_string(staged.join(path)).unwrap();
    assert_eq!(read(&format!("{lib}/libcenterpoint.so")), "shared");
    let pc = read(&format!("{lib}/pkgconfig/centerpoint.pc"));
    assert!(
        pc.starts_with("prefix=/opt/cp\nlibdir=${prefix}/lib/aarch64-linux-gnu\n"),
        "{pc}"
    );
    for path in &expected[3..5] {
        assert!(!read(path).contains('@'), "{path}");
    }
}

#[test]
fn invalid_installations_are_errors_with_advice() {
    let from = placeholder_build("capi-invalid");
    let refused = |args: &[&str], status: i32, words: &str| {
        let target = fresh("capi-invalid-target");
        let done = install_command(&from)
            .arg("--prefix")
            .arg(&target)
            .args(args)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(status), "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(tree(&target), <[String; 0]>::default());
    };
    refused(&["--libdir", "/usr/lib"], 2, "below the prefix");
    refused(&["--libdir", "../lib"], 2, "below the prefix");
    for library in ["libcenterpoint.a", "libcenterpoint.so"] {
        std::fs::remove_file(from.join(library)).unwrap();
        refused(&[], 1, library);
        refused(&[], 1, "cargo build --release");
    }
}

/// CMake's rules for versions, tested with CMake.
#[test]
#[ignore = "needs CENTERPOINT_CMAKE"]
fn cmake_accepts_compatible_versions_only() {
    let cmake = cmake();
    let folder = fresh("capi-versions");
    let script = folder.join("ask.cmake");
    let text = "\
        string(REPLACE \".\" \";\" parts \"${PACKAGE_FIND_VERSION}\")\n\
        list(APPEND parts 0 0)\n\
        list(GET parts 0 PACKAGE_FIND_VERSION_MAJOR)\n\
        list(GET parts 1 PACKAGE_FIND_VERSION_MINOR)\n\
        include(\"${CONFIG}\")\n\
        message(\"${PACKAGE_VERSION}/${PACKAGE_VERSION_COMPATIBLE}/${PACKAGE_VERSION_EXACT}/${PACKAGE_VERSION_UNSUITABLE}\")\n";
    std::fs::write(&script, text).unwrap();
    let config = installed().join("lib/cmake/centerpoint/centerpoint-config-version.cmake");
    let ask = |version: &str, pointer: &str| {
        let done = run(Command::new(&cmake)
            .arg(format!("-DPACKAGE_FIND_VERSION={version}"))
            .arg(format!("-DCMAKE_SIZEOF_VOID_P={pointer}"))
            .arg(joined("-DCONFIG=", &config))
            .arg("-P")
            .arg(&script));
        String::from_utf8(done.stderr).unwrap().trim().to_owned()
    };
    let here = size_of::<usize>().to_string();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(ask("0.1", &here), format!("{version}/TRUE/TRUE/"));
    assert_eq!(ask("0.1.9", &here), format!("{version}/FALSE//"));
    assert_eq!(ask("0.2", &here), format!("{version}/FALSE//"));
    assert_eq!(ask("0.0.9", &here), format!("{version}/FALSE//"));
    assert_eq!(ask("1", &here), format!("{version}/FALSE//"));
    assert_eq!(ask("0.1", "2"), format!("{version}/TRUE/TRUE/TRUE"));
}
