//! Kernels of training that are not kernels of the engine: weight gradients, fake quantisation and its gradient, the
//! optimiser's update.
//!
//! All of them run their loops under the machine's best instruction set, with the same operations in the same order on
//! each, so that a training has the same bytes on every machine.
#![allow(unsafe_code)]

use crate::engine::cpu::{Isa, Kernel, Lanes, dispatch};
use crate::program::layout::LANES;

/// Sums of products over a row of pixels: `sums[i][j] += Σ a[pixel][i] · b[pixel][j]`, in the order of pixels.
pub(crate) struct Outer<'a> {
    /// Starts at the first channel of the first pixel.
    pub(crate) a: &'a [f32],
    /// Values between two pixels of `a`.
    pub(crate) a_step: usize,
    /// Channels of `a`.
    pub(crate) rows: usize,
    /// Starts at the first channel of the first pixel. Whole blocks are read, so a last block may reach into the next pixel.
    pub(crate) b: &'a [f32],
    /// Values between two pixels of `b`.
    pub(crate) b_step: usize,
    /// Blocks of 16 channels of `b`.
    pub(crate) blocks: usize,
    /// Number of pixels.
    pub(crate) pixels: usize,
    /// `[rows][blocks · 16]`.
    pub(crate) sums: &'a mut [f32],
}

/// Adds the products of a row of pixels.
pub(crate) fn outer(isa: Isa, row: Outer<'_>) {
    if row.pixels == 0 || row.rows == 0 || row.blocks == 0 {
        return;
    }
    let last = row.pixels - 1;
    assert!(last * row.a_step + row.rows <= row.a.len(), "a");
    assert!(last * row.b_step + row.blocks * LANES <= row.b.len(), "b");
    assert!(row.rows * row.blocks * LANES <= row.sums.len(), "sums");
    dispatch(isa, row);
}

impl Kernel for Outer<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let mut block = 0;
        while block < self.blocks {
            // SAFETY: `outer` checked the slices, and the tiles cover rows and blocks exactly.
            unsafe {
                if L::LARGE && self.blocks - block >= 2 {
                    let done = outer_tiles::<L, 12, 2>(&mut self, 0, block);
                    let done = outer_tiles::<L, 8, 2>(&mut self, done, block);
                    let done = outer_tiles::<L, 4, 2>(&mut self, done, block);
                    outer_tiles::<L, 1, 2>(&mut self, done, block);
                    block += 2;
                } else {
                    let done = if L::LARGE {
                        outer_tiles::<L, 16, 1>(&mut self, 0, block)
                    } else {
                        outer_tiles::<L, 6, 1>(&mut self, 0, block)
                    };
                    let done = outer_tiles::<L, 4, 1>(&mut self, done, block);
                    outer_tiles::<L, 1, 1>(&mut self, done, block);
                    block += 1;
                }
            }
        }
    }
}

/// Computes as many tiles of `ROWS` rows as fit from row `done` on; returns the next row.
///
/// # Safety
/// The slices are checked, `block + BLOCKS <= blocks`, and the processor has the instruction set of `L`.
#[inline(always)]
unsafe fn outer_tiles<L: Lanes, const ROWS: usize, const BLOCKS: usize>(
    row: &mut Outer<'_>,
    mut done: usize,
    block: usize,
) -> usize {
    while row.rows - done >= ROWS {
        let width = row.blocks * LANES;
        // SAFETY: rows `done..done + ROWS` and the blocks exist, so all addresses are inside the checked slices.
        unsafe {
            let first = row.sums.as_mut_ptr().add(done * width + block * LANES);
            let mut sums: [[L; BLOCKS]; ROWS] = std::array::from_fn(|i| {
                std::array::from_fn(|j| L::load(first.add(i * width + j * LANES)))
            });
            let mut a = row.a.as_ptr().add(done);
            let mut b = row.b.as_ptr().add(block * LANES);
            for pixel in 0..row.pixels {
                let w: [L; BLOCKS] = std::array::from_fn(|j| L::load(b.add(j * LANES)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = L::splat(a.add(i));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = sum.fma(x, w);
                    }
                }
                if pixel + 1 < row.pixels {
                    a = a.add(row.a_step);
                    b = b.add(row.b_step);
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    sum.store(first.add(i * width + j * LANES));
                }
            }
        }
        done += ROWS;
    }
    done
}

