//! The CUDA stages on scanners' frames, on an emulated device: the CPU's results.

use centerpoint::{Layout, PointCloud};

use super::pfn::{TOLERANCE, carkusl, haohaonju, haohaonju_golden, worst};
use super::scanner_frames;
use super::sweeps::av2_sweeps;
use crate::cuda::features::{Sides, check_demo_model};
use crate::cuda::{decode, head, nms, pillars};
use crate::emulation;

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
