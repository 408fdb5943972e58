//! Suppression against the CPU stage, byte for byte: random boxes that overlap, coincide and touch, groups, steps and
//! caps, and the way from the demo network's maps of real frames to the detector's boxes.

use std::f32::consts::{FRAC_PI_2, PI};
use std::sync::Arc;

use bytemuck::bytes_of;
use centerpoint::cuda::Device;
use centerpoint::internals::boxes::BevRect;
use centerpoint::internals::cpu::decode::Candidate;
use centerpoint::internals::cpu::nms;
use centerpoint::internals::cuda;
use centerpoint::map::Element;
use centerpoint::model::{Candidates, NmsStep, Remap, Suppressors};
use centerpoint::{Box3d, Detector, Model, Options};

use super::decode::{Stage as Decode, maps, model_of, open};
use super::frame::on_cpu;
use super::head::{Form, REAL, RealHeads, demo_plan};
use crate::emulation;
use crate::stages::Random;
use crate::stages::heads::Heads;
use crate::stages::nms::{all_suppress, candidates, circle, iou_step, rect, with_steps};

/// The stage on both sides, for several frames.
struct Stage {
    model: Model,
    cpu: nms::Nms,
    candidates: cuda::decode::CandidateList,
    gpu: cuda::nms::Nms,
}

impl Stage {
    fn new(model: &Model, device: &Arc<dyn Device>) -> Self {
        Self {
            model: model.clone(),
            cpu: nms::Nms::new(model),
            candidates: cuda::decode::CandidateList::new(model, device).unwrap(),
            gpu: cuda::nms::Nms::new(model, device).unwrap(),
        }
    }

    /// Suppresses a frame's boxes, best first, on both sides. Returns the number of remaining ones.
    fn check(&mut self, boxes: &[Box3d], what: &str) -> usize {
        let candidates = candidates(boxes);
        nms::suppress(&self.model, &candidates, &mut self.cpu);
        self.candidates.upload(&candidates).unwrap();
        cuda::nms::suppress(&self.candidates, &mut self.gpu).unwrap();
        let (totals, found, variances) = self.gpu.download().unwrap();
        assert_eq!((totals.surplus, totals.non_finite), (0, 0), "{what}");
        equal(&found, self.cpu.boxes(), what);
        assert_eq!(variances, self.cpu.variances(), "{what}");
        found.len()
    }
}

/// The model with room for so many boxes that the device makes no masks.
fn without_masks(mut model: Model) -> Model {
    model.decode.max_candidates = 8193;
    model
}

fn equal(found: &[Box3d], expected: &[Box3d], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: boxes");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = bytes_of(found) == bytes_of(expected);
        assert!(same, "{what}: {i}: {found:?} {expected:?}");
    }
}

/// Boxes over a field of `field` metres: of any size and heading, on a raster (so that they touch and coincide),
/// copies of earlier ones (some turned around), without area, slivers, and of absurd size.
fn random_boxes(random: &mut Random, n: usize, field: f32) -> Vec<Box3d> {
    let mut boxes: Vec<Box3d> = Vec::with_capacity(n);
    for _ in 0..n {
        let (x, y) = (random.uniform(-field, field), random.uniform(-field, field));
        let (l, w) = (random.uniform(0.3, 9.0), random.uniform(0.3, 3.5));
        let yaw = random.uniform(-PI, PI);
        let mut bbox = match random.below(24) {
            0..8 => rect(x, y, l, w, yaw),
            8..14 => {
                let yaw = FRAC_PI_2 * random.below(4) as f32;
                rect(x.round(), y.round(), l.ceil(), w.ceil(), yaw)
            }
            14..18 if !boxes.is_empty() => boxes[random.below(boxes.len())],
            18..20 if !boxes.is_empty() => {
                let mut copy = boxes[random.below(boxes.len())];
                copy.yaw -= [PI, FRAC_PI_2, 1e-3, 1e-7][random.below(4)];
                copy
            }
            20 => rect(x, y, [0.0, l][random.below(2)], 0.0, yaw),
            21 => rect(x, y, l, [1e-6, 1e-30, 1e-42][random.below(3)], yaw),
            22 => {
                let size = [1e3, 1e10, 1e25, f32::MAX][random.below(4)];
                rect(x * size.sqrt(), y, size, l, yaw)
            }
            23 => rect([1e30, -3e38][random.below(2)], y, l, w, yaw),
            _ => rect(x, y, 4.0, 2.0, 0.0),
        };
        bbox.class = random.below(3) as u32;
        boxes.push(bbox);
    }
    boxes
}

