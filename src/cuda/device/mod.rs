//! A CUDA device: memory, kernel launches and graphs, in the order of one stream.
//!
//! The stages know a device only as the trait [`Device`] and its owners of memory:
//!
//! ```text
//! driver ─ state ─ module ─ nvrtc ─ cache     NVIDIA's driver behind the trait (feature `cuda`)
//!              └─ context ─ library ─ calls   one GPU; whether the driver is usable; its functions
//! graph ─ memory ─ marks                     what the stages hold
//!              └─ interface ─ ptr ─ error    the trait
//! ```
//!
//! The tests implement the trait a second time: there the same kernels run on the CPU.

#[cfg(feature = "cuda")]
mod cache;
#[cfg(feature = "cuda")]
mod calls;
#[cfg(feature = "cuda")]
mod context;
#[cfg(feature = "cuda")]
pub(crate) mod driver;
mod error;
mod graph;
mod interface;
#[cfg(feature = "cuda")]
mod library;
mod marks;
mod memory;
#[cfg(feature = "cuda")]
mod module;
#[cfg(feature = "cuda")]
mod nvrtc;
mod ptr;
#[cfg(feature = "cuda")]
mod state;

use std::sync::Arc;

pub use error::CudaError;
pub(crate) use error::StageError;
pub(crate) use graph::Graph;
pub(crate) use interface::Gpu;
pub use interface::{CopyEnd, Device, Launch, Stream, StreamWork};
pub(super) use interface::{KernelParams, launch};
pub(crate) use marks::Marks;
pub use memory::Buffer;
pub(super) use memory::Memory;
pub(crate) use memory::Pinned;
pub use ptr::DevicePtr;

/// Opens the first NVIDIA GPU (`CUDA_VISIBLE_DEVICES` selects it) and loads all kernels.
///
/// # Errors
/// [`CudaError::Unavailable`], with advice: no driver, no GPU, no code for the GPU, or a program built without
/// the feature `cuda`.
pub fn open() -> Result<Arc<dyn Device>, CudaError> {
    #[cfg(feature = "cuda")]
    return Ok(Arc::new(driver::Driver::open()?));
    #[cfg(not(feature = "cuda"))]
    Err(built_without_cuda())
}

/// Describes the GPU that [`open`] would open.
///
/// # Errors
/// [`CudaError::Unavailable`], as [`open`].
pub fn gpu() -> Result<Gpu, CudaError> {
    #[cfg(feature = "cuda")]
    return driver::gpu();
    #[cfg(not(feature = "cuda"))]
    Err(built_without_cuda())
}

#[cfg(not(feature = "cuda"))]
fn built_without_cuda() -> CudaError {
    CudaError::Unavailable {
        reason: "this program was built without the feature `cuda`; rebuild it with that feature (it is \
                 on by default)"
            .into(),
    }
}
