//! Decode against the CPU stage, byte for byte: random maps in every type and layout, caps, ties, non-finite values,
//! many tasks, and the demo network's maps of real frames.

use std::sync::Arc;

use bytemuck::bytes_of;
use centerpoint::Model;
use centerpoint::cuda::{CudaError, Device, DeviceMap};
use centerpoint::internals::cpu::decode::{self, Candidate};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::cuda::{self, Buffer};
use centerpoint::map::{Element, HeadMaps, MapFormat};
use centerpoint::model::{Candidates, Task};

use super::head::{FORMS, Form, REAL, RealHeads, cut_to_half, upload};
use crate::emulation;
use crate::stages::decode_reference::{random_head, random_maps};
use crate::stages::heads::{DIM, HEATMAP, HEIGHT, Heads, REG, ROT, Storage, VEL};
use crate::stages::{Random, model};

/// The stage on both sides, for several frames.
pub(super) struct Stage {
    model: Model,
    device: Arc<dyn Device>,
    pool: Pool,
    pub(super) cpu: decode::CandidateList,
    pub(super) gpu: cuda::decode::CandidateList,
}

impl Stage {
    pub(super) fn new(model: &Model, device: &Arc<dyn Device>) -> Self {
        Self {
            model: model.clone(),
            device: device.clone(),
            pool: Pool::new(1),
            cpu: decode::CandidateList::new(model),
            gpu: cuda::decode::CandidateList::new(model, device).unwrap(),
        }
    }

    /// Decodes a frame on both sides. Returns the number of candidates and the two counters.
    pub(super) fn check(&mut self, tasks: &[Heads], form: Form, what: &str) -> [u64; 3] {
        self.cpu.clear();
        for (task, heads) in tasks.iter().enumerate() {
            let maps = heads.maps();
            decode::decode(&self.model, task, &maps, &self.pool, &mut self.cpu);
        }
        let maps: Vec<HeadMaps<DeviceMap>> = tasks
            .iter()
            .map(|heads| upload(&self.device, heads, form))
            .collect();
        cuda::decode::decode(&maps, &mut self.gpu).unwrap();
        let found = self.gpu.download().unwrap();
        let counters = [found.surplus, found.non_finite];
        let expected = [self.cpu.surplus(), self.cpu.non_finite()];
        assert_eq!(counters, expected, "{what}: surplus and non-finite");
        let count = self.cpu.candidates().len();
        assert_eq!(found.candidates.len(), count, "{what}: candidates");
        for (i, (found, expected)) in found
            .candidates
            .iter()
            .zip(self.cpu.candidates())
            .enumerate()
        {
            assert!(same(found, expected), "{what}: {i}: {found:?} {expected:?}");
        }
        [count as u64, counters[0], counters[1]]
    }
}

fn same(a: &Candidate, b: &Candidate) -> bool {
    let bytes = |c: &Candidate| [bytes_of(&c.bbox), bytes_of(&c.variances)].concat();
    (bytes(a), a.task, a.cell) == (bytes(b), b.task, b.cell)
}

/// The small model with a head of `width` × `height` cells around the origin.
pub(super) fn model_of(width: usize, height: usize) -> Model {
    let mut model = model();
    (model.grid.nx, model.grid.ny) = (width, height);
    (model.grid.min[0], model.grid.min[1]) = (-0.25 * width as f32, -0.25 * height as f32);
    model
}

/// Makes every finite candidate pass.
pub(super) fn open(model: &mut Model) {
    model.decode.bands = vec![f32::INFINITY];
    model.decode.score = vec![vec![0.0; model.classes.len()]];
    model.decode.yaw_norm.fill(0.0);
    model.decode.center_range = [[f32::NEG_INFINITY; 3], [f32::INFINITY; 3]];
}

/// Maps of every task with finite values; `logit` draws the logits.
pub(super) fn maps(
    model: &Model,
    random: &mut Random,
    logit: impl Fn(&mut Random) -> f32,
) -> Vec<Heads> {
    let mut tasks = random_maps(random, model, Storage::Nchw);
    for heads in &mut tasks {
        for value in heads.data.iter_mut().filter(|value| !value.is_finite()) {
            *value = 0.5;
        }
        for channel in 0..heads.layouts[HEATMAP].channels {
            for cell in 0..heads.layouts[HEATMAP].height * heads.layouts[HEATMAP].width {
                heads.set(HEATMAP, channel, cell, logit(random));
            }
        }
    }
    tasks
}

