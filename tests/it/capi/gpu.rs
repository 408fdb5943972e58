//! Runs `tests/capi/frames.c`, a C program, with the stand-in for NVIDIA's driver: a GPU's boxes are the CPU's.

use std::path::Path;
use std::process::Command;

use super::{compilers, demo, fresh, installed, joined, run};
use crate::common::repository;

#[test]
fn a_gpu_gives_the_cpus_bytes() {
    let [cc, _] = compilers();
    let folder = fresh("capi-gpu");
    let (program, lib) = (folder.join("frames"), installed().join("lib"));
    run(Command::new(cc)
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg(joined("-I", installed().join("include")))
        .arg(repository().join("tests/capi/frames.c"))
        .arg("-o")
        .arg(&program)
        .arg(joined("-L", &lib))
        .arg("-lcenterpoint")
        .arg(joined("-Wl,-rpath,", &lib)));
    let [plan, _] = demo();
    let frames = repository().join("calib/demo/frames");
    let log = folder.join("log");
    let boxes = |device: &str| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let done = run(::standin::setup::command(&program, tmp, &log)
            .arg(&plan)
            .arg(device)
            .args(["000000.bin", "000003.bin", "000005.bin"].map(|frame| frames.join(frame))));
        String::from_utf8(done.stdout).unwrap()
    };
    let expected = boxes("cpu");
    assert!(!log.exists(), "the CPU needs no driver");
    assert_eq!(expected.lines().count(), 6);
    assert!(!expected.contains(" 0 "), "every frame has boxes");
    assert!(boxes("cuda") == expected, "other boxes");
    assert_eq!(::standin::setup::faults(&log), [""; 0]);
}
