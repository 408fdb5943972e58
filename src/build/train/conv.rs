//! Convolutions and their gradients.
//!
//! Forward and backward pass have one form, that of [`crate::program::Conv`]: the output is `up` times finer than the
//! steps, and each of its phases has taps of its own. The gradient of the input is a convolution of the output's gradient
//! whose `stride` and `up` are exchanged; the gradient of a convolution of stride 2 has four phases, that of a
//! deconvolution has stride 2. So the engine's kernels do both. The gradient of the weights is a sum of outer products
//! over all pixels. It is taken in bands of rows whose number depends on the map only, and the bands are added in order:
//! the same bytes for any number of threads.

use super::kernels::{Outer, outer};
use super::map::{Maps, Shape};
use crate::build::lower::MAX_NARROW_CHANNELS;
use crate::cpu::Pool;
use crate::engine::cpu::{Isa, Residual, Row, narrow_row, wide_channels, wide_row};
use crate::program::layout::LANES;

/// Rows of an output in a band: of work in the forward pass, of one partial sum in the gradient of weights.
const BAND: usize = 8;

/// A tap: the offset of the pixel that it reads, and its place in the kernel, both in rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) offset: [isize; 2],
    pub(super) kernel: [usize; 2],
}

/// Which pixels a convolution reads for each that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) stride: [usize; 2],
    pub(super) up: [usize; 2],
    /// `up[0] · up[1]` phases.
    pub(super) phases: Vec<Vec<Tap>>,
}

impl Geometry {
    /// A Conv with padding at the top and the left.
    pub(super) fn conv(
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 2],
        dilation: [usize; 2],
    ) -> Self {
        let offset = |axis: usize, k: usize| (k * dilation[axis]) as isize - pad[axis] as isize;
        let taps = all(kernel).map(|[ky, kx]| Tap {
            offset: [offset(0, ky), offset(1, kx)],
            kernel: [ky, kx],
        });
        Self {
            stride,
            up: [1; 2],
            phases: vec![taps.collect()],
        }
    }

    /// A ConvTranspose whose kernel equals its stride.
    pub(super) fn deconvolution(stride: [usize; 2]) -> Self {
        let tap = |kernel| {
            vec![Tap {
                offset: [0; 2],
                kernel,
            }]
        };
        Self {
            stride: [1; 2],
            up: stride,
            phases: all(stride).map(tap).collect(),
        }
    }

    /// The convolution from the output's gradient to the input's.
    pub(super) fn backward(&self) -> Self {
        let mut phases = vec![Vec::new(); self.stride[0] * self.stride[1]];
        for (from, taps) in all(self.up).zip(&self.phases) {
            for tap in taps {
                // Step i reads pixel `stride · i + offset` and writes pixel `up · i + from`.
                let axis = |a: usize| {
                    let stride = self.stride[a] as isize;
                    let (whole, rest) = (
                        tap.offset[a].div_euclid(stride),
                        tap.offset[a].rem_euclid(stride),
                    );
                    (
                        rest as usize,
                        from[a] as isize - self.up[a] as isize * whole,
                    )
                };
                let ([a, b], offset) = {
                    let ((a, y), (b, x)) = (axis(0), axis(1));
                    ([a, b], [y, x])
                };
                phases[a * self.stride[1] + b].push(Tap {
                    offset,
                    kernel: tap.kernel,
                });
            }
        }
        Self {
            stride: self.up,
            up: self.stride,
            phases,
        }
    }

    /// Pixels that it reads beyond the edges of a map of `size` for an output of `out` rows and columns.
    pub(super) fn border(&self, size: [usize; 2], out: [usize; 2]) -> usize {
        let axis = |a: usize| {
            let offsets = || self.phases.iter().flatten().map(|tap| tap.offset[a]);
            let first = offsets().min().unwrap_or(0).min(0);
            let steps = out[a].div_ceil(self.up[a]).max(1);
            let last =
                ((steps - 1) * self.stride[a]) as isize + offsets().max().unwrap_or(0).max(0);
            (-first).max(last - (size[a] as isize - 1)).max(0) as usize
        };
        axis(0).max(axis(1))
    }
}

