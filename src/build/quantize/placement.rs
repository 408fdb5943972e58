//! Where Q/DQ pairs go.
//!
//! - A *layer* is a Conv, ConvTranspose, Gemm or MatMul. A chosen layer reads its map and its weight
//!   through pairs.
//! - A residual Add belongs to the layer that makes its other input, so that engines fuse layer, Add and
//!   Relu: only the residual gets a pair, the other input stays in the layer's accumulator. An Add of
//!   two maps that layers read as codes anyway reads both so, with one scale (the QuantAdd of NVIDIA's
//!   recipes).
//! - Concat, DepthToSpace, MaxPool and the like only move values: they get no pair of their own, but
//!   what has pairs before and behind them shares one scale, so that codes pass through.
//! - All others (Relu, biases) compute on floats. So does what is skipped: it reads the value in front
//!   of the pair.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::glob;
use crate::build::onnx::{Graph, Node};
use crate::build::{Result, deconv};

/// Which layers are quantised: those that all of these options let pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Layers to leave in float: patterns of layer or node names, `*` for any characters, `?` for one.
    pub skip: Vec<String>,
    /// If given, quantise no layers but these.
    pub only: Option<Vec<String>>,
    /// Layers that read the network's input.
    pub first_layer: bool,
    /// Layers behind which no other layer comes: they make the head's maps.
    pub heads: bool,
    /// Transposed convolutions, also in the form of [`deconv::rewrite`].
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

/// A node that has a weight, or multiplies two values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The weight's name without `.weight`, such as `pts_backbone.blocks.0.0`; the node's name if its
    /// weight is not called so.
    pub name: String,
    /// The node's name.
    pub node: String,
    /// Conv, ConvTranspose, Gemm or MatMul.
    pub operator: String,
    /// The value that it makes.
    pub output: String,
    /// Whether it reads the network's input.
    pub first: bool,
    /// Whether no other layer comes behind it.
    pub head: bool,
    /// Whether it is a transposed convolution, or was one.
    pub deconvolution: bool,
}

/// The layers of a graph in order of execution.
///
/// # Errors
/// [`BuildError::Node`](crate::build::BuildError::Node) for a node without inputs or outputs.
pub fn layers(graph: &Graph) -> Result<Vec<Layer>> {
    let nodes: Vec<Node<'_>> = graph.nodes().collect();
    // Values that no layer has touched yet.
    let inputs = graph.inputs()?;
    let mut raw: HashSet<&str> = inputs.iter().map(|v| v.name.as_str()).collect();
    for node in &nodes {
        let reads = node.proto.input.iter().any(|v| raw.contains(v.as_str()));
        if reads && !is_layer(*node) {
            raw.extend(node.proto.output.iter().map(String::as_str));
        }
    }
    // Values behind which there is a layer.
    let mut used: HashSet<&str> = HashSet::new();
    for node in nodes.iter().rev() {
        if is_layer(*node) || node.proto.output.iter().any(|v| used.contains(v.as_str())) {
            used.extend(node.proto.input.iter().map(String::as_str));
        }
    }
    let of = |node: &Node<'_>| {
        let output = node.need_output()?;
        Ok(Layer {
            name: layer_name(graph, *node),
            node: node.proto.name().to_owned(),
            operator: node.op().to_owned(),
            output: output.to_owned(),
            first: raw.contains(node.need_input(0)?),
            head: !used.contains(output),
            deconvolution: deconv::is_deconvolution(*node),
        })
    };
    nodes.iter().filter(|n| is_layer(**n)).map(of).collect()
}

