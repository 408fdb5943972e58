use std::sync::Arc;

use super::*;
use crate::build::compile;
use crate::build::onnx::proto::TensorProto;
use crate::build::onnx::proto::{AttributeProto, NodeProto, ValueInfoProto};
use crate::build::onnx::tensor::from_floats;
use crate::build::testing::{data, int, ints, node, shaped};
use crate::cpu::pool::Pool;
use crate::engine::Engine;
use crate::engine::cpu::{CpuEngine, Options};
use crate::model::PfnLayer;
use crate::synth::Rng;

/// Sizes of the test networks' input.
const INPUT: [usize; 3] = [6, 8, 8];

/// A network in the making: its nodes and constants, and random values.
struct Net {
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    rng: Rng,
}

impl Net {
    fn new(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            tensors: Vec::new(),
            rng: Rng::new(seed, 0, 0),
        }
    }

    fn value(&mut self) -> f32 {
        self.rng.range(-1.0, 1.0) as f32
    }

    /// A constant whose rows of `row` values differ in size by up to 2^6.
    fn constant(&mut self, name: &str, dims: &[usize], row: usize) {
        let count: usize = dims.iter().product();
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            let size = 2.0_f32.powf(3.0 * self.value());
            values.extend((0..row).map(|_| size * self.value()));
        }
        self.tensors.push(from_floats(name, dims, &values));
    }

    /// A convolution of either kind, named like its output, with weight `NAME.weight` and a bias.
    fn conv(&mut self, op: &str, x: &str, name: &str, dims: [usize; 4], groups: usize) {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let per_row = match op {
            "Conv" => dims[1] * dims[2] * dims[3],
            _ => dims[2] * dims[3],
        };
        self.constant(&weight, &dims, per_row);
        let out = if op == "Conv" {
            dims[0]
        } else {
            dims[1] * groups
        };
        self.constant(&bias, &[out], 1);
        let mut conv = node(op, &[x, &weight, &bias], name);
        int(&mut conv, "group", groups as i64);
        if op == "Conv" {
            ints(&mut conv, "pads", &[(dims[2] / 2) as i64; 4]);
        } else {
            ints(&mut conv, "strides", &[dims[2] as i64, dims[3] as i64]);
        }
        self.nodes.push(conv);
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str) {
        self.nodes.push(node(op, inputs, output));
    }

    fn shuffle(&mut self, x: &str, output: &str, mode: &str) {
        let mut shuffle = node("DepthToSpace", &[x], output);
        int(&mut shuffle, "blocksize", 2);
        shuffle.attribute.push(AttributeProto {
            name: Some("mode".to_owned()),
            s: Some(mode.as_bytes().to_vec().into()),
            ..Default::default()
        });
        self.nodes.push(shuffle);
    }

    fn graph(mut self, outputs: &[&str]) -> Graph {
        // The helper's graphs end in "out"; `set_outputs` removes it again.
        self.node("Identity", &[outputs[0]], "out");
        let dims = [1, INPUT[0] as i64, INPUT[1] as i64, INPUT[2] as i64];
        let mut graph = shaped(self.nodes, self.tensors, Some(&dims));
        set_outputs(&mut graph, outputs);
        graph
    }

    /// All node types and ties: a residual block, groups, both DepthToSpace modes, a pool, a
    /// ConvTranspose, a Concat of three, a weight that two nodes share.
    fn everything(seed: u64) -> Graph {
        let mut net = Self::new(seed);
        net.conv("Conv", "x", "stem", [8, 6, 3, 3], 1);
        net.node("Relu", &["stem"], "stem.r");
        net.conv("Conv", "stem.r", "block.a", [8, 8, 3, 3], 1);
        net.node("Relu", &["block.a"], "block.a.r");
        net.conv("Conv", "block.a.r", "block.b", [8, 4, 3, 3], 2);
        net.node("Add", &["block.b", "stem.r"], "sum");
        net.node("Relu", &["sum"], "sum.r");
        let mut pool = node("MaxPool", &["sum.r"], "pool");
        ints(&mut pool, "kernel_shape", &[2, 2]);
        ints(&mut pool, "strides", &[2, 2]);
        net.nodes.push(pool);
        net.conv("ConvTranspose", "pool", "up", [8, 3, 2, 2], 2);
        net.conv("Conv", "pool", "crd", [12, 8, 1, 1], 1);
        net.shuffle("crd", "crd.s", "CRD");
        net.conv("Conv", "pool", "dcr", [8, 8, 1, 1], 1);
        net.shuffle("dcr", "dcr.s", "DCR");
        net.nodes.push({
            let mut concat = node("Concat", &["up", "crd.s", "dcr.s"], "cat");
            int(&mut concat, "axis", 1);
            concat
        });
        net.node("Relu", &["cat"], "cat.r");
        net.conv("Conv", "cat.r", "shared", [5, 11, 3, 3], 1);
        net.node("Relu", &["shared"], "shared.r");
        net.conv("Conv", "shared.r", "twin.a", [5, 5, 1, 1], 1);
        // Shares the weight and bias of twin.a.
        let again = node(
            "Conv",
            &["shared.r", "twin.a.weight", "twin.a.bias"],
            "twin.b",
        );
        net.nodes.push(again);
        net.node("Relu", &["twin.a"], "twin.a.r");
        net.conv("Conv", "twin.a.r", "head", [2, 5, 3, 3], 1);
        net.graph(&["head", "twin.b"])
    }
}

