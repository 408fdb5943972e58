use super::*;
use crate::build::calibrate::scale;
use crate::build::deconv;
use crate::build::onnx::proto::{NodeProto, TensorProto};
use crate::build::onnx::tensor::{element, from_floats};
use crate::build::testing::{data, graph, int, ints, node, ops};

/// A weight of ones.
fn ones(name: &str, dims: [usize; 4]) -> TensorProto {
    from_floats(name, &dims, &vec![1.0; dims.iter().product()])
}

/// A table of ranges.
fn table(ranges: &[(&str, f32)]) -> BTreeMap<String, f32> {
    ranges.iter().map(|&(n, a)| (n.to_owned(), a)).collect()
}

/// Range 1 for all tensors that need a range.
fn all_ones(graph: &Graph, placement: &Placement) -> BTreeMap<String, f32> {
    let tensors = tensors_to_calibrate(graph, placement).unwrap();
    tensors.into_iter().map(|v| (v, 1.0)).collect()
}

/// x ─ first ─ a ─┬─ mid ─ b ─ up (deconvolution) ─ c ─┐
///                └────────────────────────────────────┴ Concat d ─ shared ─ e ─ head ─ out
fn net() -> Graph {
    let mut up = node("ConvTranspose", &["b", "up.weight"], "c");
    ints(&mut up, "kernel_shape", &[2, 2]);
    ints(&mut up, "strides", &[2, 2]);
    let mut mid = node("Conv", &["a", "mid.weight"], "b");
    ints(&mut mid, "strides", &[2, 2]);
    let mut concat = node("Concat", &["a", "c"], "d");
    int(&mut concat, "axis", 1);
    let nodes = vec![
        node("Conv", &["x", "first.weight"], "a0"),
        node("Relu", &["a0"], "a"),
        mid,
        up,
        concat,
        node("Conv", &["d", "shared.weight"], "e"),
        node("Conv", &["e", "head.weight"], "out"),
    ];
    let tensors = vec![
        ones("first.weight", [4, 2, 1, 1]),
        ones("mid.weight", [4, 4, 1, 1]),
        ones("up.weight", [4, 4, 2, 2]),
        ones("shared.weight", [4, 8, 1, 1]),
        ones("head.weight", [1, 4, 1, 1]),
    ];
    let mut graph = graph(nodes, tensors);
    deconv::rewrite(&mut graph).unwrap();
    graph
}

/// The value that the map input of each layer reads, with the layer's name.
fn reads(graph: &Graph) -> Vec<(String, String)> {
    let layers = layers(graph).unwrap();
    let input =
        |l: &placement::QuantizableLayer| graph.producer(&l.output).unwrap().input(0).unwrap();
    let all = layers.iter().map(|l| (l.name.clone(), input(l).to_owned()));
    all.collect()
}

#[test]
fn every_layer_reads_codes_through_one_pair_per_tensor() {
    let graph = net();
    let placement = Placement::default();
    assert_eq!(
        tensors_to_calibrate(&graph, &placement).unwrap(),
        ["x", "a", "b", "d", "e"]
    );
    let made = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
    assert!(made.warnings.is_empty());
    for (layer, input) in reads(&made.graph) {
        assert!(input.ends_with("_dequantized"), "{layer} reads {input}");
    }
    let count = |op: &str| ops(&made.graph).iter().filter(|o| **o == op).count();
    assert_eq!(
        (count("QuantizeLinear"), count("DequantizeLinear")),
        (5, 10)
    );
    // `a` has one pair for both readers: the Concat's output is only used as codes, so it reads the pair, too.
    let users: Vec<&str> = made
        .graph
        .consumers("a_dequantized")
        .map(|n| n.op())
        .collect();
    assert_eq!(users, ["Conv", "Concat"]);
    let readers = |tensor: &str| {
        let found = made.quantizers.iter().find(|q| q.tensor == tensor);
        found.unwrap().readers.clone()
    };
    assert_eq!(readers("a"), ["mid"]);
    assert_eq!(readers("up.weight"), ["up"]);
    // Biases and Relu have no pairs, and weights keep their names after their pair.
    assert_eq!(made.graph.producer("a").unwrap().input(0), Some("a0"));
    let first = made.graph.producer("first.weight").unwrap();
    assert_eq!(first.op(), "DequantizeLinear");
    let codes = made.graph.initializer("first.weight_quantized").unwrap();
    assert_eq!(codes.data_type(), element::INT8);
    assert_eq!(layers(&made.graph).unwrap()[0].name, "first");
}

