//! f32 convolution kernels. Each call computes one row of output pixels.
//!
//! *Wide*: lanes are output channels. A tile of pixels by blocks of 16 channels stays in registers during the
//! reduction, which starts from the bias and runs over taps and input channels, in that order. Each step multiplies
//! one broadcast input value by the weights of its blocks. *Narrow*: lanes are input channels, which are added up at
//! the end. It serves convolutions with so few output channels that a block would be mostly padding.
//!
//! Maps have a border of zeros, so neither kernel checks for edges.
#![allow(unsafe_code)]

use crate::engine::cpu::simd::{Isa, Kernel, Lanes, dispatch};
use crate::program::layout::LANES;

/// One row of a convolution's steps, for one group.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    /// The input's buffer.
    pub(crate) input: &'a [f32],
    /// Index in `input` of the first channel at tap (0, 0) of the first step.
    pub(crate) start: usize,
    /// Offset of each tap from tap (0, 0), in elements.
    pub(crate) taps: &'a [isize],
    /// Stride between steps, in input elements.
    pub(crate) step: usize,
    /// Input channels.
    pub(crate) channels: usize,
    /// Weights of the blocks or channels to compute.
    pub(crate) weights: &'a [f32],
    /// Bias of the blocks or channels to compute.
    pub(crate) bias: &'a [f32],
    /// Values to add, in the layout of `output`.
    pub(crate) residual: Option<Residual<'a>>,
    /// Starts at the first channel to compute of the first step's output pixel.
    pub(crate) output: &'a mut [f32],
    /// Stride between steps, in output elements.
    pub(crate) output_step: usize,
    /// Number of steps.
    pub(crate) width: usize,
    /// Output channels to compute. Wide: at most [`wide_channels`]; narrow: any number.
    pub(crate) output_channels: usize,
    /// Clamp negative values to 0.
    pub(crate) relu: bool,
}

/// A row of the residual.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Residual<'a> {
    /// Starts at the first channel of the first step's pixel.
    pub(crate) values: &'a [f32],
    /// Stride between steps, in elements.
    pub(crate) step: usize,
}

impl Row<'_> {
    /// Panics unless the row lies inside its slices. Programs are validated on load, so this never happens; the check
    /// makes the `unsafe` code here independent of all other code.
    fn check(&self, weights: usize, bias: usize) {
        let last = (self.width - 1) * self.step;
        let reach = |tap: isize| self.start.checked_add_signed(tap);
        // The kernels form the address of tap (0, 0) even if it is not among the taps.
        let inside = self.taps.iter().chain(&[0]).all(|&tap| {
            reach(tap).is_some_and(|first| first + last + self.channels <= self.input.len())
        });
        assert!(inside, "input");
        assert!(
            self.weights.len() >= weights && self.bias.len() >= bias,
            "weights"
        );
        let end = |step: usize| (self.width - 1) * step + self.output_channels;
        assert!(end(self.output_step) <= self.output.len(), "output");
        if let Some(residual) = self.residual {
            assert!(end(residual.step) <= residual.values.len(), "residual");
        }
    }
}

/// Most output channels that one call of [`wide_row`] computes.
pub(crate) fn wide_channels(isa: Isa) -> usize {
    match isa {
        Isa::Avx512Vnni | Isa::Avx512 => 2 * LANES,
        _ => LANES,
    }
}

/// Computes a row with lanes over output channels.
pub(crate) fn wide_row(isa: Isa, row: Row<'_>) {
    if row.width == 0 {
        return;
    }
    let blocks = row.output_channels.div_ceil(LANES);
    assert!((1..=2).contains(&blocks), "blocks");
    row.check(
        blocks * row.taps.len() * row.channels * LANES,
        blocks * LANES,
    );
    dispatch(isa, Wide(row));
}

/// Computes a row with lanes over input channels. Their number must be a multiple of 16.
pub(crate) fn narrow_row(isa: Isa, row: Row<'_>) {
    if row.width == 0 {
        return;
    }
    assert!(row.channels.is_multiple_of(LANES), "channels");
    row.check(
        row.output_channels * row.taps.len() * row.channels,
        row.output_channels,
    );
    dispatch(isa, Narrow(row));
}

