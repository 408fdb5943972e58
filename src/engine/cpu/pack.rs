//! Weights in the order in which the kernels read them, one layout for all instruction sets.
//!
//! *Wide*: `[group][block of 16 output channels][tap][input channel][16]`. A kernel reads one or more
//! blocks as streams, whatever the width of its registers; missing output channels are 0.
//! *Narrow*: `[output channel][tap][input channel]`.

use super::builder::ConvNode;
use super::lower::Tap;
use super::program::{ALIGN, Section, WeightLayout};

/// Lanes of a block: the width that all kernels share, in f32.
pub(super) const LANES: usize = 16;

/// The weight blob under construction.
#[derive(Debug, Default)]
pub(super) struct Blob {
    pub(super) bytes: Vec<u8>,
}

impl Blob {
    /// Appends values (little-endian) as an aligned section.
    pub(super) fn push(&mut self, values: &[f32]) -> Section {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let offset = self.bytes.len();
        self.bytes
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        Section {
            offset,
            len: self.bytes.len() - offset,
        }
    }
}

/// Number of weights that a phase of a wide convolution has.
pub(super) fn wide_len(
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

/// Number of bias values that a phase of a wide convolution has.
pub(super) fn wide_bias_len(groups: usize, out_channels: usize) -> usize {
    groups * (out_channels / groups).next_multiple_of(LANES)
}

/// Weights and bias of one phase. `channel` gives the node's output channel for output channel `c`
/// of the phase.
pub(super) fn pack(
    conv: &ConvNode,
    layout: WeightLayout,
    channels: usize,
    out_channels: usize,
    taps: &[Tap],
    channel: impl Fn(usize) -> usize,
) -> (Vec<f32>, Vec<f32>) {
    let (group_in, group_out) = (channels / conv.groups, out_channels / conv.groups);
    let [kh, kw] = conv.kernel;
    // `c` counts the phase's output channels, `i` the group's input channels.
    let weight = |c: usize, i: usize, tap: &Tap| {
        let (o, [ky, kx]) = (channel(c), tap.at);
        let (row, column) = if conv.transposed {
            ((c / group_out) * group_in + i, o % group_out)
        } else {
            (o, i)
        };
        let columns = if conv.transposed { group_out } else { group_in };
        let at = ((row * columns + column) * kh + ky) * kw + kx;
        conv.weight.value(at, o)
    };
    let (mut weights, mut bias) = (Vec::new(), Vec::new());
    match layout {
        WeightLayout::Narrow => {
            for c in 0..out_channels {
                for tap in taps {
                    weights.extend((0..channels).map(|i| weight(c, i, tap)));
                }
                bias.push(conv.bias[channel(c)]);
            }
        }
        WeightLayout::Wide => {
            for group in 0..conv.groups {
                for block in 0..group_out.div_ceil(LANES) {
                    let lane = |l: usize| {
                        let c = block * LANES + l;
                        (c < group_out).then_some(group * group_out + c)
                    };
                    for tap in taps {
                        for i in 0..group_in {
                            let values =
                                (0..LANES).map(|l| lane(l).map_or(0.0, |c| weight(c, i, tap)));
                            weights.extend(values);
                        }
                    }
                    let values = (0..LANES).map(|l| lane(l).map_or(0.0, |c| conv.bias[channel(c)]));
                    bias.extend(values);
                }
            }
        }
    }
    (weights, bias)
}
