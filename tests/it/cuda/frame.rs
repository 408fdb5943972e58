//! Whole frames on a device: the boxes, counters and maps of the CPU, byte by byte.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use centerpoint::cuda::DeviceMap;
use centerpoint::internals::cpu::decode::{CandidateList, decode};
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::nms::{Nms, suppress};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::cpu::scatter::{Scatter, scatter};
use centerpoint::internals::cuda::Buffer;
use centerpoint::internals::engine::cpu;
use centerpoint::internals::testing::FixedEngine;
use centerpoint::map::{Element, MapDataMut, MapDesc, MapFormat, MapLayout, MapView, MapViewMut};
use centerpoint::points::{Pose, ReadOptions, SweepBuffer};
use centerpoint::{
    Box3d, Detector, Dropped, Error, Layout, Model, Options, Plan, PointCloud, points,
};

use crate::common::{MODEL, repository, write_plan};
use crate::emulation;

pub(crate) fn demo_plan(name: &str) -> Plan {
    Plan::open(&repository().join("engines/demo").join(name)).unwrap()
}

/// The demo frames; each has a newest and a past sweep.
pub(crate) fn demo_frames() -> Vec<PathBuf> {
    points::list_frames(&[repository().join("calib/demo/frames")], false)
}

pub(crate) fn read(path: &Path) -> PointCloud {
    let options = ReadOptions {
        layout: None,
        default_layout: Layout::XYZIT,
    };
    points::read(path, &options).unwrap()
}

/// The input of an engine for the model.
pub(super) fn bev_desc(model: &Model) -> MapDesc {
    MapDesc {
        name: "spatial_features".into(),
        channels: model.bev_channels(),
        height: model.grid.ny,
        width: model.grid.nx,
    }
}

pub(crate) fn bits(boxes: &[Box3d]) -> Vec<u8> {
    bytemuck::cast_slice(boxes).to_vec()
}

/// The options for a detector on the CPU, also where there is a GPU.
pub(crate) fn on_cpu(options: &Options) -> Options {
    Options {
        device: centerpoint::Device::Cpu,
        ..options.clone()
    }
}

#[test]
fn a_cpu_plan_finds_the_same_boxes_on_a_device() {
    let options = Options {
        stage_times: true,
        ..Options::default()
    };
    // The network runs on the device if it is in INT8, and else on the host.
    for (name, seed, frames) in [
        ("int8.plan", 0, 2),
        ("int8.plan", 3, 2),
        ("fp32.plan", 7, 6),
    ] {
        let plan = demo_plan(name);
        let device = emulation::device(seed);
        let mut on_cpu = Detector::new(&plan, &on_cpu(&options)).unwrap();
        let mut on_device = Detector::on(&plan, &options, &device).unwrap();
        let mut boxes = 0;
        for path in demo_frames().iter().take(emulation::cases(frames)) {
            let cloud = read(path);
            let expected = on_cpu.detect(&cloud).unwrap();
            let found = on_device.detect(&cloud).unwrap();
            assert_eq!(bits(found.boxes), bits(expected.boxes), "{path:?}");
            assert_eq!(found.dropped, expected.dropped, "{path:?}");
            assert!(found.times.engine > 0.0 && found.times.total > found.times.engine);
            boxes += found.boxes.len();
            let profiled = |d: &mut Detector| d.profile().unwrap().len();
            let (device, cpu) = (profiled(&mut on_device), profiled(&mut on_cpu));
            // Convolutions of several heads share a launch.
            assert!(if name == "fp32.plan" {
                device == cpu
            } else {
                device < cpu
            });
        }
        assert!(boxes > 0);
    }
}

#[test]
fn sweeps_are_moved_on_the_device() {
    let device = emulation::device(5);
    let plan = demo_plan("int8.plan");
    let options = Options::default();
    let mut on_cpu = Detector::new(&plan, &on_cpu(&options)).unwrap();
    let mut on_device = Detector::on(&plan, &options, &device).unwrap();
    let mut sweeps = SweepBuffer::new(2, 60_000);
    for (i, path) in demo_frames().iter().take(4).enumerate() {
        let angle = 0.01 * i as f64;
        let rotation = [angle.cos(), 0.0, 0.0, angle.sin()];
        let pose = Pose::new([i as f64 * 1.5, 0.2, 0.0], rotation).unwrap();
        let stamp = 100_000_000 * i as i64;
        sweeps.push(&read(path), stamp, Some(pose)).unwrap();
        let expected = on_cpu.detect_sweeps(&sweeps).unwrap();
        let found = on_device.detect_sweeps(&sweeps).unwrap();
        assert_eq!(bits(found.boxes), bits(expected.boxes), "sweep {i}");
        assert_eq!(found.dropped, expected.dropped, "sweep {i}");
        // The third sweep exceeds the buffer's capacity.
        assert_eq!(found.dropped.sweep_points > 0, i > 0, "sweep {i}");
    }
}

