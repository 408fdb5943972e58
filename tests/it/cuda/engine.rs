//! The CUDA engine: byte for byte the CPU engine's outputs, on random networks and on the demo's.

use std::sync::Arc;

use centerpoint::Detector;
use centerpoint::cuda::Device;
use centerpoint::engine::{Engine, EngineError, MapMut};
use centerpoint::internals::engine::cpu::CpuEngine;
use centerpoint::internals::engine::cuda::{Computed, CudaEngine, Options};
use centerpoint::internals::engine::lazy::{LazyHeads, LazyTask};
use centerpoint::internals::program::Payload;
use centerpoint::map::{Element, MapDataMut, MapView};

use half::f16;

use super::frame::{bits, demo_frames, demo_plan, on_cpu, read};
use crate::emulation;
use crate::engine::lazy::{compare, lazy_heads, random_heads};
use crate::engine::quantized::{Draft, random_net_of};
use crate::engine::skip::frames;
use crate::engine::slices::backbone;
use crate::engine::{self, run, set_input};
use crate::engine_net::{Op, Random, dense};

/// Copies the CPU engine's input map to the device.
fn copy_input(from: &mut CpuEngine, to: &mut CudaEngine) {
    let map = to.input_map();
    let MapMut::Device(map) = map else {
        panic!("a map on the host")
    };
    let (mut bytes, layout) = (map.download().unwrap(), map.format().layout);
    let view = from.input_mut();
    for c in 0..layout.channels {
        for y in 0..layout.height {
            for x in 0..layout.width {
                let (from, to) = (view.layout.index(c, y, x), layout.index(c, y, x));
                match (&view.data, map.format().element) {
                    (MapDataMut::I8 { codes, .. }, Element::I8) => bytes[to] = codes[from] as u8,
                    (MapDataMut::F32(values), Element::F32) => {
                        bytes[4 * to..4 * to + 4].copy_from_slice(&values[from].to_le_bytes());
                    }
                    (MapDataMut::F32(values), Element::F16) => {
                        let half = f16::from_f32(values[from]);
                        bytes[2 * to..2 * to + 2].copy_from_slice(&half.to_le_bytes());
                    }
                    _ => panic!("other elements"),
                }
            }
        }
    }
    map.upload(&bytes).unwrap();
}

pub(super) fn cuda_engine(
    payload: &Payload,
    device: &Arc<dyn Device>,
    options: &Options,
) -> Result<CudaEngine, EngineError> {
    let weights = Arc::new(payload.weights.clone());
    CudaEngine::new(payload.program.clone(), weights, device, options)
}

/// The outputs for an input, which `from` gets too.
pub(super) fn outputs(
    engine: &mut CudaEngine,
    device: &Arc<dyn Device>,
    from: &mut CpuEngine,
    input: &[f32],
) -> Result<Vec<Vec<f32>>, EngineError> {
    set_input(from, input);
    copy_input(from, engine);
    engine.run()?;
    device.wait().unwrap();
    Ok((0..engine.outputs().len())
        .map(|index| output(engine, index))
        .collect())
}

/// Output `index`, dense NCHW.
fn output(engine: &CudaEngine, index: usize) -> Vec<f32> {
    let map = engine.output_map(index).unwrap().device().unwrap();
    let bytes = map.download().unwrap();
    let values = bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned);
    let values: Vec<f32> = values.collect();
    dense(MapView {
        data: &values,
        layout: map.format().layout,
    })
}

/// The input with only a few pixels, in a box around `(y, x)`: of the whole for `keep` pixels in each direction.
pub(super) fn part(
    input: &[f32],
    [channels, height, width]: [usize; 3],
    at: [usize; 2],
    keep: usize,
) -> Vec<f32> {
    let mut part = vec![0.0; input.len()];
    for c in 0..channels {
        for y in at[0].min(height)..(at[0] + keep).min(height) {
            let row = (c * height + y) * width;
            let columns = row + at[1].min(width)..row + (at[1] + keep).min(width);
            part[columns.clone()].copy_from_slice(&input[columns]);
        }
    }
    part
}

/// Runs both engines on `inputs`, one after the other. Returns the first difference.
pub(crate) fn difference(
    payload: &Payload,
    inputs: &[Vec<f32>],
    device: &Arc<dyn Device>,
    options: &Options,
) -> Option<String> {
    difference_with(payload, inputs, device, options, |_| {})
}

