//! Interfaces of the stages around an engine: [`Encoder`] and [`Decoder`], each implemented for the CPU and for CUDA.
//!
//! ```text
//! points ─ Encoder ─ BEV map ─ engine ─ head maps ─ Decoder ─ boxes
//! ```
//!
//! A frame calls `load`, `encode`, the engine, `decode` for each task, `suppress`, and `finish` of both. On the CPU each
//! call computes. On a GPU it may only enqueue work, and `finish` waits for it.

use crate::boxes::Box3d;
use crate::detection::{Dropped, Times};
use crate::map::{HeadMaps, MapMut, MapRef};
use crate::points::{PointCloud, SweepBuffer};

/// The points of one frame.
#[derive(Clone, Copy)]
pub enum Points<'a> {
    /// One cloud: a single sweep, or several accumulated ones.
    Cloud(&'a PointCloud),
    /// The sweeps that [`SweepBuffer::accumulate`] would combine.
    Sweeps(&'a SweepBuffer),
}

/// Converts points to the BEV map: voxelisation, pillar features, scatter. Allocates nothing after construction.
pub trait Encoder {
    /// An encoding error.
    type Error;
    /// Loads the points of a frame. May already compute everything that does not need the map.
    ///
    /// # Errors
    /// A column that the model needs is missing, or the device fails.
    fn load(&mut self, points: Points<'_>) -> Result<(), Self::Error>;
    /// Writes the BEV map of the loaded points. `map` is the same in every frame.
    ///
    /// # Errors
    /// The device fails, or cannot access the map.
    fn encode(&mut self, map: MapMut<'_>) -> Result<(), Self::Error>;
    /// Waits for the encoded frame, and reports its losses and stage times.
    ///
    /// # Errors
    /// The device fails.
    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), Self::Error>;
}

/// Converts head maps to boxes: decoding and non-maximum suppression. Allocates nothing after construction.
pub trait Decoder {
    /// A decoding error.
    type Error;
    /// Collects a task's candidates from its head maps. Tasks come in order; the first one starts a frame.
    ///
    /// # Errors
    /// The device fails, or cannot access a map.
    fn decode(&mut self, task: usize, maps: HeadMaps<MapRef<'_>>) -> Result<(), Self::Error>;
    /// Suppresses overlapping candidates of all tasks.
    ///
    /// # Errors
    /// The device fails.
    fn suppress(&mut self) -> Result<(), Self::Error>;
    /// Waits for the boxes, and reports losses and stage times.
    ///
    /// # Errors
    /// The device fails.
    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), Self::Error>;
    /// The boxes of the last finished frame, best first.
    fn boxes(&self) -> &[Box3d];
}
