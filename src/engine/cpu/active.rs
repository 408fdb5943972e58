//! The pixels of an operator's output that a frame computes, and what it writes to the others.

use std::ops::Range;

use crate::engine::cpu::arena::Element;
use crate::engine::cpu::marks::{GROUP, Marks, next_mark};
use crate::engine::cpu::reference::Reference;

/// The pixels of an operator's output to compute, and what the others hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active<'a> {
    /// The pixels to compute.
    pub(super) marks: &'a Marks,
    /// Neighbours in a row that are computed if one of them is marked: [`GROUP`], or 1.
    pub(super) unit: usize,
    pub(super) others: Others<'a>,
}

/// What pixels that are not computed hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Others<'a> {
    /// The reference.
    Reference(&'a Reference),
    /// Zeros.
    Zeros,
    /// The reference in groups that are read, which are marked here; nobody reads the others.
    Read(&'a Marks, &'a Reference),
    /// Whatever they held: nobody reads them.
    Unread,
}

impl<'a> Active<'a> {
    /// The runs of pixels to compute in row `y`.
    pub(super) fn runs(self, y: usize) -> Runs<'a> {
        Runs {
            marks: self.marks.row(y),
            unit: self.unit,
            width: self.marks.width,
            at: 0,
        }
    }

    /// Writes the pixels of row `y` that are not computed. `pixels` begins with the row's first element of the tensor,
    /// which has `channels` channels; pixels are `pixel` elements apart.
    pub(super) fn fill<T: Element>(
        &self,
        y: usize,
        pixels: &mut [T],
        pixel: usize,
        channels: usize,
    ) {
        if matches!(self.others, Others::Unread) {
            return;
        }
        for (g, marks) in self.marks.row(y).chunks_exact(GROUP).enumerate() {
            let any = marks.contains(&1);
            if any && (self.unit == GROUP || !marks.contains(&0)) {
                continue;
            }
            let from: Option<&[T]> = match self.others {
                Others::Reference(reference) => Some(reference.group(y, g)),
                Others::Read(read, reference) => {
                    // In a group with a mark, every pixel that is read has one.
                    if any || !read.row(y)[g * GROUP..][..GROUP].contains(&1) {
                        continue;
                    }
                    Some(reference.group(y, g))
                }
                Others::Zeros => None,
                Others::Unread => return,
            };
            let to = &mut pixels[g * GROUP * pixel..];
            let count = GROUP.min(self.marks.width - g * GROUP);
            let Some(from) = from else {
                let pixels = to.chunks_mut(pixel).take(count);
                pixels.for_each(|to| to[..channels].fill(T::zeroed()));
                continue;
            };
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

/// Runs of pixels to compute, as ranges of columns.
#[derive(Clone, Debug)]
pub(super) struct Runs<'a> {
    /// Empty for a whole row.
    marks: &'a [u8],
    unit: usize,
    width: usize,
    at: usize,
}

impl<'a> Runs<'a> {
    /// A whole row.
    pub(super) fn all(width: usize) -> Self {
        Self {
            marks: &[],
            unit: 1,
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
        let unit = self.unit;
        let first = (self.at + next_mark(&self.marks[self.at..])?) / unit * unit;
        let units = self.marks[first..].chunks_exact(unit);
        let count = units.take_while(|unit| unit.contains(&1)).count();
        self.at = first + count * unit;
        Some(first..self.at.min(self.width))
    }
}
