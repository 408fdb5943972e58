//! The stages on an NVIDIA GPU: the same names, the same order, the same bytes as on the CPU.
//!
//! ```text
//! input ─ pillars ─ features ─ scatter ─ engine ─ decode ─ nms ─ boxes      one CUDA graph per frame
//! ```
//!
//! Each stage is a file here beside a file of the same stem in `kernels/`: buffers that are allocated
//! once, and launches. A kernel takes one struct of device addresses and numbers. What differs from
//! frame to frame (the points, how many there are, where the sweeps were seen from) lies in device
//! memory, so that launches can be recorded once and replayed for every frame.
//!
//! The stages know a device only as [`Device`]: memory and launches. `driver` is the CUDA driver; the
//! tests' other one runs the same kernels on the CPU.

pub mod decode;
pub mod device;
pub mod error;
pub mod features;
pub mod graph;
pub mod input;
pub mod map;
pub mod nms;
pub mod pillars;
pub mod scatter;

pub use decode::Decoder;
pub use device::{Buffer, Device, Launch, Place};
pub use error::CudaError;
pub use features::Features;
pub use graph::{Graph, Pinned};
pub use input::Input;
pub use map::{DeviceMap, Element};
pub use nms::Nms;
pub use pillars::Pillars;
pub use scatter::Scatter;