/// A loop over slices in safe code, compiled for each instruction set.
pub(crate) trait Loop {
    /// Runs the loop. Must be `#[inline(always)]`.
    fn run(self);
}

struct Safe<T>(T);

impl<T: Loop> Kernel for Safe<T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        self.0.run();
    }
}

/// Runs a loop with the machine's instructions.
pub(crate) fn vectorised(isa: Isa, work: impl Loop) {
    dispatch(isa, Safe(work));
}

/// Codes of a quantiser with values of either sign.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Value of code 1.
    pub(super) scale: f32,
    /// The least and the greatest code.
    pub(super) codes: [f32; 2],
}

impl Grid {
    /// The code of a value, not yet clamped. Divides, as QuantizeLinear does.
    #[inline(always)]
    fn code(self, value: f32) -> f32 {
        (value / self.scale).round_ties_even()
    }

    /// The nearest value with a code.
    #[inline(always)]
    pub(super) fn round(self, value: f32) -> f32 {
        let [least, most] = self.codes;
        self.code(value).max(least).min(most) * self.scale
    }
}

/// `out = round(values)`.
pub(super) struct FakeQuant<'a> {
    pub(super) values: &'a [f32],
    pub(super) grid: Grid,
    pub(super) out: &'a mut [f32],
}

impl Loop for FakeQuant<'_> {
    #[inline(always)]
    fn run(self) {
        for (out, &value) in self.out.iter_mut().zip(self.values) {
            *out = self.grid.round(value);
        }
    }
}

/// The gradient of [`FakeQuant`]. Straight-through inside the range: `gradient` stays where the code needs no clamp, and
/// becomes 0 elsewhere. `scale` collects the gradient of the scale (LSQ, <https://arxiv.org/abs/1902.08153>): `code - value /
/// scale` inside the range, the clamped code outside. Optionally applies the gradient of a ReLU before the quantiser.
pub(super) struct FakeQuantGradient<'a> {
    /// The quantiser's input.
    pub(super) values: &'a [f32],
    pub(super) grid: Grid,
    pub(super) gradient: &'a mut [f32],
    /// Sixteen partial sums.
    pub(super) scale: &'a mut [f32; LANES],
}

impl Loop for FakeQuantGradient<'_> {
    #[inline(always)]
    fn run(self) {
        let Self {
            values,
            grid,
            gradient,
            scale,
        } = self;
        let [least, most] = grid.codes;
        let one = |value: f32, gradient: &mut f32, sum: &mut f32| {
            let real = value / grid.scale;
            let code = real.round_ties_even();
            let inside = code >= least && code <= most;
            let slope = if inside {
                code - real
            } else {
                code.max(least).min(most)
            };
            *sum += *gradient * slope;
            *gradient = if inside { *gradient } else { 0.0 };
        };
        let (blocks, rest) = gradient.as_chunks_mut::<LANES>();
        let (inputs, last) = values.as_chunks::<LANES>();
        for (gradient, values) in blocks.iter_mut().zip(inputs) {
            for lane in 0..LANES {
                one(values[lane], &mut gradient[lane], &mut scale[lane]);
            }
        }
        for (lane, (gradient, value)) in rest.iter_mut().zip(last).enumerate() {
            one(*value, gradient, &mut scale[lane]);
        }
    }
}

/// `gradient = 0` where a ReLU's output is not above 0.
pub(super) struct ReluGradient<'a> {
    pub(super) output: &'a [f32],
    pub(super) gradient: &'a mut [f32],
}

impl Loop for ReluGradient<'_> {
    #[inline(always)]
    fn run(self) {
        for (gradient, &output) in self.gradient.iter_mut().zip(self.output) {
            *gradient = if output > 0.0 { *gradient } else { 0.0 };
        }
    }
}

/// `sums += values`, element by element.
pub(super) struct Sum<'a> {
    pub(super) sums: &'a mut [f32],
    pub(super) values: &'a [f32],
}

impl Loop for Sum<'_> {
    #[inline(always)]
    fn run(self) {
        for (sum, value) in self.sums.iter_mut().zip(self.values) {
            *sum += value;
        }
    }
}

