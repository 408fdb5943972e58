//! Support for this crate's tests and benches, which cannot include each other's files. Not part of the public API.

#[cfg(feature = "build")]
pub(crate) mod nets;
#[cfg(feature = "build")]
pub(crate) mod networks;
mod null;

pub use null::Null;

use crate::cuda::DeviceMap;
use crate::engine::{Engine, EngineError, LayerTime, MapMut, MapRef};
use crate::map::{Location, MapDesc};
use crate::model::{Pfn, PfnLayer};

/// The description of a tiny model: a grid of 16 × 16 cells of 1 m around the origin.
pub const TINY: &str = include_str!("tiny.toml");

/// The tiny model's PFN. Its BEV channels are the highest z of the pillar, and 1 in cells with a pillar.
pub fn tiny_pfn() -> Pfn {
    Pfn {
        layers: vec![PfnLayer {
            in_features: 3,
            out_features: 2,
            weight: vec![0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
            bias: vec![0.0, 1.0],
        }],
    }
}

/// Deterministic pseudo-random numbers: xorshift, from a seed other than 0.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number in 0..1.
    #[allow(clippy::should_implement_trait)] // an endless stream of numbers, not an iterator
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// The next number in -1..1.
    pub fn signed(&mut self) -> f32 {
        2.0 * self.next() - 1.0
    }
}

/// An engine on a device whose outputs never change: maps that exist already.
#[derive(Debug)]
pub struct FixedEngine {
    /// The input map, which nothing reads.
    pub input: (MapDesc, DeviceMap),
    descs: Vec<MapDesc>,
    outputs: Vec<DeviceMap>,
}

impl FixedEngine {
    /// Creates an engine from its maps.
    pub fn new(input: (MapDesc, DeviceMap), outputs: Vec<(MapDesc, DeviceMap)>) -> Self {
        let (descs, outputs) = outputs.into_iter().unzip();
        Self {
            input,
            descs,
            outputs,
        }
    }
}

impl Engine for FixedEngine {
    fn input(&self) -> &MapDesc {
        &self.input.0
    }

    fn outputs(&self) -> &[MapDesc] {
        &self.descs
    }

    fn location(&self) -> Location {
        Location::Device
    }

    fn input_map(&mut self) -> MapMut<'_> {
        MapMut::Device(self.input.1.clone())
    }

    fn output_map(&self, index: usize) -> Option<MapRef<'_>> {
        self.outputs.get(index).cloned().map(MapRef::Device)
    }

    fn run(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        Ok(Vec::new())
    }
}
