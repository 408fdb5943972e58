//! INT8 convolution kernels: one row of output pixels at a time, the twins of those in `kernels.rs`.
//!
//! Sums of products of codes are exact 32-bit integers; what follows is
//! `y = sum · multiplier[c] + bias[c]` (two roundings), plus the residual, ReLU, and for an output of
//! codes `y / scale` rounded half to even, in -128..=127, 0 for NaN. Every instruction set does these
//! same operations.
//!
//! *Wide*: lanes are output channels. A tile of steps by blocks of 16 channels stays in registers while
//! the reduction runs over taps and fours of input channels; each step multiplies four input codes,
//! broadcast, with the weights of its blocks. *Narrow*: lanes are input channels, added up at the end;
//! for convolutions with so few output channels that a block would be mostly padding.
//!
//! Codes behind a pixel's channels are multiplied with weights of 0.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use super::kernels::positive;
use super::pack::LANES;
use super::pack8::{NARROW, QUAD};
use super::simd::Isa;
use super::simd8::{Floats, Kernel, Narrow, Registers, Set, Sums, Wide, code, dispatch};

/// One row of steps of an INT8 convolution, for one group.
#[derive(Debug)]
pub(super) struct Row8<'a> {
    /// The input's buffer, up to at least 64 bytes behind the last pixel that is read.
    pub(super) input: &'a [i8],
    /// Index in `input` of the first channel of tap (0, 0) of the first step.
    pub(super) start: usize,
    /// From tap (0, 0) to each tap, in elements.
    pub(super) taps: &'a [isize],
    /// From one step to the next, in input elements.
    pub(super) step: usize,
    /// Input channels.
    pub(super) channels: usize,
    /// Input codes may be negative; else they are in 0..=127.
    pub(super) signed: bool,
    /// Weights of the blocks or channels to compute.
    pub(super) weights: &'a [i8],
    /// Value of a sum of 1, for the blocks or channels to compute.
    pub(super) multiplier: &'a [f32],
    /// Bias of the blocks or channels to compute.
    pub(super) bias: &'a [f32],
    /// Values to add, laid out as `output`.
    pub(super) residual: Option<Residual8<'a>>,
    /// From the first channel to compute of the first step's output pixel on.
    pub(super) output: Output8<'a>,
    /// From one step to the next, in output elements.
    pub(super) output_step: usize,
    /// Number of steps.
    pub(super) width: usize,
    /// Output channels to compute: wide, at most [`wide_channels8`]; narrow, any.
    pub(super) output_channels: usize,
    /// Clamp negative values to 0.
    pub(super) relu: bool,
}

/// A row of the residual, from the first channel of the first step's pixel on; `step` leads from one
/// step to the next, in elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum Residual8<'a> {
    /// Values.
    F32 { values: &'a [f32], step: usize },
    /// Codes, and the value of code 1.
    I8 {
        codes: &'a [i8],
        scale: f32,
        step: usize,
    },
}

/// Where results go.
#[derive(Debug)]
pub(super) enum Output8<'a> {
    /// As values.
    F32(&'a mut [f32]),
    /// As codes; `scale` is the value of code 1.
    I8 { codes: &'a mut [i8], scale: f32 },
}

impl Row8<'_> {
    /// Panics unless the row lies inside its slices; see `Row::check`. `read`: input channels that the
    /// kernel reads of a pixel.
    fn check(&self, read: usize, weights: usize, lanes: usize) {
        let last = (self.width - 1) * self.step;
        let reach = |tap: isize| self.start.checked_add_signed(tap);
        // The kernels also form the address of tap (0, 0), whether or not it is among the taps.
        let inside =
            self.taps.iter().chain(&[0]).all(|&tap| {
                reach(tap).is_some_and(|first| first + last + read <= self.input.len())
            });
        assert!(inside, "input");
        assert!(self.weights.len() >= weights, "weights");
        let scalars = self.multiplier.len().min(self.bias.len());
        assert!(scalars >= lanes, "multiplier and bias");
        let end = |step: usize| (self.width - 1) * step + self.output_channels;
        let output = match &self.output {
            Output8::F32(values) => values.len(),
            Output8::I8 { codes, .. } => codes.len(),
        };
        assert!(end(self.output_step) <= output, "output");
        let inside = match self.residual {
            None => true,
            Some(Residual8::F32 { values, step }) => end(step) <= values.len(),
            Some(Residual8::I8 { codes, step, .. }) => end(step) <= codes.len(),
        };
        assert!(inside, "residual");
    }
}

