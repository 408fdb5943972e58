//! Inserts the planned pairs into a graph.

use std::collections::{HashMap, HashSet};

use ndarray::{ArrayD, Axis};

use super::pairs::{self, WeightValues};
use super::placement::PairPlan;
use super::{Quantizer, QuantizerKind, WeightFormats};
use crate::build::onnx::proto::{NodeProto, TensorProto};
use crate::build::onnx::{Graph, Node};
use crate::build::{BuildError, Result};

/// Inserts the pairs of `plan` and returns all quantisers; `activations` are those of the plan's maps, `formats` those of
/// weights with another range than their values have, or other bits than 8.
pub(super) fn insert(
    graph: &mut Graph,
    plan: &PairPlan,
    activations: Vec<Quantizer>,
    formats: &WeightFormats,
) -> Result<Vec<Quantizer>> {
    let mut edits = Edits::default();
    for ((value, readers), quantizer) in plan.maps.iter().zip(&activations) {
        edits.map(graph, value, readers, quantizer);
    }
    let mut quantizers = activations;
    let mut done: HashMap<(String, usize), String> = HashMap::new();
    for (layer, index) in &plan.weights {
        let Some(node) = graph.producer(&layer.output) else {
            continue;
        };
        let name = node.need_input(*index)?;
        let weight = graph.array(name)?;
        let weight =
            weight.ok_or_else(|| node.error(format!("its weight \"{name}\" is not a constant")))?;
        let axis = channel_axis(node, *index, weight.ndim())?;
        let key = (name.to_owned(), axis);
        if !done.contains_key(&key) {
            let same = plan.weights.iter().filter(|(other, i)| {
                let other = graph.producer(&other.output);
                other.is_some_and(|n| {
                    n.input(*i) == Some(name)
                        && channel_axis(n, *i, weight.ndim()).is_ok_and(|a| a == axis)
                })
            });
            let readers: Vec<String> = same.map(|(l, _)| l.name.clone()).collect();
            let alone = readers.len() == graph.uses(name);
            let mut amax = channel_amax(graph, name, &weight, axis)?;
            let format = formats.get(name);
            let bits = format.map_or(8, |format| format.bits);
            let given = format.and_then(|format| format.amax.as_ref());
            if let Some(given) = given.filter(|given| given.len() == amax.len()) {
                amax.clone_from(given);
            }
            let values: Vec<f32> = weight.iter().copied().collect();
            let coded = WeightValues {
                dims: weight.shape(),
                values: &values,
                axis,
                amax: &amax,
                bits,
            };
            let output = edits.weight(graph, name, &coded, alone);
            done.insert(key.clone(), output);
            quantizers.push(Quantizer {
                tensor: name.to_owned(),
                layer: Some(layer.name.clone()),
                kind: QuantizerKind::Weight,
                bits,
                axis: Some(axis),
                amax,
                own_amax: None,
                saturated: None,
                readers,
            });
        }
        if let Some(output) = done.get(&key) {
            let reader = (layer.output.clone(), *index);
            edits.reads.insert(reader, output.clone());
        }
    }
    edits.apply(graph)?;
    Ok(quantizers)
}

/// The axis of a weight that holds its layer's output channels.
pub(super) fn channel_axis(node: Node<'_>, index: usize, rank: usize) -> Result<usize> {
    let needed = if node.op() == "MatMul" { 1 } else { 2 };
    if rank < needed {
        return Err(node.error(format!(
            "its weight has {rank} axes, expected {needed} or more"
        )));
    }
    Ok(match (node.op(), index) {
        ("ConvTranspose", _) => 1,
        ("Gemm", 0) => usize::from(node.int("transA", 0)? != 0),
        ("Gemm", _) => usize::from(node.int("transB", 0)? == 0),
        ("MatMul", 0) => rank.saturating_sub(2),
        ("MatMul", _) => rank - 1,
        _ => 0,
    })
}

