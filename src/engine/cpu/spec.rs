//! Attributes of the nodes that [`super::ProgramBuilder`] takes, in the terms of ONNX.

/// Attributes of a convolution, as ONNX Conv with batch 1.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec<'a> {
    /// Output channels O.
    pub out_channels: usize,
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Step in rows and columns.
    pub stride: [usize; 2],
    /// Padding with zeros: top, left, bottom, right (ONNX's order of `pads`).
    pub pad: [usize; 4],
    /// Distance of taps in rows and columns.
    pub dilation: [usize; 2],
    /// Groups.
    pub groups: usize,
    /// Weights `[O, I / groups, kh, kw]`.
    pub weight: &'a [f32],
    /// O summands.
    pub bias: Option<&'a [f32]>,
    /// Clamp negative values to 0 afterwards.
    pub relu: bool,
}

/// Attributes of a transposed convolution, as ONNX ConvTranspose with batch 1.
#[derive(Clone, Copy, Debug)]
pub struct ConvTransposeSpec<'a> {
    /// Output channels O.
    pub out_channels: usize,
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Output pixels per input pixel, in rows and columns.
    pub stride: [usize; 2],
    /// Rows and columns cut from the full result: top, left, bottom, right.
    pub pad: [usize; 4],
    /// Rows and columns added at the bottom and the right.
    pub output_padding: [usize; 2],
    /// Distance of taps in rows and columns.
    pub dilation: [usize; 2],
    /// Groups.
    pub groups: usize,
    /// Weights `[I, O / groups, kh, kw]`.
    pub weight: &'a [f32],
    /// O summands.
    pub bias: Option<&'a [f32]>,
    /// Clamp negative values to 0 afterwards.
    pub relu: bool,
}

/// Attributes of a maximum over windows, as ONNX MaxPool with `ceil_mode` 0 and dilation 1.
#[derive(Clone, Copy, Debug)]
pub struct MaxPoolSpec {
    /// Window's rows and columns.
    pub kernel: [usize; 2],
    /// Step in rows and columns.
    pub stride: [usize; 2],
    /// Padding, which never wins: top, left, bottom, right.
    pub pad: [usize; 4],
}