#[test]
fn a_concat_and_its_inputs_share_the_largest_scale() {
    let graph = net();
    let ranges = table(&[("x", 1.0), ("a", 2.0), ("b", 3.0), ("d", 5.0), ("e", 7.0)]);
    let made = insert_qdq(&graph, &ranges, &Placement::default()).unwrap();
    for (tensor, amax, own) in [
        ("x", 1.0, None),
        ("a", 5.0, Some(2.0)),
        ("b", 3.0, None),
        ("d", 5.0, None),
        ("e", 7.0, None),
    ] {
        let found = made.quantizers.iter().find(|q| q.tensor == tensor);
        let found = found.unwrap();
        assert_eq!(
            (&found.amax[..], found.own_amax),
            (&[amax][..], own),
            "{tensor}"
        );
        let scale = data(&made.graph, &format!("{tensor}_scale"));
        assert_eq!(scale, [amax / 127.0], "{tensor}");
    }
    // If the Concat's reader is skipped, nothing is shared and the Concat reads floats.
    let placement = Placement {
        skip: vec!["shared".to_owned()],
        ..Placement::default()
    };
    let made = insert_qdq(&graph, &ranges, &placement).unwrap();
    assert_eq!(data(&made.graph, "a_scale"), [2.0 / 127.0]);
    assert_eq!(made.graph.producer("d").unwrap().input(0), Some("a"));
}

#[test]
fn options_leave_layers_in_float() {
    let graph = net();
    let quantised = |placement: &Placement| -> Vec<String> {
        let ranges = all_ones(&graph, placement);
        let made = insert_qdq(&graph, &ranges, placement).unwrap();
        let all = reads(&made.graph).into_iter();
        all.filter(|(_, input)| input.ends_with("_dequantized"))
            .map(|(layer, _)| layer)
            .collect()
    };
    let default = Placement::default;
    let list = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for (placement, expected) in [
        (default(), &["first", "mid", "up", "shared", "head"][..]),
        (
            Placement {
                first_layer: false,
                ..default()
            },
            &["mid", "up", "shared", "head"],
        ),
        (
            Placement {
                heads: false,
                ..default()
            },
            &["first", "mid", "up", "shared"],
        ),
        (
            Placement {
                deconvolutions: false,
                ..default()
            },
            &["first", "mid", "shared", "head"],
        ),
        (
            Placement {
                skip: list(&["m?d", "s*"]),
                ..default()
            },
            &["first", "up", "head"],
        ),
        (
            // Also matches node names.
            Placement {
                only: Some(list(&["Conv.e", "up"])),
                ..default()
            },
            &["up", "shared"],
        ),
        (
            Placement {
                only: Some(list(&["up", "mid"])),
                skip: list(&["up"]),
                ..default()
            },
            &["mid"],
        ),
    ] {
        assert_eq!(quantised(&placement), expected, "{placement:?}");
    }
}

#[test]
fn skipped_layers_read_floats_and_keep_their_weight() {
    let graph = net();
    let placement = Placement {
        skip: vec!["mid".to_owned()],
        ..Placement::default()
    };
    let made = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
    let mid = made.graph.producer("b").unwrap();
    assert_eq!(mid.input(0), Some("a"));
    assert!(made.graph.initializer("mid.weight").is_some());
    // Only the Concat reads `a`, and it has no pairs of its own.
    let tensors = tensors_to_calibrate(&graph, &placement).unwrap();
    assert_eq!(tensors, ["x", "b", "d", "e"]);
}

#[test]
fn patterns_without_a_match_and_empty_selections_cause_warnings() {
    let graph = net();
    let placement = Placement {
        skip: vec!["up".to_owned(), "pts_neck.deblocks.*".to_owned()],
        ..Placement::default()
    };
    let made = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
    let expected = "skip pattern \"pts_neck.deblocks.*\" matches no layer; layer names look \
                    like \"first\"";
    assert_eq!(made.warnings, [expected]);
    let placement = Placement {
        only: Some(vec!["none".to_owned()]),
        ..Placement::default()
    };
    let made = insert_qdq(&graph, &BTreeMap::new(), &placement).unwrap();
    assert_eq!(made.warnings.len(), 2, "{:?}", made.warnings);
    assert!(made.warnings[1].contains("no layer to quantise"));
    assert_eq!(ops(&made.graph), ops(&graph));
}

