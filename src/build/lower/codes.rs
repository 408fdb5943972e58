//! Rewrites a network with Quantize and Dequantize nodes to one in which convolutions read codes.
//!
//! - A convolution with code weights whose input is dequantised codes reads those codes.
//! - A Quantize after Concat, DepthToSpace or MaxPool, which only move values, moves in front of them. There it can
//!   become part of the convolution that produces the value. (MaxPool commutes with rounding because rounding is
//!   monotone.)
//! - Codes that are dequantised and quantised again with the same scale and zero point stay unchanged.
//! - If one Quantize with zero point 0 is the only reader of the network's input, the input becomes codes. (Whoever writes the
//!   input, on the CPU or the GPU, knows no zero points, and leaves empty cells at code 0.)
//!
//! The remaining Quantize and Dequantize nodes become operators.

use std::collections::HashMap;

use crate::build::lower::builder::{ConvNode, Node, NodeKind, ProgramBuilder, TensorInfo, Weight};
use crate::build::lower::fuse::inputs;
use crate::program::Codes;
use crate::program::layout::max_products;

/// The form in which a tensor's readers want it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Demand {
    /// Nobody reads it.
    Nothing,
    /// All readers want these codes.
    Codes(Codes),
    /// At least one reader wants values.
    Values,
}

impl Demand {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, demand) | (demand, Self::Nothing) => demand,
            (a, b) if a == b => a,
            _ => Self::Values,
        }
    }
}

/// Rewrites the network; see the module documentation.
pub(super) fn place(network: &mut ProgramBuilder, input: usize) {
    let nodes = conversions_first(std::mem::take(&mut network.nodes), input);
    let mut placement = CodePlacement {
        demands: demands(&nodes, network),
        network,
        aliases: HashMap::new(),
        dequantized: HashMap::new(),
        codes: HashMap::new(),
    };
    for node in nodes {
        placement.node(node);
    }
}

/// If one Quantize is the only reader of the network's input, makes its output the input.
pub(super) fn input(network: &mut ProgramBuilder, input: usize) -> usize {
    let readers = |node: &Node| inputs(&node.kind).contains(&input);
    let mut found = network.nodes.iter().enumerate().filter(|(_, n)| readers(n));
    let (Some((at, node)), None) = (found.next(), found.next()) else {
        return input;
    };
    let is_output = network.outputs.iter().any(|(tensor, _)| *tensor == input);
    let plain = network.tensors[node.output]
        .codes
        .is_some_and(|c| c.zero == 0);
    if is_output || !plain || !matches!(node.kind, NodeKind::Quantize { .. }) {
        return input;
    }
    network.nodes.remove(at).output
}

/// Reorders the nodes: each Quantize and Dequantize directly follows its input's producer.
fn conversions_first(nodes: Vec<Node>, input: usize) -> Vec<Node> {
    let mut waiting: HashMap<usize, Vec<Node>> = HashMap::new();
    let mut others = Vec::new();
    for node in nodes {
        match node.kind {
            NodeKind::Quantize { input } | NodeKind::Dequantize { input } => {
                waiting.entry(input).or_default().push(node);
            }
            _ => others.push(node),
        }
    }
    let mut ordered = Vec::new();
    let mut follow = |tensor: usize, ordered: &mut Vec<Node>| {
        let mut tensors = vec![tensor];
        while let Some(tensor) = tensors.pop() {
            for node in waiting.remove(&tensor).unwrap_or_default() {
                tensors.push(node.output);
                ordered.push(node);
            }
        }
    };
    follow(input, &mut ordered);
    for node in others {
        let output = node.output;
        ordered.push(node);
        follow(output, &mut ordered);
    }
    ordered
}

/// The form in which the readers of each tensor want it.
fn demands(nodes: &[Node], network: &ProgramBuilder) -> Vec<Demand> {
    let mut demands = vec![Demand::Nothing; network.tensors.len()];
    for (tensor, _) in &network.outputs {
        demands[*tensor] = Demand::Values;
    }
    for node in nodes.iter().rev() {
        let demand = match &node.kind {
            NodeKind::Quantize { .. } => network.tensors[node.output]
                .codes
                .map_or(Demand::Values, Demand::Codes),
            kind if only_moves(kind) => demands[node.output],
            _ => Demand::Values,
        };
        for input in inputs(&node.kind) {
            demands[input] = demands[input].and(demand);
        }
    }
    demands
}

