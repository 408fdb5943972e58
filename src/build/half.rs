//! FP16 + Q/DQ: the strongly typed form of a network, for TensorRT 10 (`kSTRONGLY_TYPED`) and 11.
//!
//! All FLOAT values inside the graph become FLOAT16. The file then states the types that the engine
//! computes in, and no precision flags are needed. An [`Io`] sets the types of the input and the
//! outputs: FLOAT16 like the rest, FLOAT through a Cast, or for the input the INT8 codes that the first
//! layers read.
//!
//! The scale of a QuantizeLinear must have the type of its data, and the output of a DequantizeLinear
//! has the type of its scale, so scales are FLOAT16, too (operator set 19). A half has 11 bits of
//! precision down to 2⁻¹⁴, and fewer below:
//! - The scale of an activation must be in 2⁻¹⁴ ..= 65504, or its range would be off by more than
//!   rounding.
//! - A smaller scale of a weight is rounded up and the codes are recomputed for the new scale, which
//!   preserves the values to half a code.
//! - Other constants are rounded and must not exceed 65504.

mod border;

use std::collections::{HashMap, HashSet};

pub use border::Io;
use half::f16;
use ndarray::{ArrayD, Axis};

use super::onnx::make::put_initializers;
use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::tensor::{self, element};
use super::onnx::{Graph, Node, opset, shapes};
use super::simplify::{element_types, simplify};
use super::{BuildError, Result};
use crate::map::Element;

/// The largest half, 65504.
const LARGEST: f32 = f16::MAX.to_f32_const();
/// The smallest half with full precision, 2⁻¹⁴.
const SMALLEST_NORMAL: f32 = f16::MIN_POSITIVE.to_f32_const();

/// Operators whose floats all have one type, so they can become halves.
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

/// A strongly typed network.
#[derive(Clone, Debug)]
pub struct StronglyTyped {
    /// The network.
    pub graph: Graph,
    /// The value of code 1 of an INT8 input; `None` for other inputs.
    pub input_scale: Option<f32>,
}

/// Converts an FP32 graph, quantised or not, to FP16 + Q/DQ with the given input and output types.
///
/// # Errors
/// - [`BuildError::Tensor`] for a constant that is out of range for a half, or a scale that a half
///   cannot represent precisely.
/// - [`BuildError::Operator`] for an operator that may need floats, [`BuildError::Node`] for one whose
///   meaning changes in operator set 19, and for codes with a zero point.
/// - [`BuildError::Graph`] if the input or outputs cannot have these types.
pub fn strongly_typed(graph: &Graph, io: &Io) -> Result<StronglyTyped> {
    io.check(graph)?;
    // Cheap, because the weights are shared.
    let mut graph = graph.clone();
    simplify(&mut graph)?;
    if let Some(node) = graph.nodes().find(|n| !OPERATORS.contains(&n.op())) {
        return Err(node.unsupported(OPERATORS));
    }
    check_symmetric(&graph)?;
    if graph.nodes().any(|n| n.op() == "QuantizeLinear") {
        opset::raise(&mut graph, 19)?;
    }
    let input_scale = match io.input {
        Element::I8 => Some(border::read_codes(&mut graph)?),
        Element::F16 | Element::F32 => None,
    };
    let mut halves = Edits::default();
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
    halves.border(&graph, io)?;
    halves.apply(&mut graph)?;
    Ok(StronglyTyped { graph, input_scale })
}

/// Checks that all zero points are 0, as TensorRT demands.
fn check_symmetric(graph: &Graph) -> Result<()> {
    let pairs = ["QuantizeLinear", "DequantizeLinear"];
    for node in graph.nodes().filter(|n| pairs.contains(&n.op())) {
        if let Some(name) = node.input(2)
            && let Some(zeros) = graph.integers(name)?
            && let Some(zero) = zeros.data.iter().find(|zero| **zero != 0)
        {
            return Err(node.error(format!(
                "its zero point is {zero}, but TensorRT takes only codes with zero point 0; quantise symmetrically (ONNX \
                 Runtime: ActivationSymmetric, WeightSymmetric), or compile for the CPU"
            )));
        }
    }
    Ok(())
}

/// The edits to a graph.
#[derive(Default)]
struct Edits {
    /// Changed initializers by name.
    tensors: HashMap<String, TensorProto>,
    /// New names of values where nodes read them.
    reads: HashMap<String, String>,
    /// New names of values where nodes produce them.
    writes: HashMap<String, String>,
    /// Casts after inputs.
    first: Vec<NodeProto>,
    /// Casts before outputs.
    last: Vec<NodeProto>,
    /// Inputs and outputs that become halves.
    retyped: Vec<String>,
}

