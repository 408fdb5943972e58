//! Networks that others quantised, brought to the forms that the rest of this program reads.
//!
//! - **Quantised operators** (ONNX Runtime's QOperator format) are written with QuantizeLinear and DequantizeLinear:
//!   [`qoperators`].
//! - **UINT8 codes** become INT8 codes. This is exact: [`signed`].
//! - **Biases** as INT32 codes, and the quantised parameters of a BatchNormalization (both by ONNX Runtime), become floats.
//!   This is exact.
//! - **FP16** between the codes (ModelOpt's default) becomes f32: FP16 constants are widened, and Casts lose their effect.
//! - **Deconvolutions with a scale for each input channel** (pytorch-quantization of 2022, ModelOpt for torch): such a scale
//!   cannot be taken out of the sum, so the weight is quantised again, with a scale for each output channel.
//! - **The PFN** runs in float, so its pairs are dropped: [`without_pairs`]. So are those of a network that is to be calibrated
//!   again.

mod qoperators;
mod signed;

use std::collections::{BTreeMap, HashMap};

use super::Result;
use super::calibrate::scale;
use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::tensor::{self, Tensor, element, from_array, from_codes, from_floats};
use super::onnx::{Graph, Node, make, shapes};
use super::quantize::pairs::quantized;
use super::simplify::{replace_by_initializers, simplify};
use crate::map::quantize;

/// Brings a network to the forms that the rest of this program reads. Returns what was changed, one line each.
///
/// # Errors
/// [`super::BuildError`] for malformed nodes and tensors.
pub(super) fn normalize(graph: &mut Graph) -> Result<Vec<String>> {
    let casts = |node: Node<'_>| matches!(node.op(), "DequantizeLinear" | "Cast");
    let mut tensors = graph.proto().initializer.iter();
    if !graph.nodes().any(casts) && !tensors.any(is_half) {
        return Ok(Vec::new());
    }
    // Scales may be results of constants.
    simplify(graph)?;
    let mut changes = qoperators::expand(graph)?;
    changes.extend(signed::make_signed(graph)?);
    changes.extend(widen(graph)?);
    changes.extend(dequantize_parameters(graph)?);
    changes.extend(requantize_deconvolutions(graph)?);
    Ok(changes)
}

fn is_half(tensor: &TensorProto) -> bool {
    tensor.data_type() == element::FLOAT16
}

/// Widens FP16 constants, and makes Casts to FP16 keep f32. Constants are initializers already.
fn widen(graph: &mut Graph) -> Result<Vec<String>> {
    let path = graph.path();
    let mut wide = HashMap::new();
    for tensor in graph.proto().initializer.iter().filter(|t| is_half(t)) {
        let array = tensor::array(path, tensor)?;
        wide.insert(tensor.name().to_owned(), from_array(tensor.name(), &array));
    }
    let mut casts = 0;
    for node in graph.nodes().filter(|n| n.op() == "Cast") {
        casts += usize::from(node.int("to", 0)? == i64::from(element::FLOAT16));
    }
    if wide.is_empty() && casts == 0 {
        return Ok(Vec::new());
    }
    let count = wide.len();
    graph.edit(|proto| {
        for tensor in &mut proto.initializer {
            if let Some(wider) = wide.remove(tensor.name()) {
                *tensor = wider;
            }
        }
        for node in proto
            .node
            .iter_mut()
            .filter(|node| node.op_type() == "Cast")
        {
            for attribute in &mut node.attribute {
                if attribute.name() == "to" && attribute.i == Some(element::FLOAT16.into()) {
                    attribute.i = Some(element::FLOAT.into());
                }
            }
        }
        // Their types would contradict the new ones.
        proto.value_info.clear();
    })?;
    Ok(vec![format!(
        "computes in f32 what the file computes in FP16: {count} constants, {casts} casts"
    )])
}

