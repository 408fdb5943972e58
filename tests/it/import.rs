//! Imports ONNX exports: compares PFNs with ONNX Runtime, and head outputs with the model description.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common;
use crate::nets;
use crate::oracle;

use std::path::Path;

use centerpoint::Model;
use centerpoint::build::BuildError;
use centerpoint::internals::build::import::{Matching, Rpn, read_pfe, read_rpn};
use centerpoint::internals::build::onnx::encode;
use centerpoint::internals::build::onnx::proto::GraphProto;
use centerpoint::internals::build::onnx::tensor::from_floats;
use centerpoint::model::Pfn;
use nets::{model, node, value};

/// A pillar's features in f64, computed by the definition. `at(m, c)` is the input.
fn reference(pfn: &Pfn, points: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let columns = pfn.layers[0].in_features;
    let mut rows: Vec<Vec<f64>> = (0..points)
        .map(|m| (0..columns).map(|c| at(m, c)).collect())
        .collect();
    let mut max = Vec::new();
    for layer in &pfn.layers {
        for row in &mut rows {
            row.extend(&max);
            assert_eq!(row.len(), layer.in_features);
            let weights = layer.weight.chunks_exact(layer.in_features);
            let linear = weights.zip(&layer.bias).map(|(w, &b)| {
                let sum: f64 = w.iter().zip(&*row).map(|(&w, x)| f64::from(w) * x).sum();
                (sum + f64::from(b)).max(0.0)
            });
            *row = linear.collect();
        }
        let top = |c: usize| rows.iter().map(|row| row[c]).fold(f64::MIN, f64::max);
        max = (0..layer.out_features).map(top).collect();
    }
    max
}

/// Largest difference between the reference with the imported weights and ONNX Runtime's output.
pub(crate) fn difference(pfn: &Pfn, case: &oracle::Case) -> f64 {
    let [output] = &case.outputs[..] else {
        panic!("{}: not one output", case.name);
    };
    let channels = pfn.layers.last().unwrap().out_features;
    // [P, M, C], or [1, C, P, M]; the latter's output has the channels first, too.
    let (pillars, points, maps) = match case.input_shape[..] {
        [p, m, _] => (p, m, false),
        [1, _, p, m] => (p, m, true),
        _ => panic!("{:?}", case.input_shape),
    };
    let columns = pfn.layers[0].in_features;
    let mut worst = 0.0_f64;
    // Only samples the pillars of large inputs.
    for p in (0..pillars).step_by(pillars.div_ceil(500)) {
        let features = reference(pfn, points, |m, c| {
            f64::from(if maps {
                case.input[(c * pillars + p) * points + m]
            } else {
                case.input[(p * points + m) * columns + c]
            })
        });
        for (c, feature) in features.iter().enumerate() {
            let expected = if maps {
                output.values[c * pillars + p]
            } else {
                output.values[p * channels + c]
            };
            worst = worst.max((feature - f64::from(expected)).abs());
        }
    }
    worst
}

#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn pfns_of_all_exporters_give_onnx_runtimes_features() {
    let folder = tempfile::tempdir().unwrap();
    oracle::script(&["pfe", folder.path().to_str().unwrap()]);
    let cases = oracle::cases(folder.path());
    let good: Vec<_> = cases
        .iter()
        .filter(|c| !c.name.starts_with("bad_"))
        .collect();
    assert_eq!(good.len(), 10);
    for case in good {
        let pfe = read_pfe(&case.model).unwrap();
        let worst = difference(&pfe.pfn, case);
        println!("{}: {worst:.1e}", case.name);
        assert!(worst <= 1e-5, "{}: {worst}", case.name);
    }
    for (name, needle) in [
        ("leaky", "(LeakyRelu): expected Relu"),
        ("axis", "the max over axes [0], but the points are axis 1"),
        ("mean", "(ReduceMean): expected ReduceMax or MaxPool"),
        ("order", "expected the rows"),
        ("extra", "(Sigmoid): expected MatMul, Gemm or Conv"),
        ("weight", "has several readers"),
    ] {
        let path = folder.path().join(format!("bad_{name}/model.onnx"));
        let message = read_pfe(&path).unwrap_err().to_string();
        println!("{message}");
        assert!(message.contains(needle), "{name}: {message}");
        assert!(
            message.contains("model.onnx: node \"/"),
            "{name}: {message}"
        );
    }
}

/// A network that matches [`common::MODEL`]: 1 × 1 convolutions of the BEV map, with outputs of these
/// names and channels.
fn heads(outputs: &[(&str, usize)], size: [i64; 4]) -> GraphProto {
    let mut graph = GraphProto {
        input: vec![value("x", &size)],
        ..Default::default()
    };
    for (i, &(name, channels)) in outputs.iter().enumerate() {
        let weight = format!("w{i}");
        // The weight identifies the output later.
        let values = vec![i as f32; channels * 2];
        graph
            .initializer
            .push(from_floats(&weight, &[channels, 2, 1, 1], &values));
        graph.node.push(node("Conv", &["x", &weight], &[name]));
        graph
            .output
            .push(value(name, &[-1, channels as i64, -1, -1]));
    }
    graph
}

fn read(graph: GraphProto, description: &str) -> Result<Rpn, BuildError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rpn.onnx");
    std::fs::write(&path, encode(&model(graph))).unwrap();
    let description = Model::parse(description, Path::new("model.toml")).unwrap();
    read_rpn(&path, &description)
}

