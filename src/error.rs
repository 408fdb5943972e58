//! The crate's error type: one variant per module that can fail, each with its own typed error.

use std::path::{Path, PathBuf};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong, by the stage in which it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model description is missing, malformed or contradicts itself.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// A point cloud or a sweep list could not be read.
    #[error(transparent)]
    Frame(#[from] crate::points::FrameError),
    /// A plan file could not be opened, or does not fit.
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    /// An engine refused its payload or failed to run.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// TensorRT refused an engine, or is not there.
    #[error(transparent)]
    TensorRt(#[from] crate::engine::tensorrt::TensorRtError),
    /// A stage on a GPU failed.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
    /// An offline step failed.
    #[error(transparent)]
    Build(#[from] crate::build::BuildError),
    /// The sensitivity of a network's layers could not be measured.
    #[error(transparent)]
    Sensitivity(#[from] crate::build::sensitivity::SensitivityError),
    /// Ranges could not be found, or a calibration does not fit.
    #[error(transparent)]
    Calibration(#[from] crate::build::calibrate::CalibrationError),
    /// Result or label files could not be scored.
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    /// A bag, or a frame of it, could not be read.
    #[cfg(feature = "mcap")]
    #[error(transparent)]
    Bag(#[from] crate::ros::bag::BagError),
    /// A result file could not be read or written.
    #[error(transparent)]
    Results(#[from] crate::results::ResultsError),
    /// A picture could not be drawn or written.
    #[error(transparent)]
    Draw(#[from] crate::draw::DrawError),
    /// A file could not be written.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as a verb: "write", "create".
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`; made for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io {
            path,
            action,
            source,
        }
    }
}