/// x ─ one ─ a ─┬─ two ─ b ─ Add ─ s ─ three ─ out
///              └────────────┘
fn residual(order: [&str; 2]) -> Graph {
    let nodes = vec![
        node("Conv", &["x", "one.weight"], "a0"),
        node("Relu", &["a0"], "a"),
        node("Conv", &["a", "two.weight"], "b"),
        node("Add", &order, "s"),
        node("Conv", &["s", "three.weight"], "out"),
    ];
    let weights = ["one", "two", "three"].map(|n| ones(&format!("{n}.weight"), [2, 2, 1, 1]));
    graph(nodes, weights.to_vec())
}

#[test]
fn an_add_reads_the_residual_as_codes_and_the_convolution_as_floats() {
    for order in [["a", "b"], ["b", "a"]] {
        let graph = residual(order);
        let placement = Placement::default();
        assert_eq!(
            tensors_to_calibrate(&graph, &placement).unwrap(),
            ["x", "a", "s"]
        );
        let made = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
        let add = made.graph.producer("s").unwrap();
        let expected = order.map(|v| if v == "a" { "a_dequantized" } else { "b" });
        assert_eq!(add.proto.input, expected);
        let found = made.quantizers.iter().find(|q| q.tensor == "a").unwrap();
        assert_eq!(found.readers, ["two", "two"]);
        // The Add stays in float if its layer is skipped, or the Add itself by name.
        for skip in ["two", "Add.s"] {
            let placement = Placement {
                skip: vec![skip.to_owned()],
                ..Placement::default()
            };
            let made = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
            assert!(made.warnings.is_empty());
            let add = made.graph.producer("s").unwrap();
            assert_eq!(add.proto.input, order);
        }
    }
}

/// Convolutions also read both inputs of the Add, so both have pairs: QuantAdd has one scale.
#[test]
fn an_add_of_two_coded_tensors_reads_both_with_one_scale() {
    let nodes = vec![
        node("Conv", &["x", "one.weight"], "a0"),
        node("Relu", &["a0"], "a"),
        node("Conv", &["a", "two.weight"], "b0"),
        node("Relu", &["b0"], "b"),
        node("Add", &["a", "b"], "s"),
        node("Conv", &["b", "three.weight"], "c"),
        node("Conv", &["s", "four.weight"], "d"),
        node("Add", &["c", "d"], "out"),
    ];
    let names = ["one", "two", "three", "four"];
    let weights = names.map(|n| ones(&format!("{n}.weight"), [2, 2, 1, 1]));
    let graph = graph(nodes, weights.to_vec());
    // The last Add sums two convolutions: the later one takes the other's output as its residual.
    let ranges = table(&[("x", 1.0), ("a", 2.0), ("b", 3.0), ("s", 4.0), ("c", 5.0)]);
    let tensors = tensors_to_calibrate(&graph, &Placement::default()).unwrap();
    assert_eq!(tensors, ["x", "a", "b", "s", "c"]);
    let made = insert_qdq(&graph, &ranges, &Placement::default()).unwrap();
    let inputs = |value: &str| made.graph.producer(value).unwrap().proto.input.clone();
    assert_eq!(inputs("s"), ["a_dequantized", "b_dequantized"]);
    assert_eq!(inputs("out"), ["c_dequantized", "d"]);
    for (tensor, amax) in [("a", 3.0), ("b", 3.0), ("s", 4.0), ("c", 5.0)] {
        let scale = data(&made.graph, &format!("{tensor}_scale"));
        assert_eq!(scale, [amax / 127.0], "{tensor}");
    }
    // If one input stays in float, so does the Add.
    let placement = Placement {
        skip: vec!["three".to_owned(), "four".to_owned()],
        ..Placement::default()
    };
    let made = insert_qdq(&graph, &ranges, &placement).unwrap();
    assert_eq!(made.graph.producer("s").unwrap().proto.input, ["a", "b"]);
}

