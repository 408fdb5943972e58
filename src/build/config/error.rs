//! Errors of a configuration.

use std::path::PathBuf;

/// Why a configuration is invalid.
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
    /// Invalid TOML, an unknown key, or a value of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The problem and its position.
        message: String,
    },
    /// A value out of range.
    #[error("{origin}: `{key}` is {found}, expected {expected}")]
    Value {
        /// The file, or `command line`.
        origin: String,
        /// Dotted key.
        key: &'static str,
        /// The value.
        found: String,
        /// The valid values.
        expected: &'static str,
    },
    /// A key fixed by the recipe has another value.
    #[error(
        "{origin}: the recipe `nvidia` requires `{key}` = {fixed}, not {found}; remove the key, or \
         use `--recipe custom`"
    )]
    Fixed {
        /// The file, or `command line`.
        origin: String,
        /// Dotted key.
        key: String,
        /// The recipe's value.
        fixed: String,
        /// The configured value.
        found: String,
    },
}
