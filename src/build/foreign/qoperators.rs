//! Quantised operators, as ONNX Runtime's QOperator format has them, written with QuantizeLinear and DequantizeLinear, the
//! form that the rest of this program reads.
//!
//! ```text
//! QLinearConv   x, w → DequantizeLinear each, and the bias as floats → Conv   → QuantizeLinear
//! QLinearConcat, QLinearAdd: each input → DequantizeLinear           → Concat → QuantizeLinear
//! ```
//!
//! The operators are defined by what these make, except for roundings between them.

use std::collections::{HashMap, HashSet};

use crate::build::Result;
use crate::build::onnx::proto::{NodeProto, TensorProto};
use crate::build::onnx::tensor::from_floats;
use crate::build::onnx::{Graph, Node, make};

/// ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Rewrites all quantised operators that have a counterpart. Returns the changes, one line each.
///
/// # Errors
/// [`BuildError::Node`](crate::build::BuildError::Node) for a node that is malformed, or whose parameters are no constants.
pub(super) fn expand(graph: &mut Graph) -> Result<Vec<String>> {
    let mut expansion = Expansion {
        graph,
        taken: HashSet::new(),
        floats: HashMap::new(),
        tensors: Vec::new(),
    };
    let mut replacements = HashMap::new();
    let mut changes = Vec::new();
    for node in graph.nodes() {
        let nodes = match (node.op(), node.proto.domain(), node.proto.op_type()) {
            ("QLinearConv", ..) => expansion.conv(node)?,
            // The result's scale and zero point come first.
            (_, MICROSOFT, "QLinearConcat") => {
                let inputs = (2..node.proto.input.len()).step_by(3);
                expansion.map(node, "Concat", inputs, [0, 1])?
            }
            (_, MICROSOFT, "QLinearAdd") => expansion.map(node, "Add", [0, 3], [6, 7])?,
            _ => continue,
        };
        replacements.insert(node.need_output()?.to_owned(), nodes);
        changes.push(format!(
            "{}: written with QuantizeLinear and DequantizeLinear",
            node.describe()
        ));
    }
    let tensors = expansion.tensors;
    if changes.is_empty() {
        return Ok(changes);
    }
    graph.edit(|proto| {
        make::replace_nodes(proto, replacements);
        make::put_initializers(proto, tensors);
    })?;
    graph.prune()?;
    Ok(changes)
}

struct Expansion<'a> {
    graph: &'a Graph,
    /// New names of values.
    taken: HashSet<String>,
    /// The dequantised value of codes with a scale and a zero point.
    floats: HashMap<[String; 3], String>,
    /// New constants.
    tensors: Vec<TensorProto>,
}

