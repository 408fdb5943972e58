//! Runs one operator: splits it into bands of output rows, one task each, and calls the kernels.

use std::ops::Range;

use bytemuck::Pod;

use crate::cpu::pool::Pool;
use crate::engine::EngineError;
use crate::engine::cpu::arena::Place;
use crate::engine::cpu::conv::ConvStep;
use crate::engine::cpu::kernels::positive;
use crate::engine::cpu::simd::Isa;
use crate::engine::cpu::skip::{Active, Runs};
use crate::map::quantize;
use crate::program::{DepthToSpaceMode, ProgramError};

/// Tasks per operator where the map has as many rows, for balance between threads.
pub(super) const MIN_BANDS: usize = 16;

/// An operator with everything that can be known before it runs.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) kind: StepKind,
    pub(super) output: Place,
    /// Whether this operator is the first to write the buffer: it then also clears its border.
    pub(super) clears_border: bool,
}

/// The operators; see [`super::program::OpKind`].
#[derive(Debug)]
pub(super) enum StepKind {
    Conv(ConvStep),
    /// `input · scale + shift`; ranges of bytes in the weight blob.
    Affine {
        input: Place,
        scale: Range<usize>,
        shift: Range<usize>,
        relu: bool,
    },
    Add {
        a: Place,
        b: Place,
        relu: bool,
    },
    Relu {
        input: Place,
    },
    Sigmoid {
        input: Place,
    },
    Quantize {
        input: Place,
        scale: f32,
    },
    Dequantize {
        input: Place,
        scale: f32,
    },
    DepthToSpace {
        input: Place,
        block: usize,
        mode: DepthToSpaceMode,
    },
    MaxPool(MaxPoolStep),
}

/// A maximum over windows; see [`super::program::OpKind::MaxPool`].
#[derive(Debug)]
pub(super) struct MaxPoolStep {
    pub(super) input: Place,
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) pad: [usize; 2],
}

/// What operators run with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) pool: &'a Pool,
    pub(super) isa: Isa,
    /// The weight blob.
    pub(super) weights: &'a [u8],
    /// What the operator computes; `None` for everything.
    pub(super) active: Option<Active<'a>>,
    /// Whether the network's input may have negative codes.
    pub(super) signed_input: bool,
}

impl<'a> Context<'a> {
    /// The pixels of row `y` of the output, whose width is given, that are computed.
    pub(super) fn runs(&self, y: usize, width: usize) -> Runs<'a> {
        self.active
            .map_or(Runs::all(width), |active| active.runs(y))
    }

    /// A section of the blob as values.
    pub(super) fn values<T: Pod>(&self, range: &Range<usize>) -> Result<&'a [T], EngineError> {
        let bytes = self.weights.get(range.clone());
        bytes
            .and_then(|bytes| bytemuck::try_cast_slice(bytes).ok())
            .ok_or_else(|| {
                let what =
                    format!("weights at {range:?} are not in memory, or not aligned to 4 bytes");
                ProgramError::payload(what).into()
            })
    }
}

/// An element of a map: f32, or a code.
pub(super) trait Element: Pod + Send + Sync {
    /// Below or equal to all others.
    const LOWEST: Self;
    /// The larger of two; of a number and NaN the number.
    fn larger(self, other: Self) -> Self;
}

impl Element for f32 {
    const LOWEST: Self = Self::NEG_INFINITY;

    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
}

impl Element for i8 {
    const LOWEST: Self = Self::MIN;

    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
}