fn random_step(random: &mut Random) -> NmsStep {
    let group = [[0, 0, 0], [0, 1, 2], [0, 1, 0], [9, 4, 4]][random.below(4)];
    let max_boxes = [usize::MAX, 1, 3, 20, 64, 65][random.below(6)];
    let step = if random.below(3) == 0 {
        let mut radius = || [0.0, random.uniform(0.1, 4.0)][random.below(4).min(1)];
        circle([radius(), radius(), radius()], group, max_boxes)
    } else {
        let threshold = [0.0, 0.1, 0.2, 0.5, 1.0][random.below(5)];
        let distance = [f32::INFINITY, 10.0, 2.0, 1.0, 0.0][random.below(5)];
        iou_step(threshold, distance, group)
    };
    let suppressors = [Suppressors::Kept, Suppressors::All][random.below(2)];
    NmsStep {
        max_boxes,
        suppressors,
        ..step
    }
}

#[test]
fn random_boxes_equal_the_cpu() {
    let (mut given, mut left) = (0, 0);
    for case in 0..emulation::cases(160) {
        let device = emulation::device(case as u64);
        let mut random = Random(case as u64 + 1000);
        let steps = (0..random.below(4)).map(|_| random_step(&mut random));
        let mut model = with_steps(steps.collect());
        for _ in 0..random.below(4) {
            // Areas of boxes on the raster, so that some equal the bounds exactly.
            let min_area = random.below(20) as f32;
            model.remap.push(Remap {
                from: random.below(3),
                to: random.below(3),
                min_area,
                max_area: [min_area + random.below(9) as f32, f32::INFINITY][random.below(2)],
            });
        }
        model.decode.max_candidates = 400;
        if case % 8 == 7 {
            model = without_masks(model);
        }
        model.head.variance = random.below(2) == 0;
        let mut stage = Stage::new(&model, &device);
        // Several frames on the same buffers.
        for frame in 0..3 {
            let n = [0, 1, random.below(70), random.below(400), 400][random.below(5)];
            let field = [3.0, 20.0, 60.0][random.below(3)];
            let boxes = random_boxes(&mut random, n, field);
            given += n;
            left += stage.check(&boxes, &format!("case {case}, frame {frame}, {n} boxes"));
        }
    }
    assert!(
        left > given / 20 && left < given * 9 / 10,
        "{left} of {given}"
    );
}

/// Sizes around multiples of a chunk, where nothing, everything or half overlaps; all pairs are close in the second
/// field, so that the queue of pairs fills up again and again.
#[test]
fn chunks_end_anywhere() {
    let kinds = [
        circle([1.5; 3], [0, 0, 0], usize::MAX),
        iou_step(0.3, f32::INFINITY, [0, 0, 0]),
        iou_step(1.0, f32::INFINITY, [0, 0, 0]),
        iou_step(1.0, f32::INFINITY, [0, 1, 0]),
        all_suppress(circle([1.5; 3], [0, 0, 0], 40)),
        all_suppress(iou_step(0.3, f32::INFINITY, [0, 0, 0])),
    ];
    for (seed, step) in kinds.into_iter().cycle().take(12).enumerate() {
        let device = emulation::device(seed as u64);
        let mut model = with_steps(vec![step]);
        if seed >= 6 {
            model = without_masks(model);
        }
        let mut stage = Stage::new(&model, &device);
        for n in [1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 400] {
            for (apart, name) in [(20.0, "apart"), (0.01, "heaped"), (1.0, "in a row")] {
                let boxes: Vec<Box3d> = (0..n)
                    .map(|i| Box3d {
                        class: (i % 5 % 3) as u32,
                        ..rect(i as f32 * apart, 0.0, 4.0, 2.0, i as f32 * 0.01)
                    })
                    .collect();
                stage.check(&boxes, &format!("seed {seed}, {n} boxes {name}"));
            }
        }
    }
}

