//! Whole frames with a TensorRT engine, on an emulated device and with the stand-in library: the CPU's boxes, in
//! every layout. `failures` tests the errors.

mod failures;

use std::path::Path;
use std::sync::{Arc, Mutex, Once};

use centerpoint::cuda::Device as GpuDevice;
use centerpoint::engine::Engine as _;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::cpu::scatter::{Scatter, scatter};
use centerpoint::internals::engine::cpu;
use centerpoint::internals::engine::tensorrt::Library;
use centerpoint::internals::plan::{self, Contents, Manifest, Target, TensorDesc, TensorRtTarget};
use centerpoint::internals::program::Program;
use centerpoint::map::{Element, MapDataMut, MapLayout, MapViewMut};
use centerpoint::points::{Pose, SweepBuffer};
use centerpoint::{Box3d, Detector, Dropped, Options, Plan, PointCloud};

use crate::common::{MODEL, write_plan};
use crate::cuda::frame::{Stages, bits, boxes_of, demo_frames, demo_plan, read};
use crate::cuda::scatter::half;
use crate::emulation;
use crate::engine_net::dense;
use crate::standin::{self, Engine, Format, Maps, StandIn, Tensor, half_value};

/// An emulated device, never a GPU: the stand-in works in its memory.
fn device(seed: u64) -> Arc<dyn GpuDevice> {
    emulation::emulated(seed, false)
}

/// The first stand-in.
fn stand_in() -> &'static StandIn {
    &standin::all()[0]
}

/// Makes the CPU engine of a plan.
fn cpu_engine(plan: &Plan) -> cpu::CpuEngine {
    let program = Program::from_json(plan.section("program").unwrap().as_ref()).unwrap();
    let weights = Arc::new(plan.section("weights").unwrap());
    cpu::CpuEngine::new(
        program,
        weights,
        Arc::new(Pool::new(2)),
        &cpu::Options::default(),
    )
    .unwrap()
}

/// The scale of the plan's input, if it reads codes.
fn input_scale(plan: &Plan) -> Option<f32> {
    match cpu_engine(plan).input_mut().data {
        MapDataMut::I8 { scale, .. } => Some(scale),
        MapDataMut::F32(_) => None,
    }
}

/// The inputs and outputs of a plan's network, in these types and formats.
fn tensors(plan: &Plan, input: (Element, Format), output: (Element, Format)) -> Vec<Tensor> {
    let engine = cpu_engine(plan);
    let descs =
        std::iter::once((true, engine.input())).chain(engine.outputs().iter().map(|o| (false, o)));
    let tensor = |(is_input, desc): (bool, &centerpoint::map::MapDesc)| {
        let (element, format) = if is_input { input } else { output };
        Tensor {
            name: desc.name.clone(),
            input: is_input,
            element,
            format,
            size: [desc.channels, desc.height, desc.width],
        }
    };
    descs.map(tensor).collect()
}

/// f32 and linear.
fn plain(plan: &Plan) -> Vec<Tensor> {
    let linear = (Element::F32, Format::Linear);
    tensors(plan, linear, linear)
}

/// Writes values, or codes where the map holds them, NCHW.
fn fill(map: &mut MapViewMut<'_>, values: &[f32]) {
    let layout = map.layout;
    let plane = layout.height * layout.width;
    for (i, value) in values.iter().enumerate() {
        let (c, y, x) = (
            i / plane,
            i / layout.width % layout.height,
            i % layout.width,
        );
        match &mut map.data {
            MapDataMut::F32(data) => data[layout.index(c, y, x)] = *value,
            MapDataMut::I8 { codes, .. } => codes[layout.index(c, y, x)] = *value as i8,
        }
    }
}

/// Runs the network of a plan with the CPU engine, on the memory of the engine under test.
fn network(plan: &Plan, tensors: &[Tensor]) -> impl FnMut(&Maps<'_>) + Send + use<> {
    let mut engine = cpu_engine(plan);
    let tensors = tensors.to_vec();
    move |maps| {
        for tensor in tensors.iter().filter(|tensor| tensor.input) {
            fill(&mut engine.input_mut(), &maps.read(tensor));
        }
        engine.run().unwrap();
        let outputs = tensors.iter().filter(|tensor| !tensor.input);
        for (index, tensor) in outputs.enumerate() {
            maps.write(tensor, &dense(engine.output(index).unwrap()));
        }
    }
}

