//! Why a plan cannot be loaded, or a frame not be processed.

use crate::cuda::{CudaError, StageError};
use crate::engine::EngineError;
use crate::engine::tensorrt::TensorRtError;
use crate::model::{ModelError, PfnError};
use crate::plan::PlanError;
use crate::points::FrameError;

/// Anything that goes wrong in a detector, by the layer in which it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectorError {
    /// The plan's model description is invalid.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The plan cannot be opened, or does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The points cannot be used; the detector stays usable.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The pillar feature network does not fit the model.
    #[error(transparent)]
    Pfn(#[from] PfnError),
    /// The engine refused its program, does not fit the model, or failed.
    #[error(transparent)]
    Engine(EngineError),
    /// TensorRT is missing or refused an engine.
    #[error(transparent)]
    TensorRt(#[from] TensorRtError),
    /// A GPU failed; the detector must be loaded anew.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl From<EngineError> for DetectorError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Cuda(error) => Self::Cuda(error),
            other => Self::Engine(other),
        }
    }
}

impl From<StageError> for DetectorError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Points(error) => Self::Frame(error),
            StageError::Cuda(error) => Self::Cuda(error),
            StageError::Location => Self::Engine(EngineError::Mismatch {
                what: error.to_string(),
            }),
        }
    }
}