fn set_outputs(graph: &mut Graph, outputs: &[&str]) {
    let named = |name: &&str| ValueInfoProto {
        name: Some((*name).to_owned()),
        ..Default::default()
    };
    let outputs = outputs.iter().map(named).collect();
    graph.edit(|proto| proto.output = outputs).unwrap();
    graph.prune().unwrap();
}

/// A PFN with `INPUT[0]` outputs.
fn pfn(rng: &mut Rng) -> Pfn {
    let mut layer = |ins: usize, outs: usize| PfnLayer {
        in_features: ins,
        out_features: outs,
        weight: (0..ins * outs)
            .map(|_| rng.range(-1.0, 1.0) as f32)
            .collect(),
        bias: (0..outs).map(|_| rng.range(-0.5, 0.5) as f32).collect(),
    };
    let layers = vec![layer(4, 3), layer(6, INPUT[0])];
    Pfn { layers }
}

/// Runs a graph on an NCHW map of size `INPUT`; returns channels and NCHW values of each output.
fn run(graph: &Graph, map: &[f32]) -> BTreeMap<String, (usize, Vec<f32>)> {
    let payload = compile::cpu(graph).unwrap();
    let weights = Arc::new(payload.weights);
    let pool = Arc::new(Pool::new(1));
    let mut engine = CpuEngine::new(payload.program, weights, pool, &Options::default()).unwrap();
    let mut input = engine.input_mut();
    let [_, height, width] = INPUT;
    for (i, &value) in map.iter().enumerate() {
        let (c, y, x) = (i / (height * width), i / width % height, i % width);
        input.set(c, y, x, value);
    }
    engine.run().unwrap();
    let names: Vec<String> = engine.outputs().iter().map(|o| o.name.clone()).collect();
    let each = names.into_iter().enumerate().map(|(i, name)| {
        let view = engine.output(i).unwrap();
        let layout = view.layout;
        let mut values = Vec::new();
        for c in 0..layout.channels {
            for y in 0..layout.height {
                let row = (0..layout.width).map(|x| view.data[layout.index(c, y, x)]);
                values.extend(row);
            }
        }
        (name, (layout.channels, values))
    });
    each.collect()
}

/// The channel maxima of all maps that convolutions read.
fn maxima(graph: &Graph, map: &[f32]) -> BTreeMap<String, Vec<f32>> {
    let convs = graph.nodes().filter(|n| is_convolution(*n));
    let mut read: Vec<String> = convs.map(|n| n.input(0).unwrap().to_owned()).collect();
    read.sort();
    read.dedup();
    read.retain(|value| value != "x");
    let mut all = graph.clone();
    let names: Vec<&str> = read.iter().map(String::as_str).collect();
    set_outputs(&mut all, &names);
    let mut maps = run(&all, map);
    maps.insert("x".to_owned(), (INPUT[0], map.to_vec()));
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let each = maps.into_iter().map(|(name, (channels, values))| {
        let maps = values.chunks_exact(values.len() / channels);
        (name, maps.map(largest).collect())
    });
    each.collect()
}

/// The output of the PFN's last layer for `rows`, `[channels][rows]`, as a map.
fn encoded(pfn: &Pfn, rows: &[f32]) -> Vec<f32> {
    let layer = pfn.layers.last().unwrap();
    let outs = layer
        .weight
        .chunks_exact(layer.in_features)
        .zip(&layer.bias);
    let each = outs.flat_map(|(weight, bias)| {
        rows.chunks_exact(layer.in_features).map(move |row| {
            let products = row.iter().zip(weight).map(|(x, w)| x * w);
            (bias + products.sum::<f32>()).max(0.0)
        })
    });
    each.collect()
}

