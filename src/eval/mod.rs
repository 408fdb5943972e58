//! Detection metrics: nuScenes' and T4's, and the comparison of result files with labels.

pub mod nuscenes;
pub mod t4;

use std::path::PathBuf;

/// Why files could not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file could not be read.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}