/// The outputs' names, with the index of the file's output that each of them was.
fn origins(rpn: &Rpn) -> Vec<(String, f32)> {
    let outputs = rpn.graph.outputs().unwrap();
    let origin = |name: &str| {
        let maker = rpn.graph.producer(name).unwrap();
        rpn.graph
            .floats(maker.input(1).unwrap())
            .unwrap()
            .unwrap()
            .data[0]
    };
    outputs
        .iter()
        .map(|o| (o.name.clone(), origin(&o.name)))
        .collect()
}

const SIZE: [i64; 4] = [1, 2, 16, 16];
const TWO_TASKS: &str = r#"
[[head.tasks]]
classes = ["tall"]
outputs = ["heatmap_0", "reg_0", "height_0", "dim_0", "rot_0", "vel_0"]
[[head.tasks]]
classes = ["low"]
outputs = ["heatmap_1", "reg_1", "height_1", "dim_1", "rot_1", "vel_1"]
"#;

fn two_tasks() -> String {
    let split = common::MODEL.find("[decode]").unwrap();
    let (before, after) = common::MODEL.split_at(split);
    format!("{before}{TWO_TASKS}{after}")
}

#[test]
fn outputs_are_found_by_the_descriptions_names() {
    let file = [
        ("vel", 2),
        ("rot", 2),
        ("iou", 1),
        ("dim", 3),
        ("height", 1),
        ("reg", 2),
        ("heatmap", 2),
    ];
    let rpn = read(heads(&file, [-1, 2, -1, -1]), common::MODEL).unwrap();
    assert_eq!(rpn.matching, Matching::Names);
    assert_eq!(rpn.unused, ["iou"]);
    let expected = [
        ("heatmap", 6.0),
        ("reg", 5.0),
        ("height", 4.0),
        ("dim", 3.0),
        ("rot", 1.0),
        ("vel", 0.0),
    ];
    assert_eq!(origins(&rpn), expected.map(|(n, i)| (n.to_owned(), i)));
    // The import fixes open axes.
    let dims = rpn.graph.inputs().unwrap()[0].dims.clone().unwrap();
    assert_eq!(dims, [Some(1), Some(2), Some(16), Some(16)]);
}

#[test]
fn outputs_are_found_by_kind_and_task() {
    let mut file = Vec::new();
    for task in ["1", "0"] {
        for (kind, channels) in [
            ("reg", 2),
            ("height", 1),
            ("dim", 3),
            ("rot", 2),
            ("vel", 2),
            ("hm", 1),
        ] {
            file.push((format!("task{task}_{kind}"), channels));
        }
    }
    let file: Vec<(&str, usize)> = file.iter().map(|(n, c)| (n.as_str(), *c)).collect();
    let rpn = read(heads(&file, SIZE), &two_tasks()).unwrap();
    assert_eq!(rpn.matching, Matching::Words);
    let found = origins(&rpn);
    assert_eq!(found[0], ("heatmap_0".to_owned(), 11.0));
    assert_eq!(found[1], ("reg_0".to_owned(), 6.0));
    assert_eq!(found[6], ("heatmap_1".to_owned(), 5.0));
    assert_eq!(found[11], ("vel_1".to_owned(), 4.0));
}

#[test]
fn outputs_without_telling_names_are_matched_by_order() {
    let file = [
        ("594", 2),
        ("595", 2),
        ("596", 1),
        ("597", 3),
        ("598", 2),
        ("599", 2),
    ];
    let rpn = read(heads(&file, SIZE), common::MODEL).unwrap();
    assert_eq!(rpn.matching, Matching::Order);
    let found: Vec<f32> = origins(&rpn).into_iter().map(|(_, i)| i).collect();
    assert_eq!(found, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn networks_that_do_not_match_are_rejected() {
    let good = [
        ("heatmap", 2),
        ("reg", 2),
        ("height", 1),
        ("dim", 3),
        ("rot", 2),
        ("vel", 2),
    ];
    // mmdetection3d's own order, without names: channels 2 1 3 2 2 2.
    let unordered = [("1", 2), ("2", 1), ("3", 3), ("4", 2), ("5", 2), ("6", 2)];
    let missing = &good[..5];
    let mut wide = good;
    wide[0].1 = 5;
    for (file, size, needle) in [
        (
            &unordered[..],
            SIZE,
            "Enter the file's output names in `head.tasks[].outputs`",
        ),
        (missing, SIZE, "\"rot\" (2 channels)"),
        (
            &wide,
            SIZE,
            "\"heatmap\" (heatmap in the description) has shape [1, 5, 16, 16]",
        ),
        (
            &good,
            [1, 2, 32, 16],
            "has shape [1, 2, 32, 16], but the description expects [1, 2, 16, 16]",
        ),
    ] {
        let message = read(heads(file, size), common::MODEL)
            .unwrap_err()
            .to_string();
        assert!(message.contains(needle), "{message}");
        assert!(message.contains("rpn.onnx: "), "{message}");
    }
    let mut two_inputs = heads(&good, SIZE);
    two_inputs.input.push(value("y", &SIZE));
    let message = read(two_inputs, common::MODEL).unwrap_err().to_string();
    assert!(message.contains("expected one input"), "{message}");
}
