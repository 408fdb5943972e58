//! Nodes and constants of a network under construction.
//!
//! A quantised layer reads its map through a pair and its weight as codes, in the form of [`crate::build::quantize`]. Layers
//! that read one map with one range share a pair; another range gets a pair of its own.

use std::collections::HashMap;
use std::path::Path;

use super::layers::{Layer, Norm};
use super::scales::Scales;
use crate::build::Result;
use crate::build::calibrate::scale;
use crate::build::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use crate::build::onnx::tensor::{from_codes, from_floats};
use crate::build::onnx::{Graph, make};
use crate::map::quantize;

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
        let dims = &layer.weight.dims;
        let all: Vec<f32> = scales.weight.iter().map(|&amax| scale(amax)).collect();
        let inner: usize = dims.iter().skip(layer.axis + 1).product();
        let codes = layer.weight.data.iter().enumerate().map(|(i, &value)| {
            let channel = i / inner.max(1) % all.len().max(1);
            let scale = all.get(channel).copied().unwrap_or(1.0);
            // Weights beyond their range saturate at both ends alike.
            quantize(value, scale).max(-127)
        });
        let codes: Vec<i8> = codes.collect();
        let [scale_name, zero, codes_name] =
            ["_scale", "_zero_point", "_quantized"].map(|end| format!("{name}{end}"));
        self.tensors.extend([
            from_codes(&codes_name, dims, &codes),
            from_floats(&scale_name, &[all.len()], &all),
            from_codes(&zero, &[all.len()], &vec![0; all.len()]),
        ]);
        let inputs = [codes_name.as_str(), &scale_name, &zero];
        let node_name = format!("{name}_DequantizeLinear");
        let mut node = make::node("DequantizeLinear", &node_name, &inputs, name);
        node.attribute = vec![make::int("axis", layer.axis as i64)];
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
        let [scale_name, zero, codes, output] =
            ["_scale", "_zero_point", "_quantized", "_dequantized"]
                .map(|end| format!("{value}{end}{number}"));
        self.tensors.extend([
            from_floats(&scale_name, &[], &[scale(amax)]),
            from_codes(&zero, &[], &[0]),
        ]);
        for (op, from, to) in [
            ("QuantizeLinear", value, &codes),
            ("DequantizeLinear", codes.as_str(), &output),
        ] {
            let name = format!("{value}_{op}{number}");
            self.nodes
                .push(make::node(op, &name, &[from, &scale_name, &zero], to));
        }
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
