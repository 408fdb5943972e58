//! Gradients against finite differences in f64, on graphs with every operator.

use std::sync::Arc;

use super::map::{Maps, Shape};
use super::network::Network;
use super::optimizer::{Optimizer, StepOptions};
use super::params::Role;
use crate::build::onnx::proto::NodeProto;
use crate::build::onnx::tensor::{from_codes, from_floats};
use crate::build::onnx::{Graph, make};
use crate::build::quantize::WeightFormats;
use crate::build::testing::{int, ints, node, shaped};
use crate::cpu::Pool;
use crate::plan::config::WeightScales;
use crate::synth::Rng;

fn random(rng: &mut Rng, count: usize, size: f64) -> Vec<f32> {
    (0..count).map(|_| rng.normal(size) as f32).collect()
}

fn conv(inputs: &[&str], output: &str, kernel: i64, stride: i64, group: i64) -> NodeProto {
    let mut node = node("Conv", inputs, output);
    ints(&mut node, "kernel_shape", &[kernel, kernel]);
    ints(&mut node, "strides", &[stride, stride]);
    ints(&mut node, "pads", &[kernel / 2; 4]);
    int(&mut node, "group", group);
    node
}

/// Every operator: convolutions of stride 1 and 2, with groups, of few outputs, a deconvolution, a shuffle, a residual,
/// a Concat; odd sizes. With `norms`, BatchNormalization with a ReLU behind it and without.
pub(super) fn every_operator(seed: u64, norms: bool) -> Graph {
    let mut rng = Rng::new(seed, 0, 0);
    let mut concat = node("Concat", &["d", "u"], "cat");
    int(&mut concat, "axis", 1);
    let mut up = node("ConvTranspose", &["c", "up.weight", "up.bias"], "up");
    ints(&mut up, "kernel_shape", &[2, 2]);
    ints(&mut up, "strides", &[2, 2]);
    let mut shuffle = node("DepthToSpace", &["s"], "u");
    int(&mut shuffle, "blocksize", 2);
    shuffle.attribute.push(make::string("mode", "CRD"));
    let norm = |input: &str, output: &str| {
        if !norms {
            return node("Identity", &[input], output);
        }
        let names = ["gamma", "beta", "mean", "var"].map(|part| format!("{output}.{part}"));
        let [gamma, beta, mean, var] = names.each_ref().map(String::as_str);
        let mut norm = node(
            "BatchNormalization",
            &[input, gamma, beta, mean, var],
            output,
        );
        norm.attribute.push(make::float("epsilon", 1e-3));
        norm.attribute.push(make::float("momentum", 0.75));
        norm
    };
    let nodes = vec![
        conv(&["x", "a.weight", "a.bias"], "a1", 3, 1, 1),
        norm("a1", "a0"),
        node("Relu", &["a0"], "a2"),
        norm("a2", "a"),
        conv(&["a", "b.weight", "b.bias"], "b0", 3, 2, 1),
        node("Relu", &["b0"], "b"),
        conv(&["b", "c.weight", "c.bias"], "c0", 3, 1, 2),
        node("Add", &["c0", "b"], "c1"),
        node("Relu", &["c1"], "c"),
        up,
        node("Relu", &["up"], "d"),
        conv(&["c", "s.weight", "s.bias"], "s0", 1, 1, 1),
        node("Relu", &["s0"], "s"),
        shuffle,
        concat,
        conv(&["cat", "h.weight", "h.bias"], "out", 3, 1, 1),
    ];
    let mut tensors = Vec::new();
    for (name, dims) in [
        ("a", [20, 3, 3, 3]),
        ("b", [20, 20, 3, 3]),
        ("c", [20, 10, 3, 3]),
        ("up", [20, 18, 2, 2]),
        ("s", [56, 20, 1, 1]),
        ("h", [3, 32, 3, 3]),
    ] {
        let count: usize = dims.iter().product();
        let fan = dims[1] * dims[2] * dims[3];
        let weight = random(&mut rng, count, (1.5 / fan as f64).sqrt());
        tensors.push(from_floats(&format!("{name}.weight"), &dims, &weight));
        let outputs = if name == "up" { dims[1] } else { dims[0] };
        let bias = random(&mut rng, outputs, 0.3);
        tensors.push(from_floats(&format!("{name}.bias"), &[outputs], &bias));
    }
    for name in ["a0", "a"].into_iter().filter(|_| norms) {
        for (part, mean, deviation) in [
            ("gamma", 1.0, 0.3),
            ("beta", 0.0, 0.3),
            ("mean", 0.0, 0.3),
            ("var", 1.0, 0.0),
        ] {
            let values = random(&mut rng, 20, deviation).into_iter();
            let values: Vec<f32> = values.map(|v| v + mean).collect();
            tensors.push(from_floats(&format!("{name}.{part}"), &[20], &values));
        }
    }
    let mut graph = shaped(nodes, tensors, Some(&[1, 3, 12, 10]));
    crate::build::simplify::simplify(&mut graph).unwrap();
    graph
}