/// [`difference`], which shows the engine after each input.
fn difference_with(
    payload: &Payload,
    inputs: &[Vec<f32>],
    device: &Arc<dyn Device>,
    options: &Options,
    mut show: impl FnMut(&CudaEngine),
) -> Option<String> {
    let mut expected = engine::engine(payload, None, 1);
    let mut engine = match cuda_engine(payload, device, options) {
        Ok(engine) => engine,
        Err(error) => return Some(error.to_string()),
    };
    for (number, input) in inputs.iter().enumerate() {
        let whole = run(&mut expected, input);
        let outputs = match outputs(&mut engine, device, &mut expected, input) {
            Ok(outputs) => outputs,
            Err(error) => return Some(error.to_string()),
        };
        show(&engine);
        for (index, (values, found)) in whole.iter().zip(&outputs).enumerate() {
            assert_eq!(found.len(), values.len());
            let pairs = found.iter().zip(values);
            let wrong = pairs.filter(|(a, b)| a.to_bits() != b.to_bits());
            if let Some((a, b)) = wrong.clone().next() {
                return Some(format!(
                    "input {number}, output {index}: {} of {} differ, {a} is {b}\n{:#?}",
                    wrong.count(),
                    values.len(),
                    payload.program.layers()
                ));
            }
        }
    }
    None
}

/// A random input, parts of it, and an empty one.
fn inputs(draft: &Draft) -> Vec<Vec<f32>> {
    let (shape, input) = (draft.net.input, &draft.input);
    vec![
        part(input, shape, [1, 2], 2),
        input.clone(),
        part(input, shape, [shape[1] / 2, shape[2] / 2], 3),
        part(input, shape, [shape[1] - 1, shape[2] - 1], 1),
        vec![0.0; input.len()],
    ]
}

#[test]
fn random_networks_have_the_cpu_engines_bytes() {
    for seed in 0..emulation::cases(100) as u64 {
        let device = emulation::device(seed);
        // Some with zero points, some with 4 bits.
        let draft = random_net_of(seed, seed % 4 == 1, if seed % 10 == 5 { 7 } else { 127 });
        let payload = draft.net.payload().unwrap();
        let options = Options {
            skip_empty: Some(seed % 5 != 4),
            ..Options::default()
        };
        let found = difference(&payload, &inputs(&draft), &device, &options);
        assert_eq!(found, None, "network {seed}");
    }
}

/// A network as a detector's: a backbone with strides, a neck that joins deconvolutions, and heads.
fn pyramid(seed: u64) -> Draft {
    let mut random = Random(seed);
    let mut pick = |of: &[usize]| of[random.below(of.len())];
    let shape = [
        pick(&[16, 32, 64]),
        pick(&[12, 16, 17]),
        pick(&[16, 33, 36]),
    ];
    let wide = pick(&[64, 96, 128]);
    let deepest = pick(&[128, 256, 384]);
    let mut draft = Draft::new(shape, seed, false, 127);
    let x = draft.codes("input");
    let a = draft.block(&x, pick(&[16, 48, 64]), 3, 1);
    let b = draft.block(&a, wide, 3, 2);
    let b = draft.block(&b, wide, 3, 1);
    let c = draft.block(&b, deepest, 3, 2);
    let ups = [(&a, 1), (&b, 2), (&c, 4)].map(|(x, up)| draft.up(x, pick(&[24, 32, 64, 128]), up));
    let [height, width] = ups
        .iter()
        .map(|x| draft.shape(x))
        .fold([usize::MAX; 2], |s, shape| {
            [s[0].min(shape[1]), s[1].min(shape[2])]
        });
    // Sizes that are no multiple of 4 do not join.
    let parts: Vec<&str> = ups
        .iter()
        .filter(|x| draft.shape(x)[1..] == [height, width])
        .map(String::as_str)
        .collect();
    let joined = draft.node(&parts, Op::Concat);
    let joined = draft.codes(&joined);
    let shared = draft.block(&joined, pick(&[32, 64]), 3, 1);
    for outputs in [pick(&[1, 5, 10]), 2, 3] {
        let hidden = draft.block(&shared, pick(&[32, 64]), 3, 1);
        let y = draft.conv_to(&hidden, outputs, pick(&[1, 3]));
        draft.net.outputs.push(y);
    }
    draft
}

