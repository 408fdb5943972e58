//! Small graphs for unit tests.

use std::path::Path;

use super::onnx::Graph;
use super::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::onnx::tensor::element;

/// A node called `op.output`.
pub(super) fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(format!("{op}.{output}")),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

/// Gives a node an integer attribute.
pub(super) fn int(node: &mut NodeProto, name: &str, value: i64) {
    node.attribute.push(AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        ..Default::default()
    });
}

/// Gives a node a list of integers.
pub(super) fn ints(node: &mut NodeProto, name: &str, values: &[i64]) {
    node.attribute.push(AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        ..Default::default()
    });
}

/// A graph from `x` to `out` without declared shapes, operator set 13.
pub(super) fn graph(nodes: Vec<NodeProto>, tensors: Vec<TensorProto>) -> Graph {
    shaped(nodes, tensors, None)
}

/// The same with the shape of `x`.
pub(super) fn shaped(nodes: Vec<NodeProto>, tensors: Vec<TensorProto>, x: Option<&[i64]>) -> Graph {
    let value = |name: &str, dims: Option<&[i64]>| {
        let axis = |&n: &i64| DimensionProto {
            dim_value: Some(n),
            ..Default::default()
        };
        let tensor = TensorTypeProto {
            elem_type: Some(element::FLOAT),
            shape: dims.map(|dims| TensorShapeProto {
                dim: dims.iter().map(axis).collect(),
            }),
        };
        ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto {
                tensor_type: Some(tensor),
                ..Default::default()
            }),
            ..Default::default()
        }
    };
    let model = ModelProto {
        opset_import: vec![OperatorSetIdProto {
            version: Some(13),
            ..Default::default()
        }],
        graph: Some(GraphProto {
            node: nodes,
            initializer: tensors,
            input: vec![value("x", x)],
            output: vec![value("out", None)],
            ..Default::default()
        }),
        ..Default::default()
    };
    Graph::new(Path::new("net.onnx"), model).unwrap()
}

/// A constant's elements.
pub(super) fn data(graph: &Graph, name: &str) -> Vec<f32> {
    graph.floats(name).unwrap().unwrap().data
}

/// The operators in order of execution.
pub(super) fn ops(graph: &Graph) -> Vec<&str> {
    graph.nodes().map(|n| n.op()).collect()
}
