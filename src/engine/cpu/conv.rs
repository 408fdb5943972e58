//! Runs a convolution. Bands of output rows run in parallel. Within a band, output channels run block by block, so a
//! block's weights and the band's input stay in the L2 cache.

use std::ops::Range;

use crate::engine::EngineError;
use crate::engine::cpu::arena::{Element, MIN_BANDS, TensorPlace, element};
use crate::engine::cpu::bands::{StepContext, Target, split_bytes};
use crate::engine::cpu::int8_kernels::{
    Int8Output, Int8Residual, Int8Row, int8_narrow_row, int8_wide_channels, int8_wide_row,
};
use crate::engine::cpu::kernels::{Residual, Row, narrow_row, wide_channels, wide_row};
use crate::engine::cpu::marks::GROUP;
use crate::engine::cpu::reference::{Builder, Reference};
use crate::engine::cpu::slices::{Background, whole_blocks};
use crate::program::layout::LANES;
use crate::program::layout::QUAD;
use crate::program::{Codes, Conv, Phase, WeightLayout};

/// Target limit for a band's input, in bytes.
const BAND_BYTES: usize = 256 << 10;

/// A convolution with everything that is known before it runs; see [`Conv`].
#[derive(Debug)]
pub(super) struct ConvStep {
    input: TensorPlace,
    /// Whether the input's codes may be negative.
    signed: Signed,
    residual: Option<TensorPlace>,
    stride: [usize; 2],
    up: [usize; 2],
    groups: usize,
    relu: bool,
    layout: WeightLayout,
    phases: Vec<PhaseStep>,
    /// The quads of a group's input channels.
    quads: Range<usize>,
    /// Rows of steps per task.
    band: usize,
}

/// The sign of a convolution's input codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    /// Never negative, because a ReLU precedes.
    No,
    /// The convolution reads the frame's input, whose sign is checked for each frame.
    AsInput,
    /// May be negative.
    Yes,
}

/// A phase of a convolution. Ranges are bytes in the weight blob.
#[derive(Debug)]
struct PhaseStep {
    /// Offset of each tap from tap (0, 0), in input elements.
    taps: Vec<isize>,
    weights: Range<usize>,
    /// Empty if the weights are f32.
    multiplier: Range<usize>,
    bias: Range<usize>,
}

/// The constants of a phase.
#[derive(Clone, Copy)]
enum Constants<'a> {
    F32 {
        weights: &'a [f32],
        bias: &'a [f32],
    },
    I8 {
        weights: &'a [i8],
        multiplier: &'a [f32],
        bias: &'a [f32],
    },
}

