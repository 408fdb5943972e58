//! Reads the quantisers of a graph that already has Q/DQ pairs, from this program or another tool.

use super::placement::{is_layer, layer_name};
use super::{Quantizer, QuantizerKind};
use crate::build::Result;
use crate::build::onnx::tensor::element;
use crate::build::onnx::{Graph, Node};
use crate::program::{bits_of, greatest_code};

/// The pairs of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pairs {
    /// The pairs in order of execution, each with `amax = 127 · scale`, or 7 for weights whose codes fit into 4 bits.
    pub quantizers: Vec<Quantizer>,
    /// Descriptions of the other pairs, with the reason why they are not listed.
    pub left_out: Vec<String>,
}

/// Lists the Q/DQ pairs of `graph`. A weight may be stored as codes, or as floats before a QuantizeLinear
/// (as pytorch-quantization exports it).
///
/// # Errors
/// [`crate::build::BuildError`] for malformed nodes and tensors.
pub(crate) fn read(graph: &Graph) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    for node in graph.nodes().filter(|n| n.op() == "DequantizeLinear") {
        match read_pair(graph, node)? {
            Ok(quantizer) => pairs.quantizers.push(quantizer),
            Err(reason) => pairs
                .left_out
                .push(format!("{}: {reason}", node.describe())),
        }
    }
    Ok(pairs)
}

/// The quantiser that ends with the DequantizeLinear `node`, or why the pair is not supported.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_pair(graph: &Graph, node: Node<'_>) -> Result<Result<Quantizer, String>> {
    let codes = node.need_input(0)?;
    let quantize = graph.producer(codes);
    let quantize = quantize.filter(|n| n.op() == "QuantizeLinear");
    let tensor = match quantize {
        Some(quantize) => quantize.need_input(0)?,
        None if graph.constant(codes)?.is_some() => codes,
        None => {
            return Ok(Err(format!(
                "\"{codes}\" is neither a constant nor the output of a QuantizeLinear"
            )));
        }
    };
    let scale_name = node.need_input(1)?;
    let Some(scales) = graph.floats(scale_name)? else {
        return Ok(Err(format!("its scale \"{scale_name}\" is not a constant")));
    };
    if let Some(reason) = asymmetry(graph, node, &scales.data)? {
        return Ok(Err(reason));
    }
    let is_weight = graph.constant(tensor)?.is_some();
    let per_channel = !scales.dims.is_empty() && (is_weight || scales.data.len() > 1);
    let axis = if per_channel {
        usize::try_from(node.int("axis", 1)?).ok()
    } else {
        None
    };
    // Codes of a weight that fit into 4 bits are stored in 4.
    let stored = match (is_weight, quantize) {
        (true, None) => graph.integers(codes)?,
        _ => None,
    };
    let bits = stored.map_or(8, |stored| {
        let codes: Vec<i8> = stored.data.iter().map(|&code| code as i8).collect();
        bits_of(&codes)
    });
    let most = f32::from(greatest_code(bits));
    let output = node.need_output()?;
    let readers: Vec<String> = graph.consumers(output).map(|n| reader(graph, n)).collect();
    // `insert_qdq` names the codes of a weight after the weight.
    let weight = tensor.strip_suffix("_quantized").unwrap_or(tensor);
    let (kind, tensor, layer) = if is_weight {
        (QuantizerKind::Weight, weight, readers.first().cloned())
    } else {
        (QuantizerKind::Activation, tensor, None)
    };
    Ok(Ok(Quantizer {
        tensor: tensor.to_owned(),
        layer,
        kind,
        bits,
        axis,
        amax: scales.data.iter().map(|scale| scale * most).collect(),
        own_amax: None,
        saturated: None,
        readers,
    }))
}

/// What the codes that a DequantizeLinear reads stand for, unless that is a range around 0.
fn asymmetry(graph: &Graph, node: Node<'_>, scales: &[f32]) -> Result<Option<String>> {
    let typed = match node.input(2) {
        Some(zero_point) => graph.constant(zero_point)?,
        None => graph.constant(node.need_input(0)?)?,
    };
    let limits = match typed.map(|tensor| tensor.data_type()) {
        Some(element::UINT8) => [0, 255],
        _ => [-128, 127],
    };
    let zeros = match node.input(2) {
        Some(zero_point) => graph.integers(zero_point)?.map(|zeros| zeros.data),
        None => None,
    };
    let zeros = zeros.unwrap_or_default();
    let zero = zeros.iter().find(|zero| **zero != 0).copied();
    if zero.is_none() && limits == [-128, 127] {
        return Ok(None);
    }
    let zero = zero.unwrap_or(0);
    Ok(Some(match scales {
        [scale] => {
            let [from, to] = limits.map(|code| (code - zero) as f32 * scale);
            format!("its zero point is {zero}: scale {scale}, values from {from} to {to}")
        }
        _ => format!("its zero point is {zero}, so codes are not symmetric"),
    }))
}

