//! The CUDA stages, on an emulated device or a GPU: byte for byte against the CPU stages.

mod decode;
mod features;
pub(crate) mod frame;
mod harness;
mod head;
mod input;
mod nms;
mod pillars;
mod plants;
pub(crate) mod scatter;
