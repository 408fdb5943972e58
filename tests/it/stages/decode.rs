//! Decode: each rule, computed by hand.

use centerpoint::internals::cpu::decode::{Candidate, CandidateList, decode};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::model::{Candidates, Rotation, SizeOrder};
use centerpoint::{Model, Variances};

use super::heads::{DIM, HEATMAP, HEIGHT, Heads, REG, ROT, Storage, VEL};
use super::model;

fn run(model: &Model, heads: &Heads) -> CandidateList {
    let mut decoder = CandidateList::new(model);
    decoder.clear();
    decode(model, 0, &heads.maps(), &Pool::new(1), &mut decoder);
    decoder
}

/// Decodes one cell of `class` with the given values and logit 2.
fn single(model: &Model, class: usize, values: &[(usize, usize, f32)]) -> CandidateList {
    let mut heads = Heads::new(model, 0, Storage::Nchw);
    heads.set(HEATMAP, class, CELL, 2.0);
    heads.set(ROT, 1, CELL, 1.0);
    for &(kind, channel, value) in values {
        heads.set(kind, channel, CELL, value);
    }
    run(model, &heads)
}

/// Row 2, column 9 of 16.
const CELL: usize = 2 * 16 + 9;

#[test]
fn a_box_by_hand() {
    let mut model = model();
    (model.grid.min, model.grid.max) = ([-8.0, -6.0, -2.0], [8.0, 6.0, 2.0]);
    (model.grid.nx, model.grid.ny, model.head.downsample) = (32, 24, 2);
    assert_eq!(model.head_size(), (12, 16));
    let decoder = single(
        &model,
        1,
        &[
            (REG, 0, 0.25),
            (REG, 1, 0.75),
            (HEIGHT, 0, -0.5),
            (DIM, 0, 1.5),
            (DIM, 1, 0.5),
            (DIM, 2, 0.0),
            (ROT, 0, 0.5),
            (ROT, 1, 0.0),
            (VEL, 0, 3.0),
            (VEL, 1, -4.0),
        ],
    );
    let [
        Candidate {
            bbox, task, cell, ..
        },
    ] = decoder.candidates()
    else {
        panic!("{:?}", decoder.candidates());
    };
    assert_eq!((*task, *cell as usize), (0, CELL));
    // (9 + 0.25) · 2 · 0.5 − 8, (2 + 0.75) · 2 · 0.5 − 6; z is the gravity centre, unchanged.
    assert_eq!(bbox.center, [1.25, -3.25, -0.5]);
    assert_eq!(bbox.size, [1.5f64.exp() as f32, 0.5f64.exp() as f32, 1.0]);
    assert_eq!(bbox.yaw, std::f32::consts::FRAC_PI_2);
    assert_eq!(bbox.velocity, [3.0, -4.0]);
    assert_eq!((bbox.score, bbox.class), (0.880_797_1, 1));
}

/// Variances as Autoware's `generateBoxes3D_kernel` computes them.
#[test]
fn variances_by_hand() {
    let mut model = model();
    model.head.variance = true;
    (model.head.size_order, model.head.rotation) = (SizeOrder::Wlh, Rotation::NegCosNegSin);
    let cell = model.grid.voxel[0] * model.head.downsample as f32;
    let log = |variance: f64| variance.ln() as f32;
    let values = [
        (REG, 2, log(0.5)),
        (REG, 3, log(0.25)),
        (HEIGHT, 1, log(0.125)),
        (DIM, 3, log(0.1)),
        (DIM, 4, log(0.2)),
        (DIM, 5, log(0.3)),
        (ROT, 0, 0.6),
        (ROT, 1, -0.3),
        (ROT, 2, log(0.01)),
        (ROT, 3, log(0.04)),
        (VEL, 2, log(2.0)),
        (VEL, 3, log(3.0)),
    ];
    let decoder = single(&model, 0, &values);
    let found = decoder.candidates()[0].variances;
    // (0.3² · 0.01 + 0.6² · 0.04) / 0.45²
    let yaw = (0.09 * 0.01 + 0.36 * 0.04) / (0.45 * 0.45);
    // The second size channel is the length.
    let expected = Variances {
        center: [0.5 * cell, 0.25 * cell, 0.125],
        size: [0.2, 0.1, 0.3],
        yaw,
        velocity: [2.0, 3.0],
    };
    let words = bytemuck::cast::<_, [f32; 9]>;
    for (found, expected) in words(found).into_iter().zip(words(expected)) {
        assert!(
            (found - expected).abs() <= 1e-6 * expected,
            "{found} {expected}"
        );
    }

    for (kind, channel) in [(REG, 2), (HEIGHT, 1), (DIM, 4), (ROT, 3), (VEL, 3)] {
        // 1e3 is a logarithm whose variance is infinite.
        for bad in [f32::NAN, f32::NEG_INFINITY, 1e3] {
            let values = [&values[..], &[(kind, channel, bad)]].concat();
            let decoder = single(&model, 0, &values);
            assert_eq!((decoder.candidates().len(), decoder.non_finite()), (0, 1));
        }
    }
    model.head.variance = false;
    let found = single(&model, 0, &[]).candidates()[0].variances;
    assert_eq!(found, Variances::default());
}

