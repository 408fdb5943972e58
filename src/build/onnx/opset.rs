//! Raising the version of the operator set that a graph imports.
//!
//! A new version of an operator mostly allows more types. Where it says a thing in another way (an
//! attribute that became an input), the node would mean something else or nothing at all: such graphs
//! are refused, by the node's name. The versions are those of ONNX's operator change log
//! (<https://onnx.ai/onnx/operators/>).

use super::graph::Graph;
use crate::build::Result;

/// Versions from 10 to 19 that changed how the operator is written; `None` if it is not known here.
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
        // What SAME_UPPER means; all else is as before.
        "ConvTranspose" => &[11],
        "Dropout" => &[12],
        "ReduceSum" | "Softmax" | "Squeeze" | "Unsqueeze" => &[13],
        "ReduceMax" | "ReduceMean" | "ReduceMin" => &[18],
        _ => return None,
    })
}

/// Newest version that [`changes`] speaks of.
const KNOWN: i64 = 19;

/// The IR version that came with a version of the operator set.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        _ => 9,
    }
}

/// Makes the graph import at least version `to` (at most 19) of the standard operator set.
///
/// # Errors
/// [`BuildError::Node`](crate::build::BuildError::Node) for the first node that would mean something
/// else afterwards.
pub fn raise(graph: &mut Graph, to: i64) -> Result<()> {
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
            Some(_) => "the operator has another form",
            None => "the operator is not known, and may have another form",
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
    fn what_means_the_same_is_raised_and_nothing_is_lowered() {
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
    fn a_node_of_another_meaning_is_named() {
        for (op, to, refused) in [
            ("ReduceMax", 17, false),
            ("ReduceMax", 18, true),
            ("Squeeze", 19, false), // changed at 13, where the graph is
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
