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
//! The stages know a device only as [`Device`]: memory and launches. `driver` is the CUDA driver (with the
//! feature `cuda`); the tests' other one runs the same kernels on the CPU.

#[cfg(feature = "cuda")]
mod cache;
#[cfg(feature = "cuda")]
mod context;
pub mod decode;
pub mod device;
#[cfg(feature = "cuda")]
pub mod driver;
pub mod error;
pub mod features;
pub mod frame;
pub mod graph;
pub mod input;
#[cfg(feature = "cuda")]
mod library;
pub mod map;
#[cfg(feature = "cuda")]
mod module;
pub mod nms;
#[cfg(feature = "cuda")]
mod nvrtc;
pub mod pillars;
pub mod scatter;

use std::sync::Arc;

pub use device::{Buffer, Device, Launch, Place, Work};
pub use error::{CudaError, StageError};
pub use features::Features;
pub use frame::{Decoder, Encoder};
pub use graph::{Graph, Pinned};
pub use input::Input;
pub use map::{DeviceMap, Element};
pub use nms::Nms;
pub use pillars::Pillars;
pub use scatter::Scatter;

/// The first NVIDIA GPU (`CUDA_VISIBLE_DEVICES` chooses which that is), with all kernels loaded.
///
/// # Errors
/// [`CudaError::Unavailable`], with what to do: no driver, no GPU, no code for it, or a program that was
/// built without the feature `cuda`.
pub fn open() -> Result<Arc<dyn Device>, CudaError> {
    #[cfg(feature = "cuda")]
    return Ok(Arc::new(driver::Driver::open()?));
    #[cfg(not(feature = "cuda"))]
    Err(without())
}

/// What is known of a GPU without using it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name, such as `Orin`.
    pub name: String,
    /// Its compute capability, as 87 for 8.7.
    pub architecture: u32,
    /// The newest CUDA that its driver knows, as 12060 for 12.6.
    pub cuda: u32,
}

/// The GPU that [`open`] would open.
///
/// # Errors
/// [`CudaError::Unavailable`], as [`open`].
pub fn gpu() -> Result<Gpu, CudaError> {
    #[cfg(feature = "cuda")]
    return driver::gpu();
    #[cfg(not(feature = "cuda"))]
    Err(without())
}

#[cfg(not(feature = "cuda"))]
fn without() -> CudaError {
    CudaError::Unavailable {
        reason: "this program was built without the feature `cuda`; build it with that (it is a default \
                 one)"
            .into(),
    }
}
