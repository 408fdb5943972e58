//! Small graphs for unit tests.

use std::path::Path;

use super::onnx::proto::{GraphProto, NodeProto, TensorProto};
use super::onnx::{Graph, make};
use crate::testing::nets;

/// A node called `op.output`.
pub(super) fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    make::node(op, &format!("{op}.{output}"), inputs, output)
}

/// Adds an integer attribute to a node.
pub(super) fn int(node: &mut NodeProto, name: &str, value: i64) {
    node.attribute.push(make::int(name, value));
}

/// Adds an attribute with a list of integers to a node.
pub(super) fn ints(node: &mut NodeProto, name: &str, values: &[i64]) {
    node.attribute.push(make::ints(name, values));
}

/// A graph from `x` to `out` without declared shapes, operator set 13.
pub(super) fn graph(nodes: Vec<NodeProto>, tensors: Vec<TensorProto>) -> Graph {
    shaped(nodes, tensors, None)
}

/// As [`graph`], with the shape of `x`.
pub(super) fn shaped(nodes: Vec<NodeProto>, tensors: Vec<TensorProto>, x: Option<&[i64]>) -> Graph {
    let input = x.map_or_else(|| make::value("x", None), |x| nets::value("x", x));
    let model = nets::model(GraphProto {
        node: nodes,
        initializer: tensors,
        input: vec![input],
        output: vec![make::value("out", None)],
        ..Default::default()
    });
    Graph::new(Path::new("net.onnx"), model).unwrap()
}

/// The elements of a constant.
pub(super) fn data(graph: &Graph, name: &str) -> Vec<f32> {
    graph.floats(name).unwrap().unwrap().data
}

/// The operators in order of execution.
pub(super) fn ops(graph: &Graph) -> Vec<&str> {
    graph.nodes().map(|n| n.op()).collect()
}
