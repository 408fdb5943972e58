//! Lazy heads: computes the maps that the decoder reads only at some cells ([`LazyHeads`]) only there. This is exact: the
//! cells that are read have the bytes that they always have.
//!
//! A new engine moves the operators that serve nothing but such maps behind all others ([`Lazy::plan`]). An operator
//! whose output is also read by others, in part or through a Concat, stays where it is and computes what it always did. In
//! each frame, when the heatmaps are complete, their passing cells are marked, and the marks spread backwards through the
//! lazy operators: every pixel that one of them reads for a marked pixel is marked too. What is computed is what is marked,
//! less what an input of zeros would give too (see `skip.rs`), which is copied.
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
use crate::engine::cpu::marks::{GROUP, Marks, Reach, or, reaches};
use crate::engine::cpu::skip::{Skip, dense, is_heavy};
use crate::engine::cpu::view;
use crate::engine::lazy::{LazyHeads, LazyTask};
use crate::program::{Op, Output, Program};

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
    /// Index of the engine's output.
    output: usize,
    /// Smallest passing logit, by channel.
    least: Vec<f32>,
    /// Passing cells.
    cells: Marks,
}

/// A lazy operator.
#[derive(Debug)]
struct LazyStep {
    /// The heatmaps of the tasks whose maps it writes.
    heatmaps: Vec<usize>,
    /// The lazy operators that read its output, all behind it.
    readers: Vec<(usize, Reach)>,
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
        let tasks = heads.tasks.iter().map(|task| heatmap(program, task));
        let tasks: Vec<Option<usize>> = tasks.collect();
        // By output of the network: the tasks that read it, if they read only passing cells.
        let readers = |output: &Output| {
            let reads = |task: &LazyTask| task.maps.contains(&output.name);
            let readers: Vec<usize> = (0..tasks.len())
                .filter(|&task| reads(&heads.tasks[task]))
                .collect();
            let known = readers.iter().all(|&task| tasks[task].is_some());
            // A heatmap is read whole, also one of a task that does not fit.
            let heatmap = heads.tasks.iter().any(|task| task.heatmap == output.name);
            let lazy = known && !heatmap;
            if lazy { readers } else { Vec::new() }
        };
        let readers: Vec<Vec<usize>> = program.outputs.iter().map(readers).collect();

        let lazy = lazy_operators(program, &readers);
        let first = lazy.iter().filter(|lazy| !**lazy).count();
        let bytes = |op: &Op| 2 * Marks::bytes(&program.tensors[op.output]);
        let ops = || program.ops.iter().zip(&lazy).filter(|(_, lazy)| **lazy);
        if first == lazy.len() || ops().map(|(op, _)| bytes(op)).sum::<u64>() > most as u64 {
            return None;
        }
        let mut order: Vec<usize> = (0..lazy.len()).collect();
        // Stable, so what is read remains before its readers.
        order.sort_by_key(|&op| lazy[op]);
        program.ops = order.iter().map(|&op| program.ops[op].clone()).collect();

        let steps = &program.ops[first..];
        let step = |(at, op): (usize, &Op)| {
            let reads = |(reader, op): (usize, &Op)| {
                let inputs = reaches(op).into_iter();
                inputs.map(move |(input, reach)| (input, (reader, reach)))
            };
            let readers_of = steps.iter().enumerate().skip(at + 1).flat_map(reads);
            let outputs = program.outputs.iter().zip(&readers);
            let outputs = outputs.filter(|(output, _)| overlap(program, output.tensor, op.output));
            LazyStep {
                heatmaps: outputs.flat_map(|(_, tasks)| tasks.clone()).collect(),
                readers: readers_of
                    .filter(|(input, _)| overlap(program, *input, op.output))
                    .map(|(_, reader)| reader)
                    .collect(),
                unit: if is_heavy(program, op) { GROUP } else { 1 },
                dense: dense(program, op),
                read: Marks::new(&program.tensors[op.output]),
                computed: Marks::new(&program.tensors[op.output]),
                choice: Choice::All,
            }
        };
        let mut steps: Vec<LazyStep> = steps.iter().enumerate().map(step).collect();
        // Only the heatmaps that lazy maps belong to.
        let mut heatmaps = Vec::new();
        for (task, output) in tasks.iter().enumerate() {
            let used = |step: &LazyStep| step.heatmaps.contains(&task);
            let Some(output) = output.filter(|_| steps.iter().any(used)) else {
                continue;
            };
            let number = tasks.len() + heatmaps.len();
            for of in steps.iter_mut().flat_map(|step| &mut step.heatmaps) {
                if *of == task {
                    *of = number;
                }
            }
            heatmaps.push(Heatmap {
                output,
                least: heads.tasks[task].least.clone(),
                cells: Marks::new(&program.tensors[program.outputs[output].tensor]),
            });
        }
        for of in steps.iter_mut().flat_map(|step| &mut step.heatmaps) {
            *of -= tasks.len();
        }
        let widest = program.tensors.iter().map(|tensor| tensor.width).max();
        Some(Self {
            heatmaps,
            first,
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
            heatmap.mark(pool, &outputs[heatmap.output], arena);
        }
        for at in (0..self.steps.len()).rev() {
            let (before, behind) = self.steps.split_at_mut(at + 1);
            let step = &mut before[at];
            step.read.marks.fill(0);
            for &heatmap in &step.heatmaps {
                or(&mut step.read.marks, &self.heatmaps[heatmap].cells.marks);
            }
            for (reader, reach) in &step.readers {
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
        let others = match (reference, step.heatmaps.is_empty()) {
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
        let (width, least) = (self.cells.width, &self.least);
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

/// The output that holds a task's heatmap; `None` if the task's maps do not fit together.
fn heatmap(program: &Program, task: &LazyTask) -> Option<usize> {
    let mut outputs = program.outputs.iter();
    let index = outputs.position(|output| output.name == task.heatmap)?;
    let heatmap = &program.tensors[program.outputs[index].tensor];
    let fits = |output: &Output| {
        let map = &program.tensors[output.tensor];
        [map.height, map.width] == [heatmap.height, heatmap.width]
    };
    let mut outputs = program.outputs.iter();
    let fit = outputs.all(|output| !task.maps.contains(&output.name) || fits(output));
    (fit && heatmap.channels == task.least.len()).then_some(index)
}

/// Whether two tensors share channels of a buffer.
fn overlap(program: &Program, a: usize, b: usize) -> bool {
    let channels = |tensor: usize| {
        let (root, first) = program.root(tensor);
        (root, first, first + program.tensors[tensor].channels)
    };
    let ((a, first_a, end_a), (b, first_b, end_b)) = (channels(a), channels(b));
    a == b && first_a < end_b && first_b < end_a
}

/// By operator, whether nothing needs its output but lazy maps. `readers` are, by output of the network, the tasks that
/// read it lazily; without any, it must be complete.
fn lazy_operators(program: &Program, readers: &[Vec<usize>]) -> Vec<bool> {
    let outputs = program.outputs.iter().zip(readers);
    let mut needed: Vec<usize> = outputs
        .filter(|(_, tasks)| tasks.is_empty())
        .map(|(output, _)| output.tensor)
        .collect();
    let mut lazy = vec![false; program.ops.len()];
    for (op, lazy) in program.ops.iter().zip(&mut lazy).rev() {
        *lazy = !needed.iter().any(|&of| overlap(program, of, op.output));
        if !*lazy {
            needed.extend(op.inputs());
        }
    }
    lazy
}
