//! Packs weights in the order of [`crate::program::layout`].

use crate::build::lower::Tap;
use crate::build::lower::builder::ConvNode;
use crate::program::layout::{LANES, NARROW, QUAD};
use crate::program::{ALIGN, Section, WeightLayout};

/// The weight blob under construction.
#[derive(Debug, Default)]
pub(super) struct Blob {
    pub(super) bytes: Vec<u8>,
}

impl Blob {
    /// Appends values (little-endian) as an aligned section.
    pub(super) fn push(&mut self, values: &[f32]) -> Section {
        self.push_bytes(values.iter().flat_map(|value| value.to_le_bytes()))
    }

    /// Appends codes as an aligned section.
    pub(super) fn push_codes(&mut self, codes: &[i8]) -> Section {
        self.push_bytes(codes.iter().flat_map(|code| code.to_le_bytes()))
    }

    fn push_bytes(&mut self, bytes: impl Iterator<Item = u8>) -> Section {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let offset = self.bytes.len();
        self.bytes.extend(bytes);
        Section {
            offset,
            len: self.bytes.len() - offset,
        }
    }
}

/// The order of one phase's weights, for any weight type.
pub(super) struct Order<'a> {
    pub(super) conv: &'a ConvNode,
    pub(super) layout: WeightLayout,
    /// Input channels.
    pub(super) channels: usize,
    /// Output channels of the phase.
    pub(super) out_channels: usize,
    pub(super) taps: &'a [Tap],
}

/// The INT8 constants that the kernels read for one phase.
#[derive(Debug)]
pub(super) struct PackedCodes {
    /// Codes of the weights.
    pub(super) weights: Vec<i8>,
    /// Value of a sum of 1, `s_x · s_w[c]`, in the order of the bias.
    pub(super) multiplier: Vec<f32>,
    /// Bias.
    pub(super) bias: Vec<f32>,
}

impl Order<'_> {
    /// Packs the weights and the bias. `channel(c)` is the node's output channel for output channel `c` of the phase.
    pub(super) fn pack(&self, channel: impl Fn(usize) -> usize) -> (Vec<f32>, Vec<f32>) {
        let weights = self.weights(1, 1, |c, i, tap| {
            let o = channel(c);
            self.conv.weight.value(self.index(c, o, i, tap), o)
        });
        let bias = self.scalars(|c| self.conv.bias[channel(c)]);
        (weights, bias)
    }

    /// As [`Order::pack`] for INT8: `codes` are the node's weights, `scales` the values of code 1 for each of its output
    /// channels, and `input_scale` that of the input.
    pub(super) fn pack_codes(
        &self,
        (codes, scales): (&[i8], &[f32]),
        input_scale: f32,
        channel: impl Fn(usize) -> usize,
    ) -> PackedCodes {
        PackedCodes {
            weights: self.weights(QUAD, NARROW, |c, i, tap| {
                codes[self.index(c, channel(c), i, tap)]
            }),
            multiplier: self.scalars(|c| input_scale * scales[channel(c)]),
            bias: self.scalars(|c| self.conv.bias[channel(c)]),
        }
    }

    /// Index in the node's weights, for output channel `c` of the phase (the node's output channel `o`) and input channel
    /// `i` of the group.
    fn index(&self, c: usize, o: usize, i: usize, tap: &Tap) -> usize {
        let conv = self.conv;
        let (group_in, group_out) = (self.channels / conv.groups, self.out_channels / conv.groups);
        let ([kh, kw], [ky, kx]) = (conv.kernel, tap.at);
        let (row, column, columns) = if conv.transposed {
            ((c / group_out) * group_in + i, o % group_out, group_out)
        } else {
            (o, i, group_in)
        };
        ((row * columns + column) * kh + ky) * kw + kx
    }

    /// The phase's weights: `weight(c, i, tap)` for output channel `c` of the phase and input channel `i` of the group.
    /// Input channels come in whole fragments of `wide` or `narrow`; missing ones are 0.
    fn weights<T: Default>(
        &self,
        wide: usize,
        narrow: usize,
        weight: impl Fn(usize, usize, &Tap) -> T,
    ) -> Vec<T> {
        let group_in = self.channels / self.conv.groups;
        let weight = |c: Option<usize>, i: usize, tap: &Tap| match c {
            Some(c) if i < group_in => weight(c, i, tap),
            _ => T::default(),
        };
        let mut weights = Vec::new();
        match self.layout {
            WeightLayout::Narrow | WeightLayout::NarrowQuad => {
                for c in 0..self.out_channels {
                    for tap in self.taps {
                        let channels = 0..self.channels.next_multiple_of(narrow);
                        weights.extend(channels.map(|i| weight(Some(c), i, tap)));
                    }
                }
            }
            WeightLayout::Wide | WeightLayout::Quad => {
                for lanes in self.lanes().chunks_exact(LANES) {
                    for tap in self.taps {
                        for i in (0..group_in).step_by(wide) {
                            for &c in lanes {
                                weights.extend((i..i + wide).map(|i| weight(c, i, tap)));
                            }
                        }
                    }
                }
            }
        }
        weights
    }

    /// One value per output channel, in the order of the bias; missing channels are 0.
    fn scalars(&self, value: impl Fn(usize) -> f32) -> Vec<f32> {
        match self.layout {
            WeightLayout::Narrow | WeightLayout::NarrowQuad => {
                (0..self.out_channels).map(value).collect()
            }
            WeightLayout::Wide | WeightLayout::Quad => {
                let lanes = self.lanes().into_iter();
                lanes.map(|c| c.map_or(0.0, &value)).collect()
            }
        }
    }

    /// The output channel of each lane, for all blocks of all groups.
    fn lanes(&self) -> Vec<Option<usize>> {
        let group_out = self.out_channels / self.conv.groups;
        let lanes = group_out.next_multiple_of(LANES);
        let lane = |l: usize| {
            let (group, c) = (l / lanes, l % lanes);
            (c < group_out).then_some(group * group_out + c)
        };
        (0..self.conv.groups * lanes).map(lane).collect()
    }
}
