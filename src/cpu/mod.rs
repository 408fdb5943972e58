//! The stages on the CPU, the reference for their CUDA twins in [`crate::cuda`]: the same names, the same order,
//! the same bytes.

pub(crate) mod decode;
pub(crate) mod features;
mod frame;
pub(crate) mod nms;
pub(crate) mod pillars;
pub(crate) mod pool;
pub(crate) mod scatter;

pub(crate) use frame::{Decoder, Encoder};
pub(crate) use pool::Pool;
