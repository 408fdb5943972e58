//! Compares whole graphs on the CPU engine with ONNX Runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::variable;
use crate::nets;
use crate::oracle;

use std::path::Path;

use centerpoint::build::BuildError;
use centerpoint::internals::build::fuse::fuse;
use centerpoint::internals::build::onnx::Graph;
use centerpoint::internals::build::onnx::proto::{GraphProto, NodeProto, TensorProto};
use centerpoint::internals::build::onnx::tensor::{from_codes, from_floats};
use centerpoint::internals::build::{compile, deconv};
use centerpoint::internals::program::Payload;
use nets::{int, model, node, value};

/// The largest difference from ONNX Runtime's outputs, relative to the largest value of each output.
fn difference(graph: &Graph, case: &oracle::Case) -> f32 {
    let found = oracle::run(graph, &case.input);
    assert_eq!(found.len(), case.outputs.len());
    let mut worst = 0.0_f32;
    for (found, expected) in found.iter().zip(&case.outputs) {
        assert_eq!(found.name, expected.name, "{}", case.name);
        assert_eq!(found.shape, expected.shape, "{}", case.name);
        let largest = expected.values.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
        for (a, b) in found.values.iter().zip(&expected.values) {
            let difference = (a - b).abs() / largest;
            assert!(difference.is_finite());
            worst = worst.max(difference);
        }
    }
    worst
}

/// The graph with a fixed batch axis, the same fused and with rewritten deconvolutions, and why norms stay.
fn graphs(case: &oracle::Case) -> (Graph, Graph, Vec<String>) {
    let mut graph = Graph::read(&case.model).unwrap();
    graph
        .edit(|proto| {
            let shape = proto.input[0].r#type.as_mut().unwrap();
            let shape = shape.tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
            shape.dim[0].dim_param = None;
            shape.dim[0].dim_value = Some(1);
        })
        .unwrap();
    let mut fused = graph.clone();
    let report = fuse(&mut fused, &[]).unwrap();
    deconv::rewrite(&mut fused).unwrap();
    (
        graph,
        fused,
        report.kept.into_iter().map(|kept| kept.reason).collect(),
    )
}

#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn networks_give_onnx_runtimes_results() {
    let folder = tempfile::tempdir().unwrap();
    oracle::script(&["rpn", folder.path().to_str().unwrap()]);
    let cases = oracle::cases(folder.path());
    assert_eq!(cases.len(), 27);
    for case in &cases {
        let (plain, fused, kept) = graphs(case);
        let (a, b) = (difference(&plain, case), difference(&fused, case));
        println!("{}: {a:.1e} unfused, {b:.1e} fused", case.name);
        assert!(a <= 1e-4 && b <= 1e-4, "{}", case.name);
        let transposed = fused.nodes().filter(|n| n.op() == "ConvTranspose").count();
        let stay = ["deconv_3x3", "deconv_valid"].contains(&case.name.as_str());
        assert_eq!(transposed, usize::from(stay), "{}", case.name);
        let norms = |g: &Graph| g.nodes().filter(|n| n.op() == "BatchNormalization").count();
        assert_eq!(norms(&fused), kept.len(), "{}", case.name);
        let stay = ["bn_alone", "conv_used_twice"].contains(&case.name.as_str());
        assert_eq!(kept.len(), usize::from(stay), "{}: {:?}", case.name, kept);
        let written = case.model.with_file_name("fused.onnx");
        fused.write(&written).unwrap();
    }
    // Checks the written files with ONNX Runtime and onnx.checker.
    oracle::script(&["same", folder.path().to_str().unwrap()]);
}

