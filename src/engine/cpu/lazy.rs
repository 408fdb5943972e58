//! Lazy heads: computes the maps that the decoder reads only at some cells ([`LazyHeads`]) only there. This is exact: the
//! cells that are read have the bytes that they always have.
//!
//! A new engine moves the operators that serve nothing but such maps behind all others ([`LazyPlan`]). In each frame, when
//! the heatmaps are complete, their passing cells are marked, and the marks spread backwards through the lazy operators:
//! every pixel that one of them reads for a marked pixel is marked too. What is computed is what is marked, less what an
//! input of zeros would give too (see `skip.rs`), which is copied.
//!
//! Heavy operators compute whole groups of pixels, as everywhere; then all pixels of the group count as read. Light ones,
//! such as the last convolution of a head, compute single pixels, so that those around them are not needed.
//!
//! Elsewhere a lazy map holds what it has for an input of zeros, or zeros. The tensors before it hold whatever the memory
//! held: nobody reads them.

use crate::cpu::decode::mark_row;
use crate::cpu::pool::Pool;
use crate::engine::cpu::active::{Active, Others};
use crate::engine::cpu::arena::{MIN_BANDS, TensorPlace};
use crate::engine::cpu::marks::{GROUP, Marks, or};
use crate::engine::cpu::skip::{Skip, dense, is_heavy};
use crate::engine::cpu::view;
use crate::engine::lazy::{LazyHeads, LazyHeatmap, LazyOperator, LazyPlan};
use crate::program::{Op, Program};

/// The lazy operators of a program, and the pixels of the current frame.
#[derive(Debug)]
pub(super) struct Lazy {
    heatmaps: Vec<Heatmap>,
    /// Number of operators before the lazy ones.
    first: usize,
    /// The lazy operators.
    steps: Vec<LazyStep>,
    /// Work row for [`Marks::spread_back`].
    columns: Vec<u8>,
}

/// A task's heatmap.
#[derive(Debug)]
struct Heatmap {
    heatmap: LazyHeatmap,
    /// Passing cells.
    cells: Marks,
}

/// A lazy operator.
#[derive(Debug)]
struct LazyStep {
    operator: LazyOperator,
    /// Pixels that are computed together.
    unit: usize,
    /// Fraction of the groups above which all are computed.
    dense: f32,
    /// Pixels that are read.
    read: Marks,
    /// Those that are computed, if a reference serves the others.
    computed: Marks,
    choice: Choice,
}

/// Which pixels of a lazy operator a frame computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Those that any operator would compute.
    All,
    /// Those that are read.
    Read,
    /// Those that are read and differ from the reference.
    Computed,
}

impl Lazy {
    /// Moves the lazy operators of a validated program behind the others. `None` if there are none, or their marks would
    /// take more than `most` bytes.
    pub(super) fn plan(program: &mut Program, heads: &LazyHeads, most: usize) -> Option<Self> {
        let plan = LazyPlan::new(program, heads)?;
        let bytes = |op: &usize| 2 * Marks::bytes(&program.tensors[program.ops[*op].output]);
        if plan.order[plan.first..].iter().map(bytes).sum::<u64>() > most as u64 {
            return None;
        }
        plan.reorder(program);
        let ops = plan.operators.into_iter().zip(&program.ops[plan.first..]);
        let step = |(operator, op): (LazyOperator, &Op)| LazyStep {
            operator,
            unit: if is_heavy(program, op) { GROUP } else { 1 },
            dense: dense(program, op),
            read: Marks::new(&program.tensors[op.output]),
            computed: Marks::new(&program.tensors[op.output]),
            choice: Choice::All,
        };
        let steps = ops.map(step).collect();
        let heatmaps = plan.heatmaps.into_iter().map(|heatmap| Heatmap {
            cells: Marks::new(&program.tensors[program.outputs[heatmap.output].tensor]),
            heatmap,
        });
        let widest = program.tensors.iter().map(|tensor| tensor.width).max();
        Some(Self {
            heatmaps: heatmaps.collect(),
            first: plan.first,
            steps,
            columns: vec![0; widest.unwrap_or(0)],
        })
    }

