//! The order of a kernel's blocks, which is the order in which diverged lanes run: the lowest address first.
//!
//! Blocks are sorted topologically, each loop as a whole with its header first. So lanes that leave a loop wait for
//! those inside, and lanes before a join run before those at it: they meet at or before the post-dominator of
//! the branch that parted them (Diamos et al. 2011, "SIMD re-convergence at thread frontiers").

use crate::fault::Error;
use crate::module::{Instruction, Kernel, Op, Pred};

/// The opcode of jumps that the layout adds; they are not counted.
pub(crate) const ADDED: u32 = u32::MAX;

struct Block {
    start: usize,
    end: usize,
    successors: Vec<usize>,
}

/// Resolves labels and sorts the blocks.
pub(crate) fn arrange(kernel: &mut Kernel, labels: &[u32]) -> Result<(), Error> {
    let code = &kernel.code;
    let missing = |line: u32| Error::Syntax {
        line: line as usize,
        message: "a branch leads to a label that is not there".into(),
    };
    let place = |label: u32, line: u32| match labels.get(label as usize) {
        Some(&at) if (at as usize) < code.len() => Ok(at as usize),
        _ => Err(missing(line)),
    };
    let mut leader = vec![false; code.len()];
    leader[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        let line = instruction.line;
        let ends = match &instruction.op {
            Op::Jump { target } => {
                leader[place(*target, line)?] = true;
                true
            }
            Op::JumpIndexed { targets, .. } => {
                for &target in targets {
                    leader[place(target, line)?] = true;
                }
                true
            }
            Op::Exit | Op::Trap => true,
            _ => false,
        };
        if ends && at + 1 < code.len() {
            leader[at + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|&at| leader[at]).collect();
    let mut block_of = vec![0; code.len()];
    for (block, &start) in starts.iter().enumerate() {
        block_of[start] = block;
    }
    let mut blocks = Vec::with_capacity(starts.len());
    for (block, &start) in starts.iter().enumerate() {
        let end = starts.get(block + 1).copied().unwrap_or(code.len());
        let last = &code[end - 1];
        let mut successors = Vec::new();
        let mut falls = last.guard != Pred::TRUE;
        match &last.op {
            Op::Jump { target } => successors.push(block_of[place(*target, last.line)?]),
            Op::JumpIndexed { targets, .. } => {
                for &target in targets {
                    successors.push(block_of[place(target, last.line)?]);
                }
            }
            Op::Exit | Op::Trap => {}
            _ => falls = true,
        }
        if falls && block + 1 < starts.len() {
            successors.push(block + 1);
        }
        blocks.push(Block {
            start,
            end,
            successors,
        });
    }
    let order = sort(&blocks);
    let mut new_start = vec![0u32; blocks.len()];
    let mut sorted: Vec<Instruction> = Vec::with_capacity(code.len());
    for (position, &block) in order.iter().enumerate() {
        new_start[block] = sorted.len() as u32;
        let Block { start, end, .. } = blocks[block];
        sorted.extend_from_slice(&code[start..end]);
        let last = &code[end - 1];
        let ends = matches!(
            last.op,
            Op::Jump { .. } | Op::JumpIndexed { .. } | Op::Exit | Op::Trap
        );
        let falls = !ends || last.guard != Pred::TRUE;
        if falls && order.get(position + 1) != Some(&(block + 1)) {
            sorted.push(Instruction {
                op: Op::Jump {
                    target: u32::MAX - (block as u32 + 1),
                },
                guard: Pred::TRUE,
                line: last.line,
                opcode: ADDED,
                needs: 0,
            });
        }
    }
    for instruction in &mut sorted {
        let line = instruction.line;
        let resolve = |target: u32| -> Result<u32, Error> {
            let block = if instruction.opcode == ADDED {
                (u32::MAX - target) as usize
            } else {
                block_of[place(target, line)?]
            };
            new_start.get(block).copied().ok_or_else(|| missing(line))
        };
        match &mut instruction.op {
            Op::Jump { target } => *target = resolve(*target)?,
            Op::JumpIndexed { targets, .. } => {
                for target in targets {
                    *target = resolve(*target)?;
                }
            }
            _ => {}
        }
    }
    kernel.code = sorted;
    Ok(())
}

/// The reachable blocks in order.
fn sort(blocks: &[Block]) -> Vec<usize> {
    let mut reachable = vec![false; blocks.len()];
    let mut stack = vec![0];
    while let Some(block) = stack.pop() {
        if !std::mem::replace(&mut reachable[block], true) {
            stack.extend(&blocks[block].successors);
        }
    }
    let nodes: Vec<usize> = (0..blocks.len()).filter(|&b| reachable[b]).collect();
    let mut order = Vec::with_capacity(nodes.len());
    let mut region = vec![0; blocks.len()];
    let mut next = 0;
    sort_region(blocks, &nodes, &mut region, &mut next, &mut order);
    order
}

/// Sorts the blocks `nodes` without regard to edges that leave them.
fn sort_region(
    blocks: &[Block],
    nodes: &[usize],
    region: &mut [usize],
    next: &mut usize,
    order: &mut Vec<usize>,
) {
    *next += 1;
    let mine = *next;
    for &node in nodes {
        region[node] = mine;
    }
    for component in components(blocks, nodes, region, mine) {
        // The last one found is the root: where the search entered the loop.
        let Some((&header, rest)) = component.split_last() else {
            continue;
        };
        order.push(header);
        if !rest.is_empty() {
            sort_region(blocks, rest, region, next, order);
        }
    }
}

/// Strongly connected components in topological order (Tarjan 1972), without recursion; each ends with its root.
fn components(blocks: &[Block], nodes: &[usize], region: &[usize], mine: usize) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut index = vec![NEW; blocks.len()];
    let mut low = vec![0; blocks.len()];
    let mut on_stack = vec![false; blocks.len()];
    let (mut stack, mut found, mut count) = (Vec::new(), Vec::new(), 0);
    for &root in nodes {
        if index[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some(&mut (node, ref mut edge)) = path.last_mut() {
            if *edge == 0 && index[node] == NEW {
                (index[node], low[node]) = (count, count);
                count += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            if let Some(&to) = blocks[node].successors.get(*edge) {
                *edge += 1;
                if region[to] != mine {
                    continue;
                }
                if index[to] == NEW {
                    path.push((to, 0));
                } else if on_stack[to] {
                    low[node] = low[node].min(index[to]);
                }
                continue;
            }
            path.pop();
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[node]);
            }
            if low[node] == index[node] {
                let mut component = Vec::new();
                while let Some(member) = stack.pop() {
                    on_stack[member] = false;
                    component.push(member);
                    if member == node {
                        break;
                    }
                }
                found.push(component);
            }
        }
    }
    found.reverse();
    found
}
