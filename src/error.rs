//! The crate's error type: one variant per module that can fail, each with its own typed error.

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong, by the stage in which it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model description is missing, malformed or contradicts itself.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// A pillar feature network does not fit its model.
    #[error(transparent)]
    Pfn(#[from] crate::model::PfnError),
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
    Build(crate::build::BuildError),
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
    Bag(#[from] crate::bag::BagError),
    /// A result file could not be read or written.
    #[error(transparent)]
    Results(#[from] crate::results::ResultsError),
    /// A picture could not be drawn or written.
    #[error(transparent)]
    Draw(#[from] crate::draw::DrawError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
}

impl From<crate::synth::SynthError> for Error {
    fn from(error: crate::synth::SynthError) -> Self {
        match error {
            crate::synth::SynthError::Points(error) => Self::Frame(error),
            crate::synth::SynthError::File(error) => Self::File(error),
        }
    }
}

impl From<crate::detector::DetectorError> for Error {
    fn from(error: crate::detector::DetectorError) -> Self {
        use crate::detector::DetectorError;
        match error {
            DetectorError::Model(error) => Self::Model(error),
            DetectorError::Plan(error) => Self::Plan(error),
            DetectorError::Frame(error) => Self::Frame(error),
            DetectorError::Pfn(error) => Self::Pfn(error),
            DetectorError::Engine(error) => Self::Engine(error),
            DetectorError::TensorRt(error) => Self::TensorRt(error),
            DetectorError::Cuda(error) => Self::Cuda(error),
        }
    }
}

impl From<crate::cuda::StageError> for Error {
    fn from(error: crate::cuda::StageError) -> Self {
        crate::detector::DetectorError::from(error).into()
    }
}

impl From<crate::points::RecordError> for Error {
    fn from(error: crate::points::RecordError) -> Self {
        Self::Frame(error.into())
    }
}

impl From<crate::build::BuildError> for Error {
    fn from(error: crate::build::BuildError) -> Self {
        use crate::build::BuildError;
        match error {
            BuildError::Calibration(error) => Self::Calibration(error),
            BuildError::Sensitivity(error) => Self::Sensitivity(error),
            BuildError::Eval(error) => Self::Eval(error),
            BuildError::Results(error) => Self::Results(error),
            BuildError::Detector(error) => error.into(),
            BuildError::File(error) => Self::File(error),
            other => Self::Build(other),
        }
    }
}
