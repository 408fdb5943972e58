//! Tests with nvcc's output: all kernels parse, and CUDA's `double` functions are within their error bounds.
//!
//! `CENTERPOINT_NVCC` names nvcc, or the folder `site-packages` of its wheel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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
    // Tests that run at the same time compile the same kernels.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{stem}_{architecture}_{}_{number}.ptx", std::process::id());
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new(nvcc())
        .args(["-std=c++17", "-O3", "-fmad=false", "-ptx"])
        .arg(format!("-arch=compute_{architecture}"))
        .arg(source)
        .arg("-o")
        .arg(&output)
        .status()
        .expect("nvcc starts");
    assert!(status.success());
    let text = std::fs::read_to_string(&output).expect("a PTX text");
    std::fs::remove_file(output).expect("the PTX text goes");
    text
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

/// A product of bytes as an engine would write it: two stages in shared memory filled by `cp.async`, `ldmatrix`, `mma`;
/// and functions whose instructions differ from compiler to compiler.
const ENGINE: &str = r#"
#include <cuda_fp16.h>
#include <stdint.h>
__device__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }
// out[16][8] = a[16][128] * b[8][128]^T
extern "C" __global__ void product(const int8_t *a, const int8_t *b, int *out) {
    __shared__ __align__(16) int8_t sa[2][16][48], sb[2][8][48];
    const unsigned t = threadIdx.x;
    int d[4] = {0, 0, 0, 0};
    auto fetch = [&](int stage, int k) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;"
            :: "r"(shared_address(&sa[stage][t / 2][t % 2 * 16])),
                     "l"(a + t / 2 * 128 + k + t % 2 * 16));
        if (t < 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::
            "r"(shared_address(&sb[stage][t / 2][t % 2 * 16])), "l"(b + t / 2 * 128 + k + t % 2 * 16), "r"(16));
        asm volatile("cp.async.commit_group;");
    };
    fetch(0, 0);
    for (int k = 0; k < 128; k += 32) {
        const int stage = k / 32 % 2;
        if (k + 32 < 128) { fetch(1 - stage, k + 32); asm volatile("cp.async.wait_group 1;" ::: "memory"); }
        else asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        unsigned fa[4], fb[2];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
            : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
            : "r"(shared_address(&sa[stage][t % 16][t / 16 * 16])));
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
            : "=r"(fb[0]), "=r"(fb[1]) : "r"(shared_address(&sb[stage][t % 8][t / 8 % 2 * 16])));
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
            : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i) out[(t / 4 + i / 2 * 8) * 8 + t % 4 * 2 + i % 2] = d[i];
}
// The same with dot products of 4 bytes.
extern "C" __global__ void dots(const int8_t *a, const int8_t *b, int *out) {
    for (int i = threadIdx.x; i < 128; i += 32) {
        int sum = 0;
        const int4 *x = (const int4 *)(a + i / 8 * 128), *y = (const int4 *)(b + i % 8 * 128);
        for (int k = 0; k < 8; ++k) {
            const int4 p = __ldg(x + k), q = __ldcg(y + k);
            sum = __dp4a(p.x, q.x, __dp4a(p.y, q.y, __dp4a(p.z, q.z, __dp4a(p.w, q.w, sum))));
        }
        out[i] = sum;
    }
}
// Everything else: only its parts must be known, and the sum of a row be right.
extern "C" __global__ void various(const int8_t *a, const int8_t *b, int *out) {
    __shared__ float partial[32];
    extern __shared__ int dynamic[];
    const int t = threadIdx.x;
    const float x = a[t], y = b[t];
    __half2 h = __floats2half2_rn(x, y);
    h = __hfma2(h, h, __float2half2_rn(1.0f));
    const float z = __low2float(h) - x * x - 1.0f + __fdividef(x, 2.0f) - x / 2.0f + __expf(0.0f) - 1.0f;
    int sum = __reduce_add_sync(0xffffffffu, (int)a[t]);
    atomicAdd(&((float *)out)[1], 1.0f);
    atomicMax(&out[2], (int)t);
    atomicCAS((unsigned *)out + 3, 0u, 77u);
    partial[t] = rsqrtf(4.0f) + sinf(x) * sinf(x) + cosf(x) * cosf(x) + powf(2.0f, 3.0f) + expf(y - y)
        + logf(1.0f) + fmodf(x, 1.0f);
    dynamic[t] = __float2int_rn(partial[t ^ 0] * 1000.0f) + __clz(__brev(t)) + __popcll(0xffull << t) + __ffs(t)
        + __funnelshift_l(t, 0, 3);
    __threadfence();
    __syncwarp();
    out[4 + t] = dynamic[t ^ 1] + (int)z + (int)__byte_perm(t, 0, 0x4440) + (int)lrintf(0.4f) + __mul24(2, 3)
        + (int)__umulhi(1u << 31, 2u)
        + (int)__ldg(&a[0]) - a[0] + (int)roundf(0.2f) + (int)floorf(0.5f) + (int)ceilf(0.5f) + (int)truncf(1.5f)
        + (int)__int_as_float(0);
    if (t == 0) out[0] = sum;
}
"#;

#[test]
#[ignore = "needs nvcc"]
fn an_engine_in_the_making_runs() {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine.cu");
    std::fs::write(&source, ENGINE).expect("the source");
    let module = Module::parse(&compile(&source, 80)).unwrap_or_else(|error| panic!("{error}"));
    let byte = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8;
    let a: Vec<u8> = (0..16 * 128).map(byte).collect();
    let b: Vec<u8> = (0..8 * 128).map(|i| byte(i + 5000)).collect();
    let value = |v: u8| i32::from(v as i8);
    let expected: Vec<u32> = (0..128)
        .map(|i| {
            let row = &a[i / 8 * 128..][..128];
            let column = &b[i % 8 * 128..][..128];
            row.iter()
                .zip(column)
                .map(|(&x, &y)| value(x) * value(y))
                .sum::<i32>() as u32
        })
        .collect();
    for seed in 0..6 {
        let heap = Heap::default();
        // Of these, some are aligned to 16.
        let aligned = |bytes: &[u8]| {
            (0..64)
                .map(|_| heap.buffer(bytes))
                .find(|a| a % 16 == 0)
                .expect("an aligned buffer")
        };
        let (left, right) = (aligned(&a), aligned(&b));
        let options = Options {
            seed,
            independent: seed > 3,
            races: true,
            architecture: 80,
        };
        for name in ["product", "dots", "various"] {
            let out = heap.words(&[0; 128]);
            let params: Vec<u8> = [left, right, out]
                .iter()
                .flat_map(|a| a.to_le_bytes())
                .collect();
            let launched = Launch {
                kernel: name,
                grid: [1; 3],
                block: [32, 1, 1],
                shared: 128,
                params: &params,
            };
            let counts = launch(&module, &launched, &heap, &options)
                .unwrap_or_else(|fault| panic!("{fault}"));
            let found = heap.read_words(out);
            if name == "various" {
                let sum: i32 = a[..32].iter().map(|&v| value(v)).sum();
                assert_eq!(found[..4], [sum as u32, 32f32.to_bits(), 31, 77]);
            } else {
                assert_eq!(found, expected, "{name}");
                assert_eq!(counts.mma, if name == "product" { 4 } else { 0 });
            }
        }
    }
}