/// The name of a node that reads a pair.
fn reader(graph: &Graph, node: Node<'_>) -> String {
    if is_layer(node) {
        layer_name(graph, node)
    } else if node.proto.name().is_empty() {
        node.op().to_owned()
    } else {
        node.proto.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::onnx::proto::TensorProto;
    use crate::build::onnx::tensor::{from_codes, from_floats};
    use crate::build::quantize::{Placement, insert_qdq};
    use crate::build::testing::{graph, int, node};

    #[test]
    fn our_own_pairs_are_read_back() {
        let weight: Vec<f32> = (0..16).map(|i| i as f32 - 7.5).collect();
        let float = graph(
            vec![
                node("Conv", &["x", "one.weight"], "a"),
                node("Conv", &["a", "two.weight"], "out"),
            ],
            vec![
                from_floats("one.weight", &[4, 4, 1, 1], &weight),
                from_floats("two.weight", &[4, 4, 1, 1], &weight),
            ],
        );
        let amax = [("x".to_owned(), 2.0), ("a".to_owned(), 3.0)].into();
        let made = insert_qdq(&float, &amax, &Placement::default()).unwrap();
        let found = read(&made.graph).unwrap();
        assert_eq!(found.left_out, [""; 0]);
        assert_eq!(found.quantizers.len(), 4);
        for expected in &made.quantizers {
            let same = found
                .quantizers
                .iter()
                .find(|q| q.tensor == expected.tensor);
            let same = same.unwrap_or_else(|| panic!("no {}", expected.tensor));
            assert_eq!((same.kind, same.axis), (expected.kind, expected.axis));
            assert_eq!(
                (&same.layer, &same.readers),
                (&expected.layer, &expected.readers)
            );
            for (a, b) in same.amax.iter().zip(&expected.amax) {
                assert!((a - b).abs() <= 1e-6 * b, "{a} {b}");
            }
        }
    }

    /// As ONNX Runtime has codes behind a ReLU: from 0, in all 256 steps.
    #[test]
    fn unsigned_codes_have_their_own_range() {
        let graph = graph(
            vec![
                node("QuantizeLinear", &["x", "s", "z"], "xq"),
                node("DequantizeLinear", &["xq", "s", "z"], "out"),
            ],
            vec![
                from_floats("s", &[], &[0.5]),
                TensorProto {
                    name: Some("z".to_owned()),
                    data_type: Some(element::UINT8),
                    raw_data: Some(vec![0].into()),
                    ..Default::default()
                },
            ],
        );
        let found = read(&graph).unwrap();
        assert!(found.quantizers.is_empty());
        assert!(
            found.left_out[0].ends_with("its zero point is 0: scale 0.5, values from 0 to 127.5"),
            "{found:?}"
        );
    }

    /// As pytorch-quantization exports: a float weight with a scale per channel, and an activation with one
    /// scale.
    #[test]
    fn pairs_of_float_weights_have_an_amax_per_channel() {
        let scales: Vec<f32> = (1..=16).map(|i| i as f32 / 127.0).collect();
        let mut pair = [
            node("QuantizeLinear", &["conv.weight", "s", "z"], "wq"),
            node("DequantizeLinear", &["wq", "s", "z"], "wd"),
        ];
        pair.iter_mut().for_each(|n| int(n, "axis", 0));
        let [quantize, dequantize] = pair;
        let mut odd = node("DequantizeLinear", &["xq", "t", "three"], "xd");
        odd.name = Some("odd".into());
        let graph = graph(
            vec![
                quantize,
                dequantize,
                node("QuantizeLinear", &["x", "t", "three"], "xq"),
                odd,
                node("Conv", &["xd", "wd"], "out"),
            ],
            vec![
                from_floats("conv.weight", &[16, 1, 1, 1], &[1.0; 16]),
                from_floats("s", &[16], &scales),
                from_codes("z", &[16], &[0; 16]),
                from_floats("t", &[], &[0.5]),
                from_codes("three", &[], &[3]),
            ],
        );
        let found = read(&graph).unwrap();
        let [weight] = &found.quantizers[..] else {
            panic!("{found:?}");
        };
        assert_eq!((weight.kind, weight.axis), (QuantizerKind::Weight, Some(0)));
        assert_eq!(weight.layer.as_deref(), Some("conv"));
        assert_eq!(weight.amax.len(), 16);
        assert!((weight.amax[15] - 16.0).abs() < 1e-5);
        assert_eq!(found.left_out.len(), 1);
        assert!(
            found.left_out[0].contains("odd")
                && found.left_out[0]
                    .ends_with("its zero point is 3: scale 0.5, values from -65.5 to 62"),
            "{found:?}"
        );
    }
}
