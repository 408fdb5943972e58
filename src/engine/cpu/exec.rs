//! Runs one operator: splits it into bands of output rows, one task each, and calls the kernels.

use super::arena::Place;
use super::conv::ConvStep;
use super::kernels::positive;
use super::program::DepthToSpaceMode;
use super::simd::Isa;
use crate::engine::{EngineError, quantize};
use crate::threads::Pool;

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
        scale: std::ops::Range<usize>,
        shift: std::ops::Range<usize>,
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
    DepthToSpace {
        input: Place,
        block: usize,
        mode: DepthToSpaceMode,
    },
    Quantize {
        input: Place,
        scale: f32,
    },
    Dequantize {
        input: Place,
        scale: f32,
    },
    MaxPool {
        input: Place,
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 2],
    },
}

/// What operators run with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) pool: &'a Pool,
    pub(super) isa: Isa,
    /// The weight blob.
    pub(super) weights: &'a [u8],
}

impl<'a> Context<'a> {
    /// A section of the blob as values.
    pub(super) fn values(&self, range: &std::ops::Range<usize>) -> Result<&'a [f32], EngineError> {
        let bytes = self.weights.get(range.clone());
        bytes
            .and_then(|bytes| bytemuck::try_cast_slice(bytes).ok())
            .ok_or_else(|| EngineError::Payload {
                what: format!("weights at {range:?} are not in memory, or not aligned to 4 bytes"),
            })
    }
}

impl Step {
    /// Runs the operator.
    pub(super) fn run(&self, context: Context<'_>, arena: &mut [f32]) -> Result<(), EngineError> {
        let pool = context.pool;
        match &self.kind {
            StepKind::Conv(conv) => conv.run(self, context, arena)?,
            StepKind::Affine {
                input,
                scale,
                shift,
                relu,
            } => {
                let (scale, shift) = (context.values(scale)?, context.values(shift)?);
                self.pixels(pool, arena, [*input, *input], |out, [x, _]| {
                    for (c, (out, x)) in out.iter_mut().zip(x).enumerate() {
                        let y = x * scale[c] + shift[c];
                        *out = if *relu { positive(y) } else { y };
                    }
                });
            }
            StepKind::Add { a, b, relu } => {
                self.pixels(pool, arena, [*a, *b], |out, [a, b]| {
                    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                        *out = if *relu { positive(a + b) } else { a + b };
                    }
                });
            }
            StepKind::Relu { input } => {
                self.pixels(pool, arena, [*input, *input], |out, [x, _]| {
                    out.iter_mut()
                        .zip(x)
                        .for_each(|(out, x)| *out = positive(*x));
                });
            }
            StepKind::Sigmoid { input } => {
                self.pixels(pool, arena, [*input, *input], |out, [x, _]| {
                    out.iter_mut()
                        .zip(x)
                        .for_each(|(out, x)| *out = 1.0 / (1.0 + (-x).exp()));
                });
            }
            StepKind::Quantize { input, scale } => {
                self.pixels(pool, arena, [*input, *input], |out, [x, _]| {
                    out.iter_mut()
                        .zip(x)
                        .for_each(|(out, x)| *out = f32::from(quantize(*x, *scale)));
                });
            }
            StepKind::Dequantize { input, scale } => {
                self.pixels(pool, arena, [*input, *input], |out, [x, _]| {
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = x * scale);
                });
            }
            StepKind::DepthToSpace { input, block, mode } => {
                self.depth_to_space(pool, arena, input, *block, *mode);
            }
            StepKind::MaxPool {
                input,
                kernel,
                stride,
                pad,
            } => {
                self.max_pool(pool, arena, input, *kernel, *stride, *pad);
            }
        }
        Ok(())
    }

    /// Calls `f(y, rows)` in parallel for bands of `band` output rows; `rows` are whole rows of the
    /// buffer, beginning with row `y` of the map.
    pub(super) fn bands(
        &self,
        pool: &Pool,
        buffer: &mut [f32],
        band: usize,
        f: impl Fn(usize, &mut [f32]) + Sync,
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
            buffer[..body.start].fill(0.0);
            buffer[body.end..].fill(0.0);
        }
        pool.for_each_chunk_mut(&mut buffer[body], band * row, |i, rows| {
            if self.clears_border && border > 0 {
                for row in rows.chunks_exact_mut(row) {
                    row[..side].fill(0.0);
                    let right = row.len() - side;
                    row[right..].fill(0.0);
                }
            }
            f(i * band, rows);
        });
    }

    /// Calls `f(output, [a, b])` for each pixel's channels; both inputs have the output's shape.
    fn pixels(
        &self,
        pool: &Pool,
        arena: &mut [f32],
        places: [Place; 2],
        f: impl Fn(&mut [f32], [&[f32]; 2]) + Sync,
    ) {
        let output = &self.output;
        let (buffer, inputs) = split(arena, output, places);
        self.bands(
            pool,
            buffer,
            output.height.div_ceil(MIN_BANDS),
            |y, rows| {
                for (r, row) in rows.chunks_exact_mut(output.row).enumerate() {
                    for x in 0..output.width {
                        let values = [0, 1].map(|k| {
                            let (input, place) = (inputs[k], &places[k]);
                            let at = place.start() + (y + r) * place.row + x * place.pixel;
                            &input[at..at + output.channels]
                        });
                        let at = output.inset() + x * output.pixel;
                        f(&mut row[at..at + output.channels], values);
                    }
                }
            },
        );
    }

    fn depth_to_space(
        &self,
        pool: &Pool,
        arena: &mut [f32],
        place: &Place,
        block: usize,
        mode: DepthToSpaceMode,
    ) {
        let output = &self.output;
        let (buffer, [input, _]) = split(arena, output, [*place, *place]);
        self.bands(
            pool,
            buffer,
            output.height.div_ceil(MIN_BANDS),
            |y, rows| {
                for (r, row) in rows.chunks_exact_mut(output.row).enumerate() {
                    let (i, a) = ((y + r) / block, (y + r) % block);
                    for x in 0..output.width {
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
            },
        );
    }

    fn max_pool(
        &self,
        pool: &Pool,
        arena: &mut [f32],
        place: &Place,
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 2],
    ) {
        let output = &self.output;
        let (buffer, [input, _]) = split(arena, output, [*place, *place]);
        // The part of a window inside the map.
        let window = |at: usize, axis: usize, len: usize| {
            let first = at * stride[axis];
            let end = (first + kernel[axis]).saturating_sub(pad[axis]).min(len);
            first.saturating_sub(pad[axis])..end
        };
        self.bands(
            pool,
            buffer,
            output.height.div_ceil(MIN_BANDS),
            |y, rows| {
                for (r, row) in rows.chunks_exact_mut(output.row).enumerate() {
                    for x in 0..output.width {
                        let to = output.inset() + x * output.pixel;
                        let to = &mut row[to..to + output.channels];
                        to.fill(f32::NEG_INFINITY);
                        for i in window(y + r, 0, place.height) {
                            for j in window(x, 1, place.width) {
                                let from = place.start() + i * place.row + j * place.pixel;
                                let from = &input[from..from + output.channels];
                                to.iter_mut().zip(from).for_each(|(to, v)| *to = to.max(*v));
                            }
                        }
                    }
                }
            },
        );
    }
}

/// The output's buffer, to be written, and two inputs' buffers, which are others.
pub(super) fn split<'a>(
    arena: &'a mut [f32],
    output: &Place,
    inputs: [Place; 2],
) -> (&'a mut [f32], [&'a [f32]; 2]) {
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
