//! The stages on an NVIDIA GPU: the same names, the same order, the same bytes as on the CPU.
//!
//! ```text
//! input ─ pillars ─ features ─ scatter ─ engine ─ decode ─ nms ─ boxes      one CUDA graph per frame
//! ```
//!
//! Each stage is a file here and a file of the same stem in `kernels/`: buffers that are allocated once, and
//! launches. A kernel takes one struct of device addresses and numbers. What differs from frame to frame (the
//! points, their number, the poses of the sweeps) is in device memory, so that launches are recorded once and
//! replayed for every frame.
//!
//! `device` holds the driver; the stages know it only as the trait [`Device`]. Imports go down: `frame`
//! uses the stages, a stage uses `map` and the stages before it, and all use `device`.

pub(crate) mod conv;
pub(crate) mod decode;
pub(crate) mod device;
pub(crate) mod direct;
pub(crate) mod features;
pub(crate) mod frame;
pub(crate) mod input;
pub(crate) mod map;
pub(crate) mod nms;
pub(crate) mod peak;
pub(crate) mod pillars;
pub(crate) mod place;
pub(crate) mod scatter;
pub(crate) mod tiles;

pub use device::{CudaError, Device, DevicePtr, open};
pub use map::DeviceMap;

pub(crate) use device::gpu;
pub(crate) use device::{Buffer, Graph, Marks, StageError};
#[cfg(feature = "tensorrt")]
pub(crate) use device::{Stream, StreamWork};
pub(crate) use frame::{Decoder, Encoder};
