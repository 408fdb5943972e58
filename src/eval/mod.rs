//! Detection metrics of nuScenes and T4, and the comparison of result files with labels.

mod curve;
pub(crate) mod frames;
mod matching;
pub(crate) mod nuscenes;
pub(crate) mod report;
pub(crate) mod t4;

/// Why files could not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A result or label file could not be read, or holds a box that cannot be scored.
    #[error(transparent)]
    Results(#[from] crate::results::ResultsError),
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
