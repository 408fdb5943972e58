//! Marks of pixels, a byte each, and how they spread from tensor to tensor: forwards, from the pixels that an operator
//! reads to those that it writes ([`Marks::spread`]), and backwards ([`Marks::spread_back`]).

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::pool::Pool;
use crate::engine::cpu::arena::{MIN_BANDS, TensorPlace, element};
use crate::engine::reach::Reach;
use crate::program::Tensor;

/// Pixels that are computed or copied together: the smallest tile that the kernels compute efficiently.
pub(super) const GROUP: usize = 4;

/// Bytes that are tested together where few are marked.
const BLOCK: usize = 32;

/// Marked pixels of a tensor: a byte per pixel, 1 if marked. Rows are padded with 0 to whole groups.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    pub(super) marks: Vec<u8>,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Bytes per row.
    pub(super) row: usize,
}

impl Marks {
    /// No marks, for a tensor.
    pub(super) fn new(tensor: &Tensor) -> Self {
        let row = tensor.width.next_multiple_of(GROUP);
        Self {
            marks: vec![0; tensor.height * row],
            height: tensor.height,
            width: tensor.width,
            row,
        }
    }

    /// Bytes that the marks of a tensor take.
    pub(super) fn bytes(tensor: &Tensor) -> u64 {
        (tensor.height * tensor.width.next_multiple_of(GROUP)) as u64
    }

    /// The marks of row `y`, with the padding.
    pub(super) fn row(&self, y: usize) -> &[u8] {
        &self.marks[y * self.row..][..self.row]
    }

    /// The same dimensions, without marks.
    pub(super) fn without_marks(&self) -> Self {
        Self {
            marks: Vec::new(),
            ..*self
        }
    }