/// Turns the codes of constants that are no weights of a layer into floats.
fn dequantize_parameters(graph: &mut Graph) -> Result<Vec<String>> {
    let mut floats = HashMap::new();
    let mut changes = Vec::new();
    for node in graph.nodes().filter(|n| n.op() == "DequantizeLinear") {
        let Some(constant) = graph.constant(node.need_input(0)?)? else {
            continue;
        };
        let output = node.need_output()?;
        let is_weight =
            |user: Node<'_>| user.op() != "BatchNormalization" && user.input(1) == Some(output);
        let is_code = matches!(constant.data_type(), element::INT8 | element::INT32);
        if !is_code || graph.consumers(output).any(is_weight) {
            continue;
        }
        let codes = tensor::integers(graph.path(), &constant)?;
        if let Some(values) = dequantized(graph, node, &codes)? {
            floats.insert(output.to_owned(), from_floats(output, &codes.dims, &values));
            changes.push(format!("{}: its codes became floats", node.describe()));
        }
    }
    replace_by_initializers(graph, floats)?;
    Ok(changes)
}

/// Whether the zero points of a pair are 0, or left out.
fn has_no_zero_point(graph: &Graph, node: Node<'_>) -> Result<bool> {
    let Some(name) = node.input(2) else {
        return Ok(true);
    };
    let zeros = graph.integers(name)?;
    Ok(zeros.is_some_and(|zeros| zeros.data.iter().all(|&zero| zero == 0)))
}

/// The values of codes; `None` if scales or zero points are no constants or have another shape.
fn dequantized(graph: &Graph, node: Node<'_>, codes: &Tensor<i64>) -> Result<Option<Vec<f32>>> {
    let Some(scales) = graph.floats(node.need_input(1)?)? else {
        return Ok(None);
    };
    // Without elements, the other dimensions may be of any size.
    if codes.data.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let (inner, count) = match scales.data.len() {
        1 => (1, 1),
        count => {
            let axis = shapes::axis(node, node.int("axis", 1)?, codes.dims.len())?;
            if codes.dims.get(axis) != Some(&count) {
                return Ok(None);
            }
            (codes.dims.iter().skip(axis + 1).product::<usize>(), count)
        }
    };
    let zeros = match node.input(2) {
        None => vec![0; count],
        Some(name) => match graph.integers(name)? {
            Some(zeros) if zeros.data.len() == count => zeros.data,
            _ => return Ok(None),
        },
    };
    let values = codes.data.iter().enumerate().map(|(i, &code)| {
        let channel = i / inner.max(1) % count.max(1);
        let zero = zeros.get(channel).copied().unwrap_or(0);
        code.saturating_sub(zero) as f32 * scales.data.get(channel).copied().unwrap_or(1.0)
    });
    Ok(Some(values.collect()))
}

/// A weight as its DequantizeLinear `pair` makes it; `None` if it is not constant.
fn weight(graph: &Graph, pair: Node<'_>) -> Result<Option<Tensor<f32>>> {
    let source = pair.need_input(0)?;
    let quantizer = graph
        .producer(source)
        .filter(|n| n.op() == "QuantizeLinear");
    let codes = match quantizer {
        Some(quantizer) => {
            let (Some(float), Some(scales)) = (
                graph.floats(quantizer.need_input(0)?)?,
                graph.floats(quantizer.need_input(1)?)?,
            ) else {
                return Ok(None);
            };
            if float.dims.first() != Some(&scales.data.len()) {
                return Ok(None);
            }
            let codes = quantized(&float.data, &float.dims, 0, &scales.data);
            Tensor {
                data: codes.map(i64::from).collect(),
                dims: float.dims,
            }
        }
        None => match graph.constant(source)? {
            Some(constant) if constant.data_type() == element::INT8 => {
                tensor::integers(graph.path(), &constant)?
            }
            _ => return Ok(None),
        },
    };
    let values = dequantized(graph, pair, &codes)?;
    Ok(values.map(|data| Tensor {
        dims: codes.dims,
        data,
    }))
}

