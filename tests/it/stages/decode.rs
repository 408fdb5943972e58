//! Decode: each rule by hand, and a naive reference over random maps.

use centerpoint::Model;
use centerpoint::decode::{Candidate, Decoder, decode};
use centerpoint::engine::{MapLayout, MapView};
use centerpoint::model::{Candidates, Rotation, SizeOrder, Task};
use centerpoint::threads::Pool;
use proptest::prelude::*;

use super::{Random, model};

/// Outputs by kind.
const HEATMAP: usize = 0;
const REG: usize = 1;
const HEIGHT: usize = 2;
const DIM: usize = 3;
const ROT: usize = 4;
const VEL: usize = 5;

/// How the engine lays its outputs out.
#[derive(Clone, Copy, Debug)]
enum Storage {
    /// Each output dense.
    Nchw,
    /// All outputs side by side in one tensor, with a border of one cell.
    Nhwc,
}

/// The head maps of one task, in the storage of an engine.
struct Heads {
    data: Vec<f32>,
    layouts: [MapLayout; 6],
}

impl Heads {
    /// All values 0 but the logits, which are −9.
    fn new(model: &Model, task: usize, storage: Storage) -> Self {
        let (height, width) = model.head_size();
        let task = &model.head.tasks[task];
        let channels: [usize; 6] = std::array::from_fn(|kind| model.output_channels(task, kind));
        let all: usize = channels.iter().sum();
        let mut before = 0;
        let layouts = channels.map(|channels| {
            let dense = MapLayout::nchw(channels, height, width);
            let layout = match storage {
                Storage::Nchw => MapLayout {
                    offset: before * height * width,
                    ..dense
                },
                Storage::Nhwc => MapLayout {
                    offset: (width + 2) * all + all + before,
                    stride_c: 1,
                    stride_y: (width + 2) * all,
                    stride_x: all,
                    ..dense
                },
            };
            before += channels;
            layout
        });
        let mut heads = Self {
            data: vec![0.0; all * (height + 2) * (width + 2)],
            layouts,
        };
        for channel in 0..channels[HEATMAP] {
            for cell in 0..height * width {
                heads.set(HEATMAP, channel, cell, -9.0);
            }
        }
        heads
    }

    fn index(&self, kind: usize, channel: usize, cell: usize) -> usize {
        let layout = self.layouts[kind];
        layout.index(channel, cell / layout.width, cell % layout.width)
    }

    fn set(&mut self, kind: usize, channel: usize, cell: usize, value: f32) {
        let index = self.index(kind, channel, cell);
        self.data[index] = value;
    }

    fn get(&self, kind: usize, channel: usize, cell: usize) -> f32 {
        self.data[self.index(kind, channel, cell)]
    }

    fn maps(&self) -> [MapView<'_>; 6] {
        let data = &self.data;
        self.layouts.map(|layout| MapView { data, layout })
    }
}

fn run(model: &Model, heads: &Heads) -> Decoder {
    let mut decoder = Decoder::new(model);
    decoder.clear();
    decode(model, 0, &heads.maps(), &Pool::new(1), &mut decoder);
    decoder
}

/// Decodes one cell of `class` with the given values and logit 2.
fn single(model: &Model, class: usize, values: &[(usize, usize, f32)]) -> Decoder {
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
    let [Candidate { bbox, task, cell }] = decoder.candidates() else {
        panic!("{:?}", decoder.candidates());
    };
    assert_eq!((*task, *cell as usize), (0, CELL));
    // (9 + 0.25) · 2 · 0.5 − 8, (2 + 0.75) · 2 · 0.5 − 6; z is the gravity centre, untouched.
    assert_eq!(bbox.center, [1.25, -3.25, -0.5]);
    assert_eq!(bbox.size, [1.5f64.exp() as f32, 0.5f64.exp() as f32, 1.0]);
    assert_eq!(bbox.yaw, std::f32::consts::FRAC_PI_2);
    assert_eq!(bbox.velocity, [3.0, -4.0]);
    assert_eq!((bbox.score, bbox.class), (0.880_797_1, 1));
}

