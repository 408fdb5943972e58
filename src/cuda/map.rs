//! Maps in device memory: what the scatter kernel writes and the decode kernel reads, in the engine's own
//! layout.

use std::fmt;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::map::MapLayout;

/// How values of a map are stored; the numbers are those of `Element` in `kernels/common.cuh`.
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

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "fp32",
            Self::F16 => "fp16",
            Self::I8 => "int8",
        })
    }
}

/// A map: where it lies, and how its elements do. Element (c, y, x) is at `c / vector · stride_c +
/// y · stride_y + x · stride_x + c % vector`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceMap {
    /// Address of element (0, 0, 0).
    pub address: u64,
    /// How values are stored.
    pub element: Element,
    /// Value of code 1 where the elements are codes.
    pub scale: f32,
    /// Channels that lie side by side: 1 for linear layouts; 4 or 32 for TensorRT's CHW4 and CHW32.
    pub vector: u32,
    /// Sizes and strides, in elements; `offset` is in `address` already and 0 here.
    pub layout: MapLayout,
}

/// The mirror of `Map` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MapParams {
    data: u64,
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
    /// A linear map of f32.
    pub fn f32(address: u64, layout: MapLayout) -> Self {
        Self {
            address,
            element: Element::F32,
            scale: 1.0,
            vector: 1,
            layout,
        }
    }

    /// What keeps the kernels from reaching each element, if something does: they index with 32 bits.
    pub(super) fn problem(&self) -> Option<String> {
        let (layout, vector) = (&self.layout, self.vector as usize);
        if !(vector.is_power_of_two() && vector <= 32) {
            return Some(format!(
                "{vector} channels side by side; 1, 2, 4, 8, 16 or 32 are supported"
            ));
        }
        let last = (layout.channels.div_ceil(vector).max(1) - 1) * layout.stride_c
            + (layout.height.max(1) - 1) * layout.stride_y
            + (layout.width.max(1) - 1) * layout.stride_x
            + vector
            - 1;
        let limit = u32::MAX;
        (last >= limit as usize)
            .then(|| format!("its last element is number {last}; less than {limit} is supported"))
    }

    /// As kernels take it. Sizes are those of a checked model, which fit 32 bits.
    pub(super) fn params(&self) -> MapParams {
        let layout = &self.layout;
        MapParams {
            data: self.address,
            element: self.element as u32,
            channels: layout.channels as u32,
            height: layout.height as u32,
            width: layout.width as u32,
            stride_c: layout.stride_c as u32,
            stride_y: layout.stride_y as u32,
            stride_x: layout.stride_x as u32,
            vector: self.vector,
            scale: self.scale,
            reserved: 0,
        }
    }
}
