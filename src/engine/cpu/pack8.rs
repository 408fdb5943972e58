//! INT8 weights in the order in which the kernels read them, one layout for all instruction sets.
//!
//! *Wide*: `[group][block of 16 output channels][tap][quad][16][4]`; a quad is four input channels.
//! *Narrow*: `[output channel][tap][input channel]`, with input channels in whole fragments of 32.
//! Missing channels are 0.

use super::builder::ConvNode;
use super::lower::Tap;
use super::pack::{Order, wide_len};
use super::program::WeightLayout;

/// Input channels in a fragment of the wide layout.
pub(super) const QUAD: usize = 4;
/// Input channels in a fragment of the narrow layout.
pub(super) const NARROW: usize = 32;

/// Number of weights (bytes) that a phase of a wide convolution has.
pub(super) fn wide_len8(
    groups: usize,
    channels: usize,
    out_channels: usize,
    taps: usize,
) -> Option<usize> {
    let whole_quads = (channels / groups).checked_next_multiple_of(QUAD)?;
    wide_len(groups, groups.checked_mul(whole_quads)?, out_channels, taps)
}

/// Number of weights (bytes) that a phase of a narrow convolution has.
pub(super) fn narrow_len8(channels: usize, out_channels: usize, taps: usize) -> Option<usize> {
    let channels = channels.checked_next_multiple_of(NARROW)?;
    channels.checked_mul(taps)?.checked_mul(out_channels)
}

/// What the kernels read besides the input, for one phase.
#[derive(Debug)]
pub(super) struct Packed8 {
    /// Codes of the weights.
    pub(super) weights: Vec<i8>,
    /// Value of a sum of 1, `s_x · s_w[c]`, laid out as the bias.
    pub(super) multiplier: Vec<f32>,
    /// Bias.
    pub(super) bias: Vec<f32>,
}

/// Weights, multipliers and bias of one phase; see [`super::pack::pack`]. `codes` are the node's weights
/// and `scales` the values of code 1 for each of its output channels; `input_scale` is that of the input.
#[allow(clippy::too_many_arguments)]
pub(super) fn pack8(
    conv: &ConvNode,
    (codes, scales): (&[i8], &[f32]),
    input_scale: f32,
    layout: WeightLayout,
    channels: usize,
    out_channels: usize,
    taps: &[Tap],
    channel: impl Fn(usize) -> usize,
) -> Packed8 {
    let order = Order {
        conv,
        layout,
        channels,
        out_channels,
        taps,
    };
    Packed8 {
        weights: order.weights(QUAD, NARROW, |c, i, tap| {
            codes[order.index(c, channel(c), i, tap)]
        }),
        multiplier: order.scalars(|c| input_scale * scales[channel(c)]),
        bias: order.scalars(|c| conv.bias[channel(c)]),
    }
}
