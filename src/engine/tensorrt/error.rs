//! What can go wrong with TensorRT.

use std::fmt;
use std::path::PathBuf;

use super::Version;

/// Why an engine could not be built or loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorRtError {
    /// This program or this machine has no TensorRT that could be used.
    #[error("TensorRT is not available: {reason}")]
    Unavailable {
        /// Why not, and what to do.
        reason: String,
    },
    /// A library could not be opened, or is none of TensorRT's.
    #[error("{path}: {reason}")]
    Library {
        /// The library.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A library of a version that this program has no shim for.
    #[error(
        "{path}: this is {found}, but this program was built with the headers of {shims}; {advice}"
    )]
    Version {
        /// The library.
        path: PathBuf,
        /// What it is.
        found: Version,
        /// Versions of the headers, as a list for people.
        shims: String,
        /// What to do.
        advice: String,
    },
    /// TensorRT's parser does not take the network.
    #[error("{path}: TensorRT's ONNX parser refused {}", list(.errors))]
    Parse {
        /// The network's file.
        path: PathBuf,
        /// What it said, node by node.
        errors: Vec<ParserError>,
    },
    /// An option that this library, or this GPU, does not have.
    #[error("{library} does not take the option {option}: {advice}")]
    Option {
        /// The option, as on the command line.
        option: String,
        /// The library.
        library: Version,
        /// What to do.
        advice: String,
    },
    /// The engine could not be built.
    #[error("{path}: {library} could not build the engine: {reason}")]
    Build {
        /// The network's file.
        path: PathBuf,
        /// The library.
        library: Version,
        /// What it logged as errors.
        reason: String,
    },
    /// The library is not of the line that built the engine.
    #[error("{path}: the engine is for {wanted}, but the library is {library}: {advice}")]
    Mismatch {
        /// The plan.
        path: PathBuf,
        /// The library that built the engine.
        wanted: Version,
        /// The library that was opened.
        library: Version,
        /// What to do.
        advice: String,
    },
    /// The engine could not be loaded.
    #[error("{path}: {library} could not load the engine: {reason}")]
    Load {
        /// The plan.
        path: PathBuf,
        /// The library.
        library: Version,
        /// What it logged as errors, and what to do.
        reason: String,
    },
    /// An input or output is not what the model description says, or cannot be read by the kernels.
    #[error("{path}: tensor `{tensor}` of the engine: {problem}")]
    Binding {
        /// The plan.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong, with the values found and expected.
        problem: String,
    },
    /// The device's error on the way.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
}

/// What TensorRT's parser said of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParserError {
    /// Name of the node, or "" where the parser does not tell.
    pub node: String,
    /// Its operator, or "".
    pub operator: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for ParserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node.is_empty() {
            true => f.write_str(&self.what),
            false => write!(
                f,
                "node \"{}\" ({}): {}",
                self.node, self.operator, self.what
            ),
        }
    }
}

fn list(errors: &[ParserError]) -> String {
    match errors {
        [] => "the network without saying why".into(),
        errors => errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    }
}
