//! Raises the operator set version that a graph imports.
//!
//! Most new versions of an operator only allow more types. Some change its form, such as an attribute
//! that becomes an input; the node would then be invalid or change its meaning, so the graph is
//! rejected with the node's name. The versions come from ONNX's operator change log
//! (<https://onnx.ai/onnx/operators/>).

use super::graph::Graph;
use crate::build::Result;

/// Versions from 10 to 19 that changed the operator's form; `None` for an unknown operator.
fn changes(op: &str) -> Option<&'static [i64]> {
    Some(match op {
        "Add" | "AveragePool" | "BatchNormalization" | "Cast" | "Concat" | "Constant"
        | "ConstantOfShape" | "Conv" | "DepthToSpace" | "DequantizeLinear" | "Div" | "Equal"
        | "Exp" | "Expand" | "Flatten" | "Gather" | "Gemm" | "Greater" | "Identity"
        | "LeakyRelu" | "Less" | "MatMul" | "MaxPool" | "Mul" | "Neg" | "Pow"
        | "QuantizeLinear" | "Relu" | "Reshape" | "Shape" | "Sigmoid" | "Sqrt" | "Sub" | "Tanh"
        | "Tile" | "Transpose" | "Where" => &[],
        "Slice" => &[10],
        "Clip" => &[11],
        "Pad" => &[11, 18],
        // Only the meaning of SAME_UPPER changed.
        "ConvTranspose" => &[11],
        "Dropout" => &[12],
        "ReduceSum" | "Softmax" | "Squeeze" | "Unsqueeze" => &[13],
        "ReduceMax" | "ReduceMean" | "ReduceMin" => &[18],
        _ => return None,
    })
}

/// Newest version that [`changes`] covers.
const KNOWN: i64 = 19;

/// The IR version that was released with an operator set version.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        _ => 9,
    }
}

/// Raises the standard operator set of the graph to at least version `to`, which is at most 19.
///
/// # Errors
/// [`BuildError::Node`](crate::build::BuildError::Node) for the first node whose meaning would change.
pub(crate) fn raise(graph: &mut Graph, to: i64) -> Result<()> {
    let from = graph.opset();
    if from >= to {
        return Ok(());
    }
    debug_assert!(to <= KNOWN);
    for node in graph.nodes() {
        let plain_deconvolution = node.op() == "ConvTranspose"
            && matches!(node.string("auto_pad", "NOTSET")?, "" | "NOTSET" | "VALID");
        let what = match changes(node.op()) {
            _ if plain_deconvolution => continue,
            Some(versions) if !versions.iter().any(|&v| from < v && v <= to) => continue,
            Some(_) => "the operator has a different form",
            None => "the operator is unknown and may have a different form",
        };
        return Err(node.error(format!(
            "{what} in operator set {to} than in {from}, which the file uses; export the network \
             with operator set {to}"
        )));
    }
    graph.set_versions(to, ir_version(to));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::testing::{graph, node};

    #[test]
    fn versions_are_raised_and_never_lowered() {
        let mut plain = graph(vec![node("Relu", &["x"], "out")], vec![]);
        raise(&mut plain, 19).unwrap();
        assert_eq!(plain.opset(), 19);
        let model = plain.to_model();
        assert_eq!(model.opset_import[0].version, Some(19));
        assert_eq!(model.ir_version, Some(9));
        raise(&mut plain, 13).unwrap();
        assert_eq!(plain.opset(), 19);
    }

    #[test]
    fn a_node_whose_form_changes_is_named() {
        for (op, to, refused) in [
            ("ReduceMax", 17, false),
            ("ReduceMax", 18, true),
            ("Squeeze", 19, false), // changed in 13, which the graph already uses
            ("Novel", 19, true),
        ] {
            let mut graph = graph(vec![node(op, &["x"], "out")], vec![]);
            let found = raise(&mut graph, to);
            assert_eq!(found.is_err(), refused, "{op}");
            if let Err(e) = found {
                let message = e.to_string();
                assert!(
                    message.contains(&format!("\"{op}.out\" ({op})")),
                    "{message}"
                );
                assert!(
                    message.contains(&format!("set {to} than in 13")),
                    "{message}"
                );
            }
        }
    }
}
