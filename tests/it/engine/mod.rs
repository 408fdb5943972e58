//! The CPU engine through its public API: comparison with a naive reference in f64 and with ONNX Runtime, equal
//! bytes on every instruction set and number of threads, and malformed programs.
//!
//! The error of a tensor is max |a - b| / max |b|: the largest difference relative to the largest
//! value of the reference, because values near zero have no relative precision.

#![allow(clippy::unwrap_used)]

pub(crate) mod lazy;
mod naive;
mod naive_int8;
pub(crate) mod quantized;
pub(crate) mod skip;
pub(crate) mod slices;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::engine_net::{Conv, Net, Op, Random, demo, dense};
use crate::oracle;
use centerpoint::engine::{Engine, EngineError};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{CpuEngine, Isa, Options};
use centerpoint::internals::program::{Payload, Program, ProgramError};

/// Creates an engine with an instruction set and a number of threads.
pub(crate) fn engine(payload: &Payload, isa: Option<Isa>, threads: usize) -> CpuEngine {
    let weights = Arc::new(payload.weights.clone());
    let pool = Arc::new(Pool::new(threads));
    CpuEngine::new(
        payload.program.clone(),
        weights,
        pool,
        &Options {
            isa,
            ..Options::default()
        },
    )
    .unwrap()
}

/// Writes the input from dense NCHW.
pub(crate) fn set_input(engine: &mut CpuEngine, values: &[f32]) {
    let mut view = engine.input_mut();
    let layout = view.layout;
    let mut values = values.iter();
    for c in 0..layout.channels {
        for y in 0..layout.height {
            for x in 0..layout.width {
                view.set(c, y, x, *values.next().unwrap());
            }
        }
    }
    assert!(values.next().is_none());
}

/// All outputs, dense, after two runs: the second runs on an arena with the first one's data.
pub(crate) fn run(engine: &mut CpuEngine, input: &[f32]) -> Vec<Vec<f32>> {
    set_input(engine, input);
    engine.run().unwrap();
    engine.run().unwrap();
    (0..engine.outputs().len())
        .map(|i| dense(engine.output(i).unwrap()))
        .collect()
}

/// max |a - b| / max |b|.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let max = expected.iter().fold(0.0f64, |max, v| max.max(v.abs()));
    let pairs = found.iter().zip(expected);
    let difference = pairs.fold(0.0f64, |d, (&a, &b)| d.max((f64::from(a) - b).abs()));
    assert!(found.iter().all(|v| v.is_finite()));
    difference / max.max(1e-30)
}