/// Makes an engine of a plan's network.
fn engine(plan: &Plan, tensors: &[Tensor], device: &Arc<dyn GpuDevice>) -> Engine {
    Engine::new(tensors, device, network(plan, tensors))
}

/// Makes the manifest of a plan for this library.
fn manifest(stand_in: &StandIn, scale: Option<f32>) -> Manifest {
    let library = Library::open(Some(&stand_in.path)).unwrap().version();
    let input = TensorDesc {
        name: "spatial_features".into(),
        input: true,
        element: Element::F32,
        scale,
        dims: Vec::new(),
    };
    Manifest {
        producer: "tests".into(),
        target: Target {
            engine: "tensorrt".into(),
            precision: "fp16".into(),
            version: library.to_string(),
            tensorrt: Some(TensorRtTarget {
                library,
                built_on: None,
                compute_capabilities: Vec::new(),
                options: None,
                tensors: vec![input],
                layers: None,
            }),
        },
        ..Manifest::default()
    }
}

/// Writes a plan of `network` for TensorRT.
fn write(folder: &Path, network: &Plan, manifest: Manifest, engine: &Engine) -> Plan {
    let path = folder.join("standin.plan");
    let model = network.section("model").unwrap();
    let contents = Contents {
        manifest,
        model_text: std::str::from_utf8(model.as_ref()).unwrap(),
        pfn: network.pfn(),
        engine: vec![("engine", engine.plan.as_bytes())],
    };
    plan::write(&path, contents).unwrap();
    Plan::open(&path).unwrap()
}

/// As [`write`], with the default manifest.
fn plan_of(folder: &Path, network: &Plan, stand_in: &StandIn, engine: &Engine) -> Plan {
    write(folder, network, manifest(stand_in, None), engine)
}

fn options(stand_in: &StandIn) -> Options {
    Options {
        tensorrt: Some(stand_in.path.clone()),
        ..Options::default()
    }
}

/// Rounds values to a type.
fn rounded(values: &mut [f32], element: Element) {
    if element == Element::F16 {
        values
            .iter_mut()
            .for_each(|value| *value = half_value(half(*value)));
    }
}

