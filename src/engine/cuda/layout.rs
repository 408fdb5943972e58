//! Where tensors lie on the device: NHWC with a border as wide as their readers' padding. Each tensor has a buffer of its own.
//!
//! Kernels copy 16 bytes at a time. So every part of a concatenation, and every group of a grouped convolution,
//! begins at a multiple of them, which leaves gaps between parts of other sizes. Weights at gaps are 0.

use std::collections::BTreeSet;

use crate::cuda::place::{PlaceShape, align};
use crate::engine::cpu::border;
use crate::map::Element;
use crate::program::{OpKind, Program};

/// The shape of each tensor of a validated program. A slice has the shape of the whole tensor, with fewer channels. `half`: what
/// is neither codes nor an output of the network is stored in half precision.
pub(super) fn shapes(program: &Program, half: bool) -> Vec<PlaceShape> {
    let borders = borders(program);
    let elements = elements(program, half);
    let positions = positions(program, &elements);
    let shape = |(index, tensor): (usize, &crate::program::Tensor)| {
        let (root, channel) = program.root(index);
        let (positions, pixel) = &positions[root];
        PlaceShape {
            element: elements[root],
            height: tensor.height,
            width: tensor.width,
            border: borders[root],
            pixel: *pixel,
            channels: positions[channel..channel + tensor.channels].to_vec(),
        }
    };
    program.tensors.iter().enumerate().map(shape).collect()
}

/// The type of each root tensor.
fn elements(program: &Program, half: bool) -> Vec<Element> {
    let mut elements: Vec<Element> = program
        .tensors
        .iter()
        .map(|tensor| match tensor.codes() {
            Some(_) => Element::I8,
            None if half => Element::F16,
            None => Element::F32,
        })
        .collect();
    for output in &program.outputs {
        let root = program.root(output.tensor).0;
        if elements[root] == Element::F16 {
            elements[root] = Element::F32;
        }
    }
    elements
}

/// The border of each root tensor.
fn borders(program: &Program) -> Vec<usize> {
    let mut borders = vec![0; program.tensors.len()];
    for op in &program.ops {
        if let OpKind::Conv(conv) = &op.kind {
            let root = program.root(conv.input).0;
            borders[root] = borders[root].max(border(conv, program, op.output));
        }
    }
    borders
}

/// The position of each channel of each root tensor, and the distance of its pixels.
fn positions(program: &Program, elements: &[Element]) -> Vec<(Vec<u32>, usize)> {
    // Channels where a part begins.
    let mut cuts: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); program.tensors.len()];
    for (index, tensor) in program.tensors.iter().enumerate() {
        let (root, channel) = program.root(index);
        cuts[root].extend([channel, channel + tensor.channels]);
    }
    for op in &program.ops {
        let OpKind::Conv(conv) = &op.kind else {
            continue;
        };
        for tensor in [conv.input, op.output] {
            let (root, channel) = program.root(tensor);
            let group = program.tensors[tensor].channels / conv.groups;
            cuts[root].extend((0..conv.groups).map(|g| channel + g * group));
        }
    }
    // The stages that write the network's input know only evenly spaced channels.
    cuts[program.input].clear();
    let place =
        |((tensor, cuts), element): ((&crate::program::Tensor, &BTreeSet<usize>), &Element)| {
            let align = align(*element);
            let mut next = 0usize;
            let mut positions = Vec::with_capacity(tensor.channels);
            for channel in 0..tensor.channels {
                if cuts.contains(&channel) {
                    next = next.next_multiple_of(align);
                }
                positions.push(next as u32);
                next += 1;
            }
            (positions, next.next_multiple_of(align))
        };
    let tensors = program.tensors.iter().zip(&cuts).zip(elements);
    tensors.map(place).collect()
}