/// A network of one node with random attributes; covers every kind of node and layout.
fn random_net(seed: u64) -> Net {
    let mut r = Random(seed);
    r.next();
    let pick = |r: &mut Random, of: &[usize]| of[r.below(of.len())];
    let groups = pick(&mut r, &[1, 1, 1, 1, 2, 3]);
    let per_in = pick(&mut r, &[1, 3, 5, 16, 16, 32, 40]);
    let channels = groups * per_in;
    let (h, w) = (r.range(1, 20), r.range(1, 30));
    let mut net = Net::new([channels, h, w]);
    let kind = seed % 8;
    let op = match kind {
        0..4 => {
            let out = groups * pick(&mut r, &[1, 2, 3, 5, 8, 16, 17, 32, 33, 48, 64, 70]);
            let kernel = [pick(&mut r, &[1, 3, 3, 2, 5]), pick(&mut r, &[1, 3, 3, 4])];
            let dilation = [pick(&mut r, &[1, 1, 2]), pick(&mut r, &[1, 1, 3])];
            // The padded map holds at least one window.
            let pad = |r: &mut Random, len: usize, axis: usize| {
                let reach = (kernel[axis] - 1) * dilation[axis] + 1;
                let first = r.below(kernel[axis].min(3));
                (first, reach.saturating_sub(len + first).max(r.below(3)))
            };
            let (top, bottom) = pad(&mut r, h, 0);
            let (left, right) = pad(&mut r, w, 1);
            Op::Conv(Conv {
                out,
                kernel,
                stride: [r.range(1, 3), r.range(1, 2)],
                pad: [top, left, bottom, right],
                output_padding: [0; 2],
                dilation,
                groups,
                scales: None,
                weight: net.constant(&mut r, out * per_in * kernel[0] * kernel[1], 0.5),
                bias: (r.below(4) > 0).then(|| net.constant(&mut r, out, 1.0)),
            })
        }
        4..6 => {
            let per_out = pick(&mut r, &[1, 4, 16, 20, 32, 48]);
            let stride = [r.range(1, 4), r.range(1, 4)];
            let square = r.below(2) == 0;
            let kernel = if square {
                stride
            } else {
                [r.range(1, 4).max(stride[0]), r.range(2, 5)]
            };
            let dilation = if square { [1, 1] } else { [r.range(1, 2), 1] };
            let reach = |axis: usize| (kernel[axis] - 1) * dilation[axis];
            let pad = if square {
                [0, 0]
            } else {
                [r.below(reach(0) / 2 + 1), r.below(2)]
            };
            let pad = [
                pad[0],
                pad[1].min(reach(1) / 2),
                pad[0],
                pad[1].min(reach(1) / 2),
            ];
            let output_padding = if square {
                [0, 0]
            } else {
                [r.below(stride[0]), r.below(stride[1])]
            };
            let area = kernel[0] * kernel[1];
            Op::ConvTranspose(Conv {
                out: groups * per_out,
                kernel,
                stride,
                pad,
                output_padding,
                dilation,
                groups,
                scales: None,
                weight: net.constant(&mut r, channels * per_out * area, 0.5),
                bias: (r.below(4) > 0).then(|| net.constant(&mut r, groups * per_out, 1.0)),
            })
        }
        6 => {
            let block = r.range(1, 3);
            net.input[0] = block * block * r.range(1, 20);
            Op::DepthToSpace {
                block,
                crd: r.below(2) == 0,
            }
        }
        _ => {
            let kernel = [r.range(1, 3).min(h), r.range(1, 3).min(w)];
            let pad = [r.below(kernel[0]), r.below(kernel[1])];
            Op::MaxPool {
                kernel,
                stride: [r.range(1, 2), r.range(1, 3)],
                pad: [pad[0], pad[1], r.below(kernel[0]), r.below(kernel[1])],
            }
        }
    };
    net.node("y", &["input"], op);
    net.outputs.push("y".to_owned());
    if seed.is_multiple_of(3) {
        net.node("relu", &["y"], Op::Relu);
        net.outputs[0] = "relu".to_owned();
    }
    net
}

