use std::sync::Arc;

use super::*;
use crate::build::compile;
use crate::build::onnx::tensor::from_floats;
use crate::build::testing::{data, int, ints, node, shaped};
use crate::cpu::pool::Pool;
use crate::engine::Engine;
use crate::engine::cpu::{CpuEngine, Options};
use crate::map::MapLayout;
use crate::synth::Rng;

/// Input channels, rows and columns.
const INPUT: [usize; 3] = [4, 9, 7];
/// Outputs, and their rows and columns.
const OUTPUT: [usize; 3] = [6, 5, 4];

/// One 3×3 convolution with stride 2, padding and two groups.
fn network(rng: &mut Rng) -> Graph {
    let weight: Vec<f32> = (0..6 * 2 * 9)
        .map(|_| rng.range(-1.0, 1.0) as f32)
        .collect();
    let tensors = vec![
        from_floats("c.weight", &[6, 2, 3, 3], &weight),
        from_floats("c.bias", &[6], &[0.5; 6]),
    ];
    let mut conv = node("Conv", &["x", "c.weight", "c.bias"], "out");
    ints(&mut conv, "pads", &[1, 1, 1, 1]);
    ints(&mut conv, "strides", &[2, 2]);
    int(&mut conv, "group", 2);
    shaped(vec![conv], tensors, Some(&[1, 4, 9, 7]))
}

/// The output of a graph, `[channel][cell]`.
fn run(graph: &Graph, map: &[f32]) -> Vec<f32> {
    let payload = compile::cpu(graph).unwrap();
    let (weights, pool) = (Arc::new(payload.weights), Arc::new(Pool::new(1)));
    let mut engine = CpuEngine::new(payload.program, weights, pool, &Options::default()).unwrap();
    let [_, h, w] = INPUT;
    let mut input = engine.input_mut();
    for (i, &value) in map.iter().enumerate() {
        input.set(i / (h * w), i / w % h, i % w, value);
    }
    engine.run().unwrap();
    let view = engine.output(0).unwrap();
    let [channels, h, w] = OUTPUT;
    let at = |i: usize| view.data[view.layout.index(i / (h * w), i / w % h, i % w)];
    (0..channels * h * w).map(at).collect()
}

fn quantizer(tensor: &str, kind: QuantizerKind, amax: Vec<f32>) -> Quantizer {
    Quantizer {
        tensor: tensor.to_owned(),
        layer: None,
        kind,
        bits: 8,
        axis: None,
        amax,
        own_amax: None,
        readers: Vec::new(),
        saturated: None,
    }
}

/// The mean of `quantised − float` over the selected cells, by channel.
fn difference(float: &[f32], quantised: &[f32], cells: &[bool]) -> Vec<f64> {
    let count = cells.iter().filter(|c| **c).count() as f64;
    let channels = float
        .chunks_exact(cells.len())
        .zip(quantised.chunks_exact(cells.len()));
    let mean = |(a, b): (&[f32], &[f32])| {
        let each = a.iter().zip(b).zip(cells).filter(|(_, counts)| **counts);
        each.map(|((a, b), _)| f64::from(b - a)).sum::<f64>() / count
    };
    channels.map(mean).collect()
}

#[test]
fn errors_match_the_rounded_network_and_are_corrected() {
    let mut rng = Rng::new(7, 0, 0);
    let graph = network(&mut rng);
    let map: Vec<f32> = (0..4 * 9 * 7).map(|_| rng.range(0.0, 3.0) as f32).collect();
    // Coarse on purpose: a large part of the input is clipped to 2.
    let (input_amax, weight_amax) = (2.0, vec![1.0, 0.5, 1.0, 0.25, 1.0, 1.0]);
    let quantizers = [
        quantizer("x", QuantizerKind::Activation, vec![input_amax]),
        quantizer("c.weight", QuantizerKind::Weight, weight_amax.clone()),
    ];
    // Codes of weights end at -127, those of maps at -128.
    let round = |v: f32, amax: f32, least: f32| {
        (v / amax * 127.0).round_ties_even().clamp(least, 127.0) / 127.0 * amax
    };
    let coarse: Vec<f32> = map.iter().map(|&v| round(v, input_amax, -128.0)).collect();
    let weight = data(&graph, "c.weight").into_iter().enumerate();
    let weight: Vec<f32> = weight
        .map(|(i, w)| round(w, weight_amax[i / 18], -127.0))
        .collect();
    let rounded = |graph: &Graph| {
        let mut graph = graph.clone();
        graph
            .edit(|proto| {
                let tensor = proto
                    .initializer
                    .iter_mut()
                    .find(|t| t.name() == "c.weight");
                *tensor.unwrap() = from_floats("c.weight", &[6, 2, 3, 3], &weight);
            })
            .unwrap();
        graph
    };
    let every: Vec<bool> = vec![true; 20];
    // Includes cells at the border, where taps read padding.
    let some: Vec<bool> = (0..20).map(|cell| cell % 3 == 0 || cell == 19).collect();
    for cells in [every, some] {
        let mut collector = Collector::new(&graph, &graph, &quantizers).unwrap();
        let view = MapView {
            data: &map,
            layout: MapLayout::nchw(4, 9, 7),
        };
        collector.observe("another", view, &mut |_| vec![true; 20]);
        assert!(collector.errors().is_empty());
        collector.observe("x", view, &mut |size| {
            assert_eq!(size, OUTPUT[1..]);
            cells.clone()
        });
        let errors = collector.errors();
        let expected = difference(&run(&graph, &map), &run(&rounded(&graph), &coarse), &cells);
        assert!(expected.iter().any(|e| e.abs() > 0.1), "{expected:?}");
        for (found, expected) in errors["out"].iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
        let mut corrected = graph.clone();
        correct(&mut corrected, &errors).unwrap();
        let left = difference(
            &run(&graph, &map),
            &run(&rounded(&corrected), &coarse),
            &cells,
        );
        assert!(left.iter().all(|e| e.abs() < 1e-4), "{left:?}");
    }
}

#[test]
fn a_convolution_without_a_bias_gets_one_and_others_do_not_change() {
    let graph = network(&mut Rng::new(7, 0, 0));
    let mut bare = graph.clone();
    bare.edit(|proto| proto.node[0].input.truncate(2)).unwrap();
    let errors = BTreeMap::from([("out".to_owned(), vec![0.25; 6])]);
    correct(&mut bare, &errors).unwrap();
    assert_eq!(
        data(&bare, bare.producer("out").unwrap().input(2).unwrap()),
        [-0.25; 6]
    );
    let mut other = graph.clone();
    correct(&mut other, &BTreeMap::from([("y".to_owned(), vec![1.0])])).unwrap();
    assert_eq!(other.to_model(), graph.to_model());
}

#[test]
fn convolutions_that_are_not_fully_quantised_are_skipped() {
    let graph = network(&mut Rng::new(7, 0, 0));
    for one in [
        quantizer("x", QuantizerKind::Activation, vec![1.0]),
        quantizer("c.weight", QuantizerKind::Weight, vec![1.0; 6]),
    ] {
        let collector = Collector::new(&graph, &graph, &[one]).unwrap();
        assert!(collector.convs.is_empty());
    }
}
