//! Maps: the encoder writes them, engines read and write them, and the decoder reads them.
//!
//! A map is [C, H, W] with batch 1. A layout carries strides, so an engine may keep its own layout (NHWC with a border,
//! NCHW, a slice of a larger tensor's channels) and the stages before and after it work in place.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Name and size of one network input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDesc {
    /// Name in the network, such as `spatial_features` or `heatmap`.
    pub name: String,
    /// Channels C.
    pub channels: usize,
    /// Rows H (y).
    pub height: usize,
    /// Columns W (x).
    pub width: usize,
}

impl MapDesc {
    /// Channels, rows, columns.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }
}

/// The memory layout of a map. Element (c, y, x) has the index
/// `offset + c·stride_c + y·stride_y + x·stride_x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// Channels C.
    pub channels: usize,
    /// Rows H (y).
    pub height: usize,
    /// Columns W (x).
    pub width: usize,
    /// Index of element (0, 0, 0).
    pub offset: usize,
    /// Stride between channels.
    pub stride_c: usize,
    /// Stride between rows.
    pub stride_y: usize,
    /// Stride between columns.
    pub stride_x: usize,
}

impl MapLayout {
    /// Index of element (c, y, x).
    #[inline]
    pub fn index(&self, c: usize, y: usize, x: usize) -> usize {
        self.offset + c * self.stride_c + y * self.stride_y + x * self.stride_x
    }

    /// The layout of a dense NCHW map.
    pub fn nchw(channels: usize, height: usize, width: usize) -> Self {
        let (stride_c, stride_y) = (height * width, width);
        Self {
            channels,
            height,
            width,
            offset: 0,
            stride_c,
            stride_y,
            stride_x: 1,
        }
    }
}

/// One item for each of the six head maps of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadMaps<T> {
    /// Class logits.
    pub heatmap: T,
    /// Offset of the centre within its cell, x and y.
    pub reg: T,
    /// Height of the centre.
    pub height: T,
    /// Logarithms of the size.
    pub dim: T,
    /// Cosine and sine of the yaw.
    pub rot: T,
    /// Velocity, x and y.
    pub vel: T,
}

impl HeadMaps<&'static str> {
    /// The map names of AWML's exporter.
    pub const NAMES: Self = Self {
        heatmap: "heatmap",
        reg: "reg",
        height: "height",
        dim: "dim",
        rot: "rot",
        vel: "vel",
    };
}

impl<T> From<[T; 6]> for HeadMaps<T> {
    /// Takes the items in field order.
    fn from([heatmap, reg, height, dim, rot, vel]: [T; 6]) -> Self {
        Self {
            heatmap,
            reg,
            height,
            dim,
            rot,
            vel,
        }
    }
}

impl<T> HeadMaps<T> {
    /// The items in field order.
    pub fn into_array(self) -> [T; 6] {
        [
            self.heatmap,
            self.reg,
            self.height,
            self.dim,
            self.rot,
            self.vel,
        ]
    }

    /// References to the items.
    pub fn each_ref(&self) -> HeadMaps<&T> {
        HeadMaps {
            heatmap: &self.heatmap,
            reg: &self.reg,
            height: &self.height,
            dim: &self.dim,
            rot: &self.rot,
            vel: &self.vel,
        }
    }

    /// Applies `f` to each item.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> HeadMaps<U> {
        self.into_array().map(f).into()
    }

    /// Applies `f` to each item.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<U, E>(self, mut f: impl FnMut(T) -> Result<U, E>) -> Result<HeadMaps<U>, E> {
        Ok(HeadMaps {
            heatmap: f(self.heatmap)?,
            reg: f(self.reg)?,
            height: f(self.height)?,
            dim: f(self.dim)?,
            rot: f(self.rot)?,
            vel: f(self.vel)?,
        })
    }

    /// Pairs the items with those of `other`.
    pub fn zip<U>(self, other: HeadMaps<U>) -> HeadMaps<(T, U)> {
        HeadMaps {
            heatmap: (self.heatmap, other.heatmap),
            reg: (self.reg, other.reg),
            height: (self.height, other.height),
            dim: (self.dim, other.dim),
            rot: (self.rot, other.rot),
            vel: (self.vel, other.vel),
        }
    }

    /// The items in field order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.each_ref().into_array().into_iter()
    }
}

/// A readable map: values and layout.
#[derive(Clone, Copy, Debug)]
pub struct MapView<'a> {
    /// The storage that `layout` indexes.
    pub data: &'a [f32],
    /// The layout of the elements.
    pub layout: MapLayout,
}

