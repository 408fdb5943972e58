//! The offline side: from ONNX files to the contents of a plan.
//!
//! ```text
//! pts_voxel_encoder.onnx ────── import::read_pfe ─── Pfn (weights of a runtime stage)
//! pts_backbone_neck_head.onnx ─ import::read_rpn ─ fuse, deconv ─ graph
//! X.pth ─────────────────────── checkpoint ─ both of these networks
//!
//! graph ──────────────────────── compile::cpu ─ engine payload, FP32
//! graph ─ calibrate ─ quantize ─ compile::cpu ─ engine payload, INT8
//! graph ─ calibrate ─ quantize ─ half ───────── FP16 + Q/DQ for TensorRT
//! graph ─ calibrate ─ quantize ─ export ─────── model folder, FP32 + Q/DQ
//! ```
//!
//! Every step is a pure function of its inputs: the same files produce the same bytes.

mod affine;
mod bias;
pub(crate) mod calibrate;
pub(crate) mod checkpoint;
pub(crate) mod compile;
pub(crate) mod config;
pub(crate) mod deconv;
pub(crate) mod engine_layers;
pub(crate) mod equalize;
pub(crate) mod export;
pub(crate) mod folder;
mod foreign;
pub(crate) mod fuse;
mod globs;
pub(crate) mod half;
pub(crate) mod hash;
pub(crate) mod import;
pub(crate) mod lower;
pub(crate) mod new_model;
pub(crate) mod onnx;
pub(crate) mod pack;
pub(crate) mod quantize;
pub(crate) mod recipe;
mod rounding;
mod runner;
pub(crate) mod sensitivity;
pub(crate) mod simplify;
pub(crate) mod sqnr;
pub(crate) mod status;
#[cfg(test)]
mod testing;
pub(crate) mod train;
pub(crate) mod trtexec;

use std::path::{Path, PathBuf};

pub use config::ConfigOverrides;
pub use folder::{Folder, Network, Sources, import};
pub use recipe::{Job, Outcome, Progress, TrainingFiles, quantize};

use calibrate::CalibrationError;
use checkpoint::CheckpointError;
use sensitivity::SensitivityError;
use train::TrainingError;

use crate::cuda::{CudaError, StageError};
use crate::detector::DetectorError;
use crate::engine::EngineError;
use crate::engine::tensorrt::TensorRtError;
use crate::eval::EvalError;
use crate::files::FileError;
use crate::model::{ModelError, PfnError};
use crate::plan::PlanError;
use crate::points::FrameError;
use crate::results::ResultsError;

