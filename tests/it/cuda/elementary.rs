//! `kernels/elementary.cuh` gives the bits of `src/elementary.rs`: as C++, and as nvcc's PTX.

use std::path::PathBuf;
use std::process::Command;

use bytemuck::NoUninit;
use centerpoint::cuda::DevicePtr;
use centerpoint::internals::cuda::{Buffer, Launch};
use centerpoint::internals::elementary;

use crate::common::repository;
use crate::emulation;

/// The mirror of `Elementary` in `tests/emulation/elementary.cu`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Elementary {
    x: DevicePtr<f32>,
    y: DevicePtr<f32>,
    out: DevicePtr<[f64; 4]>,
    count: u32,
    padding: u32,
}

const KERNEL: &str = "elementary_values";
const BLOCK: u32 = 256;

/// Values of `count` vectors: bits spread over all f32 values, numbers in the range of angles and logits, and those where
/// something changes.
fn vectors(count: u32) -> (Vec<f32>, Vec<f32>) {
    let special = [
        0.0,
        -0.0,
        1e-45,
        std::f32::consts::FRAC_PI_4,
        std::f32::consts::PI,
        88.8,
        709.0,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    let value = |i: u32| match i % 4 {
        0 => special[i as usize / 4 % special.len()] * if i & 64 == 0 { 1.0 } else { -1.0 },
        1 => f32::from_bits(i.wrapping_mul(2_654_435_761)),
        2 => (i as f32 * 0.618_034).fract() * 8.0 - 4.0,
        _ => (i as f32 * 0.381_966).fract() * 200.0 - 100.0,
    };
    let x = (0..count).map(value).collect();
    let y = (0..count).map(|i| value(i * 7 / 4 + 3)).collect();
    (x, y)
}

/// Checks what a kernel wrote.
fn check(x: &[f32], y: &[f32], found: &[[f64; 4]]) {
    for ((&x, &y), found) in x.iter().zip(y).zip(found) {
        let (sin, cos) = elementary::sin_cos(x);
        let expected = [elementary::exp(x), sin, cos, elementary::atan2(y, x)];
        for (found, expected) in found.iter().zip(expected) {
            let both_nan = found.is_nan() && expected.is_nan();
            assert!(
                both_nan || found.to_bits() == expected.to_bits(),
                "x {x}, y {y}: {found} {expected}"
            );
        }
    }
}

#[test]
fn the_kernels_functions_have_the_cpus_bits() {
    let (x, y) = vectors(1 << 16);
    let device = emulation::emulated(0, false);
    let count = x.len();
    let [of_x, of_y] = [&x, &y].map(|values| Buffer::new(&device, "values", values).unwrap());
    let out = Buffer::<[f64; 4]>::zeroed(&device, "out", count).unwrap();
    let params = Elementary {
        x: of_x.ptr(),
        y: of_y.ptr(),
        out: out.ptr(),
        count: count as u32,
        padding: 0,
    };
    let launch = Launch {
        kernel: KERNEL,
        grid: [count as u32 / BLOCK, 1, 1],
        block: BLOCK,
        shared: 0,
    };
    emulation::launch(&*device, &launch, &params).unwrap();
    check(&x, &y, &out.download(count).unwrap());
}

/// Addresses and bytes of the memory that a kernel may use.
struct Allocations([(u64, usize); 3]);

impl ptx::Memory for Allocations {
    fn allocation(&self, address: u64) -> Option<(u64, usize)> {
        let mut all = self.0.into_iter();
        all.find(|(start, bytes)| (*start..start + *bytes as u64).contains(&address))
    }
}

#[test]
#[ignore = "needs CENTERPOINT_NVCC"]
#[allow(unsafe_code)]
fn nvccs_functions_have_the_cpus_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("elementary.ptx");
    let (x, y) = vectors(1 << 13);
    for architecture in ["75", "80"] {
        let done = Command::new(nvcc())
            .args(["-std=c++17", "-O3", "-fmad=false", "-ptx"])
            .arg(format!("-arch=compute_{architecture}"))
            .arg("-I")
            .arg(repository().join("kernels"))
            .arg(repository().join("tests/emulation/elementary.cu"))
            .arg("-o")
            .arg(&file)
            .status()
            .unwrap();
        assert!(done.success());
        let module = ptx::Module::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let mut out = vec![[0.0; 4]; x.len()];
        let addresses = [
            (x.as_ptr() as u64, size_of_val(&*x)),
            (y.as_ptr() as u64, size_of_val(&*y)),
            (out.as_mut_ptr() as u64, size_of_val(&*out)),
        ];
        let mut params: Vec<u8> = addresses.iter().flat_map(|a| a.0.to_le_bytes()).collect();
        params.extend((x.len() as u64).to_le_bytes());
        let launch = ptx::Launch {
            kernel: KERNEL,
            grid: [x.len() as u32 / BLOCK, 1, 1],
            block: [BLOCK, 1, 1],
            shared: 0,
            params: &params,
        };
        let options = ptx::Options::default();
        // SAFETY: the vectors are alive, nothing else uses them, and the kernel writes only `out`.
        unsafe { ptx::run(&module, &launch, &Allocations(addresses), &options) }
            .unwrap_or_else(|fault| panic!("{fault}"));
        check(&x, &y, &out);
    }
}

/// The compiler that CENTERPOINT_NVCC names.
pub(super) fn nvcc() -> PathBuf {
    let nvcc = PathBuf::from(crate::common::variable("CENTERPOINT_NVCC"));
    if nvcc.is_dir() {
        nvcc.join("nvidia/cu13/bin/nvcc")
    } else {
        nvcc
    }
}