/// `out = a + b`, with a ReLU or without.
pub(super) struct Add<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) relu: bool,
    pub(super) out: &'a mut [f32],
}

impl Loop for Add<'_> {
    #[inline(always)]
    fn run(self) {
        for ((out, a), b) in self.out.iter_mut().zip(self.a).zip(self.b) {
            let sum = a + b;
            *out = if sum > 0.0 || !self.relu { sum } else { 0.0 };
        }
    }
}

/// `sums[c] += Σ values[pixel][c]`.
pub(super) struct ChannelSums<'a> {
    pub(super) values: &'a [f32],
    pub(super) sums: &'a mut [f32],
}

impl Loop for ChannelSums<'_> {
    #[inline(always)]
    fn run(self) {
        for pixel in self.values.chunks_exact(self.sums.len()) {
            for (sum, value) in self.sums.iter_mut().zip(pixel) {
                *sum += value;
            }
        }
    }
}

/// `sums[c] += Σ (values[pixel][c] − centre[c])²`.
pub(super) struct ChannelSquares<'a> {
    pub(super) values: &'a [f32],
    pub(super) centre: &'a [f32],
    pub(super) sums: &'a mut [f32],
}

impl Loop for ChannelSquares<'_> {
    #[inline(always)]
    fn run(self) {
        let centre = &self.centre[..self.sums.len()];
        for pixel in self.values.chunks_exact(self.sums.len()) {
            for ((sum, value), centre) in self.sums.iter_mut().zip(pixel).zip(centre) {
                let difference = value - centre;
                *sum += difference * difference;
            }
        }
    }
}

/// `sums[c] += Σ gradient[pixel][c]` and `products[c] += Σ gradient[pixel][c] · (values[pixel][c] − centre[c])`.
pub(super) struct ChannelProducts<'a> {
    pub(super) values: &'a [f32],
    pub(super) centre: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) sums: &'a mut [f32],
    pub(super) products: &'a mut [f32],
}

impl Loop for ChannelProducts<'_> {
    #[inline(always)]
    fn run(self) {
        let channels = self.sums.len();
        let (centre, products) = (&self.centre[..channels], &mut self.products[..channels]);
        let pixels = self.values.chunks_exact(channels);
        for (values, gradients) in pixels.zip(self.gradient.chunks_exact(channels)) {
            for c in 0..channels {
                self.sums[c] += gradients[c];
                products[c] += gradients[c] * (values[c] - centre[c]);
            }
        }
    }
}

/// `out = values · factor + shift` by channel, with a ReLU or without.
pub(super) struct Normalise<'a> {
    pub(super) values: &'a [f32],
    pub(super) factor: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) relu: bool,
    pub(super) out: &'a mut [f32],
}

impl Loop for Normalise<'_> {
    #[inline(always)]
    fn run(self) {
        let channels = self.factor.len();
        let shift = &self.shift[..channels];
        let pixels = self.values.chunks_exact(channels);
        for (out, values) in self.out.chunks_exact_mut(channels).zip(pixels) {
            for c in 0..channels {
                let value = values[c] * self.factor[c] + shift[c];
                out[c] = if value > 0.0 || !self.relu {
                    value
                } else {
                    0.0
                };
            }
        }
    }
}

/// The gradient of a normalisation's input, in place of that of its output: `factor · (gradient − mean − slope · (values −
/// centre))`.
pub(super) struct NormGradient<'a> {
    pub(super) values: &'a [f32],
    pub(super) centre: &'a [f32],
    pub(super) factor: &'a [f32],
    pub(super) mean: &'a [f32],
    pub(super) slope: &'a [f32],
    pub(super) gradient: &'a mut [f32],
}

impl Loop for NormGradient<'_> {
    #[inline(always)]
    fn run(self) {
        let channels = self.factor.len();
        let (centre, mean) = (&self.centre[..channels], &self.mean[..channels]);
        let slope = &self.slope[..channels];
        let pixels = self.values.chunks_exact(channels);
        for (gradient, values) in self.gradient.chunks_exact_mut(channels).zip(pixels) {
            for c in 0..channels {
                let rest = gradient[c] - mean[c] - slope[c] * (values[c] - centre[c]);
                gradient[c] = self.factor[c] * rest;
            }
        }
    }
}
