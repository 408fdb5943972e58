//! Runs `tests/capi/hammer.cpp`: invalid calls, and four threads.

use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use super::{compilers, demo, fresh, installed, joined, run};
use crate::common::repository;

/// Uses AddressSanitizer and UndefinedBehaviorSanitizer.
#[test]
#[ignore = "needs libasan, libubsan"]
fn invalid_calls_are_harmless() {
    let [_, cxx] = compilers();
    let folder = fresh("capi-hammer");
    let (program, lib) = (folder.join("hammer"), installed().join("lib"));
    let compile = |sanitizers: &[&str]| {
        let mut command = Command::new(&cxx);
        command
            .args([
                "-std=c++17",
                "-O1",
                "-g",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
            ])
            .args(sanitizers)
            .arg(joined("-I", installed().join("include")))
            .arg(repository().join("tests/capi/hammer.cpp"))
            .arg("-o")
            .arg(&program)
            .arg(joined("-L", &lib))
            .args(["-lcenterpoint", "-pthread"])
            .arg(joined("-Wl,-rpath,", &lib));
        command
    };
    let sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    run(&mut compile(&sanitizers));
    let [plan, frame] = demo();
    let other = folder.join(std::ffi::OsStr::from_bytes(b"plan \xff.plan"));
    std::os::unix::fs::symlink(&plan, &other).unwrap();
    let done = run(Command::new(&program).arg(plan).arg(frame).arg(other));
    assert_eq!(String::from_utf8_lossy(&done.stdout), "all good\n");
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}
