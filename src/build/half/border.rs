//! Element types of the input and the outputs of a strongly typed network.

use half::f16;

use crate::build::onnx::proto::{NodeProto, ValueInfoProto};
use crate::build::onnx::tensor::element;
use crate::build::onnx::{Graph, make};
use crate::build::{BuildError, Result};
use crate::map::Element;

/// Element types of the input and the outputs of a strongly typed network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// Element type of the BEV map.
    pub input: Element,
    /// Element type of the head maps, F16 or F32.
    pub outputs: Element,
}

/// FLOAT16 for both: the kernels write and read it without a copy, and it takes half the bytes.
impl Default for Io {
    fn default() -> Self {
        Self {
            input: Element::F16,
            outputs: Element::F16,
        }
    }
}

impl Io {
    /// Checks that a network can have these types.
    pub(super) fn check(self, graph: &Graph) -> Result<()> {
        match self.outputs {
            Element::F16 | Element::F32 => Ok(()),
            Element::I8 => Err(BuildError::graph(
                graph.path(),
                "outputs cannot be INT8, because the heads produce floats; make them FLOAT16 or FLOAT",
            )),
        }
    }
}

/// Makes the network read INT8 codes: removes the QuantizeLinear of its input, so the writer of the
/// input must quantise. Returns the scale, rounded to a half: the value of code 1.
///
/// # Errors
/// [`BuildError::Graph`] unless a single QuantizeLinear with one scale and zero point 0 is all that reads
/// the input.
pub(super) fn read_codes(graph: &mut Graph) -> Result<f32> {
    let refused = |what: String| {
        let advice = "make the input FLOAT16, or quantise the network's first layers to INT8";
        BuildError::graph(
            graph.path(),
            format!("the input cannot be INT8: {what}; {advice}"),
        )
    };
    let inputs = graph.inputs()?;
    let [input] = &inputs[..] else {
        return Err(refused(format!("the network has {} inputs", inputs.len())));
    };
    let name = &input.name;
    let readers: Vec<_> = graph.consumers(name).collect();
    if let Some(node) = readers.iter().find(|n| n.op() != "QuantizeLinear") {
        let reader = node.describe();
        return Err(refused(format!("node {reader} reads \"{name}\" in float")));
    }
    let [node] = readers[..] else {
        let count = readers.len();
        let what = format!("{count} QuantizeLinear nodes read \"{name}\", expected one");
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
        // Without a zero point the codes are unsigned.
        None => false,
    };
    let codes = node.need_output()?.to_owned();
    if !zeros || graph.is_output(&codes) {
        let what = format!(
            "node {} does not produce signed codes around 0, or they are an output of the network",
            node.describe()
        );
        return Err(refused(what));
    }
    let (scale, name) = (f16::from_f32(*scale).to_f32(), name.clone());
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

/// Changes the element type of a declared input or output if it has this name.
pub(super) fn retype(value: &mut ValueInfoProto, name: &str, element: i32) {
    if value.name() == name
        && let Some(tensor) = value.r#type.as_mut().and_then(|t| t.tensor_type.as_mut())
    {
        tensor.elem_type = Some(element);
    }
}

/// A Cast of `from` to the element type of `to`.
pub(super) fn cast(from: &str, to: &str, element: i32) -> NodeProto {
    let mut node = make::node("Cast", &format!("{to}_Cast"), &[from], to);
    node.attribute = vec![make::int("to", element.into())];
    node
}