#[test]
fn results_do_not_change() {
    for seed in 0..6 {
        let graph = Net::everything(seed);
        let mut rng = Rng::new(100 + seed, 0, 0);
        let pfn = pfn(&mut rng);
        let rows: Vec<f32> = (0..6 * 64).map(|_| rng.range(-1.0, 1.0) as f32).collect();
        let map = encoded(&pfn, &rows);
        let amax = maxima(&graph, &map);
        let equal = equalize(&graph, &pfn, &amax, 0.5).unwrap();
        let (before, after) = (
            run(&graph, &map),
            run(&equal.graph, &encoded(&equal.pfn, &rows)),
        );
        assert_eq!(before.len(), 2);
        for (name, (_, expected)) in &before {
            let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            assert!(largest > 0.0);
            for (a, b) in expected.iter().zip(&after[name].1) {
                assert!(
                    (a - b).abs() <= 1e-5 * largest,
                    "seed {seed}, {name}: {a} became {b}"
                );
            }
        }
        // All tensors that convolutions read, with factors that matter.
        let tensors: Vec<&str> = equal.report.equalized.iter().map(|e| &*e.tensor).collect();
        let all = [
            "x",
            "stem.r",
            "block.a.r",
            "pool",
            "cat.r",
            "shared.r",
            "twin.a.r",
        ];
        assert_eq!(tensors, all, "{:?}", equal.report);
        assert!(equal.report.left_out.is_empty(), "{:?}", equal.report);
        let wide = |e: &&EqualizedTensor| e.factors[1] / e.factors[0] > 2.0;
        assert!(equal.report.equalized.iter().filter(wide).count() >= 5);
        // With alpha 1 all channels have the same range.
        let flat = equalize(&graph, &pfn, &amax, 1.0).unwrap();
        let amax = maxima(&flat.graph, &encoded(&flat.pfn, &rows));
        for name in ["x", "cat.r", "block.a.r", "twin.a.r"] {
            let live: Vec<f32> = amax[name].iter().copied().filter(|&m| m > 0.0).collect();
            let (low, high) = (
                live.iter().fold(f32::MAX, |m, &v| m.min(v)),
                live.iter().fold(0.0_f32, |m, &v| m.max(v)),
            );
            assert!(high / low < 1.0001, "{name}: {live:?}");
        }
    }
}

#[test]
fn alpha_0_changes_nothing() {
    let graph = Net::everything(1);
    let pfn = pfn(&mut Rng::new(1, 0, 0));
    let map = vec![1.0; INPUT.iter().product()];
    let equal = equalize(&graph, &pfn, &maxima(&graph, &map), 0.0).unwrap();
    assert_eq!(equal.pfn, pfn);
    assert_eq!(equal.graph.to_model(), graph.to_model());
}

/// x → conv a → Relu → conv b, with 2 channels in between.
fn chain(outputs: &[&str]) -> (Graph, Pfn) {
    let mut net = Net::new(1);
    net.tensors
        .push(from_floats("a.weight", &[2, 6, 1, 1], &[1.0; 12]));
    net.tensors.push(from_floats("a.bias", &[2], &[8.0, 16.0]));
    net.tensors
        .push(from_floats("b.weight", &[1, 2, 1, 1], &[1.0, 3.0]));
    net.node("Conv", &["x", "a.weight", "a.bias"], "a");
    net.node("Relu", &["a"], "r");
    net.node("Conv", &["r", "b.weight"], "b");
    (net.graph(outputs), pfn(&mut Rng::new(1, 0, 0)))
}

#[test]
fn the_geometric_mean_of_the_factors_is_1() {
    let (graph, pfn) = chain(&["b"]);
    let amax = BTreeMap::from([
        ("x".to_owned(), vec![1.0; 6]),
        ("r".to_owned(), vec![1.0, 16.0]),
    ]);
    // (1, 16)^0.5 = (1, 4), divided by the geometric mean 2.
    let equal = equalize(&graph, &pfn, &amax, 0.5).unwrap();
    assert_eq!(equal.report.equalized[1].factors, [0.5, 2.0]);
    assert_eq!(data(&equal.graph, "a.bias"), [16.0, 8.0]);
    assert_eq!(data(&equal.graph, "a.weight")[..6], [2.0; 6]);
    assert_eq!(data(&equal.graph, "a.weight")[6..], [0.5; 6]);
    assert_eq!(data(&equal.graph, "b.weight"), [0.5, 6.0]);
    assert_eq!(equal.pfn, pfn);
}

