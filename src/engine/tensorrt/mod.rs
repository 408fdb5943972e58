//! TensorRT engines: built for a GPU, run on one.
//!
//! ```text
//! offline   Library::open → Library::build(&BuildRequest) → Built { plan, layers, timing cache }
//! on a GPU  Library::open → Library::load(&LoadRequest) → an engine that a frame's graph records
//! ```
//!
//! TensorRT is C++ without a C interface. `shim.cpp` turns the part of it that is needed here into C; it is
//! compiled once for each set of TensorRT's headers that `build.rs` finds (feature `tensorrt`), and the
//! library itself is opened at run time. So one program serves TensorRT 10, 11 and TensorRT-RTX, and starts
//! without any of them.
//!
//! What needs neither headers nor library is always there: versions, the check of bindings, the layer table.

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
