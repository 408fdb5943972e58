//! Pillar features on the device: the CPU stage's bytes for random models and clouds, at every cap, over several
//! frames on the same buffers, and for trained PFNs on real frames.

use std::sync::Arc;

use centerpoint::cuda::{CudaError, Device};
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::cuda::{self, Input};
use centerpoint::model::{Pfn, PfnError};
use centerpoint::points::SweepBuffer;
use centerpoint::{Column, Layout, Model, PointCloud};

use super::input::{random_cloud, random_model, random_sweeps};
use crate::emulation;
use crate::real::{RealFrame, demo_frames};
use crate::stages::features::random_pfn;
use crate::stages::{Random, model};

/// The stage on both sides, with buffers that serve several frames.
pub(crate) struct Sides {
    model: Model,
    cpu: (Pillars, Features),
    input: Input,
    pub(crate) gpu: (cuda::pillars::Pillars, cuda::features::Features),
    /// The expected content of the device's buffer: features of this frame, then leftovers of earlier ones.
    expected: Vec<f32>,
}

impl Sides {
    pub(crate) fn new(model: &Model, pfn: &Pfn, device: &Arc<dyn Device>) -> Self {
        let channels = model.bev_channels();
        Self {
            model: model.clone(),
            cpu: (
                Pillars::new(&model.grid),
                Features::new(model, pfn, 1).unwrap(),
            ),
            input: Input::new(model, device).unwrap(),
            gpu: (
                cuda::pillars::Pillars::new(model, device).unwrap(),
                cuda::features::Features::new(model, pfn, device).unwrap(),
            ),
            expected: vec![0.0; model.grid.max_pillars * channels],
        }
    }

    /// Compares a frame of one sweep.
    pub(crate) fn compare(&mut self, cloud: &PointCloud, what: &str) -> &Pillars {
        self.input.set(cloud.data(), cloud.layout()).unwrap();
        self.compare_input(cloud, what)
    }

    /// Compares a frame of several sweeps.
    fn compare_sweeps(&mut self, sweeps: &SweepBuffer, what: &str) -> &Pillars {
        let mut cloud = PointCloud::empty(Layout::XYZIT);
        sweeps.accumulate(&mut cloud);
        self.input.set_sweeps(sweeps).unwrap();
        self.compare_input(&cloud, what)
    }

    /// Runs `cloud` on the CPU and the input on the device, and compares the whole buffer.
    fn compare_input(&mut self, cloud: &PointCloud, what: &str) -> &Pillars {
        let points = &self.model.points;
        let stride = points.columns.len();
        let mut scratch = Vec::new();
        let selected = cloud.select(&points.columns, points.intensity_scale, &mut scratch);
        let taken = cloud.len().min(points.capacity);
        let selected = &selected.unwrap().points[..taken * stride];
        let (pillars, out) = &mut self.cpu;
        voxelize(selected, stride, &self.model.grid, pillars);
        features(
            selected,
            stride,
            pillars,
            &self.model.grid,
            &Pool::new(1),
            out,
        );
        self.expected[..out.values().len()].copy_from_slice(out.values());

        let (device_pillars, device_out) = &mut self.gpu;
        cuda::pillars::voxelize(&self.input, device_pillars).unwrap();
        cuda::features::features(&self.input, device_pillars, device_out).unwrap();
        assert_eq!(device_out.channels(), out.channels());
        let found = device_out.download(self.model.grid.max_pillars).unwrap();
        assert_eq!(found.len(), self.expected.len());
        let mut pairs = found.iter().zip(&self.expected);
        if let Some(at) = pairs.position(|(found, expected)| found.to_bits() != expected.to_bits())
        {
            let (pillar, channel) = (at / out.channels(), at % out.channels());
            panic!(
                "{what}: pillar {pillar} of {}, channel {channel}: {:?}, on the CPU {:?}; {:?}",
                pillars.len(),
                found[at],
                self.expected[at],
                self.model.pfn,
            );
        }
        pillars
    }
}

/// A random model with a random PFN: sizes that are multiples of the lanes or a chunk, and others.
fn random_pfn_model(random: &mut Random) -> (Model, Layout) {
    let (mut model, layout) = random_model(random);
    if random.below(8) == 0 {
        // No description has so many columns, but the kernels support them.
        let columns = 9 + random.below(8);
        let wanted = &mut model.points.columns;
        wanted.extend(std::iter::repeat_n(Column::Intensity, 16));
        wanted.truncate(columns);
    }
    model.points.capacity = model.points.capacity.min(600);
    let most = [4, 20, 40, 128][random.below(4)];
    model.grid.max_points_per_pillar = 1 + random.below(most);
    // A centre whose z is not 0.
    (model.grid.max[2], model.grid.voxel[2]) = (2.5, 4.5);
    model.pfn.mean_offset = random.below(2) == 0;
    model.pfn.center_axes = [0, 2, 3][random.below(3)];
    let widths = [1, 5, 8, 9, 16, 17, 20, 32, 33, 64];
    let layers = 1 + random.below(3);
    model.pfn.layers = (1..=layers)
        .map(|layer| match random.below(12) {
            0 => [66, 128, 200, 256][random.below(4)],
            _ => widths[random.below(widths.len())] * if layer < layers { 2 } else { 1 },
        })
        .collect();
    (model, layout)
}

