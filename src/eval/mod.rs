//! Detection metrics: nuScenes' and T4's, and the comparison of result files with labels.

mod curve;
pub mod frames;
mod matching;
pub mod nuscenes;
pub mod report;
pub mod t4;

use std::path::PathBuf;

/// Why files could not be scored. The message says everything, causes included.
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
    /// A file is larger than any sensible result file.
    #[error(
        "{path}: {bytes} bytes, at most {limit} are read: split the samples over several files"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// A file is not what nuscenes-devkit calls a result file.
    #[error("{path}: not a nuScenes result file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The place (sample, box, key, line, column) and what was expected there.
        reason: serde_json::Error,
    },
    /// A box cannot be scored or written.
    #[error("sample `{sample}`, box {index}: {reason}")]
    BadBox {
        /// The sample's token.
        sample: String,
        /// The box's index among the sample's boxes.
        index: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// Predictions and labels are of different samples.
    #[error(
        "predictions and labels are not of the same samples: {}",
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
        /// How many predictions it has.
        boxes: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A metric's settings contradict themselves.
    #[error("metric settings: {0}")]
    Config(String),
}

/// How many tokens of each side an [`EvalError::Samples`] shows.
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