/// Quantises weights of deconvolutions again whose scales belong to input channels.
fn requantize_deconvolutions(graph: &mut Graph) -> Result<Vec<String>> {
    let mut tensors = Vec::new();
    let mut replacements: HashMap<String, Vec<NodeProto>> = HashMap::new();
    let mut changes = Vec::new();
    for node in graph.nodes().filter(|n| n.op() == "ConvTranspose") {
        let name = node.need_input(1)?;
        let Some(pair) = graph
            .producer(name)
            .filter(|n| n.op() == "DequantizeLinear")
        else {
            continue;
        };
        let scales = graph.floats(pair.need_input(1)?)?;
        let per_input = scales.is_some_and(|scales| scales.data.len() > 1)
            && matches!(pair.int("axis", 1)?, 0 | -4)
            && node.int("group", 1)? == 1;
        if !per_input || replacements.contains_key(name) || !has_no_zero_point(graph, pair)? {
            continue;
        }
        let Some(weight) = weight(graph, pair)? else {
            continue;
        };
        let &[inputs, outputs, ..] = &weight.dims[..] else {
            continue;
        };
        // The engine refuses such a weight.
        if weight.data.is_empty() || !weight.data.iter().all(|value| value.is_finite()) {
            continue;
        }
        let inner = weight.data.len() / (inputs * outputs).max(1);
        let channel = |i: usize| i / inner.max(1) % outputs.max(1);
        let mut amax = vec![0.0_f32; outputs];
        for (i, value) in weight.data.iter().enumerate() {
            let most = &mut amax[channel(i)];
            *most = most.max(value.abs());
        }
        let scales: Vec<f32> = amax.into_iter().map(scale).collect();
        let codes = weight.data.iter().enumerate();
        let codes: Vec<i8> = codes
            .map(|(i, &value)| quantize(value, scales[channel(i)]))
            .collect();
        let [codes_name, scales_name] =
            ["codes", "scales"].map(|what| graph.fresh_name(&format!("{name}_{what}")));
        tensors.push(from_codes(&codes_name, &weight.dims, &codes));
        tensors.push(from_floats(&scales_name, &[outputs], &scales));
        let mut dequantize = make::node(
            "DequantizeLinear",
            pair.proto.name(),
            &[&codes_name, &scales_name],
            name,
        );
        dequantize.attribute = vec![make::int("axis", 1)];
        replacements.insert(name.to_owned(), vec![dequantize]);
        changes.push(format!(
            "{}: its weight has a scale for each input channel; quantised again, with one for each output channel",
            node.describe()
        ));
    }
    if replacements.is_empty() {
        return Ok(changes);
    }
    graph.edit(|proto| {
        make::replace_nodes(proto, replacements);
        make::put_initializers(proto, tensors);
    })?;
    graph.prune()?;
    Ok(changes)
}

/// The value that each DequantizeLinear of `graph` stands for, by its output: that before the first of its pairs. There is none
/// for a weight that is stored as codes, nor for a pair that takes the place of a Relu: these are the output itself.
///
/// # Errors
/// [`super::BuildError`] for malformed nodes and tensors.
pub(super) fn sources(graph: &Graph) -> Result<BTreeMap<String, String>> {
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    for node in graph.nodes().filter(|n| n.op() == "DequantizeLinear") {
        let (codes, output) = (node.need_input(0)?, node.need_output()?);
        let quantizer = graph.producer(codes).filter(|n| n.op() == "QuantizeLinear");
        let source = match quantizer {
            Some(_) if rectifies(graph, node)? => output,
            Some(quantizer) => quantizer.need_input(0)?,
            None if graph.constant(codes)?.is_some() => output,
            None => continue,
        };
        // A pair may follow another one.
        let source = sources.get(source).map_or(source, String::as_str);
        sources.insert(output.to_owned(), source.to_owned());
    }
    Ok(sources)
}

