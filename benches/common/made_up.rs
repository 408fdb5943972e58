//! Synthetic input of the stages: a model, clouds, a PFN, head maps.
//!
//! About 300 of the head's cells pass the threshold, in clusters, as in the output of a trained network.

#![allow(dead_code)] // Each bench uses a part of it.

use std::path::Path;

use centerpoint::Model;
use centerpoint::internals::testing::Random;
use centerpoint::map::{HeadMaps, MapLayout};
use centerpoint::model::{Pfn, PfnLayer};

const MODEL: &str = r#"
name = "bench"
classes = ["car", "truck", "bus", "bicycle", "pedestrian"]
[points]
columns = ["x", "y", "z", "intensity", "t"]
[grid]
range = [-74.88, -74.88, -2.0, 74.88, 74.88, 4.0]
voxel_size = [0.32, 0.32, 6.0]
max_points_per_pillar = 20
max_pillars = 32000
[pfn]
center_offset_axes = 3
layers = [32, 32]
[head]
downsample = 1
size_order = "lwh"
rotation = "sin_cos"
[decode]
score = 0.1
[[nms]]
kind = "circle"
radius = 0.5
scope = "all"
[[nms]]
kind = "iou"
threshold = 0.1
search_distance = 10.0
scope = "all"
"#;

pub(crate) fn model() -> Model {
    Model::parse(MODEL, Path::new("bench.toml")).unwrap()
}

/// The model with a grid of `cells` × `cells` cells of `voxel` metres.
pub(crate) fn model_on(cells: usize, voxel: f64) -> Model {
    let half = (cells as f64 * voxel / 2.0 * 1e4).round() / 1e4;
    let text = MODEL
        .replace("74.88", &half.to_string())
        .replace("[0.32, 0.32,", &format!("[{voxel}, {voxel},"));
    Model::parse(&text, Path::new("bench.toml")).unwrap()
}

/// A rotating scanner over flat ground with some walls: 64 beams with 2000 points each.
pub(crate) fn synthetic_cloud(random: &mut Random) -> Vec<f32> {
    let mut points = Vec::new();
    for step in 0..2000 {
        let azimuth = step as f32 / 2000.0 * std::f32::consts::TAU;
        let wall = 10.0 + 50.0 * ((azimuth * 7.0).sin().abs());
        for beam in 0..64 {
            let down = (beam as f32 - 12.0) * 0.0075;
            let ground = if down > 0.0 {
                1.8 / down
            } else {
                f32::INFINITY
            };
            let range = ground.min(wall) + 0.02 * random.next();
            points.extend([
                range * azimuth.cos(),
                range * azimuth.sin(),
                1.8 - range * down - 1.8,
                random.next(),
                0.0,
            ]);
        }
    }
    points
}

pub(crate) fn waymo_cloud() -> Option<Vec<f32>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/data/frames/waymo/seq_0_frame_100.bin"
    );
    let bytes = std::fs::read(path).ok()?;
    Some(
        bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    )
}

pub(crate) fn random_pfn(model: &Model, random: &mut Random) -> Pfn {
    let mut in_features = model.pfn_in_features();
    let layers = model
        .pfn_linear_widths()
        .map(|out_features| {
            let layer = PfnLayer {
                in_features,
                out_features,
                weight: (0..in_features * out_features)
                    .map(|_| random.signed())
                    .collect(),
                bias: (0..out_features).map(|_| random.signed()).collect(),
            };
            in_features = 2 * out_features;
            layer
        })
        .collect();
    Pfn { layers }
}

/// The six head maps side by side in one NHWC tensor of 16 channels, and its layouts.
pub(crate) fn heads(model: &Model, random: &mut Random) -> (Vec<f32>, HeadMaps<MapLayout>) {
    let (height, width) = model.head_size();
    let stride_x = 16;
    let mut offset = 0;
    let task = &model.head.tasks[0];
    let layouts = model.head_channels(task).map(|channels| {
        let layout = MapLayout {
            channels,
            height,
            width,
            offset,
            stride_c: 1,
            stride_y: width * stride_x,
            stride_x,
        };
        offset += channels;
        layout
    });
    let mut data: Vec<f32> = (0..height * width * stride_x)
        .map(|_| random.next())
        .collect();
    for cell in data.chunks_exact_mut(stride_x) {
        cell[..5].iter_mut().for_each(|logit| *logit -= 7.0);
    }
    for _ in 0..60 {
        let x = (random.next() * (width - 4) as f32) as usize;
        let y = (random.next() * (height - 4) as f32) as usize;
        for cell in [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1)] {
            data[((y + cell.1) * width + x + cell.0) * stride_x] = 2.0 * random.next();
        }
    }
    (data, layouts)
}
