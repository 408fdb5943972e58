//! Decides where Q/DQ pairs go.
//!
//! - A *layer* is a Conv, ConvTranspose, Gemm or MatMul. A selected layer reads its map and its weight
//!   through pairs.
//! - A residual Add belongs to the layer that produces its other input, so that engines fuse the layer,
//!   the Add and the Relu. Only the residual gets a pair; the other input stays in the layer's
//!   accumulator. If layers already read both inputs of an Add as codes, the Add does, too, with one
//!   scale (the QuantAdd of NVIDIA's recipes).
//! - Concat, DepthToSpace, MaxPool and the like only move values. They get no pairs of their own, but the
//!   pairs before and after them share one scale, so codes pass through.
//! - All other nodes (Relu, biases) compute on floats. So do skipped layers, which read the value before
//!   the pair.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::build::globs::Globs;
use crate::build::onnx::{Graph, Node};
use crate::build::{Result, deconv};

/// Selects the layers to quantise: those that all of these options admit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Layers to leave in float, as patterns for layer or node names: `*` matches any characters, also none,
    /// and `?` matches one.
    pub skip: Vec<String>,
    /// If set, quantise only these layers.
    pub only: Option<Vec<String>>,
    /// Whether to quantise the layers that read the network's input.
    pub first_layer: bool,
    /// Whether to quantise the last layers, which produce the head maps.
    pub heads: bool,
    /// Whether to quantise transposed convolutions, including those that [`deconv::rewrite`] has rewritten.
    pub deconvolutions: bool,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            skip: Vec::new(),
            only: None,
            first_layer: true,
            heads: true,
            deconvolutions: true,
        }
    }
}

/// A node that multiplies a value with a weight or with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuantizableLayer {
    /// The weight's name without `.weight`, such as `pts_backbone.blocks.0.0`, or the node's name if the
    /// weight has no such name.
    pub name: String,
    /// The node's name.
    pub node: String,
    /// Conv, ConvTranspose, Gemm or MatMul.
    pub operator: String,
    /// Name of its output.
    pub output: String,
    /// Whether it reads the network's input.
    pub first: bool,
    /// Whether no other layer follows it.
    pub head: bool,
    /// Whether it is a transposed convolution, or was one before it was rewritten.
    pub deconvolution: bool,
}

/// The layers of a graph in order of execution.
///
/// # Errors
/// [`BuildError::Node`](crate::build::BuildError::Node) for a node without inputs or outputs.
pub(crate) fn layers(graph: &Graph) -> Result<Vec<QuantizableLayer>> {
    let nodes: Vec<Node<'_>> = graph.nodes().collect();
    // Values computed without any layer.
    let inputs = graph.inputs()?;
    let mut raw: HashSet<&str> = inputs.iter().map(|v| v.name.as_str()).collect();
    for node in &nodes {
        let reads = node.proto.input.iter().any(|v| raw.contains(v.as_str()));
        if reads && !is_layer(*node) {
            raw.extend(node.proto.output.iter().map(String::as_str));
        }
    }
    // Values that some layer depends on.
    let mut used: HashSet<&str> = HashSet::new();
    for node in nodes.iter().rev() {
        if is_layer(*node) || node.proto.output.iter().any(|v| used.contains(v.as_str())) {
            used.extend(node.proto.input.iter().map(String::as_str));
        }
    }
    let layer = |node: &Node<'_>| {
        let output = node.need_output()?;
        Ok(QuantizableLayer {
            name: layer_name(graph, *node),
            node: node.proto.name().to_owned(),
            operator: node.op().to_owned(),
            output: output.to_owned(),
            first: raw.contains(node.need_input(0)?),
            head: !used.contains(output),
            deconvolution: deconv::is_deconvolution(*node),
        })
    };
    nodes.iter().filter(|n| is_layer(**n)).map(layer).collect()
}

