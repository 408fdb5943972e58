//! Why a program could not be made, read or run.

/// Why a program is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The payload contradicts itself or is cut short.
    #[error("engine payload: {what}; build the plan again with `cp-build compile`")]
    Payload {
        /// What is wrong, with the values found and expected.
        what: String,
    },
    /// A node of the network has an attribute or an input that cannot be.
    #[error(
        "node `{node}`: {field} must be {expected}, but is {found}; correct the network's export"
    )]
    Node {
        /// The node's name in the network.
        node: String,
        /// The attribute or input, such as `weight` or `stride`.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl ProgramError {
    /// A [`ProgramError::Payload`].
    pub(crate) fn payload(what: impl Into<String>) -> Self {
        Self::Payload { what: what.into() }
    }
}
