//! Errors from loading a plan or processing a frame.

use crate::cuda::{CudaError, StageError};
use crate::engine::EngineError;
use crate::engine::tensorrt::TensorRtError;
use crate::model::{ModelError, PfnError};
use crate::plan::PlanError;
use crate::points::FrameError;

/// Any detector error, by the layer that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectorError {
    /// The plan's model description is invalid.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The plan cannot be opened or used.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The points are unusable; the detector remains usable.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The pillar feature network does not match the model.
    #[error(transparent)]
    Pfn(#[from] PfnError),
    /// The engine refused its program, does not match the model, or failed.
    #[error(transparent)]
    Engine(EngineError),
    /// TensorRT is missing, or refused the engine.
    #[error(transparent)]
    TensorRt(#[from] TensorRtError),
    /// A GPU failed; load the detector again.
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
