//! Nodes and constants of a network under construction.
//!
//! A quantised layer reads its map through a pair and its weight as codes, in the form of [`crate::build::quantize`]. Layers
//! that read one map with one range share a pair; another range gets a pair of its own.

use std::collections::HashMap;
use std::path::Path;

use super::layers::{Layer, Norm};
use super::scales::Scales;
use crate::build::Result;
use crate::build::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use crate::build::onnx::tensor::from_floats;
use crate::build::onnx::{Graph, make};
use crate::build::quantize::pairs::{self, WeightValues};

/// The first operator set with scales by channel.
pub(super) const OPSET: i64 = 13;
/// The version of the format that belongs to it.
const IR_VERSION: i64 = 8;

/// New nodes and constants.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) tensors: Vec<TensorProto>,
    /// Outputs of pairs by the value before them and the bits of their range.
    pairs: HashMap<(String, u32), String>,
    /// Number of pairs by value.
    count: HashMap<String, usize>,
}

impl Builder {
    pub(super) fn add(&mut self, op: &str, inputs: &[&str], output: &str) -> &mut NodeProto {
        self.nodes.push(make::node(op, output, inputs, output));
        let last = self.nodes.len() - 1;
        &mut self.nodes[last]
    }

    pub(super) fn constant(&mut self, name: &str, dims: &[usize], data: &[f32]) {
        self.tensors.push(from_floats(name, dims, data));
    }

    /// Adds the layer with its pairs and its BatchNormalization, as the operator `op` of these attributes.
    pub(super) fn layer(
        &mut self,
        layer: &Layer,
        op: &str,
        attributes: Vec<AttributeProto>,
        input: &str,
        output: &str,
    ) {
        let key = &layer.key;
        let [weight, bias, unscaled] =
            ["weight", "bias", "unscaled"].map(|end| format!("{key}.{end}"));
        let read = match &layer.scales {
            None => {
                self.constant(&weight, &layer.weight.dims, &layer.weight.data);
                input.to_owned()
            }
            Some(scales) => {
                self.codes(layer, scales, &weight);
                self.pair(input, scales.input)
            }
        };
        let mut inputs = vec![read.as_str(), &weight];
        if let Some(values) = &layer.bias {
            self.constant(&bias, &[values.len()], values);
            inputs.push(&bias);
        }
        let value = if layer.norm.is_some() {
            &unscaled
        } else {
            output
        };
        let mut node = make::node(op, key, &inputs, value);
        node.attribute = attributes;
        self.nodes.push(node);
        if let Some(norm) = &layer.norm {
            self.norm(norm, value, output);
        }
    }

    /// Adds a BatchNormalization.
    pub(super) fn norm(&mut self, norm: &Norm, input: &str, output: &str) {
        let rows = [
            ("scale", &norm.weight),
            ("shift", &norm.bias),
            ("mean", &norm.mean),
            ("var", &norm.var),
        ];
        let rows = rows.map(|(end, values)| {
            let name = format!("{output}.norm_{end}");
            self.constant(&name, &[values.len()], values);
            name
        });
        let inputs: Vec<&str> = [input]
            .into_iter()
            .chain(rows.iter().map(String::as_str))
            .collect();
        let mut node = make::node(
            "BatchNormalization",
            &format!("{output}.norm"),
            &inputs,
            output,
        );
        node.attribute = vec![make::float("epsilon", norm.eps as f32)];
        self.nodes.push(node);
    }

    /// Adds the codes of a weight, whose DequantizeLinear takes the weight's name.
    fn codes(&mut self, layer: &Layer, scales: &Scales, name: &str) {
        let weight = WeightValues {
            dims: &layer.weight.dims,
            values: &layer.weight.data,
            axis: layer.axis,
            amax: &scales.weight,
            bits: 8,
        };
        let [scale, zero, codes, _] = pairs::ENDS.map(|end| format!("{name}{end}"));
        let (node, tensors) = pairs::of_weight(name, &weight, [&scale, &zero, &codes], name);
        self.tensors.extend(tensors);
        self.nodes.push(node);
    }

    /// The value `value` through a pair of this range.
    fn pair(&mut self, value: &str, amax: f32) -> String {
        let key = (value.to_owned(), amax.to_bits());
        if let Some(output) = self.pairs.get(&key) {
            return output.clone();
        }
        let count = self.count.entry(value.to_owned()).or_default();
        *count += 1;
        let number = if *count == 1 {
            String::new()
        } else {
            format!("_{count}")
        };
        let names = pairs::ENDS.map(|end| format!("{value}{end}{number}"));
        let borrowed = names.each_ref().map(String::as_str);
        let (nodes, tensors) = pairs::of_map(value, amax, borrowed, &number);
        self.tensors.extend(tensors);
        self.nodes.extend(nodes);
        let [.., output] = names;
        self.pairs.insert(key, output.clone());
        output
    }

    /// The graph of all nodes. Errors refer to `path`.
    ///
    /// # Errors
    /// As [`Graph::new`].
    pub(super) fn graph(
        self,
        path: &Path,
        name: &str,
        input: ValueInfoProto,
        outputs: Vec<ValueInfoProto>,
    ) -> Result<Graph> {
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            graph: Some(GraphProto {
                name: Some(name.to_owned()),
                node: self.nodes,
                initializer: self.tensors,
                input: vec![input],
                output: outputs,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut graph = Graph::new(path, model)?;
        // Sorts the nodes, as the format demands.
        graph.prune()?;
        Ok(graph)
    }
}