/// See [`wide_row`], which checks the row.
struct Wide<'a>(Row<'a>);

impl Kernel for Wide<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let row = &mut self.0;
        // SAFETY: `wide_row` checked the row, and the tiles cover its steps exactly.
        unsafe {
            match (row.output_channels > LANES, L::LARGE) {
                (true, _) => {
                    let done = wide_tiles::<L, 12, 2>(row, 0);
                    let done = wide_tiles::<L, 8, 2>(row, done);
                    let done = wide_tiles::<L, 4, 2>(row, done);
                    wide_tiles::<L, 1, 2>(row, done);
                }
                (false, true) => {
                    let done = wide_tiles::<L, 16, 1>(row, 0);
                    let done = wide_tiles::<L, 4, 1>(row, done);
                    wide_tiles::<L, 1, 1>(row, done);
                }
                (false, false) => {
                    let done = wide_tiles::<L, 6, 1>(row, 0);
                    let done = wide_tiles::<L, 4, 1>(row, done);
                    wide_tiles::<L, 1, 1>(row, done);
                }
            }
        }
    }
}

/// Computes as many tiles of `PX` steps as fit from step `done` on; returns the next step.
///
/// # Safety
/// The row is checked and has `BLOCKS` blocks, and the processor has the instruction set of `L`.
#[inline(always)]
unsafe fn wide_tiles<L: Lanes, const PX: usize, const BLOCKS: usize>(
    row: &mut Row<'_>,
    mut done: usize,
) -> usize {
    while row.width - done >= PX {
        // SAFETY: the caller upholds the contract, and the row contains steps `done..done + PX`.
        unsafe { wide_tile::<L, PX, BLOCKS>(row, done) };
        done += PX;
    }
    done
}

/// Computes `PX` steps, starting at step `first`.
///
/// # Safety
/// The same as [`wide_tiles`], and the row contains the steps.
#[inline(always)]
unsafe fn wide_tile<L: Lanes, const PX: usize, const BLOCKS: usize>(
    row: &mut Row<'_>,
    first: usize,
) {
    let block_len = row.taps.len() * row.channels * LANES;
    // SAFETY: `Row::check` ensures that the input contains all steps' taps and their channels, that the weights and
    // biases hold `BLOCKS` blocks, and that the output and the residual contain all steps' pixels up to
    // `output_channels`. `finish` writes no further.
    unsafe {
        let bias = row.bias.as_ptr();
        let mut sums: [[L; BLOCKS]; PX] =
            [std::array::from_fn(|block| L::load(bias.add(block * LANES))); PX];
        let base = row.input.as_ptr().add(row.start + first * row.step);
        let mut weights = row.weights.as_ptr();
        for &tap in row.taps {
            let pixel = base.offset(tap);
            for channel in 0..row.channels {
                let w: [L; BLOCKS] =
                    std::array::from_fn(|block| L::load(weights.add(block * block_len)));
                for (px, sums) in sums.iter_mut().enumerate() {
                    let x = L::splat(pixel.add(px * row.step + channel));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = sum.fma(x, w);
                    }
                }
                weights = weights.add(LANES);
            }
        }
        for (px, sums) in sums.into_iter().enumerate() {
            for (block, sum) in sums.into_iter().enumerate() {
                finish(row, first + px, block * LANES, sum);
            }
        }
    }
}

/// Adds the residual, applies the ReLU, and stores up to 16 channels of a step, starting at `channel`.
///
/// # Safety
/// The row is checked, `step < width`, `channel < output_channels`, and the processor has the instruction set of
/// `L`.
#[inline(always)]
unsafe fn finish<L: Lanes>(row: &mut Row<'_>, step: usize, channel: usize, mut sum: L) {
    let count = (row.output_channels - channel).min(LANES);
    // SAFETY: `Row::check` ensures that the output and the residual contain channels `channel..channel + count` of
    // the step. Partial vectors go through local arrays of 16 values.
    unsafe {
        if let Some(residual) = row.residual {
            let from = residual.values.as_ptr().add(step * residual.step + channel);
            if count == LANES {
                sum = sum.add(L::load(from));
            } else {
                let mut values = [0.0f32; LANES];
                std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
                sum = sum.add(L::load(values.as_ptr()));
            }
        }
        if row.relu {
            sum = sum.relu();
        }
        let to = row
            .output
            .as_mut_ptr()
            .add(step * row.output_step + channel);
        if count == LANES {
            sum.store(to);
        } else {
            let mut values = [0.0f32; LANES];
            sum.store(values.as_mut_ptr());
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, count);
        }
    }
}

