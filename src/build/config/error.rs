//! Why a configuration cannot be used.

use std::path::PathBuf;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: cannot read the configuration: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// No TOML, an unknown key, or a value of another type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A value that cannot be.
    #[error("{origin}: `{key}` is {found}, expected {expected}")]
    Value {
        /// The file, or `command line`.
        origin: String,
        /// Dotted key.
        key: &'static str,
        /// The value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A key that the recipe fixes.
    #[error(
        "{origin}: the recipe `nvidia` has `{key}` = {fixed}, not {found}; leave the key out, or \
         use `--recipe custom`"
    )]
    Fixed {
        /// The file, or `command line`.
        origin: String,
        /// Dotted key.
        key: String,
        /// The recipe's value.
        fixed: String,
        /// The value that was given.
        found: String,
    },
}