#[test]
fn dead_channels_keep_factor_1_and_wild_ones_are_clamped() {
    let (graph, pfn) = chain(&["b"]);
    let amax = BTreeMap::from([
        ("x".to_owned(), vec![0.0, 1e-30, 1e30, 0.0, 1.0, 1.0]),
        ("r".to_owned(), vec![0.0, 4.0]),
    ]);
    let equal = equalize(&graph, &pfn, &amax, 1.0).unwrap();
    let report = &equal.report.equalized;
    assert_eq!((report[0].dead, report[0].factors), (2, [1.0 / 64.0, 64.0]));
    // A single live channel is its own mean.
    assert_eq!((report[1].dead, report[1].factors), (1, [1.0, 1.0]));
}

#[test]
fn visible_channels_keep_their_scale_and_the_report_says_why() {
    let (graph, pfn) = chain(&["b", "r"]);
    let amax = BTreeMap::from([
        ("x".to_owned(), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ("r".to_owned(), vec![1.0, 16.0]),
    ]);
    let equal = equalize(&graph, &pfn, &amax, 0.5).unwrap();
    assert_eq!(equal.report.equalized.len(), 1);
    assert_eq!(
        equal.report.left_out,
        [LeftOut {
            tensor: "r".to_owned(),
            channels: 2,
            reason: "it is an output of the network".to_owned(),
        }]
    );
    assert_eq!(data(&equal.graph, "b.weight"), [1.0, 3.0]);
    assert_ne!(equal.pfn, pfn);

    // An operator that is not homogeneous.
    let mut net = Net::new(1);
    net.conv("Conv", "x", "a", [2, 6, 1, 1], 1);
    net.node("Sigmoid", &["a"], "s");
    net.conv("Conv", "s", "b", [1, 2, 1, 1], 1);
    let mut maxima = amax.clone();
    maxima.insert("s".to_owned(), vec![1.0, 0.5]);
    let equal = equalize(&net.graph(&["b"]), &pfn, &maxima, 0.5).unwrap();
    let left_out = &equal.report.left_out[0];
    assert_eq!((&*left_out.tensor, left_out.channels), ("s", 2));
    assert!(left_out.reason.contains("(Sigmoid)"), "{left_out:?}");

    // A PFN with the wrong number of channels.
    let mut narrow = pfn.clone();
    narrow.layers[1].out_features = 3;
    narrow.layers[1].weight.truncate(18);
    narrow.layers[1].bias.truncate(3);
    let equal = equalize(&graph, &narrow, &amax, 0.5).unwrap();
    assert_eq!(equal.pfn, narrow);
    assert!(equal.report.left_out[0].reason.contains("3 channels"));
}

#[test]
fn missing_or_invalid_maxima_are_named() {
    let (graph, pfn) = chain(&["b"]);
    let good = BTreeMap::from([
        ("x".to_owned(), vec![1.0; 6]),
        ("r".to_owned(), vec![1.0, 16.0]),
    ]);
    for found in [vec![], vec![1.0], vec![1.0, f32::NAN], vec![1.0, -1.0]] {
        let mut amax = good.clone();
        amax.insert("r".to_owned(), found);
        let message = equalize(&graph, &pfn, &amax, 0.5).unwrap_err().to_string();
        assert!(
            message.contains("\"r\"") && message.contains("2 channels"),
            "{message}"
        );
    }
}

#[test]
fn an_aligned_background_is_a_whole_number_of_codes() {
    let (graph, pfn) = chain(&["b"]);
    // The background is the Relu of the biases, 8 and 16, which are 26.7 and 53.3 codes.
    let levels = Levels {
        background: vec![vec![8.0], vec![16.0]],
        channel_amax: vec![20.0, 30.0],
        scale: 0.3,
    };
    let tensors = BTreeMap::from([("r".to_owned(), levels)]);
    let (aligned, same) = align(&graph, &pfn, &tensors).unwrap();
    assert_eq!(same, pfn);
    assert_eq!(data(&graph, "a.bias"), [8.0, 16.0]);
    for bias in data(&aligned, "a.bias") {
        let codes = bias / 0.3;
        assert!((codes - codes.round()).abs() < 1e-5, "{codes}");
        assert!([27.0, 53.0].contains(&codes.round()));
    }
    let map: Vec<f32> = (0..6 * 64).map(|i| (i % 17) as f32 / 17.0).collect();
    let (before, after) = (&run(&graph, &map)["b"].1, &run(&aligned, &map)["b"].1);
    for (a, b) in before.iter().zip(after) {
        assert!((a - b).abs() <= 1e-5 * a.abs(), "{a} became {b}");
    }
}
