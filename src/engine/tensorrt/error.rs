//! TensorRT errors.

use std::fmt;
use std::path::PathBuf;

use super::Version;

/// An error from building or loading an engine.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorRtError {
    /// This program or machine has no usable TensorRT.
    #[error("TensorRT is not available: {reason}")]
    Unavailable {
        /// The reason, and what to do.
        reason: String,
    },
    /// A library could not be opened, or is not TensorRT's.
    #[error("{path}: {reason}")]
    Library {
        /// The library.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// This program has no shim for the library's version.
    #[error(
        "{path}: this is {found}, but this program was built with the headers of {shims}; {advice}"
    )]
    Version {
        /// The library.
        path: PathBuf,
        /// The library's version.
        found: Version,
        /// Versions of the headers, as a list for users.
        shims: String,
        /// What to do.
        advice: String,
    },
    /// TensorRT's parser refused the network.
    #[error("{path}: TensorRT's ONNX parser refused {}", list(.errors))]
    Parse {
        /// The network's file.
        path: PathBuf,
        /// The parser's errors, node by node.
        errors: Vec<ParserError>,
    },
    /// The library or the GPU does not support an option.
    #[error("{library} does not support the option {option}: {advice}")]
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
        /// The errors that it logged.
        reason: String,
    },
    /// The library belongs to another family or major version than the engine.
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
        /// The errors that it logged, and what to do.
        reason: String,
    },
    /// An input or output differs from the model description, or the kernels cannot read it.
    #[error("{path}: tensor `{tensor}` of the engine: {problem}")]
    Binding {
        /// The plan.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong, with the values found and expected.
        problem: String,
    },
    /// The device failed.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
}

/// An error of TensorRT's parser about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParserError {
    /// Name of the node, or "" if unknown.
    pub node: String,
    /// Its operator, or "" if unknown.
    pub operator: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for ParserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node.is_empty() {
            return f.write_str(&self.what);
        }
        write!(
            f,
            "node \"{}\" ({}): {}",
            self.node, self.operator, self.what
        )
    }
}

fn list(errors: &[ParserError]) -> String {
    match errors {
        [] => "the network without giving a reason".into(),
        errors => errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    }
}
