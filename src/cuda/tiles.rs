//! Lists of the tiles that the engine's kernels compute.

use std::sync::Arc;

use super::device::{Buffer, CudaError, Device, DevicePtr};

/// Rows and columns of a tile; `TILE_H` and `TILE_W` in the kernels.
pub(crate) const TILE: [usize; 2] = [8, 16];

/// Tiles of a map, by number: row by row.
#[derive(Debug)]
pub(crate) struct TileList {
    /// Rows and columns of tiles.
    shape: [usize; 2],
    tiles: Buffer<u32>,
    count: Buffer<u32>,
}

impl TileList {
    /// All tiles of a map with these rows and columns of tiles.
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub(crate) fn all(device: &Arc<dyn Device>, shape: [usize; 2]) -> Result<Self, CudaError> {
        let count = (shape[0] * shape[1]) as u32;
        Ok(Self {
            shape,
            tiles: Buffer::new(device, "tiles", &(0..count).collect::<Vec<_>>())?,
            count: Buffer::new(device, "number of tiles", &[count])?,
        })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn tiles(&self) -> DevicePtr<u32> {
        self.tiles.ptr()
    }

    pub(super) fn count(&self) -> DevicePtr<u32> {
        self.count.ptr()
    }
}