/// The expected boxes of a frame for maps of these types: those of the CPU's stages and engine with rounded maps.
fn expected(
    plan: &Plan,
    cloud: &PointCloud,
    input: Element,
    output: Element,
) -> (Vec<Box3d>, Dropped) {
    let model = plan.model();
    let stages = Stages::new(plan, cloud);
    let mut engine = cpu_engine(plan);
    let mut state = Scatter::new(model.grid.max_pillars);
    let layout = MapLayout::nchw(model.bev_channels(), model.grid.ny, model.grid.nx);
    let mut values = vec![0.0; model.bev_channels() * model.grid.cells()];
    let (features, cells) = (stages.features.values(), stages.pillars.cells());
    if input == Element::F16 {
        let data = MapDataMut::F32(&mut values);
        scatter(
            features,
            cells,
            &mut state,
            &mut MapViewMut { data, layout },
        );
        rounded(&mut values, input);
        fill(&mut engine.input_mut(), &values);
    } else {
        scatter(features, cells, &mut state, &mut engine.input_mut());
    }
    engine.run().unwrap();
    let outputs = engine.outputs().iter().enumerate().map(|(index, desc)| {
        let mut values = dense(engine.output(index).unwrap());
        rounded(&mut values, output);
        (desc.clone(), values)
    });
    let maps: Vec<_> = outputs.collect();
    let (boxes, lost) = boxes_of(model, &maps);
    let dropped = Dropped {
        candidates: lost.candidates,
        non_finite_candidates: lost.non_finite_candidates,
        ..*stages.pillars.dropped()
    };
    (boxes, dropped)
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn tensorrt_finds_the_boxes_of_the_cpu() {
    let network = demo_plan("fp32.plan");
    let frames = demo_frames();
    for stand_in in standin::all() {
        let device = device(0);
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(&network, &plain(&network), &device).with("scratch 5000");
        let plan = plan_of(folder.path(), &network, stand_in, &engine);
        let mut on_cpu = Detector::new(&network, &Options::default()).unwrap();
        let timed = Options {
            stage_times: true,
            ..options(stand_in)
        };
        let mut on_device = Detector::on(&plan, &timed, &device).unwrap();
        assert_eq!(stand_in.alive(&engine), 2);
        let none = PointCloud::empty(read(&frames[0]).layout());
        let mut boxes = 0;
        for cloud in frames[..3].iter().map(|path| read(path)).chain([none]) {
            let expected = on_cpu.detect(&cloud).unwrap();
            let found = on_device.detect(&cloud).unwrap();
            assert_eq!(bits(found.boxes), bits(expected.boxes));
            assert_eq!(found.dropped, expected.dropped);
            assert!(found.times.engine > 0.0 && found.times.total > found.times.engine);
            boxes += found.boxes.len();
        }
        assert!(boxes > 10);

        let mut sweeps = SweepBuffer::new(2, 60_000);
        for (i, path) in frames[..3].iter().enumerate() {
            let pose = Pose::new([i as f64 * 1.5, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]).unwrap();
            sweeps
                .push(&read(path), 100_000_000 * i as i64, Some(pose))
                .unwrap();
            let expected = on_cpu.detect_sweeps(&sweeps).unwrap();
            let found = on_device.detect_sweeps(&sweeps).unwrap();
            assert_eq!(bits(found.boxes), bits(expected.boxes), "sweep {i}");
            assert_eq!(found.dropped, expected.dropped, "sweep {i}");
        }
        drop(on_device);
        assert_eq!(stand_in.alive(&engine), 0);
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn every_type_and_format_finds_the_same_boxes() {
    use Element::{F16, F32, I8};
    use Format::{Chw2, Chw4, Chw16, Chw32, Hwc, Hwc8, Hwc16, Linear};
    let stand_in = stand_in();
    let cloud = read(&demo_frames()[3]);
    let (fp32, int8) = (demo_plan("fp32.plan"), demo_plan("int8.plan"));
    let scale = input_scale(&int8);
    assert!(scale.is_some(), "the demo's INT8 network reads codes");
    for (network, input, output) in [
        (&fp32, (F32, Hwc), (F32, Chw32)),
        (&fp32, (F32, Chw32), (F32, Hwc)),
        (&fp32, (F16, Linear), (F16, Linear)),
        (&fp32, (F16, Chw2), (F16, Hwc8)),
        (&fp32, (F16, Hwc8), (F16, Chw2)),
        (&fp32, (F16, Chw16), (F16, Hwc16)),
        (&fp32, (F16, Hwc16), (F16, Chw16)),
        (&fp32, (F16, Chw32), (F16, Chw32)),
        (&fp32, (F16, Hwc), (F32, Linear)),
        (&int8, (I8, Linear), (F32, Linear)),
        (&int8, (I8, Chw4), (F16, Hwc)),
        (&int8, (I8, Chw32), (F16, Linear)),
        (&int8, (I8, Hwc16), (F32, Chw32)),
    ] {
        let device = device(2);
        let case = format!("{input:?} {output:?}");
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(network, &tensors(network, input, output), &device);
        let scale = scale.filter(|_| input.0 == I8);
        let plan = write(folder.path(), network, manifest(stand_in, scale), &engine);
        let mut detector = Detector::on(&plan, &options(stand_in), &device).unwrap();
        // Twice: the second run clears the scattered cells of the first.
        let (expected, dropped) = expected(network, &cloud, input.0, output.0);
        assert!(expected.len() > 10, "{case}");
        for _ in 0..2 {
            let found = detector.detect(&cloud).unwrap();
            assert!(bits(found.boxes) == bits(&expected), "{case}");
            assert_eq!(found.dropped, dropped, "{case}");
        }
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn formats_pad_a_map_of_two_channels() {
    use Element::{F16, F32};
    use Format::{Chw16, Chw32, Hwc8, Hwc16};
    let stand_in = stand_in();
    let folder = tempfile::tempdir().unwrap();
    let network = Plan::open(&write_plan(folder.path(), MODEL)).unwrap();
    let clouds = [
        [[2.2, -3.7, 2.0], [-7.9, 7.9, 0.25]],
        [[2.2, -3.7, 1.5], [0.5, 0.5, 3.0]],
    ];
    let layout = "x,y,z".parse().unwrap();
    for (element, format) in [(F16, Hwc8), (F16, Hwc16), (F16, Chw16), (F32, Chw32)] {
        let device = device(2);
        let io = (element, format);
        let engine = engine(&network, &tensors(&network, io, io), &device);
        let plan = plan_of(folder.path(), &network, stand_in, &engine);
        let mut detector = Detector::on(&plan, &options(stand_in), &device).unwrap();
        for points in clouds {
            let cloud = PointCloud::new(layout, points.concat()).unwrap();
            let (expected, _) = expected(&network, &cloud, element, element);
            let found = detector.detect(&cloud).unwrap();
            assert_eq!(found.boxes.len(), 2);
            assert!(bits(found.boxes) == bits(&expected), "{io:?}");
        }
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn unnamed_outputs_get_memory() {
    let (stand_in, device) = (stand_in(), device(0));
    let network = demo_plan("fp32.plan");
    let mut tensors = plain(&network);
    let debug = Tensor {
        name: "debug".into(),
        input: false,
        element: Element::F32,
        format: Format::Chw32,
        size: [3, 5, 7],
    };
    let (mut run, written) = (self::network(&network, &tensors), debug.clone());
    tensors.push(debug);
    let engine = Engine::new(&tensors, &device, move |maps| {
        run(maps);
        maps.write(&written, &[1.0; 3 * 5 * 7]);
    });
    let folder = tempfile::tempdir().unwrap();
    let plan = plan_of(folder.path(), &network, stand_in, &engine);
    let mut detector = Detector::on(&plan, &options(stand_in), &device).unwrap();
    let cloud = read(&demo_frames()[3]);
    let mut on_cpu = Detector::new(&network, &Options::default()).unwrap();
    let expected = bits(on_cpu.detect(&cloud).unwrap().boxes);
    assert_eq!(bits(detector.detect(&cloud).unwrap().boxes), expected);
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn a_profile_lists_the_engines_layers_and_changes_nothing() {
    let network = demo_plan("fp32.plan");
    let cloud = read(&demo_frames()[3]);
    for stand_in in standin::all() {
        let device = device(0);
        let engine = engine(&network, &plain(&network), &device);
        let engine = engine.with("layer conv1+relu 0.5").with("layer heads 0.25");
        let folder = tempfile::tempdir().unwrap();
        let plan = plan_of(folder.path(), &network, stand_in, &engine);
        let mut detector = Detector::on(&plan, &options(stand_in), &device).unwrap();
        let before = bits(detector.detect(&cloud).unwrap().boxes);
        let layers = detector.profile().unwrap();
        let layers: Vec<(&str, f64)> = layers.iter().map(|l| (l.name.as_str(), l.ms)).collect();
        assert_eq!(layers, [("conv1+relu", 0.5), ("heads", 0.25)]);
        assert_eq!(bits(detector.detect(&cloud).unwrap().boxes), before);
        assert!(!before.is_empty());
    }
}

/// Lines of the log with target `tensorrt`.
static LINES: Mutex<Vec<(log::Level, String)>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target() == "tensorrt" {
            let line = (record.level(), record.args().to_string());
            LINES.lock().unwrap().push(line);
        }
    }

    fn flush(&self) {}
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn the_librarys_lines_are_logged_with_their_severity() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    let network = demo_plan("fp32.plan");
    for (number, stand_in) in standin::all().iter().enumerate() {
        let device = device(0);
        let mut engine = engine(&network, &plain(&network), &device);
        for severity in 0..5 {
            engine = engine.with(&format!(
                "log {severity} line {number}.{severity} of the stand-in"
            ));
        }
        let folder = tempfile::tempdir().unwrap();
        let plan = plan_of(folder.path(), &network, stand_in, &engine);
        Detector::on(&plan, &options(stand_in), &device).unwrap();
        let lines = LINES.lock().unwrap();
        let prefix = format!("line {number}.");
        let levels: Vec<log::Level> = lines
            .iter()
            .filter(|(_, line)| line.starts_with(&prefix))
            .map(|(level, _)| *level)
            .collect();
        use log::Level::{Error, Info, Trace, Warn};
        assert_eq!(levels, [Error, Error, Warn, Info, Trace]);
    }
}
