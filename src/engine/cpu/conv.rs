//! Runs a convolution: bands of output rows in parallel, and within a band one block of output
//! channels after the other, so that a block's weights and the band's input stay in the L2 cache.

use std::ops::Range;

use super::arena::Place;
use super::exec::{Context, MIN_BANDS, Step, split};
use super::kernels::{Residual, Row, narrow_row, wide_channels, wide_row};
use super::pack::LANES;
use super::program::{Conv, Phase, WeightLayout};
use crate::engine::EngineError;

/// Input bytes that a band should not exceed.
const BAND_BYTES: usize = 256 << 10;

/// A convolution with everything that can be known before it runs; see [`Conv`].
#[derive(Debug)]
pub(super) struct ConvStep {
    input: Place,
    residual: Option<Place>,
    stride: [usize; 2],
    up: [usize; 2],
    groups: usize,
    relu: bool,
    layout: WeightLayout,
    phases: Vec<PhaseStep>,
    /// Rows of steps per task.
    band: usize,
}

/// A phase of a convolution.
#[derive(Debug)]
struct PhaseStep {
    /// From tap (0, 0) to each tap, in elements of the input.
    taps: Vec<isize>,
    /// Bytes in the weight blob.
    weights: Range<usize>,
    /// Bytes in the weight blob.
    bias: Range<usize>,
}

/// What all tasks of a convolution share.
struct Task<'a> {
    conv: &'a ConvStep,
    output: &'a Place,
    context: Context<'a>,
    /// The input's buffer.
    input: &'a [f32],
    /// The residual's place and buffer.
    residual: Option<(Place, &'a [f32])>,
    /// Output channels of a group.
    per_group: usize,
}

impl ConvStep {
    /// Prepares a validated convolution.
    pub(super) fn new(conv: &Conv, input: Place, residual: Option<Place>, output: &Place) -> Self {
        let offset = |&[dy, dx]: &[i32; 2]| {
            dy as isize * input.row as isize + dx as isize * input.pixel as isize
        };
        let phase = |phase: &Phase| PhaseStep {
            taps: phase.taps.iter().map(offset).collect(),
            weights: phase.weights.range(),
            bias: phase.bias.range(),
        };
        let steps = output.height.div_ceil(conv.up[0]);
        let bytes = conv.stride[0] * input.row * size_of::<f32>();
        Self {
            input,
            residual,
            stride: conv.stride,
            up: conv.up,
            groups: conv.groups,
            relu: conv.relu,
            layout: conv.layout,
            phases: conv.phases.iter().map(phase).collect(),
            band: (BAND_BYTES / bytes).min(steps.div_ceil(MIN_BANDS)).max(1),
        }
    }

    /// Runs the convolution that `step` holds.
    pub(super) fn run(
        &self,
        step: &Step,
        context: Context<'_>,
        arena: &mut [f32],
    ) -> Result<(), EngineError> {
        // Sections are looked at here, because the tasks cannot fail.
        for phase in &self.phases {
            context.values(&phase.weights)?;
            context.values(&phase.bias)?;
        }
        let output = &step.output;
        let residual = self.residual.unwrap_or(self.input);
        let (buffer, [input, values]) = split(arena, output, [self.input, residual]);
        let task = Task {
            conv: self,
            output,
            context,
            input,
            residual: self.residual.map(|place| (place, values)),
            per_group: output.channels / self.groups,
        };
        let block = match self.layout {
            WeightLayout::Wide => wide_channels(context.isa),
            WeightLayout::Narrow => task.per_group,
        };
        step.bands(context.pool, buffer, self.band * self.up[0], |y, rows| {
            for group in 0..self.groups {
                for channel in (0..task.per_group).step_by(block) {
                    let channels = channel..(channel + block).min(task.per_group);
                    for (number, phase) in self.phases.iter().enumerate() {
                        task.block(y, rows, group, channels.clone(), number, phase);
                    }
                }
            }
        });
        Ok(())
    }
}

impl Task<'_> {
    /// Computes the output channels `outputs` of a group, in one phase, for the band of rows that
    /// begins with row `y`.
    fn block(
        &self,
        y: usize,
        rows: &mut [f32],
        group: usize,
        outputs: Range<usize>,
        number: usize,
        phase: &PhaseStep,
    ) {
        let Self {
            conv,
            output,
            context,
            ..
        } = self;
        let (place, channels) = (&conv.input, conv.input.channels / conv.groups);
        let (a, b) = (number / conv.up[1], number % conv.up[1]);
        let width = output.width.saturating_sub(b).div_ceil(conv.up[1]);
        let (Ok(weights), Ok(bias)) = (context.values(&phase.weights), context.values(&phase.bias))
        else {
            return;
        };
        let blocks = match conv.layout {
            WeightLayout::Wide => group * self.per_group.div_ceil(LANES) + outputs.start / LANES,
            WeightLayout::Narrow => 0,
        };
        let first = group * self.per_group + outputs.start;
        let band = rows.chunks_exact_mut(output.row).enumerate();
        for (r, row) in band.skip(a).step_by(conv.up[0]) {
            let residual = self.residual.map(|(place, values)| {
                let at = place.start() + (y + r) * place.row + b * place.pixel + first;
                Residual {
                    values: &values[at..],
                    step: conv.up[1] * place.pixel,
                }
            });
            let i = (y + r) / conv.up[0];
            let row = Row {
                input: self.input,
                start: place.start() + i * conv.stride[0] * place.row + group * channels,
                taps: &phase.taps,
                step: conv.stride[1] * place.pixel,
                channels,
                weights: &weights[blocks * phase.taps.len() * channels * LANES..],
                bias: &bias[blocks * LANES..],
                residual,
                output: &mut row[output.inset() + b * output.pixel + first..],
                output_step: conv.up[1] * output.pixel,
                width,
                output_channels: outputs.len(),
                relu: conv.relu,
            };
            match conv.layout {
                WeightLayout::Wide => wide_row(context.isa, row),
                WeightLayout::Narrow => narrow_row(context.isa, row),
            }
        }
    }
}
