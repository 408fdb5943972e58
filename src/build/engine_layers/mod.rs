//! The layer table: an engine's layers, and the fate of the network's quantised layers.
//!
//! If a GPU can load the engine, the layers come from the engine inspector's JSON ([`inspector`]). Otherwise, as when
//! TensorRT-RTX builds for another machine, they come from the builder's log ([`log`]). Both yield [`EngineLayer`]s.
//! [`LayerTable::new`] then looks up each layer of the network that reads quantised values: a strongly typed network
//! allows INT8, but the library decides where to use it.

pub(crate) mod inspector;
pub(crate) mod log;

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::build::onnx::{Graph, Node};
use crate::plan::LayerCounts;
use crate::plan::{Family, Version};

/// A layer of an engine: one kernel, or several that the library runs as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineLayer {
    /// Its name: the names of its nodes, or one that the library invented.
    pub name: String,
    /// Its kind, such as `CaskConvolution`, `Reformat` or `kgen`; empty if only names are known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The maps that it reads, excluding weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<LayerTensor>,
    /// The maps that it writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<LayerTensor>,
    /// The kernel that the library chose.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tactic: String,
    /// The network's nodes that it computes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

/// A map between layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub dims: Vec<i64>,
    /// The type of its values: `fp32`, `fp16` or `int8`; other types in lower case, as the library spells them; empty if
    /// unknown.
    pub element: String,
    /// Its layout, as the library describes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub format: String,
}

impl EngineLayer {
    /// Whether it reads a map in INT8.
    pub fn reads_int8(&self) -> bool {
        self.inputs.iter().any(|tensor| tensor.element == "int8")
    }

    /// Whether its kind or name shows that it only changes types or layouts.
    fn is_reformat(&self) -> bool {
        self.kind.eq_ignore_ascii_case("reformat") || self.name.starts_with("Reformatting CopyNode")
    }

    /// Whether it converts one map to one map of the same shape.
    fn keeps_shape(&self) -> bool {
        match (&self.inputs[..], &self.outputs[..]) {
            ([from], [to]) => from.dims == to.dims,
            _ => false,
        }
    }

    /// Candidate names of its nodes. If the library does not list them, they are joined in the layer's name.
    fn node_names(&self) -> Vec<&str> {
        if !self.nodes.is_empty() {
            return self.nodes.iter().map(String::as_str).collect();
        }
        let joined = self.name.split(" + ").flat_map(|name| name.split(" || "));
        joined.map(str::trim).collect()
    }

    /// The types that it reads, such as `fp16 and int8`.
    fn reads(&self) -> String {
        let mut found: Vec<&str> = self.inputs.iter().map(|t| t.element.as_str()).collect();
        found.retain(|element| !element.is_empty());
        found.sort_unstable();
        found.dedup();
        found.join(" and ")
    }
}

/// What became of a layer of the network with quantised inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The engine's layer reads INT8.
    Int8,
    /// It reads these types instead.
    Fallback(String),
    /// No layer of the engine names it: it was optimised away (such as a Concat whose inputs are written in place), or it
    /// runs under a name that the library does not reveal.
    Unlisted,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int8 => f.write_str("int8"),
            Self::Fallback(reads) if reads.is_empty() => f.write_str("unknown type"),
            Self::Fallback(reads) => f.write_str(reads),
            Self::Unlisted => f.write_str("not listed"),
        }
    }
}

/// A layer of the network with quantised inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizedLayer {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// The layers of an engine, and what became of its network's quantised layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerTable {
    /// The engine's layers, in its order, without those that only synchronise streams.
    pub layers: Vec<EngineLayer>,
    /// The network's layers that read quantised values, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantized: Vec<QuantizedLayer>,
    /// Counts of the outcomes.
    pub counts: LayerCounts,
}

impl LayerTable {
    /// Looks up the layers of `graph`, from which the engine was built, among the engine's layers. Skips layers that only
    /// synchronise streams.
    pub fn new(mut layers: Vec<EngineLayer>, graph: &Graph) -> Self {
        layers.retain(|layer| !matches!(layer.kind.as_str(), "signal" | "wait"));
        let operators: HashMap<String, &str> = graph
            .nodes()
            .map(|node| (parsers_name(node), node.op()))
            .collect();
        // The layers of each node.
        let mut by_node: HashMap<&str, Vec<&EngineLayer>> = HashMap::new();
        let mut reformats = 0;
        for layer in &layers {
            let nodes: Vec<&str> = layer
                .node_names()
                .into_iter()
                .filter(|name| operators.contains_key(*name))
                .collect();
            let converts = |name: &&str| operators.get(*name).is_some_and(|op| is_conversion(op));
            let computes = match nodes[..] {
                [] => !layer.keeps_shape(),
                _ => !nodes.iter().all(converts),
            };
            reformats += usize::from(layer.is_reformat() || !computes);
            for node in nodes {
                by_node.entry(node).or_default().push(layer);
            }
        }
        let mut quantized = Vec::new();
        for node in graph
            .nodes()
            .filter(|n| !is_conversion(n.op()) && reads_quantized(graph, *n))
        {
            let name = parsers_name(node);
            let found = by_node.get(name.as_str());
            quantized.push(QuantizedLayer {
                outcome: outcome(found.map_or(&[], Vec::as_slice)),
                operator: node.op().to_owned(),
                node: name,
            });
        }
        let fell = |layer: &&QuantizedLayer| matches!(layer.outcome, Outcome::Fallback(_));
        let counts = LayerCounts {
            engine: layers.len(),
            int8: layers.iter().filter(|layer| layer.reads_int8()).count(),
            reformats,
            quantized: quantized.len(),
            fallbacks: quantized.iter().filter(fell).count(),
        };
        Self {
            layers,
            quantized,
            counts,
        }
    }

