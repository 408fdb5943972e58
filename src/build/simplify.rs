//! Removes the nodes of a graph that compute nothing, as exporters leave them.
//!
//! - Constant nodes and rearranged constants become initializers.
//! - Identity, Dropout, Concat of one value, Cast to the same type, and Casts and Transposes that cancel
//!   out are removed. Casts through a narrower type stay, because they round.
//! - Zero Pads are merged into the convolutions after them.

use std::collections::{HashMap, HashSet};

use super::Result;
use super::onnx::proto::{GraphProto, NodeProto, TensorProto};
use super::onnx::tensor::{self, element};
use super::onnx::{Graph, Node, Shapes, make, shapes};

/// Simplifies `graph`, prunes it, and returns the descriptions of the removed nodes.
///
/// # Errors
/// [`BuildError::Node`](super::BuildError::Node) for a malformed node.
pub(crate) fn simplify(graph: &mut Graph) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    constants_to_initializers(graph)?;
    fold_constants(graph, &mut removed)?;
    drop_copies(graph, &mut removed)?;
    fold_pads(graph, &mut removed)?;
    graph.prune()?;
    Ok(removed)
}

fn constants_to_initializers(graph: &mut Graph) -> Result<()> {
    let mut constants: HashMap<String, TensorProto> = HashMap::new();
    for node in graph.nodes().filter(|n| n.op() == "Constant") {
        let name = node.need_output()?;
        if graph.is_output(name) {
            continue;
        }
        if let Some(value) = graph.constant(name)? {
            let mut tensor = value.into_owned();
            tensor.name = Some(name.to_owned());
            constants.insert(name.to_owned(), tensor);
        }
    }
    replace_by_initializers(graph, constants)
}

/// Replaces the nodes that produce the values of `constants` by initializers.
fn replace_by_initializers(
    graph: &mut Graph,
    mut constants: HashMap<String, TensorProto>,
) -> Result<()> {
    graph.edit(|proto| {
        let mut initializers = Vec::new();
        proto.node.retain(|node| {
            let constant = node.output.first().and_then(|name| constants.remove(name));
            let keep = constant.is_none();
            initializers.extend(constant);
            keep
        });
        proto.initializer.extend(initializers);
    })
}

/// Evaluates Transpose, Reshape, Squeeze and Unsqueeze of FLOAT constants.
fn fold_constants(graph: &mut Graph, removed: &mut Vec<String>) -> Result<()> {
    let shapes = Shapes::infer(graph, &[])?;
    let mut folded: HashMap<String, TensorProto> = HashMap::new();
    // Limits the bytes that are copied: a chain of these nodes on one weight must not multiply it.
    let bytes = |tensor: &TensorProto| tensor.raw_data().len() + 4 * tensor.float_data.len();
    let mut left = 2 * graph.proto().initializer.iter().map(bytes).sum::<usize>();
    for node in graph.nodes() {
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else {
            continue;
        };
        if !matches!(node.op(), "Transpose" | "Reshape" | "Squeeze" | "Unsqueeze")
            || graph.is_output(output)
        {
            continue;
        }
        // The input may be the output of another folded node.
        let constant = folded.get(input).or_else(|| graph.initializer(input));
        let constant = constant.filter(|t| t.data_type() == element::FLOAT);
        let (Some(constant), Some(dims)) = (constant, shapes.get(output)) else {
            continue;
        };
        let Some(rest) = left.checked_sub(bytes(constant)) else {
            continue;
        };
        left = rest;
        let mut array = tensor::array(graph.path(), constant)?;
        if node.op() == "Transpose" {
            let perm = shapes::permutation(node, array.ndim())?;
            array = array.permuted_axes(perm);
        }
        let array = array
            .to_shape(dims)
            .map_err(|e| node.error(format!("its input does not have shape {dims:?}: {e}")))?;
        folded.insert(output.to_owned(), tensor::from_array(output, &array));
        removed.push(node.describe());
    }
    replace_by_initializers(graph, folded)
}

/// Names that replace others.
#[derive(Default)]
struct Renames {
    /// From a copy to its source.
    copies: HashMap<String, String>,
    /// From a value to the graph output that was a copy of it.
    outputs: HashMap<String, String>,
}

