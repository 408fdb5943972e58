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

/// Computes the row in tiles of `BLOCKS` blocks by `MANY`, `FEW` and single steps.
///
/// # Safety
/// The row was checked, has `BLOCKS` blocks, and the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn wide<S: Set, const MANY: usize, const FEW: usize, const BLOCKS: usize>(
    row: &mut Row8<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let begin = wide_begin::<S, BLOCKS>(row);
        let done = wide_tiles::<S, MANY, BLOCKS>(row, begin, 0);
        let done = wide_tiles::<S, FEW, BLOCKS>(row, begin, done);
        wide_tiles::<S, 1, BLOCKS>(row, begin, done);
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

/// Computes as many tiles of `PX` steps as fit after step `done`; returns the next step.
///
/// # Safety
/// As [`wide`].
#[inline(always)]
unsafe fn wide_tiles<S: Set, const PX: usize, const BLOCKS: usize>(
    row: &mut Row8<'_>,
    begin: [S::Wide; BLOCKS],
    mut done: usize,
) -> usize {
    while row.width - done >= PX {
        // SAFETY: the caller's promise, and steps `done..done + PX` are in the row.
        unsafe { wide_tile::<S, PX, BLOCKS>(row, begin, done) };
        done += PX;
    }
    done
}

/// Computes `PX` steps from step `first` on.
///
/// # Safety
/// As [`wide`], and the steps are in the row.
#[inline(always)]
unsafe fn wide_tile<S: Set, const PX: usize, const BLOCKS: usize>(
    row: &mut Row8<'_>,
    begin: [S::Wide; BLOCKS],
    first: usize,
) {
    let quads = row.channels.div_ceil(QUAD);
    let block_len = row.taps.len() * quads * LANES * QUAD;
    // SAFETY: `Row8::check` has shown that all steps' taps, and their channels in whole quads, are in the
    // input, and that the weights hold `BLOCKS` blocks. The sums of a tile fill `memory`.
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
        let mut memory = MaybeUninit::<[[[i32; LANES]; BLOCKS]; PX]>::uninit();
        let to = memory.as_mut_ptr().cast::<i32>();
        for (px, sums) in sums.into_iter().enumerate() {
            for (block, sum) in sums.into_iter().enumerate() {
                sum.store(to.add((px * BLOCKS + block) * LANES));
            }
        }
        let steps = PX.min(row.width - first);
        finish::<S::Floats>(row, first..first + steps, BLOCKS, to);
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
                        y = y.add(reading(from, count, |from| F::load(from)));
                    }
                    Some(Residual8::I8 {
                        codes,
                        scale,
                        step: from,
                    }) => {
                        let from = codes.as_ptr().add(step * from + channel);
                        let codes = reading(from, count, |from| F::load_codes(from));
                        y = y.add(codes.mul(F::splat(&scale)));
                    }
                }
                if row.relu {
                    y = y.relu();
                }
                let to = step * row.output_step + channel;
                match &mut row.output {
                    Output8::F32(values) => {
                        writing(values.as_mut_ptr().add(to), count, |to| y.store(to));
                    }
                    Output8::I8 { codes, scale } => {
                        let scale = F::splat(scale);
                        writing(codes.as_mut_ptr().add(to), count, |to| {
                            y.store_codes(scale, to)
                        });
                    }
                }
            }
        }
    }
}

/// Calls `read` with a pointer to 16 elements of which the first `count` are those at `from`.
///
/// # Safety
/// `from` is valid for reading `count` elements, at most 16.
#[inline(always)]
unsafe fn reading<T: Copy + Default, R>(
    from: *const T,
    count: usize,
    read: impl FnOnce(*const T) -> R,
) -> R {
    if count == LANES {
        return read(from);
    }
    let mut all = [T::default(); LANES];
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count) };
    read(all.as_ptr())
}

/// Calls `write` with a pointer to 16 elements, the first `count` of which get to `to`.
///
/// # Safety
/// `to` is valid for writing `count` elements, at most 16.
#[inline(always)]
unsafe fn writing<T: Copy + Default>(to: *mut T, count: usize, write: impl FnOnce(*mut T)) {
    if count == LANES {
        return write(to);
    }
    let mut all = [T::default(); LANES];
    write(all.as_mut_ptr());
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(all.as_ptr(), to, count) };
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
        for output in 0..CHANNELS {
            for four in (0..PX).step_by(4) {
                let sum = |i: usize| sums.get(four + i).map_or(S::Narrow::zero(), |s| s[output]);
                let totals = S::Narrow::totals([sum(0), sum(1), sum(2), sum(3)]);
                for (i, total) in totals.into_iter().enumerate().take(PX - four) {
                    finish_one(row, first + four + i, channel + output, total);
                }
            }
        }
    }
}

/// From a sum to the result of one channel of a step: [`finish`] for scalars.
///
/// # Safety
/// The row was checked, `step < width` and `channel < output_channels`.
#[inline(always)]
unsafe fn finish_one(row: &mut Row8<'_>, step: usize, channel: usize, total: i32) {
    // SAFETY: as in `finish`.
    unsafe {
        let mut y = total as f32 * row.multiplier.get_unchecked(channel);
        y += row.bias.get_unchecked(channel);
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

#[cfg(test)]
mod tests;
