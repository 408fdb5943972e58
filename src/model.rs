//! What a model is: grid, columns, PFN, heads, conventions, thresholds.

/// Stub.
pub struct Model;

/// Why a model description was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {}