impl Renames {
    fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        let source = self.copies.get(name).map_or(name, String::as_str);
        self.outputs.get(source).map_or(source, String::as_str)
    }
}

fn drop_copies(graph: &mut Graph, removed: &mut Vec<String>) -> Result<()> {
    let types = element_types(graph)?;
    let mut renames = Renames::default();
    let mut dropped = HashSet::new();
    for node in graph.nodes() {
        let Some(source) = copied(graph, node, &types, &renames)? else {
            continue;
        };
        let output = node.need_output()?;
        let source = renames.copies.get(source).map_or(source, String::as_str);
        if graph.is_output(output) {
            let nameable = graph.producer(source).is_some() && !graph.is_output(source);
            if !nameable || renames.outputs.contains_key(source) {
                continue;
            }
            renames.outputs.insert(source.to_owned(), output.to_owned());
        } else {
            renames.copies.insert(output.to_owned(), source.to_owned());
        }
        removed.push(node.describe());
        dropped.insert(output.to_owned());
    }
    graph.edit(|proto| {
        let is_dropped = |n: &NodeProto| n.output.first().is_some_and(|o| dropped.contains(o));
        proto.node.retain(|node| !is_dropped(node));
        for node in &mut proto.node {
            for name in node.input.iter_mut().chain(&mut node.output) {
                *name = renames.resolve(name).to_owned();
            }
        }
    })
}

/// The value that `node` copies, if it computes nothing.
fn copied<'a>(
    graph: &'a Graph,
    node: Node<'a>,
    types: &HashMap<String, i32>,
    renames: &Renames,
) -> Result<Option<&'a str>> {
    let Some(input) = node.input(0) else {
        return Ok(None);
    };
    let producer = |value: &str| {
        let source = renames.copies.get(value).map_or(value, String::as_str);
        graph.producer(source)
    };
    Ok(match node.op() {
        "Identity" => Some(input),
        "Concat" if node.proto.input.len() == 1 => Some(input),
        "Dropout" => {
            let training = match node.input(2) {
                Some(flag) => graph.integers(flag)?.is_none_or(|t| t.data != [0]),
                None => false,
            };
            let mask_used = node.output(1).is_some_and(|mask| graph.uses(mask) > 0);
            (!training && !mask_used).then_some(input)
        }
        "Cast" => {
            let to = node.int("to", 0)?;
            let type_of = |value: &str| types.get(value).copied();
            let is_target = |value: &str| type_of(value).map(i64::from) == Some(to);
            match producer(input) {
                _ if is_target(input) => Some(input),
                // Back to the original type, through one that holds every value.
                Some(first) if first.op() == "Cast" => first.input(0).filter(|source| {
                    let through = type_of(source).zip(type_of(input));
                    is_target(source) && through.is_some_and(|(from, to)| element::holds(from, to))
                }),
                _ => None,
            }
        }
        "Transpose" => match producer(input) {
            Some(first) if first.op() == "Transpose" => {
                let (Some(p), Some(q)) = (first.ints("perm")?, node.ints("perm")?) else {
                    return Ok(None);
                };
                let p = shapes::permutation(first, p.len())?;
                let q = shapes::permutation(node, q.len())?;
                let restored =
                    p.len() == q.len() && q.iter().enumerate().all(|(i, &a)| p.get(a) == Some(&i));
                if restored { first.input(0) } else { None }
            }
            _ => None,
        },
        _ => None,
    })
}

/// The known element types of values (see [`tensor::element`]).
pub(super) fn element_types(graph: &Graph) -> Result<HashMap<String, i32>> {
    let mut types = HashMap::new();
    for input in graph.inputs()? {
        types.insert(input.name, input.element);
    }
    for tensor in &graph.proto().initializer {
        types.insert(tensor.name().to_owned(), tensor.data_type());
    }
    for node in graph.nodes() {
        let input = |i: usize| node.input(i).and_then(|name| types.get(name)).copied();
        let element = match node.op() {
            "Cast" => i32::try_from(node.int("to", 0)?).ok(),
            "Shape" => Some(element::INT64),
            "Equal" | "Greater" | "Less" | "Not" | "And" | "Or" => Some(element::BOOL),
            "Where" | "DequantizeLinear" => input(1),
            "QuantizeLinear" => input(2),
            // Attributes set their types.
            "Constant" | "ConstantOfShape" | "" => None,
            _ => input(0),
        };
        if let (Some(element), Some(output)) = (element.filter(|&e| e != 0), node.output(0)) {
            types.insert(output.to_owned(), element);
        }
    }
    Ok(types)
}