#[test]
fn random_models_and_clouds() {
    let mut layers_seen = [0; 4];
    for case in 0..emulation::cases(160) as u64 {
        let device = emulation::device(case);
        let mut random = Random(case);
        let (model, layout) = random_pfn_model(&mut random);
        let mut pfn = random_pfn(&model, &mut random);
        if random.below(8) == 0 {
            // Sums that overflow to infinities, whose differences are NaN.
            let weights = pfn.layers.iter_mut().flat_map(|layer| &mut layer.weight);
            weights.for_each(|weight| *weight *= 1e30);
        }
        layers_seen[pfn.layers.len()] += 1;
        let mut sides = Sides::new(&model, &pfn, &device);
        // Later frames find the leftovers of earlier ones.
        for frame in 0..4 {
            let what = format!("case {case}, frame {frame}");
            if random.below(2) == 0 {
                sides.compare_sweeps(&random_sweeps(&mut random, layout), &what);
            } else {
                sides.compare(&random_cloud(&mut random, layout), &what);
            }
        }
    }
    assert!(layers_seen[1..].iter().all(|&n| n > 0), "{layers_seen:?}");
}

/// Pillars of `counts` points, one cell after the other.
fn pillars_of(model: &Model, random: &mut Random, counts: &[usize]) -> PointCloud {
    let mut data = Vec::new();
    for (pillar, &count) in counts.iter().enumerate() {
        let (x, y) = (pillar % model.grid.nx, pillar / model.grid.nx);
        for _ in 0..count {
            let within = |random: &mut Random| random.uniform(0.01, 0.49);
            data.push(model.grid.min[0] + x as f32 * 0.5 + within(random));
            data.push(model.grid.min[1] + y as f32 * 0.5 + within(random));
            data.extend([(); 3].map(|()| random.uniform(-1.0, 1.0)));
        }
    }
    PointCloud::new(Layout::XYZIT, data).unwrap()
}

#[test]
fn pillars_around_the_cap_of_points() {
    let caps = [1, 2, 3, 8, 9, 20, 31, 32, 33, 63, 64, 65, 128, 1000];
    for (seed, cap) in caps.into_iter().enumerate() {
        let layers = [
            vec![64],
            vec![32, 32],
            vec![64, 64],
            vec![64, 256],
            vec![32, 16, 32],
        ];
        for layers in layers.into_iter().skip(seed % 2) {
            let device = emulation::device(seed as u64);
            let mut random = Random(cap as u64);
            let mut model = model();
            model.grid.max_points_per_pillar = cap;
            model.points.capacity = 10_000;
            model.pfn.layers = layers;
            let pfn = random_pfn(&model, &mut random);
            let counts = [cap - 1, cap, cap + 1, 1, 2 * cap];
            let cloud = pillars_of(&model, &mut random, &counts);
            let mut sides = Sides::new(&model, &pfn, &device);
            let pillars = sides.compare(&cloud, &format!("cap {cap}"));
            let kept: Vec<u32> = (counts.iter().filter(|&&count| count > 0))
                .map(|&count| count.min(cap) as u32)
                .collect();
            assert_eq!(pillars.counts(), kept);
        }
    }
}

#[test]
fn as_many_pillars_as_fit() {
    for seed in 0..8 {
        let device = emulation::device(seed);
        let mut random = Random(seed);
        let mut model = model();
        // Not a multiple of the pillars of a block.
        model.grid.max_pillars = 131;
        model.points.capacity = 1000;
        model.pfn.layers = [vec![64], vec![64, 64]][seed as usize % 2].clone();
        let pfn = random_pfn(&model, &mut random);
        let mut sides = Sides::new(&model, &pfn, &device);
        for pillars in [131, 1, 130, 132, 0, 190] {
            let counts: Vec<usize> = (0..pillars).map(|_| 1 + random.below(5)).collect();
            let cloud = pillars_of(&model, &mut random, &counts);
            let found = sides.compare(&cloud, &format!("{pillars} pillars")).len();
            assert_eq!(found, pillars.min(131));
        }
    }
}

#[test]
fn the_demo_model_on_demo_frames() {
    check_demo_model(&demo_frames());
}

/// Compares both sides for the demo model, each frame under a schedule of its own and the first under eight more.
pub(crate) fn check_demo_model(frames: &[RealFrame]) {
    let path = crate::common::repository().join("engines/demo");
    let plan = centerpoint::Plan::open(&path.join("fp32.plan")).unwrap();
    let again = emulation::cases(8);
    let schedules = frames
        .iter()
        .zip(0..)
        .chain((0..again as u64).map(|i| (&frames[0], 100 + i)));
    for (frame, seed) in schedules.take(emulation::cases(100)) {
        let device = emulation::device(seed);
        let mut sides = Sides::new(plan.model(), plan.pfn(), &device);
        let pillars = sides.compare(&frame.cloud, &frame.name);
        assert!(
            pillars.len() > 2000,
            "{}: {} pillars",
            frame.name,
            pillars.len()
        );
    }
}

#[test]
fn unsupported_models_are_refused() {
    let device = emulation::device(0);
    let mut model = model();
    let pfn = random_pfn(&model, &mut Random(1));
    model.pfn.layers = vec![64];
    let foreign = cuda::features::Features::new(&model, &pfn, &device).unwrap_err();
    assert!(matches!(foreign, CudaError::Pfn(PfnError::Layers { .. })));
    for layers in [vec![2, 2, 2, 2], vec![20_000, 64]] {
        model.pfn.layers = layers;
        let pfn = random_pfn(&model, &mut Random(1));
        let error = cuda::features::Features::new(&model, &pfn, &device).unwrap_err();
        assert!(error.to_string().contains("pfn.layers"), "{error}");
    }
}
