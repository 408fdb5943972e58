//! What the stages around an engine promise: [`Encoder`] and [`Decoder`], each once for the CPU and once for CUDA.
//!
//! ```text
//! points ─ Encoder ─ BEV map ─ engine ─ head maps ─ Decoder ─ boxes
//! ```
//!
//! A frame calls `load`, `encode`, the engine, `decode` for each task, `suppress`, and `finish` of both. On the CPU
//! each call computes; on a GPU it may only enqueue work, and `finish` waits for it.

use crate::boxes::Box3d;
use crate::detection::{Dropped, Times};
use crate::map::{HeadMaps, MapMut, MapRef};
use crate::points::{PointCloud, SweepBuffer};

/// The points of one frame.
#[derive(Clone, Copy)]
pub enum Points<'a> {
    /// One cloud: a single sweep, or several that were accumulated.
    Cloud(&'a PointCloud),
    /// The sweeps that [`SweepBuffer::accumulate`] takes.
    Sweeps(&'a SweepBuffer),
}

/// Points to the BEV map: voxelisation, pillar features, scatter. Allocates nothing after construction.
pub trait Encoder {
    /// Why a frame cannot be encoded.
    type Error;
    /// Takes the points of a frame, and may already compute whatever does not need the map.
    ///
    /// # Errors
    /// A column that the model needs is missing, or the device fails.
    fn load(&mut self, points: Points<'_>) -> Result<(), Self::Error>;
    /// Writes the BEV map of the points that were loaded. `map` is the same in every frame.
    ///
    /// # Errors
    /// The device fails, or cannot reach the map.
    fn encode(&mut self, map: MapMut<'_>) -> Result<(), Self::Error>;
    /// Waits for the encoded frame and reports what it lost and how long its stages took.
    ///
    /// # Errors
    /// The device fails.
    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), Self::Error>;
}

/// Head maps to boxes: decoding and non-maximum suppression. Allocates nothing after construction.
pub trait Decoder {
    /// Why head maps cannot be decoded.
    type Error;
    /// Takes the candidates of a task from its head maps. Tasks come in order; the first begins a frame.
    ///
    /// # Errors
    /// The device fails, or cannot reach a map.
    fn decode(&mut self, task: usize, maps: HeadMaps<MapRef<'_>>) -> Result<(), Self::Error>;
    /// Suppresses overlapping candidates of all tasks.
    ///
    /// # Errors
    /// The device fails.
    fn suppress(&mut self) -> Result<(), Self::Error>;
    /// Waits for the boxes and reports what the frame lost and how long the stages took.
    ///
    /// # Errors
    /// The device fails.
    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), Self::Error>;
    /// The boxes of the last finished frame, best first.
    fn boxes(&self) -> &[Box3d];
}