/// Combinations of nodes that the builder fuses, places in a Concat, or must not change.
fn combined_nets() -> Vec<(&'static str, Net)> {
    let mut r = Random(99);
    let mut nets = Vec::new();

    let mut net = Net::new([16, 12, 13]);
    let a = net.conv(&mut r, "a", "input", 16, 16, 3, 1, true);
    let b = net.conv(&mut r, "b", &a, 16, 16, 3, 1, false);
    let sum = net.node("sum", &[&b, &a], Op::Add);
    let y = net.node("y", &[&sum], Op::Relu);
    let c = net.conv(&mut r, "c", &y, 16, 16, 1, 1, true);
    let d = net.node("d", &[&c, &y], Op::Add);
    net.outputs = vec![d, y];
    nets.push(("residuals", net));

    // Tensors that fusion would remove are also read by other nodes, or are outputs.
    let mut net = Net::new([16, 7, 9]);
    let a = net.conv(&mut r, "a", "input", 16, 16, 3, 1, false);
    let b = net.node("b", &[&a], Op::Relu);
    let c = net.conv(&mut r, "c", &b, 16, 16, 3, 1, false);
    let d = net.node("d", &[&c, &a], Op::Add);
    let block = Op::DepthToSpace {
        block: 2,
        crd: true,
    };
    let e = net.node("e", &[&c], block);
    let f = net.conv(&mut r, "f", &d, 16, 4, 1, 1, false);
    let g = net.node("g", &[&f], Op::Relu);
    net.outputs = vec![d, e, f, g];
    nets.push(("shared", net));

    let mut net = Net::new([16, 9, 11]);
    let a = net.conv(&mut r, "a", "input", 16, 20, 3, 1, true);
    let b = net.conv(&mut r, "b", "input", 16, 12, 1, 1, false);
    let c = net.conv(&mut r, "c", &a, 20, 7, 3, 1, true);
    // `c` reads its sibling `a`, the input is not a node's output, `b` occurs twice.
    let cat = net.node("cat", &[&a, "input", &b, &c, &b], Op::Concat);
    let y = net.conv(&mut r, "y", &cat, 20 + 16 + 12 + 7 + 12, 33, 5, 2, true);
    let outer = net.node("outer", &[&cat, &a], Op::Concat);
    let z = net.node("z", &[&outer], Op::Sigmoid);
    net.outputs = vec![y, z, b];
    nets.push(("concats", net));

    let mut net = Net::new([32, 10, 14]);
    for (name, crd) in [("crd", true), ("dcr", false)] {
        let y = net.conv(
            &mut r,
            &format!("{name}_conv"),
            "input",
            32,
            36 * 4,
            1,
            1,
            true,
        );
        let y = net.node(
            &format!("{name}_d2s"),
            &[&y],
            Op::DepthToSpace { block: 2, crd },
        );
        let z = net.conv(&mut r, &format!("{name}_3"), &y, 36, 8, 3, 2, false);
        let z = net.node(
            &format!("{name}_z"),
            &[&z],
            Op::DepthToSpace { block: 2, crd },
        );
        net.outputs.extend([y, z]);
    }
    nets.push(("shuffles", net));

    let mut net = Net::new([5, 8, 8]);
    let (scale, shift) = (net.constant(&mut r, 5, 2.0), net.constant(&mut r, 5, 1.0));
    let bn = Op::BatchNormalization { scale, shift };
    let a = net.node("a", &["input"], bn.clone());
    let b = net.node("b", &[&a], Op::Relu);
    let c = net.node("c", &["input", "input"], Op::Add);
    let d = net.node("d", &[&b, &c], Op::Add);
    let e = net.node("e", &[&d], bn);
    let f = net.node("f", &["input"], Op::Relu);
    net.outputs = vec![e, f, "input".to_owned(), c];
    nets.push(("pixelwise", net));
    nets
}

/// The networks of all comparisons.
fn all_nets() -> Vec<(String, Net)> {
    let random = (0..160).map(|seed| (format!("random{seed:03}"), random_net(seed)));
    let combined = combined_nets()
        .into_iter()
        .map(|(name, net)| (name.to_owned(), net));
    random
        .chain(combined)
        .chain([("demo".to_owned(), demo(32))])
        .collect()
}

fn input_of(net: &Net) -> Vec<f32> {
    Random(5).values(net.input.iter().product())
}

#[test]
fn equals_the_naive_reference() {
    for (name, net) in all_nets() {
        let input = input_of(&net);
        let expected = naive::run(&net, &input);
        let payload = net
            .payload()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let outputs = run(&mut engine(&payload, None, 2), &input);
        for (output, found) in net.outputs.iter().zip(&outputs) {
            let error = error(found, &expected[output].values);
            assert!(
                error < 1e-5,
                "{name}, output {output}: error {error:e}\n{:?}",
                net.nodes
            );
        }
    }
}

#[test]
fn every_instruction_set_and_thread_count_returns_the_same_bytes() {
    for (name, net) in all_nets() {
        let input = input_of(&net);
        let payload = net.payload().unwrap();
        let expected = run(&mut engine(&payload, Some(Isa::Portable), 1), &input);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 2, 3] {
                let found = run(&mut engine(&payload, Some(isa), threads), &input);
                let bits = |maps: &[Vec<f32>]| -> Vec<u32> {
                    maps.iter().flatten().map(|v| v.to_bits()).collect()
                };
                let same = bits(&found) == bits(&expected);
                assert!(
                    same,
                    "{name}: {} with {threads} threads differs",
                    isa.name()
                );
            }
        }
    }
}

fn write_f32(path: &Path, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(path, bytes).unwrap();
}

