//! Splits an operator into bands of output rows, one task each.

use std::ops::Range;

use bytemuck::Pod;

use crate::cpu::pool::Pool;
use crate::engine::EngineError;
use crate::engine::cpu::arena::{Element, Place};
use crate::engine::cpu::simd::Isa;
use crate::engine::cpu::skip::{Active, Runs};
use crate::program::ProgramError;

/// What operators run with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) pool: &'a Pool,
    pub(super) isa: Isa,
    /// The weight blob.
    pub(super) weights: &'a [u8],
    /// What the operator computes; `None` for everything.
    pub(super) active: Option<Active<'a>>,
    /// Whether the network's input may have negative codes.
    pub(super) signed_input: bool,
}

impl<'a> Context<'a> {
    /// The pixels of row `y` of the output, whose width is given, that are computed.
    pub(super) fn runs(&self, y: usize, width: usize) -> Runs<'a> {
        self.active
            .map_or(Runs::all(width), |active| active.runs(y))
    }

    /// A section of the blob as values.
    pub(super) fn values<T: Pod>(&self, range: &Range<usize>) -> Result<&'a [T], EngineError> {
        let bytes = self.weights.get(range.clone());
        bytes
            .and_then(|bytes| bytemuck::try_cast_slice(bytes).ok())
            .ok_or_else(|| {
                let what =
                    format!("weights at {range:?} are not in memory, or not aligned to 4 bytes");
                ProgramError::payload(what).into()
            })
    }
}

/// Where an operator writes.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) output: Place,
    /// Whether this operator is the first to write the buffer: it then also clears its border.
    pub(super) clears_border: bool,
}

impl Target {
    /// Calls `f(y, rows)` in parallel for bands of `band` output rows; `rows` are whole rows of the
    /// buffer, beginning with row `y` of the map. What is not computed is filled before.
    pub(super) fn bands<T: Element>(
        &self,
        context: Context<'_>,
        buffer: &mut [T],
        band: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let Place {
            border,
            row,
            pixel,
            height,
            ..
        } = self.output;
        let (edge, side) = (border * row, border * pixel);
        let body = edge..edge + height * row;
        if self.clears_border {
            buffer[..body.start].fill(T::zeroed());
            buffer[body.end..].fill(T::zeroed());
        }
        context
            .pool
            .for_each_chunk_mut(&mut buffer[body], band * row, |i, rows| {
                if self.clears_border && border > 0 {
                    for row in rows.chunks_exact_mut(row) {
                        row[..side].fill(T::zeroed());
                        let right = row.len() - side;
                        row[right..].fill(T::zeroed());
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

/// The output's buffer, to be written, and two inputs' buffers, which are others.
pub(super) fn split<'a, I: Element, O: Element>(
    arena: &'a mut [u8],
    output: &Place,
    inputs: [Place; 2],
) -> (&'a mut [O], [&'a [I]; 2]) {
    let (buffer, inputs) = split_bytes(arena, output, inputs);
    (
        bytemuck::cast_slice_mut(buffer),
        inputs.map(bytemuck::cast_slice),
    )
}

/// As [`split`], where the inputs' elements differ.
pub(super) fn split_bytes<'a>(
    arena: &'a mut [u8],
    output: &Place,
    inputs: [Place; 2],
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