fn fold_pads(graph: &mut Graph, removed: &mut Vec<String>) -> Result<()> {
    // From the output of a Pad to its input and its top, left, bottom and right.
    let mut pads: HashMap<String, (String, [i64; 4])> = HashMap::new();
    for node in graph.nodes().filter(|n| n.op() == "Pad") {
        let (input, output) = (node.need_input(0)?, node.need_output()?);
        let Some(zeros) = zero_pad(graph, node)? else {
            continue;
        };
        let into_conv = |user: Node<'_>| {
            user.op() == "Conv"
                && user.input(0) == Some(output)
                && user.input(1) != Some(output)
                && matches!(
                    user.string("auto_pad", "NOTSET"),
                    Ok("" | "NOTSET" | "VALID")
                )
                && user
                    .ints("pads")
                    .is_ok_and(|p| p.is_none_or(|p| p.len() == 4))
        };
        if !graph.is_output(output) && graph.consumers(output).all(into_conv) {
            removed.push(node.describe());
            pads.insert(output.to_owned(), (input.to_owned(), zeros));
        }
    }
    graph.edit(|proto: &mut GraphProto| {
        for node in &mut proto.node {
            if node.op_type() != "Conv" {
                continue;
            }
            let Some(input) = node.input.first_mut() else {
                continue;
            };
            if let Some((source, zeros)) = pads.get(input) {
                *input = source.clone();
                add_pads(node, zeros);
            }
        }
    })
}

/// Top, left, bottom and right of a Pad with zeros on the last two of four axes; `None` for other Pads.
fn zero_pad(graph: &Graph, node: Node<'_>) -> Result<Option<[i64; 4]>> {
    let value_is_zero = match node.input(2) {
        Some(value) => graph.floats(value)?.is_some_and(|t| t.data == [0.0]),
        None => node.float("value", 0.0)? == 0.0,
    };
    if !value_is_zero || node.string("mode", "constant")? != "constant" || node.input(3).is_some() {
        return Ok(None);
    }
    let pads = match (node.ints("pads")?, node.input(1)) {
        (Some(pads), _) => Some(pads.to_vec()),
        (None, Some(input)) => graph.integers(input)?.map(|t| t.data),
        (None, None) => None,
    };
    Ok(match pads.as_deref() {
        Some(&[0, 0, top, left, 0, 0, bottom, right]) => {
            let all = [top, left, bottom, right];
            all.iter().all(|n| (0..1 << 16).contains(n)).then_some(all)
        }
        _ => None,
    })
}

