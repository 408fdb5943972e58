//! Which rows and columns of the network's input each tile sees, through all operators before it.

use std::ops::Range;

use crate::cuda::tiles::{Sides, TILE};
use crate::engine::cpu::reaches;
use crate::program::{OpKind, Program};

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
        let up = match &op.kind {
            OpKind::Conv(conv) => conv.up,
            _ => [1; 2],
        };
        [0, 1].map(|axis| {
            let tiles = self.seen[axis][op.output].chunks(TILE[axis] * up[axis]);
            let side = |tile: &[Range<usize>]| {
                let all = tile.iter().fold(0..0, |all, one| union(&all, one));
                [all.start as u32, all.end as u32]
            };
            tiles.map(side).collect()
        })
    }
}