/// Output channels that [`wide_row8`] computes at once.
pub(super) fn wide_channels8(isa: Isa) -> usize {
    match isa {
        Isa::Avx512Vnni => 4 * LANES,
        _ => LANES,
    }
}

/// Computes a row with lanes over output channels.
pub(super) fn wide_row8(isa: Isa, row: Row8<'_>) {
    if row.width == 0 {
        return;
    }
    let blocks = row.output_channels.div_ceil(LANES);
    assert!((1..=4).contains(&blocks), "blocks");
    let read = row.channels.next_multiple_of(QUAD);
    row.check(read, blocks * row.taps.len() * read * LANES, blocks * LANES);
    dispatch(isa, row.signed, WideRow(row));
}

/// Computes a row with lanes over input channels.
pub(super) fn narrow_row8(isa: Isa, row: Row8<'_>) {
    if row.width == 0 {
        return;
    }
    let read = row.channels.next_multiple_of(NARROW);
    row.check(
        read,
        row.output_channels * row.taps.len() * read,
        row.output_channels,
    );
    dispatch(isa, row.signed, NarrowRow(row));
}

/// See [`wide_row8`], which has checked the row.
struct WideRow<'a>(Row8<'a>);

impl Kernel for WideRow<'_> {
    #[inline(always)]
    unsafe fn run<S: Set>(mut self) {
        let row = &mut self.0;
        // SAFETY: `wide_row8` checked the row; the tiles cover its steps exactly.
        unsafe {
            match (row.output_channels.div_ceil(LANES), S::REGISTERS) {
                (4, Registers::Large) => wide::<S, 6, 4, 4>(row),
                (3, Registers::Large) => wide::<S, 8, 4, 3>(row),
                (2, Registers::Large) => wide::<S, 12, 4, 2>(row),
                (_, Registers::Large) => wide::<S, 16, 4, 1>(row),
                (_, Registers::Six) => wide::<S, 6, 4, 1>(row),
                (_, Registers::Four) => wide::<S, 4, 2, 1>(row),
                (_, Registers::Two) => wide::<S, 2, 2, 1>(row),
            }
        }
    }
}

/// Memory that begins with a cache line: a vector that crosses two is slow to read back.
#[repr(C, align(64))]
struct Line<T>(T);

/// Computes the row in tiles of `BLOCKS` blocks by `MANY`, `FEW` and single steps.
///
/// # Safety
/// The row was checked, has `BLOCKS` blocks, and the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn wide<S: Set, const MANY: usize, const FEW: usize, const BLOCKS: usize>(
    row: &mut Row8<'_>,
) {
    let mut memory = Line(MaybeUninit::<[[[i32; LANES]; BLOCKS]; MANY]>::uninit());
    let sums = memory.0.as_mut_ptr().cast::<i32>();
    // SAFETY: the caller's promise; the tiles' steps are in the row, and no tile has more sums than
    // the largest, which fit into `memory`.
    unsafe {
        let begin = wide_begin::<S, BLOCKS>(row);
        let mut done = 0;
        while done < row.width {
            let left = row.width - done;
            // A tile of few steps is slower per step, but not as much as one that is not needed.
            let (first, steps) = if left == MANY || left >= MANY.max(2 * FEW + 1) {
                wide_tile::<S, MANY, BLOCKS>(row, begin, done, sums);
                (done, MANY)
            } else if row.width >= FEW {
                // The last tile may begin in the one before it, whose results it repeats.
                let first = done.min(row.width - FEW);
                wide_tile::<S, FEW, BLOCKS>(row, begin, first, sums);
                (first, FEW)
            } else {
                wide_tile::<S, 1, BLOCKS>(row, begin, done, sums);
                (done, 1)
            };
            done = first + steps;
            finish::<S::Floats>(row, first..done, BLOCKS, sums);
        }
    }
}

/// What the sums begin with: 0, or the negative of what inputs of 0 would add.
///
/// # Safety
/// As [`wide`].
#[inline(always)]
unsafe fn wide_begin<S: Set, const BLOCKS: usize>(row: &Row8<'_>) -> [S::Wide; BLOCKS] {
    let len = row.taps.len() * row.channels.div_ceil(QUAD);
    // SAFETY: `Row8::check` has shown that the weights hold `BLOCKS` blocks of `len` times 64.
    unsafe {
        let mut sums = [S::Wide::zero(); BLOCKS];
        if S::OFFSET {
            let zeros = S::Wide::quad([0; QUAD].as_ptr());
            for at in 0..len {
                for (block, sum) in sums.iter_mut().enumerate() {
                    let w = row.weights.as_ptr().add((block * len + at) * LANES * QUAD);
                    *sum = sum.dot(zeros, S::Wide::weights(w));
                }
            }
            sums = sums.map(|sum| sum.negative());
        }
        sums
    }
}

