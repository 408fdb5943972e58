//! The wide kernel: lanes are output channels.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::engine::cpu::int8_kernels::{Int8Output, Int8Residual, Int8Row};
use crate::engine::cpu::int8_simd::{Floats, InstructionSet, Kernel, Registers, Sums, Wide};
use crate::program::Codes;
use crate::program::layout::LANES;
use crate::program::layout::QUAD;

/// See [`int8_wide_row`](super::int8_wide_row), which checks the row.
pub(super) struct WideRow<'a>(pub(super) Int8Row<'a>);

impl Kernel for WideRow<'_> {
    #[inline(always)]
    unsafe fn run<S: InstructionSet>(mut self) {
        let row = &mut self.0;
        // SAFETY: `int8_wide_row` checked the row, and the tiles cover its steps exactly.
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

/// Memory aligned to a cache line, because a vector that crosses two lines is slow to read back.
#[repr(C, align(64))]
struct CacheAligned<T>(T);

/// Computes the row in tiles of `BLOCKS` blocks by `MANY`, `FEW` or one step.
///
/// # Safety
/// The row is checked and has `BLOCKS` blocks, and the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn wide<S: InstructionSet, const MANY: usize, const FEW: usize, const BLOCKS: usize>(
    row: &mut Int8Row<'_>,
) {
    let mut memory = CacheAligned(MaybeUninit::<[[[i32; LANES]; BLOCKS]; MANY]>::uninit());
    let sums = memory.0.as_mut_ptr().cast::<i32>();
    // SAFETY: the caller upholds the contract, the row contains the tiles' steps, and `memory` holds the sums of the
    // largest tile, of which a tile has written those of its steps. `Int8Row::check` ensures that an output of sums holds
    // `output_channels`, at most `BLOCKS` blocks, of all steps.
    unsafe {
        let shifted = match &row.output {
            Int8Output::F32(_) | Int8Output::Sums(_) => false,
            Int8Output::I8 { meaning, .. } => meaning.zero != 0,
        };
        let start = wide_start::<S, BLOCKS>(row);
        let mut done = 0;
        while done < row.width {
            let left = row.width - done;
            // A small tile is slower per step, but cheaper than computing steps that are not needed.
            let (first, steps) = if left == MANY || left >= MANY.max(2 * FEW + 1) {
                wide_tile::<S, MANY, BLOCKS>(row, start, done, sums);
                (done, MANY)
            } else if row.width >= FEW {
                // The last tile may overlap the one before it and repeat its results.
                let first = done.min(row.width - FEW);
                wide_tile::<S, FEW, BLOCKS>(row, start, first, sums);
                (first, FEW)
            } else {
                wide_tile::<S, 1, BLOCKS>(row, start, done, sums);
                (done, 1)
            };
            done = first + steps;
            if let Some(background) = row.background {
                for (i, step) in (first..done).enumerate() {
                    let from = &background.step(step)[..BLOCKS * LANES];
                    for (lane, from) in from.iter().enumerate() {
                        let sum = sums.add(i * BLOCKS * LANES + lane);
                        *sum = (*sum).wrapping_add(*from);
                    }
                }
            }
            if let Int8Output::Sums(to) = &mut row.output {
                for (i, step) in (first..done).enumerate() {
                    let from = sums.add(i * BLOCKS * LANES);
                    let to = to.as_mut_ptr().add(step * row.output_step);
                    std::ptr::copy_nonoverlapping(from, to, row.output_channels);
                }
            } else if shifted {
                finish::<S::Floats, true>(row, first..done, BLOCKS, sums);
            } else {
                finish::<S::Floats, false>(row, first..done, BLOCKS, sums);
            }
        }
    }
}