#[test]
fn centres_outside_their_range_are_dropped() {
    let mut model = model();
    let center = single(&model, 0, &[]).candidates()[0].bbox.center;
    // Both bounds are inclusive.
    model.decode.center_range = [center, center];
    assert_eq!(single(&model, 0, &[]).candidates().len(), 1);
    for (kind, channel) in [(REG, 0), (REG, 1), (HEIGHT, 0)] {
        for value in [-0.01, 0.01] {
            let values = [(kind, channel, value)];
            let decoder = single(&model, 0, &values);
            assert_eq!((decoder.candidates().len(), decoder.non_finite()), (0, 0));
        }
    }
}

/// A 4 m × 2 m car driving along +x, and one along +y, as encoded by each training code.
#[test]
fn both_conventions_decode_to_the_same_car() {
    let (long, wide) = (4.0f32.ln(), 2.0f32.ln());
    let conventions = [
        (
            SizeOrder::Lwh,
            Rotation::SinCos,
            [long, wide],
            [[0.0, 1.0], [1.0, 0.0]],
        ),
        (
            SizeOrder::Wlh,
            Rotation::NegCosNegSin,
            [wide, long],
            [[-1.0, 0.0], [0.0, -1.0]],
        ),
    ];
    for (size_order, rotation, dim, rots) in conventions {
        let mut model = model();
        (model.head.size_order, model.head.rotation) = (size_order, rotation);
        for (rot, yaw) in rots.into_iter().zip([0.0, std::f32::consts::FRAC_PI_2]) {
            let values = [
                (DIM, 0, dim[0]),
                (DIM, 1, dim[1]),
                (ROT, 0, rot[0]),
                (ROT, 1, rot[1]),
            ];
            let decoder = single(&model, 0, &values);
            let bbox = decoder.candidates()[0].bbox;
            assert!(
                (bbox.size[0] - 4.0).abs() < 1e-6,
                "{rotation:?} {:?}",
                bbox.size
            );
            assert!(
                (bbox.size[1] - 2.0).abs() < 1e-6,
                "{rotation:?} {:?}",
                bbox.size
            );
            assert_eq!(bbox.yaw, yaw, "{rotation:?}");
            let front = bbox.corners()[0];
            let ahead = [front[0] - bbox.center[0], front[1] - bbox.center[1]];
            let along = ahead[0] * yaw.cos() + ahead[1] * yaw.sin();
            assert!(
                (along - 2.0).abs() < 1e-6,
                "{rotation:?}: the front is {along} m ahead"
            );
        }
    }
}

#[test]
fn yaw_is_above_minus_pi() {
    for sin in [0.0f32, -0.0, -1e-12, 1e-12] {
        let decoder = single(&model(), 0, &[(ROT, 0, sin), (ROT, 1, -1.0)]);
        assert_eq!(
            decoder.candidates()[0].bbox.yaw,
            std::f32::consts::PI,
            "sin {sin:?}"
        );
    }
}

#[test]
fn a_score_equal_to_the_threshold_passes() {
    let score = |logit: f32| (1.0 / (1.0 + f64::from(-logit).exp())) as f32;
    for logit in [-6.25f32, -1.0, 0.25, 0.7, 3.3, 7.0] {
        let mut model = model();
        model.decode.score = vec![vec![score(logit), 1.0, 1.0]];
        let found = |logit: f32| single(&model, 0, &[(HEATMAP, 0, logit)]).candidates().len();
        assert_eq!(found(logit), 1);
        let mut below = logit.next_down();
        while score(below) == score(logit) {
            assert_eq!(found(below), 1);
            below = below.next_down();
        }
        assert_eq!(found(below), 0, "{below} below {logit}");
    }
}

#[test]
fn bands_have_thresholds_by_class_and_a_limit() {
    let mut model = model();
    model.decode.bands = vec![1.0, 2.0];
    // Logit 2 is 0.88.
    model.decode.score = vec![vec![0.9, 0.5, 0.5], vec![0.8, 0.9, 0.5]];
    // Cell (8, 6) is at (0, 0) m; reg_x moves by 0.5 m per 1.
    let origin = 6 * 16 + 8;
    let found = |class: usize, metres: f32| {
        let mut heads = Heads::new(&model, 0, Storage::Nchw);
        heads.set(HEATMAP, class, origin, 2.0);
        heads.set(REG, 0, origin, metres / 0.5);
        run(&model, &heads).candidates().len()
    };
    for (class, expected) in [
        (0, [0, 0, 1, 1, 0]),
        (1, [1, 1, 0, 0, 0]),
        (2, [1, 1, 1, 1, 0]),
    ] {
        let distances = [0.0, 0.99, 1.0, -1.5, 2.0];
        assert_eq!(
            distances.map(|metres| found(class, metres)),
            expected,
            "class {class}"
        );
    }
}