/// Whether a node only moves elements or picks the largest.
fn only_moves(kind: &NodeKind) -> bool {
    matches!(
        kind,
        NodeKind::Concat { .. } | NodeKind::DepthToSpace { .. } | NodeKind::MaxPool { .. }
    )
}

/// The network being rewritten; its nodes are those kept so far.
struct CodePlacement<'a> {
    network: &'a mut ProgramBuilder,
    demands: Vec<Demand>,
    /// Maps tensors of codes from Quantize nodes to the tensors that replace them.
    aliases: HashMap<usize, usize>,
    /// Maps tensors that Dequantize produces to the codes that it reads.
    dequantized: HashMap<usize, usize>,
    /// Maps a tensor, a scale (its bits) and a zero point to the tensor's codes.
    codes: HashMap<(usize, u32, i8), usize>,
}

impl CodePlacement<'_> {
    fn node(&mut self, mut node: Node) {
        match &mut node.kind {
            NodeKind::Quantize { input } => {
                // A Quantize makes codes; see `ProgramBuilder::quantize`.
                if let Some(wanted) = self.network.tensors[node.output].codes {
                    let codes = self.codes(&node.name, *input, wanted);
                    self.aliases.insert(node.output, codes);
                }
                return;
            }
            NodeKind::Dequantize { input } => {
                *input = self.aliases.get(input).copied().unwrap_or(*input);
                self.dequantized.insert(node.output, *input);
            }
            NodeKind::Conv(conv) => {
                if let Some(&codes) = self.dequantized.get(&conv.input)
                    && fits_integers(conv, &self.network.tensors[codes])
                {
                    conv.input = codes;
                }
            }
            kind => {
                if let (true, Demand::Codes(codes)) = (only_moves(kind), self.demands[node.output])
                {
                    return self.mover(node, codes);
                }
            }
        }
        self.network.nodes.push(node);
    }

    /// Adds a node that only moves elements, converted to codes.
    fn mover(&mut self, node: Node, wanted: Codes) {
        let Node {
            name,
            output,
            mut kind,
        } = node;
        match &mut kind {
            NodeKind::Concat { inputs } => {
                for input in inputs {
                    *input = self.codes(&name, *input, wanted);
                }
            }
            NodeKind::DepthToSpace { input, .. } | NodeKind::MaxPool { input, .. } => {
                *input = self.codes(&name, *input, wanted);
            }
            _ => {}
        }
        let codes = self.push(&name, kind, output, wanted);
        self.codes.insert(key(output, wanted), codes);
    }

    /// The codes of tensor `x`. If they do not exist yet, adds a node named `name`.
    fn codes(&mut self, name: &str, x: usize, wanted: Codes) -> usize {
        let key = key(x, wanted);
        if let Some(&known) = self.codes.get(&key) {
            return known;
        }
        let codes = match self.dequantized.get(&x) {
            Some(&codes) if self.network.tensors[codes].codes == Some(wanted) => codes,
            _ => self.push(name, NodeKind::Quantize { input: x }, x, wanted),
        };
        self.codes.insert(key, codes);
        codes
    }

    /// Adds a node that produces the codes of tensor `x`, and the tensor of codes, which is named like `x`.
    fn push(&mut self, name: &str, kind: NodeKind, x: usize, codes: Codes) -> usize {
        let output = self.network.tensors.len();
        let info = TensorInfo {
            codes: Some(codes),
            ..self.network.tensors[x].clone()
        };
        self.network.tensors.push(info);
        let name = name.to_owned();
        self.network.nodes.push(Node { name, output, kind });
        output
    }
}

/// The key of a tensor's codes.
fn key(x: usize, codes: Codes) -> (usize, u32, i8) {
    (x, codes.scale.to_bits(), codes.zero)
}

/// Whether a convolution of these codes can compute with them.
fn fits_integers(conv: &ConvNode, input: &TensorInfo) -> bool {
    let products = conv.kernel[0] * conv.kernel[1] * (input.shape[0] / conv.groups);
    let most = max_products(input.codes.map_or(0, |codes| codes.zero));
    matches!(conv.weight, Weight::I8 { .. }) && products <= most
}
