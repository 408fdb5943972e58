//! Engines run the backbone-neck-head network: a BEV map in, head maps out.
//!
//! Batch is always 1. Maps are f32 behind [`MapView`] (the input may also be 8-bit codes, see
//! [`MapDataMut`]), which carries strides, so that an engine may keep its own layout (NHWC with a border, NCHW, a channel slice of a larger tensor) and the stages
//! before and after it read and write in place.

pub mod cpu;
pub mod tensorrt;

use crate::map::{MapDesc, MapView, MapViewMut};
use crate::program::ProgramError;

/// A loaded network with its buffers.
///
/// One frame is: write [`Engine::input_mut`] (its content persists from frame to frame; the engine
/// never writes it), call [`Engine::run`], read [`Engine::output`].
pub trait Engine: Send {
    /// The network's input.
    fn input(&self) -> &MapDesc;
    /// The network's outputs, in the network's order.
    fn outputs(&self) -> &[MapDesc];
    /// The input map, to be filled. Only its elements may be written: what lies between them, such
    /// as a border, is the engine's.
    fn input_mut(&mut self) -> MapViewMut<'_>;
    /// Runs the network on the input. Allocates nothing.
    fn run(&mut self) -> Result<(), EngineError>;
    /// Output `index` of [`Engine::outputs`], valid until the next [`Engine::run`].
    fn output(&self, index: usize) -> Option<MapView<'_>>;
    /// Runs the network on the same input once more, which gives the same outputs; the time of each layer,
    /// in the order in which they ran.
    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError>;
}

/// How long a layer of a network took.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    /// Its name in the engine: that of the network's node, or of several that became one.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

/// Why an engine could not be built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The program or its weights are invalid.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The network's feature maps are larger than an engine holds.
    #[error(
        "feature maps need {bytes} bytes, the limit is {limit}; use a smaller grid or fewer channels"
    )]
    Memory {
        /// Bytes needed.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The asked-for device cannot be used on this machine.
    #[error("device {device} is not available: {reason}")]
    Device {
        /// What was asked for, such as `cuda`.
        device: String,
        /// Why not, and what to do.
        reason: String,
    },
}
