//! Suppression: overlaps with known areas, rules by hand, and naive references over random sets.

use std::f32::consts::{FRAC_PI_2, FRAC_PI_4, PI};

use centerpoint::internals::boxes::BevRect;
use centerpoint::internals::cpu::decode::Candidate;
use centerpoint::internals::cpu::nms::{Nms, remap, suppress};
use centerpoint::model::{NmsKind, NmsStep, Remap, Suppressors};
use centerpoint::{Box3d, Model, Variances};
use proptest::prelude::*;

use super::{Random, model};

pub(crate) fn rect(x: f32, y: f32, length: f32, width: f32, yaw: f32) -> Box3d {
    Box3d {
        center: [x, y, 0.0],
        size: [length, width, 1.5],
        yaw,
        velocity: [0.0; 2],
        score: 0.5,
        class: 0,
    }
}

fn iou(a: &Box3d, b: &Box3d) -> f32 {
    BevRect::new(a).iou(&BevRect::new(b))
}

/// Candidates from `boxes`, with descending scores.
pub(crate) fn candidates(boxes: &[Box3d]) -> Vec<Candidate> {
    boxes
        .iter()
        .enumerate()
        .map(|(i, bbox)| Candidate {
            bbox: Box3d {
                score: 1.0 - i as f32 / 4096.0,
                ..*bbox
            },
            task: 0,
            cell: i as u32,
            // Tells which candidate a variance belongs to.
            variances: Variances {
                yaw: i as f32,
                ..Variances::default()
            },
        })
        .collect()
}

/// The positions of the kept boxes.
fn kept(model: &Model, boxes: &[Box3d]) -> Vec<usize> {
    let candidates = candidates(boxes);
    let mut nms = Nms::new(model);
    suppress(model, &candidates, &mut nms);
    let position = |bbox: &Box3d| candidates.iter().position(|c| c.bbox.score == bbox.score);
    let kept: Vec<usize> = nms
        .boxes()
        .iter()
        .map(|bbox| position(bbox).unwrap())
        .collect();
    assert!(nms.variances().is_empty());
    // Variances stay with their boxes.
    let mut model = model.clone();
    model.head.variance = true;
    let mut nms = Nms::new(&model);
    suppress(&model, &candidates, &mut nms);
    let variances = nms.variances().iter();
    assert_eq!(variances.map(|v| v.yaw as usize).collect::<Vec<_>>(), kept);
    kept
}

pub(crate) fn with_steps(steps: Vec<NmsStep>) -> Model {
    let mut model = model();
    model.nms = steps;
    model
}

pub(crate) fn circle(radius: [f32; 3], group: [usize; 3], max_boxes: usize) -> NmsStep {
    NmsStep {
        kind: NmsKind::Circle {
            radius: radius.to_vec(),
        },
        suppressors: Suppressors::Kept,
        group: group.to_vec(),
        max_boxes,
    }
}

pub(crate) fn iou_step(threshold: f32, search_distance: f32, group: [usize; 3]) -> NmsStep {
    NmsStep {
        kind: NmsKind::Iou {
            threshold,
            search_distance,
        },
        suppressors: Suppressors::Kept,
        group: group.to_vec(),
        max_boxes: usize::MAX,
    }
}

/// The step with suppressors as in Autoware's IoU step.
pub(crate) fn all_suppress(step: NmsStep) -> NmsStep {
    NmsStep {
        suppressors: Suppressors::All,
        ..step
    }
}

