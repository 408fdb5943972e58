//! Time of each CPU stage on a synthetic cloud, and on the Waymo frame of the shared material where it
//! is there: `cargo bench --bench stages`.
//!
//! The heads are made up: about 300 of the cells pass the threshold, in clusters, as after a trained
//! network.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::path::Path;

use centerpoint::Model;
use centerpoint::decode::{Decoder, decode};
use centerpoint::engine::{MapDataMut, MapLayout, MapView, MapViewMut};
use centerpoint::features::{Features, Pfn, PfnLayer, features};
use centerpoint::model::OUTPUT_KINDS;
use centerpoint::nms::{Nms, suppress};
use centerpoint::pillars::{Pillars, voxelize};
use centerpoint::scatter::{Scatter, scatter};
use centerpoint::threads::Pool;
use criterion::{Criterion, criterion_group, criterion_main};

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

/// Numbers in 0..1 from a fixed sequence (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// A rotating scanner over flat ground with some walls: 64 beams of 2000 points.
fn synthetic_cloud(random: &mut Random) -> Vec<f32> {
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

fn waymo_cloud() -> Option<Vec<f32>> {
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

fn random_pfn(model: &Model, random: &mut Random) -> Pfn {
    let mut in_features = model.pfn_in_features();
    let layers = model
        .pfn_linear_widths()
        .map(|out_features| {
            let layer = PfnLayer {
                in_features,
                out_features,
                weight: (0..in_features * out_features)
                    .map(|_| random.next() - 0.5)
                    .collect(),
                bias: (0..out_features).map(|_| random.next() - 0.5).collect(),
            };
            in_features = 2 * out_features;
            layer
        })
        .collect();
    Pfn { layers }
}

/// The six head maps side by side in one NHWC tensor of 16 channels, and its layouts.
fn heads(model: &Model, random: &mut Random) -> (Vec<f32>, [MapLayout; 6]) {
    let (height, width) = model.head_size();
    let stride_x = 16;
    let mut offset = 0;
    let task = &model.head.tasks[0];
    let layouts: Vec<MapLayout> = (0..OUTPUT_KINDS.len())
        .map(|kind| {
            let channels = model.output_channels(task, kind);
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
        })
        .collect();
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
    (data, layouts.try_into().unwrap())
}

fn stages(c: &mut Criterion) {
    let model = Model::parse(MODEL, Path::new("bench.toml")).unwrap();
    let mut random = Random(1);
    let pfn = random_pfn(&model, &mut random);
    let (data, layouts) = heads(&model, &mut random);
    let maps = layouts.map(|layout| MapView {
        data: &data,
        layout,
    });
    let mut clouds = vec![("synthetic", synthetic_cloud(&mut random))];
    clouds.extend(waymo_cloud().map(|cloud| ("waymo", cloud)));

    let (grid, stride) = (&model.grid, model.points.columns.len());
    for (name, points) in &clouds {
        let mut pillars = Pillars::new(grid);
        c.bench_function(&format!("pillars/{name}"), |b| {
            b.iter(|| voxelize(black_box(points), stride, grid, &mut pillars));
        });
        let kept: u32 = pillars.counts().iter().sum();
        println!("{name}: {kept} points kept in {} pillars", pillars.len());
        let mut out = Features::new(&model, &pfn, 2).unwrap();
        for threads in [1, 2] {
            let pool = Pool::new(threads);
            c.bench_function(&format!("features/{name}/{threads} threads"), |b| {
                b.iter(|| features(black_box(points), stride, &pillars, grid, &pool, &mut out));
            });
        }
        let channels = model.bev_channels();
        let mut bev = vec![0.0; grid.cells() * channels];
        let nchw = MapLayout::nchw(channels, grid.ny, grid.nx);
        let nhwc = MapLayout {
            stride_c: 1,
            stride_y: grid.nx * channels,
            stride_x: channels,
            ..nchw
        };
        for (kind, layout) in [("nhwc", nhwc), ("nchw", nchw)] {
            bev.fill(0.0);
            let mut state = Scatter::new(grid.max_pillars);
            c.bench_function(&format!("scatter/{name}/{kind}"), |b| {
                let map = &mut MapViewMut {
                    data: MapDataMut::F32(&mut bev),
                    layout,
                };
                b.iter(|| scatter(out.values(), pillars.cells(), &mut state, map));
            });
        }
    }

    let mut decoder = Decoder::new(&model);
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        c.bench_function(&format!("decode/{threads} threads"), |b| {
            b.iter(|| {
                decoder.clear();
                decode(&model, 0, black_box(&maps), &pool, &mut decoder);
            });
        });
    }
    println!("{} candidates", decoder.candidates().len());
    let mut nms = Nms::new(&model);
    c.bench_function("nms", |b| {
        b.iter(|| suppress(&model, black_box(decoder.candidates()), &mut nms));
    });
    println!("{} boxes", nms.boxes().len());
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = stages
}
criterion_main!(benches);