#[test]
fn random_maps_equal_the_cpu() {
    // Less than a warp's region, one cell more, regions that end within rows, a single row.
    const SIZES: [(usize, usize); 6] = [(16, 12), (16, 16), (257, 1), (40, 30), (1, 3), (61, 35)];
    let (mut candidates, mut surplus, mut non_finite) = (0, 0, 0);
    for case in 0..emulation::cases(120) {
        let device = emulation::device(case as u64);
        let mut random = Random(case as u64);
        let (width, height) = SIZES[random.below(SIZES.len())];
        let model = random_head(&mut random, model_of(width, height));
        let mut stage = Stage::new(&model, &device);
        // Several frames on the same buffers, some of them empty: none may affect the next.
        for frame in 0..3 {
            let storage = [Storage::Nchw, Storage::Nhwc][random.below(2)];
            let form = FORMS[random.below(FORMS.len())];
            let mut tasks = random_maps(&mut random, &model, storage);
            if random.below(6) == 0 {
                tasks = (0..2).map(|t| Heads::new(&model, t, storage)).collect();
            }
            if form.is_half() {
                tasks.iter_mut().for_each(cut_to_half);
            }
            let what = format!("case {case}, frame {frame}, {width} × {height}, {form:?}");
            let counts = stage.check(&tasks, form, &what);
            candidates += counts[0];
            surplus += counts[1];
            non_finite += counts[2];
        }
    }
    assert!(candidates > 0 && surplus > 0 && non_finite > 0);
}

#[test]
fn every_cell_may_pass_and_caps_hold() {
    let candidates = [Candidates::BestClass, Candidates::ClassCell];
    for (seed, candidates) in (0..8).zip(candidates.into_iter().cycle()) {
        let device = emulation::device(seed);
        let mut random = Random(seed);
        let mut model = model_of(40, 30);
        open(&mut model);
        model.decode.candidates = candidates;
        let all = 40 * 30 * [1, 3][usize::from(candidates == Candidates::ClassCell)];
        for cap in [1, 10, all - 1, all, all + 1] {
            model.decode.max_candidates = cap;
            let mut stage = Stage::new(&model, &device);
            // Scores that all tie, often tie, differ, and are mostly 0.
            let equal = maps(&model, &mut random, |_| 1.5);
            let some = maps(&model, &mut random, |r| (r.uniform(-9.0, 9.0)).round());
            let any = maps(&model, &mut random, |r| r.uniform(-9.0, 9.0));
            let tiny = maps(&model, &mut random, |r| r.uniform(-1e3, 1e3));
            let frames = [("equal", equal), ("some", some), ("any", any), ("0", tiny)];
            for (logits, tasks) in frames {
                let what = format!("seed {seed}, cap {cap} of {all}, {logits} logits");
                let found = stage.check(&tasks, Form::Same, &what);
                let kept = cap.min(all);
                assert_eq!(found, [kept as u64, (all - kept) as u64, 0], "{what}");
            }
        }
    }
}

/// Thousands of candidates in tasks of different sizes: more than a block sorts.
#[test]
fn many_candidates_are_ranked_over_all_tasks() {
    for seed in 0..emulation::cases(8) as u64 {
        let device = emulation::device(seed);
        let mut random = Random(seed);
        let mut model = random_head(&mut random, model_of(64, 48));
        open(&mut model);
        model.decode.max_candidates = [1024, 1500, 2500][random.below(3)];
        let mut stage = Stage::new(&model, &device);
        for (frame, least) in [-9.0, -2.0, 4.0].into_iter().enumerate() {
            let tasks = maps(&model, &mut random, |r| {
                (r.uniform(least, 5.0) * 64.0).round() / 64.0
            });
            let what = format!("seed {seed}, frame {frame}");
            assert!(stage.check(&tasks, Form::Same, &what)[0] > 2000, "{what}");
        }
    }
}

/// More tasks than fit into one launch, with classes in any order.
#[test]
fn eleven_tasks_equal_the_cpu() {
    let mut model = model_of(20, 15);
    let outputs = model.head.tasks[0].outputs.clone();
    model.classes = (0..14).map(|class| format!("class {class}")).collect();
    let mut classes: Vec<Vec<usize>> = (3..13).map(|class| vec![class]).collect();
    classes.insert(4, vec![2, 0, 13, 1]);
    let task = |classes| Task {
        classes,
        outputs: outputs.clone(),
    };
    model.head.tasks = classes.into_iter().map(task).collect();
    model.decode.score = vec![vec![0.4; 14]];
    model.decode.yaw_norm = vec![0.2; 14];
    model.nms.clear();
    for seed in 0..8 {
        let device = emulation::device(seed);
        let mut random = Random(seed);
        model.decode.candidates = [Candidates::BestClass, Candidates::ClassCell][seed as usize % 2];
        model.decode.max_candidates = [7, 50, 300][random.below(3)];
        let mut stage = Stage::new(&model, &device);
        for form in [Form::Same, Form::Packed(Element::F32, 4)] {
            let tasks = random_maps(&mut random, &model, Storage::Nhwc);
            let found = stage.check(&tasks, form, &format!("seed {seed}, {form:?}"));
            assert!(found[0] >= 77);
        }
    }
}

