//! Leaving out the channels of sources that do not differ changes no byte: random backbones whose blocks are joined by a
//! Concat, on random sparse frames.

use std::sync::Arc;

use super::quantized::Draft;
use super::set_input;
use super::skip::frames;
use crate::engine_net::{Conv, Net, Op, Random, dense};
use centerpoint::engine::Engine;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{CpuEngine, Isa, Options};
use centerpoint::internals::program::Payload;

/// A convolution with weights of codes, transposed if `up` is not 1, and a Relu. Its bias makes what it writes for zeros
/// differ from channel to channel, at edges, and between the phases of a transposed one behind it.
fn layer(
    draft: &mut Draft,
    random: &mut Random,
    x: &str,
    out: usize,
    kernel: usize,
    stride: usize,
    up: usize,
) -> String {
    let x = draft.codes(x);
    let channels = draft.shape(&x)[0];
    let side = if up > 1 { up } else { kernel };
    let conv = Conv {
        out,
        kernel: [side; 2],
        stride: [if up > 1 { up } else { stride }; 2],
        pad: [if up > 1 { 0 } else { kernel / 2 }; 4],
        output_padding: [0; 2],
        dilation: [1; 2],
        groups: 1,
        weight: draft.weight(out * channels * side * side),
        scales: Some(draft.scales(out)),
        bias: Some(draft.net.constant(random, out, 0.5)),
    };
    let op = if up > 1 {
        Op::ConvTranspose(conv)
    } else {
        Op::Conv(conv)
    };
    let y = draft.node(&[&x], op);
    draft.node(&[&y], Op::Relu)
}

/// Two or three blocks, each half as fine, brought back to the first one's size and joined; then a convolution of that. Maps
/// are `larger` times as large as the smallest ones.
pub(crate) fn backbone(seed: u64, larger: usize) -> Net {
    let mut random = Random(seed);
    random.next();
    let pick = |random: &mut Random, of: &[usize]| of[random.below(of.len())];
    let side = |random: &mut Random| 4 * larger * random.range(3, 9);
    let shape = [random.range(1, 8), side(&mut random), side(&mut random)];
    let mut draft = Draft::new(shape, seed, seed.is_multiple_of(3), 127);
    let (mut x, mut ups) = ("input".to_owned(), Vec::new());
    for block in 0..random.range(2, 3) {
        let stride = if block == 0 { 1 } else { 2 };
        let out = pick(&mut random, &[8, 16, 32]);
        x = layer(&mut draft, &mut random, &x, out, 3, stride, 1);
        if random.below(2) == 0 {
            x = layer(&mut draft, &mut random, &x, out, 3, 1, 1);
        }
        // 18 channels end within a quad, so the channels of all sources are multiplied.
        let out = pick(&mut random, &[32, 32, 48, 64, 18]);
        ups.push(layer(&mut draft, &mut random, &x, out, 1, 1, 1 << block));
    }
    // The order in the Concat is not that of the blocks.
    let turn = random.below(ups.len());
    ups.rotate_left(turn);
    let ups: Vec<&str> = ups.iter().map(String::as_str).collect();
    let x = draft.node(&ups, Op::Concat);
    let out = pick(&mut random, &[16, 40, 64, 72]);
    let (kernel, stride) = (
        pick(&mut random, &[3, 3, 1, 5]),
        pick(&mut random, &[1, 1, 2]),
    );
    let y = layer(&mut draft, &mut random, &x, out, kernel, stride, 1);
    let mut outputs = vec![y];
    if random.below(3) == 0 {
        // A second reader.
        outputs.push(layer(&mut draft, &mut random, &x, 64, 3, 1, 1));
    }
    let mut net = draft.net;
    net.outputs = outputs;
    net
}

fn engine(payload: &Payload, skip: [bool; 2], isa: Option<Isa>, threads: usize) -> CpuEngine {
    let options = Options {
        isa,
        skip_empty: Some(skip[0]),
        skip_channels: Some(skip[1]),
        lazy_heads: None,
    };
    let (weights, pool) = (
        Arc::new(payload.weights.clone()),
        Arc::new(Pool::new(threads)),
    );
    CpuEngine::new(payload.program.clone(), weights, pool, &options).unwrap()
}

#[test]
fn leaving_out_channels_changes_no_byte() {
    let isas: Vec<Isa> = Isa::ALL
        .into_iter()
        .filter(|isa| isa.is_available())
        .collect();
    let (mut sliced, mut count) = (0, 0);
    for seed in 0..60 {
        let net = backbone(seed, 1);
        let payload = net.payload().unwrap();
        let isa = isas[seed as usize % isas.len()];
        let mut plain = engine(&payload, [false, false], None, 1);
        let mut skipping = engine(&payload, [true, false], None, 1);
        let mut slicing = engine(&payload, [true, true], Some(isa), 1 + seed as usize % 3);
        for (i, frame) in frames(net.input, seed).iter().enumerate() {
            let bits = |engine: &mut CpuEngine| -> Vec<u32> {
                set_input(engine, frame);
                engine.run().unwrap();
                let maps = (0..engine.outputs().len()).map(|i| dense(engine.output(i).unwrap()));
                maps.flatten().map(f32::to_bits).collect()
            };
            let expected = bits(&mut plain);
            assert!(bits(&mut skipping) == expected, "seed {seed}, frame {i}");
            assert!(
                bits(&mut slicing) == expected,
                "seed {seed}, frame {i}, {}: {:?}",
                isa.name(),
                net.nodes
            );
            let work = |engine: &CpuEngine| engine.layer_shares().iter().sum::<f32>();
            count += 1;
            sliced += usize::from(work(&slicing) < work(&skipping) - 1e-3);
        }
    }
    println!("channels were left out in {sliced} of {count} frames");
    assert!(
        sliced > 150,
        "channels were left out in only {sliced} of {count} frames"
    );
}
