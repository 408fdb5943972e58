//! Builds TensorRT engines for a GPU and runs them on one.
//!
//! ```text
//! offline   Library::open → Library::build(&BuildRequest) → Built { plan, layers, timing cache }
//! on a GPU  Library::open → Library::load(&LoadRequest) → an engine that a frame's CUDA graph records
//! ```
//!
//! TensorRT has a C++ interface only. `shim.cpp` wraps the part that this crate needs in C. It is compiled once for each
//! set of TensorRT headers that `build.rs` finds (feature `tensorrt`), and the library itself is opened at run time. One
//! program therefore supports TensorRT 10, TensorRT 11 and TensorRT-RTX, and starts without any of them.
//!
//! Versions, the check of bindings and the layer table need neither headers nor library and are always available.

#[cfg(feature = "tensorrt")]
mod advice;
#[cfg(any(test, feature = "tensorrt"))]
mod binding;
#[cfg(feature = "tensorrt")]
mod builder;
pub(crate) mod choice;
#[cfg(feature = "tensorrt")]
mod engine;
pub(crate) mod error;
#[cfg(feature = "tensorrt")]
mod ffi;
pub(crate) mod library;
#[cfg(feature = "tensorrt")]
mod listen;
#[cfg(feature = "tensorrt")]
mod loader;
pub(crate) mod request;
#[cfg(feature = "tensorrt")]
pub(crate) mod runtime;

pub use crate::plan::{Family, HardwareCompatibility, Version};
#[cfg(feature = "tensorrt")]
pub(crate) use error::ParserError;
pub use error::TensorRtError;
pub use library::Library;
pub(crate) use request::LoadRequest;
pub use request::{BuildRequest, Built, Monitor, Progress};