#[test]
fn non_finite_values_in_every_map_equal_the_cpu() {
    let values = [
        (HEATMAP, 3),
        (REG, 2),
        (HEIGHT, 1),
        (DIM, 3),
        (ROT, 2),
        (VEL, 2),
    ];
    let bad = [
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        1e-40,
        -0.0,
        88.722_84,
        88.722_9,
    ];
    for (seed, candidates) in [Candidates::BestClass, Candidates::ClassCell]
        .into_iter()
        .enumerate()
    {
        let device = emulation::device(seed as u64);
        for score in [0.25, 0.0] {
            let mut model = model();
            model.decode.candidates = candidates;
            model.decode.score = vec![vec![score; 3]];
            let mut stage = Stage::new(&model, &device);
            for (kind, channels) in values {
                for channel in 0..channels {
                    let mut tasks = vec![Heads::new(&model, 0, Storage::Nchw)];
                    for (i, &bad) in bad.iter().enumerate() {
                        for (class, cell) in [(0, 3 * i), (1, 3 * i + 1), (2, 3 * i + 120)] {
                            tasks[0].set(HEATMAP, class, cell, 2.0);
                            tasks[0].set(ROT, 1, cell, -1.0);
                            tasks[0].set(kind, channel, cell, bad);
                        }
                    }
                    let what = format!("output {kind}, channel {channel}, score {score}");
                    stage.check(&tasks, Form::Same, &what);
                }
            }
        }
    }
}

#[test]
fn unsuitable_maps_and_models_are_refused() {
    let device = emulation::device(0);
    let mut model = model();
    let mut stage = Stage::new(&model, &device);
    let heads = Heads::new(&model, 0, Storage::Nchw);
    let good = upload(&device, &heads, Form::Same);
    let mut refused = |maps: &[HeadMaps<DeviceMap>], words: &str| {
        let error = cuda::decode::decode(maps, &mut stage.gpu).unwrap_err();
        assert!(matches!(error, CudaError::Map { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(&[], "maps of 0 tasks for 1");
    refused(&[good.clone(), good.clone()], "maps of 2 tasks for 1");
    let kinds = good.into_array();
    // Large enough for any of these maps.
    let memory = Buffer::<f32>::zeroed(&device, "head map", 1 << 12).unwrap();
    let changed = |kind: usize, change: fn(&mut MapFormat)| {
        let mut format = *kinds[kind].format();
        change(&mut format);
        DeviceMap::new(&memory, format)
    };
    let with = |kind: usize, change: fn(&mut MapFormat)| {
        let mut maps = kinds.clone();
        maps[kind] = changed(kind, change).unwrap();
        [HeadMaps::from(maps)]
    };
    refused(
        &with(DIM, |m| m.element = Element::I8),
        "`dim`: it has 8-bit codes",
    );
    refused(
        &with(VEL, |m| m.layout.channels = 1),
        "`vel`: its size is [1, 12, 16]",
    );
    refused(
        &with(HEATMAP, |m| m.layout.channels = 2),
        "gives [3, 12, 16]",
    );
    refused(
        &with(REG, |m| m.layout.width = 15),
        "`reg`: its size is [2, 12, 15]",
    );
    let impossible = |kind: usize, change: fn(&mut MapFormat), words: &str| {
        let error = changed(kind, change).unwrap_err();
        assert!(matches!(error, CudaError::Map { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    impossible(ROT, |m| m.vector = 3, "3 channels side by side");
    impossible(
        HEIGHT,
        |m| m.layout.stride_y = 1 << 30,
        "its last element has index",
    );

    let limit = |model: &Model| {
        let error = cuda::decode::CandidateList::new(model, &device).unwrap_err();
        assert!(matches!(error, CudaError::Limit { .. }), "{error}");
        error.to_string()
    };
    model.decode.max_candidates = (1 << 24) + 1;
    assert!(limit(&model).contains("lower `decode.max_candidates`"));
    (model.grid.nx, model.grid.ny) = (1 << 16, 1 << 16);
    assert!(limit(&model).contains("12884901888 head cells times classes"));
}

#[test]
fn the_demo_networks_maps_of_demo_frames() {
    check_real_heads(&REAL);
}

/// Compares both sides on head maps, under eight schedules.
pub(crate) fn check_real_heads((model, frames): &(Model, Vec<RealHeads>)) {
    let mut total = 0;
    for seed in 0..emulation::cases(8) as u64 {
        let device = emulation::device(seed);
        // The plan's own score, a score with many candidates, and one with more than the cap.
        for (score, max_candidates) in [(0.3, 1000), (0.02, 1000), (0.02, 200)] {
            let mut model = model.clone();
            model.decode.score = vec![vec![score; model.classes.len()]];
            model.decode.max_candidates = max_candidates;
            let mut stage = Stage::new(&model, &device);
            for real in frames.iter().skip(seed as usize % 2).step_by(2) {
                let what = format!("{}, score {score}, seed {seed}", real.frame.name);
                let tasks = std::slice::from_ref(&real.heads);
                total += stage.check(tasks, Form::Packed(Element::F32, 1), &what)[0];
            }
        }
    }
    assert!(total > 1000, "only {total} candidates");
}
