//! Constructors of ONNX messages for small networks.

use crate::build::onnx::proto::*;
use crate::build::onnx::tensor::element;

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
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(2),
        i: Some(value),
        ..Default::default()
    }
}

/// An attribute that is a list of integers.
pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(7),
        ints: ints.to_vec(),
        ..Default::default()
    }
}

/// A float input or output with these dimensions.
pub fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let axis = |&n: &i64| DimensionProto {
        dim_value: Some(n),
        ..Default::default()
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: Some(element::FLOAT),
                shape: Some(TensorShapeProto {
                    dim: dims.iter().map(axis).collect(),
                }),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
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
