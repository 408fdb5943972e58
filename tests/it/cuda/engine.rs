//! The CUDA engine: byte for byte the CPU engine's outputs, on random networks and on the demo's.

use std::sync::Arc;

use centerpoint::cuda::Device;
use centerpoint::engine::Engine;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{self, CpuEngine};
use centerpoint::internals::engine::cuda::CudaEngine;
use centerpoint::internals::program::Payload;
use centerpoint::map::Element;

use crate::emulation;
use crate::engine::quantized::{random_net, random_net_of};
use crate::engine::{run, set_input};

fn on_cpu(payload: &Payload) -> CpuEngine {
    let weights = Arc::new(payload.weights.clone());
    let pool = Arc::new(Pool::new(1));
    CpuEngine::new(
        payload.program.clone(),
        weights,
        pool,
        &cpu::Options::default(),
    )
    .unwrap()
}

fn on_device(payload: &Payload, device: &Arc<dyn Device>) -> CudaEngine {
    let weights = Arc::new(payload.weights.clone());
    CudaEngine::new(payload.program.clone(), weights, device).unwrap()
}

/// Copies the CPU engine's input map to the device.
fn copy_input(from: &mut CpuEngine, to: &mut CudaEngine) {
    use centerpoint::map::MapDataMut;
    let map = to.input_map();
    let centerpoint::engine::MapMut::Device(map) = map else {
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
                    _ => panic!("other elements"),
                }
            }
        }
    }
    map.upload(&bytes).unwrap();
}

/// Output `index`, dense NCHW, as bits.
fn output(engine: &CudaEngine, index: usize) -> Vec<u32> {
    let map = engine.output_map(index).unwrap().device().unwrap();
    let (bytes, layout) = (map.download().unwrap(), map.format().layout);
    let values: &[u32] = bytemuck::cast_slice(&bytes[..bytes.len() / 4 * 4]);
    let mut dense = Vec::new();
    for c in 0..layout.channels {
        for y in 0..layout.height {
            dense.extend((0..layout.width).map(|x| values[layout.index(c, y, x)]));
        }
    }
    dense
}

/// Compares the outputs of both engines.
fn check(payload: &Payload, input: &[f32], device: &Arc<dyn Device>, what: &str) {
    let mut expected = on_cpu(payload);
    let outputs = run(&mut expected, input);
    let mut found = on_device(payload, device);
    set_input(&mut expected, input);
    copy_input(&mut expected, &mut found);
    found.run().unwrap();
    device.wait().unwrap();
    for (index, values) in outputs.iter().enumerate() {
        let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
        let found = output(&found, index);
        let wrong = found.iter().zip(&bits).filter(|(a, b)| a != b);
        assert!(
            found == bits,
            "{what}, output {index}: {:?} of {}\n{:#?}",
            wrong
                .take(4)
                .map(|(a, b)| (f32::from_bits(*a), f32::from_bits(*b)))
                .collect::<Vec<_>>(),
            bits.len(),
            payload.program.layers()
        );
    }
}

#[test]
fn random_networks_have_the_cpu_engines_bytes() {
    for seed in 0..emulation::cases(100) as u64 {
        let device = emulation::device(seed);
        let draft = random_net(seed, seed % 4 == 1);
        let payload = draft.net.payload().unwrap();
        check(&payload, &draft.input, &device, &format!("network {seed}"));
    }
    let draft = random_net_of(5, false, 7);
    let payload = draft.net.payload().unwrap();
    check(&payload, &draft.input, &emulation::device(0), "4 bits");
}