pub(super) fn network(graph: &Graph, threads: usize) -> Network {
    let pool = Arc::new(Pool::new(threads));
    Network::new(
        graph,
        None,
        WeightScales::Fixed,
        &WeightFormats::new(),
        pool,
    )
    .unwrap()
}

pub(super) fn fill(maps: &mut Maps, seed: u64) {
    let mut rng = Rng::new(seed, 1, 0);
    for frame in 0..maps.frames {
        for y in 0..maps.shape.height {
            for value in maps.pixels_mut(frame, y) {
                *value = rng.normal(1.0) as f32;
            }
        }
    }
}

/// A loss with fixed random factors, and its gradient.
fn loss(network: &mut Network) -> f64 {
    let mut rng = Rng::new(9, 2, 0);
    let (values, gradient) = network.output_gradient(0);
    let mut loss = 0.0;
    for frame in 0..values.frames {
        for y in 0..values.shape.height {
            let now = values.pixels(frame, y);
            for (gradient, &value) in gradient.pixels_mut(frame, y).iter_mut().zip(now) {
                let factor = rng.normal(1.0);
                loss += factor * f64::from(value) + 0.5 * f64::from(value) * f64::from(value);
                *gradient = (factor + f64::from(value)) as f32;
            }
        }
    }
    loss
}

/// The same network in f64, pixel by pixel from the operators' definitions.
mod exact {
    use super::*;

    pub(super) struct Map {
        pub(super) shape: [usize; 3],
        pub(super) data: Vec<f64>,
    }

    impl Map {
        fn at(&self, c: usize, y: isize, x: isize) -> f64 {
            let [_, height, width] = self.shape;
            if y < 0 || x < 0 || y as usize >= height || x as usize >= width {
                return 0.0;
            }
            self.data[(c * height + y as usize) * width + x as usize]
        }
    }

    /// All frames of a batch.
    pub(super) fn run(
        graph: &Graph,
        params: &dyn Fn(&str) -> Vec<f64>,
        input: Vec<Map>,
    ) -> Vec<Map> {
        let mut maps = std::collections::HashMap::new();
        let frames = 0..input.len();
        maps.insert("x".to_owned(), input);
        for node in graph.nodes() {
            let frames = frames.clone().map(|frame| one(node, params, &maps, frame));
            let out: Vec<Map> = frames.collect();
            maps.insert(node.output(0).unwrap().to_owned(), out);
        }
        maps.remove("out").unwrap()
    }

    /// Mean and variance of a channel over a batch.
    pub(super) fn statistics(frames: &[Map], c: usize) -> [f64; 2] {
        let [_, height, width] = frames[0].shape;
        let plane = c * height * width..(c + 1) * height * width;
        let values = || frames.iter().flat_map(|map| &map.data[plane.clone()]);
        let count = (frames.len() * height * width) as f64;
        let mean = values().sum::<f64>() / count;
        let squares = values().map(|v| (v - mean) * (v - mean));
        [mean, squares.sum::<f64>() / count]
    }

