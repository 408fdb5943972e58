//! Nodes, attributes and values for graph edits, and the edits that several passes share.

use std::collections::HashMap;

use prost::bytes::Bytes;

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::tensor::element;

/// A node of the standard operator set with one output.
pub(crate) fn node(op: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(name.to_owned()),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

/// An integer attribute.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(2),
        i: Some(value),
        ..Default::default()
    }
}

/// A float attribute.
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(1),
        f: Some(value),
        ..Default::default()
    }
}

/// An attribute with a list of integers.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(7),
        ints: values.to_vec(),
        ..Default::default()
    }
}

/// A string attribute.
pub(crate) fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(3),
        s: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..Default::default()
    }
}

/// An axis of `size`.
pub(crate) fn axis(size: usize) -> DimensionProto {
    DimensionProto {
        dim_value: Some(size as i64),
        ..Default::default()
    }
}

/// A FLOAT graph input or output; without `dims` its shape is left open.
pub(crate) fn value(name: &str, dims: Option<Vec<DimensionProto>>) -> ValueInfoProto {
    let tensor = TensorTypeProto {
        elem_type: Some(element::FLOAT),
        shape: dims.map(|dim| TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Replaces each node whose first output is a key of `replacements` with the nodes of that entry;
/// an empty entry removes the node.
pub(crate) fn replace_nodes(
    graph: &mut GraphProto,
    mut replacements: HashMap<String, Vec<NodeProto>>,
) {
    for node in std::mem::take(&mut graph.node) {
        let output = node.output.first().map_or("", String::as_str);
        match replacements.remove(output) {
            Some(others) => graph.node.extend(others),
            None => graph.node.push(node),
        }
    }
}

/// Replaces the initializers that have the names of `tensors`, and appends the other tensors in order.
pub(crate) fn put_initializers(
    graph: &mut GraphProto,
    tensors: impl IntoIterator<Item = TensorProto>,
) {
    let names = graph.initializer.iter().map(|t| t.name().to_owned());
    let places: HashMap<String, usize> = names.zip(0..).collect();
    for tensor in tensors {
        let place = places.get(tensor.name());
        match place.and_then(|&i| graph.initializer.get_mut(i)) {
            Some(old) => *old = tensor,
            None => graph.initializer.push(tensor),
        }
    }
}
