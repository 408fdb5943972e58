//! Tests of the interpreter with small PTX texts. `nvcc` needs NVIDIA's compiler: `CENTERPOINT_NVCC`.

// Helpers of tests fail loudly, too.
#![allow(clippy::expect_used, clippy::panic)]

mod faults;
mod floats;
mod integers;
mod kernels;
mod matrix;
mod memory;
mod nvcc;
mod races;
mod speed;
mod support;
mod warps;
