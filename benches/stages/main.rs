//! Times of each CPU stage and of the demo plans' engines: `cargo bench --bench stages`.
//!
//! The clouds are a shipped frame, a synthetic one, and the Waymo frame of the shared material if available. If
//! `CENTERPOINT_PYTHON` names an interpreter with onnxruntime, the PFN is first compared with ONNX Runtime; the
//! bench `engine` compares the rest of the network.

#![allow(clippy::unwrap_used)]

#[path = "../common/frame.rs"]
mod frame;
#[path = "../common/made_up.rs"]
mod made_up;
mod pfn;
#[path = "../common/runner.rs"]
mod runner;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use centerpoint::engine::Engine;
use centerpoint::internals::cpu::decode::{CandidateList, decode};
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::nms::{Nms, suppress};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::cpu::scatter::{Scatter, scatter};
use centerpoint::internals::engine::cpu::{CpuEngine, Options};
use centerpoint::internals::program::Program;
use centerpoint::internals::testing::Random;
use centerpoint::map::{MapDataMut, MapLayout, MapView, MapViewMut};
use centerpoint::model::Pfn;
use centerpoint::{Model, Plan};
use criterion::Criterion;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/demo");

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == pfn::SERVE) {
        return pfn::serve(arguments[at + 1].parse().unwrap()).unwrap();
    }
    // Not with a filter, nor for `cargo test --benches`, which only checks that this runs.
    if arguments[1..] == ["--bench"] {
        pfn::compare().unwrap();
    }
    let mut c = Criterion::default().sample_size(20).configure_from_args();
    clouds(&mut c);
    heads(&mut c);
    engines(&mut c);
    c.final_summary();
}

/// From points to the BEV map, for each cloud.
fn clouds(c: &mut Criterion) {
    let mut random = Random(1);
    let demo = Plan::open(&Path::new(DEMO).join("fp32.plan")).unwrap();
    let points = frame::points(demo.model(), Path::new(frame::FRAME), None).unwrap();
    cloud(c, "demo", &points, demo.model(), demo.pfn());

    let model = made_up::model();
    let pfn = made_up::random_pfn(&model, &mut random);
    let points = made_up::synthetic_cloud(&mut random);
    cloud(c, "synthetic", &points, &model, &pfn);
    match made_up::waymo_cloud() {
        Some(points) => cloud(c, "waymo", &points, &model, &pfn),
        None => println!("skipped the Waymo frame: no shared material"),
    }
}

fn cloud(c: &mut Criterion, name: &str, points: &[f32], model: &Model, pfn: &Pfn) {
    let (grid, stride) = (&model.grid, model.points.columns.len());
    let mut pillars = Pillars::new(grid);
    c.bench_function(&format!("pillars/{name}"), |b| {
        b.iter(|| voxelize(black_box(points), stride, grid, &mut pillars));
    });
    // A filter may have skipped the previous stage.
    voxelize(points, stride, grid, &mut pillars);
    let kept: u32 = pillars.counts().iter().sum();
    println!("{name}: {kept} points kept in {} pillars", pillars.len());
    let mut out = Features::new(model, pfn, 2).unwrap();
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        c.bench_function(&format!("features/{name}/{threads} threads"), |b| {
            b.iter(|| features(black_box(points), stride, &pillars, grid, &pool, &mut out));
        });
    }
    features(points, stride, &pillars, grid, &Pool::new(1), &mut out);
    let channels = model.bev_channels();
    let nchw = MapLayout::nchw(channels, grid.ny, grid.nx);
    let nhwc = MapLayout {
        stride_c: 1,
        stride_y: grid.nx * channels,
        stride_x: channels,
        ..nchw
    };
    let mut values = vec![0.0; grid.cells() * channels];
    let mut codes = vec![0; grid.cells() * channels];
    for kind in ["nhwc f32", "nhwc s8", "nchw f32"] {
        values.fill(0.0);
        let (layout, data) = match kind {
            "nhwc f32" => (nhwc, MapDataMut::F32(&mut values)),
            "nhwc s8" => {
                let scale = 0.05;
                (
                    nhwc,
                    MapDataMut::I8 {
                        codes: &mut codes,
                        scale,
                    },
                )
            }
            _ => (nchw, MapDataMut::F32(&mut values)),
        };
        let (map, mut state) = (
            &mut MapViewMut { data, layout },
            Scatter::new(grid.max_pillars),
        );
        c.bench_function(&format!("scatter/{name}/{kind}"), |b| {
            b.iter(|| scatter(out.values(), pillars.cells(), &mut state, map));
        });
    }
}

/// From head maps to boxes.
fn heads(c: &mut Criterion) {
    let model = made_up::model();
    let (data, layouts) = made_up::heads(&model, &mut Random(1));
    let maps = layouts.map(|layout| MapView {
        data: &data,
        layout,
    });
    let mut decoder = CandidateList::new(&model);
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        c.bench_function(&format!("decode/{threads} threads"), |b| {
            b.iter(|| {
                decoder.clear();
                decode(&model, 0, black_box(&maps), &pool, &mut decoder);
            });
        });
    }
    decoder.clear();
    decode(&model, 0, &maps, &Pool::new(1), &mut decoder);
    println!("{} candidates", decoder.candidates().len());
    let mut nms = Nms::new(&model);
    c.bench_function("nms", |b| {
        b.iter(|| suppress(&model, black_box(decoder.candidates()), &mut nms));
    });
    println!("{} boxes", nms.boxes().len());
}

/// The shipped plans' engines on the shipped frame.
fn engines(c: &mut Criterion) {
    for precision in ["fp32", "int8"] {
        let path = Path::new(DEMO).join(format!("{precision}.plan"));
        if !path.exists() {
            println!("skipped engine/{precision}: no {}", path.display());
            continue;
        }
        let plan = Plan::open(&path).unwrap();
        let (map, _) = frame::bev(plan.model(), plan.pfn(), Path::new(frame::FRAME), None).unwrap();
        for threads in [1, 2] {
            let program = Program::from_json(plan.section("program").unwrap().as_ref()).unwrap();
            let weights = Arc::new(plan.section("weights").unwrap());
            let pool = Arc::new(Pool::new(threads));
            let mut engine = CpuEngine::new(program, weights, pool, &Options::default()).unwrap();
            let mut view = engine.input_mut();
            let layout = view.layout;
            for (i, value) in map.iter().enumerate() {
                let (y, x) = (i / layout.width % layout.height, i % layout.width);
                view.set(i / (layout.height * layout.width), y, x, *value);
            }
            c.bench_function(&format!("engine/{precision}/{threads} threads"), |b| {
                b.iter(|| engine.run());
            });
        }
    }
}
