//! FP16 + Q/DQ: the strongly typed form, for TensorRT 10 (`kSTRONGLY_TYPED`) and 11.
//!
//! Every FLOAT value inside the graph becomes FLOAT16; inputs and outputs stay FLOAT behind a Cast. So
//! the types in the file are those that the engine computes in, and no precision flag is needed.
//!
//! QuantizeLinear's scale must have the type of its data and DequantizeLinear's output has the type of
//! its scale, so scales are FLOAT16, too (operator set 19). A half has 11 bits of precision from 2⁻¹⁴ on
//! and fewer below:
//! - an activation's scale must be in 2⁻¹⁴ ..= 65504, else its range would be off by more than rounding;
//! - a weight's scale that is smaller is rounded up, and its codes are made anew for the rounded scale,
//!   so that the values stay the same to half a code;
//! - other constants are rounded, and must not be larger than 65504.

use std::collections::{HashMap, HashSet};

use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::tensor::{self, element, f32_to_half, half_to_f32};
use super::onnx::{Graph, Node, make, opset};
use super::simplify::{element_types, simplify};
use super::{BuildError, Result};

/// The largest half.
const LARGEST: f32 = 65504.0;
/// The smallest half of full precision, 2⁻¹⁴.
const SMALLEST_NORMAL: f32 = 1.0 / (1 << 14) as f32;

/// Operators whose floats all have one type, so that halves may take the place of floats.
const OPERATORS: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Flatten",
    "Gemm",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "QuantizeLinear",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// Makes FP16 + Q/DQ of a graph in FP32, quantised or not.
///
/// # Errors
/// - [`BuildError::Tensor`] for a constant that no half can hold, or a scale that none holds precisely.
/// - [`BuildError::Operator`] for an operator that may need floats, [`BuildError::Node`] for one that
///   would mean something else in operator set 19.
pub fn strongly_typed(graph: &Graph) -> Result<Graph> {
    // Cheap: the weights are shared.
    let mut graph = graph.clone();
    simplify(&mut graph)?;
    if let Some(node) = graph.nodes().find(|n| !OPERATORS.contains(&n.op())) {
        return Err(BuildError::Operator {
            path: graph.path().to_path_buf(),
            node: node.describe(),
            supported: OPERATORS.join(", "),
        });
    }
    if graph.nodes().any(|n| n.op() == "QuantizeLinear") {
        opset::raise(&mut graph, 19)?;
    }
    let types = element_types(&graph)?;
    let is_float = |value: &str| types.get(value) == Some(&element::FLOAT);
    let mut halves = Halves::default();
    for node in graph.nodes().filter(|n| n.op() == "DequantizeLinear") {
        halves.weight(&graph, node)?;
    }
    let scales: HashSet<&str> = graph
        .nodes()
        .filter(|n| matches!(n.op(), "QuantizeLinear" | "DequantizeLinear"))
        .filter_map(|n| n.input(1))
        .collect();
    for tensor in &graph.proto().initializer {
        let name = tensor.name();
        if tensor.data_type() == element::FLOAT && !halves.tensors.contains_key(name) {
            halves.constant(&graph, tensor, scales.contains(name))?;
        }
    }
    let mut first = Vec::new();
    for input in graph.inputs()?.iter().filter(|v| is_float(&v.name)) {
        let half = graph.fresh_name(&format!("{}_half", input.name));
        first.push(cast(&input.name, &half, element::FLOAT16));
        halves.reads.insert(input.name.clone(), half);
    }
    let mut last = Vec::new();
    for output in graph.outputs()? {
        if is_float(&output.name) && graph.producer(&output.name).is_some() {
            let half = graph.fresh_name(&format!("{}_half", output.name));
            last.push(cast(&half, &output.name, element::FLOAT));
            halves.reads.insert(output.name.clone(), half.clone());
            halves.makes.insert(output.name.clone(), half);
        }
    }
    halves.apply(&mut graph, first, last)?;
    Ok(graph)
}