#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn equals_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let mut nets = all_nets();
    nets.push(("demo_full".to_owned(), demo(256)));
    for (name, net) in &nets {
        let file = |end: &str| folder.path().join(format!("{name}.{end}"));
        std::fs::write(file("json"), serde_json::to_vec(net).unwrap()).unwrap();
        write_f32(&file("constants.f32"), &net.constants);
        write_f32(&file("input.f32"), &input_of(net));
    }
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/oracle/onnx_reference.py"
    );
    let status = Command::new(oracle::python())
        .args([script, "run"])
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    let mut worst = 0.0f64;
    for (name, net) in &nets {
        let bytes = std::fs::read(folder.path().join(format!("{name}.output.f32"))).unwrap();
        let mut expected = bytes
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        let outputs = run(
            &mut engine(&net.payload().unwrap(), None, 2),
            &input_of(net),
        );
        for (output, found) in net.outputs.iter().zip(&outputs) {
            let expected: Vec<f64> = expected.by_ref().take(found.len()).collect();
            let error = error(found, &expected);
            worst = worst.max(error);
            assert!(error < 1e-4, "{name}, output {output}: error {error:e}");
        }
        assert!(
            expected.next().is_none(),
            "{name}: more values than the outputs hold"
        );
    }
    println!(
        "largest error against ONNX Runtime: {worst:e} over {} networks",
        nets.len()
    );
}

#[test]
fn an_observer_sees_every_tensor() {
    for (name, net) in all_nets() {
        let input = input_of(&net);
        let expected = naive::run(&net, &input);
        let mut engine = engine(&net.payload().unwrap(), None, 1);
        set_input(&mut engine, &input);
        let mut seen = Vec::new();
        engine
            .run_with(&mut |tensor, view| {
                let error = error(&dense(view), &expected[tensor].values);
                assert!(error < 1e-5, "{name}, tensor {tensor}: error {error:e}");
                seen.push(tensor.to_owned());
            })
            .unwrap();
        assert_eq!(seen[0], "input");
        seen.sort();
        let count = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), count, "{name}: a tensor is shown twice");
        // All except those removed by fusion: the inputs of Relu, Add and DepthToSpace.
        for node in &net.nodes {
            let fused = net.nodes.iter().any(|other| {
                other.inputs.contains(&node.name)
                    && matches!(other.op, Op::Relu | Op::Add | Op::DepthToSpace { .. })
            });
            assert!(
                fused || seen.contains(&node.name),
                "{name}: {} not seen",
                node.name
            );
        }
    }
}

