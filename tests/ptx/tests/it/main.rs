//! Tests of the interpreter with small PTX texts. `nvcc` needs NVIDIA's compiler: `CENTERPOINT_NVCC`.

mod faults;
mod floats;
mod integers;
mod matrix;
mod memory;
mod nvcc;
mod races;
mod speed;
mod support;
mod warps;