    fn one(
        node: crate::build::onnx::Node<'_>,
        params: &dyn Fn(&str) -> Vec<f64>,
        maps: &std::collections::HashMap<String, Vec<Map>>,
        frame: usize,
    ) -> Map {
        let all = &maps[node.input(0).unwrap()];
        let x = &all[frame];
        let [channels, height, width] = x.shape;
        let map = |shape: [usize; 3], f: &dyn Fn(usize, usize, usize) -> f64| {
            let [c, h, w] = shape;
            let cells = (0..c * h * w).map(|i| f(i / (h * w), i / w % h, i % w));
            Map {
                shape,
                data: cells.collect(),
            }
        };
        match node.op() {
            "BatchNormalization" => {
                let gamma = params(node.input(1).unwrap());
                let beta = params(node.input(2).unwrap());
                let statistics: Vec<[f64; 2]> = (0..channels).map(|c| statistics(all, c)).collect();
                map(x.shape, &|c, y, x0| {
                    let [mean, variance] = statistics[c];
                    let value = x.at(c, y as isize, x0 as isize) - mean;
                    value / (variance + f64::from(1e-3f32)).sqrt() * gamma[c] + beta[c]
                })
            }
            "Conv" => {
                let weight = params(node.input(1).unwrap());
                let bias = params(node.input(2).unwrap());
                let kernel = node.ints("kernel_shape").unwrap().unwrap()[0] as usize;
                let stride = node.ints("strides").unwrap().unwrap()[0] as usize;
                let groups = node.int("group", 1).unwrap() as usize;
                let (inputs, outputs) = (channels / groups, bias.len() / groups);
                let size = |n: usize| (n + 2 * (kernel / 2) - kernel) / stride + 1;
                map([bias.len(), size(height), size(width)], &|o, y, x0| {
                    let mut sum = bias[o];
                    for i in 0..inputs {
                        for k in 0..kernel * kernel {
                            let at = |p: usize, k: usize| {
                                (p * stride + k) as isize - (kernel / 2) as isize
                            };
                            let v = x.at(
                                o / outputs * inputs + i,
                                at(y, k / kernel),
                                at(x0, k % kernel),
                            );
                            sum += v * weight[(o * inputs + i) * kernel * kernel + k];
                        }
                    }
                    sum
                })
            }
            "ConvTranspose" => {
                let weight = params(node.input(1).unwrap());
                let bias = params(node.input(2).unwrap());
                let n = bias.len();
                map([n, height * 2, width * 2], &|o, y, x0| {
                    let tap = y % 2 * 2 + x0 % 2;
                    let each = (0..channels).map(|i| {
                        x.at(i, (y / 2) as isize, (x0 / 2) as isize) * weight[(i * n + o) * 4 + tap]
                    });
                    bias[o] + each.sum::<f64>()
                })
            }
            "Relu" => map(x.shape, &|c, y, x0| {
                x.at(c, y as isize, x0 as isize).max(0.0)
            }),
            "Add" => {
                let b = &maps[node.input(1).unwrap()][frame];
                map(x.shape, &|c, y, x0| {
                    let (y, x0) = (y as isize, x0 as isize);
                    x.at(c, y, x0) + b.at(c, y, x0)
                })
            }
            "Concat" => {
                let b = &maps[node.input(1).unwrap()][frame];
                map([channels + b.shape[0], height, width], &|c, y, x0| {
                    let (y, x0) = (y as isize, x0 as isize);
                    if c < channels {
                        x.at(c, y, x0)
                    } else {
                        b.at(c - channels, y, x0)
                    }
                })
            }
            "DepthToSpace" => map([channels / 4, height * 2, width * 2], &|c, y, x0| {
                let from = (c * 2 + y % 2) * 2 + x0 % 2;
                x.at(from, (y / 2) as isize, (x0 / 2) as isize)
            }),
            other => panic!("{other}"),
        }
    }
}

