//! Inserts the planned pairs into a graph.

use std::collections::{BTreeMap, HashMap, HashSet};

use ndarray::{ArrayD, Axis, Zip};

use super::placement::PairPlan;
use super::{Quantizer, QuantizerKind};
use crate::build::calibrate::scale;
use crate::build::onnx::proto::{NodeProto, TensorProto};
use crate::build::onnx::{Graph, Node, make, tensor};
use crate::build::{BuildError, Result};
use crate::map::quantize;

/// Inserts the pairs of `plan` and returns all quantisers; `activations` are those of the plan's maps, `given` the ranges of
/// weights that have other ones than their values.
pub(super) fn insert(
    graph: &mut Graph,
    plan: &PairPlan,
    activations: Vec<Quantizer>,
    given: &BTreeMap<String, Vec<f32>>,
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
            if let Some(given) = given.get(name).filter(|given| given.len() == amax.len()) {
                amax.clone_from(given);
            }
            let output = edits.weight(graph, name, &weight, axis, &amax, alone);
            done.insert(key.clone(), output);
            quantizers.push(Quantizer {
                tensor: name.to_owned(),
                layer: Some(layer.name.clone()),
                kind: QuantizerKind::Weight,
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
fn channel_axis(node: Node<'_>, index: usize, rank: usize) -> Result<usize> {
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
        let [scale_name, zero, codes, output] =
            ["_scale", "_zero_point", "_quantized", "_dequantized"]
                .map(|suffix| self.name(graph, value, suffix));
        self.tensors.extend([
            tensor::from_floats(&scale_name, &[], &[scale(amax)]),
            tensor::from_codes(&zero, &[], &[0]),
        ]);
        let pair = [
            ("QuantizeLinear", value, &codes),
            ("DequantizeLinear", codes.as_str(), &output),
        ]
        .map(|(op, from, to)| {
            let name = format!("{value}_{op}");
            make::node(op, &name, &[from, &scale_name, &zero], to)
        });
        match graph.producer(value) {
            Some(_) => self.after.entry(value.to_owned()).or_default().extend(pair),
            None => self.first.extend(pair),
        }
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
        weight: &ArrayD<f32>,
        axis: usize,
        amax: &[f32],
        alone: bool,
    ) -> String {
        let scales: Vec<f32> = amax.iter().map(|&a| scale(a)).collect();
        let mut codes = ArrayD::<i8>::zeros(weight.raw_dim());
        let channels = codes
            .axis_iter_mut(Axis(axis))
            .zip(weight.axis_iter(Axis(axis)));
        for ((codes, values), &scale) in channels.zip(&scales) {
            Zip::from(codes)
                .and(values)
                .for_each(|code, &value| *code = quantize(value, scale).max(-i8::MAX));
        }
        let (codes, _) = codes.into_raw_vec_and_offset();
        let [scale_name, zero, codes_name] =
            ["_scale", "_zero_point", "_quantized"].map(|suffix| self.name(graph, name, suffix));
        let output = if alone && graph.initializer(name).is_some() {
            self.removed.insert(name.to_owned());
            name.to_owned()
        } else {
            self.name(graph, name, "_dequantized")
        };
        self.tensors.extend([
            tensor::from_codes(&codes_name, weight.shape(), &codes),
            tensor::from_floats(&scale_name, &[scales.len()], &scales),
            tensor::from_codes(&zero, &[scales.len()], &vec![0; scales.len()]),
        ]);
        let node_name = format!("{name}_DequantizeLinear");
        let inputs = [codes_name.as_str(), &scale_name, &zero];
        let mut node = make::node("DequantizeLinear", &node_name, &inputs, &output);
        node.attribute = vec![make::int("axis", axis as i64)];
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
