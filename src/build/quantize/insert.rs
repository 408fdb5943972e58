//! Writes the planned pairs into a graph.

use std::collections::{HashMap, HashSet};

use super::placement::Plan;
use super::{Kind, Quantizer};
use crate::build::calibrate::{MAX_CODE, scale};
use crate::build::onnx::proto::{NodeProto, TensorProto};
use crate::build::onnx::tensor::{self, Tensor};
use crate::build::onnx::{Graph, Node, make};
use crate::build::{BuildError, Result};

/// Inserts the pairs of `plan`; `activations` are its maps with their ranges. Gives all quantisers.
pub(super) fn insert(
    graph: &mut Graph,
    plan: &Plan,
    activations: Vec<Quantizer>,
) -> Result<Vec<Quantizer>> {
    let mut inserter = Inserter::default();
    for ((value, readers), quantizer) in plan.maps.iter().zip(&activations) {
        inserter.map(graph, value, readers, quantizer);
    }
    let mut quantizers = activations;
    let mut done: HashMap<(String, usize), String> = HashMap::new();
    for (layer, index) in &plan.weights {
        let Some(node) = graph.producer(&layer.output) else {
            continue;
        };
        let name = node.need_input(*index)?;
        let weight = graph.floats(name)?;
        let weight = weight.ok_or_else(|| node.error(format!("\"{name}\" is no constant")))?;
        let axis = channel_axis(node, *index, weight.dims.len())?;
        let key = (name.to_owned(), axis);
        if !done.contains_key(&key) {
            let same = plan.weights.iter().filter(|(other, i)| {
                let other = graph.producer(&other.output);
                other.is_some_and(|n| {
                    n.input(*i) == Some(name)
                        && channel_axis(n, *i, weight.dims.len()).is_ok_and(|a| a == axis)
                })
            });
            let readers: Vec<String> = same.map(|(l, _)| l.name.clone()).collect();
            let alone = readers.len() == graph.uses(name);
            let amax = channel_amax(graph, name, &weight, axis)?;
            let output = inserter.weight(graph, name, &weight, axis, &amax, alone);
            done.insert(key.clone(), output);
            quantizers.push(Quantizer {
                tensor: name.to_owned(),
                layer: Some(layer.name.clone()),
                kind: Kind::Weight,
                axis: Some(axis),
                amax,
                own_amax: None,
                saturated: None,
                readers,
            });
        }
        if let Some(output) = done.get(&key) {
            let reader = (layer.output.clone(), *index);
            inserter.reads.insert(reader, output.clone());
        }
    }
    inserter.apply(graph)?;
    Ok(quantizers)
}

/// The axis of a weight that its layer's output channels are on.
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
fn channel_amax(graph: &Graph, name: &str, weight: &Tensor<f32>, axis: usize) -> Result<Vec<f32>> {
    let mut amax = vec![0.0_f32; weight.dims.get(axis).copied().unwrap_or(0)];
    let channel = channel_of(weight, axis);
    for (i, value) in weight.data.iter().enumerate() {
        let c = channel(i);
        if !value.is_finite() {
            return Err(BuildError::Tensor {
                path: graph.path().to_path_buf(),
                tensor: name.to_owned(),
                what: format!("channel {c} has the value {value}, which has no range"),
            });
        }
        if let Some(largest) = amax.get_mut(c) {
            *largest = largest.max(value.abs());
        }
    }
    Ok(amax)
}

/// The channel on `axis` of each element by its position.
fn channel_of(weight: &Tensor<f32>, axis: usize) -> impl Fn(usize) -> usize + use<> {
    let inner: usize = weight.dims.iter().skip(axis + 1).product();
    let channels = weight.dims.get(axis).copied().unwrap_or(1);
    move |i| i / inner % channels
}

/// The changes to a graph.
#[derive(Default)]
struct Inserter {
    /// New nodes by the value that they come behind.
    behind: HashMap<String, Vec<NodeProto>>,
    /// New nodes that come first.
    first: Vec<NodeProto>,
    /// New initializers.
    tensors: Vec<TensorProto>,
    /// Initializers that a node of the same name takes the place of.
    gone: HashSet<String>,
    /// What an input (the node's first output, and the index) reads now.
    reads: HashMap<(String, usize), String>,
    /// Names that were given.
    names: HashSet<String>,
}

impl Inserter {
    /// A name that no value has.
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

    /// The pair of a map.
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
            Some(_) => self
                .behind
                .entry(value.to_owned())
                .or_default()
                .extend(pair),
            None => self.first.extend(pair),
        }
        for reader in readers {
            self.reads.insert(reader.clone(), output.clone());
        }
    }

    /// The codes of a weight with their DequantizeLinear, whose output's name is given. `alone`: all
    /// that use the weight read it so.
    fn weight(
        &mut self,
        graph: &Graph,
        name: &str,
        weight: &Tensor<f32>,
        axis: usize,
        amax: &[f32],
        alone: bool,
    ) -> String {
        let scales: Vec<f32> = amax.iter().map(|&a| scale(a)).collect();
        let channel = channel_of(weight, axis);
        let code = |(i, value): (usize, &f32)| {
            let scale = scales.get(channel(i)).copied().unwrap_or(1.0);
            let code = (value / scale).round_ties_even();
            code.clamp(-MAX_CODE, MAX_CODE) as i8
        };
        let codes: Vec<i8> = weight.data.iter().enumerate().map(code).collect();
        let [scale_name, zero, codes_name] =
            ["_scale", "_zero_point", "_quantized"].map(|suffix| self.name(graph, name, suffix));
        let output = match alone && graph.initializer(name).is_some() {
            true => {
                self.gone.insert(name.to_owned());
                name.to_owned()
            }
            false => self.name(graph, name, "_dequantized"),
        };
        self.tensors.extend([
            tensor::from_codes(&codes_name, &weight.dims, &codes),
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
                let made = node.output.clone();
                proto.node.push(node);
                for value in made {
                    proto
                        .node
                        .extend(self.behind.remove(&value).unwrap_or_default());
                }
            }
            let gone = |name: &str| self.gone.contains(name);
            proto.initializer.retain(|t| !gone(t.name()));
            // Initializers may be declared as inputs, too.
            proto.input.retain(|v| !gone(v.name()));
            proto.initializer.extend(self.tensors);
        })?;
        graph.prune()
    }
}