/// A small network that needs every kernel.
fn every_kernel() -> Draft {
    let mut draft = Draft::new([32, 9, 18], 1, false, 127);
    let x = draft.codes("input");
    let x = draft.block(&x, 32, 3, 1);
    let x = draft.block(&x, 32, 1, 1);
    let wide = draft.block(&x, 40, 3, 1);
    let head = draft.conv_to(&wide, 3, 1);
    draft.net.outputs.push(head);
    let pooled = draft.node(
        &[&x],
        Op::MaxPool {
            kernel: [2; 2],
            stride: [1; 2],
            pad: [1, 1, 0, 0],
        },
    );
    let pooled = draft.codes(&pooled);
    let x = draft.block(&pooled, 64, 3, 2);
    let x = draft.block(&x, 64, 3, 1);
    let x = draft.block(&x, 64, 1, 1);
    for y in [
        draft.block(&x, 32, 1, 2),
        draft.block(&x, 32, 3, 2),
        draft.block(&x, 16, 5, 1),
    ] {
        let head = draft.conv_to(&y, 3, 3);
        draft.net.outputs.push(head);
    }
    let head = draft.conv_to(&x, 2, 1);
    draft.net.outputs.push(head);
    // In f32.
    let values = draft.node(&[&x], Op::Relu);
    let values = draft.conv_to_f32(&values, 20);
    draft.net.outputs.push(values);
    draft
}

#[test]
fn every_kernel_has_the_cpu_engines_bytes() {
    for seed in 0..2 {
        let device = emulation::device(seed);
        let draft = every_kernel();
        let payload = draft.net.payload().unwrap();
        let inputs = [
            part(&draft.input, [32, 9, 18], [2, 3], 4),
            draft.input.clone(),
        ];
        let found = difference(&payload, &inputs, &device, &Options::default());
        assert_eq!(found, None);
    }
}

#[test]
fn pyramids_have_the_cpu_engines_bytes() {
    for seed in 0..emulation::cases(8) as u64 {
        let device = emulation::device(seed);
        let draft = pyramid(seed);
        let payload = draft.net.payload().unwrap();
        let found = difference(&payload, &inputs(&draft), &device, &Options::default());
        assert_eq!(found, None, "network {seed}");
    }
}

#[test]
fn lazy_heads_have_the_cpu_engines_bytes_where_they_are_read() {
    let (mut lazy, mut count) = (0, 0);
    for seed in 0..emulation::cases(12) as u64 {
        let device = emulation::device(seed);
        let (net, tasks) = random_heads(seed, 2);
        let payload = net.payload().unwrap();
        let mut plain = engine::engine(&payload, None, 1);
        let frames = frames(net.input, seed);
        let maps = run(&mut plain, &frames[5]);
        let mut random = Random(seed);
        random.next();
        let heads = lazy_heads(&net, &tasks, &maps, &plain, &mut random);
        let options = Options {
            skip_empty: Some(seed % 5 != 4),
            lazy_heads: Some(heads.clone()),
            ..Options::default()
        };
        let mut engine = cuda_engine(&payload, &device, &options).unwrap();
        for (number, frame) in frames.iter().enumerate() {
            let whole = run(&mut plain, frame);
            let found = outputs(&mut engine, &device, &mut plain, frame).unwrap();
            compare(
                &net,
                &heads,
                &whole,
                &found,
                &format!("network {seed}, frame {number}"),
            );
            let computed = engine.computed().unwrap();
            count += 1;
            lazy += usize::from(computed.iter().any(|computed| computed.share < 0.5));
        }
    }
    assert!(lazy > count / 4, "lazy in only {lazy} of {count} frames");
}

#[test]
fn sources_and_lazy_heads_have_the_cpu_engines_bytes() {
    let mut draft = Draft::new([32, 16, 40], 2, false, 127);
    let x = draft.codes("input");
    let a = draft.block(&x, 32, 3, 1);
    let b = draft.block(&a, 64, 3, 2);
    let ups = [draft.up(&a, 32, 1), draft.up(&b, 64, 2)];
    let joined = draft.node(&[&ups[0], &ups[1]], Op::Concat);
    let joined = draft.codes(&joined);
    let shared = draft.block(&joined, 32, 3, 1);
    for (outputs, kernel) in [(2, 1), (3, 3)] {
        let hidden = draft.block(&shared, 32, 3, 1);
        let map = draft.conv_to(&hidden, outputs, kernel);
        draft.net.outputs.push(map);
    }
    let (net, shape) = (&draft.net, draft.net.input);
    let payload = net.payload().unwrap();
    let mut plain = engine::engine(&payload, None, 1);
    let mut logits = run(&mut plain, &draft.input).swap_remove(0);
    logits.sort_by(f32::total_cmp);
    let heads = LazyHeads {
        tasks: vec![LazyTask {
            heatmap: net.outputs[0].clone(),
            least: vec![logits[logits.len() - 3]; 2],
            maps: vec![net.outputs[1].clone()],
        }],
    };
    let device = emulation::device(6);
    let options = Options {
        lazy_heads: Some(heads.clone()),
        ..Options::default()
    };
    let mut engine = cuda_engine(&payload, &device, &options).unwrap();
    let inputs = [
        part(&draft.input, shape, [4, 4], 2),
        draft.input.clone(),
        part(&draft.input, shape, [11, 30], 2),
    ];
    let (mut sliced, mut lazy) = (false, false);
    for input in &inputs {
        let whole = run(&mut plain, input);
        let found = outputs(&mut engine, &device, &mut plain, input).unwrap();
        compare(net, &heads, &whole, &found, "joined");
        let computed = engine.computed().unwrap();
        sliced |= computed.iter().any(leaves_out_sources);
        lazy |= computed[computed.len() - 2].share < 0.5;
    }
    assert!(sliced && lazy, "{:#?}", engine.computed().unwrap());
}

