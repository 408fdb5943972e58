//! Fuses nodes into the ones before them, and plans which tensors are slices of others.

use std::collections::HashMap;

use crate::build::lower::builder::{ConvNode, Node, NodeKind, ProgramBuilder, TensorInfo};
use crate::program::{DepthToSpaceMode, SliceOf};

/// The tensors that a node reads.
pub(super) fn inputs(kind: &NodeKind) -> Vec<usize> {
    match kind {
        NodeKind::Conv(conv) => std::iter::once(conv.input).chain(conv.residual).collect(),
        NodeKind::Affine { input, .. }
        | NodeKind::Relu { input }
        | NodeKind::Sigmoid { input }
        | NodeKind::DepthToSpace { input, .. }
        | NodeKind::MaxPool { input, .. }
        | NodeKind::Quantize { input }
        | NodeKind::Dequantize { input } => vec![*input],
        NodeKind::Add { a, b, .. } => vec![*a, *b],
        NodeKind::Concat { inputs } => inputs.clone(),
    }
}

/// Moves Relu, Add, DepthToSpace and Quantize into the nodes before them if no other node reads the intermediate tensor.
pub(super) fn fuse(network: &mut ProgramBuilder) {
    let ProgramBuilder {
        tensors,
        nodes,
        outputs,
        ..
    } = network;
    let uses = uses(nodes, tensors.len(), outputs);
    // Index in `kept` of the node that produces each tensor; `None` for the network's input.
    let mut producer: Vec<Option<usize>> = vec![None; tensors.len()];
    let mut kept: Vec<Node> = Vec::new();
    for node in std::mem::take(nodes) {
        let fused_into = match &node.kind {
            NodeKind::Relu { input } => (uses[*input] == 1)
                .then_some(producer[*input])
                .flatten()
                .filter(|&p| fuse_relu(&mut kept[p].kind)),
            NodeKind::Add { a, b, relu } => {
                // An integer convolution takes codes around 0 as its residual without conversion.
                let plain = |x: usize| tensors[x].codes.is_some_and(|codes| codes.zero == 0);
                let codes = |x: usize| match producer[x].map(|p| &kept[p].kind) {
                    Some(NodeKind::Dequantize { input }) if plain(*input) => *input,
                    _ => x,
                };
                // The later producer can take the other operand as its residual.
                let (last, other) = if producer[codes(*a)] > producer[codes(*b)] {
                    (*a, *b)
                } else {
                    (*b, *a)
                };
                let as_codes = codes(other);
                (uses[last] == 1 && last != other)
                    .then_some(producer[last])
                    .flatten()
                    .filter(|&p| {
                        let integer = is_integer(&kept[p].kind, tensors);
                        let other = if integer { as_codes } else { other };
                        producer[other] < Some(p) && fuse_add(&mut kept[p].kind, other, *relu)
                    })
            }
            NodeKind::Quantize { input } => (uses[*input] == 1)
                .then_some(producer[*input])
                .flatten()
                .filter(|&p| is_integer(&kept[p].kind, tensors)),
            NodeKind::DepthToSpace { input, block, mode } => (uses[*input] == 1)
                .then_some(producer[*input])
                .flatten()
                .filter(|&p| fuse_shuffle(&mut kept[p].kind, *block, *mode)),
            _ => None,
        };
        if let Some(p) = fused_into {
            kept[p].output = node.output;
            producer[node.output] = Some(p);
        } else {
            producer[node.output] = Some(kept.len());
            kept.push(node);
        }
    }
    *nodes = kept;
}

/// By value: the number of nodes and outputs that read it.
pub(crate) fn readers(network: &ProgramBuilder) -> Vec<usize> {
    uses(&network.nodes, network.tensors.len(), &network.outputs)
}

/// Number of reads of each tensor, including as a network output.
fn uses(nodes: &[Node], tensors: usize, outputs: &[(usize, String)]) -> Vec<usize> {
    let mut uses = vec![0usize; tensors];
    let read = nodes.iter().flat_map(|node| inputs(&node.kind));
    for tensor in read.chain(outputs.iter().map(|(tensor, _)| *tensor)) {
        uses[tensor] += 1;
    }
    uses
}

/// Whether a node is a convolution that computes with codes.
fn is_integer(kind: &NodeKind, tensors: &[TensorInfo]) -> bool {
    matches!(kind, NodeKind::Conv(conv) if tensors[conv.input].codes.is_some())
}

/// Removes conversions whose results are never read.
pub(super) fn drop_unread(network: &mut ProgramBuilder) {
    let mut uses = uses(&network.nodes, network.tensors.len(), &network.outputs);
    let mut kept = Vec::with_capacity(network.nodes.len());
    for node in std::mem::take(&mut network.nodes).into_iter().rev() {
        match node.kind {
            NodeKind::Quantize { input } | NodeKind::Dequantize { input }
                if uses[node.output] == 0 =>
            {
                uses[input] -= 1;
            }
            _ => kept.push(node),
        }
    }
    kept.reverse();
    network.nodes = kept;
}

/// Adds a Relu to a node that supports it. Returns whether it did.
fn fuse_relu(kind: &mut NodeKind) -> bool {
    match kind {
        NodeKind::Conv(ConvNode { relu, .. })
        | NodeKind::Affine { relu, .. }
        | NodeKind::Add { relu, .. } => {
            *relu = true;
            true
        }
        _ => false,
    }
}

/// Adds a residual to a convolution that has neither residual nor ReLU. Returns whether it did.
fn fuse_add(kind: &mut NodeKind, other: usize, add_relu: bool) -> bool {
    match kind {
        NodeKind::Conv(ConvNode {
            residual,
            relu,
            shuffle: None,
            ..
        }) if residual.is_none() && !*relu => {
            *residual = Some(other);
            *relu = add_relu;
            true
        }
        _ => false,
    }
}

/// Adds a DepthToSpace to a plain convolution. Returns whether it did.
fn fuse_shuffle(kind: &mut NodeKind, block: usize, mode: DepthToSpaceMode) -> bool {
    match kind {
        NodeKind::Conv(ConvNode {
            residual: None,
            transposed: false,
            groups: 1,
            shuffle,
            ..
        }) if shuffle.is_none() => {
            *shuffle = Some((block, mode));
            true
        }
        _ => false,
    }
}

/// Plans which tensors are slices of a Concat's output, by the network's tensor numbers.
pub(super) fn plan_slices(
    nodes: &[Node],
    tensors: &[TensorInfo],
    network_input: usize,
) -> HashMap<usize, SliceOf> {
    let mut slices: HashMap<usize, SliceOf> = HashMap::new();
    let writes: HashMap<usize, &Node> = nodes.iter().map(|node| (node.output, node)).collect();
    for node in nodes {
        let NodeKind::Concat { inputs: parts } = &node.kind else {
            continue;
        };
        let mut channel = 0;
        for &part in parts {
            let slice = SliceOf {
                tensor: node.output,
                channel,
            };
            channel += tensors[part].shape[0];
            let Some(writer) = writes.get(&part) else {
                continue;
            };
            // A kernel must not read the buffer that it writes, and a slice cannot contain slices.
            let reads_sibling = inputs(&writer.kind).iter().any(|read| parts.contains(read));
            let is_concat = matches!(writer.kind, NodeKind::Concat { .. });
            let twice = parts.iter().filter(|&&other| other == part).count() > 1;
            if part != network_input && !reads_sibling && !is_concat && !twice {
                slices.entry(part).or_insert(slice);
            }
        }
    }
    slices
}
