//! Channel slices: an INT8 convolution of a Concat multiplies only the channels of the sources that differ. This is exact:
//! sums of integers are, in any order.
//!
//! Each source of the Concat is written by another operator, whose pixels differ from an input of zeros in other places
//! (see `skip.rs`): those of a deep layer nearly everywhere, those of a shallow one only near what the frame holds. Where
//! a convolution's step sees no differing pixel of a source, the source's part of the sum is that of an input of zeros. It
//! is the same in all frames, so a new engine computes it once, the *background*, and stores it like any reference.
//!
//! The sources are ordered by how far one pixel of the input spreads to them. At *level* p a step takes the first p sources
//! from the background and multiplies the channels of the others. Other subsets are not stored: what differs in a source
//! nearly always differs in those behind it too. The level of a group of pixels is the highest that holds for all of them;
//! it is lowered where runs would be too short to pay.

use std::ops::Range;

use crate::engine::cpu::marks::{GROUP, Marks};
use crate::engine::cpu::reference::Reference;
use crate::engine::reach::sources;
use crate::program::layout::{LANES, QUAD};
use crate::program::{Conv, OpKind, Program, WeightLayout};

/// Groups below which a run costs more than what a level saves: its last tile is partly empty.
const SHORT: usize = 3;
/// Level of a group that is not computed.
const COPIED: u8 = u8::MAX;

/// The sources of a convolution's input, and the levels of the current frame.
#[derive(Debug)]
pub(super) struct Slices {
    /// In the order of the levels.
    sources: Vec<Source>,
    /// By level: the quads of input channels to multiply.
    multiplied: Vec<Vec<Range<usize>>>,
    /// By level, from 1: the sums of the sources before it, `[pixel][output channels in whole blocks]`.
    backgrounds: Vec<Reference>,
    /// Level of each group of pixels.
    levels: Vec<u8>,
    /// Groups per row.
    row: usize,
}

/// A part of a convolution's input that one operator writes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    tensor: usize,
    /// Its input channels, in quads.
    quads: Range<usize>,
}

/// The sums to add to those of a row's multiplied channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Background<'a> {
    pub(super) sums: &'a Reference,
    /// Row and column of the first step's pixel.
    pub(super) y: usize,
    pub(super) x: usize,
    /// The first output channel.
    pub(super) channel: usize,
    /// Output channels in whole blocks.
    pub(super) channels: usize,
}

impl<'a> Background<'a> {
    /// The sums of a step, from the first output channel on.
    #[inline(always)]
    pub(super) fn step(&self, step: usize) -> &'a [i32] {
        let x = self.x + step;
        let group = self.sums.sums(self.y, x / GROUP);
        &group[x % GROUP * self.channels + self.channel..]
    }
}

impl Slices {
    /// The sources of operator `index` of a validated program, if it is a convolution that can take them one by one.
    pub(super) fn find(program: &Program, index: usize) -> Option<Self> {
        let op = &program.ops[index];
        let OpKind::Conv(conv) = &op.kind else {
            return None;
        };
        let plain = conv.layout == WeightLayout::Quad && conv.groups == 1 && conv.phases.len() == 1;
        let sources = whole_quads(program, conv)?;
        let count = sources.len();
        if !plain || !(2..usize::from(COPIED)).contains(&count) {
            return None;
        }
        let output = &program.tensors[op.output];
        let row = output.width.div_ceil(GROUP);
        Some(Self {
            sources,
            multiplied: Vec::new(),
            backgrounds: Vec::new(),
            levels: vec![0; output.height * row],
            row,
        })
    }

    /// Bytes that the levels take.
    pub(super) fn bytes(&self) -> usize {
        self.levels.len()
    }

    /// Orders the sources by `spread`, which says how many pixels of a tensor one pixel of the input reaches.
    pub(super) fn order(&mut self, spread: impl Fn(usize) -> usize) {
        self.sources.sort_by_key(|source| spread(source.tensor));
        self.multiplied = (0..self.sources.len())
            .map(|level| {
                let quads = self.sources[level..].iter();
                joined(quads.map(|source| source.quads.clone()).collect())
            })
            .collect();
    }

    /// What the background of the next level adds to that of the level before: the quads to multiply. `None` after the
    /// last level.
    pub(super) fn next(&self) -> Option<(Range<usize>, Option<&Reference>)> {
        let level = self.backgrounds.len();
        // The last source is always multiplied.
        let source = self.sources[..self.sources.len() - 1].get(level)?;
        Some((source.quads.clone(), self.backgrounds.last()))
    }

    /// Stores the background of the next level.
    pub(super) fn push(&mut self, background: Reference) {
        self.backgrounds.push(background);
    }

    /// Marks the pixels of the output that differ, by `spread(tensor, marks)` for each source, and notes the levels.
    pub(super) fn mark(&mut self, marks: &mut Marks, mut spread: impl FnMut(usize, &mut Marks)) {
        self.levels.fill(COPIED);
        for (number, source) in self.sources.iter().enumerate() {
            spread(source.tensor, marks);
            let level = number.min(self.backgrounds.len()) as u8;
            let groups = marks.marks.chunks_exact(GROUP);
            for (of, group) in self.levels.iter_mut().zip(groups) {
                if *of == COPIED && group.contains(&1) {
                    *of = level;
                }
            }
        }
    }