#[test]
fn max_pool_and_depth_to_space_share_the_scale_of_their_input() {
    let mut pool = node("MaxPool", &["a"], "p");
    ints(&mut pool, "kernel_shape", &[2, 2]);
    let nodes = vec![
        node("Conv", &["x", "one.weight"], "a"),
        pool,
        node("Conv", &["p", "two.weight"], "b"),
        node("Conv", &["a", "three.weight"], "c"),
        node("Add", &["b", "c"], "out"),
    ];
    let weights = ["one", "two", "three"].map(|n| ones(&format!("{n}.weight"), [2, 2, 1, 1]));
    let graph = graph(nodes, weights.to_vec());
    let ranges = table(&[("x", 1.0), ("a", 4.0), ("p", 3.0), ("b", 9.0)]);
    let made = insert_qdq(&graph, &ranges, &Placement::default()).unwrap();
    let amax = |tensor: &str| {
        let found = made.quantizers.iter().find(|q| q.tensor == tensor);
        found.unwrap().amax[0]
    };
    assert_eq!((amax("a"), amax("p"), amax("b")), (4.0, 4.0, 9.0));
    assert_eq!(
        made.graph.producer("p").unwrap().input(0),
        Some("a_dequantized")
    );
}

/// Weights and expected codes: numpy, `np.rint(w / np.float32(amax / np.float32(127)))`.
#[test]
fn weights_are_rounded_per_output_channel() {
    let weight = [0.5, -1.0, 0.25, 0.0, 0.0, 0.0];
    for (op, dims, axis, amax, codes) in [
        // Channels are rows.
        (
            "Conv",
            [2, 3, 1, 1],
            0,
            vec![1.0, 0.0],
            [64, -127, 32, 0, 0, 0],
        ),
        // Channels are columns.
        (
            "ConvTranspose",
            [2, 3, 1, 1],
            1,
            vec![0.5, 1.0, 0.25],
            [127, -127, 127, 0, 0, 0],
        ),
    ] {
        let tensors = vec![from_floats("c.weight", &dims, &weight)];
        let graph = graph(vec![node(op, &["x", "c.weight"], "out")], tensors);
        let made = insert_qdq(&graph, &table(&[("x", 0.0)]), &Placement::default()).unwrap();
        let quantizer = &made.quantizers[1];
        assert_eq!(
            (quantizer.axis, &quantizer.amax),
            (Some(axis), &amax),
            "{op}"
        );
        assert_eq!(quantizer.layer.as_deref(), Some("c"));
        let found = made.graph.integers("c.weight_quantized").unwrap().unwrap();
        assert_eq!(found.data, codes.map(i64::from), "{op}");
        let scales: Vec<f32> = amax
            .iter()
            .map(|&a| if a == 0.0 { 1.0 } else { a / 127.0 })
            .collect();
        assert_eq!(data(&made.graph, "c.weight_scale"), scales);
        let dequantize = made.graph.producer("c.weight").unwrap();
        assert_eq!(dequantize.int("axis", 1).unwrap(), axis as i64);
        // Tensors that are always zero have scale 1, and so do ranges that are too small to divide by.
        assert_eq!(data(&made.graph, "x_scale"), [1.0]);
    }
    assert_eq!(scale(f32::MIN_POSITIVE), 1.0);
    assert_eq!(scale(2.0_f32.powi(-24)), 1.0);
    assert!(scale(2.0_f32.powi(-23)) > 0.0);
    assert!(scale(f32::MAX).is_finite());
}

#[test]
fn channels_of_matrices_lie_on_the_output_axis() {
    for (op, transposed, axis) in [("MatMul", 0, 1), ("Gemm", 0, 1), ("Gemm", 1, 0)] {
        let mut product = node(op, &["x", "w"], "out");
        if transposed == 1 {
            int(&mut product, "transB", 1);
        }
        let weight = [1.0, 2.0, 3.0, 4.0];
        let graph = graph(vec![product], vec![from_floats("w", &[2, 2], &weight)]);
        let made = insert_qdq(&graph, &table(&[("x", 1.0)]), &Placement::default()).unwrap();
        let expected = if axis == 1 { [3.0, 4.0] } else { [2.0, 4.0] };
        assert_eq!(made.quantizers[1].axis, Some(axis), "{op}");
        assert_eq!(made.quantizers[1].amax, expected, "{op}");
    }
}

