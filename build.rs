//! Sets the SONAME of the C library and compiles the code that is not Rust. With the feature `tensorrt` this is the
//! TensorRT shim (`build/tensorrt.rs`). With the feature `cuda` these are the kernels: nvcc, if found, compiles each
//! file in `kernels/` to a fatbin, which is embedded in the library together with the source.
//!
//! nvcc is searched for in this order:
//! 1. `CENTERPOINT_NVCC`: the compiler itself, or a Python `site-packages` that holds PyPI's
//!    (`nvidia/cu13/bin/nvcc`); an empty value disables nvcc;
//! 2. `CUDA_HOME`, `CUDA_PATH`: `bin/nvcc` below them;
//! 3. `PATH`;
//! 4. `/usr/local/cuda/bin/nvcc`, where NVIDIA's installers put it.
//!
//! Without nvcc only the sources are embedded, and NVRTC compiles them at first use. If nvcc fails, the build
//! prints a warning and continues: a missing or broken CUDA installation never fails a build.

#[cfg(feature = "tensorrt")]
#[path = "build/tensorrt.rs"]
mod tensorrt;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// Architectures to compile for, if nvcc supports them. The oldest also gets PTX, which the driver compiles for
/// architectures missing here. 87 is Orin, 110 is Thor.
const ARCHITECTURES: [&str; 9] = ["75", "80", "86", "87", "89", "90", "100", "110", "120"];

/// `-fmad=false` rounds every operation separately, as on the CPU. The code of all architectures compresses to a quarter.
const FLAGS: [&str; 6] = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-fatbin",
    "-Xfatbin=-compress-all",
    "--threads=0",
];

/// ABI version of the C library, the number at the end of its SONAME. It increases when a program linked against an
/// older library could break. `CP_ABI_VERSION` in the header must match.
const ABI_VERSION: u32 = 0;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rustc-env=CENTERPOINT_ABI_VERSION={ABI_VERSION}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcenterpoint.so.{ABI_VERSION}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    // Not `PATH`: it differs between a shell and an editor, and each change would trigger a full rebuild.
    for name in ["CENTERPOINT_NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(error) = embed() {
        // The crate does not build without this file; cargo prints the reason.
        println!("cargo::error=cannot embed the kernels: {error}");
    }
    #[cfg(feature = "tensorrt")]
    if let Err(error) = tensorrt::build() {
        println!("cargo::error=cannot list the TensorRT shims: {error}");
    }
}

/// Writes `kernels.rs`, the list of `KernelSource`s that `src/cuda/device/module.rs` includes.
fn embed() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let kernels = kernels()?;
    let fatbins: Vec<bool> = match find_nvcc().map(Nvcc::new) {
        None => vec![false; kernels.len()],
        Some(Err(problem)) => {
            warn(&problem);
            vec![false; kernels.len()]
        }
        Some(Ok(nvcc)) => compile_all(&nvcc, &kernels, &out),
    };
    let mut list = String::from("[\n");
    for (kernel, fatbin) in kernels.iter().zip(fatbins) {
        let text = format!(
            "include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/kernels/{kernel}.cu\"))"
        );
        let fatbin = if fatbin {
            format!("Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{kernel}.fatbin\")))")
        } else {
            "None".to_owned()
        };
        let _ = writeln!(
            list,
            "KernelSource {{ stage: \"{kernel}\", text: {text}, fatbin: {fatbin} }},"
        );
    }
    list.push_str("]\n");
    fs::write(out.join("kernels.rs"), list)
}

/// Stems of the kernel files, sorted.
fn kernels() -> io::Result<Vec<String>> {
    let mut stems = Vec::new();
    for entry in fs::read_dir("kernels")? {
        let path = entry?.path();
        if let (Some("cu"), Some(stem)) = (
            path.extension().and_then(|e| e.to_str()),
            path.file_stem().and_then(|s| s.to_str()),
        ) {
            stems.push(stem.to_owned());
        }
    }
    stems.sort();
    Ok(stems)
}

/// Compiles all files in parallel. Returns whether each one has a fatbin.
fn compile_all(nvcc: &Nvcc, kernels: &[String], out: &Path) -> Vec<bool> {
    thread::scope(|scope| {
        let running: Vec<_> = kernels
            .iter()
            .map(|kernel| scope.spawn(move || nvcc.compile(kernel, out)))
            .collect();
        running
            .into_iter()
            .map(|one| match one.join() {
                Ok(Ok(())) => true,
                Ok(Err(problem)) => {
                    warn(&problem);
                    false
                }
                Err(_) => false,
            })
            .collect()
    })
}

/// The compiler and the options for the architectures it supports.
struct Nvcc {
    path: PathBuf,
    targets: Vec<String>,
}

impl Nvcc {
    fn new(path: PathBuf) -> Result<Self, String> {
        println!("cargo::rerun-if-changed={}", path.display());
        let known = run(Command::new(&path).arg("--list-gpu-code"))?;
        let known: Vec<&str> = known.split_whitespace().collect();
        let mut targets = Vec::new();
        for arch in ARCHITECTURES {
            let code = format!("sm_{arch}");
            if !known.contains(&code.as_str()) {
                continue;
            }
            if targets.is_empty() {
                targets.push(format!("-gencode=arch=compute_{arch},code=compute_{arch}"));
            }
            targets.push(format!("-gencode=arch=compute_{arch},code={code}"));
        }
        if targets.is_empty() {
            return Err(format!(
                "{} supports none of sm_{ARCHITECTURES:?}",
                path.display()
            ));
        }
        Ok(Self { path, targets })
    }

    fn compile(&self, kernel: &str, out: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.path);
        command.args(FLAGS).args(&self.targets).arg("-o");
        command.arg(out.join(format!("{kernel}.fatbin")));
        command.arg(format!("kernels/{kernel}.cu"));
        run(&mut command).map(|_| ())
    }
}

/// Runs a command and returns its standard output, or a message that describes the failure.
fn run(command: &mut Command) -> Result<String, String> {
    let name = Path::new(command.get_program()).display().to_string();
    let done = command
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    let first: Vec<&str> = errors
        .lines()
        .filter(|line| !line.is_empty())
        .take(3)
        .collect();
    Err(format!("{name} failed: {}", first.join(" / ")))
}

/// The first nvcc that exists, in the order given above.
fn find_nvcc() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CENTERPOINT_NVCC") {
        if path.is_empty() {
            return None;
        }
        let path = PathBuf::from(path);
        return Some(if path.is_dir() {
            path.join("nvidia/cu13/bin/nvcc")
        } else {
            path
        });
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    homes
        .chain(env::split_paths(&path))
        .chain([PathBuf::from("/usr/local/cuda/bin")])
        .map(|folder| folder.join(format!("nvcc{}", env::consts::EXE_SUFFIX)))
        .find(|nvcc| nvcc.is_file())
}

fn warn(problem: &str) {
    println!("cargo::warning={problem}; NVRTC will compile the kernels at first use");
}
