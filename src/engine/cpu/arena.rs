//! Places every tensor in one block of memory, the arena.
//!
//! A map is NHWC with a border of zeros (of the zero point in a map of codes), as wide as its readers' padding, so kernels
//! need no special case at edges.
//! Buffers whose lifetimes do not overlap share memory, whether they hold f32 or 8-bit codes. The largest are placed
//! first, each in the smallest gap that holds it.

use bytemuck::Pod;

use crate::engine::EngineError;
use crate::map::MapLayout;
use crate::program::{Codes, Conv, OpKind, Program, ProgramError};

/// Largest arena, in bytes.
const MAX_ARENA: u64 = 4 << 30;
/// Alignment of buffers in bytes, a cache line.
pub(super) const LINE: usize = 64;
/// Bytes after a buffer of codes that kernels may read. They read whole vectors, past the end of a pixel's channels,
/// and multiply the excess by zero.
pub(super) const SLACK: usize = 64;

/// Tasks per operator, if the map has that many rows, to balance the threads' load.
pub(super) const MIN_BANDS: usize = 16;

/// An element of a map: f32 or an 8-bit code.
pub(super) trait Element: Pod + Send + Sync {
    /// The least value.
    const LOWEST: Self;
    /// The element that stands for 0 in a map with these codes, or of f32.
    fn zero(codes: Option<Codes>) -> Self;
    /// The larger value. If one is NaN, the other.
    fn larger(self, other: Self) -> Self;
}

impl Element for f32 {
    const LOWEST: Self = Self::NEG_INFINITY;

    fn zero(_: Option<Codes>) -> Self {
        0.0
    }

    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
}

impl Element for i8 {
    const LOWEST: Self = Self::MIN;

    fn zero(codes: Option<Codes>) -> Self {
        codes.map_or(0, |codes| codes.zero)
    }

    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
}

/// The position of a tensor in the arena. Lengths and indices count elements: f32, or codes of one byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TensorPlace {
    /// First byte of the buffer in the arena.
    pub(super) offset: usize,
    /// Length of the buffer, including the slack after codes.
    pub(super) len: usize,
    /// What the elements mean if they are codes.
    pub(super) codes: Option<Codes>,
    /// Width of the border, in pixels.
    pub(super) border: usize,
    /// Stride between rows.
    pub(super) row: usize,
    /// Stride between pixels.
    pub(super) pixel: usize,
    /// The tensor's first channel within the buffer's pixels.
    pub(super) channel: usize,
    /// Channels of the tensor.
    pub(super) channels: usize,
    /// Rows of the map.
    pub(super) height: usize,
    /// Columns of the map.
    pub(super) width: usize,
}

impl TensorPlace {
    /// Index of element (c 0, x 0) of the map within a row of the buffer.
    pub(super) fn inset(&self) -> usize {
        self.border * self.pixel + self.channel
    }

    /// Index of element (c 0, y 0, x 0) of the map within the buffer.
    pub(super) fn start(&self) -> usize {
        self.border * self.row + self.inset()
    }

    /// The buffer's byte range in the arena.
    pub(super) fn buffer(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len * element(self.codes)
    }

    /// The map's layout within its buffer.
    pub(super) fn layout(&self) -> MapLayout {
        MapLayout {
            channels: self.channels,
            height: self.height,
            width: self.width,
            offset: self.start(),
            stride_c: 1,
            stride_y: self.row,
            stride_x: self.pixel,
        }
    }
}

/// Bytes per element of a tensor with these codes, or of f32.
pub(super) fn element(codes: Option<Codes>) -> usize {
    match codes {
        Some(_) => size_of::<i8>(),
        None => size_of::<f32>(),
    }
}

/// Slack in elements.
fn slack(codes: Option<Codes>) -> usize {
    codes.map_or(0, |_| SLACK)
}

/// A buffer to place.
#[derive(Debug)]
struct Buffer {
    tensor: usize,
    /// Bytes.
    len: usize,
    /// First and last operator that use the buffer.
    life: (usize, usize),
}

