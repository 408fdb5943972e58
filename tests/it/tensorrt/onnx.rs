//! The networks that are written for TensorRT, in ONNX Runtime.

use centerpoint::build::half::{Io, strongly_typed};
use centerpoint::cuda::map::Element;
use centerpoint::engine;

use crate::oracle;
use crate::quantize::{demo, error, quantised, reference};

/// ONNX's name of an element type.
fn onnx_name(element: Element) -> &'static str {
    match element {
        Element::F32 => "FLOAT",
        Element::F16 => "FLOAT16",
        Element::I8 => "INT8",
    }
}

/// The nearest half of a value in halves' range, as f32.
fn half(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

/// Every form loads in ONNX Runtime and says the same: halves at the border are what the Casts made of
/// floats, and codes what the QuantizeLinear made, up to rounding.
#[test]
fn every_border_gives_the_same_maps() {
    let folder = tempfile::tempdir().unwrap();
    let (graph, maps) = quantised(&demo());
    let map = &maps[1];
    let path = folder.path().join("typed.onnx");
    let mut made = Vec::new();
    for (input, outputs) in [
        (Element::F32, Element::F32),
        (Element::F16, Element::F16),
        (Element::F16, Element::F32),
        (Element::I8, Element::F16),
    ] {
        let typed = strongly_typed(&graph, &Io { input, outputs }).unwrap();
        typed.graph.write(&path).unwrap();
        let names = [input, outputs].map(onnx_name);
        if !oracle::script(&[&["halves", path.to_str().unwrap()], &names[..]].concat()) {
            return;
        }
        let map: Vec<f32> = match typed.input_scale {
            Some(scale) => map
                .iter()
                .map(|&v| engine::quantize(half(v), scale).into())
                .collect(),
            None => map.clone(),
        };
        made.push((names, reference(&path, &map).unwrap()));
    }
    let (_, expected) = &made[0];
    for (names, outputs) in &made[1..] {
        for (found, expected) in outputs.iter().zip(expected) {
            assert_eq!(found.name, expected.name);
            // ONNX Runtime computes in floats here and rounds outputs that are halves, by half a unit.
            let equal = |(a, b): &(&f32, &f32)| (*a - *b).abs() <= b.abs() / 2048.0 + 3e-8;
            let cells = found.values.iter().zip(&expected.values);
            let differing = cells.filter(|pair| !equal(pair)).count();
            let share = differing as f64 / found.values.len() as f64;
            let apart = error(found, expected);
            println!(
                "{names:?} {}: {share:.1e} of the cells differ, {apart:.1e}",
                found.name
            );
            match names[0] {
                // ONNX Runtime does not round these to halves on the way to the first convolution; the
                // maps are as far apart as those of FP32 + Q/DQ and FP16 + Q/DQ.
                "INT8" => assert!(apart < 0.2, "{names:?} {}: {apart}", found.name),
                _ => assert_eq!(share, 0.0, "{names:?} {}", found.name),
            }
        }
    }
}
