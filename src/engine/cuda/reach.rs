//! Which rows and columns of the network's input each tile sees, through all operators before it, and which rows and columns
//! of cells need it, through the lazy operators behind it.

use std::ops::Range;

use crate::cuda::tiles::{Sides, TILE};
use crate::engine::lazy::LazyPlan;
use crate::engine::reach::reaches;
use crate::program::{Op, OpKind, Program};

/// By axis (rows, columns) and tensor: the part of the input that each row or column sees.
pub(super) struct Reaches<'a> {
    program: &'a Program,
    seen: [Vec<Vec<Range<usize>>>; 2],
}

fn union(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

impl<'a> Reaches<'a> {
    /// Follows a validated program.
    pub(super) fn new(program: &'a Program) -> Self {
        let seen = [0, 1].map(|axis| {
            let len = |tensor: &crate::program::Tensor| [tensor.height, tensor.width][axis];
            let empty = |tensor| vec![0..0; len(tensor)];
            let mut seen: Vec<Vec<Range<usize>>> = program.tensors.iter().map(empty).collect();
            for (at, one) in seen[program.input].iter_mut().enumerate() {
                *one = at..at + 1;
            }
            let mut written = vec![false; program.tensors.len()];
            for op in &program.ops {
                for (input, reach) in reaches(op) {
                    // A slice that no operator writes by itself has what the whole tensor has.
                    let from = if written[input] {
                        input
                    } else {
                        program.root(input).0
                    };
                    let from = seen[from].clone();
                    for (at, one) in seen[op.output].iter_mut().enumerate() {
                        let read = reach.range(axis, at / reach.up(axis), from.len());
                        *one = from[read]
                            .iter()
                            .fold(one.clone(), |all, one| union(&all, one));
                    }
                }
                written[op.output] = true;
                let root = program.root(op.output).0;
                if root != op.output {
                    let part = seen[op.output].clone();
                    for (whole, part) in seen[root].iter_mut().zip(&part) {
                        *whole = union(whole, part);
                    }
                }
            }
            seen
        });
        Self { program, seen }
    }

    /// What each row and column of the tiles of operator `index` sees.
    pub(super) fn sides(&self, index: usize) -> [Sides; 2] {
        let op = &self.program.ops[index];
        sides(op, |axis| self.seen[axis][op.output].clone())
    }

    /// What they see through `sources` of the operator's first input, which others write.
    pub(super) fn sides_through(&self, index: usize, sources: &[usize]) -> [Sides; 2] {
        let op = &self.program.ops[index];
        let tensor = &self.program.tensors[op.output];
        let reach = reaches(op)[0].1;
        sides(op, |axis| {
            let len = [tensor.height, tensor.width][axis];
            let seen = |at: usize| {
                let parts = sources.iter().flat_map(|&source| {
                    let from = &self.seen[axis][source];
                    &from[reach.range(axis, at / reach.up(axis), from.len())]
                });
                parts.fold(0..0, |all, one| union(&all, one))
            };
            (0..len).map(seen).collect()
        })
    }
}

/// The rows and columns of an operator's tiles, from those of its output's pixels.
fn sides(op: &Op, of_pixels: impl Fn(usize) -> Vec<Range<usize>>) -> [Sides; 2] {
    let up = match &op.kind {
        OpKind::Conv(conv) => conv.up,
        _ => [1; 2],
    };
    [0, 1].map(|axis| {
        let pixels = of_pixels(axis);
        let tiles = pixels.chunks(TILE[axis] * up[axis]);
        let side = |tile: &[Range<usize>]| {
            let all = tile.iter().fold(0..0, |all, one| union(&all, one));
            [all.start as u32, all.end as u32]
        };
        tiles.map(side).collect()
    })
}

/// By lazy operator and heatmap: the cells that need the tiles of the operator, which `plan` put at the program's end.
pub(super) fn needed_by(program: &Program, plan: &LazyPlan) -> Vec<Vec<(usize, [Sides; 2])>> {
    let ops = &program.ops[plan.first..];
    let mut all = vec![Vec::new(); ops.len()];
    for heatmap in 0..plan.heatmaps.len() {
        // By axis and operator: the rows or columns of cells that need each of the output's.
        let mut cells: [Vec<Vec<Range<usize>>>; 2] =
            [vec![Vec::new(); ops.len()], vec![Vec::new(); ops.len()]];
        for (at, operator) in plan.operators.iter().enumerate().rev() {
            let tensor = &program.tensors[ops[at].output];
            for (axis, cells) in cells.iter_mut().enumerate() {
                let len = [tensor.height, tensor.width][axis];
                let own = operator.heatmaps.contains(&heatmap);
                let mut needed: Vec<Range<usize>> = (0..len)
                    .map(|at| if own { at..at + 1 } else { 0..0 })
                    .collect();
                for (reader, reach) in &operator.readers {
                    for (out, by) in cells[*reader].iter().enumerate() {
                        for one in &mut needed[reach.range(axis, out / reach.up(axis), len)] {
                            *one = union(one, by);
                        }
                    }
                }
                cells[at] = needed;
            }
        }
        for (at, op) in ops.iter().enumerate() {
            if cells[0][at].iter().any(|cells| !cells.is_empty()) {
                all[at].push((heatmap, sides(op, |axis| cells[axis][at].clone())));
            }
        }
    }
    all
}