/// Whether the codes of a map begin at 0 although the values before its pair may be below. ONNX Runtime drops the Relu there.
fn rectifies(graph: &Graph, node: Node<'_>) -> Result<bool> {
    let quantizer = graph.producer(node.need_input(0)?);
    let (Some(source), Some(zero)) = (quantizer.and_then(|node| node.input(0)), node.input(2))
    else {
        return Ok(false);
    };
    let positive = graph.producer(source).is_some_and(|n| n.op() == "Relu");
    if positive || graph.constant(source)?.is_some() {
        return Ok(false);
    }
    let Some(zero) = graph.constant(zero)? else {
        return Ok(false);
    };
    let lowest = match zero.data_type() {
        element::INT8 => -128,
        element::UINT8 => 0,
        _ => return Ok(false),
    };
    Ok(tensor::integers(graph.path(), &zero)?.data == [lowest])
}

/// Drops all Q/DQ pairs: what follows reads the values before them, or a Relu of them. Returns the names of the values.
///
/// # Errors
/// [`super::BuildError`] for malformed nodes and tensors.
pub(super) fn without_pairs(graph: &mut Graph) -> Result<Vec<String>> {
    simplify(graph)?;
    let sources = sources(graph)?;
    let mut floats = HashMap::new();
    let mut replacements = HashMap::new();
    for node in graph.nodes().filter(|n| n.op() == "DequantizeLinear") {
        let (codes, output) = (node.need_input(0)?, node.need_output()?);
        let Some(source) = sources.get(output) else {
            continue;
        };
        if let Some(quantizer) = graph.producer(codes) {
            let operator = match source == output {
                true => "Relu",
                // An output keeps its name.
                false if graph.is_output(output) => "Identity",
                false => continue,
            };
            let before = [quantizer.need_input(0)?];
            let node = make::node(operator, node.proto.name(), &before, output);
            replacements.insert(output.to_owned(), vec![node]);
        } else if let Some(constant) = graph.constant(codes)? {
            let codes = tensor::integers(graph.path(), &constant)?;
            if let Some(values) = dequantized(graph, node, &codes)? {
                floats.insert(output.to_owned(), from_floats(output, &codes.dims, &values));
            }
        }
    }
    let mut names: Vec<String> = sources.values().cloned().collect();
    names.sort();
    names.dedup();
    replace_by_initializers(graph, floats)?;
    graph.edit(|proto| {
        make::replace_nodes(proto, replacements);
        for name in proto.node.iter_mut().flat_map(|node| &mut node.input) {
            if let Some(source) = sources.get(name.as_str()) {
                name.clone_from(source);
            }
        }
    })?;
    graph.prune()?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::BuildError;
    use crate::build::onnx::make::int;
    use crate::build::testing::{data, graph, node, ops};
    use half::f16;

    fn with_axis(mut node: NodeProto, axis: i64) -> NodeProto {
        node.attribute.push(int("axis", axis));
        node
    }

    /// INT32 values.
    fn codes(name: &str, values: &[i32]) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            dims: vec![values.len() as i64],
            data_type: Some(element::INT32),
            int32_data: values.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn codes_of_biases_become_floats_and_those_of_weights_stay() {
        let mut found = graph(
            vec![
                with_axis(
                    node("DequantizeLinear", &["bias_codes", "bias_scales"], "bias"),
                    0,
                ),
                node(
                    "DequantizeLinear",
                    &["weight_codes", "weight_scale"],
                    "weight",
                ),
                node("Conv", &["x", "weight", "bias"], "out"),
            ],
            vec![
                codes("bias_codes", &[3, -5, 1 << 24, 0]),
                from_floats("bias_scales", &[4], &[0.5, 0.25, 2.0, 1.0]),
                from_codes("weight_codes", &[4, 4, 1, 1], &[7; 16]),
                from_floats("weight_scale", &[], &[0.125]),
            ],
        );
        let changes = normalize(&mut found).unwrap();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(data(&found, "bias"), [1.5, -1.25, 33_554_432.0, 0.0]);
        assert_eq!(found.producer("weight").unwrap().op(), "DequantizeLinear");
        assert!(
            normalize(&mut found).unwrap().is_empty(),
            "nothing is left to change"
        );
    }

    /// ONNX Runtime gives the parameters of a BatchNormalization zero points if weights are unsigned.
    #[test]
    fn zero_points_of_parameters_count() {
        let mut found = graph(
            vec![
                node("DequantizeLinear", &["codes", "scale", "zero"], "factor"),
                node("BatchNormalization", &["x", "factor", "b", "b", "b"], "out"),
            ],
            vec![
                TensorProto {
                    name: Some("codes".to_owned()),
                    dims: vec![3],
                    data_type: Some(element::UINT8),
                    raw_data: Some(vec![0, 200, 255].into()),
                    ..Default::default()
                },
                TensorProto {
                    name: Some("zero".to_owned()),
                    data_type: Some(element::UINT8),
                    raw_data: Some(vec![200].into()),
                    ..Default::default()
                },
                from_floats("scale", &[], &[0.5]),
                from_floats("b", &[3], &[1.0; 3]),
            ],
        );
        let changes = normalize(&mut found).unwrap();
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(data(&found, "factor"), [-100.0, 0.0, 27.5]);
    }

    #[test]
    fn half_precision_is_widened() {
        let weight: Vec<u8> = (0..16)
            .flat_map(|i| f16::from_f32(i as f32 / 8.0).to_le_bytes())
            .collect();
        let half = TensorProto {
            name: Some("weight".into()),
            dims: vec![4, 4, 1, 1],
            data_type: Some(element::FLOAT16),
            raw_data: Some(weight.into()),
            ..Default::default()
        };
        let mut down = node("Cast", &["x"], "x16");
        down.attribute = vec![int("to", element::FLOAT16.into())];
        let mut up = node("Cast", &["y16"], "out");
        up.attribute = vec![int("to", element::FLOAT.into())];
        let mut found = graph(
            vec![down, node("Conv", &["x16", "weight"], "y16"), up],
            vec![half],
        );
        let changes = normalize(&mut found).unwrap();
        assert!(changes[0].contains("1 constants, 1 casts"), "{changes:?}");
        let expected: Vec<f32> = (0..16).map(|i| i as f32 / 8.0).collect();
        assert_eq!(data(&found, "weight"), expected);
        simplify(&mut found).unwrap();
        assert_eq!(ops(&found), ["Conv"]);
    }

    /// Each input channel has a scale; the codes that come out have one for each output channel and the same values, as far
    /// as 8 bits hold them.
    #[test]
    fn scales_of_input_channels_become_scales_of_output_channels() {
        let weight: Vec<f32> = (0..32).map(|i| ((i * 7) % 13) as f32 / 4.0 - 1.5).collect();
        let scales = [0.01, 0.02, 0.03, 0.04];
        let mut found = graph(
            vec![
                with_axis(node("QuantizeLinear", &["w", "s", "z"], "q"), 0),
                with_axis(node("DequantizeLinear", &["q", "s", "z"], "d"), 0),
                node("ConvTranspose", &["x", "d"], "out"),
            ],
            vec![
                from_floats("w", &[4, 2, 2, 2], &weight),
                from_floats("s", &[4], &scales),
                from_codes("z", &[4], &[0; 4]),
            ],
        );
        let changes = normalize(&mut found).unwrap();
        assert!(changes[0].contains("quantised again"), "{changes:?}");
        let pair = found.producer("d").unwrap();
        assert_eq!(pair.int("axis", 0).unwrap(), 1);
        let scale = data(&found, pair.input(1).unwrap());
        let codes = found.integers(pair.input(0).unwrap()).unwrap().unwrap();
        assert_eq!((scale.len(), &codes.dims[..]), (2, &[4, 2, 2, 2][..]));
        for (i, value) in weight.iter().enumerate() {
            let input = scales[i / 8];
            let first = f32::from(quantize(*value, input)) * input;
            let again = codes.data[i] as f32 * scale[i / 4 % 2];
            assert!(
                (again - first).abs() <= scale[i / 4 % 2] / 2.0 + 1e-6,
                "{i}"
            );
        }
        // Groups have their own channels: left as they are, and refused later.
        let grouped = |group: i64| -> Result<Vec<String>, BuildError> {
            let mut up = node("ConvTranspose", &["x", "d"], "out");
            up.attribute = vec![int("group", group)];
            let pair = with_axis(node("DequantizeLinear", &["q", "s"], "d"), 0);
            let tensors = vec![
                from_codes("q", &[4, 2, 2, 2], &[1; 32]),
                from_floats("s", &[4], &scales),
            ];
            normalize(&mut graph(vec![pair, up], tensors))
        };
        assert_eq!(grouped(2).unwrap().len(), 0);
        assert_eq!(grouped(1).unwrap().len(), 1);
    }

    #[test]
    fn a_pfn_loses_its_pairs() {
        let mut found = graph(
            vec![
                node("QuantizeLinear", &["x", "s", "z"], "xq"),
                node("DequantizeLinear", &["xq", "s", "z"], "xd"),
                node("DequantizeLinear", &["wq", "t"], "wd"),
                node("Conv", &["xd", "wd"], "out"),
            ],
            vec![
                from_floats("s", &[], &[0.5]),
                from_codes("z", &[], &[0]),
                from_codes("wq", &[4, 4, 1, 1], &[2; 16]),
                from_floats("t", &[], &[0.25]),
            ],
        );
        assert_eq!(without_pairs(&mut found).unwrap(), ["wd", "x"]);
        let conv = found.producer("out").unwrap();
        assert_eq!(conv.input(0), Some("x"));
        assert_eq!(data(&found, conv.input(1).unwrap()), [0.5; 16]);
    }

    /// Codes from 0 on were a Relu; behind a Relu, they are not another one. A pair at an output leaves its name.
    #[test]
    fn a_pair_in_place_of_a_relu_becomes_one() {
        let pair = |from: &str, to: &str| {
            let codes = format!("{to}_codes");
            [
                node("QuantizeLinear", &[from, "s", "z"], &codes),
                node("DequantizeLinear", &[&codes, "s", "z"], to),
            ]
        };
        let nodes = [
            pair("x", "a").to_vec(),
            vec![node("Relu", &["a"], "b")],
            pair("b", "c").to_vec(),
            vec![node("Conv", &["c", "w"], "d")],
            pair("d", "out").to_vec(),
        ];
        let mut found = graph(
            nodes.concat(),
            vec![
                from_floats("s", &[], &[0.5]),
                from_codes("z", &[], &[-128]),
                from_floats("w", &[4, 4, 1, 1], &[1.0; 16]),
            ],
        );
        assert_eq!(without_pairs(&mut found).unwrap(), ["a", "b", "out"]);
        assert_eq!(ops(&found), ["Relu", "Relu", "Conv", "Relu"]);
        assert_eq!(found.producer("d").unwrap().input(0), Some("b"));
        assert_eq!(found.producer("out").unwrap().input(0), Some("d"));
    }

    #[test]
    fn an_output_keeps_its_name_without_its_pair() {
        let mut found = graph(
            vec![
                node("Relu", &["x"], "a"),
                node("QuantizeLinear", &["a", "s", "z"], "q"),
                node("DequantizeLinear", &["q", "s", "z"], "out"),
            ],
            vec![from_floats("s", &[], &[0.5]), from_codes("z", &[], &[0])],
        );
        assert_eq!(without_pairs(&mut found).unwrap(), ["a"]);
        assert_eq!(ops(&found), ["Relu", "Identity"]);
    }
}
