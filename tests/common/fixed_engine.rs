//! An engine on a device whose outputs never change: maps that lie there already.

use centerpoint::cuda::frame::Engine;
use centerpoint::cuda::{Buffer, CudaError, DeviceMap};
use centerpoint::engine::LayerTime;
use centerpoint::map::MapDesc;

pub(crate) struct FixedEngine<T> {
    pub(crate) input: (MapDesc, DeviceMap),
    pub(crate) outputs: Vec<(MapDesc, DeviceMap)>,
    /// The memory that the maps lie in.
    pub(crate) _memory: Vec<Buffer<T>>,
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
