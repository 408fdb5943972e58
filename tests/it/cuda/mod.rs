//! The CUDA stages, on an emulated device or a GPU: byte for byte against the CPU stages.

mod compiled;
pub(crate) mod decode;
mod driver;
mod elementary;
pub(crate) mod engine;
pub(crate) mod features;
pub(crate) mod frame;
mod half;
mod harness;
pub(crate) mod head;
mod input;
pub(crate) mod nms;
mod peak;
pub(crate) mod pillars;
mod plants;
mod refused;
pub(crate) mod scatter;
mod uncaptured;
