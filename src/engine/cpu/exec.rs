//! Runs one operator: prepares it once, then calls the kernels for each band (see [`super::bands`]).

use std::ops::Range;

use crate::elementary;
use crate::engine::EngineError;
use crate::engine::cpu::arena::{Element, MIN_BANDS, TensorPlace};
use crate::engine::cpu::bands::{StepContext, Target, split};
use crate::engine::cpu::conv::ConvStep;
use crate::engine::cpu::kernels::positive;
use crate::program::{Codes, DepthToSpaceMode};

/// An operator with everything that is known before it runs.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) kind: StepKind,
    pub(super) target: Target,
}

/// The operators; see [`OpKind`](crate::program::OpKind).
#[derive(Debug)]
pub(super) enum StepKind {
    Conv(ConvStep),
    /// `input · scale + shift`. The ranges are bytes in the weight blob.
    Affine {
        input: TensorPlace,
        scale: Range<usize>,
        shift: Range<usize>,
        relu: bool,
    },
    Add {
        a: TensorPlace,
        b: TensorPlace,
        relu: bool,
    },
    Relu {
        input: TensorPlace,
    },
    Sigmoid {
        input: TensorPlace,
    },
    Quantize {
        input: TensorPlace,
        codes: Codes,
    },
    Dequantize {
        input: TensorPlace,
        codes: Codes,
    },
    DepthToSpace {
        input: TensorPlace,
        block: usize,
        mode: DepthToSpaceMode,
    },
    MaxPool(MaxPoolStep),
}

/// Max pooling; see [`OpKind::MaxPool`](crate::program::OpKind::MaxPool).
#[derive(Debug)]
pub(super) struct MaxPoolStep {
    pub(super) input: TensorPlace,
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) pad: [usize; 2],
}

impl Step {
    /// Runs the operator.
    pub(super) fn run(
        &self,
        context: StepContext<'_>,
        arena: &mut [u8],
    ) -> Result<(), EngineError> {
        let has_codes = self.target.output.codes.is_some();
        match &self.kind {
            StepKind::Conv(conv) => conv.run(&self.target, context, arena)?,
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
                self.map(context, arena, input, |x: f32| {
                    1.0 / (1.0 + elementary::exp(-x) as f32)
                });
            }
            StepKind::Quantize { input, codes } => {
                self.map(context, arena, input, |x| codes.code(x));
            }
            StepKind::Dequantize { input, codes } => {
                self.map(context, arena, input, |x| codes.value(x));
            }
            StepKind::DepthToSpace { input, block, mode } if has_codes => {
                self.depth_to_space::<i8>(context, arena, input, *block, *mode);
            }
            StepKind::DepthToSpace { input, block, mode } => {
                self.depth_to_space::<f32>(context, arena, input, *block, *mode);
            }
            StepKind::MaxPool(step) if has_codes => self.max_pool::<i8>(context, arena, step),
            StepKind::MaxPool(step) => self.max_pool::<f32>(context, arena, step),
        }
        Ok(())
    }

    /// Calls `f(output, [a, b])` with the channels of each pixel; both inputs have the output's shape.
    fn pixels<I: Element, O: Element>(
        &self,
        context: StepContext<'_>,
        arena: &mut [u8],
        places: [TensorPlace; 2],
        f: impl Fn(&mut [O], [&[I]; 2]) + Sync,
    ) {
        let output = &self.target.output;
        let (buffer, inputs) = split::<I, O>(arena, output, places);
        let band = output.height.div_ceil(MIN_BANDS);
        self.target.bands(context, buffer, band, |y, rows| {
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

    /// Computes each element from the input element at the same position.
    fn map<I: Element, O: Element>(
        &self,
        context: StepContext<'_>,
        arena: &mut [u8],
        input: &TensorPlace,
        f: impl Fn(I) -> O + Sync,
    ) {
        self.pixels(context, arena, [*input; 2], |out: &mut [O], [x, _]| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = f(*x));
        });
    }

    fn depth_to_space<T: Element>(
        &self,
        context: StepContext<'_>,
        arena: &mut [u8],
        place: &TensorPlace,
        block: usize,
        mode: DepthToSpaceMode,
    ) {
        let output = &self.target.output;
        let (buffer, [input, _]) = split::<T, T>(arena, output, [*place; 2]);
        let band = output.height.div_ceil(MIN_BANDS);
        self.target.bands(context, buffer, band, |y, rows| {
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

    fn max_pool<T: Element>(&self, context: StepContext<'_>, arena: &mut [u8], step: &MaxPoolStep) {
        let (output, place) = (&self.target.output, &step.input);
        let (buffer, [input, _]) = split::<T, T>(arena, output, [*place; 2]);
        // The part of a window that lies inside the map.
        let window = |at: usize, axis: usize, len: usize| {
            let first = at * step.stride[axis];
            let end = (first + step.kernel[axis])
                .saturating_sub(step.pad[axis])
                .min(len);
            first.saturating_sub(step.pad[axis])..end
        };
        let band = output.height.div_ceil(MIN_BANDS);
        self.target.bands(context, buffer, band, |y, rows| {
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
