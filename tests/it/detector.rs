//! From points to boxes through the public API, on the tiny network of `common`.
#![allow(clippy::unwrap_used)]

use crate::common::{MODEL, VARIANCES, write_plan, write_variance_plan};
use crate::cuda::frame::{demo_frames, demo_plan, read};
use crate::emulation;
use std::sync::Arc;
use std::time::Instant;

use centerpoint::cuda::CudaError;
use centerpoint::internals::chain::Chain;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{self, CpuEngine};
use centerpoint::internals::program::Program;
use centerpoint::points::SweepBuffer;
use centerpoint::{
    Box3d, Budget, Counts, Detector, DetectorError, Device, Dropped, Layout, Level, Options, Plan,
    PointCloud, Variances,
};

fn detector(model: &str, options: &Options) -> Result<Detector, DetectorError> {
    let folder = tempfile::tempdir().unwrap();
    Detector::load(&write_plan(folder.path(), model), options)
}

fn cloud(points: &[[f32; 3]]) -> PointCloud {
    let layout: Layout = "x,y,z".parse().unwrap();
    PointCloud::new(layout, points.as_flattened().to_vec()).unwrap()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn points_become_the_expected_boxes() {
    let mut detector = detector(MODEL, &Options::default()).unwrap();
    let points = [
        [2.2, -3.7, 2.0],
        [2.4, -3.1, 1.5],
        [-7.9, 7.9, 0.25],
        [9.0, 0.0, 1.0],
    ];
    let found = detector.detect(&cloud(&points)).unwrap();
    assert_eq!(found.boxes.len(), 2);
    assert_eq!(
        (found.dropped.out_of_range, found.dropped.pillar_points),
        (1, 0)
    );
    let tall = found.boxes[0];
    let expected = Box3d {
        center: [2.5, -3.5, 2.0],
        size: [1f32.exp(), 0.5f32.exp(), 0.25f32.exp()],
        yaw: std::f32::consts::FRAC_PI_2,
        velocity: [3.0, -2.0],
        score: sigmoid(4.0),
        class: 0,
    };
    assert_eq!(tall.center, expected.center);
    assert_eq!((tall.class, tall.velocity), (0, expected.velocity));
    assert!((tall.score - expected.score).abs() < 1e-6);
    assert!((tall.yaw - expected.yaw).abs() < 1e-6);
    for (found, expected) in tall.size.iter().zip(expected.size) {
        assert!((found - expected).abs() < 1e-5);
    }
    let low = found.boxes[1];
    assert_eq!((low.class, low.center), (1, [-7.5, 7.5, 0.25]));
    assert!((low.score - sigmoid(3.0)).abs() < 1e-6);
}

#[test]
fn a_frame_does_not_affect_the_next() {
    let mut detector = detector(MODEL, &Options::default()).unwrap();
    let first = cloud(&[[2.2, -3.7, 2.0], [5.0, 5.0, 3.0]]);
    let second = cloud(&[[-1.0, -1.0, 3.0]]);
    let alone = detector.detect(&second).unwrap().boxes.to_vec();
    detector.detect(&first).unwrap();
    assert_eq!(detector.detect(&second).unwrap().boxes, alone);
    assert!(detector.detect(&cloud(&[])).unwrap().boxes.is_empty());
}

#[test]
fn overflows_are_counted() {
    let mut detector = detector(
        &MODEL.replace("max_pillars = 64", "max_pillars = 3"),
        &Options::default(),
    )
    .unwrap();
    let mut points = vec![[0.5, 0.5, 1.0]; 6];
    points.extend([
        [1.5, 0.5, 1.0],
        [2.5, 0.5, 1.0],
        [3.5, 0.5, 1.0],
        [3.6, 0.5, 1.0],
    ]);
    points.push([f32::NAN, 0.0, 0.0]);
    let dropped = detector.detect(&cloud(&points)).unwrap().dropped;
    assert_eq!(
        (dropped.pillar_points, dropped.pillars, dropped.non_finite),
        (2, 2, 1)
    );
    let many = vec![[0.5, 0.5, 1.0]; 1003];
    assert_eq!(
        detector.detect(&cloud(&many)).unwrap().dropped.sweep_points,
        3
    );
}

#[test]
fn options_override_the_plan() {
    let options = Options {
        score: Some(0.97),
        ..Options::default()
    };
    let mut detector = detector(MODEL, &options).unwrap();
    let found = detector
        .detect(&cloud(&[[2.2, -3.7, 2.0], [-7.9, 7.9, 0.25]]))
        .unwrap();
    assert_eq!(
        found.boxes.len(),
        1,
        "sigmoid(3) = 0.953 is below 0.97, sigmoid(4) is not"
    );
}

/// A detector whose engine computes whole maps.
fn whole(plan: &Plan, options: &Options) -> Detector {
    let program = Program::from_json(plan.section("program").unwrap().as_ref()).unwrap();
    let weights = Arc::new(plan.section("weights").unwrap());
    let pool = Arc::new(Pool::new(1));
    let engine = CpuEngine::new(program, weights, pool, &cpu::Options::default()).unwrap();
    let (model, pfn) = (plan.model(), plan.pfn());
    Detector::with_engine(model, pfn, Box::new(engine), None, options).unwrap()
}

/// Everything that a frame gives but its times.
fn all(detector: &mut Detector, cloud: &PointCloud) -> (Vec<u8>, Vec<Variances>, Dropped) {
    let found = detector.detect(cloud).unwrap();
    let boxes = bytemuck::cast_slice(found.boxes).to_vec();
    (boxes, found.variances.to_vec(), found.dropped)
}

#[test]
fn heads_that_are_computed_where_scores_pass_give_the_boxes_of_whole_maps() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Plan::open(&write_variance_plan(
        folder.path(),
        &MODEL.replace("[decode]", "variance = true\n[decode]"),
    ))
    .unwrap();
    let tiny_clouds = [
        cloud(&[[2.2, -3.7, 2.0], [-7.9, 7.9, 0.25], [0.1, 0.1, 1.0]]),
        cloud(&[]),
        cloud(&[[-1.0, -1.0, 3.0]]),
    ];
    let demo_clouds: Vec<PointCloud> = demo_frames().iter().take(4).map(|f| read(f)).collect();
    let cases = [
        (tiny, &tiny_clouds[..]),
        (demo_plan("int8.plan"), &demo_clouds[..]),
        (demo_plan("fp32.plan"), &demo_clouds[..1]),
    ];
    for (plan, clouds) in &cases {
        // From all cells to none.
        for score in [None, Some(0.0), Some(0.02), Some(0.6), Some(1.0)] {
            let options = Options {
                score,
                ..Options::default()
            };
            let mut whole = whole(plan, &options);
            let mut lazy = Detector::new(plan, &options).unwrap();
            let mut boxes = 0;
            for (i, cloud) in clouds.iter().enumerate() {
                let expected = all(&mut whole, cloud);
                let same = all(&mut lazy, cloud) == expected;
                assert!(same, "{:?}, score {score:?}, frame {i}", plan.path());
                boxes += expected.0.len();
            }
            assert_eq!(boxes > 0, score != Some(1.0), "score {score:?}");
        }
    }
    // With the stages on a device and the engine on the host.
    let options = Options {
        score: Some(0.02),
        ..Options::default()
    };
    let plan = &cases[1].0;
    let mut lazy = Detector::on(plan, &options, &emulation::device(2)).unwrap();
    let expected = all(&mut whole(plan, &options), &demo_clouds[0]);
    assert!(all(&mut lazy, &demo_clouds[0]) == expected);
}