#[test]
fn a_cloud_of_other_columns_does_not_affect_the_next() {
    let device = emulation::device(0);
    let plan = demo_plan("fp32.plan");
    let mut detector = Detector::on(&plan, &Options::default(), &device).unwrap();
    let whole = read(&demo_frames()[3]);
    let expected = bits(detector.detect(&whole).unwrap().boxes);
    let lacking = PointCloud::new("x,y,z".parse().unwrap(), vec![1.0; 30]).unwrap();
    // The demo model needs intensity and time; zeros replace them.
    assert!(detector.detect(&lacking).is_ok());
    assert_eq!(bits(detector.detect(&whole).unwrap().boxes), expected);

    let folder = tempfile::tempdir().unwrap();
    let plan = write_plan(folder.path(), MODEL);
    let mut tiny = Detector::on(&Plan::open(&plan).unwrap(), &Options::default(), &device).unwrap();
    let empty = PointCloud::empty("x,y,z".parse().unwrap());
    assert!(tiny.detect(&empty).unwrap().boxes.is_empty());
}

/// The CPU engine's outputs for a frame of the demo plan, NCHW.
pub(super) fn head_maps(plan: &Plan, cloud: &PointCloud) -> Vec<(MapDesc, Vec<f32>)> {
    use centerpoint::engine::Engine as _;
    use centerpoint::internals::program::Program;
    let program = Program::from_json(plan.section("program").unwrap().as_ref()).unwrap();
    let weights = Arc::new(plan.section("weights").unwrap());
    let pool = Arc::new(Pool::new(2));
    let mut engine =
        cpu::CpuEngine::new(program, weights, pool.clone(), &cpu::Options::default()).unwrap();
    let stages = Stages::new(plan, cloud);
    let mut state = Scatter::new(plan.model().grid.max_pillars);
    let mut map = engine.input_mut();
    scatter(
        stages.features.values(),
        stages.pillars.cells(),
        &mut state,
        &mut map,
    );
    engine.run().unwrap();
    let descs = engine.outputs().to_vec();
    let maps = (0..descs.len()).map(|i| crate::engine_net::dense(engine.output(i).unwrap()));
    descs.into_iter().zip(maps.collect::<Vec<_>>()).collect()
}

/// The first stages on the CPU.
pub(crate) struct Stages {
    pub(crate) pillars: Pillars,
    pub(crate) features: Features,
}

impl Stages {
    pub(crate) fn new(plan: &Plan, cloud: &PointCloud) -> Self {
        let model = plan.model();
        let mut pillars = Pillars::new(&model.grid);
        let mut scratch = Vec::new();
        let selected = cloud
            .select(&model.points.columns, 1.0, &mut scratch)
            .unwrap();
        let stride = model.points.columns.len();
        voxelize(selected.points, stride, &model.grid, &mut pillars);
        let pool = Pool::new(1);
        let mut out = Features::new(model, plan.pfn(), 1).unwrap();
        features(
            selected.points,
            stride,
            &pillars,
            &model.grid,
            &pool,
            &mut out,
        );
        Self {
            pillars,
            features: out,
        }
    }
}

/// The boxes of head maps on the CPU.
pub(crate) fn boxes_of(model: &Model, maps: &[(MapDesc, Vec<f32>)]) -> (Vec<Box3d>, Dropped) {
    let mut decoder = CandidateList::new(model);
    decoder.clear();
    for (index, task) in model.head.tasks.iter().enumerate() {
        let views = task.outputs.each_ref().map(|name| {
            let (desc, data) = maps.iter().find(|(desc, _)| desc.name == *name).unwrap();
            MapView {
                data,
                layout: MapLayout::nchw(desc.channels, desc.height, desc.width),
            }
        });
        decode(model, index, &views, &Pool::new(1), &mut decoder);
    }
    let mut nms = Nms::new(model);
    suppress(model, decoder.candidates(), &mut nms);
    let dropped = Dropped {
        candidates: decoder.surplus(),
        non_finite_candidates: decoder.non_finite(),
        ..Dropped::default()
    };
    (nms.boxes().to_vec(), dropped)
}

