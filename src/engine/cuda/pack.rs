//! Weights and constants of convolutions, from the program's order and types to those of `kernels/conv.cu`.

use half::f16;

use crate::cuda::conv::{ConvKernel, ConvPhase, PRODUCT};
use crate::cuda::place::PlaceShape;
use crate::engine::EngineError;
use crate::program::layout::{LANES, NARROW, QUAD};
use crate::program::{Conv, Phase, ProgramError, WeightLayout, values};

/// The weights of a phase in the program's order.
struct Weights<'a> {
    conv: &'a Conv,
    values: Values<'a>,
    /// Of codes.
    multiplier: &'a [f32],
    bias: &'a [f32],
    /// Input and output channels of a group.
    channels: usize,
    outputs: usize,
    taps: usize,
}

/// Weights, of which those in f32 become halves.
enum Values<'a> {
    Codes(&'a [i8]),
    Floats(&'a [f32]),
}

impl<'a> Weights<'a> {
    fn new(
        conv: &'a Conv,
        phase: &Phase,
        blob: &'a [u8],
        [channels, outputs]: [usize; 2],
    ) -> Result<Self, EngineError> {
        let range = phase.weights.range();
        let (weights, multiplier): (_, &[f32]) = if conv.layout.is_integer() {
            let multiplier = phase.multiplier.ok_or_else(|| {
                ProgramError::payload("a convolution of codes has no multipliers".to_owned())
            })?;
            let codes = values(blob, &range)?;
            (Values::Codes(codes), values(blob, &multiplier.range())?)
        } else {
            let floats: &[f32] = values(blob, &range)?;
            let fits = |value: &f32| !value.is_finite() || f16::from_f32(*value).is_finite();
            if let Some(value) = floats.iter().find(|value| !fits(value)) {
                let what = format!("a weight of {value} exceeds FP16; run the plan in f32 or INT8");
                return Err(ProgramError::payload(what).into());
            }
            (Values::Floats(floats), &[])
        };
        Ok(Self {
            conv,
            values: weights,
            multiplier,
            bias: values(blob, &phase.bias.range())?,
            channels,
            outputs,
            taps: phase.taps.len(),
        })
    }

    /// The block or channel of the program's order that holds an output channel of a group, and its lane.
    fn lane(&self, group: usize, output: usize) -> (usize, usize) {
        if self.conv.layout.is_narrow() {
            return (output, 0);
        }
        (
            group * self.outputs.div_ceil(LANES) + output / LANES,
            output % LANES,
        )
    }

    /// Position of a weight in the program's order.
    fn at(&self, group: usize, output: usize, tap: usize, channel: usize) -> usize {
        let (block, lane) = self.lane(group, output);
        let row = block * self.taps + tap;
        match self.conv.layout {
            WeightLayout::Narrow => row * self.channels + channel,
            WeightLayout::NarrowQuad => row * self.channels.next_multiple_of(NARROW) + channel,
            WeightLayout::Wide => (row * self.channels + channel) * LANES + lane,
            WeightLayout::Quad => {
                let quad = row * self.channels.div_ceil(QUAD) + channel / QUAD;
                (quad * LANES + lane) * QUAD + channel % QUAD
            }
        }
    }

    /// Appends a weight as the kernels store it.
    fn push(&self, to: &mut Vec<u8>, at: Option<usize>) {
        match self.values {
            Values::Codes(codes) => {
                let code = at.and_then(|at| codes.get(at)).copied();
                to.push(code.unwrap_or(0) as u8);
            }
            Values::Floats(floats) => {
                let value = at.and_then(|at| floats.get(at)).copied();
                to.extend(f16::from_f32(value.unwrap_or(0.0)).to_le_bytes());
            }
        }
    }

    /// The sum of the codes of an output channel.
    fn sum(&self, group: usize, output: usize) -> i32 {
        let Values::Codes(codes) = self.values else {
            return 0;
        };
        let all = (0..self.taps).flat_map(|tap| (0..self.channels).map(move |c| (tap, c)));
        let code = |(tap, c)| codes.get(self.at(group, output, tap, c)).copied();
        all.map(|at| i32::from(code(at).unwrap_or(0))).sum()
    }

    fn constants(&self, group: usize, output: usize) -> (f32, f32) {
        let (block, lane) = self.lane(group, output);
        let at = if self.conv.layout.is_narrow() {
            block
        } else {
            block * LANES + lane
        };
        let of = |values: &[f32]| values.get(at).copied().unwrap_or(0.0);
        let multiplier = match self.values {
            Values::Codes(_) => of(self.multiplier),
            Values::Floats(_) => 1.0,
        };
        (multiplier, of(self.bias))
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
        let at = |output: usize, tap: usize, channel: usize| match (to[output], from[channel]) {
            (Some(output), Some(channel)) => Some(weights.at(group, output, tap, channel)),
            _ => None,
        };
        let element = kernel.element.bytes();
        let product = PRODUCT / element;
        let mut bytes = Vec::with_capacity(outputs * phase.taps.len() * channels * element);
        for block in (0..outputs).step_by(kernel.outputs) {
            for chunk in (0..channels).step_by(kernel.channels) {
                for tap in 0..phase.taps.len() {
                    for part in (chunk..chunk + kernel.channels).step_by(product) {
                        fragment(kernel.outputs, 4 / element, |output, channel| {
                            weights.push(&mut bytes, at(block + output, tap, part + channel));
                        });
                    }
                }
            }
        }
        for &output in &to {
            let constants = output.map_or((0.0, 0.0, 0), |output| {
                let (multiplier, bias) = weights.constants(group, output);
                let sum = if zero == 0 {
                    0
                } else {
                    weights.sum(group, output)
                };
                (multiplier, bias, sum.wrapping_mul(-i32::from(zero)))
            });
            packed.constants.push(constants);
        }
        let taps = phase.taps.iter().map(|tap| {
            [0, 1].map(|axis| usize::try_from(tap[axis] - first[axis]).unwrap_or(usize::MAX))
        });
        packed.phases.push(ConvPhase {
            taps: taps.collect(),
            weights: bytes,
        });
    }
    Ok(packed)
}

/// Passes the weights of a product's input channels for `outputs` output channels to `push`, as a warp's lanes take them: column
/// `lane / 4` of one or two groups of 8 output channels, words `lane % 4` and `lane % 4 + 4` of its input channels, of which a
/// word holds `in_word`.
fn fragment(outputs: usize, in_word: usize, mut push: impl FnMut(usize, usize)) {
    let columns = if outputs == 8 { 8 } else { 16 };
    for first in (0..outputs).step_by(columns) {
        for lane in 0..32 {
            for column in (0..columns).step_by(8) {
                for word in [lane % 4, lane % 4 + 4] {
                    for channel in word * in_word..(word + 1) * in_word {
                        push(first + column + lane / 4, channel);
                    }
                }
            }
        }
    }
}