#[test]
fn a_missing_column_is_an_error_and_the_detector_stays_usable() {
    let model = MODEL.replace("\"z\"]", "\"z\", \"ring\"]");
    let folder = tempfile::tempdir().unwrap();
    // The PFN has 3 inputs, but the description now requires 4: rejected with both numbers.
    let error = Detector::load(&write_plan(folder.path(), &model), &Options::default()).err();
    let message = Chain(&error.unwrap()).to_string();
    assert!(
        message.contains("tiny.plan") && message.contains("in_features is 3"),
        "{message}"
    );
    assert!(message.contains("requires 4"), "{message}");
}

#[test]
fn cuda_without_a_gpu_is_an_error_with_a_reason() {
    let error = detector(
        MODEL,
        &Options {
            device: Device::Cuda,
            ..Options::default()
        },
    )
    .err();
    match error {
        Some(DetectorError::Cuda(CudaError::Unavailable { reason })) => {
            assert!(reason.contains("--device cpu"), "{reason}");
        }
        Some(other) => panic!("{other}"),
        // A machine with a GPU.
        None => {}
    }
}

#[test]
fn contradictions_between_model_and_network_are_rejected() {
    for (from, to, text) in [
        ("8.0, 8.0, 4.0]", "8.0, 7.0, 4.0]", "[2, 15, 16]"),
        ("downsample = 1", "downsample = 2", "[2, 8, 8]"),
        (
            "[\"tall\", \"low\"]",
            "[\"tall\", \"low\", \"flat\"]",
            "[3, 16, 16]",
        ),
        ("rotation =", "variance = true\nrotation =", "[4, 16, 16]"),
        (
            "rotation =",
            "tasks = [{ classes = [\"tall\", \"low\"], outputs = [\"hm\", \"reg\", \"height\", \"dim\", \"rot\", \"vel\"] }]\nrotation =",
            "no output `hm`; the network has heatmap reg",
        ),
    ] {
        assert!(MODEL.contains(from));
        let error = detector(&MODEL.replace(from, to), &Options::default())
            .err()
            .unwrap();
        let message = error.to_string();
        assert!(
            message.contains(text) && message.contains("tiny.plan"),
            "{text}: {message}"
        );
    }
}

