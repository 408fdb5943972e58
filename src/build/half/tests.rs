use super::*;
use crate::build::onnx::tensor::{from_codes, from_floats};
use crate::build::quantize::{Placement, insert_qdq, tensors_to_calibrate};
use crate::build::testing::{data, int, node, ops, shaped};

/// x ─ Conv a ─ Relu ─ Conv b ─ BatchNormalization ─ out, with the layers `skip` in float.
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
    // Declares the type of the output.
    graph
        .edit(|proto| proto.output[0].r#type = proto.input[0].r#type.clone())
        .unwrap();
    let placement = Placement {
        skip: skip.iter().map(|&s| s.to_owned()).collect(),
        ..Placement::default()
    };
    let tensors = tensors_to_calibrate(&graph, &placement).unwrap();
    let ranges = tensors.into_iter().map(|v| (v, amax)).collect();
    insert_qdq(&graph, &ranges, &placement).unwrap().graph
}

/// The values with this element type, sorted.
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

/// The strongly typed network with FLOAT input and outputs.
fn between_floats(graph: &Graph) -> Result<Graph> {
    let io = Io {
        input: Element::F32,
        outputs: Element::F32,
    };
    strongly_typed(graph, &io).map(|typed| typed.graph)
}

/// The strongly typed network with INT8 codes as input.
fn reading_codes(graph: &Graph) -> Result<StronglyTyped> {
    let io = Io {
        input: Element::I8,
        ..Io::default()
    };
    strongly_typed(graph, &io)
}

/// Declared element types of the input and the output.
fn declared(graph: &Graph) -> [i32; 2] {
    [graph.inputs().unwrap(), graph.outputs().unwrap()].map(|values| values[0].element)
}

#[test]
fn only_inputs_and_outputs_are_floats() {
    for skip in [&[][..], &["a"], &["a", "b"]] {
        let graph = quantised(skip, 1.0, 0.5);
        let half = between_floats(&graph).unwrap();
        assert_eq!(values(&half, element::FLOAT), ["out", "x"], "{skip:?}");
        let all_ops = ops(&half);
        assert_eq!((all_ops[0], all_ops.last()), ("Cast", Some(&"Cast")));
        assert_eq!(half.opset(), if skip.len() == 2 { 13 } else { 19 });
        // Rounded, not truncated: 0.1 is 0x2e66.
        assert_eq!(data(&half, "a.bias"), [0.099_975_586, 0.199_951_17]);
        let again = between_floats(&graph).unwrap();
        assert_eq!(half.to_model(), again.to_model());
    }
}

#[test]
fn inputs_and_outputs_are_halves_by_default() {
    for skip in [&[][..], &["a"], &["a", "b"]] {
        let graph = quantised(skip, 1.0, 0.5);
        let half = strongly_typed(&graph, &Io::default()).unwrap();
        assert_eq!(values(&half.graph, element::FLOAT), [""; 0], "{skip:?}");
        assert_eq!(declared(&half.graph), [element::FLOAT16; 2]);
        assert!(!ops(&half.graph).contains(&"Cast"));
        assert_eq!(ops(&half.graph), ops(&graph));
        assert_eq!(half.input_scale, None);
        let io = Io {
            input: Element::F16,
            outputs: Element::F32,
        };
        let mixed = strongly_typed(&graph, &io).unwrap().graph;
        assert_eq!(declared(&mixed), [element::FLOAT16, element::FLOAT]);
        assert_eq!(values(&mixed, element::FLOAT), ["out"]);
        assert_eq!(ops(&mixed).last(), Some(&"Cast"));
    }
}

#[test]
fn the_codes_of_the_first_layers_can_be_the_input() {
    let graph = quantised(&[], 1.0, 0.5);
    let made = reading_codes(&graph).unwrap();
    // 1 / 127 as a half, like the scale of the network's DequantizeLinear.
    assert_eq!(made.input_scale, Some(0.007_873_535));
    assert_eq!(data(&made.graph, "x_scale"), [0.007_873_535]);
    assert_eq!(declared(&made.graph), [element::INT8, element::FLOAT16]);
    let mut expected = ops(&graph);
    let first = expected.iter().position(|op| *op == "QuantizeLinear");
    expected.remove(first.unwrap());
    let mut found = ops(&made.graph);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let readers: Vec<&str> = made.graph.consumers("x").map(|n| n.op()).collect();
    assert_eq!(readers, ["DequantizeLinear"]);
}

