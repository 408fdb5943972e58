//! Packs INT8 weights in the order of [`crate::program::layout`].

use crate::build::lower::Tap;
use crate::build::lower::builder::ConvNode;
use crate::build::lower::pack::Order;
use crate::program::WeightLayout;
use crate::program::layout::{NARROW, QUAD};

/// The constants that the kernels read for one phase.
#[derive(Debug)]
pub(super) struct PackedCodes {
    /// Codes of the weights.
    pub(super) weights: Vec<i8>,
    /// Value of a sum of 1, `s_x · s_w[c]`, in the order of the bias.
    pub(super) multiplier: Vec<f32>,
    /// Bias.
    pub(super) bias: Vec<f32>,
}

/// Packs the weights, multipliers and bias of one phase; see [`crate::build::lower::pack::pack`]. `codes` are the node's
/// weights, `scales` the values of code 1 for each of its output channels, and `input_scale` that of the input.
#[allow(clippy::too_many_arguments)]
pub(super) fn pack_codes(
    conv: &ConvNode,
    (codes, scales): (&[i8], &[f32]),
    input_scale: f32,
    layout: WeightLayout,
    channels: usize,
    out_channels: usize,
    taps: &[Tap],
    channel: impl Fn(usize) -> usize,
) -> PackedCodes {
    let order = Order {
        conv,
        layout,
        channels,
        out_channels,
        taps,
    };
    PackedCodes {
        weights: order.weights(QUAD, NARROW, |c, i, tap| {
            codes[order.index(c, channel(c), i, tap)]
        }),
        multiplier: order.scalars(|c| input_scale * scales[channel(c)]),
        bias: order.scalars(|c| conv.bias[channel(c)]),
    }
}