/// Whether a node is a layer.
pub(super) fn is_layer(node: Node<'_>) -> bool {
    matches!(node.op(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul")
}

/// The name of a layer; see [`QuantizableLayer::name`]. Looks through existing pairs.
pub(crate) fn layer_name(graph: &Graph, node: Node<'_>) -> String {
    let mut value = node.input(1);
    while let Some(name) = value {
        if let Some(stem) = name.strip_suffix(".weight") {
            return stem.to_owned();
        }
        let pair = graph.producer(name);
        let pair = pair.filter(|n| matches!(n.op(), "QuantizeLinear" | "DequantizeLinear"));
        value = pair.and_then(|n| n.input(0));
    }
    match node.proto.name() {
        "" => node.output(0).unwrap_or_default().to_owned(),
        name => name.to_owned(),
    }
}

/// An input that reads the output of a pair: the node's first output and the index of the input.
pub(super) type Reader = (String, usize);

/// The pairs to insert.
#[derive(Debug, Default)]
pub(super) struct PairPlan {
    /// Maps that get a pair, in order of execution, with the inputs that read it.
    pub(super) maps: Vec<(String, Vec<Reader>)>,
    /// Weights that get a pair, by layer and index of the input.
    pub(super) weights: Vec<(QuantizableLayer, usize)>,
    /// The groups of values that share a scale.
    pub(super) groups: HashMap<String, usize>,
    /// Names of the layers that read each value through its pair.
    pub(super) layers: HashMap<String, Vec<String>>,
    /// Warnings about patterns that match nothing.
    pub(super) warnings: Vec<String>,
}

/// Decides where pairs go.
pub(super) fn plan(graph: &Graph, placement: &Placement) -> Result<PairPlan> {
    if let Some(node) = graph.nodes().find(|n| n.op() == "QuantizeLinear") {
        return Err(node.error("the network is already quantised; use the float network"));
    }
    let layers = layers(graph)?;
    let mut plan = PairPlan::default();
    let mut readers: HashMap<String, Vec<Reader>> = HashMap::new();
    let selection = Selection::new(graph, &layers, placement, &mut plan.warnings);
    for layer in layers
        .iter()
        .filter(|l| selection.layers.contains(&l.output))
    {
        let Some(node) = graph.producer(&layer.output) else {
            continue;
        };
        for index in 0..2 {
            let value = node.need_input(index)?;
            if graph.constant(value)?.is_some() {
                plan.weights.push((layer.clone(), index));
                continue;
            }
            let reader = (layer.output.clone(), index);
            readers.entry(value.to_owned()).or_default().push(reader);
            let names = plan.layers.entry(value.to_owned()).or_default();
            names.push(layer.name.clone());
        }
    }
    let mut others = Vec::new();
    for node in graph.nodes().filter(|n| n.op() == "Add") {
        let output = node.need_output()?;
        if selection.skipped_adds.contains(output) {
            continue;
        }
        let Some((host, index)) = residual(graph, node)? else {
            others.push(node);
            continue;
        };
        if selection.layers.contains(host.need_output()?) {
            let value = node.need_input(index)?;
            let reader = (output.to_owned(), index);
            readers.entry(value.to_owned()).or_default().push(reader);
            let names = plan.layers.entry(value.to_owned()).or_default();
            names.push(layer_name(graph, host));
        }
    }
    for node in others {
        let (a, b) = (node.need_input(0)?, node.need_input(1)?);
        if a == b || !readers.contains_key(a) || !readers.contains_key(b) {
            continue;
        }
        for (index, value) in [a, b].into_iter().enumerate() {
            let reader = (node.need_output()?.to_owned(), index);
            readers.entry(value.to_owned()).or_default().push(reader);
        }
        join(&mut plan.groups, a, b);
    }
    share(graph, &mut readers, &mut plan.groups)?;
    let inputs = graph.inputs()?.into_iter().map(|v| v.name);
    let outputs = graph.nodes().flat_map(|n| n.proto.output.iter().cloned());
    for value in inputs.chain(outputs) {
        if let Some(readers) = readers.remove(&value) {
            plan.maps.push((value, readers));
        }
    }
    Ok(plan)
}

/// The nodes that the options select.
struct Selection {
    /// Outputs of the layers to quantise.
    layers: HashSet<String>,
    /// Outputs of the Adds to skip by name.
    skipped_adds: HashSet<String>,
}

impl Selection {
    fn new(
        graph: &Graph,
        layers: &[QuantizableLayer],
        placement: &Placement,
        warnings: &mut Vec<String>,
    ) -> Self {
        let skip = Globs::new(&placement.skip);
        let only = placement.only.as_deref().map(Globs::new);
        let matches = |globs: &Globs, layer: &QuantizableLayer| {
            globs.matches(&layer.name) || globs.matches(&layer.node)
        };
        let adds: Vec<Node<'_>> = graph.nodes().filter(|n| n.op() == "Add").collect();
        let of_layers = layers.iter().flat_map(|l| [l.name.as_str(), &l.node]);
        let of_adds = adds.iter().map(|add| add.proto.name());
        let mut warn = |option: &str, pattern: String| {
            let first = layers.first().map_or("", |l| l.name.as_str());
            warnings.push(format!(
                "{option} pattern \"{pattern}\" matches no layer; layer names look like \"{first}\""
            ));
        };
        for pattern in skip.unused(of_layers.clone().chain(of_adds)) {
            warn("skip", pattern);
        }
        for pattern in only.iter().flat_map(|only| only.unused(of_layers.clone())) {
            warn("only", pattern);
        }

        let selected = |layer: &&QuantizableLayer| {
            (placement.first_layer || !layer.first)
                && (placement.heads || !layer.head)
                && (placement.deconvolutions || !layer.deconvolution)
                && !matches(&skip, layer)
                && only.as_ref().is_none_or(|only| matches(only, layer))
        };
        let skipped_adds = adds.iter().filter(|n| skip.matches(n.proto.name()));
        Self {
            layers: layers
                .iter()
                .filter(selected)
                .map(|l| l.output.clone())
                .collect(),
            skipped_adds: skipped_adds
                .flat_map(|n| n.proto.output.iter().cloned())
                .collect(),
        }
    }
}

/// The layer that an Add of two maps can be fused into, and the index of the Add's other input. If both
/// inputs come from such layers, this is the later one, since the other's output is then complete.
fn residual<'a>(graph: &'a Graph, add: Node<'_>) -> Result<Option<(Node<'a>, usize)>> {
    let values = [add.need_input(0)?, add.need_input(1)?];
    if values[0] == values[1] {
        return Ok(None);
    }
    for value in values {
        if graph.constant(value)?.is_some() {
            return Ok(None);
        }
    }
    let host = |value: &str| {
        let layer = graph.producer(value).filter(|n| is_layer(*n));
        layer.filter(|_| graph.uses(value) == 1)
    };
    let place = |node: &Node<'_>| {
        graph
            .nodes()
            .position(|n| n.proto.output == node.proto.output)
    };
    Ok(match values.map(host) {
        [Some(a), Some(b)] if place(&a) > place(&b) => Some((a, 1)),
        [_, Some(b)] => Some((b, 0)),
        [Some(a), None] => Some((a, 1)),
        [None, None] => None,
    })
}