#[test]
fn overlaps_with_known_areas() {
    let octagon = 2.0 * (2f32.sqrt() - 1.0);
    let cases = [
        (
            "identical",
            rect(0.0, 0.0, 4.0, 2.0, 0.3),
            rect(0.0, 0.0, 4.0, 2.0, 0.3),
            1.0,
        ),
        (
            "turned around",
            rect(0.0, 0.0, 4.0, 2.0, 0.3),
            rect(0.0, 0.0, 4.0, 2.0, 0.3 - PI),
            1.0,
        ),
        (
            "length for width",
            rect(0.0, 0.0, 4.0, 2.0, 0.0),
            rect(0.0, 0.0, 2.0, 4.0, FRAC_PI_2),
            1.0,
        ),
        (
            "cross",
            rect(0.0, 0.0, 4.0, 2.0, 0.7),
            rect(0.0, 0.0, 4.0, 2.0, 0.7 + FRAC_PI_2),
            4.0 / 12.0,
        ),
        (
            "contained",
            rect(1.0, 1.0, 8.0, 4.0, 0.1),
            rect(1.5, 1.0, 2.0, 1.0, 1.2),
            2.0 / 32.0,
        ),
        (
            "half a step",
            rect(0.0, 0.0, 2.0, 1.0, 0.0),
            rect(1.0, 0.0, 2.0, 1.0, 0.0),
            1.0 / 3.0,
        ),
        (
            "corner",
            rect(0.0, 0.0, 2.0, 2.0, 0.0),
            rect(1.0, 1.0, 2.0, 2.0, 0.0),
            1.0 / 7.0,
        ),
        (
            "octagon",
            rect(0.0, 0.0, 1.0, 1.0, 0.0),
            rect(0.0, 0.0, 1.0, 1.0, FRAC_PI_4),
            octagon / (2.0 - octagon),
        ),
        // A corner of a rotated square reaches 0.5 into the side: a triangle of area 0.25.
        (
            "tip",
            rect(0.0, 0.0, 2.0, 2.0, 0.0),
            rect(0.5 + 2f32.sqrt(), 0.0, 2.0, 2.0, FRAC_PI_4),
            0.25 / 7.75,
        ),
        (
            "touching",
            rect(0.0, 0.0, 2.0, 2.0, 0.0),
            rect(2.0, 0.0, 2.0, 2.0, 0.0),
            0.0,
        ),
        (
            "disjoint",
            rect(0.0, 0.0, 2.0, 2.0, 0.4),
            rect(5.0, 1.0, 2.0, 2.0, 1.4),
            0.0,
        ),
    ];
    for (name, a, b, expected) in cases {
        for turn in [0.0f32, 0.5, 2.0, -3.0] {
            // The same pair, rotated and moved far from the origin.
            let moved = |bbox: &Box3d| {
                let (s, c) = turn.sin_cos();
                let [x, y, _] = bbox.center;
                rect(
                    100.0 + c * x - s * y,
                    -80.0 + s * x + c * y,
                    bbox.size[0],
                    bbox.size[1],
                    bbox.yaw + turn,
                )
            };
            let (a, b) = (moved(&a), moved(&b));
            assert!(
                (iou(&a, &b) - expected).abs() < 5e-5,
                "{name}: {} not {expected}",
                iou(&a, &b)
            );
            assert!(
                (iou(&b, &a) - expected).abs() < 5e-5,
                "{name}, swapped: {}",
                iou(&b, &a)
            );
        }
    }
}

#[test]
fn degenerate_boxes_overlap_nothing() {
    let normal = rect(0.0, 0.0, 4.0, 2.0, 0.3);
    for (length, width) in [
        (0.0, 0.0),
        (4.0, 0.0),
        (0.0, 2.0),
        (1e-30, 1e-30),
        (f32::MAX, f32::MAX),
    ] {
        let odd = rect(0.0, 0.0, length, width, 1.0);
        for (a, b) in [(&normal, &odd), (&odd, &normal), (&odd, &odd)] {
            let iou = iou(a, b);
            assert!(iou == 0.0, "{length} × {width}: {iou}");
        }
    }
    // A sliver of 1 µm inside keeps its ratio.
    let sliver = rect(0.5, 0.0, 2.0, 1e-6, 0.3);
    assert!((iou(&normal, &sliver) / (2e-6 / 8.0) - 1.0).abs() < 1e-3);
}

/// Whether a point lies in a box's BEV rectangle, by definition in f64.
fn holds(bbox: &Box3d, point: [f64; 2]) -> bool {
    let (s, c) = f64::from(bbox.yaw).sin_cos();
    let [dx, dy] = [0, 1].map(|axis| point[axis] - f64::from(bbox.center[axis]));
    (c * dx + s * dy).abs() <= f64::from(bbox.size[0]) / 2.0
        && (c * dy - s * dx).abs() <= f64::from(bbox.size[1]) / 2.0
}

