//! Maps in device memory, in the engine's own layout: the scatter kernel writes them, the decode kernels read
//! them.

use std::fmt;
use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};
use serde::{Deserialize, Serialize};

use super::device::{Buffer, CudaError, DevicePtr, Memory};
use crate::engine::MapLayout;

/// How a map stores its values; the numbers are those of `Element` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum Element {
    /// f32.
    #[serde(rename = "fp32")]
    F32 = 0,
    /// IEEE half precision.
    #[serde(rename = "fp16")]
    F16 = 1,
    /// Signed 8-bit codes.
    #[serde(rename = "int8")]
    I8 = 2,
}

impl Element {
    /// Size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "fp32",
            Self::F16 => "fp16",
            Self::I8 => "int8",
        })
    }
}

/// How a map's elements lie in its memory. Element (c, y, x) has index `offset + c / vector · stride_c +
/// y · stride_y + x · stride_x + c % vector`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapFormat {
    /// How values are stored.
    pub element: Element,
    /// Value of code 1, if the elements are codes.
    pub scale: f32,
    /// Channels that lie side by side: 1 for linear layouts; 4 or 32 for TensorRT's CHW4 and CHW32.
    pub vector: u32,
    /// Sizes, and offset and strides in elements.
    pub layout: MapLayout,
}

impl MapFormat {
    /// A linear map of f32.
    pub fn f32(layout: MapLayout) -> Self {
        Self {
            element: Element::F32,
            scale: 1.0,
            vector: 1,
            layout,
        }
    }

    /// Index of the last element, counted from the first, with the padding of its vector.
    fn last_index(&self) -> u128 {
        let (layout, vector) = (&self.layout, self.vector as usize);
        let stride = |size: usize, stride: usize| (size.max(1) - 1) as u128 * stride as u128;
        stride(layout.channels.div_ceil(vector), layout.stride_c)
            + stride(layout.height, layout.stride_y)
            + stride(layout.width, layout.stride_x)
            + (vector - 1) as u128
    }

    /// Why the kernels cannot reach each element inside memory of `bytes` bytes, if they cannot. They index with
    /// 32 bits.
    fn problem(&self, bytes: usize) -> Option<String> {
        let vector = self.vector;
        if !(vector.is_power_of_two() && vector <= 32) {
            return Some(format!(
                "{vector} channels side by side; 1, 2, 4, 8, 16 and 32 are supported"
            ));
        }
        let (last, limit) = (self.last_index(), u32::MAX);
        if last >= limit.into() {
            return Some(format!(
                "its last element has index {last}; indices below {limit} are supported"
            ));
        }
        let end = (self.layout.offset as u128 + last + 1) * self.element.bytes() as u128;
        (end > bytes as u128).then(|| format!("it needs {end} bytes; its memory has {bytes}"))
    }
}

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
        let memory = buffer.memory().clone();
        if let Some(problem) = format.problem(memory.bytes()) {
            return Err(CudaError::Map {
                map: memory.what().into(),
                problem,
            });
        }
        Ok(Self { memory, format })
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