/// Why an offline step failed. Each variant names the file concerned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A file could not be read.
    #[error("{path}: cannot read")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is longer than the format allows.
    #[error(
        "{path}: {bytes} bytes, but an ONNX file has at most {limit}; save its weights as external data"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The maximum length.
        limit: u64,
    },
    /// The bytes are not an ONNX message.
    #[error("{path}: not a readable ONNX file: {what}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// The problem and its position.
        what: String,
    },
    /// The graph as a whole is inconsistent or unsupported.
    #[error("{path}: {what}")]
    Graph {
        /// The file.
        path: PathBuf,
        /// The problem, with the names concerned.
        what: String,
    },
    /// A node is malformed or has an unsupported form.
    #[error("{path}: node {node}: {what}")]
    Node {
        /// The file.
        path: PathBuf,
        /// Name and operator, such as `"/conv/Conv" (Conv)`.
        node: String,
        /// The problem, with the values found and expected.
        what: String,
    },
    /// A tensor is malformed or has an unsupported element type.
    #[error("{path}: tensor \"{tensor}\": {what}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The problem, with the values found and expected.
        what: String,
    },
    /// The external data of a tensor cannot be read.
    #[error(
        "{path}: tensor \"{tensor}\": cannot read its data in {file}; copy all files of the export into one folder"
    )]
    ExternalData {
        /// The network's file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The file that holds the tensor's data.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A node's operator is not supported.
    #[error(
        "{path}: node {node}: unsupported operator; {advice}; supported operators are {supported}"
    )]
    Operator {
        /// The file.
        path: PathBuf,
        /// Name and operator, such as `"/Resize" (Resize)`.
        node: String,
        /// What to do.
        advice: &'static str,
        /// The supported operators.
        supported: String,
    },
    /// The PFN does not match the model description.
    #[error("{path}: the PFN does not fit the model description")]
    Pfn {
        /// The file.
        path: PathBuf,
        /// The mismatch.
        source: PfnError,
    },
    /// The result would replace an existing model.
    #[error("{path}: already exists; use another name or folder, or `--force` to replace it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The files of a model folder do not belong together, or its manifest cannot be read.
    #[error("{path}: {what}")]
    Folder {
        /// The file.
        path: PathBuf,
        /// The problem, and what to do.
        what: String,
    },
    /// A file is not a TensorRT engine.
    #[error("{path}: not a TensorRT engine: {what}")]
    NotAnEngine {
        /// The file.
        path: PathBuf,
        /// What the file contains, and what to do.
        what: String,
    },
    /// A configuration is invalid.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// A calibration lacks ranges of tensors to quantise.
    #[error(
        "{path}: the calibration has no range for {missing} of {needed} tensors: {tensors}; it \
         belongs to another network: calibrate this one"
    )]
    NoRange {
        /// The network's file.
        path: PathBuf,
        /// Number of tensors without a range.
        missing: usize,
        /// Number of tensors that need a range.
        needed: usize,
        /// The first tensors without a range.
        tensors: String,
    },
    /// A calibrated range is invalid.
    #[error(
        "{path}: the range of tensor \"{tensor}\" is {amax}, expected a finite number of at least 0; \
         calibrate again, on frames with finite values"
    )]
    BadRange {
        /// The network's file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The calibrated range.
        amax: f32,
    },
    /// The calibration failed, or does not fit.
    #[error(transparent)]
    Calibration(Box<CalibrationError>),
    /// A PyTorch checkpoint cannot be imported.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// The sensitivity of a network's layers could not be measured.
    #[error(transparent)]
    Sensitivity(Box<SensitivityError>),
    /// A network could not be trained.
    #[error(transparent)]
    Training(Box<TrainingError>),
    /// Results could not be scored.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A result or label file could not be read or written.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// A plan or a frame could not be run.
    #[error(transparent)]
    Detector(Box<DetectorError>),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine rejected the network.
    #[error("{path}: the network cannot run")]
    Engine {
        /// The file.
        path: PathBuf,
        /// The engine's reason.
        source: EngineError,
    },
}

/// Result of the offline steps.
pub(crate) type Result<T, E = BuildError> = std::result::Result<T, E>;

impl From<CalibrationError> for BuildError {
    fn from(error: CalibrationError) -> Self {
        Self::Calibration(Box::new(error))
    }
}

impl From<CheckpointError> for BuildError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}

impl From<SensitivityError> for BuildError {
    fn from(error: SensitivityError) -> Self {
        Self::Sensitivity(Box::new(error))
    }
}

impl From<TrainingError> for BuildError {
    fn from(error: TrainingError) -> Self {
        Self::Training(Box::new(error))
    }
}

/// Everything that can go wrong in a detector can go wrong where a build runs one.
macro_rules! from_detector {
    ($($error:ty),*) => {
        $(impl From<$error> for BuildError {
            fn from(error: $error) -> Self {
                Self::Detector(Box::new(error.into()))
            }
        })*
    };
}

from_detector!(
    CudaError,
    DetectorError,
    EngineError,
    FrameError,
    ModelError,
    PlanError,
    StageError,
    TensorRtError
);

impl BuildError {
    /// A [`BuildError::Io`] about `path`, for `map_err`.
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self + Copy {
        |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    /// A [`BuildError::Graph`] about `path`.
    pub(crate) fn graph(path: &Path, what: impl Into<String>) -> Self {
        Self::Graph {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }
}
