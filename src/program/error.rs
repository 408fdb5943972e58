//! Errors from building, reading and validating a program.

/// An error in a program or its network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The payload is inconsistent or truncated.
    #[error("engine payload: {what}; build the plan again with `cp-build compile`")]
    Payload {
        /// What is wrong, with the values found and expected.
        what: String,
    },
    /// A node of the network has an invalid attribute or input.
    #[error("node `{node}`: {field} is {found}, expected {expected}; correct the network's export")]
    Node {
        /// The node's name in the network.
        node: String,
        /// The attribute or input, such as `weight` or `stride`.
        field: &'static str,
        /// The valid values.
        expected: String,
        /// The value found.
        found: String,
    },
}

impl ProgramError {
    /// A [`ProgramError::Payload`].
    pub(crate) fn payload(what: impl Into<String>) -> Self {
        Self::Payload { what: what.into() }
    }
}
