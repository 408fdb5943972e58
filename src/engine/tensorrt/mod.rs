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
pub mod binding;
#[cfg(feature = "tensorrt")]
mod builder;
pub mod choice;
#[cfg(feature = "tensorrt")]
mod engine;
pub mod error;
#[cfg(feature = "tensorrt")]
mod ffi;
pub mod library;
#[cfg(feature = "tensorrt")]
mod listen;
#[cfg(feature = "tensorrt")]
mod loader;
pub mod request;
#[cfg(feature = "tensorrt")]
pub(crate) mod runtime;

pub use crate::plan::{Family, HardwareCompatibility, Version};
pub use error::{ParserError, TensorRtError};
pub use library::Library;
pub use request::{BuildRequest, Built, LoadRequest, Monitor, Progress};