/// Whether a node is a layer.
pub(super) fn is_layer(node: Node<'_>) -> bool {
    matches!(node.op(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul")
}

/// The name of a layer; see [`Layer::name`]. Pairs that are there already are seen through.
pub fn layer_name(graph: &Graph, node: Node<'_>) -> String {
    let mut value = node.input(1);
    while let Some(name) = value {
        if let Some(stem) = name.strip_suffix(".weight") {
            return stem.to_owned();
        }
        let maker = graph.producer(name);
        let maker = maker.filter(|n| matches!(n.op(), "QuantizeLinear" | "DequantizeLinear"));
        value = maker.and_then(|n| n.input(0));
    }
    match node.proto.name() {
        "" => node.output(0).unwrap_or_default().to_owned(),
        name => name.to_owned(),
    }
}

/// An input of a node that reads a pair's output: the node's first output, and the input's index.
pub(super) type Reader = (String, usize);

/// The pairs to insert.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Maps that get a pair, in order of execution, with all that read it.
    pub(super) maps: Vec<(String, Vec<Reader>)>,
    /// Weights that get a pair: the layer and the index of the input.
    pub(super) weights: Vec<(Layer, usize)>,
    /// Values of one scale have the same number.
    pub(super) groups: HashMap<String, usize>,
    /// Names of the layers that read each value through its pair.
    pub(super) layers: HashMap<String, Vec<String>>,
    /// Patterns that match nothing, as text.
    pub(super) warnings: Vec<String>,
}

/// Decides where pairs go.
pub(super) fn plan(graph: &Graph, placement: &Placement) -> Result<Plan> {
    if let Some(node) = graph.nodes().find(|n| n.op() == "QuantizeLinear") {
        return Err(node.error("the network is quantised already; give the float network"));
    }
    let layers = layers(graph)?;
    let mut plan = Plan::default();
    let mut readers: HashMap<String, Vec<Reader>> = HashMap::new();
    let chosen = Chosen::new(graph, &layers, placement, &mut plan.warnings);
    for layer in layers.iter().filter(|l| chosen.layers.contains(&l.output)) {
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
        if chosen.skipped_adds.contains(output) {
            continue;
        }
        let Some((host, index)) = residual(graph, node)? else {
            others.push(node);
            continue;
        };
        if chosen.layers.contains(host.need_output()?) {
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
    let made = graph.nodes().flat_map(|n| n.proto.output.iter().cloned());
    for value in inputs.chain(made) {
        if let Some(readers) = readers.remove(&value) {
            plan.maps.push((value, readers));
        }
    }
    Ok(plan)
}

/// What the options choose.
struct Chosen {
    /// Outputs of the layers that are quantised.
    layers: HashSet<String>,
    /// Outputs of Adds whose names are to be skipped.
    skipped_adds: HashSet<String>,
}

impl Chosen {
    fn new(
        graph: &Graph,
        layers: &[Layer],
        placement: &Placement,
        warnings: &mut Vec<String>,
    ) -> Self {
        let adds: Vec<Node<'_>> = graph.nodes().filter(|n| n.op() == "Add").collect();
        let hit = |pattern: &String, layer: &Layer| {
            glob::matches(pattern, &layer.name) || glob::matches(pattern, &layer.node)
        };
        let hit_add = |pattern: &String, add: &Node<'_>| glob::matches(pattern, add.proto.name());
        let only = placement.only.as_deref();
        let lists = [
            ("skip", &placement.skip[..]),
            ("only", only.unwrap_or_default()),
        ];
        for (option, patterns) in lists {
            for pattern in patterns {
                let found = layers.iter().any(|l| hit(pattern, l))
                    || (option == "skip" && adds.iter().any(|n| hit_add(pattern, n)));
                if !found {
                    let first = layers.first().map_or("", |l| l.name.as_str());
                    warnings.push(format!(
                        "{option} pattern \"{pattern}\" matches no layer; layers are called like \
                         \"{first}\""
                    ));
                }
            }
        }
        let wanted = |layer: &&Layer| {
            (placement.first_layer || !layer.first)
                && (placement.heads || !layer.head)
                && (placement.deconvolutions || !layer.deconvolution)
                && !placement.skip.iter().any(|p| hit(p, layer))
                && only.is_none_or(|only| only.iter().any(|p| hit(p, layer)))
        };
        let skipped = adds
            .iter()
            .filter(|n| placement.skip.iter().any(|p| hit_add(p, n)));
        Self {
            layers: layers
                .iter()
                .filter(wanted)
                .map(|l| l.output.clone())
                .collect(),
            skipped_adds: skipped
                .flat_map(|n| n.proto.output.iter().cloned())
                .collect(),
        }
    }
}

/// The layer that an Add of two maps can be fused into, and the index of its other input. Of two such
/// layers the later one, which finds the other's result there.
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
        let maker = graph.producer(value).filter(|n| is_layer(*n));
        maker.filter(|_| graph.uses(value) == 1)
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

/// Whether a node passes values on, so that codes of one scale can pass through it.
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

/// The inputs of a mover that it moves.
fn moved<'a>(node: Node<'a>) -> &'a [String] {
    let inputs = node.proto.input.as_slice();
    match node.op() {
        "Concat" => inputs,
        // The others are shapes and axes.
        _ => inputs.get(..1).unwrap_or_default(),
    }
}

/// Puts values that must have one scale into one group, and lets movers read their inputs through
/// pairs where all behind them is codes.
fn share(
    graph: &Graph,
    readers: &mut HashMap<String, Vec<Reader>>,
    groups: &mut HashMap<String, usize>,
) -> Result<()> {
    // Outputs of movers that become codes somewhere behind, and those that are nothing else.
    let (mut carries, mut only_codes) = (HashSet::new(), HashSet::new());
    let nodes: Vec<Node<'_>> = graph.nodes().collect();
    let movers: Vec<&Node<'_>> = nodes.iter().filter(|n| moves(**n)).collect();
    for node in movers.iter().rev() {
        let output = node.need_output()?;
        let is_code = |user: Node<'_>, behind: &HashSet<&str>| {
            let made = user.output(0).unwrap_or_default();
            let paired = readers
                .get(output)
                .is_some_and(|r| r.iter().any(|r| r.0 == made));
            paired || (moves(user) && behind.contains(made))
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

/// Puts two values, and all that share a scale with them, into one group.
fn join(groups: &mut HashMap<String, usize>, a: &str, b: &str) {
    let next = groups.values().max().map_or(0, |n| n + 1);
    match (groups.get(a).copied(), groups.get(b).copied()) {
        (Some(of_a), Some(of_b)) => {
            for group in groups.values_mut().filter(|g| **g == of_b) {
                *group = of_a;
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