/// A car of 4 m × 2 m that drives along +x, and one along +y, as each training code encodes them.
#[test]
fn both_conventions_give_the_same_car() {
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
fn bands_have_thresholds_by_class_and_end() {
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
    // Its best class failing, a cell has no candidate, whatever its other classes would pass.
    model.decode.score = vec![vec![0.9, 0.1, 0.1]];
    let set = [(HEATMAP, 0, 2.0), (HEATMAP, 1, 1.0)];
    assert_eq!(single(&model, 0, &set).candidates().len(), 0);
    model.decode.candidates = Candidates::ClassCell;
    assert_eq!(single(&model, 0, &set).candidates()[0].bbox.class, 1);
}

#[test]
fn a_non_finite_value_costs_its_candidate_only() {
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
                    // Logit −∞ is score 0: nothing there.
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
    // A NaN where nothing is detected is nobody's business.
    let mut heads = Heads::new(&model, 0, Storage::Nchw);
    heads.set(DIM, 0, CELL, f32::NAN);
    assert_eq!(run(&model, &heads).non_finite(), 0);
}

#[test]
fn the_best_stay_when_the_cap_is_hit() {
    let mut model = model();
    let (height, width) = model.head_size();
    // All scores differ; of 191 shuffled cells the best 10, 191 or all stay.
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
    // Equal scores: the first cells stay.
    (0..cells).for_each(|cell| heads.set(HEATMAP, 0, cell, 1.0));
    model.decode.max_candidates = 10;
    let decoder = run(&model, &heads);
    let found: Vec<u32> = decoder.candidates().iter().map(|c| c.cell).collect();
    assert_eq!(found, (0..10).collect::<Vec<u32>>());
}

/// Everything in f64 where it matters, one candidate after the other, sorted at the end.
fn reference(model: &Model, tasks: &[Heads]) -> (Vec<Candidate>, u64, u64) {
    let (height, width) = model.head_size();
    let (mut all, mut surplus, mut non_finite) = (Vec::new(), 0, 0);
    for (t, heads) in tasks.iter().enumerate() {
        let classes = &model.head.tasks[t].classes;
        let mut found = Vec::new();
        for cell in 0..height * width {
            let logits: Vec<f32> = (0..classes.len())
                .map(|c| heads.get(HEATMAP, c, cell))
                .collect();
            let score = |c: usize| (1.0 / (1.0 + (-f64::from(logits[c])).exp())) as f32;
            let least = |c: usize| {
                model
                    .decode
                    .score
                    .iter()
                    .map(|band| band[classes[c]])
                    .fold(1.0, f32::min)
            };
            let considered: Vec<usize> = match model.decode.candidates {
                Candidates::ClassCell => (0..classes.len()).collect(),
                Candidates::BestClass => {
                    let any =
                        (0..classes.len()).any(|c| logits[c].is_nan() || score(c) >= least(c));
                    if any && logits.iter().any(|logit| !logit.is_finite()) {
                        non_finite += 1;
                        continue;
                    }
                    let best = (0..classes.len())
                        .rev()
                        .max_by(|&a, &b| logits[a].partial_cmp(&logits[b]).unwrap());
                    best.into_iter().collect()
                }
            };
            for c in considered {
                if score(c) < least(c) {
                    continue;
                }
                let class = classes[c];
                let v = |kind: usize, channel: usize| heads.get(kind, channel, cell);
                let values = [
                    v(REG, 0),
                    v(REG, 1),
                    v(HEIGHT, 0),
                    v(DIM, 0),
                    v(DIM, 1),
                    v(DIM, 2),
                    v(ROT, 0),
                    v(ROT, 1),
                    v(VEL, 0),
                    v(VEL, 1),
                ];
                if !logits[c].is_finite() || values.iter().any(|v| !v.is_finite()) {
                    non_finite += 1;
                    continue;
                }
                let [rx, ry, z, d0, d1, d2, r0, r1, vx, vy] = values;
                let meters = |i: usize, reg: f32, axis: usize| {
                    let size = model.head.downsample as f64 * f64::from(model.grid.voxel[axis]);
                    (i as f64 + f64::from(reg)) * size + f64::from(model.grid.min[axis])
                };
                let (x, y) = (meters(cell % width, rx, 0), meters(cell / width, ry, 1));
                let distance = x.hypot(y);
                let bands = &model.decode.bands;
                let Some(band) = bands.iter().position(|&b| distance < f64::from(b)) else {
                    continue;
                };
                if score(c) < model.decode.score[band][class]
                    || r0.hypot(r1) < model.decode.yaw_norm[class]
                {
                    continue;
                }
                let [d0, d1, d2] = [d0, d1, d2].map(|d| f64::from(d).exp() as f32);
                let size = match model.head.size_order {
                    SizeOrder::Lwh => [d0, d1, d2],
                    SizeOrder::Wlh => [d1, d0, d2],
                };
                let yaw = match model.head.rotation {
                    Rotation::SinCos => r0.atan2(r1),
                    Rotation::NegCosNegSin => (-r1).atan2(-r0),
                };
                found.push(Candidate {
                    bbox: centerpoint::Box3d {
                        center: [x as f32, y as f32, z],
                        size,
                        yaw,
                        velocity: [vx, vy],
                        score: score(c),
                        class: class as u32,
                    },
                    task: t as u32,
                    cell: cell as u32,
                });
            }
        }
        // Stable sorts from the least to the most important key.
        found.sort_by_key(|c| (c.cell, c.bbox.class));
        found.sort_by(|a, b| b.bbox.score.partial_cmp(&a.bbox.score).unwrap());
        surplus += found.len().saturating_sub(model.decode.max_candidates) as u64;
        found.truncate(model.decode.max_candidates);
        all.extend(found);
    }
    all.sort_by(|a, b| b.bbox.score.partial_cmp(&a.bbox.score).unwrap());
    (all, surplus, non_finite)
}

/// Two tasks, two bands, variances, and values that tie often and are now and then not finite.
fn random_case(seed: u64, storage: Storage) -> (Model, Vec<Heads>) {
    let mut random = Random(seed);
    let mut model = model();
    let outputs = model.head.tasks[0].outputs.clone();
    let task = |classes: Vec<usize>| Task {
        classes,
        outputs: outputs.clone(),
    };
    model.head.tasks = vec![task(vec![2]), task(vec![1, 0])];
    model.head.variance = random.below(2) == 0;
    model.decode.max_candidates = [5, 40, 1000][random.below(3)];
    model.decode.bands = vec![2.03, 4.47];
    model.decode.score = vec![vec![0.3, 0.5, 0.4], vec![0.6, 0.2, 0.4]];
    model.decode.yaw_norm = vec![0.3, 0.0, 0.6];
    if random.below(2) == 0 {
        model.decode.candidates = Candidates::ClassCell;
    }
    if random.below(2) == 0 {
        model.head.size_order = SizeOrder::Wlh;
        model.head.rotation = Rotation::NegCosNegSin;
    }
    let (height, width) = model.head_size();
    let mut tasks = Vec::new();
    for t in 0..2 {
        let mut heads = Heads::new(&model, t, storage);
        for kind in [HEATMAP, REG, HEIGHT, DIM, ROT, VEL] {
            for channel in 0..heads.layouts[kind].channels {
                for cell in 0..height * width {
                    let value = match kind {
                        HEATMAP => (random.uniform(-12.0, 6.0)).round() * 0.25,
                        REG => random.uniform(0.0, 1.0),
                        _ => random.uniform(-1.0, 1.0),
                    };
                    heads.set(kind, channel, cell, value);
                }
            }
            for _ in 0..3 {
                let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)];
                let channel = random.below(heads.layouts[kind].channels);
                heads.set(kind, channel, random.below(height * width), bad);
            }
        }
        tasks.push(heads);
    }
    (model, tasks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn candidates_equal_the_reference(seed in any::<u64>(), nhwc in any::<bool>()) {
        let storage = if nhwc { Storage::Nhwc } else { Storage::Nchw };
        let (model, tasks) = random_case(seed, storage);
        let (expected, surplus, non_finite) = reference(&model, &tasks);
        let mut decoder = Decoder::new(&model);
        // Twice with the same buffers, with another number of threads.
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            decoder.clear();
            for (t, heads) in tasks.iter().enumerate() {
                decode(&model, t, &heads.maps(), &pool, &mut decoder);
            }
            let rank = |c: &Candidate| (c.task, c.cell, c.bbox.class, c.bbox.score.to_bits());
            let found: Vec<_> = decoder.candidates().iter().map(rank).collect();
            prop_assert_eq!(found, expected.iter().map(rank).collect::<Vec<_>>());
            prop_assert_eq!(decoder.surplus(), surplus);
            prop_assert_eq!(decoder.non_finite(), non_finite);
            for (found, expected) in decoder.candidates().iter().zip(&expected) {
                let words = |c: &Candidate| bytemuck::cast::<_, [f32; 11]>(c.bbox);
                let (found, expected) = (words(found), words(expected));
                for i in 0..10 {
                    prop_assert!((found[i] - expected[i]).abs() < 2e-6 * expected[i].abs().max(1.0));
                }
            }
        }
    }
}