#[test]
fn a_profile_lists_the_networks_layers_and_changes_nothing() {
    let mut detector = detector(MODEL, &Options::default()).unwrap();
    let cloud = cloud(&[[2.2, -3.7, 2.0], [-7.9, 7.9, 0.25]]);
    let before = detector.detect(&cloud).unwrap().boxes.to_vec();
    assert_eq!(before.len(), 2);
    for _ in 0..2 {
        let layers = detector.profile().unwrap();
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names, ["heatmap", "reg", "height", "dim", "rot", "vel"]);
        assert!(layers.iter().all(|layer| layer.ms > 0.0), "{layers:?}");
        assert_eq!(detector.detect(&cloud).unwrap().boxes, before);
    }
}

#[test]
fn every_successful_frame_counts_against_the_budget() {
    // Every frame takes longer than 0 and less than a century: which frames are late does not depend on the
    // machine.
    for (frame_ms, misses, level) in [(0.0, 2, Level::Warn), (3e12, 0, Level::Ok)] {
        let budget = Budget {
            frame_ms,
            delay_ms: 3e12,
        };
        let options = Options {
            budget,
            ..Options::default()
        };
        let mut detector = detector(MODEL, &options).unwrap();
        assert_eq!(detector.deadline().counts(), Counts::default());
        detector.detect(&cloud(&[[2.2, -3.7, 2.0]])).unwrap();
        let mut sweeps = SweepBuffer::new(1, 1000);
        sweeps.push(&cloud(&[[2.2, -3.7, 2.0]]), 0, None).unwrap();
        let last_ms = detector.detect_sweeps(&sweeps).unwrap().times.total;
        let expected = Counts {
            frames: 2,
            misses,
            consecutive: misses,
            longest: misses,
            last_ms,
        };
        let deadline = detector.deadline();
        assert_eq!((deadline.budget(), deadline.counts()), (budget, expected));
        assert_eq!(deadline.level(Instant::now()), level);
    }
}

/// Variances reach the results on the CPU and on a device, turned with the boxes of a sensor that is mounted askew.
#[test]
fn variances_follow_their_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let text = MODEL.replace("downsample = 1", "downsample = 1\nvariance = true");
    let path = write_variance_plan(folder.path(), &text);
    let plan = Plan::open(&path).unwrap();
    let rows = vec![0.5, 0.5, 2.0, -3.5, 4.5, 0.25, 3.5, -2.5, 2.5];
    let cloud = PointCloud::new("x,y,z".parse().unwrap(), rows).unwrap();
    let device = crate::emulation::device(1);
    let turned = Options {
        extrinsic: Some("0,0,0,0,0,90".parse().unwrap()),
        ..Options::default()
    };
    for (options, swapped) in [(Options::default(), false), (turned, true)] {
        let mut on_cpu = Detector::new(&plan, &options).unwrap();
        let found = on_cpu.detect(&cloud).unwrap();
        assert!(found.boxes.len() > 1);
        let mut on_device = Detector::on(&plan, &options, &device).unwrap();
        let same = on_device.detect(&cloud).unwrap();
        assert_eq!((same.boxes, same.variances), (found.boxes, found.variances));
        assert_eq!(found.variances.len(), found.boxes.len());
        let [mut x, mut y, z, l, w, h, sin, _, mut vx, mut vy] = VARIANCES;
        if swapped {
            (x, y, vx, vy) = (y, x, vy, vx);
        }
        // The rotation is (1, 0): the cosine's variance does not matter at 90°, only that of the other does.
        let expected = [x, y, z, l, w, h, VARIANCES[7], vx, vy];
        assert_ne!(sin, VARIANCES[7]);
        for variances in found.variances {
            let values = bytemuck::cast::<_, [f32; 9]>(*variances);
            for (found, expected) in values.into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{values:?} {expected:?}");
            }
        }
    }
    let plain = write_plan(folder.path(), MODEL);
    let mut plain = Detector::load(&plain, &Options::default()).unwrap();
    assert!(plain.detect(&cloud).unwrap().variances.is_empty());
}