/// Whether tiles of an operator multiplied only some sources of its input.
fn leaves_out_sources(computed: &Computed) -> bool {
    let [tiles, all] = computed.tiles;
    computed.share < tiles as f64 / all as f64 - 1e-9
}

#[test]
fn convolutions_of_some_sources_have_the_cpu_engines_bytes() {
    let (mut sliced, mut count) = (0, 0);
    for seed in 0..emulation::cases(8) as u64 {
        let device = emulation::device(seed);
        let net = backbone(seed, 2);
        let payload = net.payload().unwrap();
        let frames = frames(net.input, seed);
        let options = Options::default();
        let found = difference_with(&payload, &frames, &device, &options, |engine| {
            count += 1;
            let computed = engine.computed().unwrap();
            sliced += usize::from(computed.iter().any(leaves_out_sources));
        });
        assert_eq!(found, None, "network {seed}");
    }
    assert!(
        sliced > count / 8,
        "sources were left out in only {sliced} of {count} frames"
    );
}

#[test]
#[ignore = "nightly: compiles the kernels anew for each fault"]
fn planted_faults_are_seen() {
    let draft = pyramid(3);
    let payload = draft.net.payload().unwrap();
    for (what, file, from, to) in [
        (
            "a missing barrier",
            "conv.cu",
            "wait_copies<1>();\n                    __syncthreads();\n",
            "wait_copies<1>();\n",
        ),
        (
            "a missing barrier before few weights",
            "conv.cu",
            "wait_copies<0>();\n                __syncthreads();\n",
            "wait_copies<0>();\n",
        ),
        (
            "a wait for too little",
            "conv.cu",
            "wait_copies<1>()",
            "wait_copies<2>()",
        ),
        (
            "a list that is one short",
            "tiles.cu",
            "*(u32 *)layer.count = listed",
            "*(u32 *)layer.count = listed - (listed > 0)",
        ),
        ("a stale tile", "tiles.cu", "seen || *differs != 0", "seen"),
        (
            "a missed background",
            "conv.cu",
            "job < jobs; job",
            "job < jobs && *(const u32 *)conv.count % 3 != 0; job",
        ),
        (
            "a tile that sees too little",
            "tiles.cu",
            "bottom[columns.y] -",
            "bottom[columns.y - (columns.y > columns.x)] -",
        ),
        (
            "a level too many",
            "tiles.cu",
            "while (level < layer.sources && !",
            "while (level < layer.sources || level > 9 && !",
        ),
        (
            "a source that is added twice",
            "conv.cu",
            "? conv.first_channel[level - 1] : 0",
            "? 0 : 0",
        ),
    ] {
        let device = emulation::planted(file, from, to, 5);
        let found = difference(&payload, &inputs(&draft), &device, &Options::default());
        assert!(found.is_some(), "{what}");
    }
}

#[test]
fn the_demo_plan_has_the_cpus_boxes() {
    let plan = demo_plan("int8.plan");
    let options = centerpoint::Options::default();
    let mut on_cpu = Detector::new(&plan, &on_cpu(&options)).unwrap();
    let mut on_device = Detector::on(&plan, &options, &emulation::device(2)).unwrap();
    for path in demo_frames().iter().take(4) {
        let cloud = read(path);
        let expected = bits(on_cpu.detect(&cloud).unwrap().boxes);
        let found = on_device.detect(&cloud).unwrap();
        assert_eq!(bits(found.boxes), expected, "{path:?}");
        assert!(!expected.is_empty());
    }
    // Convolutions of a head share a launch. Four belong to lazy maps and two choose tiles.
    let layers = on_device.profile().unwrap();
    assert_eq!(layers.len(), 20, "{layers:#?}");
}
