//! Tests that the versions for different vector widths agree.

use std::path::Path;

use super::*;
use crate::cpu::pillars::voxelize;

#[test]
fn all_vector_widths_return_the_same_bytes() {
    let text = include_str!("../../../engines/demo/model.toml");
    let model = Model::parse(text, Path::new("model.toml")).unwrap();
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let layer = |in_features, out_features, random: &mut dyn FnMut() -> f32| PfnLayer {
        in_features,
        out_features,
        weight: (0..in_features * out_features).map(|_| random()).collect(),
        bias: (0..out_features).map(|_| random()).collect(),
    };
    let layers = vec![layer(11, 16, &mut random), layer(32, 32, &mut random)];
    let mut out = Features::new(&model, &Pfn { layers }, 1).unwrap();
    let mut pillars = Pillars::new(&model.grid);
    // Few cells with many points, and many cells with few.
    let points: Vec<f32> = (0..4000)
        .flat_map(|i| {
            let reach = if i % 2 == 0 { 2.0 } else { 50.0 };
            [random() * reach, random() * reach, random(), random(), 0.1]
        })
        .collect();
    voxelize(&points, 5, &model.grid, &mut pillars);
    let frame = FrameInput {
        points: &points,
        stride: 5,
        pillars: &pillars,
        grid: &model.grid,
        inputs: out.inputs,
        layers: &out.layers,
        channels: out.channels,
    };
    let mut results = versions().map(|version| {
        let mut values = vec![f32::NAN; pillars.len() * out.channels];
        compute(
            &frame,
            &Pool::new(1),
            version,
            &mut out.scratch,
            &mut values,
        );
        values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    });
    let first = results.next().unwrap();
    assert!(first.iter().any(|&bits| bits != 0));
    for (i, other) in results.enumerate() {
        assert!(first == other, "version {}", i + 1);
    }
}