fn cast(from: &str, to: &str, element: i32) -> NodeProto {
    let mut node = make::node("Cast", &format!("{to}_Cast"), &[from], to);
    node.attribute = vec![make::int("to", element.into())];
    node
}

/// The changes to a graph.
#[derive(Default)]
struct Halves {
    /// Changed initializers by name.
    tensors: HashMap<String, TensorProto>,
    /// What is read instead of a value.
    reads: HashMap<String, String>,
    /// What is made instead of a value.
    makes: HashMap<String, String>,
}

impl Halves {
    /// The scales of INT8 weights, with codes that fit them.
    fn weight(&mut self, graph: &Graph, node: Node<'_>) -> Result<()> {
        let (codes_name, scales_name) = (node.need_input(0)?, node.need_input(1)?);
        let (Some(codes), Some(scales)) = (
            graph.initializer(codes_name),
            graph.initializer(scales_name),
        ) else {
            return Ok(());
        };
        let alone = graph.uses(codes_name) == 1 && graph.uses(scales_name) == 1;
        if codes.data_type() != element::INT8 || scales.data_type() != element::FLOAT || !alone {
            return Ok(());
        }
        let (codes, scales) = (
            tensor::integers(graph.path(), codes)?,
            tensor::floats(graph.path(), scales)?,
        );
        check(graph, scales_name, &scales.data, 0.0)?;
        let rounded: Vec<f32> = scales.data.iter().map(|&s| weight_scale(s)).collect();
        self.tensors.insert(
            scales_name.to_owned(),
            tensor::from_halves(scales_name, &scales.dims, &rounded),
        );
        if scales.data.iter().all(|&s| s >= SMALLEST_NORMAL) {
            return Ok(());
        }
        let rank = codes.dims.len();
        let axis = super::onnx::shapes::axis(node, node.int("axis", 1)?, rank)?;
        let inner: usize = codes.dims.iter().skip(axis + 1).product();
        let code = |(i, &code): (usize, &i64)| {
            let channel = i / inner.max(1) % scales.data.len().max(1);
            let at = |all: &[f32]| all.get(channel).copied().unwrap_or(1.0);
            let (old, new) = (at(&scales.data), at(&rounded));
            if old >= SMALLEST_NORMAL {
                return code as i8;
            }
            // The rounded scale is the larger one: no code grows.
            (code as f32 * (old / new)).round_ties_even() as i8
        };
        let codes_again: Vec<i8> = codes.data.iter().enumerate().map(code).collect();
        self.tensors.insert(
            codes_name.to_owned(),
            tensor::from_codes(codes_name, &codes.dims, &codes_again),
        );
        Ok(())
    }

    /// A FLOAT initializer.
    fn constant(&mut self, graph: &Graph, tensor: &TensorProto, is_scale: bool) -> Result<()> {
        let name = tensor.name();
        let values = tensor::floats(graph.path(), tensor)?;
        let least = if is_scale { SMALLEST_NORMAL } else { 0.0 };
        check(graph, name, &values.data, least)?;
        let half = tensor::from_halves(name, &values.dims, &values.data);
        self.tensors.insert(name.to_owned(), half);
        Ok(())
    }

    fn apply(
        mut self,
        graph: &mut Graph,
        first: Vec<NodeProto>,
        last: Vec<NodeProto>,
    ) -> Result<()> {
        graph.edit(|proto| {
            for node in &mut proto.node {
                for (names, instead) in [
                    (&mut node.input, &self.reads),
                    (&mut node.output, &self.makes),
                ] {
                    for name in names {
                        if let Some(half) = instead.get(name) {
                            name.clone_from(half);
                        }
                    }
                }
                if node.op_type() == "Cast" {
                    let to = node.attribute.iter_mut().filter(|a| a.name() == "to");
                    for attribute in to.filter(|a| a.i == Some(element::FLOAT.into())) {
                        attribute.i = Some(element::FLOAT16.into());
                    }
                }
            }
            proto.node.splice(0..0, first);
            proto.node.extend(last);
            for tensor in &mut proto.initializer {
                if let Some(half) = self.tensors.remove(tensor.name()) {
                    *tensor = half;
                }
            }
            // Types of inner values, and of initializers that are declared as inputs, were the old ones.
            proto.value_info.clear();
            let constants: HashSet<&str> = proto.initializer.iter().map(|t| t.name()).collect();
            proto.input.retain(|v| !constants.contains(v.name()));
        })?;
        graph.prune()
    }
}

