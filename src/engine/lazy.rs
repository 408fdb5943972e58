//! What the decoder reads of the head maps, for an engine that computes no more, and which operators that concerns.

use crate::cpu::decode::least_logits;
use crate::engine::reach::{Reach, reaches};
use crate::model::Model;
use crate::program::{Op, Output, Program};

/// The head maps that the decoder reads only where a score can pass, for an engine that computes them only there.
#[derive(Clone, Debug, PartialEq)]
pub struct LazyHeads {
    /// By task.
    pub tasks: Vec<LazyTask>,
}

/// A task of [`LazyHeads`]. `maps` are read at the cells where a channel of `heatmap` reaches its `least` logit or is NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct LazyTask {
    /// Name of the output that holds the heatmap.
    pub heatmap: String,
    /// The smallest logit that passes, by channel of the heatmap.
    pub least: Vec<f32>,
    /// Names of the task's other outputs.
    pub maps: Vec<String>,
}

impl LazyHeads {
    /// What the decoder of `model` reads.
    pub fn new(model: &Model) -> Self {
        let (_, least) = least_logits(model);
        let tasks = model.head.tasks.iter().map(|task| {
            let [heatmap, maps @ ..] = task.outputs.clone().into_array();
            LazyTask {
                heatmap,
                least: task.classes.iter().map(|&class| least[class]).collect(),
                maps: maps.into(),
            }
        });
        Self {
            tasks: tasks.collect(),
        }
    }
}

/// The lazy operators of a program: those that serve nothing but maps that are read lazily. An operator whose output others
/// read too, in part or through a Concat, is not one.
#[derive(Debug)]
pub(super) struct LazyPlan {
    /// The operators with the lazy ones behind all others.
    pub(super) order: Vec<usize>,
    /// Number of operators before the lazy ones.
    pub(super) first: usize,
    /// The heatmaps that lazy maps belong to.
    pub(super) heatmaps: Vec<LazyHeatmap>,
    /// The lazy operators, in order.
    pub(super) operators: Vec<LazyOperator>,
}

/// A heatmap of a [`LazyPlan`].
#[derive(Clone, Debug)]
pub(super) struct LazyHeatmap {
    /// Index of the program's output.
    pub(super) output: usize,
    /// Smallest passing logit, by channel.
    pub(super) least: Vec<f32>,
}

/// A lazy operator of a [`LazyPlan`].
#[derive(Clone, Debug)]
pub(super) struct LazyOperator {
    /// The heatmaps of the tasks whose maps it writes.
    pub(super) heatmaps: Vec<usize>,
    /// The lazy operators that read its output, all behind it.
    pub(super) readers: Vec<(usize, Reach)>,
}

impl LazyPlan {
    /// For a validated program; `None` if it has no lazy operators.
    pub(super) fn new(program: &Program, heads: &LazyHeads) -> Option<Self> {
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
        if first == lazy.len() {
            return None;
        }
        let mut order: Vec<usize> = (0..lazy.len()).collect();
        // Stable, so what is read remains before its readers.
        order.sort_by_key(|&op| lazy[op]);

        let ops: Vec<&Op> = order[first..].iter().map(|&op| &program.ops[op]).collect();
        let mut heatmaps: Vec<LazyHeatmap> = Vec::new();
        // By task: its position among the heatmaps that are used.
        let mut used: Vec<Option<usize>> = vec![None; tasks.len()];
        let mut heatmap_of = |task: usize| {
            let output = tasks[task]?;
            let least = &heads.tasks[task].least;
            Some(*used[task].get_or_insert_with(|| {
                heatmaps.push(LazyHeatmap {
                    output,
                    least: least.clone(),
                });
                heatmaps.len() - 1
            }))
        };
        let mut operators = Vec::with_capacity(ops.len());
        for (at, op) in ops.iter().enumerate() {
            let reads = |(reader, op): (usize, &&Op)| {
                let inputs = reaches(op).into_iter();
                inputs.map(move |(input, reach)| (input, (reader, reach)))
            };
            let readers_of = ops.iter().enumerate().skip(at + 1).flat_map(reads);
            let outputs = program.outputs.iter().zip(&readers);
            let outputs = outputs.filter(|(output, _)| overlap(program, output.tensor, op.output));
            let of_tasks = outputs.flat_map(|(_, tasks)| tasks);
            operators.push(LazyOperator {
                heatmaps: of_tasks.filter_map(|&task| heatmap_of(task)).collect(),
                readers: readers_of
                    .filter(|(input, _)| overlap(program, *input, op.output))
                    .map(|(_, reader)| reader)
                    .collect(),
            });
        }
        Some(Self {
            order,
            first,
            heatmaps,
            operators,
        })
    }

    /// Moves the lazy operators behind the others.
    pub(super) fn reorder(&self, program: &mut Program) {
        let ops = self.order.iter().map(|&op| program.ops[op].clone());
        program.ops = ops.collect();
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