/// The frames of a batch in f64.
fn exact_input(frames: &Maps) -> Vec<exact::Map> {
    let Shape {
        height,
        width,
        channels,
    } = frames.shape;
    let each = (0..frames.frames).map(|frame| {
        let cells = (0..channels * height * width).map(|i| {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            f64::from(frames.pixels(frame, y)[x * channels + c])
        });
        exact::Map {
            shape: [channels, height, width],
            data: cells.collect(),
        }
    });
    each.collect()
}

fn exact_loss(graph: &Graph, params: &dyn Fn(&str) -> Vec<f64>, frames: &Maps) -> f64 {
    let mut rng = Rng::new(9, 2, 0);
    let mut loss = 0.0;
    for out in exact::run(graph, params, exact_input(frames)) {
        let [channels, height, width] = out.shape;
        for cell in 0..height * width {
            for c in 0..channels {
                let value = out.data[c * height * width + cell];
                loss += rng.normal(1.0) * value + 0.5 * value * value;
            }
        }
    }
    loss
}

#[test]
fn gradients_are_finite_differences() {
    // On inputs whose values before a ReLU are not so near to 0 that f32 and f64 differ in their sign.
    check_gradients(&every_operator(3, false), 5);
    check_gradients(&every_operator(3, true), 6);
}

