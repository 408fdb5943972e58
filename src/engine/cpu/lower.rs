//! From a checked network to the payload.

use super::builder::ProgramBuilder;
use super::program::Payload;
use crate::engine::EngineError;

/// Fuses, plans the slices and packs the weights.
pub(super) fn lower(_network: ProgramBuilder) -> Result<Payload, EngineError> {
    Err(EngineError::Payload {
        what: "not built yet".to_owned(),
    })
}
