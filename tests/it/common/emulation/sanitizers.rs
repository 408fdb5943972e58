//! Runs this test program again, with kernels built with AddressSanitizer and UBSan.
//!
//! AddressSanitizer's runtime must be loaded before any memory is allocated, so it is preloaded into a process of its
//! own.

use std::path::Path;
use std::process::{Command, Output};

use ::emulation::COMPILER;

use super::{CHECKED, DEVICE};

/// Runs this test program with `arguments` and these environment variables under sanitizers.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let (compiler, _) = &*COMPILER;
    let runtimes = ["libasan.so", "libubsan.so"].map(|name| runtime(compiler, name));
    let [Some(asan), Some(_)] = runtimes else {
        panic!("{compiler} has no libasan.so or libubsan.so");
    };
    Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .envs(environment.iter().copied())
        .env(CHECKED, "1")
        .env_remove(DEVICE)
        .env("LD_PRELOAD", asan)
        // Rust's runtime never frees everything; a kernel runs on the stack of a fiber.
        .env(
            "ASAN_OPTIONS",
            "detect_leaks=0:detect_odr_violation=0:detect_stack_use_after_return=0:quarantine_size_mb=64",
        )
        .env("UBSAN_OPTIONS", "print_stacktrace=1")
        .output()
        .unwrap()
}

/// The path of one of the compiler's libraries, if it exists.
fn runtime(compiler: &str, name: &str) -> Option<String> {
    let output = Command::new(compiler)
        .arg(format!("-print-file-name={name}"))
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&path).is_absolute().then_some(path)
}

/// The last `lines` lines of a run's output.
pub(crate) fn tail(output: &Output, lines: usize) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