impl Edits {
    /// Converts the scales of an INT8 weight, and its codes to match.
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
        let axis = Axis(shapes::axis(node, node.int("axis", 1)?, codes.dims.len())?);
        let mut values = ArrayD::from_shape_vec(codes.dims, codes.data)
            .map_err(|e| node.error(format!("\"{codes_name}\": {e}")))?;
        let factors = scales.data.iter().zip(&rounded).cycle();
        for (mut channel, (&old, &new)) in values.axis_iter_mut(axis).zip(factors) {
            if old < SMALLEST_NORMAL {
                // The rounded scale is the larger one, so no code grows.
                channel.mapv_inplace(|code| (code as f32 * (old / new)).round_ties_even() as i64);
            }
        }
        let codes: Vec<i8> = values.iter().map(|&code| code as i8).collect();
        self.tensors.insert(
            codes_name.to_owned(),
            tensor::from_codes(codes_name, values.shape(), &codes),
        );
        Ok(())
    }

    /// Converts a FLOAT initializer.
    fn constant(&mut self, graph: &Graph, tensor: &TensorProto, is_scale: bool) -> Result<()> {
        let name = tensor.name();
        let values = tensor::floats(graph.path(), tensor)?;
        let least = if is_scale { SMALLEST_NORMAL } else { 0.0 };
        check(graph, name, &values.data, least)?;
        let half = tensor::from_halves(name, &values.dims, &values.data);
        self.tensors.insert(name.to_owned(), half);
        Ok(())
    }

    /// Converts the FLOAT inputs and outputs to halves, or connects them through Casts.
    fn border(&mut self, graph: &Graph, io: &Io) -> Result<()> {
        let types = element_types(graph)?;
        let is_float = |value: &str| types.get(value) == Some(&element::FLOAT);
        for input in graph.inputs()?.into_iter().filter(|v| is_float(&v.name)) {
            if io.input == Element::F32 {
                let half = graph.fresh_name(&format!("{}_half", input.name));
                self.first
                    .push(border::cast(&input.name, &half, element::FLOAT16));
                self.reads.insert(input.name, half);
            } else {
                self.retyped.push(input.name);
            }
        }
        for output in graph.outputs()?.into_iter().filter(|v| is_float(&v.name)) {
            if graph.producer(&output.name).is_none() {
                let what = format!("no node produces output \"{}\"", output.name);
                return Err(BuildError::graph(graph.path(), what));
            }
            if io.outputs == Element::F32 {
                let half = graph.fresh_name(&format!("{}_half", output.name));
                self.last
                    .push(border::cast(&half, &output.name, element::FLOAT));
                self.reads.insert(output.name.clone(), half.clone());
                self.writes.insert(output.name, half);
            } else {
                self.retyped.push(output.name);
            }
        }
        Ok(())
    }

    fn apply(self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            for node in &mut proto.node {
                for (names, instead) in [
                    (&mut node.input, &self.reads),
                    (&mut node.output, &self.writes),
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
            proto.node.splice(0..0, self.first);
            proto.node.extend(self.last);
            for value in proto.input.iter_mut().chain(&mut proto.output) {
                for name in &self.retyped {
                    border::retype(value, name, element::FLOAT16);
                }
            }
            put_initializers(proto, self.tensors.into_values());
            // Removes declarations with the old types, of inner values and of initializers.
            proto.value_info.clear();
            let constants: HashSet<&str> = proto.initializer.iter().map(|t| t.name()).collect();
            proto.input.retain(|v| !constants.contains(v.name()));
        })?;
        graph.prune()
    }
}

/// The half for a weight's scale: the nearest one, or the next larger one if it is subnormal.
fn weight_scale(scale: f32) -> f32 {
    let nearest = f16::from_f32(scale);
    if scale < SMALLEST_NORMAL && nearest.to_f32() < scale {
        f16::from_bits(nearest.to_bits() + 1).to_f32()
    } else {
        nearest.to_f32()
    }
}

/// Checks that values are finite, in the range of a half, and of magnitude `least` or more.
fn check(graph: &Graph, name: &str, values: &[f32], least: f32) -> Result<()> {
    // Values that round to 65504 are in range.
    let fits = |v: f32| v.abs() < LARGEST + 16.0 && v.abs() >= least;
    let Some(bad) = values.iter().find(|v| !fits(**v)) else {
        return Ok(());
    };
    let what = if least > 0.0 {
        format!(
            "the scale is {bad}, but a FLOAT16 scale must be from {SMALLEST_NORMAL:e} to {LARGEST}; \
             leave the layers that read it in float (`skip`)"
        )
    } else {
        format!("has the value {bad}, but FLOAT16 ranges from -{LARGEST} to {LARGEST}")
    };
    Err(BuildError::Tensor {
        path: graph.path().to_path_buf(),
        tensor: name.to_owned(),
        what,
    })
}

#[cfg(test)]
mod tests;