/// Places the tensors of a validated program; returns the places and the arena's length in bytes.
pub(super) fn plan(program: &Program) -> Result<(Vec<TensorPlace>, usize), EngineError> {
    let count = program.tensors.len();
    let mut borders = vec![0usize; count];
    // The network's input and outputs live forever: from before the first operator to after the last.
    let forever = program.ops.len();
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; count];
    let mut used = |tensor: usize, at: usize| {
        let life = lives[program.root(tensor).0].get_or_insert((at, at));
        *life = (life.0.min(at), life.1.max(at));
    };
    used(program.input, 0);
    used(program.input, forever);
    for (at, op) in program.ops.iter().enumerate() {
        op.inputs().for_each(|input| used(input, at));
        used(op.output, at);
        if let OpKind::Conv(conv) = &op.kind {
            let border = border(conv, program, op.output);
            let root = program.root(conv.input).0;
            borders[root] = borders[root].max(border);
        }
    }
    for output in &program.outputs {
        used(output.tensor, forever);
    }

    let mut buffers = Vec::new();
    for (tensor, life) in lives.into_iter().enumerate() {
        let Some(life) = life else {
            continue;
        };
        let map = &program.tensors[tensor];
        let side = |len: usize| (len as u64).saturating_add(2 * borders[tensor] as u64);
        let values = side(map.height)
            .saturating_mul(side(map.width))
            .saturating_mul(map.channels as u64);
        let bytes = values
            .saturating_add(slack(map.codes()) as u64)
            .saturating_mul(element(map.codes()) as u64);
        if bytes > MAX_ARENA {
            return Err(EngineError::Memory {
                bytes,
                limit: MAX_ARENA,
            });
        }
        buffers.push(Buffer {
            tensor,
            len: bytes as usize,
            life,
        });
    }
    let (offsets, len) = place(&buffers, count);
    if len as u64 > MAX_ARENA {
        return Err(EngineError::Memory {
            bytes: len as u64,
            limit: MAX_ARENA,
        });
    }

    let mut places = Vec::with_capacity(count);
    for (index, tensor) in program.tensors.iter().enumerate() {
        let (root, channel) = program.root(index);
        let (pixel, border) = (program.tensors[root].channels, borders[root]);
        let row = (tensor.width + 2 * border) * pixel;
        let Some(offset) = offsets[root] else {
            return Err(EngineError::from(ProgramError::payload(format!(
                "tensor {index} `{}` is never used",
                tensor.name
            ))));
        };
        places.push(TensorPlace {
            offset,
            len: (tensor.height + 2 * border) * row + slack(tensor.codes()),
            codes: tensor.codes(),
            border,
            row,
            pixel,
            channel,
            channels: tensor.channels,
            height: tensor.height,
            width: tensor.width,
        });
    }
    Ok((places, len))
}

/// Pixels that a convolution reads beyond the map's edges.
pub(in crate::engine) fn border(conv: &Conv, program: &Program, output: usize) -> usize {
    let (input, output) = (&program.tensors[conv.input], &program.tensors[output]);
    let axis = |axis: usize, len: usize, output_len: usize| {
        let taps = || {
            conv.phases
                .iter()
                .flat_map(|phase| &phase.taps)
                .map(|tap| tap[axis] as i64)
        };
        let first = taps().min().unwrap_or(0).min(0);
        let steps = output_len.div_ceil(conv.up[axis]);
        let last = ((steps - 1) * conv.stride[axis]) as i64 + taps().max().unwrap_or(0).max(0);
        (-first).max(last - (len as i64 - 1)) as usize
    };
    axis(0, input.height, output.height).max(axis(1, input.width, output.width))
}

/// Returns each tensor's offset and the total length.
fn place(buffers: &[Buffer], tensors: usize) -> (Vec<Option<usize>>, usize) {
    let mut order: Vec<&Buffer> = buffers.iter().collect();
    order.sort_by_key(|buffer| (std::cmp::Reverse(buffer.len), buffer.tensor));
    let mut offsets = vec![None; tensors];
    let mut total = 0;
    // Placed buffers, sorted by offset.
    let mut placed: Vec<(usize, &Buffer)> = Vec::new();
    for buffer in order {
        let mut best: Option<(usize, usize)> = None;
        let mut end = 0;
        for &(offset, other) in &placed {
            if other.life.1 < buffer.life.0 || buffer.life.1 < other.life.0 {
                continue;
            }
            if offset >= end + buffer.len && best.is_none_or(|(gap, _)| offset - end < gap) {
                best = Some((offset - end, end));
            }
            end = end.max((offset + other.len).next_multiple_of(LINE));
        }
        let offset = best.map_or(end, |(_, offset)| offset);
        let at = placed.partition_point(|&(other, _)| other <= offset);
        placed.insert(at, (offset, buffer));
        offsets[buffer.tensor] = Some(offset);
        total = total.max(offset + buffer.len);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(tensor: usize, len: usize, life: (usize, usize)) -> Buffer {
        Buffer { tensor, len, life }
    }

    #[test]
    fn buffers_alive_at_once_do_not_overlap() {
        // A linear congruential generator makes 60 buffers of varied sizes and lifetimes.
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 33) % n) as usize
        };
        let buffers: Vec<Buffer> = (0..60)
            .map(|tensor| {
                let first = next(40);
                buffer(tensor, 1 + next(4000), (first, first + next(6)))
            })
            .collect();
        let (offsets, total) = place(&buffers, 60);
        for a in &buffers {
            let start = offsets[a.tensor].unwrap();
            assert_eq!(start % LINE, 0);
            assert!(start + a.len <= total);
            for b in buffers.iter().filter(|b| b.tensor > a.tensor) {
                let other = offsets[b.tensor].unwrap();
                let apart_in_time = a.life.1 < b.life.0 || b.life.1 < a.life.0;
                let apart = start + a.len <= other || other + b.len <= start;
                assert!(apart_in_time || apart, "{a:?} and {b:?}");
            }
        }
        let all: usize = buffers.iter().map(|b| b.len).sum();
        assert!(total < all / 3, "{total} of {all}: memory is not shared");
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let buffers: Vec<Buffer> = (0..10).map(|i| buffer(i, 640, (i, i + 1))).collect();
        assert_eq!(place(&buffers, 10).1, 1280);
    }
}
