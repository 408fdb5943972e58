//! Calibration: one float pass over real frames, and the ranges (amax) that it gives.
//!
//! ```text
//! frames ─ pass ─ TensorStats by tensor ─ amax(method) ─ amax by tensor
//! ```
//! [`Histogram`] counts absolute values, [`Method`] picks a range from it, both as
//! pytorch-quantization does.

mod amax;
mod histogram;
pub mod raw;

use std::path::PathBuf;

pub use amax::{Amax, MAX_CODE, Method, ZERO_AMAX, quantize, scale};
pub use histogram::{BINS, Histogram, MAX_BINS, MIN_BINS, RangeError};

/// Why there is no calibration. Each message says what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// A file could not be read.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file of raw values was refused.
    #[error("{path}: {what}")]
    Raw {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the lengths found and expected.
        what: String,
    },
    /// The values of a file have no histogram or no amax.
    #[error("{path}: {source}")]
    Range {
        /// The file.
        path: PathBuf,
        /// What is wrong with the values.
        source: RangeError,
    },
}