/// Whether a node only moves values, so codes of one scale can pass through it.
fn moves(node: Node<'_>) -> bool {
    matches!(
        node.op(),
        "Concat"
            | "DepthToSpace"
            | "MaxPool"
            | "Identity"
            | "Reshape"
            | "Squeeze"
            | "Unsqueeze"
            | "Flatten"
            | "Transpose"
    )
}

/// The inputs whose values a mover moves.
fn moved<'a>(node: Node<'a>) -> &'a [String] {
    let inputs = node.proto.input.as_slice();
    match node.op() {
        "Concat" => inputs,
        // Other inputs are shapes and axes.
        _ => inputs.get(..1).unwrap_or_default(),
    }
}

/// Groups the values that must share a scale, and lets movers read their inputs through pairs if their
/// output is only used as codes.
fn share(
    graph: &Graph,
    readers: &mut HashMap<String, Vec<Reader>>,
    groups: &mut HashMap<String, usize>,
) -> Result<()> {
    // Outputs of movers that some later node reads as codes, and those that are only read as codes.
    let (mut carries, mut only_codes) = (HashSet::new(), HashSet::new());
    let nodes: Vec<Node<'_>> = graph.nodes().collect();
    let movers: Vec<&Node<'_>> = nodes.iter().filter(|n| moves(**n)).collect();
    for node in movers.iter().rev() {
        let output = node.need_output()?;
        let is_code = |user: Node<'_>, coded: &HashSet<&str>| {
            let output_of_user = user.output(0).unwrap_or_default();
            let paired = readers
                .get(output)
                .is_some_and(|r| r.iter().any(|r| r.0 == output_of_user));
            paired || (moves(user) && coded.contains(output_of_user))
        };
        if graph.consumers(output).any(|user| is_code(user, &carries)) {
            carries.insert(output);
        }
        let all = graph
            .consumers(output)
            .all(|user| is_code(user, &only_codes));
        if all && !graph.is_output(output) && carries.contains(output) {
            only_codes.insert(output);
        }
    }
    for node in &movers {
        let output = node.need_output()?;
        if carries.contains(output) {
            for input in moved(**node) {
                join(groups, input, output);
            }
        }
    }
    for node in &movers {
        let output = node.need_output()?;
        if !only_codes.contains(output) {
            continue;
        }
        for (index, input) in moved(**node).iter().enumerate() {
            if let Some(readers) = readers.get_mut(input) {
                readers.push((output.to_owned(), index));
            }
        }
    }
    Ok(())
}

/// Merges the groups of two values.
fn join(groups: &mut HashMap<String, usize>, a: &str, b: &str) {
    let next = groups.values().max().map_or(0, |n| n + 1);
    match (groups.get(a).copied(), groups.get(b).copied()) {
        (Some(kept), Some(merged)) => {
            for group in groups.values_mut().filter(|g| **g == merged) {
                *group = kept;
            }
        }
        (Some(group), None) => _ = groups.insert(b.to_owned(), group),
        (None, Some(group)) => _ = groups.insert(a.to_owned(), group),
        (None, None) => {
            groups.insert(a.to_owned(), next);
            groups.insert(b.to_owned(), next);
        }
    }
}