    /// Number of operators that run before [`Lazy::mark`].
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Marks the pixels to compute, from the heatmaps of the current frame. `outputs` are the places of the engine's.
    pub(super) fn mark(
        &mut self,
        pool: &Pool,
        outputs: &[TensorPlace],
        arena: &[u8],
        skip: Option<&Skip>,
    ) {
        for heatmap in &mut self.heatmaps {
            heatmap.mark(pool, &outputs[heatmap.heatmap.output], arena);
        }
        for at in (0..self.steps.len()).rev() {
            let (before, behind) = self.steps.split_at_mut(at + 1);
            let step = &mut before[at];
            step.read.marks.fill(0);
            for &heatmap in &step.operator.heatmaps {
                or(&mut step.read.marks, &self.heatmaps[heatmap].cells.marks);
            }
            for (reader, reach) in &step.operator.readers {
                let reader = &behind[reader - at - 1].read;
                step.read.spread_back(reader, reach, &mut self.columns);
            }
            step.choose(skip.and_then(|skip| skip.active(self.first + at)));
        }
    }

    /// Has a frame compute whole maps.
    pub(super) fn mark_all(&mut self) {
        let steps = self.steps.iter_mut();
        steps.for_each(|step| step.choice = Choice::All);
    }

    /// The pixels that operator `index` computes in the marked frame, of those in `active`; `None` for all.
    pub(super) fn active<'a>(
        &'a self,
        index: usize,
        active: Option<Active<'a>>,
        skip: Option<&'a Skip>,
    ) -> Option<Active<'a>> {
        let Some(step) = index.checked_sub(self.first).map(|at| &self.steps[at]) else {
            return active;
        };
        let marks = match step.choice {
            Choice::All => return active,
            Choice::Read => &step.read,
            Choice::Computed => &step.computed,
        };
        let reference = skip.and_then(|skip| skip.reference(index));
        let others = match (reference, step.operator.heatmaps.is_empty()) {
            (Some(reference), false) => Others::Reference(reference),
            (None, false) => Others::Zeros,
            (Some(reference), true) if step.choice == Choice::Computed => {
                Others::Read(&step.read, reference)
            }
            (_, true) => Others::Unread,
        };
        Some(Active {
            marks,
            unit: step.unit,
            others,
        })
    }

    /// Fraction of operator `index`'s output that the marked frame computes, if that is not what any operator would.
    pub(super) fn computed(&self, index: usize) -> Option<f32> {
        let step = &self.steps[index.checked_sub(self.first)?];
        match step.choice {
            Choice::All => None,
            Choice::Read => Some(step.read.share()),
            Choice::Computed => Some(step.computed.share()),
        }
    }
}

impl Heatmap {
    /// Marks the passing cells.
    fn mark(&mut self, pool: &Pool, place: &TensorPlace, arena: &[u8]) {
        let view = view(arena, place);
        let (width, least) = (self.cells.width, &self.heatmap.least);
        let (row, band) = (self.cells.row, self.cells.height.div_ceil(MIN_BANDS));
        pool.for_each_chunk_mut(&mut self.cells.marks, band * row, |i, rows| {
            for (r, marks) in rows.chunks_exact_mut(row).enumerate() {
                let least = least.iter().copied();
                mark_row(&view, i * band + r, least, &mut marks[..width]);
            }
        });
    }
}

impl LazyStep {
    /// Completes the marks of what is read, and decides what is computed. `active` is what any operator would compute.
    fn choose(&mut self, active: Option<Active<'_>>) {
        if self.unit == GROUP {
            self.read.fill_groups();
        }
        if self.read.share() > self.dense {
            // What comes before must be complete too.
            self.read.fill();
            self.choice = Choice::All;
            return;
        }
        let Some(active) = active else {
            self.choice = Choice::Read;
            return;
        };
        self.choice = Choice::Computed;
        self.computed.marks.copy_from_slice(&self.read.marks);
        let groups = self.computed.marks.chunks_exact_mut(GROUP);
        for (computed, differ) in groups.zip(active.marks.marks.chunks_exact(GROUP)) {
            if !differ.contains(&1) {
                computed.fill(0);
            }
        }
    }
}
