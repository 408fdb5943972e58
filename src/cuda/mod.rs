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

pub mod decode;
pub mod device;
pub mod features;
pub mod frame;
pub mod input;
pub mod map;
pub mod nms;
pub mod pillars;
pub mod scatter;

#[cfg(feature = "cuda")]
pub use device::driver;

pub use device::{
    Buffer, CopyEnd, CudaError, Device, DevicePtr, Gpu, Graph, Launch, Pinned, StageError, Stream,
    StreamWork, gpu, open,
};
pub use frame::{Decoder, Encoder};
pub use input::Input;
pub use map::DeviceMap;
