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

mod narrow;
#[cfg(test)]
mod tests;
mod wide;

use crate::engine::cpu::int8_kernels::narrow::NarrowRow;
use crate::engine::cpu::int8_kernels::wide::WideRow;
use crate::engine::cpu::int8_simd::dispatch;
use crate::engine::cpu::simd::Isa;
use crate::program::layout::LANES;
use crate::program::layout::{NARROW, QUAD};

/// One row of steps of an INT8 convolution, for one group.
#[derive(Debug)]
pub(super) struct Int8Row<'a> {
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
    pub(super) residual: Option<Int8Residual<'a>>,
    /// From the first channel to compute of the first step's output pixel on.
    pub(super) output: Int8Output<'a>,
    /// From one step to the next, in output elements.
    pub(super) output_step: usize,
    /// Number of steps.
    pub(super) width: usize,
    /// Output channels to compute: wide, at most [`int8_wide_channels`]; narrow, any.
    pub(super) output_channels: usize,
    /// Clamp negative values to 0.
    pub(super) relu: bool,
}

/// A row of the residual, from the first channel of the first step's pixel on; `step` leads from one
/// step to the next, in elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum Int8Residual<'a> {
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
pub(super) enum Int8Output<'a> {
    /// As values.
    F32(&'a mut [f32]),
    /// As codes; `scale` is the value of code 1.
    I8 { codes: &'a mut [i8], scale: f32 },
}

impl Int8Row<'_> {
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
            Int8Output::F32(values) => values.len(),
            Int8Output::I8 { codes, .. } => codes.len(),
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

/// Output channels that [`int8_wide_row`] computes at once.
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
    row.check(read, blocks * row.taps.len() * read * LANES, blocks * LANES);
    dispatch(isa, row.signed, WideRow(row));
}

/// Computes a row without residual with lanes over input channels.
pub(super) fn int8_narrow_row(isa: Isa, row: Int8Row<'_>) {
    if row.width == 0 {
        return;
    }
    assert!(row.residual.is_none(), "residual");
    let read = row.channels.next_multiple_of(NARROW);
    row.check(
        read,
        row.output_channels * row.taps.len() * read,
        row.output_channels,
    );
    dispatch(isa, row.signed, NarrowRow(row));
}
