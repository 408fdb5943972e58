//! Unsigned codes become signed ones: UINT8 code c with zero point z is INT8 code c - 128 with zero point z - 128. This is exact,
//! because only differences from the zero point have a meaning, and both types have the same number of steps on either side.

use std::collections::HashMap;

use crate::build::Result;
use crate::build::onnx::proto::TensorProto;
use crate::build::onnx::tensor::{self, element, from_codes};
use crate::build::onnx::{Graph, Node};

/// What becomes of the graph.
#[derive(Default)]
struct Edits {
    /// The new zero point of each node, by the node's output.
    zero_points: HashMap<String, String>,
    /// The signed zero points by name.
    tensors: HashMap<String, TensorProto>,
    /// Weights.
    weights: HashMap<String, TensorProto>,
}

/// Makes the codes of all pairs signed. Codes that other nodes read, too, stay as they are. Returns the change, if there is one.
///
/// # Errors
/// [`crate::build::BuildError`] for malformed nodes and tensors.
pub(super) fn make_signed(graph: &mut Graph) -> Result<Vec<String>> {
    let mut edits = Edits::default();
    let mut maps = 0;
    for node in graph.nodes() {
        match node.op() {
            "QuantizeLinear" if is_unsigned(graph, node)? => {
                let codes = node.need_output()?;
                let nodes: Vec<_> = std::iter::once(node)
                    .chain(graph.consumers(codes))
                    .collect();
                maps += usize::from(edits.nodes(graph, codes, &nodes)?);
            }
            "DequantizeLinear" => {
                let codes = node.need_input(0)?;
                let Some(constant) = graph.initializer(codes) else {
                    continue;
                };
                if constant.data_type() != element::UINT8 || edits.weights.contains_key(codes) {
                    continue;
                }
                let nodes: Vec<_> = graph.consumers(codes).collect();
                if edits.nodes(graph, codes, &nodes)? {
                    let signed = signed(graph, codes, constant)?;
                    edits.weights.insert(codes.to_owned(), signed);
                }
            }
            _ => {}
        }
    }
    let weights = edits.weights.len();
    if maps == 0 && weights == 0 {
        return Ok(Vec::new());
    }
    edits.apply(graph)?;
    graph.prune()?;
    Ok(vec![format!(
        "made the UINT8 codes of {maps} maps and {weights} weights INT8 codes, with zero points 128 lower"
    )])
}

/// Whether a QuantizeLinear makes UINT8.
fn is_unsigned(graph: &Graph, node: Node<'_>) -> Result<bool> {
    let found = match node.input(2) {
        Some(zero) => graph.constant(zero)?.map(|tensor| tensor.data_type()),
        // The operator's default.
        None => match i32::try_from(node.int("output_dtype", 0)?) {
            Ok(0) => Some(element::UINT8),
            other => other.ok(),
        },
    };
    Ok(found == Some(element::UINT8))
}

/// A constant of UINT8 as INT8, called `name`.
fn signed(graph: &Graph, name: &str, constant: &TensorProto) -> Result<TensorProto> {
    let codes = tensor::integers(graph.path(), constant)?;
    // The element type is UINT8, so no value is truncated.
    let shifted: Vec<i8> = codes.data.iter().map(|&code| (code - 128) as i8).collect();
    Ok(from_codes(name, &codes.dims, &shifted))
}

impl Edits {
    /// Gives the nodes that make or read `codes` signed zero points, unless one of them is no part of a pair or an output.
    fn nodes(&mut self, graph: &Graph, codes: &str, nodes: &[Node<'_>]) -> Result<bool> {
        let is_pair = |node: &Node<'_>| {
            matches!(node.op(), "QuantizeLinear" | "DequantizeLinear")
                && (node.op() == "QuantizeLinear") == (node.output(0) == Some(codes))
        };
        if graph.is_output(codes) || !nodes.iter().all(is_pair) {
            return Ok(false);
        }
        let mut found = Vec::new();
        for node in nodes {
            let Some(zero_point) = self.zero_point(graph, *node)? else {
                return Ok(false);
            };
            found.push((node.need_output()?.to_owned(), zero_point));
        }
        self.zero_points.extend(found);
        Ok(true)
    }

