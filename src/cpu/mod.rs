//! The stages on the CPU, the reference for their CUDA twins in [`crate::cuda`]: the same names, the same order,
//! the same bytes.

pub mod decode;
pub mod features;
mod frame;
pub mod nms;
pub mod pillars;
pub mod pool;
pub mod scatter;

pub use frame::{Decoder, Encoder};
pub use pool::Pool;