/// Writes the sums of `PX` steps from step `first` on to `to`, `[step][block][16]`.
///
/// # Safety
/// As [`wide`], the steps are in the row, and `to` is valid for writing the sums.
#[inline(always)]
unsafe fn wide_tile<S: Set, const PX: usize, const BLOCKS: usize>(
    row: &Row8<'_>,
    begin: [S::Wide; BLOCKS],
    first: usize,
    to: *mut i32,
) {
    let quads = row.channels.div_ceil(QUAD);
    let block_len = row.taps.len() * quads * LANES * QUAD;
    // SAFETY: `Row8::check` has shown that all steps' taps, and their channels in whole quads, are in the
    // input, and that the weights hold `BLOCKS` blocks.
    unsafe {
        let mut sums = [begin; PX];
        let base = row.input.as_ptr().add(row.start + first * row.step);
        let mut weights = row.weights.as_ptr();
        for &tap in row.taps {
            let pixel = base.offset(tap);
            for quad in 0..quads {
                let w: [_; BLOCKS] =
                    std::array::from_fn(|block| S::Wide::weights(weights.add(block * block_len)));
                for (px, sums) in sums.iter_mut().enumerate() {
                    let x = S::Wide::quad(pixel.add(px * row.step + quad * QUAD));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = sum.dot(x, w);
                    }
                }
                weights = weights.add(LANES * QUAD);
            }
        }
        for (px, sums) in sums.into_iter().enumerate() {
            for (block, sum) in sums.into_iter().enumerate() {
                sum.store(to.add((px * BLOCKS + block) * LANES));
            }
        }
    }
}

/// From sums, `[step][block][16]`, to the results of `blocks` blocks.
///
/// # Safety
/// The row was checked and has the blocks, the steps are in the row, and the processor has the
/// instruction set of `F`.
#[inline(always)]
unsafe fn finish<F: Floats>(
    row: &mut Row8<'_>,
    steps: std::ops::Range<usize>,
    blocks: usize,
    sums: *const i32,
) {
    for block in 0..blocks {
        let channel = block * LANES;
        let count = (row.output_channels - channel).min(LANES);
        // SAFETY: `Row8::check` has shown that multipliers and biases hold the block, and that
        // channels `channel..channel + count` of the steps are in the output and in the residual.
        unsafe {
            let multiplier = F::load(row.multiplier.as_ptr().add(channel));
            let bias = F::load(row.bias.as_ptr().add(channel));
            for (i, step) in steps.clone().enumerate() {
                let sum = F::load_sums(sums.add((i * blocks + block) * LANES));
                let mut y = sum.mul(multiplier).add(bias);
                match row.residual {
                    None => {}
                    Some(Residual8::F32 { values, step: from }) => {
                        let from = values.as_ptr().add(step * from + channel);
                        let mut all = [0.0; LANES];
                        y = y.add(F::load(whole(from, count, &mut all)));
                    }
                    Some(Residual8::I8 {
                        codes,
                        scale,
                        step: from,
                    }) => {
                        let from = codes.as_ptr().add(step * from + channel);
                        let mut all = [0; LANES];
                        let codes = F::load_codes(whole(from, count, &mut all));
                        y = y.add(codes.mul(F::splat(&scale)));
                    }
                }
                if row.relu {
                    y = y.relu();
                }
                let to = step * row.output_step + channel;
                match &mut row.output {
                    Output8::F32(values) => {
                        let to = values.as_mut_ptr().add(to);
                        if count == LANES {
                            y.store(to);
                        } else {
                            let mut all = [0.0; LANES];
                            y.store(all.as_mut_ptr());
                            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
                        }
                    }
                    Output8::I8 { codes, scale } => {
                        let (to, scale) = (codes.as_mut_ptr().add(to), F::splat(scale));
                        if count == LANES {
                            y.store_codes(scale, to);
                        } else {
                            let mut all = [0; LANES];
                            y.store_codes(scale, all.as_mut_ptr());
                            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
                        }
                    }
                }
            }
        }
    }
}

