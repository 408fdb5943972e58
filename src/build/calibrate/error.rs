//! Why there is no calibration.

use std::path::PathBuf;

use super::RangeError;
use crate::points::FrameError;

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
    /// Nothing to calibrate on.
    #[error("no frames to calibrate on; give a folder with at least one")]
    NoFrames,
    /// The frames cannot be counted as asked for.
    #[error("calibration: {0}")]
    Options(RangeError),
    /// A frame has other columns than the model reads.
    #[error("{path}: {source}")]
    Columns {
        /// The frame.
        path: PathBuf,
        /// The column that is missing, and those that are there.
        source: Box<FrameError>,
    },
    /// The float network gives a NaN or an infinity.
    #[error(
        "tensor \"{tensor}\" is {value} in frame {frame} (channel {channel}, row {y}, column {x}); \
         only finite values can be quantised: leave the frame out, or correct the network"
    )]
    NotFinite {
        /// The first tensor in the network's order that has one.
        tensor: String,
        /// The frame.
        frame: PathBuf,
        /// NaN or an infinity.
        value: f32,
        /// Where in the tensor.
        channel: usize,
        /// Where in the tensor.
        y: usize,
        /// Where in the tensor.
        x: usize,
    },
    /// A tensor that the calibration does not know.
    #[error(
        "the calibration has {tensors} tensors, but no \"{tensor}\"; it was made for another network: \
         calibrate this one"
    )]
    NoTensor {
        /// The tensor.
        tensor: String,
        /// Number of those that are known.
        tensors: usize,
    },
    /// A tensor has no range.
    #[error("tensor \"{tensor}\": {source}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// Why not.
        source: RangeError,
    },
    /// A file holds no calibration, or one that contradicts itself.
    #[error("{path}: not a readable calibration: {what}; delete the file to calibrate anew")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        what: String,
    },
    /// A file holds a calibration of something else.
    #[error(
        "{path}: this calibration was made {changed}; delete the file to calibrate anew, or name \
         another one"
    )]
    Stale {
        /// The file.
        path: PathBuf,
        /// What is not the same: "from another model", "from other frames", "with other options".
        changed: String,
    },
}
