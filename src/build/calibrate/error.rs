//! Errors of calibration.

use std::path::PathBuf;

use super::RangeError;
use crate::points::FrameError;

/// Why calibration failed. Messages say what to do where that is not obvious.
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
    /// A file of raw values is invalid.
    #[error("{path}: {what}")]
    Raw {
        /// The file.
        path: PathBuf,
        /// The problem, with the lengths found and expected.
        what: String,
    },
    /// A file's values cannot be counted or have no amax.
    #[error("{path}: {source}")]
    Range {
        /// The file.
        path: PathBuf,
        /// The problem with the values.
        source: RangeError,
    },
    /// No frames.
    #[error("no frames to calibrate on; name a folder with at least one frame")]
    NoFrames,
    /// Invalid options.
    #[error("calibration: {0}")]
    Options(RangeError),
    /// A frame lacks a column that the model reads.
    #[error("{path}: {source}")]
    Columns {
        /// The frame.
        path: PathBuf,
        /// The missing column and the existing ones.
        source: Box<FrameError>,
    },
    /// The float network produces a NaN or an infinity.
    #[error(
        "tensor \"{tensor}\" is {value} in frame {frame} (channel {channel}, row {y}, column {x}); \
         only finite values can be quantised: remove the frame, or fix the network"
    )]
    NotFinite {
        /// The first such tensor in network order.
        tensor: String,
        /// The frame.
        frame: PathBuf,
        /// NaN or an infinity.
        value: f32,
        /// Channel of the value.
        channel: usize,
        /// Row of the value.
        y: usize,
        /// Column of the value.
        x: usize,
    },
    /// The calibration lacks a tensor.
    #[error(
        "the calibration has {tensors} tensors, but no \"{tensor}\"; it belongs to another network: \
         calibrate this one"
    )]
    NoTensor {
        /// The tensor.
        tensor: String,
        /// Number of tensors in the calibration.
        tensors: usize,
    },
    /// A tensor has no range.
    #[error("tensor \"{tensor}\": {source}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The reason.
        source: RangeError,
    },
    /// A file is not a calibration, or is inconsistent.
    #[error("{path}: invalid calibration: {what}; delete the file to calibrate again")]
    Broken {
        /// The file.
        path: PathBuf,
        /// The problem and its position.
        what: String,
    },
    /// A calibration was made from other inputs.
    #[error(
        "{path}: this calibration was made {changed}; delete the file to calibrate again, or name \
         another file"
    )]
    Stale {
        /// The file.
        path: PathBuf,
        /// The differences: "from another model", "from other frames", "with other options".
        changed: String,
    },
}
