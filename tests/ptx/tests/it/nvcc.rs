//! Tests with nvcc's output: all kernels parse, and CUDA's `double` functions are within their error bounds.
//!
//! `CENTERPOINT_NVCC` names nvcc, or the folder `site-packages` of its wheel.

use std::path::{Path, PathBuf};
use std::process::Command;

use ptx::{Launch, Module, Options};

use super::support::{Heap, launch};

fn nvcc() -> PathBuf {
    let named = PathBuf::from(std::env::var_os("CENTERPOINT_NVCC").expect("CENTERPOINT_NVCC"));
    if named.is_file() {
        return named;
    }
    let inside = [
        "bin/nvcc",
        "nvidia/cu13/bin/nvcc",
        "nvidia/cuda_nvcc/bin/nvcc",
    ];
    inside
        .iter()
        .map(|path| named.join(path))
        .find(|path| path.is_file())
        .expect("nvcc")
}

pub(crate) fn compile(source: &Path, architecture: u32) -> String {
    let stem = source.file_stem().expect("a name").to_string_lossy();
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stem}_{architecture}.ptx"));
    let status = Command::new(nvcc())
        .args(["-std=c++17", "-O3", "-fmad=false", "-ptx"])
        .arg(format!("-arch=compute_{architecture}"))
        .arg(source)
        .arg("-o")
        .arg(&output)
        .status()
        .expect("nvcc starts");
    assert!(status.success());
    std::fs::read_to_string(output).expect("a PTX text")
}

#[test]
#[ignore = "needs nvcc"]
fn all_kernels_parse() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("the kernels") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "cu") {
            continue;
        }
        for architecture in [75, 80, 90, 120] {
            let module = Module::parse(&compile(&path, architecture))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for kernel in module.kernels() {
                println!(
                    "{} {architecture}: {} bytes of parameters, {} of shared memory",
                    kernel.name(),
                    kernel.param_bytes(),
                    kernel.static_shared()
                );
                found += 1;
            }
        }
    }
    assert!(found >= 13 * 4, "{found} kernels");
}

/// Difference in units of the last place of the expected number.
fn ulps(found: f64, expected: f64) -> f64 {
    if found == expected || found.is_nan() && expected.is_nan() {
        return 0.0;
    }
    let unit = f64::from_bits(expected.abs().to_bits() + 1) - expected.abs();
    (found - expected).abs() / unit
}

/// Largest error of a kernel `name(x, y, out)` against a function.
fn largest_error(
    module: &Module,
    name: &str,
    x: &[f64],
    y: &[f64],
    function: impl Fn(f64, f64) -> f64,
) -> (f64, f64, f64) {
    let heap = Heap::default();
    let bytes = |v: &[f64]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let out = heap.blank(8 * x.len());
    let params: Vec<u8> = [heap.buffer(&bytes(x)), heap.buffer(&bytes(y)), out]
        .iter()
        .flat_map(|a| a.to_le_bytes())
        .collect();
    let blocks = x.len() as u32 / 256;
    let launched = Launch {
        kernel: name,
        grid: [blocks, 1, 1],
        block: [256, 1, 1],
        shared: 0,
        params: &params,
    };
    launch(module, &launched, &heap, &Options::default()).unwrap_or_else(|f| panic!("{f}"));
    let found = heap.read(out);
    let mut worst = (0.0, 0.0, 0.0);
    for (i, found) in found.chunks_exact(8).enumerate() {
        let found = f64::from_le_bytes(found.try_into().expect("8 bytes"));
        let error = ulps(found, function(x[i], y[i]));
        assert!(!error.is_nan(), "{name}({}, {}) = {found}", x[i], y[i]);
        if error > worst.0 {
            worst = (error, x[i], y[i]);
        }
    }
    worst
}

#[test]
#[ignore = "needs nvcc"]
fn doubles_are_as_exact_as_cuda_says() {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("doubles.cu");
    let kernel = |name: &str, value: &str| {
        format!(
            "extern \"C\" __global__ void f_{name}(const double *x, const double *y, double *out) {{\n\
             unsigned i = blockIdx.x * blockDim.x + threadIdx.x; out[i] = {value}; }}\n"
        )
    };
    let text: String = [
        ("exp", "exp(x[i])"),
        ("sin", "sin(x[i])"),
        ("cos", "cos(x[i])"),
        ("atan2", "atan2(y[i], x[i])"),
        ("log", "log(fabs(x[i]))"),
        ("sqrt", "sqrt(fabs(x[i]))"),
        ("divide", "y[i] / x[i]"),
    ]
    .map(|(name, value)| kernel(name, value))
    .concat();
    std::fs::write(&source, text).expect("the source");
    const COUNT: usize = 1 << 17;
    let mut state = 1u64;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    };
    // A quarter each: small, angles, large, and any exponent.
    let mut numbers = |largest: f64| -> Vec<f64> {
        (0..COUNT)
            .map(|i| match i % 4 {
                0 => uniform(),
                1 => 8.0 * uniform(),
                2 => largest * uniform(),
                _ => uniform() * 2f64.powf(300.0 * uniform()),
            })
            .collect()
    };
    let wide = numbers(1e9);
    let other = numbers(1e9);
    let mut exponents = numbers(745.0);
    exponents[0] = f64::NAN;
    exponents[1] = f64::INFINITY;
    exponents[2] = f64::NEG_INFINITY;
    for architecture in [75, 80] {
        let module = Module::parse(&compile(&source, architecture)).expect("a module");
        // Bounds of the "CUDA C++ Programming Guide", plus half a unit of glibc's own.
        type Case<'a> = (&'a str, &'a [f64], &'a [f64], fn(f64, f64) -> f64, f64);
        let cases: [Case<'_>; 7] = [
            ("f_exp", &exponents, &other, |x, _| x.exp(), 1.5),
            ("f_sin", &wide, &other, |x, _| x.sin(), 2.5),
            ("f_cos", &wide, &other, |x, _| x.cos(), 2.5),
            ("f_atan2", &wide, &other, |x, y| y.atan2(x), 2.5),
            ("f_log", &wide, &other, |x, _| x.abs().ln(), 1.5),
            ("f_sqrt", &wide, &other, |x, _| x.abs().sqrt(), 0.0),
            ("f_divide", &wide, &other, |x, y| y / x, 0.0),
        ];
        for (name, x, y, function, bound) in cases {
            let (error, at, with) = largest_error(&module, name, x, y, function);
            println!("sm_{architecture} {name}: {error} ulp at {at}, {with}");
            assert!(error <= bound, "{name}({at}, {with}): {error} ulp");
        }
    }
}