/// The half for a weight's scale: the nearest, and among those of less precision the next larger one.
fn weight_scale(scale: f32) -> f32 {
    let nearest = half_to_f32(f32_to_half(scale));
    match scale < SMALLEST_NORMAL && nearest < scale {
        true => half_to_f32(f32_to_half(scale) + 1),
        false => nearest,
    }
}

/// Checks that halves can hold values: finite, not too large, and of magnitude `least` or more.
fn check(graph: &Graph, name: &str, values: &[f32], least: f32) -> Result<()> {
    // What rounds to 65504 is not too large.
    let fits = |v: f32| v.abs() < LARGEST + 16.0 && v.abs() >= least;
    let Some(bad) = values.iter().find(|v| !fits(**v)) else {
        return Ok(());
    };
    let what = match least > 0.0 {
        true => format!(
            "the scale is {bad}, a FLOAT16 scale is from {SMALLEST_NORMAL:e} to {LARGEST}; leave the \
             layers that read it in float (`skip`)"
        ),
        false => format!("has the value {bad}, FLOAT16 holds -{LARGEST} to {LARGEST}"),
    };
    Err(BuildError::Tensor {
        path: graph.path().to_path_buf(),
        tensor: name.to_owned(),
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::onnx::tensor::{from_codes, from_floats};
    use crate::build::quantize::{Placement, points, quantize};
    use crate::build::testing::{data, int, node, ops, shaped};

    /// x ─ Conv a ─ Relu ─ Conv b ─ BatchNormalization ─ out, of which `skip` stays in float.
    fn quantised(skip: &[&str], amax: f32, weight: f32) -> Graph {
        let nodes = vec![
            node("Conv", &["x", "a.weight", "a.bias"], "y"),
            node("Relu", &["y"], "r"),
            node("Conv", &["r", "b.weight"], "z"),
            node("BatchNormalization", &["z", "s", "s", "s", "s"], "out"),
        ];
        let tensors = vec![
            from_floats("a.weight", &[2, 2, 1, 1], &[weight; 4]),
            from_floats("a.bias", &[2], &[0.1, 0.2]),
            from_floats("b.weight", &[2, 2, 1, 1], &[0.1; 4]),
            from_floats("s", &[2], &[0.3; 2]),
        ];
        let mut graph = shaped(nodes, tensors, Some(&[1, 2, 4, 4]));
        // A declared output has a type.
        graph
            .edit(|proto| proto.output[0].r#type = proto.input[0].r#type.clone())
            .unwrap();
        let placement = Placement {
            skip: skip.iter().map(|&s| s.to_owned()).collect(),
            ..Placement::default()
        };
        let ranges = points(&graph, &placement).unwrap();
        let ranges = ranges.into_iter().map(|v| (v, amax)).collect();
        quantize(&graph, &ranges, &placement).unwrap().graph
    }

    /// The values of this type.
    fn values(graph: &Graph, element: i32) -> Vec<String> {
        let types = element_types(graph).unwrap();
        let mut found: Vec<String> = types
            .into_iter()
            .filter(|(_, t)| *t == element)
            .map(|(v, _)| v)
            .collect();
        found.sort();
        found
    }

    #[test]
    fn only_inputs_and_outputs_are_floats() {
        for skip in [&[][..], &["a"], &["a", "b"]] {
            let graph = quantised(skip, 1.0, 0.5);
            let half = strongly_typed(&graph).unwrap();
            assert_eq!(values(&half, element::FLOAT), ["out", "x"], "{skip:?}");
            let all_ops = ops(&half);
            assert_eq!((all_ops[0], all_ops.last()), ("Cast", Some(&"Cast")));
            assert_eq!(half.opset(), if skip.len() == 2 { 13 } else { 19 });
            // Rounded, not cut: 0.1 is 0x2e66.
            assert_eq!(data(&half, "a.bias"), [0.099_975_586, 0.199_951_17]);
            let again = strongly_typed(&graph).unwrap();
            assert_eq!(half.to_model(), again.to_model());
        }
    }

    #[test]
    fn a_cast_to_float_becomes_one_to_half() {
        let mut to_int = node("Cast", &["x"], "i");
        int(&mut to_int, "to", element::INT32.into());
        let mut back = node("Cast", &["i"], "f");
        int(&mut back, "to", element::FLOAT.into());
        let nodes = vec![to_int, back, node("Relu", &["f"], "out")];
        let half = strongly_typed(&shaped(nodes, vec![], Some(&[1]))).unwrap();
        assert_eq!(values(&half, element::FLOAT), ["out", "x"]);
        assert_eq!(values(&half, element::INT32), ["i"]);
    }

    #[test]
    fn scales_and_constants_that_no_half_holds_are_named() {
        for (graph, needle) in [
            // Both tensors have a scale of 1e-3 / 127.
            (
                quantised(&[], 1e-3, 0.5),
                "tensor \"x_scale\": the scale is 0.00000787",
            ),
            (
                quantised(&[], 1e9, 0.5),
                "tensor \"x_scale\": the scale is 7874",
            ),
            (
                quantised(&[], 1.0, 1e8),
                "tensor \"a.weight_scale\": has the value 787",
            ),
            (
                quantised(&["a"], 1.0, 65520.0),
                "tensor \"a.weight\": has the value 65520",
            ),
            (
                quantised(&["a"], 1.0, f32::NAN),
                "tensor \"a.weight\": has the value NaN",
            ),
        ] {
            let message = strongly_typed(&graph).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
        }
        strongly_typed(&quantised(&["a"], 1.0, 65519.0)).unwrap();
    }

    #[test]
    fn small_weights_get_codes_for_the_scale_that_a_half_has() {
        for (weight, codes) in [(0.5, 127), (1e-3, 126), (1e-5, 84)] {
            let graph = quantised(&[], 1.0, weight);
            let half = strongly_typed(&graph).unwrap();
            let scale = data(&half, "a.weight_scale")[0];
            let found = half.integers("a.weight_quantized").unwrap().unwrap().data[0];
            assert_eq!(found, codes, "{weight}");
            let value = found as f32 * scale;
            assert!((value - weight).abs() <= scale * 0.51, "{weight}: {value}");
        }
    }

    #[test]
    fn per_channel_scales_keep_the_codes_of_the_other_channels() {
        let nodes = vec![node("Conv", &["x", "c.weight"], "out")];
        let weights = [0.5, 0.25, 1e-5, -1e-5];
        let tensors = vec![from_floats("c.weight", &[2, 2, 1, 1], &weights)];
        let graph = shaped(nodes, tensors, Some(&[1, 2, 4, 4]));
        let ranges = [("x".to_owned(), 1.0)].into();
        let made = quantize(&graph, &ranges, &Placement::default()).unwrap();
        let half = strongly_typed(&made.graph).unwrap();
        let codes = half.integers("c.weight_quantized").unwrap().unwrap();
        assert_eq!(codes.data, [127, 64, 84, -84]);
        let zeros = half.integers("c.weight_zero_point").unwrap().unwrap();
        assert_eq!(zeros.data, [0, 0]);
    }

    #[test]
    fn operators_that_need_floats_are_refused() {
        let nodes = vec![node("Resize", &["x"], "out")];
        let graph = shaped(nodes, vec![from_codes("z", &[], &[0])], Some(&[1]));
        let message = strongly_typed(&graph).unwrap_err().to_string();
        assert!(message.contains("\"Resize.out\" (Resize)"), "{message}");
    }
}