impl Expansion<'_> {
    /// The nodes that a QLinearConv stands for.
    fn conv(&mut self, node: Node<'_>) -> Result<Vec<NodeProto>> {
        let mut nodes = Vec::new();
        let x = self.dequantized(node, 0, &mut nodes)?;
        let weight = self.weight(node, &mut nodes)?;
        let mut inputs = vec![x, weight];
        if let Some(bias) = node.input(8) {
            inputs.push(self.bias(node, bias)?);
        }
        self.result(node, "Conv", &inputs, [6, 7], &mut nodes)?;
        Ok(nodes)
    }

    /// The nodes that an operator on maps stands for. `inputs` are the positions of the codes, each before its scale and zero
    /// point; `[scale, zero]` those of the result.
    fn map(
        &mut self,
        node: Node<'_>,
        op: &str,
        inputs: impl IntoIterator<Item = usize>,
        result: [usize; 2],
    ) -> Result<Vec<NodeProto>> {
        let mut nodes = Vec::new();
        let inputs = inputs.into_iter();
        let inputs: Vec<String> = inputs
            .map(|at| self.dequantized(node, at, &mut nodes))
            .collect::<Result<_>>()?;
        self.result(node, op, &inputs, result, &mut nodes)?;
        Ok(nodes)
    }

    /// Adds the float operator, with the node's attributes, and the QuantizeLinear behind it.
    fn result(
        &mut self,
        node: Node<'_>,
        op: &str,
        inputs: &[String],
        [scale, zero]: [usize; 2],
        nodes: &mut Vec<NodeProto>,
    ) -> Result<()> {
        let codes = node.need_output()?;
        let float = self.fresh(base(codes).unwrap_or(&format!("{codes}_float")));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut made = make::node(op, node.proto.name(), &inputs, &float);
        made.attribute.clone_from(&node.proto.attribute);
        nodes.push(made);
        let inputs = [&float, node.need_input(scale)?, node.need_input(zero)?];
        let name = format!("{codes}_QuantizeLinear");
        nodes.push(make::node("QuantizeLinear", &name, &inputs, codes));
        Ok(())
    }

    /// The values of the codes that are input `at`.
    fn dequantized(
        &mut self,
        node: Node<'_>,
        at: usize,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<String> {
        let codes = node.need_input(at)?;
        let name = format!("{}_dequantized", base(codes).unwrap_or(codes));
        let read = [codes, node.need_input(at + 1)?, node.need_input(at + 2)?];
        let key = read.map(str::to_owned);
        if let Some(known) = self.floats.get(&key) {
            return Ok(known.clone());
        }
        let name = self.fresh(&name);
        let described = format!("{name}_DequantizeLinear");
        nodes.push(make::node("DequantizeLinear", &described, &read, &name));
        self.floats.insert(key, name.clone());
        Ok(name)
    }

    /// The weight of a QLinearConv. It gets the name that it had before it was quantised, after which layers are called.
    fn weight(&mut self, node: Node<'_>, nodes: &mut Vec<NodeProto>) -> Result<String> {
        let codes = node.need_input(3)?;
        let name = self.fresh(base(codes).unwrap_or(&format!("{codes}_dequantized")));
        let read = [codes, node.need_input(4)?, node.need_input(5)?];
        let described = format!("{name}_DequantizeLinear");
        let mut pair = make::node("DequantizeLinear", &described, &read, &name);
        if self.scales(node, 4)?.len() > 1 {
            pair.attribute = vec![make::int("axis", 0)];
        }
        nodes.push(pair);
        Ok(name)
    }

    /// The bias as floats. Its scale is the product of those of input and weight.
    fn bias(&mut self, node: Node<'_>, bias: &str) -> Result<String> {
        let codes = self.graph.integers(bias)?;
        let codes =
            codes.ok_or_else(|| node.error(format!("its bias \"{bias}\" is not a constant")))?;
        let (input, weights) = (self.scales(node, 1)?, self.scales(node, 4)?);
        let (&[input], true) = (&input[..], [1, codes.data.len()].contains(&weights.len())) else {
            return Err(node.error(format!(
                "it has {} scales of its input and {} of its weight, expected 1 and 1 or one for each of {} biases",
                input.len(),
                weights.len(),
                codes.data.len()
            )));
        };
        let scales = weights.iter().cycle();
        let values = codes.data.iter().zip(scales).map(|(&code, &weight)| {
            // One rounding, as near to the sum of integers as f32 is.
            (code as f64 * f64::from(input) * f64::from(weight)) as f32
        });
        let values: Vec<f32> = values.collect();
        let name = self.fresh(base(bias).unwrap_or(&format!("{bias}_dequantized")));
        self.tensors.push(from_floats(&name, &codes.dims, &values));
        Ok(name)
    }

    /// The scales that are input `at`.
    fn scales(&self, node: Node<'_>, at: usize) -> Result<Vec<f32>> {
        let name = node.need_input(at)?;
        let scales = self.graph.floats(name)?;
        let scales =
            scales.ok_or_else(|| node.error(format!("its scale \"{name}\" is not a constant")))?;
        Ok(scales.data)
    }

    /// An unused name for a value: `wanted`, or one like it.
    fn fresh(&mut self, wanted: &str) -> String {
        let mut name = self.graph.fresh_name(wanted);
        let mut n = 0;
        while !self.taken.insert(name.clone()) {
            n += 1;
            name = self.graph.fresh_name(&format!("{wanted}_{n}"));
        }
        name
    }
}

