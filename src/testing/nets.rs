//! Constructors of ONNX messages for small networks.

use crate::build::onnx::make;
use crate::build::onnx::proto::*;

/// A node named `/op`.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |all: &[&str]| all.iter().map(|&s| s.to_owned()).collect();
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(format!("/{op}")),
        input: names(inputs),
        output: names(outputs),
        ..Default::default()
    }
}

/// An integer attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    make::int(name, value)
}

/// An attribute that is a list of integers.
pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    make::ints(name, ints)
}

/// A float input or output with these dimensions.
pub fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    // As in a file: a size may be negative.
    let axis = |&size: &i64| DimensionProto {
        dim_value: Some(size),
        ..Default::default()
    };
    make::value(name, Some(dims.iter().map(axis).collect()))
}

/// A model of operator set 13.
pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(13),
        }],
        graph: Some(graph),
        ..Default::default()
    }
}
