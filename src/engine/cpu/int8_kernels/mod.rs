//! INT8 convolution kernels, the counterparts of those in `kernels.rs`. Each call computes one row of output pixels.
//!
//! Sums of products of codes, less the input's zero point, and weights are exact 32-bit integers. A result is
//! `y = sum · multiplier[c] + bias[c]` (two roundings), plus the residual, then ReLU. If the output holds codes, `y / scale`
//! is rounded half to even, and the zero point added; then clamped to -128..=127, with 0 for NaN. Every instruction set
//! performs these same operations.
//!
//! A wide row may multiply only some of the input channels and add the sums of the others, which are known (`slices.rs`).
//!
//! The input's zero point enters where a sum starts, see `wide_start` in `wide.rs`, so the multiplication does not know it.
//!
//! *Wide*: lanes are output channels. A tile of steps by blocks of 16 channels stays in registers during the reduction
//! over taps and quads of input channels. Each step multiplies four broadcast input codes by the weights of its blocks.
//! *Narrow*: lanes are input channels, which are added up at the end. It serves convolutions with so few output channels
//! that a block would be mostly padding.
//!
//! Codes past a pixel's channels are multiplied by weights of 0.

mod narrow;
#[cfg(test)]
mod tests;
mod wide;

use std::ops::Range;

use crate::engine::cpu::int8_kernels::narrow::NarrowRow;
use crate::engine::cpu::int8_kernels::wide::WideRow;
use crate::engine::cpu::int8_simd::dispatch;
use crate::engine::cpu::simd::Isa;
use crate::engine::cpu::slices::Background;
use crate::program::Codes;
use crate::program::layout::LANES;
use crate::program::layout::{NARROW, QUAD};

/// One row of an INT8 convolution's steps, for one group.
#[derive(Debug)]
pub(super) struct Int8Row<'a> {
    /// The input's buffer, with at least 64 bytes after the last pixel read.
    pub(super) input: &'a [i8],
    /// Index in `input` of the first channel at tap (0, 0) of the first step.
    pub(super) start: usize,
    /// Offset of each tap from tap (0, 0), in elements.
    pub(super) taps: &'a [isize],
    /// Stride between steps, in input elements.
    pub(super) step: usize,
    /// Input channels.
    pub(super) channels: usize,
    /// The quads of input channels to multiply, in ascending order. Narrow: all of them.
    pub(super) quads: &'a [Range<usize>],
    /// Sums to add to those of the multiplied channels. Narrow: none.
    pub(super) background: Option<Background<'a>>,
    /// Whether input codes may be negative; otherwise they are in 0..=127.
    pub(super) signed: bool,
    /// The input's zero point. If it is not 0, input codes count as signed.
    pub(super) zero: i8,
    /// Weights of the blocks or channels to compute.
    pub(super) weights: &'a [i8],
    /// Value of a sum of 1, for the blocks or channels to compute.
    pub(super) multiplier: &'a [f32],
    /// Bias of the blocks or channels to compute.
    pub(super) bias: &'a [f32],
    /// Values to add, in the layout of `output`.
    pub(super) residual: Option<Int8Residual<'a>>,
    /// Starts at the first channel to compute of the first step's output pixel.
    pub(super) output: Int8Output<'a>,
    /// Stride between steps, in output elements.
    pub(super) output_step: usize,
    /// Number of steps.
    pub(super) width: usize,
    /// Output channels to compute. Wide: at most [`int8_wide_channels`]; narrow: any number.
    pub(super) output_channels: usize,
    /// Clamp negative values to 0.
    pub(super) relu: bool,
}

/// A row of the residual. Starts at the first channel of the first step's pixel; `step` is the stride between steps, in
/// elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum Int8Residual<'a> {
    /// Values.
    F32 { values: &'a [f32], step: usize },
    /// Codes; `scale` is the value of code 1.
    I8 {
        codes: &'a [i8],
        scale: f32,
        step: usize,
    },
}

/// The destination of results.
#[derive(Debug)]
pub(super) enum Int8Output<'a> {
    /// Values.
    F32(&'a mut [f32]),
    /// Codes.
    I8 { codes: &'a mut [i8], meaning: Codes },
    /// The sums themselves, without what follows them. Wide only.
    Sums(&'a mut [i32]),
}

impl Int8Row<'_> {
    /// Panics unless the row lies inside its slices; see `Row::check`. `read` is the number of input channels that the
    /// kernel reads per pixel.
    fn check(&self, read: usize, weights: usize, lanes: usize) {
        assert!(self.signed || self.zero == 0, "sign");
        let last = (self.width - 1) * self.step;
        let reach = |tap: isize| self.start.checked_add_signed(tap);
        // The kernels form the address of tap (0, 0) even if it is not among the taps.
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
            Int8Output::F32(values) => values.len(),
            Int8Output::I8 { codes, .. } => codes.len(),
            Int8Output::Sums(sums) => sums.len(),
        };
        assert!(end(self.output_step) <= output, "output");
        let inside = match self.residual {
            None => true,
            Some(Int8Residual::F32 { values, step }) => end(step) <= values.len(),
            Some(Int8Residual::I8 { codes, step, .. }) => end(step) <= codes.len(),
        };
        assert!(inside, "residual");
    }
}

/// Most output channels that one call of [`int8_wide_row`] computes.
pub(super) fn int8_wide_channels(isa: Isa) -> usize {
    match isa {
        Isa::Avx512Vnni => 4 * LANES,
        _ => LANES,
    }
}

/// Computes a row with lanes over output channels.
pub(super) fn int8_wide_row(isa: Isa, row: Int8Row<'_>) {
    if row.width == 0 {
        return;
    }
    let blocks = row.output_channels.div_ceil(LANES);
    assert!((1..=4).contains(&blocks), "blocks");
    let read = row.channels.next_multiple_of(QUAD);
    let inside = |quads: &Range<usize>| quads.end <= read / QUAD;
    assert!(row.quads.iter().all(inside), "quads");
    row.check(read, blocks * row.taps.len() * read * LANES, blocks * LANES);
    dispatch(isa, row.signed, WideRow(row));
}

/// Computes a row with lanes over input channels. The row must have no residual.
pub(super) fn int8_narrow_row(isa: Isa, row: Int8Row<'_>) {
    if row.width == 0 {
        return;
    }
    assert!(row.residual.is_none(), "residual");
    let wide = row.background.is_some() || matches!(row.output, Int8Output::Sums(_));
    assert!(!wide, "a background or sums");
    let read = row.channels.next_multiple_of(NARROW);
    row.check(
        read,
        row.output_channels * row.taps.len() * read,
        row.output_channels,
    );
    dispatch(isa, row.signed, NarrowRow(row));
}
