use super::*;
use crate::build::onnx::proto::AttributeProto;
use crate::build::onnx::tensor::from_floats;
use crate::build::testing::{data, graph, int, ints, node, ops};

/// Scale, bias, mean and variance of a BatchNormalization with ε = 0 that computes `y = x·s + t` per
/// channel.
fn norm(name: &str, s: &[f32], t: &[f32]) -> [TensorProto; 4] {
    let four = vec![4.0; s.len()];
    let doubled: Vec<f32> = s.iter().map(|v| v * 2.0).collect();
    // With mean 1 the bias is t + s.
    let bias: Vec<f32> = t.iter().zip(s).map(|(t, s)| t + s).collect();
    let tensor = |part: &str, v: &[f32]| from_floats(&format!("{name}.{part}"), &[s.len()], v);
    [
        tensor("s", &doubled),
        tensor("b", &bias),
        tensor("m", &vec![1.0; s.len()]),
        tensor("v", &four),
    ]
}

fn bn(name: &str, input: &str, output: &str) -> NodeProto {
    let parts = ["s", "b", "m", "v"].map(|part| format!("{name}.{part}"));
    let mut inputs = vec![input];
    inputs.extend(parts.iter().map(String::as_str));
    let mut node = node("BatchNormalization", &inputs, output);
    node.attribute.push(AttributeProto {
        name: Some("epsilon".to_owned()),
        f: Some(0.0),
        ..Default::default()
    });
    node
}

#[test]
fn conv_scales_its_first_axis() {
    let mut tensors = vec![
        from_floats("c.weight", &[2, 1, 1, 2], &[1.0, 2.0, 3.0, 4.0]),
        from_floats("c.bias", &[2], &[10.0, 20.0]),
    ];
    tensors.extend(norm("n", &[2.0, -1.0], &[0.5, 0.25]));
    let nodes = vec![
        node("Conv", &["x", "c.weight", "c.bias"], "y"),
        bn("n", "y", "out"),
    ];
    let mut graph = graph(nodes, tensors);
    let report = fuse(&mut graph, &[]).unwrap();
    assert_eq!(ops(&graph), ["Conv"]);
    assert_eq!(data(&graph, "c.weight"), [2.0, 4.0, -3.0, -4.0]);
    assert_eq!(data(&graph, "c.bias"), [20.5, -19.75]);
    assert_eq!(graph.proto().initializer.len(), 2);
    assert_eq!(
        report.fused[0].node,
        "\"BatchNormalization.out\" (BatchNormalization)"
    );
    assert_eq!(report.fused[0].into, "\"Conv.y\" (Conv)");
}

