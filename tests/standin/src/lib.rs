//! A stand-in for NVIDIA's driver and compiler: `libcuda` and `libnvrtc` for machines without a GPU.
//!
//! One library has the functions of both that `src/cuda/device` loads; `tests/standin.sh` copies it to their names. Programs
//! find it in `LD_LIBRARY_PATH`, and run unchanged.
//!
//! ```text
//! driver.rs   the driver's functions ─ calls.rs: counts, faults to inject ─ world.rs: contexts, memory, streams, graphs
//! nvrtc.rs    the compiler's functions                                    ├ work.rs: what a stream does, and when
//!                                                                         └ code.rs: kernels as C++ or PTX
//! setup.rs    for tests: starts a program with it
//! ```
//!
//! It is strict: a call that CUDA's documentation does not promise to work fails with CUDA's error and is reported as a
//! fault of the program. It is lazy: work is done only when someone waits for it, or, by a seed, at any call before. Memory is
//! the host's; bytes around each allocation must not change, and new memory holds garbage.
//!
//! Kernels run as C++ (crate `emulation`), which is fast, or as the PTX that nvcc makes of them (crate `ptx`), which is
//! what a GPU would run: the stand-in's compiler calls nvcc then. PTX of any other origin runs, too.
//!
//! | variable | meaning |
//! |---|---|
//! | `CENTERPOINT_STANDIN_SEED` | order of blocks, threads and work; 0, the default: as late as possible |
//! | `CENTERPOINT_STANDIN_LOG` | file that the report is added to when the program ends: calls, faults, leaks |
//! | `CENTERPOINT_STANDIN_FAIL` | `function:number:error`: the call of that number, from 1, returns this CUDA error |
//! | `CENTERPOINT_STANDIN_ARCH` | compute capability, default 87 |
//! | `CENTERPOINT_STANDIN_CUDA` | version of CUDA, default 12060 |
//! | `CENTERPOINT_STANDIN_GPUS` | number of GPUs, default 1 |
//! | `CENTERPOINT_STANDIN_MEMORY` | bytes of memory, default 8 GiB |
//! | `CENTERPOINT_STANDIN_PTX` | compute capability to compile PTX for with the nvcc of `CENTERPOINT_NVCC`, instead of C++ |
//! | `CENTERPOINT_STANDIN_INDEPENDENT` | with PTX, 1: the threads of a warp advance on their own |
//! | `CENTERPOINT_STANDIN_RACES` | with PTX, 1: races are faults |
//! | `CENTERPOINT_STANDIN_ONLY` | kernels whose names begin otherwise do nothing: for counts that need no results |
//! | `CENTERPOINT_STANDIN_CACHE` | folder for compiled kernels, default `target/tmp/emulation` of the repository |
#![allow(unsafe_code)]

mod calls;
mod code;
mod driver;
mod nvrtc;
pub mod setup;
mod work;
mod world;