    /// Marks the non-zero pixels, and notes negative codes.
    pub(super) fn mark_input(
        &mut self,
        pool: &Pool,
        place: &TensorPlace,
        buffer: &[u8],
        negative: &AtomicBool,
    ) {
        let size = element(place.codes);
        let width = self.width;
        let (row, band) = (self.row, self.height.div_ceil(MIN_BANDS));
        pool.for_each_chunk_mut(&mut self.marks, band * row, |i, rows| {
            let mut bits = 0;
            for (r, marks) in rows.chunks_exact_mut(row).enumerate() {
                let start = (place.start() + (i * band + r) * place.row) * size;
                let pixels = buffer[start..].chunks(place.pixel * size);
                for (mark, pixel) in marks[..width].iter_mut().zip(pixels) {
                    let values = &pixel[..place.channels * size];
                    let all = values.iter().fold(0, |all, byte| all | byte);
                    *mark = u8::from(all != 0);
                    bits |= all;
                }
            }
            if bits & 0x80 != 0 {
                negative.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Marks the pixels that read a marked pixel of `input`.
    pub(super) fn spread(&mut self, input: &Marks, reach: &Reach, rows: &mut [Vec<u8>; 2]) {
        let [column_or, steps] = rows;
        let column_or = &mut column_or[..input.width];
        let steps = &mut steps[..self.width.div_ceil(reach.up[1])];
        for (y, marks) in self.marks.chunks_exact_mut(self.row).enumerate() {
            if y.is_multiple_of(reach.up[0]) {
                column_or.fill(0);
                for row in reach.range(0, y / reach.up[0], input.height) {
                    or(column_or, &input.marks[row * input.row..][..input.width]);
                }
                steps.fill(0);
                spread_row(reach, column_or, steps);
            }
            if reach.up[1] == 1 {
                or(&mut marks[..self.width], steps);
            } else {
                let pixels = marks[..self.width].chunks_mut(reach.up[1]);
                for (pixels, step) in pixels.zip(&*steps) {
                    pixels.iter_mut().for_each(|mark| *mark |= step);
                }
            }
        }
    }

    /// Marks the pixels that a marked pixel of `output` reads. `columns` is a work row.
    pub(super) fn spread_back(&mut self, output: &Marks, reach: &Reach, columns: &mut [u8]) {
        let columns = &mut columns[..self.width];
        for y in 0..output.height {
            let marks = &output.row(y)[..output.width];
            if next_mark(marks).is_none() {
                continue;
            }
            columns.fill(0);
            if (reach.stride[1], reach.up[1]) == (1, 1) {
                for dx in reach.first[1]..=reach.last[1] {
                    let (to, from) = (dx.max(0) as usize, (-dx).max(0) as usize);
                    if let (Some(to), Some(from)) = (columns.get_mut(to..), marks.get(from..)) {
                        or(to, from);
                    }
                }
            } else {
                for (x, _) in marks.iter().enumerate().filter(|(_, mark)| **mark != 0) {
                    columns[reach.range(1, x / reach.up[1], self.width)].fill(1);
                }
            }
            for row in reach.range(0, y / reach.up[0], self.height) {
                or(&mut self.marks[row * self.row..][..self.width], columns);
            }
        }
    }

    /// Marks every pixel.
    pub(super) fn fill(&mut self) {
        for row in self.marks.chunks_exact_mut(self.row) {
            row[..self.width].fill(1);
        }
    }

    /// Marks all pixels of the groups with a mark.
    pub(super) fn fill_groups(&mut self) {
        for row in self.marks.chunks_exact_mut(self.row) {
            let groups = row[..self.width].chunks_mut(GROUP);
            for group in groups.filter(|group| group.contains(&1)) {
                group.fill(1);
            }
        }
    }

    /// Number of marked pixels.
    pub(super) fn count(&self) -> usize {
        self.marks.iter().map(|mark| usize::from(*mark)).sum()
    }

    /// Fraction of the groups with a mark.
    pub(super) fn share(&self) -> f32 {
        self.groups() as f32 / (self.marks.len() / GROUP) as f32
    }

    /// Number of groups with a mark.
    fn groups(&self) -> usize {
        let groups = self.marks.chunks_exact(GROUP);
        groups.filter(|group| group.contains(&1)).count()
    }
}

/// Marks the steps that read a marked column.
fn spread_row(reach: &Reach, columns: &[u8], steps: &mut [u8]) {
    let stride = reach.stride[1];
    for dx in reach.first[1]..=reach.last[1] {
        // The first step whose column lies in the map.
        let skip = (-dx).max(0) as usize;
        let first = skip.div_ceil(stride);
        let column = (first * stride) as isize + dx;
        let (Some(steps), Some(columns)) = (steps.get_mut(first..), columns.get(column as usize..))
        else {
            continue;
        };
        if stride == 1 {
            or(steps, columns);
        } else {
            let columns = columns.iter().step_by(stride);
            steps.iter_mut().zip(columns).for_each(|(s, c)| *s |= c);
        }
    }
}

/// `to |= from`, over the shorter length.
pub(super) fn or(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to |= from);
}

/// The first marked pixel.
pub(super) fn next_mark(marks: &[u8]) -> Option<usize> {
    let any = |block: &[u8]| block.iter().fold(0, |any, mark| any | mark) != 0;
    let first = marks.chunks(BLOCK).position(any)? * BLOCK;
    let within = marks[first..].iter().position(|mark| *mark != 0)?;
    Some(first + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(height: usize, width: usize) -> Marks {
        Marks::new(&Tensor {
            name: String::new(),
            channels: 1,
            height,
            width,
            slice_of: None,
            scale: None,
            zero_point: 0,
        })
    }

    #[test]
    fn marks_spread_forwards_and_backwards_along_the_pixels_read() {
        let mut state = 11u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(99);
            (state >> 33) as usize % n
        };
        for case in 0..400 {
            let mut pair = |least: isize, n: usize| [0, 1].map(|_| least + below(n) as isize);
            let first = pair(-3, 5);
            let length = pair(0, 4);
            let [stride, up] = [pair(1, 2), pair(1, 2)].map(|pair| pair.map(|n| n as usize));
            let last = [first[0] + length[0], first[1] + length[1]];
            let reach = Reach {
                stride,
                up,
                first,
                last,
            };
            let size = |below: &mut dyn FnMut(usize) -> usize| [1 + below(9), 1 + below(70)];
            let (input, output) = (size(&mut below), size(&mut below));
            let reads = |y: usize, x: usize| {
                let rows = reach.range(0, y / up[0], input[0]);
                rows.flat_map(move |row| {
                    let columns = reach.range(1, x / up[1], input[1]);
                    columns.map(move |column| (row, column))
                })
            };
            let mut some = |[height, width]: [usize; 2]| {
                let mut map = marks(height, width);
                for _ in 0..below(4) {
                    let (y, x) = (below(height), below(width));
                    map.marks[y * map.row + x] = 1;
                }
                map
            };
            let (from, back) = (some(input), some(output));
            let mut rows = [vec![0; 80], vec![0; 80]];
            let mut found = marks(output[0], output[1]);
            found.spread(&from, &reach, &mut rows);
            let mut found_back = marks(input[0], input[1]);
            found_back.spread_back(&back, &reach, &mut rows[0]);

            let mut expected = marks(output[0], output[1]);
            let mut expected_back = marks(input[0], input[1]);
            for y in 0..output[0] {
                for x in 0..output[1] {
                    let at = y * expected.row + x;
                    for (row, column) in reads(y, x) {
                        let of = row * from.row + column;
                        expected.marks[at] |= from.marks[of];
                        expected_back.marks[of] |= back.marks[at];
                    }
                }
            }
            assert_eq!(found.marks, expected.marks, "case {case}: {reach:?}");
            let same = found_back.marks == expected_back.marks;
            assert!(same, "backwards, case {case}: {reach:?}");
        }
    }
}