/// Checks the files that the variable CENTERPOINT_CHECK_ONNX lists, separated by colons.
#[test]
#[ignore = "needs CENTERPOINT_CHECK_ONNX, CENTERPOINT_PYTHON"]
fn any_file() {
    let files = variable("CENTERPOINT_CHECK_ONNX");
    for file in files.split(':') {
        let folder = tempfile::tempdir().unwrap();
        oracle::script(&["run", file, folder.path().to_str().unwrap()]);
        let case = oracle::case(Path::new(file), folder.path());
        let (_, fused, kept) = graphs(&case);
        println!(
            "{file}: {:.1e} fused; kept: {kept:?}",
            difference(&fused, &case)
        );
    }
}

#[test]
fn unsupported_operators_are_named_with_the_supported_ones() {
    let mut resize = node("Resize", &["x"], &["out"]);
    resize.name = None;
    let mut product = node("Mul", &["x", "x"], &["out"]);
    product.name = Some("/square/Mul".to_owned());
    for (node, needles) in [
        (
            resize,
            [
                "node that makes \"out\" (Resize)",
                "ConvTranspose, DepthToSpace",
            ],
        ),
        (
            product,
            [
                "node \"/square/Mul\" (Mul)",
                "only products with one constant",
            ],
        ),
        (
            node("Clip", &["x"], &["out"]),
            ["(Clip)", "clips to -inf to inf"],
        ),
    ] {
        let graph = GraphProto {
            node: vec![node],
            input: vec![value("x", &[1, 2, 4, 4])],
            output: vec![value("out", &[1, 2, 4, 4])],
            ..Default::default()
        };
        let graph = Graph::new(Path::new("net.onnx"), model(graph)).unwrap();
        let message = compile::cpu(&graph).unwrap_err().to_string();
        for needle in needles {
            assert!(message.contains(needle), "{message}");
        }
    }
}

/// Compiles x ─ QuantizeLinear ─ DequantizeLinear ─ Conv or ConvTranspose ← DequantizeLinear ← INT8 weight,
/// after `change`.
fn pairs(op: &str, change: impl Fn(&mut GraphProto)) -> Result<Payload, BuildError> {
    let (inputs, outputs) = if op == "Conv" { (2, 3) } else { (3, 2) };
    let mut conv = node(op, &["xd", "wd"], &["out"]);
    conv.name = Some("/conv".to_owned());
    let named = |mut node: NodeProto, name: &str| {
        node.name = Some(name.to_owned());
        node
    };
    let mut weight = node("DequantizeLinear", &["w", "ws", "wz"], &["wd"]);
    weight.attribute = vec![int("axis", i64::from(op == "ConvTranspose"))];
    let quantize = node("QuantizeLinear", &["x", "s", "z"], &["xq"]);
    let dequantize = node("DequantizeLinear", &["xq", "s", "z"], &["xd"]);
    let mut graph = GraphProto {
        node: vec![
            named(quantize, "/x/Q"),
            named(dequantize, "/x/DQ"),
            named(weight, "/w/DQ"),
            conv,
        ],
        initializer: vec![
            from_floats("s", &[], &[0.5]),
            from_codes("z", &[], &[0]),
            from_codes("w", &[3, 2, 1, 1], &[1, 2, 3, 4, 5, 6]),
            from_floats("ws", &[outputs], &vec![0.5; outputs]),
            from_codes("wz", &[outputs], &vec![0; outputs]),
        ],
        input: vec![value("x", &[1, inputs, 4, 4])],
        output: vec![value("out", &[1, outputs as i64, 4, 4])],
        ..Default::default()
    };
    change(&mut graph);
    compile::cpu(&Graph::new(Path::new("net.onnx"), model(graph)).unwrap())
}

/// Replaces the initializer that has the name of `tensor`.
fn put(graph: &mut GraphProto, tensor: TensorProto) {
    let mut all = graph.initializer.iter_mut();
    let old = all.find(|t| t.name == tensor.name).unwrap();
    *old = tensor;
}

