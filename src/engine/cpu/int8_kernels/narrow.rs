//! The narrow kernel: lanes are input channels.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::engine::cpu::int8_kernels::{Int8Output, Int8Row};
use crate::engine::cpu::int8_simd::{InstructionSet, Kernel, Narrow, Registers, Sums};
use crate::engine::cpu::kernels::positive;
use crate::program::layout::NARROW;

/// See [`int8_narrow_row`](super::int8_narrow_row), which checks the row.
pub(super) struct NarrowRow<'a>(pub(super) Int8Row<'a>);

impl Kernel for NarrowRow<'_> {
    #[inline(always)]
    unsafe fn run<S: InstructionSet>(mut self) {
        let row = &mut self.0;
        let mut channel = 0;
        while channel < row.output_channels {
            let left = row.output_channels - channel;
            // SAFETY: `int8_narrow_row` checked the row, and `channel + CHANNELS <= output_channels`.
            channel += unsafe {
                match (S::REGISTERS, left) {
                    (Registers::Large, 5..) => narrow::<S, 4, 5>(row, channel),
                    (Registers::Large, 4) => narrow::<S, 4, 4>(row, channel),
                    (Registers::Large, 3) => narrow::<S, 4, 3>(row, channel),
                    (Registers::Large, 2) => narrow::<S, 8, 2>(row, channel),
                    (Registers::Large, _) => narrow::<S, 8, 1>(row, channel),
                    (Registers::Six | Registers::Four, 2..) => narrow::<S, 4, 2>(row, channel),
                    _ => narrow::<S, 4, 1>(row, channel),
                }
            };
        }
    }
}

/// Computes `CHANNELS` output channels of the whole row, starting at `channel`; returns `CHANNELS`.
///
/// # Safety
/// The row is checked and has the channels, and the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn narrow<S: InstructionSet, const PX: usize, const CHANNELS: usize>(
    row: &mut Int8Row<'_>,
    channel: usize,
) -> usize {
    // SAFETY: the caller upholds the contract, and the row contains the tiles' steps.
    unsafe {
        let start = narrow_start::<S, CHANNELS>(row, channel);
        let mut done = 0;
        while row.width - done >= PX {
            narrow_tile::<S, PX, CHANNELS>(row, start, done, channel);
            done += PX;
        }
        while row.width > done {
            narrow_tile::<S, 1, CHANNELS>(row, start, done, channel);
            done += 1;
        }
    }
    CHANNELS
}

/// The sums' start values; see `wide_start` in `wide.rs`.
///
/// # Safety
/// The same as [`narrow`].
#[inline(always)]
unsafe fn narrow_start<S: InstructionSet, const CHANNELS: usize>(
    row: &Int8Row<'_>,
    channel: usize,
) -> [S::Narrow; CHANNELS] {
    let per_output = row.taps.len() * row.channels.next_multiple_of(NARROW);
    // SAFETY: `Int8Row::check` ensures that the weights hold the channels; `zeros` reads a local array.
    unsafe {
        let mut sums = [S::Narrow::zero(); CHANNELS];
        if S::OFFSET || S::SIGNED && row.zero != 0 {
            let zeros = S::Narrow::half_inputs([row.zero; NARROW].as_ptr());
            for (output, sum) in sums.iter_mut().enumerate() {
                let weights = row.weights.as_ptr().add((channel + output) * per_output);
                for at in (0..per_output).step_by(NARROW) {
                    *sum = sum.dot(zeros, S::Narrow::half_weights(weights.add(at)));
                }
                *sum = sum.negative();
            }
        }
        sums
    }
}

/// Computes `CHANNELS` output channels of `PX` steps.
///
/// # Safety
/// The same as [`narrow`], and the row contains the steps.
#[inline(always)]
unsafe fn narrow_tile<S: InstructionSet, const PX: usize, const CHANNELS: usize>(
    row: &mut Int8Row<'_>,
    start: [S::Narrow; CHANNELS],
    first: usize,
    channel: usize,
) {
    let channels = row.channels.next_multiple_of(NARROW);
    let per_output = row.taps.len() * channels;
    // SAFETY: `Int8Row::check` ensures that the input contains all steps' taps, with channels in whole fragments of 32,
    // and that the weights hold `output_channels` channels.
    unsafe {
        let mut sums = [start; PX];
        let base = row.input.as_ptr().add(row.start + first * row.step);
        let mut weights = row.weights.as_ptr().add(channel * per_output);
        for &tap in row.taps {
            let pixel = base.offset(tap);
            let mut part = 0;
            while channels - part >= S::Narrow::CODES {
                let w: [_; CHANNELS] = std::array::from_fn(|output| {
                    S::Narrow::weights(weights.add(output * per_output))
                });
                for (px, sums) in sums.iter_mut().enumerate() {
                    let x = S::Narrow::inputs(pixel.add(px * row.step + part));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = sum.dot(x, w);
                    }
                }
                weights = weights.add(S::Narrow::CODES);
                part += S::Narrow::CODES;
            }
            if part < channels {
                let w: [_; CHANNELS] = std::array::from_fn(|output| {
                    S::Narrow::half_weights(weights.add(output * per_output))
                });
                for (px, sums) in sums.iter_mut().enumerate() {
                    let x = S::Narrow::half_inputs(pixel.add(px * row.step + part));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = sum.dot(x, w);
                    }
                }
                weights = weights.add(NARROW);
            }
        }
        // Compute all totals first, while the sums are in registers.
        let mut totals = [[[0; 4]; CHANNELS]; 2];
        for four in 0..PX.div_ceil(4) {
            for output in 0..CHANNELS {
                let mut four_sums = [S::Narrow::zero(); 4];
                for (i, sum) in four_sums.iter_mut().enumerate().take(PX) {
                    *sum = sums[4 * four + i][output];
                }
                totals[four][output] = S::Narrow::totals(four_sums);
            }
        }
        for (four, totals) in totals.iter().enumerate().take(PX.div_ceil(4)) {
            let first = first + 4 * four;
            for (output, totals) in totals.iter().enumerate() {
                finish(row, first..first + PX.min(4), channel + output, *totals);
            }
        }
    }
}

/// Converts totals to the results of one channel of at most four steps.
///
/// # Safety
/// The row is checked and contains the steps, and `channel < output_channels`.
#[inline(always)]
unsafe fn finish(row: &mut Int8Row<'_>, steps: Range<usize>, channel: usize, totals: [i32; 4]) {
    // SAFETY: `Int8Row::check` ensures that multipliers and biases hold the channel, and that the output contains the
    // steps' pixels up to `output_channels`.
    unsafe {
        let multiplier = *row.multiplier.get_unchecked(channel);
        let bias = *row.bias.get_unchecked(channel);
        let results = totals.map(|total| {
            let y = total as f32 * multiplier + bias;
            if row.relu { positive(y) } else { y }
        });
        match &mut row.output {
            Int8Output::F32(values) => {
                for (step, y) in steps.zip(results) {
                    *values.get_unchecked_mut(step * row.output_step + channel) = y;
                }
            }
            Int8Output::I8 { codes, meaning } => {
                for (step, y) in steps.zip(results) {
                    *codes.get_unchecked_mut(step * row.output_step + channel) = meaning.code(y);
                }
            }
            // Refused by `int8_narrow_row`.
            Int8Output::Sums(_) => {}
        }
    }
}
