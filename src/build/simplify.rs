//! Removes the nodes of a graph that compute nothing, as exporters leave them.
//!
//! - Constant nodes become initializers, and so do the results of nodes that rearrange, repeat or convert constants,
//!   such as the zero bias that an export without optimisation expands for each convolution.
//! - Identity, Dropout, Concat of one value, Cast and CastLike to the same type, and Casts and Transposes that
//!   cancel out are removed. Casts through a narrower type stay, because they round.
//! - Zero Pads are merged into the convolutions after them.

use std::collections::{HashMap, HashSet};

use ndarray::ArrayD;

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
    // First, so that a constant behind a copy is seen as one.
    drop_copies(graph, &mut removed)?;
    fold_constants(graph, &mut removed)?;
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
pub(super) fn replace_by_initializers(
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

/// Evaluates the nodes that make a FLOAT value from constants alone.
fn fold_constants(graph: &mut Graph, removed: &mut Vec<String>) -> Result<()> {
    let shapes = Shapes::infer(graph, &[])?;
    let types = element_types(graph)?;
    let mut folded: HashMap<String, TensorProto> = HashMap::new();
    // Limits the bytes that are made: a chain of these nodes on one weight must not multiply it.
    let bytes = |tensor: &TensorProto| tensor.raw_data().len() + 4 * tensor.float_data.len();
    let mut left = 2 * graph.proto().initializer.iter().map(bytes).sum::<usize>();
    for node in graph.nodes() {
        let Some(output) = node.output(0).filter(|output| !graph.is_output(output)) else {
            continue;
        };
        let is_float = types.get(output) == Some(&element::FLOAT);
        let (Some(dims), true) = (shapes.get(output), is_float) else {
            continue;
        };
        let size = dims
            .iter()
            .try_fold(4_usize, |size, &n| size.checked_mul(n));
        let Some(rest) = size.and_then(|size| left.checked_sub(size)) else {
            continue;
        };
        // The input may be the output of another folded node.
        let constant = |name| folded.get(name).or_else(|| graph.initializer(name));
        let ints =
            |name: &&str| matches!(types.get(*name), Some(&(element::INT32 | element::INT64)));
        let input = Input {
            constant: node.input(0).and_then(constant),
            ints: node
                .input(0)
                .filter(ints)
                .and_then(|name| shapes.ints(name)),
        };
        if let Some(array) = evaluated(graph, node, input, dims)? {
            left = rest;
            folded.insert(output.to_owned(), tensor::from_array(output, &array));
            removed.push(node.describe());
        }
    }
    replace_by_initializers(graph, folded)
}

/// What is known of a node's first input.
struct Input<'a> {
    constant: Option<&'a TensorProto>,
    /// The elements of a few integers.
    ints: Option<&'a [i64]>,
}

