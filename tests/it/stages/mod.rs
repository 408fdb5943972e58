//! The CPU stages from points to boxes, through the public API: hand-computed cases for each rule, and
//! naive references over random input.

mod decode;
pub(crate) mod decode_reference;
pub(crate) mod features;
pub(crate) mod heads;
pub(crate) mod nms;
mod pillars;
mod scatter;

use std::path::Path;

use centerpoint::{Column, Model};

/// Random numbers from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`.
    pub(crate) fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
}

/// A small model, 16 × 12 cells of 0.5 m; tests change single fields.
pub(crate) fn model() -> Model {
    let text = r#"
        name = "test"
        classes = ["car", "truck", "pedestrian"]
        [points]
        columns = ["x", "y", "z", "intensity", "t"]
        [grid]
        range = [-4.0, -3.0, -2.0, 4.0, 3.0, 2.0]
        voxel_size = [0.5, 0.5, 4.0]
        max_points_per_pillar = 5
        max_pillars = 40
        [pfn]
        layers = [32, 32]
        [head]
        downsample = 1
        size_order = "lwh"
        rotation = "sin_cos"
        [decode]
        score = 0.25
        [[nms]]
        kind = "circle"
        radius = 0.5
        scope = "all"
    "#;
    let model = Model::parse(text, Path::new("test.toml")).unwrap();
    assert_eq!(model.points.columns[3], Column::Intensity);
    assert_eq!((model.grid.nx, model.grid.ny), (16, 12));
    model
}