/// The name of a value before ONNX Runtime quantised it.
fn base(codes: &str) -> Option<&str> {
    codes.strip_suffix("_quantized")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::onnx::tensor::{element, from_codes};
    use crate::build::testing::{data, graph, node, ops};

    fn microsoft(mut node: NodeProto) -> NodeProto {
        node.domain = Some(MICROSOFT.to_owned());
        node
    }

    fn constants() -> Vec<TensorProto> {
        vec![
            from_floats("xs", &[], &[0.5]),
            from_codes("xz", &[], &[-128]),
            from_codes("w_quantized", &[2, 4, 1, 1], &[3; 8]),
            from_floats("ws", &[2], &[0.25, 0.125]),
            from_codes("wz", &[2], &[0; 2]),
            from_floats("ys", &[], &[2.0]),
            from_codes("yz", &[], &[7]),
            TensorProto {
                name: Some("b_quantized".to_owned()),
                dims: vec![2],
                data_type: Some(element::INT32),
                int32_data: vec![40, -7],
                ..Default::default()
            },
        ]
    }

    fn conv() -> NodeProto {
        let inputs = [
            "xq",
            "xs",
            "xz",
            "w_quantized",
            "ws",
            "wz",
            "ys",
            "yz",
            "b_quantized",
        ];
        let mut conv = node("QLinearConv", &inputs, "y_quantized");
        conv.attribute = vec![make::ints("strides", &[2, 2])];
        conv
    }

    #[test]
    fn a_convolution_reads_values_and_keeps_its_attributes() {
        let mut found = graph(
            vec![
                node("QuantizeLinear", &["x", "xs", "xz"], "xq"),
                conv(),
                node("DequantizeLinear", &["y_quantized", "ys", "yz"], "out"),
            ],
            constants(),
        );
        let changes = expand(&mut found).unwrap();
        assert!(changes[0].contains("QLinearConv"), "{changes:?}");
        assert_eq!(
            ops(&found),
            [
                "QuantizeLinear",
                "DequantizeLinear",
                "DequantizeLinear",
                "Conv",
                "QuantizeLinear",
                "DequantizeLinear"
            ]
        );
        let conv = found.producer("y").unwrap();
        assert_eq!(conv.ints("strides").unwrap(), Some(&[2, 2][..]));
        assert_eq!(data(&found, conv.input(2).unwrap()), [5.0, -0.4375]);
        let weight = found.producer("w").unwrap();
        assert_eq!(weight.int("axis", 1).unwrap(), 0);
        assert_eq!(weight.proto.input, ["w_quantized", "ws", "wz"]);
        let x = found.producer(conv.input(0).unwrap()).unwrap();
        assert_eq!(x.proto.input, ["xq", "xs", "xz"]);
        let y = found.producer("y_quantized").unwrap();
        assert_eq!(y.proto.input, ["y", "ys", "yz"]);
        assert!(expand(&mut found).unwrap().is_empty());
    }

    #[test]
    fn each_input_of_a_concat_or_sum_has_its_own_scale() {
        let mut found = graph(
            vec![
                node("QuantizeLinear", &["x", "xs", "xz"], "xq"),
                node("QuantizeLinear", &["x", "ys", "yz"], "yq"),
                microsoft(node(
                    "QLinearAdd",
                    &["xq", "xs", "xz", "yq", "ys", "yz", "xs", "xz"],
                    "sum",
                )),
                microsoft(node(
                    "QLinearConcat",
                    &["ys", "yz", "sum", "xs", "xz", "xq", "xs", "xz"],
                    "both",
                )),
                node("DequantizeLinear", &["both", "ys", "yz"], "out"),
            ],
            constants(),
        );
        assert_eq!(expand(&mut found).unwrap().len(), 2);
        let add = found.nodes().find(|n| n.op() == "Add").unwrap();
        let concat = found.nodes().find(|n| n.op() == "Concat").unwrap();
        let read = |node: Node<'_>, at: usize| {
            let pair = found.producer(node.input(at).unwrap()).unwrap();
            pair.proto.input.clone()
        };
        assert_eq!(read(add, 0), ["xq", "xs", "xz"]);
        assert_eq!(read(add, 1), ["yq", "ys", "yz"]);
        assert_eq!(read(concat, 0), ["sum", "xs", "xz"]);
        assert_eq!(add.input(0), concat.input(1), "codes are dequantised once");
        let [float, scale, zero] = &found.producer("both").unwrap().proto.input[..] else {
            panic!("not a QuantizeLinear");
        };
        assert_eq!(
            [&float[..], scale, zero],
            [concat.output(0).unwrap(), "ys", "yz"]
        );
    }

    #[test]
    fn scales_that_do_not_fit_are_refused() {
        let mut tensors = constants();
        tensors[3] = from_floats("ws", &[3], &[1.0; 3]);
        let message = expand(&mut graph(vec![codes(), conv(), out()], tensors)).unwrap_err();
        assert!(
            message
                .to_string()
                .contains("1 scales of its input and 3 of its weight"),
            "{message}"
        );
        let mut tensors = constants();
        tensors.remove(0);
        let scale = node("Identity", &["x"], "xs");
        let message = expand(&mut graph(vec![scale, codes(), conv(), out()], tensors)).unwrap_err();
        assert!(
            message.to_string().contains("\"xs\" is not a constant"),
            "{message}"
        );
    }

    fn codes() -> NodeProto {
        node("QuantizeLinear", &["x", "ys", "yz"], "xq")
    }

    fn out() -> NodeProto {
        node("DequantizeLinear", &["y_quantized", "ys", "yz"], "out")
    }
}