/// The largest magnitude of each channel on `axis`.
fn channel_amax(graph: &Graph, name: &str, weight: &ArrayD<f32>, axis: usize) -> Result<Vec<f32>> {
    let mut amax = Vec::new();
    for (c, channel) in weight.axis_iter(Axis(axis)).enumerate() {
        if let Some(value) = channel.iter().find(|v| !v.is_finite()) {
            return Err(BuildError::Tensor {
                path: graph.path().to_path_buf(),
                tensor: name.to_owned(),
                what: format!("channel {c} has the value {value}, which has no range"),
            });
        }
        amax.push(channel.iter().fold(0.0_f32, |amax, v| amax.max(v.abs())));
    }
    Ok(amax)
}

/// The edits to a graph.
#[derive(Default)]
struct Edits {
    /// New nodes by the value that they follow.
    after: HashMap<String, Vec<NodeProto>>,
    /// New nodes that come first.
    first: Vec<NodeProto>,
    /// New initializers.
    tensors: Vec<TensorProto>,
    /// Initializers that a DequantizeLinear with an output of the same name replaces.
    removed: HashSet<String>,
    /// New names of inputs, by the node's first output and the index of the input.
    reads: HashMap<(String, usize), String>,
    /// Names that are already assigned.
    names: HashSet<String>,
}

impl Edits {
    /// An unused value name.
    fn name(&mut self, graph: &Graph, base: &str, suffix: &str) -> String {
        let mut wanted = format!("{base}{suffix}");
        loop {
            let name = graph.fresh_name(&wanted);
            if self.names.insert(name.clone()) {
                return name;
            }
            wanted.push('_');
        }
    }

    /// Plans the pair of a map.
    fn map(
        &mut self,
        graph: &Graph,
        value: &str,
        readers: &[(String, usize)],
        quantizer: &Quantizer,
    ) {
        let amax = quantizer.amax.first().copied().unwrap_or(0.0);
        let names = pairs::ENDS.map(|end| self.name(graph, value, end));
        let (nodes, tensors) = pairs::of_map(value, amax, names.each_ref().map(String::as_str), "");
        self.tensors.extend(tensors);
        match graph.producer(value) {
            Some(_) => self
                .after
                .entry(value.to_owned())
                .or_default()
                .extend(nodes),
            None => self.first.extend(nodes),
        }
        let [.., output] = names;
        for reader in readers {
            self.reads.insert(reader.clone(), output.clone());
        }
    }

    /// Plans the codes of a weight with their DequantizeLinear, and returns the name of its output.
    /// `alone` says that all users of the weight read it this way.
    fn weight(
        &mut self,
        graph: &Graph,
        name: &str,
        weight: &WeightValues<'_>,
        alone: bool,
    ) -> String {
        let [scale, zero, codes, dequantized] = pairs::ENDS;
        let names = [scale, zero, codes].map(|end| self.name(graph, name, end));
        let output = if alone && graph.initializer(name).is_some() {
            self.removed.insert(name.to_owned());
            name.to_owned()
        } else {
            self.name(graph, name, dequantized)
        };
        let names = names.each_ref().map(String::as_str);
        let (node, tensors) = pairs::of_weight(name, weight, names, &output);
        self.tensors.extend(tensors);
        self.first.push(node);
        output
    }

    fn apply(mut self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            let nodes = std::mem::take(&mut proto.node);
            proto.node = std::mem::take(&mut self.first);
            for mut node in nodes {
                let first = node.output.first().cloned().unwrap_or_default();
                for (index, input) in node.input.iter_mut().enumerate() {
                    if let Some(name) = self.reads.get(&(first.clone(), index)) {
                        input.clone_from(name);
                    }
                }
                let outputs = node.output.clone();
                proto.node.push(node);
                for value in outputs {
                    proto
                        .node
                        .extend(self.after.remove(&value).unwrap_or_default());
                }
            }
            let removed = |name: &str| self.removed.contains(name);
            proto.initializer.retain(|t| !removed(t.name()));
            // A graph input may declare the initializer, too.
            proto.input.retain(|v| !removed(v.name()));
            proto.initializer.extend(self.tensors);
        })?;
        graph.prune()
    }
}
