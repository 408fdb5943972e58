//! Splits an operator's output into bands of rows, one task per band.

use std::ops::Range;

use bytemuck::Pod;

use crate::cpu::pool::Pool;
use crate::engine::EngineError;
use crate::engine::cpu::active::{Active, Runs};
use crate::engine::cpu::arena::{Element, TensorPlace};
use crate::engine::cpu::simd::Isa;
use crate::engine::cpu::slices::{Slices, Split};
use crate::program::values;

/// Everything an operator needs from the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepContext<'a> {
    pub(super) pool: &'a Pool,
    pub(super) isa: Isa,
    /// The weight blob.
    pub(super) weights: &'a [u8],
    /// The pixels that the operator computes; `None` for all.
    pub(super) active: Option<Active<'a>>,
    /// The sources of the operator's input, if it is a convolution that can take them one by one.
    pub(super) slices: Option<&'a Slices>,
    /// Whether the network's input may contain negative codes.
    pub(super) signed_input: bool,
}

impl<'a> StepContext<'a> {
    /// The runs of pixels to compute in row `y` of an output of this width.
    pub(super) fn runs(&self, y: usize, width: usize) -> Runs<'a> {
        self.active
            .map_or(Runs::all(width), |active| active.runs(y))
    }

    /// Splits a run of pixels of row `y` into runs of one level, each with it; see [`Slices`].
    pub(super) fn levels(&self, y: usize, run: Range<usize>) -> Split<'a> {
        match self.slices {
            Some(slices) => slices.split(y, run),
            None => Split::whole(run),
        }
    }

    /// A section of the weight blob as values.
    pub(super) fn values<T: Pod>(&self, range: &Range<usize>) -> Result<&'a [T], EngineError> {
        Ok(values(self.weights, range)?)
    }
}

/// An operator's output.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) output: TensorPlace,
    /// Whether this operator writes the buffer first. If so, it also clears the border.
    pub(super) clears_border: bool,
}

impl Target {
    /// Calls `f(y, rows)` in parallel for bands of `band` output rows. `rows` are whole rows of the buffer; the first is
    /// row `y` of the map. Pixels that are not computed are filled from the reference beforehand.
    pub(super) fn bands<T: Element>(
        &self,
        context: StepContext<'_>,
        buffer: &mut [T],
        band: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let TensorPlace {
            codes,
            border,
            row,
            pixel,
            height,
            ..
        } = self.output;
        let (edge, side) = (border * row, border * pixel);
        let body = edge..edge + height * row;
        let zero = T::zero(codes);
        if self.clears_border {
            buffer[..body.start].fill(zero);
            buffer[body.end..].fill(zero);
        }
        context
            .pool
            .for_each_chunk_mut(&mut buffer[body], band * row, |i, rows| {
                if self.clears_border && border > 0 {
                    for row in rows.chunks_exact_mut(row) {
                        row[..side].fill(zero);
                        let right = row.len() - side;
                        row[right..].fill(zero);
                    }
                }
                if let Some(active) = context.active {
                    for (r, row) in rows.chunks_exact_mut(row).enumerate() {
                        active.fill(
                            i * band + r,
                            &mut row[self.output.inset()..],
                            pixel,
                            self.output.channels,
                        );
                    }
                }
                f(i * band, rows);
            });
    }
}

/// Splits the arena into the output's buffer and the buffers of two inputs, which must not be the output's.
pub(super) fn split<'a, I: Element, O: Element>(
    arena: &'a mut [u8],
    output: &TensorPlace,
    inputs: [TensorPlace; 2],
) -> (&'a mut [O], [&'a [I]; 2]) {
    let (buffer, inputs) = split_bytes(arena, output, inputs);
    (
        bytemuck::cast_slice_mut(buffer),
        inputs.map(bytemuck::cast_slice),
    )
}

/// Like [`split`], for inputs whose element types differ.
pub(super) fn split_bytes<'a>(
    arena: &'a mut [u8],
    output: &TensorPlace,
    inputs: [TensorPlace; 2],
) -> (&'a mut [u8], [&'a [u8]; 2]) {
    let range = output.buffer();
    let (before, rest) = arena.split_at_mut(range.start);
    let (buffer, after) = rest.split_at_mut(range.len());
    let (before, after) = (&*before, &*after);
    let inputs = inputs.map(|place| {
        let input = place.buffer();
        if input.end <= range.start {
            &before[input]
        } else {
            &after[input.start - range.end..input.end - range.end]
        }
    });
    (buffer, inputs)
}
