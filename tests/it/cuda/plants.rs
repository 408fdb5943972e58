//! Planted bugs: kernels that the emulation must catch, each with a correct twin that must pass in every schedule.

use super::harness::{Run, reason};
use crate::emulation::{self, sanitizers};

/// Number of schedules in which the twins must pass.
const SEEDS: u64 = 24;

/// The seeds among the first [`SEEDS`] whose schedules produce another output than `expected`.
fn wrong(run: &Run, expected: &[u32]) -> Vec<u64> {
    let mut wrong = Vec::new();
    for seed in 0..SEEDS {
        if run.seeded(seed).unwrap()[..expected.len()] != *expected {
            wrong.push(seed);
        }
    }
    wrong
}

/// Checks that the planted bug changes the output in at least `least` of the schedules, and the twin in none.
fn check(run: Run, expected: &[u32], least: usize) -> Vec<u64> {
    assert_eq!(wrong(&run, expected), [0; 0], "{}", run.launch.kernel);
    let wrong = wrong(&run.planted(), expected);
    assert!(wrong.len() >= least, "wrong under seeds {wrong:?}");
    wrong
}

#[test]
fn a_missing_barrier_changes_the_output() {
    let reversed: Vec<u32> = [256, 512]
        .iter()
        .flat_map(|&end| (end - 256..end).rev())
        .collect();
    let run = Run::new("plant_reverse", 2, 256);
    check(run, &reversed, SEEDS as usize);
}

#[test]
fn a_missing_warp_barrier_changes_the_output() {
    let sums: Vec<u32> = (0..8)
        .flat_map(|warp| [(0..32).map(|lane| 32 * warp + lane).sum::<u32>(); 32])
        .collect();
    let run = Run::new("plant_warp", 1, 256);
    let seeds = check(run, &sums, 12);
    assert!(!seeds.contains(&0), "not in the natural order");
}

#[test]
fn shared_memory_is_garbage_in_every_block() {
    for seed in 0..3 {
        let mut run = Run::new("plant_garbage", 4, 64);
        run.launch.shared = 4 * 64;
        run.count = 2 * 4 * 64;
        let result = run.seeded(seed);
        let mut words = result.unwrap();
        words.sort_unstable();
        words.dedup();
        assert!(words.len() > 500, "{} different words", words.len());
    }
}

#[test]
fn an_order_drawn_from_an_atomic_shows_when_schedules_change() {
    let odd: Vec<u32> = (0..256).filter(|v| v % 2 == 1).collect();
    let seeds = check(Run::new("plant_compact", 1, 256), &odd, 12);
    assert!(!seeds.contains(&0), "not in the natural order");
}

#[test]
fn a_lost_update_shows_when_schedules_change() {
    let run = Run::new("plant_sum", 2, 128);
    let seeds = check(run, &[(0..256).sum(), 256], 8);
    assert!(!seeds.contains(&0), "not in the natural order");
}

#[test]
fn a_race_between_blocks_shows_when_they_run_side_by_side() {
    let run = || Run::new("plant_siblings", 64, 1);
    let expected = [20 * 64];
    let hidden = wrong(&run().planted(), &expected);
    assert_eq!(hidden, [0; 0], "one block at a time hides it");
    let wrong = |run: Run| -> usize {
        let differs = |seed: &u64| run.side_by_side(*seed).unwrap()[0] != expected[0];
        (0..SEEDS).filter(differs).count()
    };
    assert_eq!(wrong(run()), 0);
    assert_ne!(wrong(run().planted()), 0);
}

#[test]
fn shared_memory_that_was_not_cleared_changes_the_output() {
    check(
        Run::new("plant_count", 3, 64),
        &[64, 64, 64],
        SEEDS as usize,
    );
}

/// Checks that every seed reports the planted bug in `words`, and that the twin passes.
fn check_report(run: fn() -> Run, expected: &[u32], words: &[&str]) {
    for seed in 0..SEEDS {
        let twin = run().seeded(seed);
        assert_eq!(twin.unwrap(), expected, "seed {seed}");
        let planted = run().planted();
        let text = reason(planted.seeded(seed), &planted.launch);
        let block = text.starts_with("block (") && text.contains(", 0, 0), thread ");
        assert!(block, "{text}");
        for word in words {
            assert!(text.contains(word), "seed {seed}: {text}");
        }
    }
}

#[test]
fn barriers_in_two_branches_are_reported() {
    check_report(
        || Run::new("plant_branch", 2, 64),
        &[1; 128],
        &["__syncthreads (plants.cu:", "while others wait at"],
    );
}