    /// Completes the levels. `all`: every group is computed, also those without a difference.
    pub(super) fn settle(&mut self, all: bool) {
        let deepest = self.backgrounds.len() as u8;
        for row in self.levels.chunks_exact_mut(self.row) {
            if all {
                let copied = row.iter_mut().filter(|level| **level == COPIED);
                copied.for_each(|level| *level = deepest);
            }
            lower_short_runs(row, deepest);
        }
    }

    /// Fraction of the channels that the computed pixels multiply.
    pub(super) fn share(&self) -> f32 {
        let quads = |level: usize| -> usize {
            let ranges = self.multiplied[level].iter();
            ranges.map(ExactSizeIterator::len).sum()
        };
        let levels = self.levels.iter().filter(|level| **level != COPIED);
        let levels = levels.map(|level| usize::from(*level));
        let (mut multiplied, mut all) = (0, 0);
        for level in levels {
            (multiplied, all) = (multiplied + quads(level), all + quads(0));
        }
        multiplied as f32 / all.max(1) as f32
    }

    /// Splits the pixels `run` of row `y` into runs of one level.
    pub(super) fn split(&self, y: usize, run: Range<usize>) -> Split<'_> {
        Split {
            levels: &self.levels[y * self.row..][..self.row],
            run,
        }
    }

    /// The quads of input channels to multiply at a level.
    pub(super) fn multiplied(&self, level: usize) -> &[Range<usize>] {
        &self.multiplied[level]
    }

    /// The sums to add at a level, if any.
    pub(super) fn background(&self, level: usize) -> Option<&Reference> {
        self.backgrounds.get(level.checked_sub(1)?)
    }
}

/// Runs of one level, each with it.
#[derive(Clone, Debug)]
pub(super) struct Split<'a> {
    /// Of a row; empty if there is but one level, 0.
    levels: &'a [u8],
    /// What is left of the run.
    run: Range<usize>,
}

impl Split<'_> {
    /// One run, of level 0.
    pub(super) fn whole(run: Range<usize>) -> Self {
        Self { levels: &[], run }
    }
}

impl Iterator for Split<'_> {
    type Item = (Range<usize>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        if self.run.is_empty() {
            return None;
        }
        let Range { start, end } = self.run;
        let Some(&level) = self.levels.get(start / GROUP) else {
            self.run.start = end;
            return Some((start..end, 0));
        };
        let groups = self.levels[start / GROUP..].iter();
        let same = groups.take_while(|other| **other == level).count();
        let next = ((start / GROUP + same) * GROUP).min(end);
        self.run.start = next;
        // Level 0 holds anywhere, also for a group without a difference.
        let level = if level == COPIED { 0 } else { level };
        Some((start..next, usize::from(level)))
    }
}

/// The operators' outputs that make up a convolution's input; `None` if one begins or ends within a quad.
fn whole_quads(program: &Program, conv: &Conv) -> Option<Vec<Source>> {
    let all = program.tensors[conv.input].channels;
    let sources = sources(program, conv.input).into_iter();
    let source = |(tensor, channels): (usize, Range<usize>)| {
        let whole = |channel: usize| channel.is_multiple_of(QUAD);
        let fits = whole(channels.start) && (whole(channels.end) || channels.end == all);
        fits.then(|| Source {
            tensor,
            quads: channels.start / QUAD..channels.end.div_ceil(QUAD),
        })
    };
    sources.map(source).collect()
}

/// Sorted ranges, with neighbours joined.
fn joined(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// Lowers runs of fewer than [`SHORT`] groups to the level of their neighbour.
fn lower_short_runs(levels: &mut [u8], deepest: u8) {
    for least in (1..=deepest).rev() {
        let deep = |level: u8| (least..=deepest).contains(&level);
        let mut at = 0;
        while at < levels.len() {
            let run = levels[at..]
                .iter()
                .take_while(|level| deep(**level))
                .count();
            let neighbours = [at.checked_sub(1), Some(at + run)].into_iter().flatten();
            let mut neighbours = neighbours.filter_map(|at| levels.get(at));
            if run < SHORT && neighbours.any(|level| *level < least) {
                levels[at..at + run].fill(least - 1);
            }
            at += run + 1;
        }
    }
}

/// Output channels in whole blocks, as a background holds them.
pub(super) fn whole_blocks(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_take_the_level_beside_them() {
        let lowered = |levels: &[u8], deepest: u8| {
            let mut levels = levels.to_vec();
            lower_short_runs(&mut levels, deepest);
            levels
        };
        assert_eq!(
            lowered(&[0, 1, 1, 0, 1, 1, 1, 0], 1),
            [0, 0, 0, 0, 1, 1, 1, 0]
        );
        assert_eq!(lowered(&[1, 2, 2, 1, 0], 2), [1, 1, 1, 1, 0]);
        assert_eq!(lowered(&[0, 2, 2, 0], 2), [0, 0, 0, 0]);
        // Runs between copied groups have no neighbour to join.
        assert_eq!(lowered(&[COPIED, 1, COPIED, 2], 2), [COPIED, 1, COPIED, 2]);
        assert!(lowered(&[], 2).is_empty());
    }

    #[test]
    fn a_run_is_split_where_the_level_changes() {
        let split = Split {
            levels: &[0, 1, 1, 2, COPIED],
            run: 1..18,
        };
        let expected = [(1..4, 0), (4..12, 1), (12..16, 2), (16..18, 0)];
        assert!(split.eq(expected));
        assert!(Split::whole(3..9).eq([(3..9, 0)]));
        assert!(Split::whole(3..3).eq([]));
    }
}
