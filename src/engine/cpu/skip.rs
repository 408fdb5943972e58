//! Skips empty pixels. This is exact: a pixel that sees only empty input has the value that it has for an input of
//! zeros.
//!
//! A new engine runs once on an input of zeros and records every operator's output, the operator's [`Reference`]. In
//! each frame the non-zero pixels of the input are marked. Then, before anything is computed, the marks spread from
//! tensor to tensor: every pixel that reads a marked one ([`Reach`]) is marked too, with a byte per pixel. An operator
//! computes the groups of [`GROUP`] pixels that contain a mark, and copies the others from its reference. Padding at
//! the map's edges is the same in both runs, so it needs no special case.

mod reference;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::pool::Pool;
use crate::engine::cpu::arena::{Element, MIN_BANDS, TensorPlace, element};
use crate::engine::cpu::skip::reference::Reference;
use crate::program::{Op, OpKind, Program, Tensor};

/// Pixels that are computed or copied together: the smallest tile that the kernels compute efficiently.
pub(super) const GROUP: usize = 4;
/// A convolution that would compute more than this fraction of its groups computes all of them, because the kernels
/// are fastest on whole rows.
const DENSE: f32 = 0.95;
/// The same limit for operators with little arithmetic, where a run of pixels costs about as much as it saves.
const DENSE_LIGHT: f32 = 0.5;
/// Fewest multiply-adds per output pixel for which [`DENSE`] applies.
const HEAVY: usize = 8192;

/// Marks of the current frame, and the references.
#[derive(Debug)]
pub(super) struct Skip {
    input: usize,
    /// Bytes left for references.
    left: usize,
    /// By tensor.
    maps: Vec<Marks>,
    /// By operator.
    steps: Vec<StepMarks>,
    /// Work rows: a row of an input and a row of steps.
    rows: [Vec<u8>; 2],
    /// Whether the frame's input contains negative codes.
    negative: AtomicBool,
}

/// The pixels of a tensor that may differ from the reference: a byte per pixel, 1 if marked. Rows are padded with 0
/// to whole groups.
#[derive(Clone, Debug)]
struct Marks {
    marks: Vec<u8>,
    height: usize,
    width: usize,
    row: usize,
}

/// An operator's tensors, reference and marking result.
#[derive(Debug)]
struct StepMarks {
    output: usize,
    /// The tensor that the output is a slice of, which receives its marks too.
    whole: Option<usize>,
    inputs: Vec<(usize, Reach)>,
    reference: Option<Reference>,
    /// Fraction of the groups above which all are computed.
    dense: f32,
    /// Fraction of the groups that the current frame computes.
    computed: f32,
}

/// The pixels of an operator's output to compute, and the reference for the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active<'a> {
    marks: &'a Marks,
    reference: &'a Reference,
}

/// The input pixels that an operator reads for an output pixel: rows
/// `y / up · stride + first ..= y / up · stride + last`, columns likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Reach {
    stride: [usize; 2],
    up: [usize; 2],
    first: [isize; 2],
    last: [isize; 2],
}

impl Reach {
    /// The pixel at the same position.
    const PIXEL: Self = Self {
        stride: [1; 2],
        up: [1; 2],
        first: [0; 2],
        last: [0; 2],
    };

    /// Output pixels per step.
    pub(in crate::engine) fn up(&self, axis: usize) -> usize {
        self.up[axis]
    }

    /// The input indices below `len` that step `i` reads.
    pub(in crate::engine) fn range(&self, axis: usize, i: usize, len: usize) -> Range<usize> {
        let at = (i * self.stride[axis]) as isize;
        let clamp = |v: isize| v.clamp(0, len as isize) as usize;
        clamp(at + self.first[axis])..clamp(at + self.last[axis] + 1)
    }
}

