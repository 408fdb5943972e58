//! Maps: what the encoder writes, engines read and write, and the decoder reads.
//!
//! A map is [C, H, W] with batch 1. A layout carries strides, so that an engine may keep its own (NHWC with a
//! border, NCHW, a slice of the channels of a larger tensor) and the stages before and after it work in place.

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

/// Where element (c, y, x) of a map lies: `offset + c·stride_c + y·stride_y + x·stride_x`.
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
    /// Elements from one channel to the next.
    pub stride_c: usize,
    /// Elements from one row to the next.
    pub stride_y: usize,
    /// Elements from one column to the next.
    pub stride_x: usize,
}

impl MapLayout {
    /// Index of element (c, y, x).
    #[inline]
    pub fn index(&self, c: usize, y: usize, x: usize) -> usize {
        self.offset + c * self.stride_c + y * self.stride_y + x * self.stride_x
    }

    /// A dense NCHW map.
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

/// A map to read: values and where they lie.
#[derive(Clone, Copy, Debug)]
pub struct MapView<'a> {
    /// The storage that `layout` indexes.
    pub data: &'a [f32],
    /// Where each element lies.
    pub layout: MapLayout,
}

/// A map to write: values and where they lie.
#[derive(Debug)]
pub struct MapViewMut<'a> {
    /// The storage that `layout` indexes.
    pub data: MapDataMut<'a>,
    /// Where each element lies.
    pub layout: MapLayout,
}

/// The storage of a map to write.
#[derive(Debug)]
pub enum MapDataMut<'a> {
    /// Values.
    F32(&'a mut [f32]),
    /// Signed 8-bit codes: a value is its code times the scale.
    I8 {
        /// The codes; see [`quantize`].
        codes: &'a mut [i8],
        /// Value of code 1, finite and above 0.
        scale: f32,
    },
}

impl MapViewMut<'_> {
    /// Writes element (c, y, x), quantised where the map holds codes.
    pub fn set(&mut self, c: usize, y: usize, x: usize, value: f32) {
        let index = self.layout.index(c, y, x);
        match &mut self.data {
            MapDataMut::F32(values) => values[index] = value,
            MapDataMut::I8 { codes, scale } => codes[index] = quantize(value, *scale),
        }
    }
}

/// The code of a value, as ONNX QuantizeLinear to int8 with zero point 0: `value / scale` rounded half
/// to even, in -128..=127; NaN is 0.
#[inline]
pub fn quantize(value: f32, scale: f32) -> i8 {
    // 1.5 · 2²³: a small number added to it is rounded half to even to an integer, which is then in
    // the low bits. Unlike a rounding function this becomes vector code on every processor.
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
        // Every 9973rd number of all.
        let all = (0..u32::MAX / 9973).map(|i| f32::from_bits(i * 9973));
        for value in special.into_iter().chain(small).chain(ties).chain(all) {
            for scale in [1.0, 0.3, 1e-30, 1e30] {
                // The cast saturates and makes 0 of NaN.
                let expected = (value / scale).round_ties_even() as i8;
                assert_eq!(quantize(value, scale), expected, "{value:e} / {scale:e}");
            }
        }
    }
}
