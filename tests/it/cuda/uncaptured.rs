//! An engine that CUDA cannot record, as TensorRT's may be: frames run without a graph.

use std::sync::Arc;

use centerpoint::cuda::{self, DeviceMap};
use centerpoint::engine::{Engine, EngineError, LayerTime, MapMut, MapRef};
use centerpoint::internals::cuda::{Buffer, StreamWork};
use centerpoint::internals::testing::FixedEngine;
use centerpoint::map::{Location, MapDesc, MapFormat, MapLayout};
use centerpoint::{Detector, Model, Options};

use super::driver::{StandIn, child};
use super::frame::{bev_desc, bits, demo_frames, demo_plan, head_maps, read};

/// An engine with work of its own on the stream.
struct Working {
    maps: FixedEngine,
    device: Arc<dyn cuda::Device>,
    work: StreamWork,
}

impl Engine for Working {
    fn input(&self) -> &MapDesc {
        self.maps.input()
    }

    fn outputs(&self) -> &[MapDesc] {
        self.maps.outputs()
    }

    fn location(&self) -> Location {
        self.maps.location()
    }

    fn input_map(&mut self) -> MapMut<'_> {
        self.maps.input_map()
    }

    fn output_map(&self, index: usize) -> Option<MapRef<'_>> {
        self.maps.output_map(index)
    }

    fn run(&mut self) -> Result<(), EngineError> {
        Ok(self.device.enqueue("the engine", &self.work)?)
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        self.maps.profile()
    }
}

/// The maps of an engine that always returns `heads`.
fn fixed(
    model: &Model,
    heads: &[(MapDesc, Vec<f32>)],
    device: &Arc<dyn cuda::Device>,
) -> FixedEngine {
    let map = |desc: &MapDesc, values: &[f32]| {
        let buffer = Buffer::new(device, "map", values).unwrap();
        let layout = MapLayout::nchw(desc.channels, desc.height, desc.width);
        DeviceMap::new(&buffer, MapFormat::f32(layout)).unwrap()
    };
    let desc = bev_desc(model);
    let input = map(&desc, &vec![0.0; desc.channels * desc.height * desc.width]);
    let outputs = heads
        .iter()
        .map(|(desc, values)| (desc.clone(), map(desc, values)));
    FixedEngine::new((desc, input), outputs.collect())
}

#[test]
fn an_engine_that_cannot_be_recorded_runs_without_a_graph() {
    child("cuda::uncaptured::without_a_graph");
}

#[test]
#[ignore = "started by `an_engine_that_cannot_be_recorded_runs_without_a_graph`"]
#[allow(unsafe_code)]
fn without_a_graph() {
    type Synchronize = unsafe extern "C" fn(*mut std::ffi::c_void) -> u32;
    let standin = StandIn::open();
    let plan = demo_plan("fp32.plan");
    let (model, cloud) = (plan.model(), read(&demo_frames()[3]));
    let heads = head_maps(&plan, &cloud);
    // SAFETY: the function has this type.
    let synchronize: Synchronize = unsafe { *standin.0.get(b"cuStreamSynchronize\0").unwrap() };
    let nothing: StreamWork = Arc::new(|_| Ok(()));
    let waits_and_tells: StreamWork = Arc::new(move |stream| {
        // SAFETY: a stream of the current context.
        match unsafe { synchronize(stream.as_raw()) } {
            0 => Ok(()),
            code => Err(cuda::CudaError::Graph {
                reason: format!("the engine waits: {code}"),
            }),
        }
    });
    let waits: StreamWork = Arc::new(move |stream| {
        // SAFETY: as above.
        unsafe { synchronize(stream.as_raw()) };
        Ok(())
    });
    let mut expected = None;
    for (work, graphs) in [(nothing, 2), (waits_and_tells, 0), (waits, 0)] {
        standin.reset(None);
        let device = cuda::open().unwrap();
        let engine = Box::new(Working {
            maps: fixed(model, &heads, &device),
            device: device.clone(),
            work,
        });
        let options = Options::default();
        let mut detector =
            Detector::with_engine(model, plan.pfn(), engine, Some(&device), &options).unwrap();
        let mut found = Vec::new();
        for _ in 0..2 {
            let detection = detector.detect(&cloud).unwrap();
            assert!(detection.times.total > 0.0);
            found.extend(bits(detection.boxes));
        }
        drop((detector, device));
        let (counts, others) = standin.report();
        assert_eq!(counts.get("cuGraphLaunch").copied().unwrap_or(0), graphs);
        let refused = "fault: cuStreamSynchronize while the stream captures";
        assert_eq!(others, if graphs == 0 { vec![refused] } else { vec![] });
        assert!(!found.is_empty());
        let first = expected.get_or_insert_with(|| found.clone());
        assert!(found == *first);
    }
}

