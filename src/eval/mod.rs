//! Detection metrics of nuScenes and T4, and the comparison of result files with labels.

mod curve;
pub mod frames;
mod matching;
pub mod nuscenes;
pub mod report;
pub mod t4;

use std::path::PathBuf;

/// Why files could not be scored. Messages include the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file could not be read.
    #[error("{path}: cannot read: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        reason: std::io::Error,
    },
    /// A file is too large for a result file.
    #[error(
        "{path}: {bytes} bytes, expected at most {limit}: split the samples into several files"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The maximum size.
        limit: u64,
    },
    /// A file is not a result file in the sense of nuscenes-devkit.
    #[error("{path}: not a nuScenes result file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The position (sample, box, key, line, column) and the expected content.
        reason: serde_json::Error,
    },
    /// A box cannot be scored or written.
    #[error("sample `{sample}`, box {index}: {reason}")]
    BadBox {
        /// The sample's token.
        sample: String,
        /// The box's index among the sample's boxes.
        index: usize,
        /// The values found and expected.
        reason: String,
    },
    /// Predictions and labels have different samples.
    #[error(
        "predictions and labels have different samples: {}",
        mismatch(missing, unexpected)
    )]
    Samples {
        /// Tokens that only the labels have.
        missing: Vec<String>,
        /// Tokens that only the predictions have.
        unexpected: Vec<String>,
    },
    /// A sample has more predictions than the metric allows.
    #[error(
        "sample `{sample}` has {boxes} predictions, the metric allows {limit}: keep the best {limit}"
    )]
    TooManyBoxes {
        /// The sample's token.
        sample: String,
        /// Its number of predictions.
        boxes: usize,
        /// The number allowed.
        limit: usize,
    },
    /// A metric's settings are inconsistent.
    #[error("metric settings: {0}")]
    Config(String),
}

/// Maximum number of tokens of each side that [`EvalError::Samples`] lists.
const SHOWN_TOKENS: usize = 3;

/// "2 only in the labels (a, b), 5 only in the predictions (c, d, e, …)".
fn mismatch(missing: &[String], unexpected: &[String]) -> String {
    let side = |tokens: &[String], name: &str| {
        let shown: Vec<_> = tokens
            .iter()
            .take(SHOWN_TOKENS)
            .map(String::as_str)
            .collect();
        let more = if tokens.len() > shown.len() {
            ", …"
        } else {
            ""
        };
        format!(
            "{} only in the {name} ({}{more})",
            tokens.len(),
            shown.join(", ")
        )
    };
    let sides = [
        (!missing.is_empty()).then(|| side(missing, "labels")),
        (!unexpected.is_empty()).then(|| side(unexpected, "predictions")),
    ];
    sides.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