#[test]
fn a_barrier_after_threads_ended_is_reported() {
    check_report(
        || Run {
            count: 100,
            ..Run::new("plant_return", 2, 64)
        },
        &[1; 100],
        &["ended", "__syncthreads (plants.cu:"],
    );
}

#[test]
fn a_mask_that_names_ended_lanes_is_reported() {
    let mut ballots = vec![u32::MAX; 64];
    ballots.extend([0xff; 8]);
    check_report(
        || Run {
            count: 72,
            ..Run::new("plant_ballot", 1, 96)
        },
        &ballots,
        &["ended", "__ballot_sync (plants.cu:", "ffffffff"],
    );
}

#[test]
fn a_deadlock_is_reported() {
    check_report(
        || Run::new("plant_wait", 2, 64),
        &[32; 128],
        &[
            "deadlock",
            "in __shfl_xor_sync (plants.cu:",
            "in __syncthreads (plants.cu:",
        ],
    );
}

#[test]
fn a_failed_launch_leaves_other_devices_usable() {
    let result = Run::new("plant_wait", 2, 64).planted().seeded(0);
    result.unwrap_err();
    let again = Run::new("plant_wait", 2, 64).seeded(0);
    assert_eq!(again.unwrap(), [32; 128]);
}

#[test]
fn blocks_that_wait_for_each_other_are_reported() {
    if emulation::checked() {
        return; // It spins for a long time.
    }
    let run = Run::new("plant_spin", 4, 1);
    let twin = run.seeded(0);
    assert_eq!(twin.unwrap()[0], 4);
    let run = run.planted();
    let text = reason(run.seeded(0), &run.launch);
    assert!(text.contains("does a thread wait for another?"), "{text}");
}

/// Environment variable that names the kernel that [`sanitizers_stop_this`] launches.
const KERNEL: &str = "CENTERPOINT_TEST_PLANT";

/// What the sanitizers catch: kernel, report, and text in the line of `plants.cu` that the report names.
const STOPPED: [(&str, &str, &str); 5] = [
    (
        "plant_overrun",
        "heap-buffer-overflow",
        "((u32 *)p.out)[i] = i < p.count",
    ),
    (
        "plant_dynamic",
        "heap-buffer-overflow",
        "values[threadIdx.x] = ((const u32 *)p.in)",
    ),
    (
        "plant_static",
        "index 64 out of bounds for type",
        "values[threadIdx.x + p.planted] = ",
    ),
    ("plant_pairs", "misaligned address", "const uint2 pair ="),
    (
        "plant_float",
        "outside the range of representable values",
        "(u32)value",
    ),
];

fn stopped_run(kernel: &'static str) -> Run {
    let mut run = Run::new(kernel, 2, 64);
    if kernel == "plant_dynamic" {
        run.launch.shared = 4 * 64;
    }
    run
}

#[test]
#[ignore = "started by `sanitizers_stop_bad_accesses`: ends the process"]
fn sanitizers_stop_this() {
    let name = std::env::var(KERNEL).unwrap();
    let (kernel, ..) = STOPPED.iter().find(|(k, ..)| *k == name).unwrap();
    // The sanitizer ends the process, so there is no result.
    let _ = stopped_run(kernel).planted().seeded(0);
}

#[test]
#[ignore = "needs libasan, libubsan"]
fn sanitizers_stop_bad_accesses() {
    if emulation::checked() {
        return;
    }
    let sources = include_str!("../../emulation/plants.cu");
    for (kernel, says, line) in STOPPED {
        let test = "cuda::plants::sanitizers_stop_this";
        let output = sanitizers::run(&[test, "--ignored", "--exact"], &[(KERNEL, kernel)]);
        let text = sanitizers::tail(&output, 200);
        let start = sources.find(&format!("{kernel}(")).unwrap();
        let at = start + sources[start..].find(line).unwrap();
        let number = sources[..at].lines().count();
        assert!(!output.status.success(), "{kernel} passed:\n{text}");
        assert!(text.contains(says), "{kernel}:\n{text}");
        assert!(
            text.contains(&format!("plants.cu:{number}")),
            "{kernel}, line {number}:\n{text}"
        );
    }
}

#[test]
fn their_twins_pass() {
    let numbers: Vec<u32> = (0..128).collect();
    let halves: Vec<u32> = numbers.iter().map(|v| v / 2).collect();
    for (kernel, ..) in STOPPED {
        let expected = if kernel == "plant_float" {
            &halves
        } else {
            &numbers
        };
        for seed in 0..SEEDS {
            let result = stopped_run(kernel).seeded(seed);
            assert_eq!(result.unwrap(), *expected, "{kernel}, seed {seed}");
        }
    }
}