/// The tensors that an operator reads, each with its reach.
pub(in crate::engine) fn reaches(op: &Op) -> Vec<(usize, Reach)> {
    match &op.kind {
        OpKind::Conv(conv) => {
            let mut reach = Reach {
                stride: conv.stride,
                up: conv.up,
                ..Reach::PIXEL
            };
            for tap in conv.phases.iter().flat_map(|phase| &phase.taps) {
                let near = |axis: usize| reach.first[axis].min(tap[axis] as isize);
                let far = |axis: usize| reach.last[axis].max(tap[axis] as isize);
                (reach.first, reach.last) = ([near(0), near(1)], [far(0), far(1)]);
            }
            let residual = conv.residual.map(|residual| (residual, Reach::PIXEL));
            std::iter::once((conv.input, reach))
                .chain(residual)
                .collect()
        }
        OpKind::DepthToSpace { input, block, .. } => {
            let reach = Reach {
                up: [*block; 2],
                ..Reach::PIXEL
            };
            vec![(*input, reach)]
        }
        OpKind::MaxPool {
            input,
            kernel,
            stride,
            pad,
        } => {
            let first = pad.map(|pad| -(pad as isize));
            let reach = Reach {
                stride: *stride,
                up: [1; 2],
                first,
                last: [0, 1].map(|axis| first[axis] + kernel[axis] as isize - 1),
            };
            vec![(*input, reach)]
        }
        _ => op.inputs().map(|input| (input, Reach::PIXEL)).collect(),
    }
}

/// Multiply-adds per output pixel.
fn products(program: &Program, op: &Op) -> usize {
    match &op.kind {
        OpKind::Conv(conv) => {
            let channels = program.tensors[conv.input].channels / conv.groups;
            let taps = conv.phases.iter().map(|phase| phase.taps.len()).max();
            channels * taps.unwrap_or(0) * program.tensors[op.output].channels
        }
        _ => 0,
    }
}

impl Skip {
    /// Prepares the marks of a validated program. Returns `None` if they would take more than `most` bytes. References
    /// may take another `most` bytes.
    pub(super) fn new(program: &Program, most: usize) -> Option<Self> {
        let pixels = |t: &Tensor| (t.height * t.width.next_multiple_of(GROUP)) as u64;
        if program.tensors.iter().map(pixels).sum::<u64>() > most as u64 {
            return None;
        }
        let marks = |height: usize, width: usize| {
            let row = width.next_multiple_of(GROUP);
            Marks {
                marks: vec![0; height * row],
                height,
                width,
                row,
            }
        };
        let maps: Vec<Marks> = program
            .tensors
            .iter()
            .map(|tensor| marks(tensor.height, tensor.width))
            .collect();
        let widest = maps.iter().map(|map| map.row).max().unwrap_or(0);
        let written: HashSet<usize> = program.ops.iter().map(|op| op.output).collect();
        let step = |op: &Op| {
            let root = program.root(op.output).0;
            // A slice that no operator writes by itself has the marks of the whole tensor.
            let marked = |(input, reach)| {
                let written = written.contains(&input);
                (
                    if written {
                        input
                    } else {
                        program.root(input).0
                    },
                    reach,
                )
            };
            StepMarks {
                output: op.output,
                whole: (root != op.output).then_some(root),
                inputs: reaches(op).into_iter().map(marked).collect(),
                reference: None,
                dense: if products(program, op) < HEAVY {
                    DENSE_LIGHT
                } else {
                    DENSE
                },
                computed: 1.0,
            }
        };
        Some(Self {
            input: program.input,
            left: most,
            steps: program.ops.iter().map(step).collect(),
            maps,
            rows: [vec![0; widest], vec![0; widest]],
            negative: AtomicBool::new(true),
        })
    }

    /// Records the output that operator `index` has just written for an input of zeros.
    pub(super) fn record(&mut self, index: usize, place: &TensorPlace, arena: &[u8]) {
        let reference = Reference::new(place, &arena[place.buffer()]);
        let left = |reference: &Reference| self.left.checked_sub(reference.bytes());
        if let Some((reference, left)) = reference.and_then(|r| left(&r).map(|left| (r, left))) {
            self.left = left;
            self.steps[index].reference = Some(reference);
        }
    }

    /// Marks a frame's pixels, from the input through all operators.
    pub(super) fn mark(&mut self, pool: &Pool, input: &TensorPlace, arena: &[u8]) {
        *self.negative.get_mut() = false;
        self.maps[self.input].mark_input(pool, input, &arena[input.buffer()], &self.negative);
        for step in &self.steps {
            if let Some(whole) = step.whole {
                self.maps[whole].marks.fill(0);
            }
        }
        for step in &mut self.steps {
            // The output is not among the inputs, so its marks can be taken out meanwhile.
            let mut output = std::mem::take(&mut self.maps[step.output].marks);
            output.fill(0);
            let mut map = Marks {
                marks: output,
                ..self.maps[step.output].without_marks()
            };
            for (input, reach) in &step.inputs {
                map.spread(&self.maps[*input], reach, &mut self.rows);
            }
            step.computed = map.groups() as f32 / (map.marks.len() / GROUP) as f32;
            if step.reference.is_none() || step.computed > step.dense {
                step.computed = 1.0;
            }
            if let Some(whole) = step.whole {
                or(&mut self.maps[whole].marks, &map.marks);
            }
            self.maps[step.output] = map;
        }
    }

