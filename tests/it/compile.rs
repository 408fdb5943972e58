//! Whole graphs on the CPU engine against ONNX Runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::nets;
use crate::oracle;

use std::path::Path;
use std::sync::Arc;

use centerpoint::build::compile;
use centerpoint::build::deconv;
use centerpoint::build::fuse::{FuseReport, fuse};
use centerpoint::build::onnx::Graph;
use centerpoint::build::onnx::proto::GraphProto;
use centerpoint::engine::Engine;
use centerpoint::engine::cpu::{CpuEngine, Options};
use centerpoint::threads::Pool;
use nets::{model, node, value};

/// The largest difference to ONNX Runtime's outputs, relative to the largest value of each.
fn difference(graph: &Graph, case: &oracle::Case) -> f32 {
    let payload = compile::cpu(graph).unwrap();
    let pool = Arc::new(Pool::new(2));
    let weights = Arc::new(payload.weights);
    let mut engine = CpuEngine::new(payload.program, weights, pool, &Options::default()).unwrap();
    let mut input = engine.input_mut();
    let [_, channels, height, width] = case.input_shape[..] else {
        panic!("{:?}", case.input_shape);
    };
    let mut values = case.input.iter();
    for c in 0..channels {
        for y in 0..height {
            for x in 0..width {
                input.set(c, y, x, *values.next().unwrap());
            }
        }
    }
    engine.run().unwrap();
    let names: Vec<String> = engine.outputs().iter().map(|o| o.name.clone()).collect();
    let expected: Vec<&str> = case.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, expected, "{}", case.name);
    let mut worst = 0.0_f32;
    for (i, output) in case.outputs.iter().enumerate() {
        let view = engine.output(i).unwrap();
        let [1, channels, height, width] = output.shape[..] else {
            panic!("{:?}", output.shape);
        };
        let found = (view.layout.channels, view.layout.height, view.layout.width);
        assert_eq!(found, (channels, height, width), "{}", case.name);
        let largest = output.values.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
        let mut values = output.values.iter();
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    let found = view.data[view.layout.index(c, y, x)];
                    let difference = (found - values.next().unwrap()).abs() / largest;
                    assert!(difference.is_finite());
                    worst = worst.max(difference);
                }
            }
        }
    }
    worst
}

/// The graph as it is, and fused with its deconvolutions rewritten; with the batch axis fixed.
fn graphs(case: &oracle::Case) -> (Graph, Graph, FuseReport) {
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
    (graph, fused, report)
}

#[test]
fn networks_give_onnx_runtimes_results() {
    let folder = tempfile::tempdir().unwrap();
    if !oracle::script(&["rpn", folder.path().to_str().unwrap()]) {
        return;
    }
    let cases = oracle::cases(folder.path());
    assert_eq!(cases.len(), 27);
    for case in &cases {
        let (plain, fused, report) = graphs(case);
        let (a, b) = (difference(&plain, case), difference(&fused, case));
        println!("{}: {a:.1e} unfused, {b:.1e} fused", case.name);
        assert!(a <= 1e-4 && b <= 1e-4, "{}", case.name);
        let transposed = fused.nodes().filter(|n| n.op() == "ConvTranspose").count();
        let stay = ["deconv_3x3", "deconv_valid"].contains(&case.name.as_str());
        assert_eq!(transposed, usize::from(stay), "{}", case.name);
        let norms = |g: &Graph| g.nodes().filter(|n| n.op() == "BatchNormalization").count();
        assert_eq!(norms(&fused), report.kept.len(), "{}", case.name);
        let stay = ["bn_alone", "conv_used_twice"].contains(&case.name.as_str());
        assert_eq!(
            report.kept.len(),
            usize::from(stay),
            "{}: {:?}",
            case.name,
            report.kept
        );
        let written = case.model.with_file_name("fused.onnx");
        fused.write(&written).unwrap();
    }
    // ONNX Runtime and onnx.checker on what was written.
    oracle::script(&["same", folder.path().to_str().unwrap()]);
}

/// Any files that the variable CENTERPOINT_CHECK_ONNX names, separated by colons.
#[test]
fn any_file() {
    let Ok(files) = std::env::var("CENTERPOINT_CHECK_ONNX") else {
        println!("skipped: CENTERPOINT_CHECK_ONNX names no files");
        return;
    };
    for file in files.split(':') {
        let folder = tempfile::tempdir().unwrap();
        if !oracle::script(&["run", file, folder.path().to_str().unwrap()]) {
            return;
        }
        let case = oracle::case(Path::new(file), folder.path());
        let (_, fused, report) = graphs(&case);
        println!(
            "{file}: {:.1e} fused; {report:?}",
            difference(&fused, &case)
        );
    }
}

#[test]
fn operators_that_are_not_supported_are_named_with_those_that_are() {
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
            ["node \"/square/Mul\" (Mul)", "multiplies two maps"],
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