#[test]
fn a_weight_that_a_skipped_layer_shares_keeps_its_values() {
    let nodes = vec![
        node("Conv", &["x", "w.weight"], "a"),
        node("Conv", &["a", "w.weight"], "b"),
        node("Conv", &["b", "w.weight"], "out"),
    ];
    let graph = graph(nodes, vec![ones("w.weight", [2, 2, 1, 1])]);
    let placement = Placement {
        skip: vec!["Conv.b".to_owned()],
        ..Placement::default()
    };
    let made = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
    let weight = |value: &str| made.graph.producer(value).unwrap().input(1).unwrap();
    assert_eq!(weight("a"), "w.weight_dequantized");
    assert_eq!(weight("b"), "w.weight");
    assert_eq!(weight("out"), "w.weight_dequantized");
    assert_eq!(data(&made.graph, "w.weight"), [1.0; 4]);
    assert_eq!(made.quantizers.len(), 3);
}

#[test]
fn existing_names_are_not_reused() {
    let nodes = vec![
        node("Relu", &["x"], "x_scale"),
        node("Relu", &["x_scale"], "x_dequantized"),
        node("Add", &["x_scale", "x_dequantized"], "a"),
        node("Conv", &["x", "c.weight"], "b"),
        node("Add", &["a", "b"], "out"),
    ];
    let graph = graph(nodes, vec![ones("c.weight", [2, 2, 1, 1])]);
    let placement = Placement::default();
    let made = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
    let conv = made.graph.producer("b").unwrap();
    assert_eq!(conv.input(0), Some("x_dequantized_1"));
    let again = insert_qdq(&graph, &all_ones(&graph, &placement), &placement).unwrap();
    assert_eq!(made.graph.to_model(), again.graph.to_model());
}

#[test]
fn a_calibration_of_another_network_is_rejected_with_the_tensors() {
    let graph = net();
    let message = |ranges: &[(&str, f32)]| {
        let made = insert_qdq(&graph, &table(ranges), &Placement::default());
        made.unwrap_err().to_string()
    };
    let none = message(&[("elsewhere", 1.0)]);
    assert_eq!(
        none,
        "net.onnx: the calibration has no range for 5 of 5 tensors: \"x\", \"a\", \"b\", \"d\", …; it \
         belongs to another network: calibrate this one"
    );
    let one = message(&[("x", 1.0), ("a", 1.0), ("b", 1.0), ("d", 1.0)]);
    assert!(one.contains("1 of 5 tensors: \"e\";"), "{one}");
    for (bad, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let ranges = [("x", 1.0), ("a", bad), ("b", 1.0), ("d", 1.0), ("e", 1.0)];
        let found = message(&ranges);
        assert!(
            found.contains(&format!("range of tensor \"a\" is {text}, expected")),
            "{found}"
        );
    }
}

#[test]
fn graphs_that_cannot_be_quantised_are_rejected_by_name() {
    let refused = |nodes: Vec<NodeProto>, weight: f32| {
        let tensors = vec![from_floats("w", &[1, 1, 1, 2], &[1.0, weight])];
        let graph = graph(nodes, tensors);
        let made = insert_qdq(&graph, &table(&[("x", 1.0)]), &Placement::default());
        made.unwrap_err().to_string()
    };
    let conv = || node("Conv", &["x", "w"], "out");
    let message = refused(vec![conv()], f32::NAN);
    assert!(
        message.contains("tensor \"w\": channel 0 has the value NaN"),
        "{message}"
    );
    let graph = graph(vec![conv()], vec![ones("w", [1, 1, 1, 1])]);
    let made = insert_qdq(&graph, &table(&[("x", 1.0)]), &Placement::default()).unwrap();
    let again = insert_qdq(&made.graph, &table(&[("x", 1.0)]), &Placement::default());
    let message = again.unwrap_err().to_string();
    assert!(message.contains("already quantised"), "{message}");
}

#[test]
fn placement_reads_from_toml_and_refuses_unknown_keys() {
    let placement: Placement = toml::from_str("skip = [\"a.*\"]\nheads = false").unwrap();
    assert_eq!(placement.skip, ["a.*"]);
    assert!(!placement.heads && placement.first_layer && placement.only.is_none());
    assert!(toml::from_str::<Placement>("head = false").is_err());
}