impl Step {
    /// Runs the operator.
    pub(super) fn run(&self, context: Context<'_>, arena: &mut [u8]) -> Result<(), EngineError> {
        let codes = self.output.scale.is_some();
        match &self.kind {
            StepKind::Conv(conv) => conv.run(self, context, arena)?,
            StepKind::Affine {
                input,
                scale,
                shift,
                relu,
            } => {
                let (scale, shift): (&[f32], &[f32]) =
                    (context.values(scale)?, context.values(shift)?);
                self.pixels(context, arena, [*input; 2], |out: &mut [f32], [x, _]| {
                    for (c, (out, x)) in out.iter_mut().zip::<&[f32]>(x).enumerate() {
                        let y = x * scale[c] + shift[c];
                        *out = if *relu { positive(y) } else { y };
                    }
                });
            }
            StepKind::Add { a, b, relu } => {
                self.pixels(context, arena, [*a, *b], |out: &mut [f32], [a, b]| {
                    for ((out, a), b) in out.iter_mut().zip::<&[f32]>(a).zip(b) {
                        *out = if *relu { positive(a + b) } else { a + b };
                    }
                });
            }
            StepKind::Relu { input } => self.map(context, arena, input, positive),
            StepKind::Sigmoid { input } => {
                self.map(context, arena, input, |x: f32| 1.0 / (1.0 + (-x).exp()));
            }
            StepKind::Quantize { input, scale } => {
                self.map(context, arena, input, |x| quantize(x, *scale));
            }
            StepKind::Dequantize { input, scale } => {
                self.map(context, arena, input, |x: i8| f32::from(x) * scale);
            }
            StepKind::DepthToSpace { input, block, mode } if codes => {
                self.depth_to_space::<i8>(context, arena, input, *block, *mode);
            }
            StepKind::DepthToSpace { input, block, mode } => {
                self.depth_to_space::<f32>(context, arena, input, *block, *mode);
            }
            StepKind::MaxPool(step) if codes => self.max_pool::<i8>(context, arena, step),
            StepKind::MaxPool(step) => self.max_pool::<f32>(context, arena, step),
        }
        Ok(())
    }

    /// Calls `f(y, rows)` in parallel for bands of `band` output rows; `rows` are whole rows of the
    /// buffer, beginning with row `y` of the map. What is not computed is filled before.
    pub(super) fn bands<T: Element>(
        &self,
        context: Context<'_>,
        buffer: &mut [T],
        band: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let Place {
            border,
            row,
            pixel,
            height,
            ..
        } = self.output;
        let (edge, side) = (border * row, border * pixel);
        let body = edge..edge + height * row;
        if self.clears_border {
            buffer[..body.start].fill(T::zeroed());
            buffer[body.end..].fill(T::zeroed());
        }
        context
            .pool
            .for_each_chunk_mut(&mut buffer[body], band * row, |i, rows| {
                if self.clears_border && border > 0 {
                    for row in rows.chunks_exact_mut(row) {
                        row[..side].fill(T::zeroed());
                        let right = row.len() - side;
                        row[right..].fill(T::zeroed());
                    }
                }
                if let Some(active) = context.active {
                    for (r, row) in rows.chunks_exact_mut(row).enumerate() {
                        active.fill(
                            i * band + r,
                            &mut row[self.output.inset()..],
                            pixel,
                            self.output.channels,
                        );
                    }
                }
                f(i * band, rows);
            });
    }

    /// Calls `f(output, [a, b])` for each pixel's channels; both inputs have the output's shape.
    fn pixels<I: Element, O: Element>(
        &self,
        context: Context<'_>,
        arena: &mut [u8],
        places: [Place; 2],
        f: impl Fn(&mut [O], [&[I]; 2]) + Sync,
    ) {
        let output = &self.output;
        let (buffer, inputs) = split::<I, O>(arena, output, places);
        let band = output.height.div_ceil(MIN_BANDS);
        self.bands(context, buffer, band, |y, rows| {
            for (r, row) in rows.chunks_exact_mut(output.row).enumerate() {
                for x in context.runs(y + r, output.width).flatten() {
                    let values = [0, 1].map(|k| {
                        let (input, place) = (inputs[k], &places[k]);
                        let at = place.start() + (y + r) * place.row + x * place.pixel;
                        &input[at..at + output.channels]
                    });
                    let at = output.inset() + x * output.pixel;
                    f(&mut row[at..at + output.channels], values);
                }
            }
        });
    }