#[test]
fn fusion_leaves_few_operators() {
    let layers = demo(32).payload().unwrap().program.layers();
    // 12 + 3 + 1 + 6 + 6 convolutions; no Relu and no Concat remains.
    assert_eq!(layers.len(), 28);
    let net = combined_nets().swap_remove(0).1;
    let kinds: Vec<String> = net
        .payload()
        .unwrap()
        .program
        .layers()
        .into_iter()
        .map(|layer| layer.kind)
        .collect();
    // `c` cannot absorb the Add after its Relu.
    let expected = [
        "Conv 3x3 + ReLU",
        "Conv 3x3 + Add + ReLU",
        "Conv 1x1 + ReLU",
        "Add",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn layers_report_their_arithmetic() {
    let layers = demo(256).payload().unwrap().program.layers();
    let macs = |name: &str| layers.iter().find(|layer| layer.name == name).unwrap().macs;
    assert_eq!(macs("block0_1"), 128 * 128 * 32 * 32 * 9);
    assert_eq!(macs("block1_0"), 64 * 64 * 32 * 64 * 9);
    assert_eq!(macs("up2"), 32 * 32 * 128 * 32 * 16);
    assert_eq!(macs("height"), 128 * 128 * 32 * 9);
}

#[test]
fn memory_is_shared_between_layers() {
    let payload = demo(256).payload().unwrap();
    let engine = engine(&payload, None, 1);
    let all: usize = payload
        .program
        .layers()
        .iter()
        .map(|l| l.output.shape.iter().product::<usize>() * 4)
        .sum();
    let input = 32 * 256 * 256 * 4;
    let used = engine.arena_bytes();
    assert!(used < input + all / 3, "{used} bytes of {input} + {all}");
}

#[test]
fn times_are_recorded_only_on_request() {
    let payload = demo(32).payload().unwrap();
    let mut engine = engine(&payload, None, 1);
    engine.run().unwrap();
    assert!(engine.layer_times().is_empty());
    engine.set_timing(true);
    engine.run().unwrap();
    assert_eq!(engine.layer_times().len(), payload.program.layers().len());
    assert!(engine.layer_times().iter().all(|time| !time.is_zero()));
}

/// Loads a program with possibly mismatched weights.
fn load(program: Program, weights: Vec<u8>) -> Result<CpuEngine, EngineError> {
    CpuEngine::new(
        program,
        Arc::new(weights),
        Arc::new(Pool::new(1)),
        &Options::default(),
    )
}

#[test]
fn truncated_weights_are_rejected() {
    let payload = demo(32).payload().unwrap();
    for part in 0..64 {
        let mut weights = payload.weights.clone();
        weights.truncate(weights.len() * part / 64);
        let error = load(payload.program.clone(), weights).err().unwrap();
        assert!(
            matches!(error, EngineError::Program(ProgramError::Payload { .. })),
            "{error}"
        );
    }
}

#[test]
fn a_program_with_a_changed_number_is_rejected_or_runs() {
    // Replaces each number of the program by several others in turn; a program that loads must run.
    let mut tried = 0;
    let mut rejected = 0;
    let quantized = [
        (3, false, 127),
        (20, false, 127),
        (3, true, 127),
        (3, false, 7),
    ];
    let quantized =
        quantized.map(|(seed, shifted, most)| quantized::random_net_of(seed, shifted, most).net);
    let nets = combined_nets().into_iter().map(|(_, net)| net);
    for net in nets.chain(quantized) {
        let payload = net.payload().unwrap();
        let json = serde_json::to_value(&payload.program).unwrap();
        let count = numbers(&mut json.clone()).len();
        for at in 0..count {
            for value in [0i64, 1, 2, 7, 64, 65536, -1, i64::from(u32::MAX), i64::MAX] {
                let mut json = json.clone();
                *numbers(&mut json)[at] = value.into();
                tried += 1;
                let Ok(program) = serde_json::from_value::<Program>(json) else {
                    rejected += 1;
                    continue;
                };
                program.layers();
                match load(program, payload.weights.clone()) {
                    Ok(mut engine) => engine.run().unwrap(),
                    Err(_) => rejected += 1,
                }
            }
        }
    }
    assert!(rejected > tried / 2, "{rejected} of {tried} rejected");
}

/// All numbers in a JSON value.
fn numbers(value: &mut serde_json::Value) -> Vec<&mut serde_json::Value> {
    match value {
        serde_json::Value::Number(_) => vec![value],
        serde_json::Value::Array(values) => values.iter_mut().flat_map(numbers).collect(),
        serde_json::Value::Object(map) => map.values_mut().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn huge_maps_are_rejected_before_allocation() {
    let mut payload = demo(32).payload().unwrap();
    for tensor in &mut payload.program.tensors {
        (tensor.height, tensor.width) = (1 << 16, 1 << 16);
    }
    assert!(load(payload.program, payload.weights).is_err());
    // Each map is within the limit, but their sum is not.
    let mut net = Net::new([1 << 10, 1 << 9, 1 << 9]);
    for i in 0..6 {
        net.outputs
            .push(net.clone().node(&format!("y{i}"), &["input"], Op::Relu));
        net.node(&format!("y{i}"), &["input"], Op::Relu);
    }
    let payload = net.payload().unwrap();
    let error = load(payload.program, payload.weights).err().unwrap();
    assert!(matches!(error, EngineError::Memory { .. }), "{error}");
}

#[test]
fn builder_errors_name_the_node() {
    let mut r = Random(1);
    let mut net = Net::new([16, 8, 8]);
    net.conv(&mut r, "stem", "input", 15, 16, 3, 1, false);
    net.outputs.push("stem".to_owned());
    let text = net.payload().err().unwrap().to_string();
    assert!(
        text.contains("`stem`") && text.contains("2304") && text.contains("2160"),
        "{text}"
    );

    let mut net = Net::new([16, 8, 8]);
    net.conv(&mut r, "a", "input", 16, 8, 3, 2, false);
    net.node("sum", &["a", "input"], Op::Add);
    assert!(net.payload().err().unwrap().to_string().contains("`sum`"));
    net.nodes.pop();
    net.node(
        "shuffle",
        &["a"],
        Op::DepthToSpace {
            block: 3,
            crd: true,
        },
    );
    assert!(
        net.payload()
            .err()
            .unwrap()
            .to_string()
            .contains("`shuffle`")
    );
}