/// IoU from counting points of an 800 × 800 grid over both boxes.
fn counted_iou(a: &Box3d, b: &Box3d) -> f64 {
    let reach = |bbox: &Box3d| f64::from(bbox.size[0].hypot(bbox.size[1])) / 2.0;
    let span = |axis: usize| {
        let [p, q] = [a, b].map(|bbox| (f64::from(bbox.center[axis]), reach(bbox)));
        ((p.0 - p.1).min(q.0 - q.1), (p.0 + p.1).max(q.0 + q.1))
    };
    let ((x0, x1), (y0, y1)) = (span(0), span(1));
    let (mut both, mut any) = (0u32, 0u32);
    for i in 0..800 * 800 {
        let u = (f64::from(i % 800) + 0.5) / 800.0;
        let v = (f64::from(i / 800) + 0.5) / 800.0;
        let point = [x0 + u * (x1 - x0), y0 + v * (y1 - y0)];
        let (in_a, in_b) = (holds(a, point), holds(b, point));
        both += u32::from(in_a && in_b);
        any += u32::from(in_a || in_b);
    }
    f64::from(both) / f64::from(any)
}

#[test]
fn random_overlaps_equal_counted_ones() {
    let mut random = Random(17);
    let mut overlapping = 0;
    for case in 0..60 {
        let mut draw = || {
            rect(
                random.uniform(-2.0, 2.0) + 60.0,
                random.uniform(-2.0, 2.0) - 60.0,
                random.uniform(0.3, 6.0),
                random.uniform(0.3, 3.0),
                random.uniform(-PI, PI),
            )
        };
        let (a, b) = (draw(), draw());
        let (found, expected) = (f64::from(iou(&a, &b)), counted_iou(&a, &b));
        overlapping += u32::from(expected > 0.02);
        assert!(
            (found - expected).abs() < 4e-3,
            "{case}: {found} not {expected}: {a:?} {b:?}"
        );
    }
    assert!(overlapping > 20, "only {overlapping} pairs overlap");
}

#[test]
fn circles_are_strict_and_use_the_class_of_the_kept_box() {
    let radius = [2.0, 0.5, 1.0];
    let at = |x: f32, class: u32| Box3d {
        class,
        ..rect(x, 0.0, 1.0, 1.0, 0.0)
    };
    let all = with_steps(vec![circle(radius, [0, 0, 0], usize::MAX)]);
    // A distance of exactly the radius does not suppress (mmdetection3d's circle_nms would).
    assert_eq!(kept(&all, &[at(0.0, 0), at(2.0, 0)]), [0, 1]);
    assert_eq!(kept(&all, &[at(0.0, 0), at(2.0f32.next_down(), 0)]), [0]);
    // The radius is that of the kept box, not of the suppressed one.
    assert_eq!(kept(&all, &[at(0.0, 0), at(1.0, 1)]), [0]);
    assert_eq!(kept(&all, &[at(0.0, 1), at(1.0, 0)]), [0, 1]);
    // Suppressed boxes suppress nothing: 0 suppresses 1, so 2 stays.
    assert_eq!(kept(&all, &[at(0.0, 0), at(1.5, 0), at(3.0, 0)]), [0, 2]);
    // Groups are independent.
    let groups = with_steps(vec![circle(radius, [0, 1, 0], usize::MAX)]);
    assert_eq!(kept(&groups, &[at(0.0, 0), at(0.1, 1), at(0.2, 2)]), [0, 1]);
    // The limit applies to each group.
    let capped = with_steps(vec![circle(radius, [0, 1, 0], 2)]);
    let row: Vec<Box3d> = (0..9).map(|i| at(10.0 * i as f32, i % 3)).collect();
    assert_eq!(kept(&capped, &row), [0, 1, 2, 4]);
}