#[test]
fn groups_are_full_at_their_cap() {
    for seed in 0..emulation::cases(16) as u64 {
        let device = emulation::device(seed);
        let mut random = Random(seed);
        let boxes = random_boxes(&mut random, 500, 30.0);
        let mut step = [
            circle([1.0, 2.0, 0.5], [0, 1, 0], usize::MAX),
            iou_step(0.2, 20.0, [0, 0, 0]),
        ][seed as usize % 2]
            .clone();
        let model = with_steps(vec![step.clone()]);
        let mut uncapped = nms::Nms::new(&model);
        nms::suppress(&model, &candidates(&boxes), &mut uncapped);
        let in_group = |bbox: &&Box3d| step.group[bbox.class as usize] == 0;
        let all = uncapped.boxes().iter().filter(in_group).count();
        assert!(all > 64, "only {all}");
        for cap in [1, 63, 64, 65, all - 1, all, all + 1] {
            step.max_boxes = cap;
            let mut model = with_steps(vec![step.clone()]);
            if seed % 4 == 3 {
                model = without_masks(model);
            }
            let mut stage = Stage::new(&model, &device);
            stage.check(&boxes, &format!("seed {seed}, cap {cap} of {all}"));
        }
    }
}

/// A pair remains at its own overlap as threshold, but not at the next smaller number: so the device computes the
/// CPU's bits.
#[test]
fn overlaps_are_exact() {
    let device = emulation::device(3);
    let mut random = Random(77);
    let mut overlapping = 0;
    for case in 0..emulation::cases(400) {
        let pair = random_boxes(&mut random, 2, 2.5);
        let [a, b] = [BevRect::new(&pair[0]), BevRect::new(&pair[1])];
        let (iou, distance) = (a.iou(&b), a.distance_squared(&b));
        let left = |step| {
            let mut stage = Stage::new(&with_steps(vec![step]), &device);
            stage.check(&pair, &format!("pair {case}: {pair:?}"))
        };
        assert_eq!(left(iou_step(iou, f32::INFINITY, [0; 3])), 2);
        if iou > 0.0 {
            assert_eq!(left(iou_step(iou.next_down(), f32::INFINITY, [0; 3])), 1);
            overlapping += 1;
        }
        for radius in [
            distance.sqrt().next_down(),
            distance.sqrt(),
            distance.sqrt().next_up(),
        ] {
            left(circle([radius; 3], [0; 3], usize::MAX));
        }
    }
    assert!(overlapping > emulation::cases(100), "{overlapping}");
}

/// The emulation runs one block after the other, so this checks that the blocks of different groups share no memory.
#[test]
fn groups_have_separate_parts() {
    for seed in 0..8 {
        let device = emulation::device(seed);
        let mut random = Random(seed);
        let group = [[0, 1, 2], [2, 0, 2], [5, 3, 1]][random.below(3)];
        let mut stage = Stage::new(&with_steps(vec![circle([2.0; 3], group, 10)]), &device);
        let boxes = random_boxes(&mut random, 300, 30.0);
        stage.check(&boxes, "groups");
        let mut expected: Vec<u32> = (0..300).collect();
        expected.sort_by_key(|&i| group[boxes[i as usize].class as usize]);
        assert_eq!(stage.gpu.download_members(300).unwrap(), expected);
    }
}