/// All pairs below `size`, row by row.
fn all([rows, columns]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    (0..rows).flat_map(move |y| (0..columns).map(move |x| [y, x]))
}

/// The order of a weight's values: `[groups · first][second][rows][columns]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightOrder {
    /// Rows and columns of the kernel.
    pub(super) kernel: [usize; 2],
    pub(super) groups: usize,
    /// Input and output channels of a group.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// ConvTranspose: `[I][O / groups]` instead of `[O][I / groups]`.
    pub(super) transposed: bool,
}

impl WeightOrder {
    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.groups * self.inputs * self.outputs * self.kernel[0] * self.kernel[1]
    }

    /// Index of the weight from input `i` to output `o` of group `g`.
    fn index(&self, g: usize, i: usize, o: usize, [ky, kx]: [usize; 2]) -> usize {
        let (first, second) = if self.transposed {
            (g * self.inputs + i, o)
        } else {
            (g * self.outputs + o, i)
        };
        let seconds = if self.transposed {
            self.outputs
        } else {
            self.inputs
        };
        ((first * seconds + second) * self.kernel[0] + ky) * self.kernel[1] + kx
    }

    /// Number of values that share an output channel's scale, and the channel of a value.
    pub(super) fn channel(&self, index: usize) -> usize {
        let inner = self.kernel[0] * self.kernel[1];
        if self.transposed {
            let group = index / (self.inputs * self.outputs * inner);
            group * self.outputs + index / inner % self.outputs
        } else {
            index / (self.inputs * inner)
        }
    }
}

/// The weights of one direction, in the order of the engine's kernels ([`crate::program::layout`]).
#[derive(Clone, Debug)]
struct Packed {
    narrow: bool,
    /// Input and output channels of a group.
    channels: [usize; 2],
    phases: Vec<Vec<f32>>,
    bias: Vec<f32>,
}

/// A convolution of fixed shapes.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    pub(super) order: WeightOrder,
    forward: Geometry,
    backward: Geometry,
    packed: [Packed; 2],
    /// Partial gradients of the weights by band, `[band][group][tap][rows][blocks · 16]`.
    partial: Vec<Vec<f32>>,
    /// Partial gradients of the bias by band.
    partial_bias: Vec<Vec<f32>>,
}

impl Conv {
    pub(super) fn new(order: WeightOrder, geometry: Geometry) -> Self {
        let backward = geometry.backward();
        let packed = |g: &Geometry, from: usize, to: usize, may_narrow: bool| Packed {
            narrow: may_narrow && to <= MAX_NARROW_CHANNELS && from.is_multiple_of(LANES),
            channels: [from, to],
            phases: vec![Vec::new(); g.phases.len()],
            bias: Vec::new(),
        };
        let (inputs, outputs) = (order.inputs, order.outputs);
        Self {
            order,
            packed: [
                packed(&geometry, inputs, outputs, true),
                // Narrow kernels add nothing to a gradient that is already there.
                packed(&backward, outputs, inputs, false),
            ],
            forward: geometry,
            backward,
            partial: Vec::new(),
            partial_bias: Vec::new(),
        }
    }

    /// Pixels read beyond the edges by the forward and the backward pass.
    pub(super) fn border(&self, input: [usize; 2], output: [usize; 2]) -> usize {
        self.forward
            .border(input, output)
            .max(self.backward.border(output, input))
    }