/// The FLOAT output of `node`, whose shape is `dims`, if it follows from its first input.
fn evaluated(
    graph: &Graph,
    node: Node<'_>,
    input: Input<'_>,
    dims: &[usize],
) -> Result<Option<ArrayD<f32>>> {
    let path = graph.path();
    let misfit = |_| node.error(format!("its input does not have shape {dims:?}"));
    let array = match (node.op(), input.constant, input.ints) {
        ("ConstantOfShape", ..) => {
            let fill = node.tensor("value")?;
            let fill = fill.map(|fill| tensor::floats(path, fill)).transpose()?;
            let fill = fill.map_or(Some(0.0), |fill| fill.data.first().copied());
            return Ok(fill.map(|fill| ArrayD::from_elem(dims, fill)));
        }
        ("Cast" | "CastLike", _, Some(ints)) => {
            let floats = ints.iter().map(|&v| v as f32).collect();
            let array = ArrayD::from_shape_vec(dims, floats).map_err(misfit)?;
            return Ok(Some(array));
        }
        (
            "Cast" | "CastLike" | "Transpose" | "Reshape" | "Squeeze" | "Unsqueeze" | "Expand",
            Some(constant),
            _,
        ) if element::is_float(constant.data_type()) => tensor::array(path, constant)?,
        _ => return Ok(None),
    };
    Ok(Some(match node.op() {
        "Transpose" => {
            let perm = shapes::permutation(node, array.ndim())?;
            array.permuted_axes(perm)
        }
        "Reshape" | "Squeeze" | "Unsqueeze" => array.into_shape_with_order(dims).map_err(misfit)?,
        "Expand" => match array.broadcast(dims) {
            Some(array) => array.to_owned(),
            None => return Ok(None),
        },
        // The elements are floats already.
        _ => array,
    }))
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
        "CastLike" => {
            let like = node.input(1).and_then(|like| types.get(like));
            (like.is_some() && types.get(input) == like).then_some(input)
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
            "Where" | "DequantizeLinear" | "CastLike" => input(1),
            "QuantizeLinear" => input(2),
            // Attributes set their types.
            "ConstantOfShape" => {
                let value = node.tensor("value")?;
                Some(value.map_or(element::FLOAT, |value| value.data_type()))
            }
            "Constant" | "" => None,
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
    use crate::build::onnx::proto::AttributeProto;
    use crate::build::onnx::tensor::{from_floats, from_halves, from_integers};
    use crate::build::testing::{data, graph, int, ints, node, ops, shaped};

    #[test]
    fn copies_are_removed_and_the_outputs_name_stays() {
        let mut cast = node("Cast", &["b"], "c");
        int(&mut cast, "to", 1);
        let nodes = vec![
            node("Relu", &["x"], "a"),
            node("Identity", &["a"], "b"),
            cast,
            node("CastLike", &["c", "x"], "like"),
            node("Sigmoid", &["like"], "d"),
            node("Dropout", &["d"], "out"),
        ];
        let mut graph = graph(nodes, vec![]);
        assert_eq!(simplify(&mut graph).unwrap().len(), 4);
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

    /// The bias of a convolution as `torch.onnx.export(dynamo=True, optimize=False)` writes it.
    fn expanded_bias(zero: TensorProto, expand: [&str; 2]) -> Vec<NodeProto> {
        let mut shape = node("Shape", &["w"], "shape");
        shape.attribute = vec![make::int("start", 0), make::int("end", 1)];
        let mut constant = node("Constant", &[], "zero");
        constant.attribute.push(AttributeProto {
            name: Some("value".into()),
            r#type: Some(4),
            t: Some(Box::new(zero)),
            ..Default::default()
        });
        vec![
            shape,
            node("Expand", &["shape", "one"], "channels"),
            constant,
            node("CastLike", &["zero", "x"], "like"),
            node("Expand", &expand, "bias"),
            node("Conv", &["x", "w", "bias"], "out"),
        ]
    }

    #[test]
    fn biases_that_are_expanded_from_one_number_are_evaluated() {
        for zero in [
            from_floats("", &[], &[0.5]),
            from_halves("", &[], &[0.5]),
            from_floats("", &[1, 1], &[0.5]),
        ] {
            let dims: &[usize] = if zero.dims.is_empty() { &[3] } else { &[1, 3] };
            let tensors = vec![
                from_floats("w", &[3, 2, 1, 1], &[1.0; 6]),
                from_integers("one", &[1], &[1]),
            ];
            let nodes = expanded_bias(zero, ["like", "channels"]);
            let mut graph = shaped(nodes, tensors, Some(&[1, 2, 4, 4]));
            simplify(&mut graph).unwrap();
            assert_eq!(ops(&graph), ["Conv"]);
            let bias = graph.floats("bias").unwrap().unwrap();
            assert_eq!((&bias.dims[..], bias.data), (dims, vec![0.5; 3]));
        }
    }

    #[test]
    fn integers_become_floats() {
        let tensors = vec![
            from_floats("w", &[3, 2, 1, 1], &[1.0; 6]),
            from_integers("one", &[1], &[1]),
        ];
        let nodes = expanded_bias(from_integers("", &[1], &[-7]), ["like", "channels"]);
        let mut graph = shaped(nodes, tensors, Some(&[1, 2, 4, 4]));
        simplify(&mut graph).unwrap();
        assert_eq!(ops(&graph), ["Conv"]);
        assert_eq!(data(&graph, "bias"), [-7.0; 3]);
    }

    #[test]
    fn constants_are_made_from_shapes() {
        for (value, expected) in [(None, 0.0), (Some(from_floats("", &[1], &[2.5])), 2.5)] {
            let mut fill = node("ConstantOfShape", &["channels"], "bias");
            fill.attribute.extend(value.map(|value| AttributeProto {
                name: Some("value".into()),
                r#type: Some(4),
                t: Some(Box::new(value)),
                ..Default::default()
            }));
            let nodes = vec![
                node("Shape", &["w"], "shape"),
                node("Gather", &["shape", "first"], "channels"),
                fill,
                node("Conv", &["x", "w", "bias"], "out"),
            ];
            let tensors = vec![
                from_floats("w", &[3, 2, 1, 1], &[1.0; 6]),
                from_integers("first", &[1], &[0]),
            ];
            let mut graph = graph(nodes, tensors);
            simplify(&mut graph).unwrap();
            assert_eq!(ops(&graph), ["Conv"]);
            assert_eq!(data(&graph, "bias"), [expected; 3]);
        }
    }

    #[test]
    fn what_depends_on_the_input_or_would_explode_stays() {
        let tensors = || {
            vec![
                from_floats("w", &[3, 2, 1, 1], &[1.0; 6]),
                from_integers("one", &[1], &[1]),
                from_integers("huge", &[2], &[1 << 30, 1 << 30]),
            ]
        };
        for expand in [["x", "one"], ["like", "huge"]] {
            let nodes = expanded_bias(from_floats("", &[], &[0.5]), expand);
            let mut graph = shaped(nodes, tensors(), Some(&[1, 2, 4, 4]));
            simplify(&mut graph).unwrap();
            assert!(ops(&graph).contains(&"Expand"), "{expand:?}");
        }
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
