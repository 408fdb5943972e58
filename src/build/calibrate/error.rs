//! Errors of calibration.

use std::path::PathBuf;

use super::RangeError;
use crate::points::FrameError;

/// Why calibration failed. Messages say what to do where that is not obvious.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// A file could not be read.
    #[error("{path}: cannot read")]
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
    #[error("{path}: no range")]
    Range {
        /// The file.
        path: PathBuf,
        /// The problem with the values.
        source: RangeError,
    },
    /// No frames.
    #[error("no frames to calibrate on; name a folder with at least one frame")]
    NoFrames,
    /// A frame to train on has no labels.
    #[error(
        "{path}: the labels have no sample \"{sample}\"; name the labels of these frames with --labels"
    )]
    NoLabels {
        /// The frame.
        path: PathBuf,
        /// Its name in the labels.
        sample: String,
    },
    /// Too few frames.
    #[error(
        "{found} frames to calibrate on; ranges that hold for other frames need at least {fewest}: name more, or accept the \
         ranges with --allow-low-sqnr"
    )]
    FewFrames {
        /// Number of frames.
        found: usize,
        /// Smallest number.
        fewest: usize,
    },
    /// Frames with different columns.
    #[error(
        "{first} has the columns {columns}, and {other} {other_columns}: the frames differ; calibrate on frames of one kind, \
         or accept the ranges with --allow-low-sqnr"
    )]
    MixedColumns {
        /// A frame.
        first: PathBuf,
        /// Its columns that the model reads.
        columns: String,
        /// Another frame.
        other: PathBuf,
        /// Its columns that the model reads.
        other_columns: String,
    },
    /// Frames with different scales of intensity.
    #[error(
        "the intensities of {low} reach {low_most}, those of {high} {high_most}: the frames have different scales; calibrate \
         on frames of one scale, or accept the ranges with --allow-low-sqnr"
    )]
    MixedIntensity {
        /// The first frame of the small scale.
        low: PathBuf,
        /// Its largest intensity.
        low_most: f32,
        /// The first frame of the large scale.
        high: PathBuf,
        /// Its largest intensity.
        high_most: f32,
    },
    /// The quantised network's error is too large.
    #[error(
        "the INT8 network has an SQNR of {found:.1} dB on {frames} frames, below {least:.0} dB: it finds other boxes than the \
         float network. Look at the frames (--strict) and at the layers (`cp-build sensitivity`), or accept the plan with \
         --allow-low-sqnr"
    )]
    LowSqnr {
        /// The SQNR, in dB.
        found: f64,
        /// Frames that it was measured on.
        frames: usize,
        /// Smallest SQNR, in dB.
        least: f64,
    },
    /// Invalid options.
    #[error("calibration: {0}")]
    Options(RangeError),
    /// A frame lacks a column that the model reads.
    #[error("{path}: the frame lacks what the model reads")]
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
    #[error("tensor \"{tensor}\": no range")]
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