fn add_pads(node: &mut NodeProto, zeros: &[i64; 4]) {
    node.attribute.retain(|a| a.name() != "auto_pad");
    match node.attribute.iter_mut().find(|a| a.name() == "pads") {
        Some(pads) => {
            for (pad, more) in pads.ints.iter_mut().zip(zeros) {
                *pad = pad.saturating_add(*more);
            }
        }
        None => node.attribute.push(make::ints("pads", zeros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::onnx::tensor::{from_floats, from_integers};
    use crate::build::testing::{data, graph, int, ints, node, ops};

    #[test]
    fn copies_are_removed_and_the_outputs_name_stays() {
        let mut cast = node("Cast", &["b"], "c");
        int(&mut cast, "to", 1);
        let nodes = vec![
            node("Relu", &["x"], "a"),
            node("Identity", &["a"], "b"),
            cast,
            node("Sigmoid", &["c"], "d"),
            node("Dropout", &["d"], "out"),
        ];
        let mut graph = graph(nodes, vec![]);
        assert_eq!(simplify(&mut graph).unwrap().len(), 3);
        assert_eq!(ops(&graph), ["Relu", "Sigmoid"]);
        assert_eq!(graph.producer("out").unwrap().input(0), Some("a"));
    }

    #[test]
    fn a_copy_of_the_input_stays_an_output() {
        let mut graph = graph(vec![node("Identity", &["x"], "out")], vec![]);
        assert!(simplify(&mut graph).unwrap().is_empty());
        assert_eq!(ops(&graph), ["Identity"]);
    }

    #[test]
    fn a_cast_to_another_type_and_a_training_dropout_stay() {
        let mut cast = node("Cast", &["x"], "a");
        int(&mut cast, "to", 10);
        let mut training = from_integers("t", &[], &[1]);
        training.data_type = Some(element::BOOL);
        training.raw_data = Some(vec![1].into());
        let nodes = vec![cast, node("Dropout", &["a", "", "t"], "out")];
        let mut graph = graph(nodes, vec![training]);
        assert!(simplify(&mut graph).unwrap().is_empty());
    }

    #[test]
    fn casts_back_to_the_original_type_are_removed_if_they_lose_nothing() {
        for (through, folded) in [
            (element::DOUBLE, true),
            (element::FLOAT16, false),
            (element::BFLOAT16, false),
            (element::INT64, false),
        ] {
            let cast = |from: &str, to: &str, element: i32| {
                let mut cast = node("Cast", &[from], to);
                int(&mut cast, "to", element.into());
                cast
            };
            let nodes = vec![
                cast("x", "a", through),
                node("Identity", &["a"], "b"),
                cast("b", "c", element::FLOAT),
                node("Relu", &["c"], "out"),
            ];
            let mut graph = graph(nodes, vec![]);
            simplify(&mut graph).unwrap();
            let expected: &[&str] = if folded {
                &["Relu"]
            } else {
                &["Cast", "Cast", "Relu"]
            };
            assert_eq!(ops(&graph), expected, "{}", element::name(through));
        }
    }

    #[test]
    fn transposes_of_constants_are_evaluated() {
        let mut transpose = node("Transpose", &["w"], "wt");
        ints(&mut transpose, "perm", &[2, 0, 1]);
        let values: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let tensors = vec![from_floats("w", &[2, 3, 4], &values)];
        let mut graph = graph(
            vec![transpose, node("MatMul", &["x", "wt"], "out")],
            tensors,
        );
        simplify(&mut graph).unwrap();
        assert_eq!(ops(&graph), ["MatMul"]);
        let tensor = graph.floats("wt").unwrap().unwrap();
        assert_eq!(tensor.dims, [4, 2, 3]);
        // numpy: np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).ravel()
        let expected = [
            0, 4, 8, 12, 16, 20, 1, 5, 9, 13, 17, 21, 2, 6, 10, 14, 18, 22, 3, 7, 11, 15, 19, 23,
        ];
        assert_eq!(tensor.data, expected.map(|v: u8| f32::from(v)));
    }

    #[test]
    fn zero_pads_are_merged_into_convolutions_and_others_stay() {
        for (value, folded) in [(0.0, true), (1.0, false)] {
            let mut conv = node("Conv", &["p", "w"], "out");
            ints(&mut conv, "pads", &[1, 0, 0, 2]);
            let tensors = vec![
                from_integers("pads", &[8], &[0, 0, 1, 2, 0, 0, 3, 4]),
                from_floats("value", &[], &[value]),
                from_floats("w", &[1, 1, 1, 1], &[1.0]),
            ];
            let pad = node("Pad", &["x", "pads", "value"], "p");
            let mut graph = graph(vec![pad, conv], tensors);
            simplify(&mut graph).unwrap();
            let conv = graph.producer("out").unwrap();
            let expected = if folded { [2, 2, 3, 6] } else { [1, 0, 0, 2] };
            assert_eq!(conv.ints("pads").unwrap(), Some(&expected[..]));
            assert_eq!(ops(&graph).contains(&"Pad"), !folded);
        }
    }

    #[test]
    fn unused_nodes_are_removed() {
        let nodes = vec![
            node("Add", &["x", "c"], "unused"),
            node("Relu", &["x"], "out"),
        ];
        let mut graph = graph(nodes, vec![from_floats("c", &[1], &[1.0])]);
        assert_eq!(data(&graph, "c"), [1.0]);
        simplify(&mut graph).unwrap();
        assert_eq!(ops(&graph), ["Relu"]);
        assert!(graph.proto().initializer.is_empty());
    }
}