    /// Whether the marked frame's input contains negative codes.
    pub(super) fn has_negative_codes(&self) -> bool {
        self.negative.load(Ordering::Relaxed)
    }

    /// Fraction of each operator's output that the marked frame computes.
    pub(super) fn computed(&self) -> impl Iterator<Item = f32> {
        self.steps.iter().map(|step| step.computed)
    }

    /// The pixels that operator `index` computes in the marked frame; `None` for all.
    pub(super) fn active(&self, index: usize) -> Option<Active<'_>> {
        let step = &self.steps[index];
        let reference = step.reference.as_ref().filter(|_| step.computed < 1.0)?;
        Some(Active {
            marks: &self.maps[step.output],
            reference,
        })
    }
}

impl Marks {
    /// The same dimensions, without marks.
    fn without_marks(&self) -> Self {
        Self {
            marks: Vec::new(),
            ..*self
        }
    }

    /// Marks the non-zero pixels, and notes negative codes.
    fn mark_input(
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
    fn spread(&mut self, input: &Marks, reach: &Reach, rows: &mut [Vec<u8>; 2]) {
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
                reach.spread_row(column_or, steps);
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

    /// Number of groups with a mark.
    fn groups(&self) -> usize {
        let groups = self.marks.chunks_exact(GROUP);
        groups.filter(|group| group.contains(&1)).count()
    }
}

impl Reach {
    /// Marks the steps that read a marked column.
    fn spread_row(&self, columns: &[u8], steps: &mut [u8]) {
        let stride = self.stride[1];
        for dx in self.first[1]..=self.last[1] {
            // The first step whose column lies in the map.
            let skip = (-dx).max(0) as usize;
            let first = skip.div_ceil(stride);
            let column = (first * stride) as isize + dx;
            let (Some(steps), Some(columns)) =
                (steps.get_mut(first..), columns.get(column as usize..))
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
}

/// `to |= from`, over the shorter length.
fn or(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to |= from);
}

impl<'a> Active<'a> {
    /// The runs of pixels to compute in row `y`.
    pub(super) fn runs(self, y: usize) -> Runs<'a> {
        let row = self.marks.row;
        Runs {
            marks: &self.marks.marks[y * row..(y + 1) * row],
            width: self.marks.width,
            at: 0,
        }
    }

    /// Copies the pixels of row `y` that are not computed from the reference. `pixels` begins with the row's first
    /// element of the tensor, which has `channels` channels; pixels are `pixel` elements apart.
    pub(super) fn fill<T: Element>(
        &self,
        y: usize,
        pixels: &mut [T],
        pixel: usize,
        channels: usize,
    ) {
        let marks =
            self.marks.marks[y * self.marks.row..(y + 1) * self.marks.row].chunks_exact(GROUP);
        for (g, _) in marks.enumerate().filter(|(_, marks)| !marks.contains(&1)) {
            let from: &[T] = self.reference.group(y, g);
            let to = &mut pixels[g * GROUP * pixel..];
            let count = GROUP.min(self.marks.width - g * GROUP);
            if channels == pixel {
                to[..count * channels].copy_from_slice(&from[..count * channels]);
                continue;
            }
            let from = from.chunks_exact(channels).take(count);
            for (to, from) in to.chunks_mut(pixel).zip(from) {
                to[..channels].copy_from_slice(from);
            }
        }
    }
}

/// Runs of marked groups, as ranges of pixels.
#[derive(Clone, Debug)]
pub(super) struct Runs<'a> {
    marks: &'a [u8],
    width: usize,
    at: usize,
}

impl<'a> Runs<'a> {
    /// A whole row.
    pub(super) fn all(width: usize) -> Self {
        Self {
            marks: &[],
            width,
            at: 0,
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.marks.is_empty() {
            let first = std::mem::replace(&mut self.at, self.width);
            return (first < self.width).then_some(first..self.width);
        }
        let mut groups = self.marks[self.at..].chunks_exact(GROUP);
        let skipped = groups.position(|group| group.contains(&1))?;
        let first = self.at + skipped * GROUP;
        let more = groups.take_while(|group| group.contains(&1)).count();
        self.at = first + (1 + more) * GROUP;
        Some(first..self.at.min(self.width))
    }
}