#[test]
fn iou_applies_within_the_search_distance() {
    let model = |threshold, distance| with_steps(vec![iou_step(threshold, distance, [0, 0, 0])]);
    let (a, b) = (rect(0.0, 0.0, 2.0, 1.0, 0.0), rect(1.0, 0.0, 2.0, 1.0, 0.0));
    let overlap = iou(&a, &b);
    assert_eq!(kept(&model(overlap, f32::INFINITY), &[a, b]), [0, 1]);
    assert_eq!(
        kept(&model(overlap.next_down(), f32::INFINITY), &[a, b]),
        [0]
    );
    assert_eq!(kept(&model(0.1, 1.0), &[a, b]), [0]);
    assert_eq!(kept(&model(0.1, 1.0f32.next_down()), &[a, b]), [0, 1]);
}

#[test]
fn a_search_distance_of_0_compares_boxes_at_the_same_centre() {
    let model = with_steps(vec![iou_step(0.2, 0.0, [0, 0, 0])]);
    let at = |x: f32| rect(x, 0.0, 4.0, 2.0, 0.0);
    assert_eq!(kept(&model, &[at(0.0), at(0.0), at(1e-3)]), [0, 2]);
}

/// The case of Autoware's test `PreservesLegacySuppressionBehavior`: cars in a row, each overlapping the next by a third.
#[test]
fn suppressed_boxes_suppress_others_where_the_step_says_so() {
    let greedy = iou_step(0.2, 10.0, [0, 0, 1]);
    let all = all_suppress(greedy.clone());
    let at = |x: f32, class: u32| Box3d {
        class,
        ..rect(x, 0.0, 2.0, 2.0, 0.0)
    };
    let chain = [at(0.0, 0), at(1.0, 0), at(2.0, 1)];
    assert_eq!(kept(&with_steps(vec![greedy]), &chain), [0, 2]);
    assert_eq!(kept(&with_steps(vec![all.clone()]), &chain), [0]);
    // Only within the group, and only within the step: the circle step has removed the middle one.
    let other = [at(0.0, 0), at(1.0, 2), at(2.0, 0)];
    assert_eq!(kept(&with_steps(vec![all.clone()]), &other), [0, 1, 2]);
    let twice = with_steps(vec![circle([1.5, 0.0, 0.0], [0, 0, 1], usize::MAX), all]);
    assert_eq!(kept(&twice, &chain), [0, 2]);
    // A circle step may have the rule, too; a group is full of kept boxes only.
    let circles = |suppressors| NmsStep {
        suppressors,
        ..circle([1.5; 3], [0, 0, 0], 2)
    };
    let row: Vec<Box3d> = [0.0, 1.0, 2.0, 4.0, 8.0].map(|x| at(x, 0)).into();
    assert_eq!(
        kept(&with_steps(vec![circles(Suppressors::Kept)]), &row),
        [0, 2]
    );
    assert_eq!(
        kept(&with_steps(vec![circles(Suppressors::All)]), &row),
        [0, 3]
    );
}

/// Autoware's two steps: two trucks pass the circle step but not the IoU step.
#[test]
fn steps_run_in_order_on_the_remaining_boxes() {
    let model = with_steps(vec![
        circle([0.5; 3], [0, 0, 0], usize::MAX),
        iou_step(0.1, 10.0, [0, 0, 1]),
    ]);
    let person = |x: f32| Box3d {
        class: 2,
        ..rect(x, 0.0, 0.6, 0.6, 0.0)
    };
    let boxes = [
        rect(0.0, 0.0, 8.0, 3.0, 0.0),
        rect(0.4, 0.0, 8.0, 3.0, 0.0),
        rect(2.0, 0.0, 8.0, 3.0, 0.0),
        person(3.0),
        rect(20.0, 0.0, 8.0, 3.0, 0.0),
    ];
    assert_eq!(kept(&model, &boxes), [0, 3, 4]);
    assert_eq!(kept(&with_steps(vec![]), &boxes), [0, 1, 2, 3, 4]);
}