#[test]
fn a_short_rotation_vector_drops_the_box() {
    let mut model = model();
    model.decode.yaw_norm = vec![0.5, 0.0, 0.5];
    let found = |class: usize, norm: f32| {
        let rot = [(ROT, 0, 0.6 * norm), (ROT, 1, 0.8 * norm)];
        single(&model, class, &rot).candidates().len()
    };
    assert_eq!([found(0, 0.51), found(0, 0.49), found(1, 0.0)], [1, 0, 1]);
    let exact = single(&model, 0, &[(ROT, 0, 0.5), (ROT, 1, 0.0)]);
    assert_eq!(exact.candidates().len(), 1);
}

#[test]
fn the_first_of_equal_classes_wins_a_cell() {
    let mut model = model();
    for (logits, expected) in [
        ([2.0, 2.0, 1.0], 0),
        ([1.0, 2.0, 2.0], 1),
        ([0.0, 1.0, 2.0], 2),
    ] {
        let set: Vec<_> = (0..3).map(|c| (HEATMAP, c, logits[c])).collect();
        let decoder = single(&model, 0, &set);
        assert_eq!(decoder.candidates().len(), 1);
        assert_eq!(decoder.candidates()[0].bbox.class, expected);
    }
    // If its best class fails, a cell has no candidate, even if another class would pass.
    model.decode.score = vec![vec![0.9, 0.1, 0.1]];
    let set = [(HEATMAP, 0, 2.0), (HEATMAP, 1, 1.0)];
    assert_eq!(single(&model, 0, &set).candidates().len(), 0);
    model.decode.candidates = Candidates::ClassCell;
    assert_eq!(single(&model, 0, &set).candidates()[0].bbox.class, 1);
}

#[test]
fn a_non_finite_value_only_drops_its_candidate() {
    let model = model();
    let values = [
        (HEATMAP, 3),
        (REG, 2),
        (HEIGHT, 1),
        (DIM, 3),
        (ROT, 2),
        (VEL, 2),
    ];
    for (kind, channels) in values {
        for channel in 0..channels {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut heads = Heads::new(&model, 0, Storage::Nhwc);
                for cell in [CELL, CELL + 5] {
                    heads.set(HEATMAP, 0, cell, 2.0);
                    heads.set(ROT, 1, cell, 1.0);
                }
                heads.set(kind, channel, CELL, bad);
                let decoder = run(&model, &heads);
                let left: Vec<u32> = decoder.candidates().iter().map(|c| c.cell).collect();
                let case = format!("{bad} in channel {channel} of output {kind}");
                if (kind, channel, bad) == (HEATMAP, 0, f32::NEG_INFINITY) {
                    // Logit −∞ is score 0: no candidate.
                    assert_eq!(
                        (left, decoder.non_finite()),
                        (vec![CELL as u32 + 5], 0),
                        "{case}"
                    );
                } else {
                    assert_eq!(
                        (left, decoder.non_finite()),
                        (vec![CELL as u32 + 5], 1),
                        "{case}"
                    );
                }
            }
        }
    }
    let overflow = single(&model, 0, &[(DIM, 1, 89.0)]);
    assert_eq!((overflow.candidates().len(), overflow.non_finite()), (0, 1));
    // A NaN in a cell without a candidate has no effect.
    let mut heads = Heads::new(&model, 0, Storage::Nchw);
    heads.set(DIM, 0, CELL, f32::NAN);
    assert_eq!(run(&model, &heads).non_finite(), 0);
}

#[test]
fn the_best_candidates_remain_at_the_limit() {
    let mut model = model();
    let (height, width) = model.head_size();
    // All scores differ; the best 10, 191 or all of 191 shuffled cells remain.
    let mut heads = Heads::new(&model, 0, Storage::Nchw);
    let cells = height * width - 1;
    for i in 0..cells {
        heads.set(HEATMAP, 0, i * 50 % cells, 4.0 - i as f32 * 0.01);
    }
    for cap in [1, 10, cells - 1, cells, cells + 1] {
        model.decode.max_candidates = cap;
        let decoder = run(&model, &heads);
        let kept = cap.min(cells);
        let found: Vec<usize> = decoder
            .candidates()
            .iter()
            .map(|c| c.cell as usize)
            .collect();
        let expected: Vec<usize> = (0..kept).map(|i| i * 50 % cells).collect();
        assert_eq!(found, expected, "cap {cap}");
        assert_eq!(decoder.surplus(), (cells - kept) as u64);
    }
    // Equal scores: the first cells remain.
    (0..cells).for_each(|cell| heads.set(HEATMAP, 0, cell, 1.0));
    model.decode.max_candidates = 10;
    let decoder = run(&model, &heads);
    let found: Vec<u32> = decoder.candidates().iter().map(|c| c.cell).collect();
    assert_eq!(found, (0..10).collect::<Vec<u32>>());
}