/// A pointer to 16 elements, the first `count` of which are those at `from`; the others, if any, are
/// those of `all`.
///
/// # Safety
/// `from` is valid for reading `count` elements, at most 16.
#[inline(always)]
unsafe fn whole<T: Copy>(from: *const T, count: usize, all: &mut [T; LANES]) -> *const T {
    if count == LANES {
        return from;
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count) };
    all.as_ptr()
}

/// See [`narrow_row8`], which has checked the row.
struct NarrowRow<'a>(Row8<'a>);

impl Kernel for NarrowRow<'_> {
    #[inline(always)]
    unsafe fn run<S: Set>(mut self) {
        let row = &mut self.0;
        let mut channel = 0;
        while channel < row.output_channels {
            let left = row.output_channels - channel;
            // SAFETY: `narrow_row8` checked the row, and `channel + CHANNELS <= output_channels`.
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

/// Computes `CHANNELS` output channels, from `channel` on, of the whole row; returns their number.
///
/// # Safety
/// The row was checked, has the channels, and the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn narrow<S: Set, const PX: usize, const CHANNELS: usize>(
    row: &mut Row8<'_>,
    channel: usize,
) -> usize {
    // SAFETY: the caller's promise; the tiles' steps are in the row.
    unsafe {
        let begin = narrow_begin::<S, CHANNELS>(row, channel);
        let mut done = 0;
        while row.width - done >= PX {
            narrow_tile::<S, PX, CHANNELS>(row, begin, done, channel);
            done += PX;
        }
        while row.width > done {
            narrow_tile::<S, 1, CHANNELS>(row, begin, done, channel);
            done += 1;
        }
    }
    CHANNELS
}

/// What the sums begin with; see [`wide_begin`].
///
/// # Safety
/// As [`narrow`].
#[inline(always)]
unsafe fn narrow_begin<S: Set, const CHANNELS: usize>(
    row: &Row8<'_>,
    channel: usize,
) -> [S::Narrow; CHANNELS] {
    let per_output = row.taps.len() * row.channels.next_multiple_of(NARROW);
    // SAFETY: `Row8::check` has shown that the weights hold the channels.
    unsafe {
        let mut sums = [S::Narrow::zero(); CHANNELS];
        if S::OFFSET {
            let zeros = S::Narrow::half_inputs([0; NARROW].as_ptr());
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
/// As [`narrow`], and the steps are in the row.
#[inline(always)]
unsafe fn narrow_tile<S: Set, const PX: usize, const CHANNELS: usize>(
    row: &mut Row8<'_>,
    begin: [S::Narrow; CHANNELS],
    first: usize,
    channel: usize,
) {
    let channels = row.channels.next_multiple_of(NARROW);
    let per_output = row.taps.len() * channels;
    // SAFETY: `Row8::check` has shown that all steps' taps, and their channels in whole fragments of 32,
    // are in the input, and that the weights hold `output_channels` channels.
    unsafe {
        let mut sums = [begin; PX];
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
            for (output, totals) in totals.iter().enumerate() {
                finish_few(
                    row,
                    first + 4 * four,
                    &totals[..PX.min(4)],
                    channel + output,
                );
            }
        }
    }
}

/// From sums to the results of one channel of a few steps from `first` on: [`finish`] for scalars.
///
/// # Safety
/// The row was checked, the steps are in the row, and `channel < output_channels`.
#[inline(always)]
unsafe fn finish_few(row: &mut Row8<'_>, first: usize, totals: &[i32], channel: usize) {
    // SAFETY: as in `finish`.
    unsafe {
        let multiplier = *row.multiplier.get_unchecked(channel);
        let bias = *row.bias.get_unchecked(channel);
        for (i, &total) in totals.iter().enumerate() {
            let step = first + i;
            let mut y = total as f32 * multiplier + bias;
            match row.residual {
                None => {}
                Some(Residual8::F32 { values, step: from }) => {
                    y += values.get_unchecked(step * from + channel);
                }
                Some(Residual8::I8 {
                    codes,
                    scale,
                    step: from,
                }) => {
                    y += f32::from(*codes.get_unchecked(step * from + channel)) * scale;
                }
            }
            if row.relu {
                y = positive(y);
            }
            let to = step * row.output_step + channel;
            match &mut row.output {
                Output8::F32(values) => *values.get_unchecked_mut(to) = y,
                Output8::I8 { codes, scale } => *codes.get_unchecked_mut(to) = code(y, *scale),
            }
        }
    }
}

#[cfg(test)]
mod tests;
