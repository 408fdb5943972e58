//! The CUDA engine in half precision: near the CPU engine's outputs, always the same bytes, and the same with and without
//! skipping.

use std::sync::Arc;

use centerpoint::cuda::Device;
use centerpoint::internals::engine::cuda::{CudaEngine, Options};
use centerpoint::internals::program::Payload;
use centerpoint::{Box3d, Detector};

use super::engine::{cuda_engine, outputs, part};
use super::frame::{demo_frames, demo_plan, on_cpu, read};
use crate::emulation;
use crate::engine::lazy::random_heads;
use crate::engine::skip::frames;
use crate::engine::{self, run};
use crate::engine_net::{Net, Op, Random, demo};

fn half(payload: &Payload, device: &Arc<dyn Device>, skip: bool) -> CudaEngine {
    let options = Options {
        skip_empty: Some(skip),
        half: true,
        ..Options::default()
    };
    cuda_engine(payload, device, &options).unwrap()
}

/// The largest difference between two maps, of the larger one's largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = |values: &[f32]| {
        values
            .iter()
            .fold(0.0f32, |most, value| most.max(value.abs()))
    };
    let differences: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    largest(&differences) / largest(a).max(largest(b)).max(1e-3)
}

/// Compares the outputs for inputs one after the other: those of the CPU engine, of half precision, and of half precision
/// without skipping.
fn compare(net: &Net, inputs: &[Vec<f32>], seed: u64) {
    /// Layers of halves are off by a few units of 2^-11 each.
    const NEAR: f32 = 0.01;
    let payload = net.payload().unwrap();
    let mut exact = engine::engine(&payload, None, 1);
    let (device, other) = (emulation::device(seed), emulation::device(seed + 1));
    let mut skipping = half(&payload, &device, true);
    let mut plain = half(&payload, &other, false);
    let mut differ = false;
    for (number, input) in inputs.iter().enumerate() {
        let expected = run(&mut exact, input);
        let found = outputs(&mut skipping, &device, &mut exact, input).unwrap();
        let again = outputs(&mut plain, &other, &mut exact, input).unwrap();
        for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let distance = distance(expected, found);
            assert!(
                distance < NEAR,
                "{seed}: input {number}, output {index}: {distance}\n{:#?}",
                net.nodes
            );
            differ |= expected != found;
        }
        let same = |(a, b): (&Vec<f32>, &Vec<f32>)| {
            a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
        };
        assert!(found.iter().zip(&again).all(same), "{seed}: input {number}");
    }
    assert!(differ, "{seed}: nothing was rounded");
}

#[test]
fn every_kernel_is_near_the_cpu_engine() {
    let mut random = Random(1);
    let mut net = Net::new([32, 9, 18]);
    let mut conv = |name: &str, x: &str, [channels, out, k, stride]: [usize; 4]| {
        net.conv(
            &mut random,
            name,
            x,
            channels,
            out,
            k,
            stride,
            !name.starts_with("out"),
        )
    };
    conv("a", "input", [32, 32, 3, 1]);
    conv("b", "a", [32, 32, 1, 1]);
    conv("c", "b", [32, 64, 3, 2]);
    conv("d", "c", [64, 64, 3, 1]);
    conv("e", "d", [64, 64, 1, 1]);
    conv("f", "e", [64, 32, 1, 2]);
    conv("g", "e", [64, 16, 3, 2]);
    conv("out1", "f", [32, 3, 3, 1]);
    conv("out2", "e", [64, 2, 1, 1]);
    conv("out3", "g", [16, 20, 5, 1]);
    conv("out4", "e", [64, 40, 3, 1]);
    conv("out6", "g", [16, 40, 3, 1]);
    // Without tensor cores.
    net.node("sum", &["d", "e"], Op::Add);
    net.node("gate", &["sum"], Op::Sigmoid);
    let scale = net.constant(&mut random, 64, 1.0);
    let shift = net.constant(&mut random, 64, 1.0);
    net.node("affine", &["gate"], Op::BatchNormalization { scale, shift });
    let pool = Op::MaxPool {
        kernel: [3; 2],
        stride: [1; 2],
        pad: [1; 4],
    };
    net.node("out5", &["affine"], pool);
    net.outputs = (1..=6).map(|i| format!("out{i}")).collect();
    let input = random.values(32 * 9 * 18);
    compare(&net, &[part(&input, net.input, [2, 3], 4), input], 3);
}

#[test]
fn networks_are_near_the_cpu_engine() {
    let net = demo(32);
    compare(&net, &frames(net.input, 7)[3..6], 7);
    // The odd ones are in float.
    for seed in (1..2 * emulation::cases(10) as u64).step_by(2) {
        let (net, _) = random_heads(seed, 1);
        compare(&net, &frames(net.input, seed)[..4], seed);
    }
}

#[test]
fn a_float_plan_finds_the_cpus_boxes() {
    let plan = demo_plan("fp32.plan");
    let options = centerpoint::Options {
        fp16: true,
        ..centerpoint::Options::default()
    };
    let mut on_cpu = Detector::new(&plan, &on_cpu(&options)).unwrap();
    let mut on_device = Detector::on(&plan, &options, &emulation::device(2)).unwrap();
    let near = |a: &Box3d, b: &Box3d| {
        let distance = (0..3)
            .map(|i| (a.center[i] - b.center[i]).abs())
            .fold(0.0, f32::max);
        a.class == b.class && distance < 0.05 && (a.score - b.score).abs() < 0.02
    };
    let cloud = read(&demo_frames()[3]);
    let expected = on_cpu.detect(&cloud).unwrap().boxes.to_vec();
    let found = on_device.detect(&cloud).unwrap().boxes.to_vec();
    let sure = |boxes: &[Box3d]| -> Vec<Box3d> {
        boxes
            .iter()
            .filter(|found| found.score > 0.2)
            .copied()
            .collect()
    };
    assert!(sure(&expected).len() > 3, "{}", expected.len());
    for (some, others) in [(&expected, &found), (&found, &expected)] {
        for one in sure(some) {
            assert!(
                others.iter().any(|other| near(&one, other)),
                "{one:?}\n{others:#?}"
            );
        }
    }
    assert!(expected.iter().zip(&found).any(|(a, b)| a.score != b.score));
}