#[test]
fn the_result_has_room_for_all_boxes_that_the_model_allows() {
    let device = emulation::device(0);
    let boxes_of = |steps| {
        let model = with_steps(steps);
        (cuda::nms::Nms::new(&model, &device).unwrap().result().len() * 4 - 48) / 44
    };
    let endless = circle([1.0; 3], [0, 1, 2], usize::MAX);
    let capped = |groups, max_boxes| circle([1.0; 3], groups, max_boxes);
    assert_eq!(boxes_of(vec![]), 1000);
    assert_eq!(boxes_of(vec![endless.clone()]), 1000);
    assert_eq!(boxes_of(vec![endless, capped([5, 5, 9], 200)]), 400);
    assert_eq!(
        boxes_of(vec![capped([0, 0, 0], 50), capped([0, 1, 2], 20)]),
        50
    );
}

/// Decodes maps and suppresses their candidates on both sides. Returns the boxes and the candidates beyond the cap.
fn check_maps(
    model: &Model,
    device: &Arc<dyn Device>,
    tasks: &[Heads],
    form: Form,
    what: &str,
) -> (Vec<Box3d>, u64) {
    let mut decode = Decode::new(model, device);
    let mut cpu = nms::Nms::new(model);
    let mut gpu = cuda::nms::Nms::new(model, device).unwrap();
    let [_, surplus, non_finite] = decode.check(tasks, form, what);
    let candidates: &[Candidate] = decode.cpu.candidates();
    nms::suppress(model, candidates, &mut cpu);
    cuda::nms::suppress(&decode.gpu, &mut gpu).unwrap();
    let (totals, found, _) = gpu.download().unwrap();
    equal(&found, cpu.boxes(), what);
    let counters = [totals.surplus, totals.non_finite].map(u64::from);
    assert_eq!(counters, [surplus, non_finite], "{what}");
    (found, surplus)
}

/// Room for one candidate less than there are, for all of them, and for one more; around a chunk of boxes, too.
#[test]
fn candidates_around_their_cap_become_the_cpus_boxes() {
    for (seed, [width, height]) in [[16, 12], [8, 8]].into_iter().enumerate() {
        let device = emulation::device(seed as u64);
        let mut random = Random(seed as u64);
        let mut model = model_of(width, height);
        open(&mut model);
        model.decode.candidates = Candidates::BestClass;
        let tasks = maps(&model, &mut random, |r| r.uniform(-3.0, 3.0));
        let all = width * height;
        for cap in [all - 1, all, all + 1] {
            model.decode.max_candidates = cap;
            let what = format!("cap {cap} of {all}");
            let (found, surplus) = check_maps(&model, &device, &tasks, Form::Same, &what);
            assert_eq!(surplus, (all - cap.min(all)) as u64, "{what}");
            assert!(!found.is_empty() && found.len() < all, "{what}");
        }
    }
}

#[test]
fn the_demo_networks_maps_of_demo_frames() {
    check_real_heads(&REAL);
}

/// From the network's maps to boxes and counters on both sides, and in the detector itself.
pub(crate) fn check_real_heads((model, frames): &(Model, Vec<RealHeads>)) {
    let mut detector = Detector::load(&demo_plan(), &on_cpu(&Options::default())).unwrap();
    let mut total = 0;
    for (i, real) in frames.iter().enumerate() {
        let device = emulation::device(i as u64);
        for score in [0.3, 0.02] {
            let mut model = model.clone();
            model.decode.score = vec![vec![score; model.classes.len()]];
            model.decode.max_candidates = 300;
            let what = format!("{}, score {score}", real.frame.name);
            let tasks = std::slice::from_ref(&real.heads);
            let form = Form::Packed(Element::F32, 1);
            let (found, surplus) = check_maps(&model, &device, tasks, form, &what);
            total += found.len();
            if score == 0.3 && surplus == 0 {
                let detection = detector.detect(&real.frame.cloud).unwrap();
                equal(&found, detection.boxes, &format!("{what}, detector"));
            }
        }
    }
    assert!(total > 200, "only {total} boxes");
}
