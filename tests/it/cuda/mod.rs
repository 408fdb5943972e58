//! The CUDA stages, on an emulated device or a GPU: byte for byte against the CPU stages.

mod features;
mod frame;
mod harness;
mod input;
mod pillars;
mod plants;
mod scatter;
