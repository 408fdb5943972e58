//! Inputs and outputs of the strongly typed network: of which element type, and behind a Cast or not.

use super::super::onnx::proto::{NodeProto, ValueInfoProto};
use super::super::onnx::tensor::{element, f32_to_half, half_to_f32};
use super::super::onnx::{Graph, make};
use super::super::{BuildError, Result};
use crate::cuda::map::Element;

/// Element types at the border of a strongly typed network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// Of the BEV map that goes in.
    pub input: Element,
    /// Of the maps that come out: F16 or F32.
    pub outputs: Element,
}

/// FLOAT16 on both sides: what the kernels write and read without a copy, in half the bytes.
impl Default for Io {
    fn default() -> Self {
        Self {
            input: Element::F16,
            outputs: Element::F16,
        }
    }
}

impl Io {
    /// Checks that networks can have these types.
    pub(super) fn check(self, graph: &Graph) -> Result<()> {
        match self.outputs {
            Element::F16 | Element::F32 => Ok(()),
            Element::I8 => Err(BuildError::graph(
                graph.path(),
                "outputs cannot be INT8: the heads end in floats; make them FLOAT16 or FLOAT",
            )),
        }
    }
}

/// Makes the codes of the one input the input itself: its QuantizeLinear goes, whoever writes the input
/// quantises. Gives the scale: a value is its code times that, which is a half.
///
/// # Errors
/// [`BuildError::Graph`] where the input is not read by one QuantizeLinear alone, of one scale and zero
/// point 0.
pub(super) fn take_codes(graph: &mut Graph) -> Result<f32> {
    let refused = |what: String| {
        let advice =
            "make the input FLOAT16, or quantise the network so that its first layers are in INT8";
        BuildError::graph(
            graph.path(),
            format!("the input cannot be INT8: {what}; {advice}"),
        )
    };
    let inputs = graph.inputs()?;
    let [input] = &inputs[..] else {
        return Err(refused(format!("there are {} inputs", inputs.len())));
    };
    let name = &input.name;
    let readers: Vec<_> = graph.consumers(name).collect();
    if let Some(node) = readers.iter().find(|n| n.op() != "QuantizeLinear") {
        let reader = node.describe();
        return Err(refused(format!("node {reader} reads \"{name}\" in float")));
    }
    let [node] = readers[..] else {
        let count = readers.len();
        let what = format!("\"{name}\" is read by {count} QuantizeLinears, not by one");
        return Err(refused(what));
    };
    let scales = graph.floats(node.need_input(1)?)?;
    let Some([scale]) = scales.as_ref().map(|s| &s.data[..]) else {
        let found = scales.map_or(0, |s| s.data.len());
        let what = format!("node {} has {found} constant scales", node.describe());
        return Err(refused(format!("{what}, expected one")));
    };
    let zeros = match node.input(2) {
        Some(zero) => {
            graph.constant(zero)?.map(|t| t.data_type()) == Some(element::INT8)
                && graph
                    .integers(zero)?
                    .is_some_and(|z| z.data.iter().all(|&z| z == 0))
        }
        // Without one the codes are unsigned.
        None => false,
    };
    let codes = node.need_output()?.to_owned();
    if !zeros || graph.is_output(&codes) {
        let what = format!(
            "node {} makes no signed codes around 0 for others alone",
            node.describe()
        );
        return Err(refused(what));
    }
    let (scale, name) = (half_to_f32(f32_to_half(*scale)), name.clone());
    graph.edit(|proto| {
        proto.node.retain(|n| n.output.first() != Some(&codes));
        for read in proto.node.iter_mut().flat_map(|n| &mut n.input) {
            if *read == codes {
                read.clone_from(&name);
            }
        }
        proto
            .input
            .iter_mut()
            .for_each(|v| retype(v, &name, element::INT8));
    })?;
    Ok(scale)
}

/// Gives a declared input or output, if it is the one of this name, another element type.
pub(super) fn retype(value: &mut ValueInfoProto, name: &str, element: i32) {
    if value.name() == name
        && let Some(tensor) = value.r#type.as_mut().and_then(|t| t.tensor_type.as_mut())
    {
        tensor.elem_type = Some(element);
    }
}

/// A Cast of one value into another.
pub(super) fn cast(from: &str, to: &str, element: i32) -> NodeProto {
    let mut node = make::node("Cast", &format!("{to}_Cast"), &[from], to);
    node.attribute = vec![make::int("to", element.into())];
    node
}
