//! Weights and constants of convolutions of codes, from the program's order to that of `kernels/conv.cu`.

use crate::cuda::conv::{ConvKernel, ConvPhase};
use crate::cuda::place::PlaceShape;
use crate::engine::EngineError;
use crate::program::layout::{LANES, NARROW, QUAD};
use crate::program::{Conv, Phase, ProgramError, WeightLayout, values};

/// The weights of a phase in the program's order.
struct Weights<'a> {
    conv: &'a Conv,
    codes: &'a [i8],
    multiplier: &'a [f32],
    bias: &'a [f32],
    /// Input and output channels of a group.
    channels: usize,
    outputs: usize,
    taps: usize,
}

impl<'a> Weights<'a> {
    fn new(
        conv: &'a Conv,
        phase: &Phase,
        blob: &'a [u8],
        [channels, outputs]: [usize; 2],
    ) -> Result<Self, EngineError> {
        let multiplier = phase.multiplier.ok_or_else(|| {
            ProgramError::payload("a convolution of codes has no multipliers".to_owned())
        })?;
        Ok(Self {
            conv,
            codes: values(blob, &phase.weights.range())?,
            multiplier: values(blob, &multiplier.range())?,
            bias: values(blob, &phase.bias.range())?,
            channels,
            outputs,
            taps: phase.taps.len(),
        })
    }

    /// The block or channel of the program's order that holds an output channel of a group, and its lane.
    fn lane(&self, group: usize, output: usize) -> (usize, usize) {
        match self.conv.layout {
            WeightLayout::NarrowQuad => (output, 0),
            _ => (
                group * self.outputs.div_ceil(LANES) + output / LANES,
                output % LANES,
            ),
        }
    }

    fn code(&self, group: usize, output: usize, tap: usize, channel: usize) -> i8 {
        let (block, lane) = self.lane(group, output);
        let row = block * self.taps + tap;
        let at = match self.conv.layout {
            WeightLayout::NarrowQuad => row * self.channels.next_multiple_of(NARROW) + channel,
            _ => {
                let quad = row * self.channels.div_ceil(QUAD) + channel / QUAD;
                (quad * LANES + lane) * QUAD + channel % QUAD
            }
        };
        self.codes.get(at).copied().unwrap_or(0)
    }

    fn constants(&self, group: usize, output: usize) -> (f32, f32) {
        let (block, lane) = self.lane(group, output);
        let at = match self.conv.layout {
            WeightLayout::NarrowQuad => block,
            _ => block * LANES + lane,
        };
        let of = |values: &[f32]| values.get(at).copied().unwrap_or(0.0);
        (of(self.multiplier), of(self.bias))
    }
}

/// A group of a convolution in the kernels' order.
pub(super) struct Packed {
    pub(super) phases: Vec<ConvPhase>,
    pub(super) constants: Vec<(f32, f32, i32)>,
    /// Input channels in whole chunks.
    pub(super) channels: usize,
}

/// The channel at each position from the first channel's on; `None` at gaps and past the end.
fn channels_at(shape: &PlaceShape, count: usize) -> Vec<Option<usize>> {
    let mut at = vec![None; count];
    for (channel, position) in shape.channels.iter().enumerate() {
        at[*position as usize - shape.first()] = Some(channel);
    }
    at
}

/// Packs a group. `input` and `output` are the shapes of the group's channels, `first` the first row and column that taps
/// read, `zero` the input's zero point.
pub(super) fn pack(
    conv: &Conv,
    group: usize,
    blob: &[u8],
    kernel: &ConvKernel,
    [input, output]: [&PlaceShape; 2],
    first: [i32; 2],
    zero: i8,
) -> Result<Packed, EngineError> {
    let channels = input.span().next_multiple_of(kernel.channels);
    let outputs = output.span().next_multiple_of(kernel.outputs);
    let (from, to) = (channels_at(input, channels), channels_at(output, outputs));
    let sizes = [input.channels.len(), output.channels.len()];
    let mut packed = Packed {
        phases: Vec::with_capacity(conv.phases.len()),
        constants: Vec::with_capacity(conv.phases.len() * outputs),
        channels,
    };
    for phase in &conv.phases {
        let weights = Weights::new(conv, phase, blob, sizes)?;
        let code = |output: usize, tap: usize, channel: usize| match (to[output], from[channel]) {
            (Some(output), Some(channel)) => weights.code(group, output, tap, channel),
            _ => 0,
        };
        let mut codes = Vec::with_capacity(outputs * phase.taps.len() * channels);
        for block in (0..outputs).step_by(kernel.outputs) {
            for chunk in (0..channels).step_by(kernel.channels) {
                for tap in 0..phase.taps.len() {
                    for part in (chunk..chunk + kernel.channels).step_by(32) {
                        fragment(&mut codes, kernel.outputs, |output, channel| {
                            code(block + output, tap, part + channel)
                        });
                    }
                }
            }
        }
        for &output in &to {
            let constants = output.map_or((0.0, 0.0, 0), |output| {
                let (multiplier, bias) = weights.constants(group, output);
                let all =
                    (0..phase.taps.len()).flat_map(|tap| (0..sizes[0]).map(move |c| (tap, c)));
                let sum = all.map(|(tap, c)| i32::from(weights.code(group, output, tap, c)));
                let sum: i32 = if zero == 0 { 0 } else { sum.sum() };
                (multiplier, bias, sum.wrapping_mul(-i32::from(zero)))
            });
            packed.constants.push(constants);
        }
        let taps = phase.taps.iter().map(|tap| {
            [0, 1].map(|axis| usize::try_from(tap[axis] - first[axis]).unwrap_or(usize::MAX))
        });
        packed.phases.push(ConvPhase {
            taps: taps.collect(),
            weights: codes,
        });
    }
    Ok(packed)
}

/// Appends the weights of 32 input channels for `outputs` output channels, as a warp's lanes take them: column `lane / 4` of
/// one or two groups of 8 output channels, words `lane % 4` and `lane % 4 + 4` of its input channels.
fn fragment(codes: &mut Vec<i8>, outputs: usize, code: impl Fn(usize, usize) -> i8) {
    let columns = if outputs == 8 { 8 } else { 16 };
    for first in (0..outputs).step_by(columns) {
        for lane in 0..32 {
            for column in (0..columns).step_by(8) {
                for word in [lane % 4, lane % 4 + 4] {
                    let channels = word * 4..word * 4 + 4;
                    codes.extend(channels.map(|channel| code(first + column + lane / 4, channel)));
                }
            }
        }
    }
}