#[test]
fn classes_change_once_and_after_suppression() {
    let rule = |from, to, min_area, max_area| Remap {
        from,
        to,
        min_area,
        max_area,
    };
    // The first matching rule applies; a box changed to 1 does not change again to 2.
    let rules = [
        rule(0, 1, 8.0, 12.0),
        rule(0, 2, 8.0, f32::INFINITY),
        rule(1, 2, 0.0, f32::INFINITY),
    ];
    let areas = [8.0f32.next_down(), 8.0, 12.0, 12.0f32.next_up(), 1e30];
    let mut boxes = areas.map(|area| rect(0.0, 0.0, area, 1.0, 0.0));
    remap(&rules, &mut boxes);
    assert_eq!(boxes.map(|bbox| bbox.class), [0, 1, 1, 2, 2]);

    // Suppression by class sees a car and a truck, although both become trucks.
    let mut model = with_steps(vec![circle([2.0; 3], [0, 1, 2], usize::MAX)]);
    model.remap = rules[..1].to_vec();
    let truck = Box3d {
        class: 1,
        ..rect(0.1, 0.0, 8.0, 1.2, 0.0)
    };
    let mut nms = Nms::new(&model);
    suppress(
        &model,
        &candidates(&[rect(0.0, 0.0, 8.0, 1.2, 0.0), truck]),
        &mut nms,
    );
    assert_eq!(
        nms.boxes()
            .iter()
            .map(|bbox| bbox.class)
            .collect::<Vec<_>>(),
        [1, 1]
    );
}

/// mmdetection3d's `circle_nms` for one group and one class, with `<` for `≤`: boxes in descending order of
/// score; each box that is not suppressed is kept and suppresses later ones whose squared distance is below
/// `min_radius`; finally the list is truncated to `post_max_size`.
fn circle_nms(boxes: &[Box3d], min_radius: f32, post_max_size: usize) -> Vec<usize> {
    let mut suppressed = vec![false; boxes.len()];
    let mut keep = Vec::new();
    for i in 0..boxes.len() {
        if suppressed[i] {
            continue;
        }
        keep.push(i);
        for j in i + 1..boxes.len() {
            let [dx, dy] = [0, 1].map(|axis| boxes[i].center[axis] - boxes[j].center[axis]);
            suppressed[j] |= dx * dx + dy * dy < min_radius;
        }
    }
    keep.truncate(post_max_size);
    keep
}

/// Like [`circle_nms`] for IoU by definition in f64; `None` if a pair is too close to the threshold.
fn iou_nms(boxes: &[Box3d], threshold: f64) -> Option<Vec<usize>> {
    let mut keep: Vec<usize> = Vec::new();
    for (j, bbox) in boxes.iter().enumerate() {
        let ious: Vec<f64> = keep.iter().map(|&i| counted_iou(&boxes[i], bbox)).collect();
        if ious.iter().any(|iou| (iou - threshold).abs() < 6e-3) {
            return None;
        }
        if ious.iter().all(|&iou| iou <= threshold) {
            keep.push(j);
        }
    }
    Some(keep)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn circles_equal_the_reference(seed in any::<u64>(), n in 0usize..200, max in 1usize..40) {
        let mut random = Random(seed);
        let radius = random.uniform(0.1, 3.0);
        let model = with_steps(vec![circle([radius; 3], [0, 0, 0], max)]);
        let boxes: Vec<Box3d> = (0..n)
            .map(|_| Box3d {
                class: random.below(3) as u32,
                ..rect(random.uniform(-9.0, 9.0), random.uniform(-9.0, 9.0), 1.0, 1.0, 0.0)
            })
            .collect();
        prop_assert_eq!(kept(&model, &boxes), circle_nms(&boxes, radius * radius, max));
    }
}

#[test]
fn iou_suppression_equals_the_reference() {
    let mut random = Random(23);
    let mut compared = 0;
    for _ in 0..12 {
        let model = with_steps(vec![iou_step(0.2, f32::INFINITY, [0, 0, 0])]);
        let boxes: Vec<Box3d> = (0..8)
            .map(|_| {
                let (x, y) = (random.uniform(-4.0, 4.0), random.uniform(-4.0, 4.0));
                let (l, w) = (random.uniform(2.0, 6.0), random.uniform(1.0, 3.0));
                rect(x, y, l, w, random.uniform(-PI, PI))
            })
            .collect();
        if let Some(expected) = iou_nms(&boxes, 0.2) {
            assert_eq!(kept(&model, &boxes), expected);
            compared += 1;
        }
    }
    assert!(
        compared >= 6,
        "only {compared} sets were clear of the threshold"
    );
}