    /// Takes over weights, in the order of ONNX, and the bias.
    pub(super) fn pack(&mut self, weight: &[f32], bias: Option<&[f32]>) {
        let order = self.order;
        for (packed, geometry, forward) in [(0, &self.forward, true), (1, &self.backward, false)] {
            let packed = &mut self.packed[packed];
            let [from, to] = packed.channels;
            for (values, taps) in packed.phases.iter_mut().zip(&geometry.phases) {
                let at = |g: usize, c: usize, k: usize, tap: &Tap| {
                    let (i, o) = if forward { (k, c) } else { (c, k) };
                    weight[order.index(g, i, o, tap.kernel)]
                };
                values.clear();
                for g in 0..order.groups {
                    if packed.narrow {
                        for c in 0..to {
                            for tap in taps {
                                values.extend((0..from).map(|k| at(g, c, k, tap)));
                            }
                        }
                        continue;
                    }
                    for block in (0..to).step_by(LANES) {
                        for tap in taps {
                            for k in 0..from {
                                values.extend(
                                    (block..block + LANES)
                                        .map(|c| if c < to { at(g, c, k, tap) } else { 0.0 }),
                                );
                            }
                        }
                    }
                }
            }
            let step = if packed.narrow {
                to
            } else {
                to.next_multiple_of(LANES)
            };
            packed.bias.clear();
            packed.bias.resize(order.groups * step, 0.0);
            if let Some(bias) = bias.filter(|_| forward) {
                for (i, &value) in bias.iter().enumerate() {
                    packed.bias[i / to * step + i % to] = value;
                }
            }
        }
    }

    /// Computes all frames, with a ReLU or without.
    pub(super) fn forward(
        &self,
        pool: &Pool,
        isa: Isa,
        input: &Maps,
        relu: bool,
        output: &mut Maps,
    ) {
        let pass = Pass {
            geometry: &self.forward,
            packed: &self.packed[0],
            groups: self.order.groups,
            relu,
            add: false,
        };
        pass.run(pool, isa, input, output);
    }

    /// Computes the gradient of the input, or adds it to what is there.
    pub(super) fn backward(
        &self,
        pool: &Pool,
        isa: Isa,
        gradient: &Maps,
        add: bool,
        input_gradient: &mut Maps,
    ) {
        let pass = Pass {
            geometry: &self.backward,
            packed: &self.packed[1],
            groups: self.order.groups,
            relu: false,
            add,
        };
        pass.run(pool, isa, gradient, input_gradient);
    }

