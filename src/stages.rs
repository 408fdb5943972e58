//! The stages around an engine, [`Encoder`] and [`Decoder`], each implemented for the CPU and for CUDA.
//!
//! ```text
//! points ─ Encoder ─ BEV map ─ engine ─ head maps ─ Decoder ─ boxes
//! ```
//!
//! A frame calls `load`, `encode`, the engine, `decode` for each task, `suppress`, and `finish` of both. On the CPU each
//! call computes. On a GPU it may only enqueue work, and `finish` waits for it.

use crate::cpu;
use crate::cuda::{self, StageError};
use crate::detection::{Dropped, Times};
use crate::engine::{MapMut, MapRef};
use crate::map::HeadMaps;
use crate::points::{Layout, PointCloud, SweepBuffer, Transform};

/// The points of one frame.
#[derive(Clone, Copy)]
pub(crate) enum Points<'a> {
    /// One cloud: a single sweep, or several accumulated ones.
    Cloud(&'a PointCloud),
    /// The sweeps that [`SweepBuffer::accumulate`] would combine.
    Sweeps(&'a SweepBuffer),
}

impl Points<'_> {
    /// The newest sweep, or all of them where they were accumulated before.
    pub(crate) fn newest(&self) -> (&[f32], Layout) {
        match self {
            Self::Cloud(cloud) => (cloud.data(), cloud.layout()),
            Self::Sweeps(sweeps) => (sweeps.newest(), sweeps.layout()),
        }
    }
}

/// Converts points to the BEV map: voxelisation, pillar features, scatter. Allocates nothing after construction.
pub(crate) trait Encoder {
    /// Loads the points of a frame, and moves them by `place` into the model's frame of reference. May already compute everything that does not need the map.
    ///
    /// # Errors
    /// A column that the model needs is missing, or the device fails.
    fn load(&mut self, points: Points<'_>, place: Option<&Transform>) -> Result<(), StageError>;
    /// Writes the BEV map of the loaded points. `map` is the same in every frame.
    ///
    /// # Errors
    /// The device fails, or cannot access the map.
    fn encode(&mut self, map: MapMut<'_>) -> Result<(), StageError>;
    /// Waits for the encoded frame, and reports its losses and stage times.
    ///
    /// # Errors
    /// The device fails.
    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError>;
}

/// Converts head maps to boxes: decoding and non-maximum suppression. Allocates nothing after construction.
pub(crate) trait Decoder {
    /// Collects a task's candidates from its head maps. Tasks come in order; the first one starts a frame.
    ///
    /// # Errors
    /// The device fails, or cannot access a map.
    fn decode(&mut self, task: usize, maps: HeadMaps<MapRef<'_>>) -> Result<(), StageError>;
    /// Suppresses overlapping candidates of all tasks.
    ///
    /// # Errors
    /// The device fails.
    fn suppress(&mut self) -> Result<(), StageError>;
    /// Waits for the boxes, and reports losses and stage times.
    ///
    /// # Errors
    /// The device fails.
    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError>;
}

impl Encoder for cpu::Encoder {
    fn load(&mut self, points: Points<'_>, place: Option<&Transform>) -> Result<(), StageError> {
        Ok(match points {
            Points::Cloud(cloud) => cpu::Encoder::load(self, cloud, place),
            Points::Sweeps(sweeps) => cpu::Encoder::load_sweeps(self, sweeps, place),
        }?)
    }

    fn encode(&mut self, map: MapMut<'_>) -> Result<(), StageError> {
        cpu::Encoder::encode(self, map.host().ok_or(StageError::Location)?);
        Ok(())
    }

    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError> {
        cpu::Encoder::finish(self, dropped, times);
        Ok(())
    }
}

impl Decoder for cpu::Decoder {
    fn decode(&mut self, task: usize, maps: HeadMaps<MapRef<'_>>) -> Result<(), StageError> {
        let maps = maps.try_map(|map| map.host().ok_or(StageError::Location))?;
        cpu::Decoder::decode(self, task, &maps);
        Ok(())
    }

    fn suppress(&mut self) -> Result<(), StageError> {
        cpu::Decoder::suppress(self);
        Ok(())
    }

    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError> {
        cpu::Decoder::finish(self, dropped, times);
        Ok(())
    }
}

impl Encoder for cuda::Encoder {
    fn load(&mut self, points: Points<'_>, place: Option<&Transform>) -> Result<(), StageError> {
        match points {
            Points::Cloud(cloud) => cuda::Encoder::load(self, cloud, place),
            Points::Sweeps(sweeps) => cuda::Encoder::load_sweeps(self, sweeps, place),
        }
    }

    fn encode(&mut self, map: MapMut<'_>) -> Result<(), StageError> {
        match map {
            MapMut::Host(map) => cuda::Encoder::encode_host(self, map),
            MapMut::Device(map) => cuda::Encoder::encode(self, &map),
        }
    }

    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError> {
        Ok(cuda::Encoder::finish(self, dropped, times)?)
    }
}

impl Decoder for cuda::Decoder {
    fn decode(&mut self, task: usize, maps: HeadMaps<MapRef<'_>>) -> Result<(), StageError> {
        if let MapRef::Host(_) = maps.heatmap {
            let maps = maps.try_map(|map| map.host().ok_or(StageError::Location))?;
            return cuda::Decoder::decode_host(self, task, maps);
        }
        let maps = maps.try_map(|map| map.device().ok_or(StageError::Location))?;
        cuda::Decoder::decode(self, task, maps)
    }

    fn suppress(&mut self) -> Result<(), StageError> {
        Ok(cuda::Decoder::suppress(self)?)
    }

    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError> {
        Ok(cuda::Decoder::finish(self, dropped, times)?)
    }
}