#[test]
fn unsupported_codes_are_named_with_their_node() {
    for op in ["Conv", "ConvTranspose"] {
        pairs(op, |_| {}).unwrap();
        // One scale applies to all channels.
        pairs(op, |g| {
            put(g, from_floats("ws", &[], &[0.5]));
            put(g, from_codes("wz", &[], &[0]));
        })
        .unwrap();
    }
    let unsigned = |mut tensor: TensorProto| {
        tensor.data_type = Some(2); // UINT8
        tensor
    };
    type Change<'a> = (&'a dyn Fn(&mut GraphProto), &'a str);
    let cases: [Change<'_>; 13] = [
        (
            &|g| put(g, unsigned(from_codes("z", &[], &[0]))),
            "\"/x/Q\" (QuantizeLinear): \"z\" has element type UINT8, only INT8 is supported",
        ),
        (
            &|g| {
                g.initializer.push(from_codes("z3", &[], &[-3]));
                g.node[1].input[2] = "z3".to_owned();
            },
            "\"/x/DQ\" (DequantizeLinear): its zero point is -3, but the codes \"xq\" have zero point 0",
        ),
        (
            &|g| put(g, from_codes("wz", &[3], &[0, 5, 0])),
            "\"/w/DQ\" (DequantizeLinear): its zero point \"wz\" has the value 5, only 0 is supported for weights",
        ),
        (
            &|g| g.node[0].input.truncate(2),
            "\"/x/Q\" (QuantizeLinear): it has no zero point, so its codes are UINT8",
        ),
        (
            &|g| put(g, from_floats("s", &[], &[0.0])),
            "its scale \"s\" has the value 0, expected a finite value above 0",
        ),
        (
            &|g| put(g, from_floats("s", &[], &[f32::NAN])),
            "its scale \"s\" has the value NaN",
        ),
        (
            &|g| {
                put(g, from_floats("s", &[2], &[0.5, 0.25]));
                put(g, from_codes("z", &[2], &[0, 0]));
            },
            "its scale \"s\" has 2 values, expected one for a map",
        ),
        (
            &|g| {
                g.initializer.push(from_floats("s2", &[], &[0.25]));
                g.node[1].input[1] = "s2".to_owned();
            },
            "\"/x/DQ\" (DequantizeLinear): its scale is 0.25, but the codes \"xq\" have scale 0.5",
        ),
        (
            &|g| put(g, unsigned(from_codes("w", &[3, 2, 1, 1], &[0; 6]))),
            "\"/w/DQ\" (DequantizeLinear): \"w\" has element type UINT8",
        ),
        (
            &|g| g.node[2].attribute[0].i = Some(1),
            "\"/w/DQ\" (DequantizeLinear): its scale \"ws\" has 3 values on axis 1 of a weight of shape \
             [3, 2, 1, 1], expected one for each of the 3 output channels on axis 0",
        ),
        (
            &|g| g.node[2].attribute[0].i = Some(4),
            "axis 4 of a tensor with 4 axes",
        ),
        (
            &|g| put(g, from_codes("wz", &[2], &[0, 0])),
            "its zero point \"wz\" has 2 values, but its scale has 3",
        ),
        (
            &|g| {
                g.initializer
                    .push(from_floats("wf", &[3, 2, 1, 1], &[1.0; 6]));
                let mut quantize = node("QuantizeLinear", &["wf", "wt", "wz"], &["wq"]);
                quantize.name = Some("/w/Q".to_owned());
                quantize.attribute = vec![int("axis", 0)];
                g.initializer.push(from_floats("wt", &[3], &[1.0; 3]));
                g.node[2].input[0] = "wq".to_owned();
                g.node.insert(0, quantize);
            },
            "\"/w/Q\" (QuantizeLinear): its scale \"wt\" differs from \"ws\"",
        ),
    ];
    for (change, needle) in cases {
        let message = pairs("Conv", change).unwrap_err().to_string();
        assert!(message.contains(needle), "{message}\n{needle}");
        assert!(message.starts_with("net.onnx: node "), "{message}");
    }
}
