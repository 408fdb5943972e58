//! The umbrella over the errors of all layers, named only by programs and bindings.

use crate::files::FileError;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of this crate, by the module that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model description is missing, malformed or inconsistent.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// A pillar feature network does not match its model.
    #[error(transparent)]
    Pfn(#[from] crate::model::PfnError),
    /// A point cloud or a sweep list could not be read.
    #[error(transparent)]
    Frame(#[from] crate::points::FrameError),
    /// A plan file could not be opened or used.
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    /// An engine refused its payload or failed to run.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// TensorRT is missing, or refused an engine.
    #[error(transparent)]
    TensorRt(#[from] crate::engine::tensorrt::TensorRtError),
    /// A GPU stage failed.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
    /// An offline step failed.
    #[cfg(feature = "build")]
    #[error(transparent)]
    Build(crate::build::BuildError),
    /// A network's layer sensitivity could not be measured.
    #[cfg(feature = "build")]
    #[error(transparent)]
    Sensitivity(#[from] crate::build::sensitivity::SensitivityError),
    /// Ranges could not be determined, or a calibration does not match.
    #[cfg(feature = "build")]
    #[error(transparent)]
    Calibration(#[from] crate::build::calibrate::CalibrationError),
    /// Result or label files could not be scored.
    #[cfg(any(feature = "cli", feature = "build"))]
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    /// A bag or one of its frames could not be read.
    #[cfg(feature = "mcap")]
    #[error(transparent)]
    Bag(#[from] crate::bag::BagError),
    /// A result file could not be read or written.
    #[error(transparent)]
    Results(#[from] crate::results::ResultsError),
    /// A picture could not be drawn or written.
    #[cfg(feature = "cli")]
    #[error(transparent)]
    Draw(#[from] crate::draw::DrawError),
    /// Results could not be scored against labels.
    #[cfg(any(feature = "cli", feature = "build"))]
    #[error("cannot score {predictions} against {labels}")]
    Score {
        /// Name of the predictions.
        predictions: String,
        /// Name of the labels.
        labels: String,
        /// The reason.
        source: Box<crate::eval::EvalError>,
    },
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

#[cfg(any(feature = "cli", feature = "build"))]
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

#[cfg(feature = "build")]
impl From<crate::build::BuildError> for Error {
    fn from(error: crate::build::BuildError) -> Self {
        use crate::build::BuildError;
        match error {
            BuildError::Calibration(error) => Self::Calibration(*error),
            BuildError::Sensitivity(error) => Self::Sensitivity(*error),
            BuildError::Eval(error) => Self::Eval(error),
            BuildError::Results(error) => Self::Results(error),
            BuildError::Detector(error) => (*error).into(),
            BuildError::File(error) => Self::File(error),
            other => Self::Build(other),
        }
    }
}

#[cfg(feature = "build")]
impl From<crate::build::config::ConfigError> for Error {
    fn from(error: crate::build::config::ConfigError) -> Self {
        Self::Build(error.into())
    }
}

/// Formatting into text fails only where its reader does.
#[cfg(feature = "build")]
impl From<std::fmt::Error> for Error {
    fn from(error: std::fmt::Error) -> Self {
        let output = std::path::Path::new("standard output");
        Self::File(FileError::new(output, "write")(std::io::Error::other(
            error,
        )))
    }
}

impl From<crate::program::ProgramError> for Error {
    fn from(error: crate::program::ProgramError) -> Self {
        Self::Engine(error.into())
    }
}