#[test]
fn two_threads_share_a_device() {
    child("cuda::uncaptured::shared_device");
}

#[test]
#[ignore = "started by `two_threads_share_a_device`"]
fn shared_device() {
    let standin = StandIn::open();
    standin.reset(None);
    let plan = demo_plan("fp32.plan");
    let model = plan.model();
    let device = cuda::open().unwrap();
    // Each thread records its graph and runs frames while the other one does.
    let frames = demo_frames();
    let boxes = |path: &std::path::Path, other: Option<&std::path::Path>| {
        let cloud = read(path);
        let maps = fixed(model, &head_maps(&plan, &cloud), &device);
        let engine = Box::new(Working {
            maps,
            device: device.clone(),
            work: Arc::new(|_| Ok(())),
        });
        let options = Options::default();
        let mut detector =
            Detector::with_engine(model, plan.pfn(), engine, Some(&device), &options).unwrap();
        let mut found = Vec::new();
        for cloud in [Some(path), other, Some(path)].into_iter().flatten() {
            found.push(bits(detector.detect(&read(cloud)).unwrap().boxes));
        }
        found
    };
    let (first, second) = (&frames[3], &frames[5]);
    let expected = [boxes(first, Some(second)), boxes(second, Some(first))];
    assert!(expected.iter().flatten().all(|boxes| !boxes.is_empty()));
    let found = std::thread::scope(|scope| {
        let threads = [
            scope.spawn(|| boxes(first, Some(second))),
            scope.spawn(|| boxes(second, Some(first))),
        ];
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(found == expected);
    drop(device);
    let (counts, others) = standin.report();
    assert_eq!(counts.get("cuGraphLaunch"), Some(&12));
    assert_eq!(others, [""; 0]);
}

#[test]
fn a_panic_ends_the_recording() {
    child("cuda::uncaptured::panic_while_recording");
}

#[test]
#[ignore = "started by `a_panic_ends_the_recording`"]
fn panic_while_recording() {
    let standin = StandIn::open();
    standin.reset(None);
    let plan = demo_plan("fp32.plan");
    let model = plan.model();
    let heads = head_maps(&plan, &read(&demo_frames()[3]));
    let device = cuda::open().unwrap();
    // The first run is before the recording.
    let runs = std::sync::atomic::AtomicUsize::new(0);
    let engine = Box::new(Working {
        maps: fixed(model, &heads, &device),
        device: device.clone(),
        work: Arc::new(move |_| {
            let run = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(run == 0, "planned");
            Ok(())
        }),
    });
    let options = Options::default();
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Detector::with_engine(model, plan.pfn(), engine, Some(&device), &options)
    }));
    assert!(made.is_err());
    // Nobody waits for the recording, and its graph is freed.
    let other = std::thread::spawn({
        let device = device.clone();
        move || device.wait().unwrap()
    });
    for _ in 0..1000 {
        if other.is_finished() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(other.is_finished(), "it waits for the recording");
    other.join().unwrap();
    drop(device);
    let (counts, others) = standin.report();
    assert_eq!(counts.get("cuStreamEndCapture"), Some(&1), "{counts:?}");
    assert_eq!(others, [""; 0]);
}

#[test]
fn marks_belong_to_their_owner() {
    child("cuda::uncaptured::own_marks");
}

#[test]
#[ignore = "started by `marks_belong_to_their_owner`"]
fn own_marks() {
    let standin = StandIn::open();
    standin.reset(None);
    let device = cuda::open().unwrap();
    let [a, b, of_another] = [(); 3].map(|()| device.create_mark().unwrap());
    device.mark(a).unwrap();
    device.mark(of_another).unwrap();
    let error = device.elapsed(a, b).unwrap_err().to_string();
    assert!(error.contains("a mark was not set"), "{error}");
    device.mark(b).unwrap();
    assert!(device.elapsed(a, b).unwrap() >= 0.0);
    device.free_mark(of_another);
    for wrong in [of_another, 0, 99] {
        assert!(device.mark(wrong).is_err());
        assert!(device.elapsed(a, wrong).is_err());
        device.free_mark(wrong);
    }
    drop(device);
    assert_eq!(standin.report().1, [""; 0]);
}

#[test]
fn numbers_that_no_list_of_errors_has_are_errors() {
    child("cuda::uncaptured::unknown_number");
}

#[test]
#[ignore = "started by `numbers_that_no_list_of_errors_has_are_errors`"]
fn unknown_number() {
    let standin = StandIn::open();
    for (call, number) in [("cuInit", 4242), ("cuStreamSynchronize", 987_654_321)] {
        standin.reset(Some(&format!("{call}:1:{number}")));
        let run = || {
            let device = cuda::open()?;
            device.alloc("memory to clear", 4)?;
            device.wait()
        };
        let error = run().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("CUDA error {number}")), "{text}");
    }
}