#[test]
fn with_an_engine_on_the_device_the_frame_is_one_graph() {
    let plan = demo_plan("fp32.plan");
    let model = plan.model();
    let frames = demo_frames();
    let maps = head_maps(&plan, &read(&frames[3]));
    let (expected, lost) = boxes_of(model, &maps);
    assert!(expected.len() > 10);
    let [channels, height, width] = [model.bev_channels(), model.grid.ny, model.grid.nx];
    let nhwc = MapLayout {
        stride_c: 1,
        stride_y: width * channels,
        stride_x: channels,
        ..MapLayout::nchw(channels, height, width)
    };
    let scale = 0.05;
    for (seed, element) in [(0, Element::F32), (11, Element::I8)] {
        let device = emulation::device(seed);
        let bytes = channels * height * width * element.bytes();
        let input = Buffer::<u8>::zeroed(&device, "BEV map", bytes).unwrap();
        let format = MapFormat {
            element,
            scale,
            ..MapFormat::f32(nhwc)
        };
        let input = DeviceMap::new(&input, format).unwrap();
        let mut outputs = Vec::new();
        for (desc, values) in &maps {
            let buffer = Buffer::new(&device, "head map", values).unwrap();
            let layout = MapLayout::nchw(desc.channels, desc.height, desc.width);
            let map = DeviceMap::new(&buffer, MapFormat::f32(layout)).unwrap();
            outputs.push((desc.clone(), map));
        }
        let desc = bev_desc(model);
        let engine = Box::new(FixedEngine::new((desc, input.clone()), outputs));
        let options = Options::default();
        let mut detector =
            Detector::with_engine(model, plan.pfn(), engine, Some(&device), &options).unwrap();

        let mut state = Scatter::new(model.grid.max_pillars);
        let mut values = vec![0.0; channels * height * width];
        let mut codes = vec![0i8; channels * height * width];
        for path in &frames[..emulation::cases(3)] {
            let cloud = read(path);
            let stages = Stages::new(&plan, &cloud);
            let data = match element {
                Element::I8 => MapDataMut::I8 {
                    codes: &mut codes,
                    scale,
                },
                _ => MapDataMut::F32(&mut values),
            };
            let mut view = MapViewMut { data, layout: nhwc };
            scatter(
                stages.features.values(),
                stages.pillars.cells(),
                &mut state,
                &mut view,
            );

            let found = detector.detect(&cloud).unwrap();
            let (dropped, times) = (found.dropped, found.times);
            assert_eq!(bits(found.boxes), bits(&expected));
            assert_eq!(
                dropped,
                Dropped {
                    candidates: lost.candidates,
                    non_finite_candidates: lost.non_finite_candidates,
                    ..*stages.pillars.dropped()
                }
            );
            // Nobody asked for those of the stages.
            assert!(times.total > 0.0 && times.engine == 0.0 && times.nms == 0.0);
            let found = input.download().unwrap();
            let map: &[u8] = match element {
                Element::I8 => bytemuck::cast_slice(&codes),
                _ => bytemuck::cast_slice(&values),
            };
            assert!(found == map, "the map differs, {path:?}");

            // The same points, already on the device.
            let points = Buffer::new(&device, "points", cloud.data()).unwrap();
            #[allow(unsafe_code)]
            // SAFETY: the buffer holds the cloud's rows.
            let again = unsafe { detector.detect_device(points.ptr(), cloud.len()) }.unwrap();
            assert_eq!(again.dropped, dropped);
            assert_eq!(bits(again.boxes), bits(&expected));
        }
    }
}

#[test]
fn an_engine_without_one_of_the_outputs_is_refused_by_name() {
    let device = emulation::device(0);
    let plan = demo_plan("fp32.plan");
    let model = plan.model();
    let [channels, height, width] = [model.bev_channels(), model.grid.ny, model.grid.nx];
    let desc = bev_desc(model);
    let layout = MapLayout::nchw(channels, height, width);
    let memory = Buffer::<f32>::zeroed(&device, "BEV map", channels * height * width).unwrap();
    let map = DeviceMap::new(&memory, MapFormat::f32(layout)).unwrap();
    let engine = Box::new(FixedEngine::new((desc, map), Vec::new()));
    let options = Options::default();
    let error = Detector::with_engine(model, plan.pfn(), engine, Some(&device), &options)
        .map(|_| ())
        .unwrap_err();
    let text = Error::from(error).to_string();
    assert!(
        text.contains(&model.head.tasks[0].outputs.heatmap),
        "{text}"
    );
}
