//! The stages as nvcc compiles them: this program's own comparisons, started again with the stand-in for the driver and its
//! interpreter of PTX. They execute every kernel, on both sides of every limit.

use std::collections::BTreeSet;
use std::path::Path;

use ::emulation::Kernels;

use super::driver::{Variable, command, printed};
use crate::common::{repository, variable};

/// What runs: all that is quick, and whatever is about a limit.
const TESTS: [&str; 24] = [
    // Points of a frame, pillars of a frame, points of a pillar.
    "pillars::frames_end_anywhere_in_a_tile_and_at_the_capacity",
    "pillars::pillars_are_capped_and_the_first_still_grow",
    "pillars::one_cell_keeps_its_first_points",
    "pillars::points_outside_or_not_finite_are_dropped",
    "pillars::random_frames_equal_the_cpu",
    // Points of a pillar, pillars of a frame.
    "features::pillars_around_the_cap_of_points",
    "features::as_many_pillars_as_fit",
    "features::random_models_and_clouds",
    // Pillars of a frame.
    "scatter::as_many_pillars_as_fit",
    // Candidates, tasks of a launch.
    "decode::every_cell_may_pass_and_caps_hold",
    "decode::many_candidates_are_ranked_over_all_tasks",
    "decode::eleven_tasks_equal_the_cpu",
    "decode::non_finite_values_in_every_map_equal_the_cpu",
    "decode::random_maps_equal_the_cpu",
    // Boxes before suppression, boxes of a group, boxes of a chunk.
    "nms::candidates_around_their_cap_become_the_cpus_boxes",
    "nms::groups_are_full_at_their_cap",
    "nms::chunks_end_anywhere",
    "nms::overlaps_are_exact",
    "nms::random_boxes_equal_the_cpu",
    // The engine's.
    "engine::every_kernel_has_the_cpu_engines_bytes",
    "engine::sources_and_lazy_heads_have_the_cpu_engines_bytes",
    "half::every_kernel_is_near_the_cpu_engine",
    "peak::products_take_time",
    // All stages in one frame.
    "frame::a_cloud_of_other_columns_does_not_affect_the_next",
];

/// Runs [`TESTS`] with the PTX of an architecture.
fn check(architecture: &str, variables: &[Variable<'_>]) {
    variable("CENTERPOINT_NVCC");
    let out = tempfile::tempdir().unwrap();
    let log = out.path().join("log");
    let said = printed(
        command(std::env::current_exe().unwrap(), &log)
            .args(["--exact", "--test-threads", "1"])
            .args(TESTS.map(|test| format!("cuda::{test}")))
            .env("CENTERPOINT_TEST_DEVICE", "cuda")
            .env("CENTERPOINT_STANDIN_PTX", architecture)
            .envs(variables.iter().copied()),
    );
    assert!(said.contains(&format!("{} passed", TESTS.len())), "{said}");

    // Other lines tell of what the process keeps until its end.
    let report = std::fs::read_to_string(&log).unwrap();
    let faults = report.lines().filter(|line| line.starts_with("fault: "));
    assert_eq!(faults.collect::<Vec<_>>(), [""; 0]);
    let executed = report.lines().filter_map(|line| {
        let kernel = line.strip_prefix("executed: ")?;
        kernel.split(' ').next()
    });
    let kernels = repository().join("kernels");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulation");
    let kernels = Kernels::new(&[&kernels], &kernels, &cache, false);
    let expected: BTreeSet<&str> = kernels.names().collect();
    assert_eq!(executed.collect::<BTreeSet<_>>(), expected);
}

#[test]
#[ignore = "needs CENTERPOINT_NVCC"]
fn ptx_of_7_5_gives_the_cpus_bytes_at_every_limit() {
    check("75", &[("CENTERPOINT_STANDIN_RACES", "1")]);
}

/// With other instructions, in another order.
#[test]
#[ignore = "needs CENTERPOINT_NVCC"]
fn ptx_of_8_0_gives_the_cpus_bytes_at_every_limit() {
    check("80", &[("CENTERPOINT_STANDIN_SEED", "3")]);
}
