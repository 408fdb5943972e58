//! Support for this crate's tests and benches, which cannot include each other's files. Not part of the public API.

#[cfg(feature = "build")]
pub mod nets;
#[cfg(feature = "build")]
pub mod networks;

use crate::cuda::{Buffer, CudaError, DeviceMap, frame::Engine};
use crate::engine::{LayerTime, MapDesc};

/// Pseudo-random numbers (xorshift) from a seed other than 0.
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

/// An engine on a device that computes nothing: its outputs are maps that already lie in device memory.
#[derive(Debug)]
pub struct FixedEngine<T> {
    /// The input map, which is never read.
    pub input: (MapDesc, DeviceMap),
    /// The output maps.
    pub outputs: Vec<(MapDesc, DeviceMap)>,
    /// The memory that holds the maps.
    pub memory: Vec<Buffer<T>>,
}

impl<T: Send> Engine for FixedEngine<T> {
    fn input(&self) -> (&MapDesc, DeviceMap) {
        (&self.input.0, self.input.1)
    }

    fn outputs(&self) -> Vec<(&MapDesc, DeviceMap)> {
        self.outputs
            .iter()
            .map(|(desc, map)| (desc, *map))
            .collect()
    }

    fn enqueue(&mut self) -> Result<(), CudaError> {
        Ok(())
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, CudaError> {
        Ok(Vec::new())
    }
}