#[test]
fn conv_transpose_scales_its_second_axis_by_group() {
    // Two groups of one input channel and two output channels each.
    let mut tensors = vec![from_floats("u.weight", &[2, 2, 1, 1], &[1.0; 4])];
    tensors.extend(norm("n", &[1.0, 2.0, 3.0, 4.0], &[0.0, 0.0, 0.0, 5.0]));
    let mut up = node("ConvTranspose", &["x", "u.weight"], "y");
    int(&mut up, "group", 2);
    let mut graph = graph(vec![up, bn("n", "y", "out")], tensors);
    fuse(&mut graph, &[]).unwrap();
    assert_eq!(data(&graph, "u.weight"), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(data(&graph, "u.bias"), [0.0, 0.0, 0.0, 5.0]);
}

#[test]
fn gemm_scales_its_outputs_and_folds_beta() {
    for by_row in [false, true] {
        let dims = if by_row { [2, 3] } else { [3, 2] };
        let mut tensors = vec![
            from_floats("w", &dims, &[1.0; 6]),
            from_floats("c", &[2], &[10.0, 20.0]),
        ];
        tensors.extend(norm("n", &[2.0, 3.0], &[0.0, 1.0]));
        let mut gemm = node("Gemm", &["x", "w", "c"], "y");
        int(&mut gemm, "transB", i64::from(by_row));
        gemm.attribute.push(AttributeProto {
            name: Some("beta".to_owned()),
            f: Some(0.5),
            ..Default::default()
        });
        let mut graph = graph(vec![gemm, bn("n", "y", "out")], tensors);
        fuse(&mut graph, &[]).unwrap();
        let expected = if by_row {
            [2.0, 2.0, 2.0, 3.0, 3.0, 3.0]
        } else {
            [2.0, 3.0, 2.0, 3.0, 2.0, 3.0]
        };
        assert_eq!(data(&graph, "w"), expected);
        assert_eq!(data(&graph, "c"), [10.0, 31.0]);
        let gemm = graph.producer("out").unwrap();
        assert_eq!(gemm.float("beta", 1.0).unwrap(), 1.0);
    }
}

#[test]
fn a_product_gets_an_add_and_the_transposes_are_removed() {
    let mut tensors = vec![from_floats("w", &[3, 2], &[1.0; 6])];
    tensors.extend(norm("n", &[2.0, 3.0], &[0.5, 1.0]));
    let mut there = node("Transpose", &["y"], "t");
    let mut back = node("Transpose", &["n"], "out");
    for transpose in [&mut there, &mut back] {
        ints(transpose, "perm", &[0, 2, 1]);
    }
    let nodes = vec![
        node("MatMul", &["x", "w"], "y"),
        there,
        bn("n", "t", "n"),
        back,
    ];
    let mut graph = graph(nodes, tensors);
    fuse(&mut graph, &[]).unwrap();
    assert_eq!(ops(&graph), ["MatMul", "Add"]);
    assert_eq!(data(&graph, "w"), [2.0, 3.0, 2.0, 3.0, 2.0, 3.0]);
    let add = graph.producer("out").unwrap();
    assert_eq!(data(&graph, add.input(1).unwrap()), [0.5, 1.0]);
}

/// Pairing by the order of modules fails here: the first norm belongs to the second convolution.
#[test]
fn pairs_are_found_by_data_flow_not_by_order() {
    let mut tensors = vec![
        from_floats("a", &[128, 1, 1, 1], &[1.0; 128]),
        from_floats("b", &[256, 128, 1, 1], &[1.0; 256 * 128]),
    ];
    tensors.extend(norm("wide", &[2.0; 256], &[0.0; 256]));
    tensors.extend(norm("narrow", &[3.0; 128], &[0.0; 128]));
    let nodes = vec![
        bn("wide", "q", "out"),
        bn("narrow", "p", "r"),
        node("Conv", &["x", "a"], "p"),
        node("Conv", &["r", "b"], "q"),
    ];
    let mut graph = graph(nodes, tensors);
    let report = fuse(&mut graph, &[]).unwrap();
    assert_eq!((report.fused.len(), report.kept.len()), (2, 0));
    assert_eq!(data(&graph, "a"), [3.0; 128]);
    assert_eq!(data(&graph, "b"), [2.0; 256 * 128]);
}

#[test]
fn nodes_that_cannot_be_folded_stay_with_a_reason() {
    let weight = || from_floats("w", &[2, 1, 1, 1], &[1.0; 2]);
    let case = |nodes: Vec<NodeProto>, channels: usize| {
        let mut tensors = vec![weight()];
        tensors.extend(norm("n", &vec![1.0; channels], &vec![0.0; channels]));
        let mut graph = graph(nodes, tensors);
        let report = fuse(&mut graph, &[]).unwrap();
        assert!(report.fused.is_empty());
        assert!(ops(&graph).contains(&"BatchNormalization"));
        report.kept[0].reason.clone()
    };
    let conv = || node("Conv", &["x", "w"], "y");
    let reason = case(vec![conv(), bn("n", "y", "out")], 3);
    assert_eq!(reason, "it has 3 channels, the node before it makes 2");
    let reason = case(
        vec![conv(), bn("n", "y", "z"), node("Add", &["y", "z"], "out")],
        2,
    );
    assert_eq!(reason, "what \"Conv.y\" (Conv) makes is used 2 times");
    let reason = case(vec![bn("n", "x", "out")], 2);
    assert_eq!(reason, "its input \"x\" is made by no node");
    let nodes = vec![conv(), node("Relu", &["y"], "r"), bn("n", "r", "out")];
    let reason = case(nodes, 2);
    assert!(reason.contains("(Relu), which cannot take it"), "{reason}");
}

#[test]
fn a_shared_weight_is_copied() {
    let mut tensors = vec![from_floats("w", &[1, 1, 1, 1], &[1.0])];
    tensors.extend(norm("n", &[2.0], &[0.0]));
    let nodes = vec![
        node("Conv", &["x", "w"], "a"),
        bn("n", "a", "b"),
        node("Conv", &["b", "w"], "out"),
    ];
    let mut graph = graph(nodes, tensors);
    fuse(&mut graph, &[]).unwrap();
    let weights: Vec<f32> = graph
        .nodes()
        .map(|n| data(&graph, n.input(1).unwrap())[0])
        .collect();
    assert_eq!(weights, [2.0, 1.0]);
}

/// torch exports a grouped ConvTranspose so that the row of each input channel only holds the output
/// channels of its own group.
#[test]
fn grouped_conv_transpose_uses_the_scales_of_each_groups_channels() {
    // Four input channels, two groups, two output channels per group, two taps.
    let mut tensors = vec![
        from_floats("u.weight", &[4, 2, 1, 2], &[1.0; 16]),
        from_floats("u.bias", &[4], &[1.0; 4]),
    ];
    tensors.extend(norm("n", &[1.0, 2.0, 3.0, 4.0], &[0.0, 0.5, 0.0, 0.25]));
    let mut up = node("ConvTranspose", &["x", "u.weight", "u.bias"], "y");
    int(&mut up, "group", 2);
    let mut graph = graph(vec![up, bn("n", "y", "out")], tensors);
    let report = fuse(&mut graph, &[]).unwrap();
    assert_eq!((report.fused.len(), report.kept.len()), (1, 0));
    let (first, second) = ([1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]);
    let expected = [first, first, second, second].concat();
    assert_eq!(data(&graph, "u.weight"), expected);
    assert_eq!(data(&graph, "u.bias"), [1.0, 2.5, 3.0, 4.25]);
}

/// A ConvTranspose from 256 to 128 channels, whose weight has 256 on axis 0: axis 1 is scaled, and a
/// norm of 256 channels does not match (other tools fail with "The size of tensor a (256) must match…").
#[test]
fn a_deconvolution_is_matched_by_its_output_channels() {
    for (channels, fused) in [(128, true), (256, false)] {
        let mut tensors = vec![from_floats(
            "u.weight",
            &[256, 128, 1, 1],
            &vec![1.0; 256 * 128],
        )];
        tensors.extend(norm("n", &vec![2.0; channels], &vec![0.0; channels]));
        let up = node("ConvTranspose", &["x", "u.weight"], "y");
        let mut graph = graph(vec![up, bn("n", "y", "out")], tensors);
        let report = fuse(&mut graph, &[]).unwrap();
        assert_eq!(report.fused.len(), usize::from(fused));
        assert_eq!(
            data(&graph, "u.weight"),
            vec![if fused { 2.0 } else { 1.0 }; 256 * 128]
        );
        if let [kept] = &report.kept[..] {
            let reason = "it has 256 channels, the node before it makes 128";
            assert_eq!(kept.reason, reason);
        }
    }
}

/// In a PFN the norm's channels are on axis 1 only after the Transpose. One that moves the points there
/// must not match, even if the lengths agree.
#[test]
fn a_transpose_that_does_not_move_the_last_axis_to_1_blocks_folding() {
    let mut tensors = vec![from_floats("w", &[3, 2], &[1.0; 6])];
    tensors.extend(norm("n", &[2.0, 3.0], &[0.5, 1.0]));
    let mut there = node("Transpose", &["y"], "t");
    ints(&mut there, "perm", &[2, 1, 0]);
    let nodes = vec![node("MatMul", &["x", "w"], "y"), there, bn("n", "t", "out")];
    let mut graph = graph(nodes, tensors);
    let report = fuse(&mut graph, &[]).unwrap();
    assert!(report.fused.is_empty());
    let reason = &report.kept[0].reason;
    assert!(
        reason.contains("(MatMul), which cannot take it"),
        "{reason}"
    );
    assert_eq!(data(&graph, "w"), [1.0; 6]);
}

#[test]
fn a_refused_bias_leaves_the_weight_as_it_was() {
    let mut tensors = vec![
        from_floats("c.weight", &[1, 1, 1, 1], &[3.0]),
        from_floats("c.bias", &[1], &[f32::MAX]),
        from_floats("d.weight", &[1, 1, 1, 1], &[3.0]),
    ];
    tensors.extend(norm("n", &[2.0], &[0.0]));
    tensors.extend(norm("m", &[2.0], &[0.0]));
    let nodes = vec![
        node("Conv", &["x", "c.weight", "c.bias"], "y"),
        bn("n", "y", "z"),
        node("Conv", &["z", "d.weight"], "u"),
        bn("m", "u", "out"),
    ];
    let mut graph = graph(nodes, tensors);
    let report = fuse(&mut graph, &[]).unwrap();
    assert_eq!(ops(&graph), ["Conv", "BatchNormalization", "Conv"]);
    assert_eq!(data(&graph, "c.weight"), [3.0]);
    assert_eq!(data(&graph, "d.weight"), [6.0]);
    assert_eq!(report.kept.len(), 1);
    assert_eq!(
        report.kept[0].reason,
        "the folded weights would not be finite"
    );
}
