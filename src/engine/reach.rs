//! Which pixels of its inputs an operator reads for a pixel of its output, and which operators write those inputs.

use std::ops::Range;

use crate::program::{Op, OpKind, Program};

/// The input pixels that an operator reads for an output pixel: rows
/// `y / up · stride + first ..= y / up · stride + last`, columns likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) stride: [usize; 2],
    pub(super) up: [usize; 2],
    pub(super) first: [isize; 2],
    pub(super) last: [isize; 2],
}

impl Reach {
    /// The pixel at the same position.
    pub(super) const PIXEL: Self = Self {
        stride: [1; 2],
        up: [1; 2],
        first: [0; 2],
        last: [0; 2],
    };

    /// Output pixels per step.
    pub(super) fn up(&self, axis: usize) -> usize {
        self.up[axis]
    }

    /// The input indices below `len` that step `i` reads.
    pub(super) fn range(&self, axis: usize, i: usize, len: usize) -> Range<usize> {
        let at = (i * self.stride[axis]) as isize;
        let clamp = |v: isize| v.clamp(0, len as isize) as usize;
        clamp(at + self.first[axis])..clamp(at + self.last[axis] + 1)
    }
}

/// The tensors that an operator reads, each with its reach.
pub(super) fn reaches(op: &Op) -> Vec<(usize, Reach)> {
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

/// The operators' outputs that make up a tensor of a validated program, each with its channels there, in their order.
pub(super) fn sources(program: &Program, tensor: usize) -> Vec<(usize, Range<usize>)> {
    let (root, first) = program.root(tensor);
    let end = first + program.tensors[tensor].channels;
    let mut sources = Vec::new();
    for op in &program.ops {
        let (other, from) = program.root(op.output);
        let to = from + program.tensors[op.output].channels;
        if other == root && from < end && first < to {
            sources.push((op.output, from.max(first) - first..to.min(end) - first));
        }
    }
    sources.sort_by_key(|(_, channels)| channels.start);
    sources
}