    /// Makes each element from the one at its place.
    fn map<I: Element, O: Element>(
        &self,
        context: Context<'_>,
        arena: &mut [u8],
        input: &Place,
        f: impl Fn(I) -> O + Sync,
    ) {
        self.pixels(context, arena, [*input; 2], |out: &mut [O], [x, _]| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = f(*x));
        });
    }

    fn depth_to_space<T: Element>(
        &self,
        context: Context<'_>,
        arena: &mut [u8],
        place: &Place,
        block: usize,
        mode: DepthToSpaceMode,
    ) {
        let output = &self.output;
        let (buffer, [input, _]) = split::<T, T>(arena, output, [*place; 2]);
        let band = output.height.div_ceil(MIN_BANDS);
        self.bands(context, buffer, band, |y, rows| {
            for (r, row) in rows.chunks_exact_mut(output.row).enumerate() {
                let (i, a) = ((y + r) / block, (y + r) % block);
                for x in context.runs(y + r, output.width).flatten() {
                    let (j, b) = (x / block, x % block);
                    let from = place.start() + i * place.row + j * place.pixel;
                    let from = &input[from..from + place.channels];
                    let to = output.inset() + x * output.pixel;
                    let to = &mut row[to..to + output.channels];
                    match mode {
                        DepthToSpaceMode::Dcr => {
                            let first = (a * block + b) * output.channels;
                            to.copy_from_slice(&from[first..first + output.channels]);
                        }
                        DepthToSpaceMode::Crd => {
                            for (c, to) in to.iter_mut().enumerate() {
                                *to = from[(c * block + a) * block + b];
                            }
                        }
                    }
                }
            }
        });
    }

    fn max_pool<T: Element>(&self, context: Context<'_>, arena: &mut [u8], step: &MaxPoolStep) {
        let (output, place) = (&self.output, &step.input);
        let (buffer, [input, _]) = split::<T, T>(arena, output, [*place; 2]);
        // The part of a window inside the map.
        let window = |at: usize, axis: usize, len: usize| {
            let first = at * step.stride[axis];
            let end = (first + step.kernel[axis])
                .saturating_sub(step.pad[axis])
                .min(len);
            first.saturating_sub(step.pad[axis])..end
        };
        let band = output.height.div_ceil(MIN_BANDS);
        self.bands(context, buffer, band, |y, rows| {
            for (r, row) in rows.chunks_exact_mut(output.row).enumerate() {
                for x in context.runs(y + r, output.width).flatten() {
                    let to = output.inset() + x * output.pixel;
                    let to = &mut row[to..to + output.channels];
                    to.fill(T::LOWEST);
                    for i in window(y + r, 0, place.height) {
                        for j in window(x, 1, place.width) {
                            let from = place.start() + i * place.row + j * place.pixel;
                            let from = &input[from..from + output.channels];
                            to.iter_mut()
                                .zip(from)
                                .for_each(|(to, v)| *to = to.larger(*v));
                        }
                    }
                }
            }
        });
    }
}

/// The output's buffer, to be written, and two inputs' buffers, which are others.
pub(super) fn split<'a, I: Element, O: Element>(
    arena: &'a mut [u8],
    output: &Place,
    inputs: [Place; 2],
) -> (&'a mut [O], [&'a [I]; 2]) {
    let (buffer, inputs) = split_bytes(arena, output, inputs);
    (
        bytemuck::cast_slice_mut(buffer),
        inputs.map(bytemuck::cast_slice),
    )
}

/// As [`split`], where the inputs' elements differ.
pub(super) fn split_bytes<'a>(
    arena: &'a mut [u8],
    output: &Place,
    inputs: [Place; 2],
) -> (&'a mut [u8], [&'a [u8]; 2]) {
    let range = output.buffer();
    let (before, rest) = arena.split_at_mut(range.start);
    let (buffer, after) = rest.split_at_mut(range.len());
    let (before, after) = (&*before, &*after);
    let inputs = inputs.map(|place| {
        let input = place.buffer();
        if input.end <= range.start {
            &before[input]
        } else {
            &after[input.start - range.end..input.end - range.end]
        }
    });
    (buffer, inputs)
}