/// An input buffer.
#[derive(Clone, Copy)]
enum Buffer<'a> {
    F32(&'a [f32]),
    I8 { codes: &'a [i8], meaning: Codes },
}

impl<'a> Buffer<'a> {
    fn new(place: &TensorPlace, bytes: &'a [u8]) -> Self {
        match place.codes {
            None => Self::F32(bytemuck::cast_slice(bytes)),
            Some(meaning) => Self::I8 {
                codes: bytemuck::cast_slice(bytes),
                meaning,
            },
        }
    }
}

/// State that all tasks of a convolution share.
struct Task<'a> {
    conv: &'a ConvStep,
    output: &'a TensorPlace,
    context: StepContext<'a>,
    input: Buffer<'a>,
    residual: Option<(TensorPlace, Buffer<'a>)>,
    /// Output channels per group.
    per_group: usize,
}

impl ConvStep {
    /// Prepares a validated convolution.
    pub(super) fn new(
        conv: &Conv,
        input: TensorPlace,
        signed: Signed,
        residual: Option<TensorPlace>,
        output: &TensorPlace,
    ) -> Self {
        let offset = |&[dy, dx]: &[i32; 2]| {
            dy as isize * input.row as isize + dx as isize * input.pixel as isize
        };
        let phase = |phase: &Phase| PhaseStep {
            taps: phase.taps.iter().map(offset).collect(),
            weights: phase.weights.range(),
            multiplier: phase.multiplier.map_or(0..0, |section| section.range()),
            bias: phase.bias.range(),
        };
        let steps = output.height.div_ceil(conv.up[0]);
        let bytes = conv.stride[0] * input.row * element(input.codes);
        Self {
            input,
            signed,
            residual,
            stride: conv.stride,
            up: conv.up,
            groups: conv.groups,
            relu: conv.relu,
            layout: conv.layout,
            phases: conv.phases.iter().map(phase).collect(),
            quads: 0..(input.channels / conv.groups).div_ceil(QUAD),
            band: (BAND_BYTES / bytes).min(steps.div_ceil(MIN_BANDS)).max(1),
        }
    }

    /// Runs the convolution.
    pub(super) fn run(
        &self,
        target: &Target,
        context: StepContext<'_>,
        arena: &mut [u8],
    ) -> Result<(), EngineError> {
        // Tasks cannot return errors, so check the sections here.
        for phase in &self.phases {
            self.constants(phase, context)?;
        }
        let output = &target.output;
        let places = [self.input, self.residual.unwrap_or(self.input)];
        let (buffer, [input, residual]) = split_bytes(arena, output, places);
        let task = Task {
            conv: self,
            output,
            context,
            input: Buffer::new(&self.input, input),
            residual: self
                .residual
                .map(|place| (place, Buffer::new(&place, residual))),
            per_group: output.channels / self.groups,
        };
        match output.codes {
            None => task.bands::<f32>(target, bytemuck::cast_slice_mut(buffer)),
            Some(_) => task.bands::<i8>(target, bytemuck::cast_slice_mut(buffer)),
        }
        Ok(())
    }

    /// The sums of `quads` of the input channels that the arena holds, added to those of `before`: a background of
    /// [`Slices`](crate::engine::cpu::slices::Slices). Its distinct groups may take `most` bytes. `None` if they would take
    /// more, or the convolution is not one that slices are for.
    pub(super) fn background(
        &self,
        output: &TensorPlace,
        context: StepContext<'_>,
        arena: &[u8],
        quads: &Range<usize>,
        before: Option<&Reference>,
        most: usize,
    ) -> Option<Reference> {
        let [phase] = &self.phases[..] else {
            return None;
        };
        let Ok(Constants::I8 {
            weights,
            multiplier,
            bias,
        }) = self.constants(phase, context)
        else {
            return None;
        };
        let Buffer::I8 { codes, meaning } = Buffer::new(&self.input, &arena[self.input.buffer()])
        else {
            return None;
        };
        let channels = whole_blocks(output.channels);
        let of_channel = phase.taps.len() * self.quads.end * QUAD;
        let groups = output.width.div_ceil(GROUP);
        let bytes = GROUP * channels * size_of::<i32>();
        let mut builder = Builder::new([output.height, groups], bytes, most);
        let mut sums = vec![0i32; groups * GROUP * channels];
        for y in 0..output.height {
            let start = self.input.start() + y * self.stride[0] * self.input.row;
            for channel in (0..channels).step_by(int8_wide_channels(context.isa)) {
                let count = (channels - channel).min(int8_wide_channels(context.isa));
                let row = Int8Row {
                    input: codes,
                    start,
                    taps: &phase.taps,
                    step: self.stride[1] * self.input.pixel,
                    channels: self.input.channels,
                    quads: std::slice::from_ref(quads),
                    background: before.map(|sums| Background {
                        sums,
                        y,
                        x: 0,
                        channel,
                        channels,
                    }),
                    signed: true,
                    zero: meaning.zero,
                    weights: &weights[channel * of_channel..],
                    multiplier: &multiplier[channel..],
                    bias: &bias[channel..],
                    residual: None,
                    output: Int8Output::Sums(&mut sums[channel..]),
                    output_step: channels,
                    width: output.width,
                    output_channels: count,
                    relu: false,
                };
                int8_wide_row(context.isa, row);
            }
            for group in sums.chunks_exact(GROUP * channels) {
                builder.push(bytemuck::cast_slice(group))?;
            }
        }
        Some(builder.finish())
    }

    fn constants<'a>(
        &self,
        phase: &PhaseStep,
        context: StepContext<'a>,
    ) -> Result<Constants<'a>, EngineError> {
        let bias = context.values(&phase.bias)?;
        Ok(match self.layout {
            WeightLayout::Wide | WeightLayout::Narrow => Constants::F32 {
                weights: context.values(&phase.weights)?,
                bias,
            },
            WeightLayout::Quad | WeightLayout::NarrowQuad => Constants::I8 {
                weights: context.values(&phase.weights)?,
                multiplier: context.values(&phase.multiplier)?,
                bias,
            },
        })
    }
}