    /// Warnings for a user who expects INT8: one for every quantised layer that does not run in INT8. If `library` is
    /// TensorRT-RTX, whose convolutions are not known to compute in INT8, one warning for all.
    pub fn warnings(&self, library: Version) -> Vec<String> {
        let fell: Vec<&QuantizedLayer> = self
            .quantized
            .iter()
            .filter(|layer| match layer.outcome {
                Outcome::Int8 => false,
                Outcome::Fallback(_) => true,
                // Other operators may be optimised away.
                Outcome::Unlisted => is_convolution(&layer.operator),
            })
            .collect();
        if library.family == Family::TensorRtRtx {
            return match (self.quantized.len(), fell.len()) {
                (0, _) => Vec::new(),
                (all, fell) => vec![format!(
                    "{library} emulates INT8, as far as is known: {} of {all} quantised layers read INT8, but the GPU's \
                    compiler chooses the type that their kernels compute in, and NVIDIA lists no INT8 convolutions \
                    for it. Expect the values of INT8, not its speed; TensorRT (libnvinfer) computes in INT8",
                    all - fell
                )],
            };
        }
        let line = |layer: &QuantizedLayer| {
            let QuantizedLayer {
                node,
                operator,
                outcome,
            } = layer;
            match outcome {
                Outcome::Unlisted => format!(
                    "node \"{node}\" ({operator}) is quantised, but no layer of the engine names it"
                ),
                outcome => format!(
                    "node \"{node}\" ({operator}) is quantised, but the engine reads {outcome} there"
                ),
            }
        };
        fell.into_iter().map(line).collect()
    }
}

/// Whether an operator only changes the type of values.
fn is_conversion(operator: &str) -> bool {
    matches!(operator, "Cast" | "DequantizeLinear" | "QuantizeLinear")
}

fn is_convolution(operator: &str) -> bool {
    matches!(operator, "Conv" | "ConvTranspose")
}

/// The name that TensorRT's ONNX parser assigns to a node.
fn parsers_name(node: Node<'_>) -> String {
    match (node.proto.name(), node.output(0)) {
        ("", Some(output)) => format!("node_of_{output}"),
        (name, _) => name.to_owned(),
    }
}

/// Whether a node reads a quantised map. Quantised weights alone do not count.
fn reads_quantized(graph: &Graph, node: Node<'_>) -> bool {
    node.proto.input.iter().any(|value| {
        let producer = graph.producer(value);
        let from = producer.filter(|p| p.op() == "DequantizeLinear");
        let codes = from.and_then(|p| p.input(0));
        codes.is_some_and(|codes| matches!(graph.constant(codes), Ok(None)))
    })
}

/// The outcome for the layers that contain a node. One layer that reads INT8 decides: others after it may finish the sum.
fn outcome(layers: &[&EngineLayer]) -> Outcome {
    match layers {
        [] => Outcome::Unlisted,
        layers if layers.iter().any(|layer| layer.reads_int8()) => Outcome::Int8,
        [first, ..] => Outcome::Fallback(first.reads()),
    }
}

/// Finds the element type in a library's description: `Int8`, `Half`, `Row major linear FP16 format`.
fn element(description: &str) -> String {
    let mut tokens = description.split(|c: char| !c.is_ascii_alphanumeric());
    let name = |token: &str| {
        let token = token.to_ascii_lowercase();
        match token.as_str() {
            "float" | "fp32" => Some("fp32".to_owned()),
            "half" | "fp16" => Some("fp16".to_owned()),
            "int8" | "bf16" | "fp8" | "fp4" | "e8m0" | "int4" | "int32" | "int64" | "uint8"
            | "bool" => Some(token),
            "bfloat16" => Some("bf16".to_owned()),
            _ => None,
        }
    };
    tokens.find_map(name).unwrap_or_default()
}

/// The nodes in a layer's metadata: `[ONNX Layer: a][ONNX Layer: b]`, with any separators between.
fn nodes(metadata: &str) -> Vec<String> {
    let marked = metadata.split("[ONNX Layer: ").skip(1);
    let name = |text: &str| {
        let end = text.find(']').unwrap_or(text.len());
        text[..end].to_owned()
    };
    marked.map(name).collect()
}

#[cfg(test)]
mod tests;
