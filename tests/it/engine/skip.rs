//! Skipping empty regions changes no byte: a sequence of different frames through engines that skip and engines
//! that do not.

use std::sync::Arc;

use super::{all_nets, quantized, set_input};
use crate::engine_net::{Net, Random, demo, dense};
use centerpoint::engine::Engine;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{CpuEngine, Options};
use centerpoint::internals::program::Payload;

fn engine(payload: &Payload, threads: usize, skip_empty: bool) -> CpuEngine {
    let options = Options {
        skip_empty: Some(skip_empty),
        ..Options::default()
    };
    let weights = Arc::new(payload.weights.clone());
    let pool = Arc::new(Pool::new(threads));
    CpuEngine::new(payload.program.clone(), weights, pool, &options).unwrap()
}

/// Empty, single pixels, a corner, a row, full, a few blobs; then single pixels again.
pub(crate) fn frames([channels, height, width]: [usize; 3], seed: u64) -> Vec<Vec<f32>> {
    let mut random = Random(seed);
    let values = random.values(channels * height * width);
    let mut pixels: Vec<Vec<(usize, usize)>> = vec![vec![], vec![(height / 2, width / 3)]];
    pixels.push(vec![(0, 0), (height - 1, width - 1)]);
    pixels.push((0..width).map(|x| (height / 3, x)).collect());
    pixels.push(
        (0..height * width)
            .map(|i| (i / width, i % width))
            .collect(),
    );
    let spot = |random: &mut Random| (random.below(height), random.below(width));
    let blobs: Vec<_> = (0..2).map(|_| spot(&mut random)).collect();
    let near = |(y, x): (usize, usize)| {
        [(0, 0), (0, 1), (1, 0)].map(|(dy, dx)| ((y + dy).min(height - 1), (x + dx).min(width - 1)))
    };
    pixels.push(blobs.into_iter().flat_map(near).collect());
    pixels.push(vec![spot(&mut random)]);
    // Every other frame has no negative values, like pillar features.
    let frame = |(i, pixels): (usize, Vec<(usize, usize)>)| {
        let mut frame = vec![0.0; values.len()];
        for (y, x) in pixels {
            for c in 0..channels {
                let at = (c * height + y) * width + x;
                frame[at] = if i % 2 == 0 {
                    values[at].abs()
                } else {
                    values[at]
                };
            }
        }
        frame
    };
    pixels.into_iter().enumerate().map(frame).collect()
}

fn bits(engine: &CpuEngine) -> Vec<u32> {
    let maps = (0..engine.outputs().len()).map(|i| dense(engine.output(i).unwrap()));
    maps.flatten().map(|v| v.to_bits()).collect()
}

#[test]
fn skipping_changes_no_byte() {
    let quantized = (0..120).map(|number| {
        let (seed, shifted) = (number / 2, number % 2 == 1);
        let net = quantized::random_net(seed, shifted).net;
        (format!("int8 {seed}, zero points {shifted}"), net)
    });
    let mut skipped = 0;
    for (number, (name, net)) in all_nets().into_iter().chain(quantized).enumerate() {
        let payload = net.payload().unwrap();
        let mut plain = engine(&payload, 1, false);
        let mut skipping = engine(&payload, 1 + number % 3, true);
        for (i, frame) in frames(net.input, number as u64).iter().enumerate() {
            for engine in [&mut plain, &mut skipping] {
                set_input(engine, frame);
                engine.run().unwrap();
            }
            assert!(
                bits(&plain) == bits(&skipping),
                "{name}, frame {i}: {:?}",
                net.nodes
            );
            assert!(plain.layer_shares().iter().all(|&share| share == 1.0));
            skipped += usize::from(skipping.layer_shares().iter().any(|&share| share < 1.0));
        }
    }
    assert!(skipped > 500, "skipped something in only {skipped} frames");
}

#[test]
fn regions_far_from_any_value_are_not_computed() {
    let net: Net = demo(64);
    let payload = net.payload().unwrap();
    let mut engine = engine(&payload, 1, true);
    let shares = |engine: &mut CpuEngine, pixels: &[(usize, usize)]| -> Vec<f32> {
        let mut frame = vec![0.0; net.input.iter().product()];
        for (y, x) in pixels {
            frame[y * 64 + x] = 1.0;
        }
        set_input(engine, &frame);
        engine.run().unwrap();
        engine.layer_shares()
    };
    assert!(
        shares(&mut engine, &[])[..8]
            .iter()
            .all(|&share| share == 0.0)
    );
    // A pixel affects one pixel of the first layer's 32 x 32 map, or a 2 x 2 square, and one more pixel on each
    // side in each later layer; pixels are computed in groups of 4 in a row.
    let one = shares(&mut engine, &[(32, 32)]);
    let groups = |rows: f32, groups: f32| rows * groups / (32.0 * 8.0);
    assert_eq!(
        one[..3],
        [groups(1.0, 1.0), groups(3.0, 2.0), groups(5.0, 2.0)]
    );
    let odd = shares(&mut engine, &[(31, 31)]);
    assert_eq!(odd[..2], [groups(2.0, 2.0), groups(4.0, 2.0)]);
    let all: Vec<(usize, usize)> = (0..64 * 64).map(|i| (i / 64, i % 64)).collect();
    assert!(shares(&mut engine, &all).iter().all(|&share| share == 1.0));
}