impl Task<'_> {
    fn bands<O: Element>(&self, target: &Target, buffer: &mut [O]) {
        let conv = self.conv;
        let block = match conv.layout {
            WeightLayout::Wide => wide_channels(self.context.isa),
            WeightLayout::Quad => int8_wide_channels(self.context.isa),
            WeightLayout::Narrow | WeightLayout::NarrowQuad => self.per_group,
        };
        let band = conv.band * conv.up[0];
        target.bands(self.context, buffer, band, |y, rows| {
            for group in 0..conv.groups {
                for channel in (0..self.per_group).step_by(block) {
                    let channels = channel..(channel + block).min(self.per_group);
                    for (number, phase) in conv.phases.iter().enumerate() {
                        self.block(y, rows, group, channels.clone(), number, phase);
                    }
                }
            }
        });
    }

    /// Computes the output channels `outputs` of a group in one phase, for the band that begins with row `y`.
    fn block<O: Element>(
        &self,
        y: usize,
        rows: &mut [O],
        group: usize,
        outputs: Range<usize>,
        number: usize,
        phase: &PhaseStep,
    ) {
        let (conv, output) = (self.conv, self.output);
        let (a, b) = (number / conv.up[1], number % conv.up[1]);
        let Ok(constants) = conv.constants(phase, self.context) else {
            return;
        };
        let first = group * self.per_group + outputs.start;
        let band = rows.chunks_exact_mut(output.row).enumerate();
        for (r, row) in band.skip(a).step_by(conv.up[0]) {
            let y = y + r;
            let runs = self.context.runs(y, output.width);
            for (run, level) in runs.flat_map(|run| self.context.levels(y, run)) {
                // The steps whose pixels of this phase lie in the run.
                let step = |x: usize| x.saturating_sub(b).div_ceil(conv.up[1]);
                let steps = step(run.start)..step(run.end);
                if steps.is_empty() {
                    continue;
                }
                let x = steps.start * conv.up[1] + b;
                let place = &conv.input;
                let part = Part {
                    start: place.start()
                        + y / conv.up[0] * conv.stride[0] * place.row
                        + steps.start * conv.stride[1] * place.pixel
                        + group * place.channels / conv.groups,
                    residual: self.residual.map_or(0, |(place, _)| {
                        place.start() + y * place.row + x * place.pixel + first
                    }),
                    group,
                    outputs: outputs.clone(),
                    width: steps.len(),
                    pixel: [y, x],
                    level,
                };
                let at = output.inset() + x * output.pixel + first;
                self.row(&part, phase, constants, &mut row[at..]);
            }
        }
    }

    /// Computes the output channels of a part of a row. `row` begins with the first output channel of the first step.
    fn row<O: Element>(
        &self,
        part: &Part,
        phase: &PhaseStep,
        constants: Constants<'_>,
        row: &mut [O],
    ) {
        let (conv, output, isa) = (self.conv, self.output, self.context.isa);
        let channels = conv.input.channels / conv.groups;
        // Blocks of output channels that precede this part's.
        let blocks = part.group * self.per_group.div_ceil(LANES) + part.outputs.start / LANES;
        let taps = &phase.taps;
        let (step, output_step) = (conv.stride[1] * conv.input.pixel, conv.up[1] * output.pixel);
        match (constants, self.input) {
            (Constants::F32 { weights, bias }, Buffer::F32(input)) => {
                let residual = match self.residual {
                    Some((place, Buffer::F32(values))) => Some(Residual {
                        values: &values[part.residual..],
                        step: conv.up[1] * place.pixel,
                    }),
                    _ => None,
                };
                let row = Row {
                    input,
                    start: part.start,
                    taps,
                    step,
                    channels,
                    weights: &weights[blocks * taps.len() * channels * LANES..],
                    bias: &bias[blocks * LANES..],
                    residual,
                    output: bytemuck::cast_slice_mut(row),
                    output_step,
                    width: part.width,
                    output_channels: part.outputs.len(),
                    relu: conv.relu,
                };
                match conv.layout {
                    WeightLayout::Narrow => narrow_row(isa, row),
                    _ => wide_row(isa, row),
                }
            }
            (
                Constants::I8 {
                    weights,
                    multiplier,
                    bias,
                },
                Buffer::I8 {
                    codes: input,
                    meaning,
                },
            ) => {
                let residual = self.residual.map(|(place, buffer)| {
                    let step = conv.up[1] * place.pixel;
                    match buffer {
                        Buffer::F32(values) => Int8Residual::F32 {
                            values: &values[part.residual..],
                            step,
                        },
                        // The zero point of a residual is 0.
                        Buffer::I8 { codes, meaning } => Int8Residual::I8 {
                            codes: &codes[part.residual..],
                            scale: meaning.scale,
                            step,
                        },
                    }
                });
                let quads = channels.div_ceil(QUAD);
                let slices = self.context.slices;
                let sums = slices.and_then(|slices| slices.background(part.level));
                let row = Int8Row {
                    input,
                    start: part.start,
                    taps,
                    step,
                    channels,
                    quads: slices.map_or(std::slice::from_ref(&conv.quads), |slices| {
                        slices.multiplied(part.level)
                    }),
                    background: sums.map(|sums| Background {
                        sums,
                        y: part.pixel[0],
                        x: part.pixel[1],
                        channel: part.outputs.start,
                        channels: whole_blocks(output.channels),
                    }),
                    signed: match conv.signed {
                        Signed::No => false,
                        Signed::AsInput => self.context.signed_input,
                        Signed::Yes => true,
                    },
                    zero: meaning.zero,
                    weights: &weights[blocks * taps.len() * quads * QUAD * LANES..],
                    multiplier: &multiplier[blocks * LANES..],
                    bias: &bias[blocks * LANES..],
                    residual,
                    output: match output.codes {
                        None => Int8Output::F32(bytemuck::cast_slice_mut(row)),
                        Some(meaning) => Int8Output::I8 {
                            codes: bytemuck::cast_slice_mut(row),
                            meaning,
                        },
                    },
                    output_step,
                    width: part.width,
                    output_channels: part.outputs.len(),
                    relu: conv.relu,
                };
                match conv.layout {
                    WeightLayout::NarrowQuad => int8_narrow_row(isa, row),
                    _ => int8_wide_row(isa, row),
                }
            }
            // In a validated program the weights' type matches the input's.
            _ => {}
        }
    }
}

/// A part of an output row: a run of steps of a phase, and channels of a group.
struct Part {
    /// Index of the first input channel at tap (0, 0) of the first step.
    start: usize,
    /// Index of the first residual.
    residual: usize,
    group: usize,
    /// Output channels within the group.
    outputs: Range<usize>,
    /// Number of steps.
    width: usize,
    /// Row and column of the first step's output pixel.
    pixel: [usize; 2],
    /// The level of the steps; see [`Slices`](crate::engine::cpu::slices::Slices).
    level: usize,
}
