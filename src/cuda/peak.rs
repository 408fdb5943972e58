//! The products that tensor cores compute in a second, for benches: the kernels of `kernels/peak.cu`.

use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, Marks, launch};

/// Threads of a block; `THREADS` in the kernels.
const THREADS: u32 = 256;
/// Products of a warp in a round; `CHAINS` in the kernels.
const CHAINS: u64 = 8;
/// Blocks of a multiprocessor.
const BLOCKS: u32 = 4;

/// The mirror of `PeakParams` in `kernels/peak.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    out: DevicePtr<u32>,
    rounds: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 16);

// SAFETY: the address is that of a buffer with a number for each thread of the launch, which lives until it is over.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] = &["peak_s8", "peak_f16"];
}

/// Multiply-adds a second that products of codes, or of halves, reach in `rounds` rounds. Waits.
///
/// # Errors
/// [`CudaError`].
pub fn peak(device: &Arc<dyn Device>, half: bool, rounds: u32) -> Result<f64, CudaError> {
    let blocks = device.multiprocessors() * BLOCKS;
    let out = Buffer::zeroed(device, "sums of products", (blocks * THREADS) as usize)?;
    let params = Params {
        out: out.ptr(),
        rounds,
        reserved: 0,
    };
    let shape = Launch {
        kernel: if half { "peak_f16" } else { "peak_s8" },
        grid: [blocks, 1, 1],
        block: THREADS,
        shared: 0,
    };
    let marks = Marks::new(device, 3)?;
    // The first launch warms up.
    for mark in 0..3 {
        if mark > 0 {
            launch(&**device, &shape, &params)?;
        }
        marks.set(mark)?;
    }
    let seconds = marks.between(1, 2)? / 1e3;
    let product = 16 * 8 * if half { 16 } else { 32 };
    let products = u64::from(blocks * THREADS / 32) * CHAINS * u64::from(rounds) * product;
    Ok(products as f64 / seconds)
}