    /// The name of a node's zero point as INT8. `None` if it is no constant of UINT8.
    fn zero_point(&mut self, graph: &Graph, node: Node<'_>) -> Result<Option<String>> {
        let scale = node.need_input(1)?;
        let old = node.input(2);
        // Without a zero point it is 0, one for each scale.
        let name = graph.fresh_name(&match old {
            Some(old) => format!("{old}_signed"),
            None => format!("{scale}_zero_point_signed"),
        });
        if self.tensors.contains_key(&name) {
            return Ok(Some(name));
        }
        let tensor = match old {
            Some(old) => match graph.constant(old)? {
                Some(constant) if constant.data_type() == element::UINT8 => {
                    signed(graph, &name, &constant)?
                }
                _ => return Ok(None),
            },
            None => match graph.floats(scale)? {
                Some(scales) => from_codes(&name, &scales.dims, &vec![-128; scales.data.len()]),
                None => return Ok(None),
            },
        };
        self.tensors.insert(name.clone(), tensor);
        Ok(Some(name))
    }

    fn apply(self, graph: &mut Graph) -> Result<()> {
        let Self {
            zero_points,
            tensors,
            mut weights,
        } = self;
        graph.edit(|proto| {
            for node in &mut proto.node {
                let output = node.output.first().map_or("", String::as_str);
                let Some(zero_point) = zero_points.get(output) else {
                    continue;
                };
                node.input.resize(3, String::new());
                if let Some(input) = node.input.get_mut(2) {
                    input.clone_from(zero_point);
                }
                // The zero point has the type, too.
                node.attribute.retain(|a| a.name() != "output_dtype");
            }
            for tensor in &mut proto.initializer {
                if let Some(signed) = weights.remove(tensor.name()) {
                    *tensor = signed;
                }
            }
            let mut tensors: Vec<_> = tensors.into_values().collect();
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            proto.initializer.extend(tensors);
            // Their types would contradict the new ones.
            proto.value_info.clear();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::testing::{graph, node, ops};

    fn unsigned(name: &str, dims: &[i64], codes: &[u8]) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            dims: dims.to_vec(),
            data_type: Some(element::UINT8),
            raw_data: Some(codes.to_vec().into()),
            ..Default::default()
        }
    }

    fn scales() -> [TensorProto; 2] {
        ["s", "t"].map(|name| tensor::from_floats(name, &[], &[0.5]))
    }

    /// The codes that input `at` of the node that makes `value` holds.
    fn codes(graph: &Graph, value: &str, at: usize) -> Vec<i64> {
        let name = graph.producer(value).unwrap().input(at).unwrap();
        let constant = graph.constant(name).unwrap().unwrap();
        assert_eq!(constant.data_type(), element::INT8);
        tensor::integers(graph.path(), &constant).unwrap().data
    }

    #[test]
    fn codes_and_zero_points_are_128_lower() {
        let [s, t] = scales();
        let mut found = graph(
            vec![
                node("QuantizeLinear", &["x", "s", "z"], "xq"),
                node("DequantizeLinear", &["xq", "s", "z"], "xd"),
                node("DequantizeLinear", &["w", "t", "wz"], "wd"),
                node("Conv", &["xd", "wd"], "y"),
                // No zero point: UINT8 with zero point 0.
                node("QuantizeLinear", &["y", "s"], "yq"),
                node("DequantizeLinear", &["yq", "s"], "out"),
            ],
            vec![
                s,
                t,
                unsigned("z", &[], &[7]),
                unsigned("w", &[4, 1, 1, 1], &[0, 1, 128, 255]),
                unsigned("wz", &[], &[128]),
            ],
        );
        let changes = make_signed(&mut found).unwrap();
        assert!(changes[0].contains("2 maps and 1 weights"), "{changes:?}");
        for value in ["xq", "xd"] {
            assert_eq!(codes(&found, value, 2), [-121]);
        }
        for value in ["yq", "out"] {
            assert_eq!(codes(&found, value, 2), [-128]);
        }
        assert_eq!(codes(&found, "wd", 0), [-128, -127, 0, 127]);
        assert_eq!(codes(&found, "wd", 2), [0]);
        assert!(make_signed(&mut found).unwrap().is_empty());
    }

    /// What a node other than a DequantizeLinear makes of the codes is not known.
    #[test]
    fn codes_with_other_readers_stay() {
        let [s, _] = scales();
        let mut found = graph(
            vec![
                node("QuantizeLinear", &["x", "s", "z"], "xq"),
                node("DequantizeLinear", &["xq", "s", "z"], "xd"),
                node("Cast", &["xq"], "xc"),
                node("Add", &["xd", "xc"], "out"),
            ],
            vec![s, unsigned("z", &[], &[0])],
        );
        assert!(make_signed(&mut found).unwrap().is_empty());
        assert_eq!(ops(&found).len(), 4);
        let zero = found.constant("z").unwrap().unwrap();
        assert_eq!(zero.data_type(), element::UINT8);
    }
}
