//! Maps in device memory, in the engine's own layout: the scatter kernel writes them, the decode kernels read
//! them.

use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};

use super::device::{Buffer, CudaError, DevicePtr, Memory};
use super::place::Place;
use crate::map::MapFormat;

/// A map in device memory, which it keeps allocated.
#[derive(Clone, Debug)]
pub struct DeviceMap {
    memory: Arc<Memory>,
    format: MapFormat,
}

/// The mirror of `Map` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
pub(super) struct MapParams {
    /// Element (0, 0, 0).
    data: DevicePtr<u8>,
    element: u32,
    channels: u32,
    height: u32,
    width: u32,
    stride_c: u32,
    stride_y: u32,
    stride_x: u32,
    vector: u32,
    scale: f32,
    reserved: u32,
}

const _: () = assert!(size_of::<MapParams>() == 48);

impl DeviceMap {
    /// A map in the memory of `buffer`.
    ///
    /// # Errors
    /// [`CudaError::Map`] if the format exceeds the buffer or what the kernels support.
    pub fn new<T: Copy + 'static>(
        buffer: &Buffer<T>,
        format: MapFormat,
    ) -> Result<Self, CudaError> {
        Self::in_memory(buffer.memory().clone(), format)
    }

    fn in_memory(memory: Arc<Memory>, format: MapFormat) -> Result<Self, CudaError> {
        if let Some(problem) = format.problem(memory.bytes()) {
            return Err(CudaError::Map {
                map: memory.what().into(),
                problem,
            });
        }
        Ok(Self { memory, format })
    }

    /// A tensor of the engine.
    ///
    /// # Errors
    /// The same as [`DeviceMap::new`].
    pub(crate) fn at(place: &Place, format: MapFormat) -> Result<Self, CudaError> {
        Self::in_memory(place.memory().clone(), format)
    }

    /// How its elements lie in memory.
    pub fn format(&self) -> &MapFormat {
        &self.format
    }

    /// Reads the bytes of its whole memory back, and waits for them: for tests.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self) -> Result<Vec<u8>, CudaError> {
        let mut bytes = vec![0; self.memory.bytes()];
        self.memory.download(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the first bytes of its memory: for tests.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn upload(&self, bytes: &[u8]) -> Result<(), CudaError> {
        self.memory.upload(bytes)
    }

    /// The kernels' view of the map. The sizes are those of a checked model, which fit 32 bits.
    pub(super) fn params(&self) -> MapParams {
        let MapFormat {
            element,
            scale,
            vector,
            layout,
        } = self.format;
        MapParams {
            data: self.memory.at(layout.offset * element.bytes()),
            element: element as u32,
            channels: layout.channels as u32,
            height: layout.height as u32,
            width: layout.width as u32,
            stride_c: layout.stride_c as u32,
            stride_y: layout.stride_y as u32,
            stride_x: layout.stride_x as u32,
            vector,
            scale,
            reserved: 0,
        }
    }
}