fn check_gradients(graph: &Graph, seed: u64) {
    let mut network = network(graph, 2);
    fill(network.batch(2), seed);
    let input = network.batch(2).clone();
    network.forward();
    let found = loss(&mut network);
    let input_gradient = network.backward(true).unwrap();
    let own = |name: &str| -> Vec<f64> {
        let values = graph.floats(name).unwrap().unwrap().data;
        values.into_iter().map(f64::from).collect()
    };
    let expected = exact_loss(graph, &own, &input);
    assert!(
        (found - expected).abs() < 1e-5 * expected.abs(),
        "{found} {expected}"
    );

    let step = 1e-6;
    let mut checked = 0;
    let mut wrong = Vec::new();
    let trained = network.params.iter().filter(|p| p.role != Role::Statistic);
    for param in trained {
        let gradients = network.params.gradients(param.index);
        let largest = gradients.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        // A prime step visits all taps, inputs and outputs over the tensors.
        for at in (0..gradients.len()).step_by((gradients.len() / 12).max(1) | 1) {
            let at_shifted = |delta: f64| {
                let params = |name: &str| {
                    let mut values = own(name);
                    if name == param.name {
                        values[at] += delta;
                    }
                    values
                };
                exact_loss(graph, &params, &input)
            };
            let difference = (at_shifted(step) - at_shifted(-step)) / (2.0 * step);
            let gradient = f64::from(gradients[at]);
            let allowed = 2e-4 * f64::from(largest.max(1.0));
            if (gradient - difference).abs() >= allowed {
                let name = &param.name;
                wrong.push(format!("{name} [{at}]: {gradient}, expected {difference}"));
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 100, "{checked}");
    // The input's gradient at some pixels, the corners among them.
    for (frame, y, x, c) in [(0, 0, 0, 0), (1, 11, 9, 2), (0, 5, 4, 1), (1, 0, 9, 0)] {
        let channels = input.shape.channels;
        let at_shifted = |delta: f32| {
            let mut moved = input.clone();
            moved.pixels_mut(frame, y)[x * channels + c] += delta;
            exact_loss(graph, &own, &moved)
        };
        // The input is f32: a power of two is exact enough.
        let step = 2.0f32.powi(-10);
        let difference = (at_shifted(step) - at_shifted(-step)) / (2.0 * f64::from(step));
        let gradient = f64::from(input_gradient.pixels(frame, y)[x * channels + c]);
        assert!(
            (gradient - difference).abs() < 0.02 * difference.abs().max(1.0),
            "{gradient} {difference}"
        );
    }
}

/// Running statistics move by a quarter, as the momentum of 0.75 says; frozen ones stay, and are what normalises.
#[test]
fn running_statistics_follow_the_batch() {
    let graph = every_operator(3, true);
    let mut network = network(&graph, 2);
    fill(network.batch(2), 5);
    let input = exact_input(network.batch(2));
    network.forward();
    let own = |name: &str| -> Vec<f64> {
        let values = graph.floats(name).unwrap().unwrap().data;
        values.into_iter().map(f64::from).collect()
    };
    // The first normalisation alone.
    let mut part = graph.clone();
    part.edit(|proto| {
        proto.node.truncate(1);
        proto.node[0].output[0] = "out".to_owned();
    })
    .unwrap();
    let conv = exact::run(&part, &own, input);
    let values = |network: &Network, name: &str| {
        let param = network.params.iter().find(|p| p.name == name).unwrap();
        network.params.values(param.index).to_vec()
    };
    let (means, variances) = (values(&network, "a0.mean"), values(&network, "a0.var"));
    let count = (2 * 12 * 10) as f64;
    for c in 0..20 {
        let [mean, variance] = exact::statistics(&conv, c);
        let expected = 0.75 * own("a0.mean")[c] + 0.25 * mean;
        assert!((f64::from(means[c]) - expected).abs() < 1e-5);
        let unbiased = variance * count / (count - 1.0);
        let expected = 0.75 * own("a0.var")[c] + 0.25 * unbiased;
        assert!((f64::from(variances[c]) - expected).abs() < 1e-5);
    }
    let batch = network.output(0).clone();
    network.set_rates(&|layer| if layer.starts_with('a') { 0.0 } else { 1.0 }, 0.0);
    network.forward();
    assert_eq!(values(&network, "a0.mean"), means);
    assert_ne!(network.output(0).data(), batch.data());
}

/// The bytes of the parameters after some steps.
fn trained(threads: usize, micro: usize) -> Vec<u32> {
    let graph = every_operator(3, true);
    let mut network = network(&graph, threads);
    let mut optimizer = Optimizer::new(&network.params);
    let options = StepOptions {
        rate: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        weight_decay: 1e-2,
        clip: 10.0,
        ema: 0.9,
    };
    for step in 0..3 {
        for part in 0..micro {
            fill(network.batch(2), 100 + step * 10 + part as u64);
            network.forward();
            loss(&mut network);
            network.backward(false);
        }
        network.update(&mut optimizer, &options).unwrap();
    }
    network
        .params
        .all_values()
        .iter()
        .map(|v| v.to_bits())
        .collect()
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let one = trained(1, 2);
    assert_eq!(one, trained(2, 2));
    assert_eq!(one, trained(5, 2));
    assert_ne!(one, trained(1, 1));
}

/// A pair on the activations and codes for the weights: values and gradients by definition.
#[test]
fn fake_quantisation_passes_gradients_inside_its_range() {
    let scale = 0.5f32;
    let codes: Vec<i8> = vec![2, -3];
    let nodes = vec![
        node("QuantizeLinear", &["x", "s", "z"], "xq"),
        node("DequantizeLinear", &["xq", "s", "z"], "xd"),
        {
            let mut n = node("DequantizeLinear", &["w_quantized", "ws", "wz"], "w");
            int(&mut n, "axis", 0);
            n
        },
        conv(&["xd", "w"], "out", 1, 1, 1),
    ];
    let tensors = vec![
        from_floats("s", &[], &[scale]),
        from_codes("z", &[], &[0]),
        from_codes("w_quantized", &[2, 1, 1, 1], &codes),
        from_floats("ws", &[2], &[0.25, 0.5]),
        from_codes("wz", &[2], &[0, 0]),
    ];
    let graph = shaped(nodes, tensors, Some(&[1, 1, 1, 4]));
    let mut network = network(&graph, 1);
    // Between two codes, on a tie, and beyond either end.
    let input = [0.6f32, 0.75, 100.0, -70.0];
    network.batch(1).pixels_mut(0, 0).copy_from_slice(&input);
    network.forward();
    let rounded = [0.5f32, 1.0, 63.5, -64.0];
    let weights = [0.5f32, -1.5];
    let out = network.output(0).pixels(0, 0).to_vec();
    for (x, pixel) in rounded.iter().zip(out.chunks(2)) {
        assert_eq!(pixel, [x * weights[0], x * weights[1]]);
    }
    let (_, gradient) = network.output_gradient(0);
    gradient
        .pixels_mut(0, 0)
        .copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let found = network.backward(true).unwrap();
    let dx: Vec<f32> = [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0)]
        .iter()
        .map(|(a, b)| a * weights[0] + b * weights[1])
        .collect();
    assert_eq!(found.pixels(0, 0), [dx[0], dx[1], 0.0, 0.0]);
    // LSQ: code - value / scale inside, the last code outside; times the scale for its logarithm.
    let slopes = [1.0 - 1.2, 2.0 - 1.5, 127.0, -128.0f32];
    let expected: f32 = dx.iter().zip(slopes).map(|(d, s)| d * s).sum::<f32>() * scale;
    let by_name = |name: &str| {
        let param = network.params.iter().find(|p| p.name == name).unwrap();
        network.params.gradients(param.index).to_vec()
    };
    let found = by_name("x.scale")[0];
    assert!(
        (found - expected).abs() < 1e-4 * expected.abs(),
        "{found} {expected}"
    );
    let dw = [0, 1].map(|c| {
        rounded
            .iter()
            .enumerate()
            .map(|(i, x)| x * (2 * i + 1 + c) as f32)
            .sum::<f32>()
    });
    assert_eq!(by_name("w_quantized"), dw);
}

/// Quantised: the pairs of `insert_qdq`, with ranges that some values exceed.
#[test]
#[ignore = "needs CENTERPOINT_TORCH"]
fn gradients_are_those_of_pytorch() {
    let float = every_operator(3, false);
    let placement = crate::build::quantize::Placement::default();
    let tensors = crate::build::quantize::tensors_to_calibrate(&float, &placement).unwrap();
    let amax = tensors.into_iter().map(|tensor| (tensor, 1.7)).collect();
    let quantized = crate::build::quantize::insert_qdq(&float, &amax, &placement).unwrap();
    let pool = Arc::new(Pool::new(0));
    let mut network = Network::new(
        &quantized.graph,
        Some(&float),
        WeightScales::Max,
        &WeightFormats::new(),
        pool,
    )
    .unwrap();
    fill(network.batch(2), 5);
    let input = nchw(network.batch(2));
    network.forward();
    loss(&mut network);
    network.backward(false);
    let mut factors = network.output(0).clone();
    let mut rng = Rng::new(9, 2, 0);
    for frame in 0..factors.frames {
        for y in 0..factors.shape.height {
            for value in factors.pixels_mut(frame, y) {
                *value = rng.normal(1.0) as f32;
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    quantized.graph.write(&path("quantized.onnx")).unwrap();
    float.write(&path("float.onnx")).unwrap();
    let bytes =
        |values: Vec<f32>| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    std::fs::write(path("input.f32"), bytes(input)).unwrap();
    std::fs::write(path("factors.f32"), bytes(nchw(&factors))).unwrap();
    let gradients: std::collections::BTreeMap<&str, &[f32]> = network
        .params
        .iter()
        .map(|p| (p.name.as_str(), network.params.gradients(p.index)))
        .collect();
    std::fs::write(
        path("gradients.json"),
        serde_json::to_string(&gradients).unwrap(),
    )
    .unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/gradients.py");
    let python = std::env::var("CENTERPOINT_TORCH").unwrap();
    let run = std::process::Command::new(python)
        .arg(script)
        .arg(folder.path())
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&run.stdout));
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

/// The values of all frames as `[frame][channel][row][column]`.
fn nchw(maps: &Maps) -> Vec<f32> {
    let mut all = Vec::new();
    for frame in 0..maps.frames {
        for c in 0..maps.shape.channels {
            for y in 0..maps.shape.height {
                all.extend(
                    maps.pixels(frame, y)
                        .iter()
                        .skip(c)
                        .step_by(maps.shape.channels),
                );
            }
        }
    }
    all
}
