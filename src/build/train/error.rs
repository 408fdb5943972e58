//! Errors of trainings.

use std::path::PathBuf;

/// Why a network cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// Gradients are not finite, step after step.
    #[error(
        "{path}: the training diverged: the gradient of \"{tensor}\" is not finite in {steps} steps in a row; lower the rate"
    )]
    Gradients {
        /// The network's file.
        path: PathBuf,
        /// The first tensor with such a gradient.
        tensor: String,
        /// Number of steps.
        steps: u32,
    },
    /// A network lacks an output.
    #[error("{path}: the network has no output \"{output}\"; its outputs are {found}")]
    Output {
        /// The network's file.
        path: PathBuf,
        /// Name of the output.
        output: String,
        /// The outputs that it has.
        found: String,
    },
    /// The heads have no features in common.
    #[error(
        "{path}: `qat.feature_weight` needs a map that all heads read, and {what}; set it to 0"
    )]
    Features {
        /// The network's file.
        path: PathBuf,
        /// What there is instead.
        what: String,
    },
    /// Labels do not train variances.
    #[error(
        "{path}: the heads have variances (`head.variance`), which the losses of labels do not train; use --loss distil, or \
         leave --labels out"
    )]
    Variances {
        /// The network's file.
        path: PathBuf,
    },
}