/// A writable map: values and layout.
#[derive(Debug)]
pub struct MapViewMut<'a> {
    /// The storage that `layout` indexes.
    pub data: MapDataMut<'a>,
    /// The layout of the elements.
    pub layout: MapLayout,
}

/// The memory that holds maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Host memory.
    Host,
    /// GPU memory.
    Device,
}

/// How a map stores its values. The numbers are those of `Element` in `kernels/common.cuh`.
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
    pub const fn bytes(self) -> usize {
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

/// A map's element type and memory layout. Element (c, y, x) has the index
/// `offset + c / vector · stride_c + y · stride_y + x · stride_x + c % vector`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapFormat {
    /// Element type.
    pub element: Element,
    /// Value of code 1, if the elements are codes.
    pub scale: f32,
    /// Adjacent channels: 1 for linear layouts, 4 or 32 for TensorRT's CHW4 and CHW32.
    pub vector: u32,
    /// Sizes; offset and strides in elements.
    pub layout: MapLayout,
}

impl MapFormat {
    /// A linear f32 map.
    pub fn f32(layout: MapLayout) -> Self {
        Self {
            element: Element::F32,
            scale: 1.0,
            vector: 1,
            layout,
        }
    }

    /// Index of the last element relative to the first, including the padding of its vector.
    fn last_index(&self) -> u128 {
        let (layout, vector) = (&self.layout, self.vector as usize);
        let stride = |size: usize, stride: usize| (size.max(1) - 1) as u128 * stride as u128;
        stride(layout.channels.div_ceil(vector), layout.stride_c)
            + stride(layout.height, layout.stride_y)
            + stride(layout.width, layout.stride_x)
            + (vector - 1) as u128
    }

    /// Checks that kernels, which index with 32 bits, can access every element in memory of `bytes` bytes. Returns the
    /// problem, if there is one.
    pub(crate) fn problem(&self, bytes: usize) -> Option<String> {
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

/// The storage of a writable map.
#[derive(Debug)]
pub enum MapDataMut<'a> {
    /// Values.
    F32(&'a mut [f32]),
    /// Signed 8-bit codes. A value is its code times the scale.
    I8 {
        /// The codes; see [`quantize`].
        codes: &'a mut [i8],
        /// Value of code 1, finite and above 0.
        scale: f32,
    },
}

impl MapViewMut<'_> {
    /// Writes element (c, y, x), quantised if the map holds codes.
    pub fn set(&mut self, c: usize, y: usize, x: usize, value: f32) {
        let index = self.layout.index(c, y, x);
        match &mut self.data {
            MapDataMut::F32(values) => values[index] = value,
            MapDataMut::I8 { codes, scale } => codes[index] = quantize(value, *scale),
        }
    }
}

/// The code of a value, like ONNX QuantizeLinear to int8 with zero point 0: `value / scale` rounded half to even, in
/// -128..=127; NaN becomes 0.
#[inline]
#[doc(hidden)]
pub fn quantize(value: f32, scale: f32) -> i8 {
    // 1.5 · 2²³. Adding it rounds a small number half to even to an integer, which is then in the low bits. Unlike a
    // rounding function, this vectorises on every processor.
    const SHIFT: f32 = 12_582_912.0;
    let ratio = (value / scale).clamp(-128.0, 127.0);
    if ratio.is_nan() {
        0
    } else {
        (ratio + SHIFT).to_bits() as i8
    }
}

#[cfg(test)]
mod tests {
    use super::quantize;

    #[test]
    fn codes_are_ratios_rounded_half_to_even_within_limits() {
        let strange = f32::from_bits(0x7fc0_0055);
        let special = [
            f32::NAN,
            strange,
            -strange,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
        ];
        let small = [
            0.0,
            -0.0,
            f32::MIN_POSITIVE,
            -1e-40,
            0.49999997,
            -0.50000006,
        ];
        let ties = (-300..300).map(|i| i as f32 * 0.5);
        // Every 9973rd f32 bit pattern.
        let all = (0..u32::MAX / 9973).map(|i| f32::from_bits(i * 9973));
        for value in special.into_iter().chain(small).chain(ties).chain(all) {
            for scale in [1.0, 0.3, 1e-30, 1e30] {
                // The cast saturates and maps NaN to 0.
                let expected = (value / scale).round_ties_even() as i8;
                assert_eq!(quantize(value, scale), expected, "{value:e} / {scale:e}");
            }
        }
    }
}