/// The sums' start values: 0, or the negative of what inputs of the zero point's code would add.
///
/// # Safety
/// The same as [`wide`].
#[inline(always)]
unsafe fn wide_start<S: InstructionSet, const BLOCKS: usize>(
    row: &Int8Row<'_>,
) -> [S::Wide; BLOCKS] {
    let quads = row.channels.div_ceil(QUAD);
    let len = row.taps.len() * quads;
    // SAFETY: `Int8Row::check` ensures that the weights hold `BLOCKS` blocks of `len` times 64 codes, and `int8_wide_row`
    // that the multiplied quads are below `quads`; `zeros` reads a local array.
    unsafe {
        let mut sums = [S::Wide::zero(); BLOCKS];
        if S::OFFSET || S::SIGNED && row.zero != 0 {
            let zeros = S::Wide::quad([row.zero; QUAD].as_ptr());
            let multiplied = row.quads.iter().flat_map(Clone::clone);
            let all = multiplied.flat_map(|quad| (quad..len).step_by(quads));
            for at in all {
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

/// Writes the sums of `PX` steps, starting at step `first`, to `to` as `[step][block][16]`.
///
/// # Safety
/// The same as [`wide`]. The row contains the steps, and `to` is valid for writing the sums.
#[inline(always)]
unsafe fn wide_tile<S: InstructionSet, const PX: usize, const BLOCKS: usize>(
    row: &Int8Row<'_>,
    start: [S::Wide; BLOCKS],
    first: usize,
    to: *mut i32,
) {
    let quads = row.channels.div_ceil(QUAD);
    let block_len = row.taps.len() * quads * LANES * QUAD;
    // SAFETY: `Int8Row::check` ensures that the input contains all steps' taps, with channels in whole quads, and that the
    // weights hold `BLOCKS` blocks; `int8_wide_row`, that the multiplied quads are below `quads`. The caller guarantees
    // `to`.
    unsafe {
        let mut sums = [start; PX];
        let base = row.input.as_ptr().add(row.start + first * row.step);
        for (tap, &offset) in row.taps.iter().enumerate() {
            let pixel = base.offset(offset);
            let of_tap = row.weights.as_ptr().add(tap * quads * LANES * QUAD);
            for range in row.quads {
                let mut weights = of_tap.add(range.start * LANES * QUAD);
                for quad in range.clone() {
                    let w: [_; BLOCKS] = std::array::from_fn(|block| {
                        S::Wide::weights(weights.add(block * block_len))
                    });
                    for (px, sums) in sums.iter_mut().enumerate() {
                        let x = S::Wide::quad(pixel.add(px * row.step + quad * QUAD));
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = sum.dot(x, w);
                        }
                    }
                    weights = weights.add(LANES * QUAD);
                }
            }
        }
        for (px, sums) in sums.into_iter().enumerate() {
            for (block, sum) in sums.into_iter().enumerate() {
                sum.store(to.add((px * BLOCKS + block) * LANES));
            }
        }
    }
}

/// Converts sums, `[step][block][16]`, to the results of `blocks` blocks. `SHIFTED`: the output has a zero point.
///
/// # Safety
/// The row is checked, has the blocks and contains the steps; `sums` holds the steps' sums; the processor has the
/// instruction set of `F`.
#[inline(always)]
unsafe fn finish<F: Floats, const SHIFTED: bool>(
    row: &mut Int8Row<'_>,
    steps: Range<usize>,
    blocks: usize,
    sums: *const i32,
) {
    for block in 0..blocks {
        let channel = block * LANES;
        let count = (row.output_channels - channel).min(LANES);
        // SAFETY: `Int8Row::check` ensures that multipliers and biases hold the block, and that the output and the residual
        // contain channels `channel..channel + count` of the steps. Partial vectors go through local arrays of 16 values.
        unsafe {
            let multiplier = F::load(row.multiplier.as_ptr().add(channel));
            let bias = F::load(row.bias.as_ptr().add(channel));
            for (i, step) in steps.clone().enumerate() {
                let sum = F::load_sums(sums.add((i * blocks + block) * LANES));
                let mut y = sum.mul(multiplier).add(bias);
                match row.residual {
                    None => {}
                    Some(Int8Residual::F32 { values, step: from }) => {
                        let from = values.as_ptr().add(step * from + channel);
                        let mut all = [0.0; LANES];
                        y = y.add(F::load(whole(from, count, &mut all)));
                    }
                    Some(Int8Residual::I8 {
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
                    Int8Output::F32(values) => {
                        let to = values.as_mut_ptr().add(to);
                        if count == LANES {
                            y.store(to);
                        } else {
                            let mut all = [0.0; LANES];
                            y.store(all.as_mut_ptr());
                            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
                        }
                    }
                    Int8Output::I8 { codes, meaning } => {
                        let to = codes.as_mut_ptr().add(to);
                        let mut scale = F::splat(&meaning.scale);
                        if SHIFTED {
                            // The operations of `Codes::code`.
                            let steps = y.div(scale);
                            let steps = steps.add(F::splat(&Codes::ROUND));
                            let steps = steps.add(F::splat(&-Codes::ROUND));
                            y = steps.add(F::splat(&f32::from(meaning.zero)));
                            scale = F::splat(&1.0);
                        }
                        if count == LANES {
                            y.store_codes(scale, to);
                        } else {
                            let mut all = [0; LANES];
                            y.store_codes(scale, all.as_mut_ptr());
                            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
                        }
                    }
                    // `wide` has stored the sums.
                    Int8Output::Sums(_) => {}
                }
            }
        }
    }
}

/// Returns a pointer to 16 elements. The first `count` are those at `from`; the others, if any, come from `all`.
///
/// # Safety
/// `from` is valid for reading `count` elements, and `count` is at most 16.
#[inline(always)]
unsafe fn whole<T: Copy>(from: *const T, count: usize, all: &mut [T; LANES]) -> *const T {
    if count == LANES {
        return from;
    }
    // SAFETY: the caller guarantees `count` readable elements, and `all` has 16.
    unsafe { std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count) };
    all.as_ptr()
}
