//! Decode against a naive reference, over random maps.

use centerpoint::internals::cpu::decode::{Candidate, CandidateList, decode};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::model::{Candidates, Rotation, SizeOrder, Task};
use centerpoint::{Model, Variances};
use proptest::prelude::*;

use super::heads::{DIM, HEATMAP, HEIGHT, Heads, REG, ROT, Storage, VEL};
use super::{Random, model};

/// Computes one candidate after the other, in f64 where it matters, and sorts at the end.
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
                // Logarithms of variances, in the order of the values.
                let logs = if model.head.variance {
                    [
                        v(REG, 2),
                        v(REG, 3),
                        v(HEIGHT, 1),
                        v(DIM, 3),
                        v(DIM, 4),
                        v(DIM, 5),
                        v(ROT, 2),
                        v(ROT, 3),
                        v(VEL, 2),
                        v(VEL, 3),
                    ]
                } else {
                    [0.0; 10]
                };
                let mut all = logits[c..=c].iter().chain(&values).chain(&logs);
                if !all.all(|v| v.is_finite()) {
                    non_finite += 1;
                    continue;
                }
                let [rx, ry, z, d0, d1, d2, r0, r1, vx, vy] = values;
                let meters = |i: usize, reg: f32, axis: usize| {
                    let size = model.head.downsample as f64 * f64::from(model.grid.voxel[axis]);
                    (i as f64 + f64::from(reg)) * size + f64::from(model.grid.min[axis])
                };
                let (x, y) = (meters(cell % width, rx, 0), meters(cell / width, ry, 1));
                let [least, greatest] = model.decode.center_range;
                let center = [x as f32, y as f32, z];
                if (0..3).any(|i| center[i] < least[i] || greatest[i] < center[i]) {
                    continue;
                }
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
                let variances = if model.head.variance {
                    let [rx, ry, z, d0, d1, d2, a, b, vx, vy] =
                        logs.map(|log| f64::from(log).exp());
                    let cell = |axis: usize| {
                        model.head.downsample as f64 * f64::from(model.grid.voxel[axis])
                    };
                    let (sin, cos) = (f64::from(r0), f64::from(r1));
                    let norm = (sin * sin + cos * cos).powi(2);
                    let [d0, d1, d2] = match model.head.size_order {
                        SizeOrder::Lwh => [d0, d1, d2],
                        SizeOrder::Wlh => [d1, d0, d2],
                    };
                    Variances {
                        center: [cell(0) * rx, cell(1) * ry, z].map(|v| v as f32),
                        size: [d0, d1, d2].map(|v| v as f32),
                        yaw: ((cos * cos * a + sin * sin * b) / norm) as f32,
                        velocity: [vx, vy].map(|v| v as f32),
                    }
                } else {
                    Variances::default()
                };
                found.push(Candidate {
                    variances,
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

/// Two tasks, two bands, variances, and values with many ties and a few that are not finite.
fn random_case(seed: u64, storage: Storage) -> (Model, Vec<Heads>) {
    let mut random = Random(seed);
    let model = random_head(&mut random, model());
    let tasks = random_maps(&mut random, &model, storage);
    (model, tasks)
}

/// Sets two tasks, two bands, and random conventions in `model`.
pub(crate) fn random_head(random: &mut Random, mut model: Model) -> Model {
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
        model.decode.center_range = [[-1.93, -2.51, -0.7], [3.17, 1.39, 0.9]];
    }
    if random.below(2) == 0 {
        model.head.size_order = SizeOrder::Wlh;
        model.head.rotation = Rotation::NegCosNegSin;
    }
    model
}

/// Maps of every task, with many tied logits and three values each that are not finite.
pub(crate) fn random_maps(random: &mut Random, model: &Model, storage: Storage) -> Vec<Heads> {
    let (height, width) = model.head_size();
    let mut tasks = Vec::new();
    for t in 0..model.head.tasks.len() {
        let mut heads = Heads::new(model, t, storage);
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
    tasks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn candidates_equal_the_reference(seed in any::<u64>(), nhwc in any::<bool>()) {
        let storage = if nhwc { Storage::Nhwc } else { Storage::Nchw };
        let (model, tasks) = random_case(seed, storage);
        let (expected, surplus, non_finite) = reference(&model, &tasks);
        let mut decoder = CandidateList::new(&model);
        // Twice with the same buffers and different numbers of threads.
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
            for (found, expected) in decoder.candidates().iter().zip(&expected) {
                let words = |c: &Candidate| bytemuck::cast::<_, [f32; 9]>(c.variances);
                let (found, expected) = (words(found), words(expected));
                for i in 0..9 {
                    prop_assert!((found[i] - expected[i]).abs() <= 1e-6 * expected[i].abs());
                }
            }
        }
    }
}
