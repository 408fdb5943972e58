//! Attributes of the nodes that [`crate::build::lower::ProgramBuilder`] accepts, in ONNX terms, and their checks.

use crate::program::ProgramError;
use crate::program::layout::{MAX_DIM, MAX_KERNEL, SCALES};

/// The weights of a convolution, in the order of its direction.
#[derive(Clone, Copy, Debug)]
pub enum ConvWeight<'a> {
    /// Values.
    F32(&'a [f32]),
    /// Signed 8-bit codes. A value is its code times the scale of its output channel.
    I8 {
        /// Codes, in -127..=127.
        codes: &'a [i8],
        /// One scale per output channel.
        scales: &'a [f32],
    },
}

/// The kind of convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// ONNX Conv: weights `[O, I / groups, kh, kw]`; padding adds zeros.
    Forward,
    /// ONNX ConvTranspose: weights `[I, O / groups, kh, kw]`; padding removes rows and columns of the full result, and
    /// strides are output pixels per input pixel.
    Transposed {
        /// Rows and columns added at the bottom and right.
        output_padding: [usize; 2],
    },
}

/// Attributes of a convolution with batch 1, like those of ONNX Conv or ConvTranspose.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec<'a> {
    /// Conv or ConvTranspose.
    pub direction: Direction,
    /// Output channels O.
    pub out_channels: usize,
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Step in rows and columns.
    pub stride: [usize; 2],
    /// Padding: top, left, bottom, right (ONNX's order of `pads`).
    pub pad: [usize; 4],
    /// Distance between taps in rows and columns.
    pub dilation: [usize; 2],
    /// Groups.
    pub groups: usize,
    /// Weights, in the order of the direction.
    pub weight: ConvWeight<'a>,
    /// O summands.
    pub bias: Option<&'a [f32]>,
    /// Clamp negative values to 0 afterwards.
    pub relu: bool,
}

/// Attributes of max pooling, like those of ONNX MaxPool with `ceil_mode` 0 and dilation 1.
#[derive(Clone, Copy, Debug)]
pub struct MaxPoolSpec {
    /// Window's rows and columns.
    pub kernel: [usize; 2],
    /// Step in rows and columns.
    pub stride: [usize; 2],
    /// Padding, which the maximum ignores: top, left, bottom, right.
    pub pad: [usize; 4],
}

/// A [`ProgramError::Node`].
pub(super) fn bad(
    node: &str,
    field: &'static str,
    expected: impl ToString,
    found: impl std::fmt::Debug,
) -> ProgramError {
    ProgramError::Node {
        node: node.to_owned(),
        field,
        expected: expected.to_string(),
        found: format!("{found:?}"),
    }
}

/// Checks that each of `values` is in `1..=MAX_KERNEL`.
pub(super) fn check_sizes(
    node: &str,
    field: &'static str,
    values: &[usize],
) -> Result<(), ProgramError> {
    if values.iter().all(|v| (1..=MAX_KERNEL).contains(v)) {
        return Ok(());
    }
    Err(bad(node, field, format!("1 to {MAX_KERNEL}"), values))
}

/// Checks that each of `values` is in `0..=MAX_KERNEL`.
pub(super) fn check_pads(
    node: &str,
    field: &'static str,
    values: &[usize],
) -> Result<(), ProgramError> {
    if values.iter().all(|&v| v <= MAX_KERNEL) {
        return Ok(());
    }
    Err(bad(node, field, format!("0 to {MAX_KERNEL}"), values))
}

/// Checks the number of values of a constant.
pub(super) fn check_len<T>(
    node: &str,
    field: &'static str,
    values: &[T],
    len: Option<usize>,
) -> Result<(), ProgramError> {
    if Some(values.len()) == len {
        return Ok(());
    }
    let expected = match len {
        Some(len) => format!("{len} values"),
        None => "a number of values that fits into memory".to_owned(),
    };
    Err(bad(
        node,
        field,
        expected,
        format_args!("{} values", values.len()),
    ))
}

/// Checks a quantisation scale.
pub(super) fn check_scale(node: &str, scale: f32) -> Result<(), ProgramError> {
    if SCALES.contains(&scale) {
        return Ok(());
    }
    let expected = format!("{:e} to {:e}", SCALES.start(), SCALES.end());
    Err(bad(node, "scale", expected, scale))
}

/// Checks that there are `len` weights for `out_channels` output channels.
pub(super) fn check_weight(
    node: &str,
    weight: ConvWeight<'_>,
    out_channels: usize,
    len: Option<usize>,
) -> Result<(), ProgramError> {
    match weight {
        ConvWeight::F32(values) => check_len(node, "weight", values, len),
        ConvWeight::I8 { codes, scales } => {
            check_len(node, "weight", codes, len)?;
            check_len(node, "weight scales", scales, Some(out_channels))?;
            scales.iter().try_for_each(|&s| check_scale(node, s))?;
            match codes.iter().position(|&code| code == i8::MIN) {
                Some(at) => Err(bad(
                    node,
                    "weight",
                    "codes of -127 to 127, so scales of at least the largest magnitude / 127",
                    format_args!("-128 at {at}"),
                )),
                None => Ok(()),
            }
        }
    }
}

/// Number of windows of `kernel` with `dilation` and `stride` over `len` pixels plus padding.
pub(super) fn windows(
    len: usize,
    pad: usize,
    kernel: usize,
    dilation: usize,
    stride: usize,
) -> usize {
    let reach = (kernel - 1) * dilation + 1;
    (len + pad)
        .checked_sub(reach)
        .map_or(0, |rest| rest / stride + 1)
}

/// Checks the number of groups and of output channels.
pub(super) fn check_groups(
    node: &str,
    groups: usize,
    channels: usize,
    out_channels: usize,
) -> Result<(), ProgramError> {
    if !(1..=MAX_DIM).contains(&out_channels) {
        return Err(bad(
            node,
            "out_channels",
            format!("1 to {MAX_DIM}"),
            out_channels,
        ));
    }
    if groups == 0 || !channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
        let expected = format!("a divisor of {channels} and of {out_channels} channels");
        return Err(bad(node, "groups", expected, groups));
    }
    Ok(())
}

/// The bias, or zeros if there is none.
pub(super) fn bias(node: &str, bias: Option<&[f32]>, len: usize) -> Result<Vec<f32>, ProgramError> {
    let Some(bias) = bias else {
        return Ok(vec![0.0; len]);
    };
    check_len(node, "bias", bias, Some(len))?;
    Ok(bias.to_vec())
}
