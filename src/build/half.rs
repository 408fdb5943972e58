//! FP16 + Q/DQ: the strongly typed form, for TensorRT 10 (`kSTRONGLY_TYPED`) and 11.
//!
//! Every FLOAT value inside the graph becomes FLOAT16. So the types in the file are those that the engine
//! computes in, and no precision flag is needed. Inputs and outputs have the types of an [`Io`]: FLOAT16 as
//! everything else, FLOAT behind a Cast, and for the input also the INT8 codes that the first layers read.
//!
//! QuantizeLinear's scale must have the type of its data and DequantizeLinear's output has the type of
//! its scale, so scales are FLOAT16, too (operator set 19). A half has 11 bits of precision from 2⁻¹⁴ on
//! and fewer below:
//! - an activation's scale must be in 2⁻¹⁴ ..= 65504, else its range would be off by more than rounding;
//! - a weight's scale that is smaller is rounded up, and its codes are made anew for the rounded scale,
//!   so that the values stay the same to half a code;
//! - other constants are rounded, and must not be larger than 65504.

mod border;

use std::collections::{HashMap, HashSet};

pub use border::Io;

use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::tensor::{self, element, f32_to_half, half_to_f32};
use super::onnx::{Graph, Node, opset};
use super::simplify::{element_types, simplify};
use super::{BuildError, Result};
use crate::cuda::map::Element;

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

/// A strongly typed network.
#[derive(Clone, Debug)]
pub struct StronglyTyped {
    /// The network.
    pub graph: Graph,
    /// Value of code 1 of an INT8 input; `None` for other inputs.
    pub input_scale: Option<f32>,
}

/// Makes FP16 + Q/DQ of a graph in FP32, quantised or not, with the given types at its border.
///
/// # Errors
/// - [`BuildError::Tensor`] for a constant that no half can hold, or a scale that none holds precisely.
/// - [`BuildError::Operator`] for an operator that may need floats, [`BuildError::Node`] for one that
///   would mean something else in operator set 19.
/// - [`BuildError::Graph`] where the border cannot have these types.
pub fn strongly_typed(graph: &Graph, io: &Io) -> Result<StronglyTyped> {
    io.check(graph)?;
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
    let input_scale = match io.input {
        Element::I8 => Some(border::take_codes(&mut graph)?),
        Element::F16 | Element::F32 => None,
    };
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
    halves.border(&graph, io)?;
    halves.apply(&mut graph)?;
    Ok(StronglyTyped { graph, input_scale })
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
    /// Casts behind inputs.
    first: Vec<NodeProto>,
    /// Casts in front of outputs.
    last: Vec<NodeProto>,
    /// Inputs and outputs that are halves themselves.
    retyped: Vec<String>,
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

    /// The FLOAT inputs and outputs: halves, or behind Casts.
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
                let what = format!("output \"{}\" is made by no node", output.name);
                return Err(BuildError::graph(graph.path(), what));
            }
            if io.outputs == Element::F32 {
                let half = graph.fresh_name(&format!("{}_half", output.name));
                self.last
                    .push(border::cast(&half, &output.name, element::FLOAT));
                self.reads.insert(output.name.clone(), half.clone());
                self.makes.insert(output.name, half);
            } else {
                self.retyped.push(output.name);
            }
        }
        Ok(())
    }

    fn apply(mut self, graph: &mut Graph) -> Result<()> {
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
            proto.node.splice(0..0, self.first);
            proto.node.extend(self.last);
            for value in proto.input.iter_mut().chain(&mut proto.output) {
                for name in &self.retyped {
                    border::retype(value, name, element::FLOAT16);
                }
            }
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
mod tests;
