//! The CUDA stages on scanners' frames, on an emulated device: the CPU's results.

use centerpoint::internals::program::{Payload, Program};
use centerpoint::{Detector, Layout, Options, PointCloud};

use super::pfn::{TOLERANCE, carkusl, haohaonju, haohaonju_golden, worst};
use super::scanner_frames;
use super::sweeps::av2_sweeps;
use crate::cuda::engine::difference;
use crate::cuda::features::{Sides, check_demo_model};
use crate::cuda::frame::{bits, demo_plan, on_cpu};
use crate::cuda::{decode, head, nms, pillars};
use crate::emulation;
use crate::engine_net::Random;

#[test]
#[ignore = "needs ../shared"]
fn pillars_of_real_frames_equal_the_cpu() {
    pillars::check_in_a_row(&scanner_frames());
}

#[test]
#[ignore = "needs ../shared"]
fn two_real_sweeps_equal_the_cpu() {
    // All points, and a capacity that cuts the older sweep.
    for capacity in [200_000, 150_000] {
        let sweeps = av2_sweeps(capacity);
        pillars::under_schedules(|stage| {
            let found = stage.check_sweeps(&sweeps, "two sweeps");
            let newest = found.points.iter().flatten().filter(|&&p| p < 99_466);
            assert!(newest.count() > 10_000);
        });
    }
}

#[test]
#[ignore = "needs ../shared"]
fn features_of_real_frames_equal_the_cpu() {
    check_demo_model(&scanner_frames());
}

#[test]
#[ignore = "needs ../shared"]
fn trained_pfns_on_their_frames() {
    let device = emulation::device(1);
    for (case, golden) in [(haohaonju(), Some(haohaonju_golden())), (carkusl(), None)] {
        let cloud = PointCloud::new(Layout::NUSCENES, case.points()).unwrap();
        let mut sides = Sides::new(&case.model, &case.pfn(), &device);
        let pillars = sides.compare(&cloud, &case.pfe.display().to_string());
        let found = pillars.len();
        if let Some(golden) = golden {
            let features = sides.gpu.1.download(found).unwrap();
            assert!(worst(&features, &golden.features) < TOLERANCE);
        }
    }
}

#[test]
#[ignore = "needs ../shared"]
fn boxes_of_real_frames_equal_the_cpu() {
    let heads = head::real_heads(scanner_frames());
    decode::check_real_heads(&heads);
    nms::check_real_heads(&heads);
}

/// Dense noise, and a frame of each of three scanners, under several schedules.
#[test]
#[ignore = "needs nightly, ../shared"]
fn the_engine_gives_the_cpus_bytes_on_real_frames_and_noise() {
    let plan = demo_plan("int8.plan");
    let options = Options::default();
    let mut on_cpu = Detector::new(&plan, &on_cpu(&options)).unwrap();
    let mut frames = scanner_frames();
    frames.retain(|frame| {
        ["waymo", "nuscenes", "av2"]
            .iter()
            .any(|name| frame.name.starts_with(name))
    });
    frames.dedup_by_key(|frame| frame.name[..3].to_owned());
    assert_eq!(frames.len(), 3);
    let section = |name: &str| plan.section(name).unwrap();
    let payload = Payload {
        program: Program::from_json(section("program").as_ref()).unwrap(),
        weights: section("weights").as_ref().to_vec(),
    };
    let input = &payload.program.tensors[payload.program.input];
    let mut random = Random(5);
    let noise = random.values(input.channels * input.height * input.width);
    for seed in 0..8 {
        let device = emulation::device(seed);
        let mut on_device = Detector::on(&plan, &options, &device).unwrap();
        for frame in &frames {
            let expected = bits(on_cpu.detect(&frame.cloud).unwrap().boxes);
            let found = on_device.detect(&frame.cloud).unwrap();
            assert_eq!(
                bits(found.boxes),
                expected,
                "{}, schedule {seed}",
                frame.name
            );
        }
        let inputs = std::slice::from_ref(&noise);
        let found = difference(&payload, inputs, &device, &Default::default());
        assert_eq!(found, None, "noise, schedule {seed}");
    }
}