    /// Adds the gradients of the weights and of the bias over all frames to `weight` and `bias`, both in ONNX's order.
    pub(super) fn weight_gradient(
        &mut self,
        pool: &Pool,
        isa: Isa,
        input: &Maps,
        gradient: &Maps,
        weight: &mut [f32],
        bias: Option<&mut [f32]>,
    ) {
        let order = self.order;
        // Lanes are the side with whole blocks, or the larger one.
        let swap = order.outputs < LANES && order.inputs > order.outputs;
        let (rows, lanes) = if swap {
            (order.outputs, order.inputs)
        } else {
            (order.inputs, order.outputs)
        };
        let blocks = lanes.div_ceil(LANES);
        let tile = rows * blocks * LANES;
        let taps: Vec<([usize; 2], &Tap)> = all(self.forward.up)
            .zip(&self.forward.phases)
            .flat_map(|(phase, taps)| taps.iter().map(move |tap| (phase, tap)))
            .collect();
        let geometry = &self.forward;
        let steps = |a: usize, out: usize| out.div_ceil(geometry.up[a]);
        let step_rows = steps(0, gradient.shape.height);
        let bands = step_rows.div_ceil(BAND);
        let len = order.groups * taps.len() * tile;
        self.partial.resize(bands, Vec::new());
        self.partial_bias.resize(bands, Vec::new());
        let (partial, partial_bias) = (&mut self.partial, &mut self.partial_bias);
        let both: &mut Vec<(&mut Vec<f32>, &mut Vec<f32>)> =
            &mut partial.iter_mut().zip(partial_bias).collect();
        pool.for_each_chunk_mut(both, 1, |band, pair| {
            let Some((sums, bias)) = pair.first_mut() else {
                return;
            };
            sums.clear();
            sums.resize(len, 0.0);
            bias.clear();
            bias.resize(gradient.shape.channels, 0.0);
            let band = band * BAND..((band + 1) * BAND).min(step_rows);
            for frame in 0..input.frames {
                for y in band.clone() {
                    for (number, (phase, tap)) in taps.iter().enumerate() {
                        let out_y = y * geometry.up[0] + phase[0];
                        if out_y >= gradient.shape.height {
                            continue;
                        }
                        let pixels = (gradient.shape.width - phase[1].min(gradient.shape.width))
                            .div_ceil(geometry.up[1]);
                        // Borders are as wide as any tap reaches.
                        let from = input.index(frame, y * geometry.stride[0], 0) as isize
                            + tap.offset[0] * input.row() as isize
                            + tap.offset[1] * input.shape.channels as isize;
                        let from = from as usize;
                        let to = gradient.index(frame, out_y, phase[1]);
                        for group in 0..order.groups {
                            let x = &input.data()[from + group * order.inputs..];
                            let dy = &gradient.data()[to + group * order.outputs..];
                            let x_step = geometry.stride[1] * input.shape.channels;
                            let dy_step = geometry.up[1] * gradient.shape.channels;
                            let (a, a_step, b, b_step) = if swap {
                                (dy, dy_step, x, x_step)
                            } else {
                                (x, x_step, dy, dy_step)
                            };
                            let at = (group * taps.len() + number) * tile;
                            outer(
                                isa,
                                Outer {
                                    a,
                                    a_step,
                                    rows,
                                    b,
                                    b_step,
                                    blocks,
                                    pixels,
                                    sums: &mut sums[at..at + tile],
                                },
                            );
                        }
                    }
                    for out_y in y * geometry.up[0]..((y + 1) * geometry.up[0]) {
                        if out_y < gradient.shape.height {
                            let row = gradient.pixels(frame, out_y);
                            for pixel in row.chunks_exact(bias.len()) {
                                for (sum, value) in bias.iter_mut().zip(pixel) {
                                    *sum += value;
                                }
                            }
                        }
                    }
                }
            }
        });
        let (partial, partial_bias) = (&self.partial, &self.partial_bias);
        let inner = order.kernel[0] * order.kernel[1];
        // One task for each first index of the weight: its values lie together.
        let seconds = weight.len()
            / inner
            / (order.groups
                * if order.transposed {
                    order.inputs
                } else {
                    order.outputs
                });
        pool.for_each_chunk_mut(weight, seconds * inner, |first, values| {
            for (number, (_, tap)) in taps.iter().enumerate() {
                for second in 0..seconds {
                    let (group, i, o) = if order.transposed {
                        (first / order.inputs, first % order.inputs, second)
                    } else {
                        (first / order.outputs, second, first % order.outputs)
                    };
                    let (row, lane) = if swap { (o, i) } else { (i, o) };
                    let at = (group * taps.len() + number) * tile + row * blocks * LANES + lane;
                    let sum = partial.iter().fold(0.0, |sum, band| sum + band[at]);
                    values[second * inner + tap.kernel[0] * order.kernel[1] + tap.kernel[1]] += sum;
                }
            }
        });
        if let Some(bias) = bias {
            for (c, value) in bias.iter_mut().enumerate() {
                *value += partial_bias.iter().fold(0.0, |sum, band| sum + band[c]);
            }
        }
    }
}

/// One pass of the engine's kernels over all frames.
struct Pass<'a> {
    geometry: &'a Geometry,
    packed: &'a Packed,
    groups: usize,
    relu: bool,
    /// Add to the output instead of replacing it.
    add: bool,
}