/// `v` if it is above 0, else 0 (also for NaN), like [`Lanes::relu`].
#[inline(always)]
pub(super) fn positive(v: f32) -> f32 {
    if v > 0.0 { v } else { 0.0 }
}

/// See [`narrow_row`], which checks the row.
struct Narrow<'a>(Row<'a>);

impl Kernel for Narrow<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let row = &mut self.0;
        let mut channel = 0;
        while channel < row.output_channels {
            let left = row.output_channels - channel;
            // SAFETY: `narrow_row` checked the row, and `channel + CHANNELS <= output_channels`.
            channel += unsafe {
                match (L::LARGE, left) {
                    (true, 4..) => narrow_channels::<L, 4, 4>(row, channel),
                    (true, 3) => narrow_channels::<L, 6, 3>(row, channel),
                    (true, 2) => narrow_channels::<L, 8, 2>(row, channel),
                    (true, _) => narrow_channels::<L, 8, 1>(row, channel),
                    (false, _) => narrow_channels::<L, 4, 1>(row, channel),
                }
            };
        }
    }
}

/// Computes `CHANNELS` output channels of the whole row, starting at `channel`; returns `CHANNELS`.
///
/// # Safety
/// The row is checked and has the channels, and the processor has the instruction set of `L`.
#[inline(always)]
unsafe fn narrow_channels<L: Lanes, const PX: usize, const CHANNELS: usize>(
    row: &mut Row<'_>,
    channel: usize,
) -> usize {
    let mut done = 0;
    while row.width - done >= PX {
        // SAFETY: the caller upholds the contract, and the row contains the steps.
        unsafe { narrow_tile::<L, PX, CHANNELS>(row, done, channel) };
        done += PX;
    }
    while row.width > done {
        // SAFETY: the same as above.
        unsafe { narrow_tile::<L, 1, CHANNELS>(row, done, channel) };
        done += 1;
    }
    CHANNELS
}

/// Computes `CHANNELS` output channels of `PX` steps.
///
/// # Safety
/// The same as [`narrow_channels`], and the row contains the steps.
#[inline(always)]
unsafe fn narrow_tile<L: Lanes, const PX: usize, const CHANNELS: usize>(
    row: &mut Row<'_>,
    first: usize,
    channel: usize,
) {
    let per_output = row.taps.len() * row.channels;
    // SAFETY: the same as in `wide_tile`; the weights and biases hold `output_channels` channels.
    unsafe {
        let zero = L::splat(&0.0);
        let mut sums = [[zero; CHANNELS]; PX];
        let base = row.input.as_ptr().add(row.start + first * row.step);
        let mut weights = row.weights.as_ptr().add(channel * per_output);
        for &tap in row.taps {
            let pixel = base.offset(tap);
            for part in (0..row.channels).step_by(LANES) {
                let w: [L; CHANNELS] =
                    std::array::from_fn(|output| L::load(weights.add(output * per_output)));
                for (px, sums) in sums.iter_mut().enumerate() {
                    let x = L::load(pixel.add(px * row.step + part));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = sum.fma(x, w);
                    }
                }
                weights = weights.add(LANES);
            }
        }
        for (px, sums) in sums.into_iter().enumerate() {
            let to = row
                .output
                .as_mut_ptr()
                .add((first + px) * row.output_step + channel);
            for (output, sum) in sums.into_iter().enumerate() {
                let value = sum.sum() + *row.bias.as_ptr().add(channel + output);
                let value = if row.relu { positive(value) } else { value };
                *to.add(output) = value;
            }
        }
    }
}