#[test]
fn an_input_that_is_read_in_float_cannot_be_codes() {
    let message = |graph: &Graph| reading_codes(graph).unwrap_err().to_string();
    let float = message(&quantised(&["a"], 1.0, 0.5));
    assert!(
        float.starts_with(
            "net.onnx: the input cannot be INT8: node \"Conv.y\" (Conv) reads \"x\" in float"
        ),
        "{float}"
    );
    let pair = |scale: &str, zero: &[&str], codes: &str| {
        node("QuantizeLinear", &[&["x", scale], zero].concat(), codes)
    };
    let tensors = vec![
        from_floats("s", &[], &[0.5]),
        from_floats("s2", &[2], &[0.5; 2]),
        from_codes("z", &[], &[0]),
        from_codes("three", &[], &[3]),
    ];
    let back = |codes: &str, to: &str| node("DequantizeLinear", &[codes, "s", "z"], to);
    let twice = vec![
        pair("s", &["z"], "q1"),
        pair("s", &["z"], "q2"),
        back("q1", "d1"),
        back("q2", "d2"),
        node("Add", &["d1", "d2"], "out"),
    ];
    for (nodes, needle) in [
        (twice, "2 QuantizeLinear nodes read \"x\", expected one"),
        (
            vec![pair("s2", &["z"], "q"), back("q", "out")],
            "has 2 constant scales, expected one",
        ),
        (
            vec![pair("s", &["three"], "q"), back("q", "out")],
            "its zero point is 3, but TensorRT takes only codes with zero point 0",
        ),
        (
            vec![pair("s", &[], "q"), back("q", "out")],
            "does not produce signed codes around 0",
        ),
        (
            vec![pair("s", &["z"], "out")],
            "or they are an output of the network",
        ),
    ] {
        let found = message(&shaped(nodes, tensors.clone(), Some(&[1, 2, 4, 4])));
        assert!(found.contains(needle), "{needle}: {found}");
    }
}

#[test]
fn int8_outputs_are_rejected() {
    let outputs = Io {
        outputs: Element::I8,
        ..Io::default()
    };
    let error = strongly_typed(&quantised(&[], 1.0, 0.5), &outputs).unwrap_err();
    assert!(
        error.to_string().contains("outputs cannot be INT8"),
        "{error}"
    );
}

#[test]
fn a_cast_to_float_becomes_a_cast_to_half() {
    let mut to_int = node("Cast", &["x"], "i");
    int(&mut to_int, "to", element::INT32.into());
    let mut back = node("Cast", &["i"], "f");
    int(&mut back, "to", element::FLOAT.into());
    let nodes = vec![to_int, back, node("Relu", &["f"], "out")];
    let half = between_floats(&shaped(nodes, vec![], Some(&[1]))).unwrap();
    assert_eq!(values(&half, element::FLOAT), ["out", "x"]);
    assert_eq!(values(&half, element::INT32), ["i"]);
}

#[test]
fn scales_and_constants_out_of_range_are_named() {
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
        let message = between_floats(&graph).unwrap_err().to_string();
        assert!(message.contains(needle), "{message}");
    }
    between_floats(&quantised(&["a"], 1.0, 65519.0)).unwrap();
}

#[test]
fn small_weights_get_codes_for_the_rounded_scale() {
    for (weight, codes) in [(0.5, 127), (1e-3, 126), (1e-5, 84)] {
        let graph = quantised(&[], 1.0, weight);
        let half = between_floats(&graph).unwrap();
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
    let made = insert_qdq(&graph, &ranges, &Placement::default()).unwrap();
    let half = between_floats(&made.graph).unwrap();
    let codes = half.integers("c.weight_quantized").unwrap().unwrap();
    assert_eq!(codes.data, [127, 64, 84, -84]);
    let zeros = half.integers("c.weight_zero_point").unwrap().unwrap();
    assert_eq!(zeros.data, [0, 0]);
}

#[test]
fn operators_that_need_floats_are_rejected() {
    let nodes = vec![node("Resize", &["x"], "out")];
    let graph = shaped(nodes, vec![from_codes("z", &[], &[0])], Some(&[1]));
    let message = between_floats(&graph).unwrap_err().to_string();
    assert!(message.contains("\"Resize.out\" (Resize)"), "{message}");
}
