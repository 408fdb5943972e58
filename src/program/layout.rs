//! The order of packed weights, which the compiler writes and the kernels read, and the limits of a program.
//!
//! One layout serves all instruction sets.
//! - *Wide*: `[group][block of 16 output channels][tap][input channel][16]`. A kernel reads one or more blocks as
//!   streams, whatever the width of its registers.
//! - *Narrow*: `[output channel][tap][input channel]`.
//! - *Wide, INT8*: `[group][block of 16 output channels][tap][quad][16][4]`; a quad is four input channels.
//! - *Narrow, INT8*: like narrow, with input channels in whole fragments of 32.
//!
//! Missing channels are 0.

/// Most channels, rows or columns of a feature map.
pub(crate) const MAX_DIM: usize = 1 << 16;
/// Most values of one feature map: 1 GiB of f32.
pub(crate) const MAX_MAP: usize = 1 << 28;
/// Valid quantisation scales. Codes times the scale, and the reciprocal, are normal f32 numbers.
pub(crate) const SCALES: std::ops::RangeInclusive<f32> = 1e-30..=1e30;
/// Most products of two codes whose sum always fits into 32 bits.
const MAX_PRODUCTS: usize = i32::MAX as usize / (128 * 128);
/// Most products of a code's difference from a zero point and a weight whose sum always fits into 32 bits.
const MAX_SHIFTED_PRODUCTS: usize = i32::MAX as usize / (255 * 128);
/// Largest kernel size, stride, dilation, padding or block.
pub(crate) const MAX_KERNEL: usize = 64;

/// Lanes of a block: the f32 width that all kernels share.
pub(crate) const LANES: usize = 16;

/// Input channels in a fragment of the wide layout.
pub(crate) const QUAD: usize = 4;
/// Input channels in a fragment of the narrow layout.
pub(crate) const NARROW: usize = 32;

/// Most products in a sum over codes with this zero point.
pub(crate) fn max_products(zero: i8) -> usize {
    if zero == 0 {
        MAX_PRODUCTS
    } else {
        MAX_SHIFTED_PRODUCTS
    }
}

/// Number of weights (bytes) in a phase of a wide INT8 convolution.
pub(crate) fn int8_wide_len(
    groups: usize,
    channels: usize,
    out_channels: usize,
    taps: usize,
) -> Option<usize> {
    let whole_quads = (channels / groups).checked_next_multiple_of(QUAD)?;
    wide_len(groups, groups.checked_mul(whole_quads)?, out_channels, taps)
}

/// Number of weights (bytes) in a phase of a narrow INT8 convolution.
pub(crate) fn int8_narrow_len(channels: usize, out_channels: usize, taps: usize) -> Option<usize> {
    let channels = channels.checked_next_multiple_of(NARROW)?;
    channels.checked_mul(taps)?.checked_mul(out_channels)
}

/// Number of weights in a phase of a wide f32 convolution.
pub(crate) fn wide_len(
    groups: usize,
    channels: usize,
    out_channels: usize,
    taps: usize,
) -> Option<usize> {
    let blocks = groups.checked_mul((out_channels / groups).div_ceil(LANES))?;
    blocks
        .checked_mul(taps)?
        .checked_mul(channels / groups)?
        .checked_mul(LANES)
}

/// Number of bias values in a phase of a wide convolution.
pub(crate) fn wide_bias_len(groups: usize, out_channels: usize) -> usize {
    groups * (out_channels / groups).next_multiple_of(LANES)
}