impl Pass<'_> {
    fn run(&self, pool: &Pool, isa: Isa, input: &Maps, output: &mut Maps) {
        let shape = output.shape;
        let (row_len, frame_len, border) = (output.row(), output.frame_len(), output.border);
        let band = BAND * self.geometry.up[0];
        let frames = output.frames;
        // Chunks are bands of whole rows of one frame; rows of the border are skipped.
        let rows = shape.height + 2 * border;
        let tasks = rows.div_ceil(band);
        let per_frame = tasks * band;
        let mut chunks: Vec<(usize, &mut [f32])> = Vec::with_capacity(frames * tasks);
        for (frame, values) in output
            .data_mut()
            .chunks_mut(frame_len)
            .take(frames)
            .enumerate()
        {
            let bands = values.chunks_mut(band * row_len).enumerate();
            chunks.extend(bands.map(|(i, rows)| (frame * per_frame + i * band, rows)));
        }
        pool.for_each_chunk_mut(&mut chunks, 1, |_, chunk| {
            let Some((at, rows)) = chunk.first_mut() else {
                return;
            };
            let (frame, first) = (*at / per_frame, *at % per_frame);
            self.band(isa, input, shape, border, frame, first, rows);
        });
    }

    /// Computes the rows of a band. `first` is the number of its first row, counted from the border's first.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, from the closure above"
    )]
    fn band(
        &self,
        isa: Isa,
        input: &Maps,
        shape: Shape,
        border: usize,
        frame: usize,
        first: usize,
        rows: &mut [f32],
    ) {
        let Shape {
            height,
            width,
            channels,
        } = shape;
        let row_len = (width + 2 * border) * channels;
        let [from, to] = self.packed.channels;
        let block = if self.packed.narrow {
            to
        } else {
            wide_channels(isa)
        };
        let (up, stride) = (self.geometry.up, self.geometry.stride);
        for group in 0..self.groups {
            for channel in (0..to).step_by(block) {
                let count = block.min(to - channel);
                for (number, (taps, weights)) in self
                    .geometry
                    .phases
                    .iter()
                    .zip(&self.packed.phases)
                    .enumerate()
                {
                    let (a, b) = (number / up[1], number % up[1]);
                    let offsets: Vec<isize> = taps
                        .iter()
                        .map(|tap| {
                            tap.offset[0] * input.row() as isize
                                + tap.offset[1] * input.shape.channels as isize
                        })
                        .collect();
                    let (weights_at, bias_at) = if self.packed.narrow {
                        (group * to * taps.len() * from, group * to)
                    } else {
                        let blocks = group * to.div_ceil(LANES) + channel / LANES;
                        (blocks * taps.len() * from * LANES, blocks * LANES)
                    };
                    for (r, row) in rows.chunks_exact_mut(row_len).enumerate() {
                        let Some(y) = (first + r).checked_sub(border).filter(|y| *y < height)
                        else {
                            continue;
                        };
                        if y % up[0] != a || b >= width {
                            continue;
                        }
                        let at = (border + b) * channels + group * to + channel;
                        let step = up[1] * channels;
                        let steps = (width - b).div_ceil(up[1]);
                        let before: Vec<f32>;
                        let residual = if self.add {
                            let end = (steps - 1) * step + count;
                            before = row[at..at + end].to_vec();
                            Some(Residual {
                                values: &before,
                                step,
                            })
                        } else {
                            None
                        };
                        let values = Row {
                            input: input.data(),
                            start: input.index(frame, y / up[0] * stride[0], 0) + group * from,
                            taps: &offsets,
                            step: stride[1] * input.shape.channels,
                            channels: from,
                            weights: &weights[weights_at..],
                            bias: &self.packed.bias[bias_at..],
                            residual,
                            output: &mut row[at..],
                            output_step: step,
                            width: steps,
                            output_channels: count,
                            relu: self.relu,
                        };
                        if self.packed.narrow {
                            narrow_row(isa, values);
                        } else {
                            wide_row(isa, values);
                        }
                    }
                }
            }
        }
    }
}
