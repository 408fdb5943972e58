//! Voxelisation on the device: the pillars, points and counters of the CPU stage, from the same clouds.

use std::sync::Arc;

use centerpoint::cuda::Device;
use centerpoint::internals::cpu::pillars as cpu;
use centerpoint::internals::cuda::pillars::{DownloadedPillars, Pillars, voxelize};
use centerpoint::internals::cuda::{Buffer, Input};
use centerpoint::points::SweepBuffer;
use centerpoint::{Dropped, Layout, Model, PointCloud};

use super::input::{random_cloud, random_model, random_sweeps};
use crate::common::repository;
use crate::emulation;
use crate::real::{RealFrame, demo_frames};
use crate::stages::{Random, model};

/// Points of a block of the kernels.
const TILE: usize = 512;

/// The stage on both sides, for several frames.
pub(crate) struct Stage {
    model: Model,
    input: Input,
    device: Pillars,
    cpu: cpu::Pillars,
}

impl Stage {
    fn new(model: Model, device: &Arc<dyn Device>) -> Self {
        Self {
            input: Input::new(&model, device).unwrap(),
            device: Pillars::new(&model, device).unwrap(),
            cpu: cpu::Pillars::new(&model.grid),
            model,
        }
    }

    /// The CPU stage's pillars of a cloud, and the number of points past the capacity.
    fn expected(&mut self, cloud: &PointCloud) -> (DownloadedPillars, usize) {
        let Model { points, grid, .. } = &self.model;
        let mut scratch = Vec::new();
        let selected = cloud.select(&points.columns, points.intensity_scale, &mut scratch);
        let stride = points.columns.len();
        let taken = cloud.len().min(points.capacity);
        let rows = &selected.unwrap().points[..taken * stride];
        cpu::voxelize(rows, stride, grid, &mut self.cpu);
        let found = DownloadedPillars {
            cells: self.cpu.cells().to_vec(),
            points: (0..self.cpu.len())
                .map(|pillar| self.cpu.points(pillar).to_vec())
                .collect(),
            dropped: *self.cpu.dropped(),
        };
        (found, cloud.len() - taken)
    }

    /// The device's pillars of the input's frame.
    fn found(&mut self) -> DownloadedPillars {
        voxelize(&self.input, &mut self.device).unwrap();
        self.device.download().unwrap()
    }

    /// Compares one sweep from the host.
    fn check(&mut self, cloud: &PointCloud, what: &str) -> DownloadedPillars {
        let (expected, beyond) = self.expected(cloud);
        let counted = self.input.set(cloud.data(), cloud.layout()).unwrap();
        assert_eq!(counted, beyond, "{what}");
        assert_eq!(self.found(), expected, "{what}");
        expected
    }

    /// Compares one sweep from the device's own memory.
    fn check_on_device(&mut self, cloud: &PointCloud, device: &Arc<dyn Device>, what: &str) {
        let (expected, beyond) = self.expected(cloud);
        let rows = Buffer::new(device, "rows", cloud.data()).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: the buffer holds the cloud's rows and lives until the pillars are found.
        let counted = unsafe {
            self.input
                .set_device(rows.ptr(), cloud.len(), cloud.layout())
        };
        assert_eq!(counted.unwrap(), beyond, "{what}");
        assert_eq!(self.found(), expected, "{what}");
    }

    /// Compares several sweeps.
    pub(crate) fn check_sweeps(&mut self, sweeps: &SweepBuffer, what: &str) -> DownloadedPillars {
        let mut cloud = PointCloud::empty(Layout::KITTI);
        let mut done = sweeps.accumulate(&mut cloud);
        let (expected, beyond) = self.expected(&cloud);
        done.points_over_capacity += beyond;
        assert_eq!(self.input.set_sweeps(sweeps).unwrap(), done, "{what}");
        assert_eq!(self.found(), expected, "{what}");
        expected
    }
}

/// A cloud in the small model's columns: these x, y, z and 0.5 for the rest.
fn cloud(points: impl IntoIterator<Item = [f32; 3]>) -> PointCloud {
    let rows = points.into_iter().flat_map(|[x, y, z]| [x, y, z, 0.5, 0.5]);
    PointCloud::new(Layout::XYZIT, rows.collect()).unwrap()
}

#[test]
fn random_frames_equal_the_cpu() {
    for case in 0..emulation::cases(160) as u64 {
        let device = emulation::device(case);
        let random = &mut Random(case);
        let (model, layout) = random_model(random);
        let mut stage = Stage::new(model, &device);
        // Several frames on the same buffers: none may affect the next.
        for frame in 0..4 {
            let what = &format!("case {case}, frame {frame}");
            match random.below(4) {
                0 => drop(stage.check(&random_cloud(random, layout), what)),
                1 => stage.check_on_device(&random_cloud(random, layout), &device, what),
                _ => drop(stage.check_sweeps(&random_sweeps(random, layout), what)),
            }
        }
    }
}

#[test]
fn pillars_are_capped_and_the_first_still_grow() {
    let cell = |i: usize| {
        let (x, y) = ((i % 16) as f32, (i / 16) as f32);
        [-3.9 + 0.5 * x, -2.9 + 0.5 * y, 0.0]
    };
    let cells = 60;
    for (seed, cap) in (0..9).zip([cells - 1, cells, cells + 1].into_iter().cycle()) {
        let device = emulation::device(seed);
        let mut model = model();
        model.grid.max_pillars = cap;
        let mut stage = Stage::new(model, &device);
        // From the last cell to the first, then twelve more points in each, over several tiles.
        let order = (0..cells).rev().chain((0..12 * cells).map(|i| i % cells));
        let cloud = cloud(order.map(cell));
        let kept = cap.min(cells);
        for _ in 0..2 {
            let found = stage.check(&cloud, "more points than a tile");
            assert_eq!(found.cells.len(), kept);
            let expected = Dropped {
                pillars: 13 * (cells - kept) as u64,
                pillar_points: 8 * kept as u64,
                ..Dropped::default()
            };
            assert_eq!(found.dropped, expected);
            // A frame whose cells were used before, though without a pillar.
            stage.check(&cloud_of_first(&cloud, cells + 5), "fewer points");
        }
    }
}

/// The first points of a cloud.
fn cloud_of_first(cloud: &PointCloud, n: usize) -> PointCloud {
    let data = cloud.data()[..n * cloud.layout().stride()].to_vec();
    PointCloud::new(cloud.layout(), data).unwrap()
}

#[test]
fn one_cell_keeps_its_first_points() {
    let cap = model().grid.max_points_per_pillar;
    for (seed, n) in [cap - 1, cap, cap + 1, 100_000, cap + 1, 100_000, 100_000]
        .into_iter()
        .enumerate()
    {
        let device = emulation::device(seed as u64);
        let mut stage = Stage::new(model(), &device);
        let found = stage.check(&cloud(vec![[0.1; 3]; n]), "one cell");
        let kept = n.min(cap);
        assert_eq!(found.points, [(0..kept as u32).collect::<Vec<_>>()]);
        assert_eq!(found.dropped.pillar_points, (n - kept) as u64);
    }
}

#[test]
fn frames_end_anywhere_in_a_tile_and_at_the_capacity() {
    for (seed, n) in [0, 1, TILE - 1, TILE, TILE + 1, 3 * TILE]
        .into_iter()
        .enumerate()
    {
        let points = (0..n + 1).map(|i| [-3.9 + (i % 17) as f32 * 0.47, 0.0, 0.0]);
        let cloud = cloud(points);
        for capacity in [n.max(2) - 1, n.max(1), n + 1] {
            let device = emulation::device(seed as u64);
            let mut model = model();
            model.points.capacity = capacity;
            let mut stage = Stage::new(model, &device);
            for points in [n, n + 1, n.min(1), 0] {
                let what = format!("{points} points, room for {capacity}");
                stage.check(&cloud_of_first(&cloud, points), &what);
            }
        }
    }
}

#[test]
fn points_outside_or_not_finite_are_dropped() {
    let device = emulation::device(1);
    let mut stage = Stage::new(model(), &device);
    let outside = stage.check(&cloud(vec![[9.0, 0.0, 0.0]; 1000]), "outside");
    assert_eq!(
        (outside.cells.len(), outside.dropped.out_of_range),
        (0, 1000)
    );
    for column in 0..5 {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut data = cloud(vec![[0.0; 3]; 3]).data().to_vec();
            data[5 + column] = bad;
            let cloud = PointCloud::new(Layout::XYZIT, data).unwrap();
            let found = stage.check(&cloud, "not finite");
            assert_eq!(found.points, [[0, 2]]);
            assert_eq!(found.dropped.non_finite, 1);
        }
    }
    let grid = model().grid;
    for axis in 0..3 {
        let (min, max) = (grid.min[axis], grid.max[axis]);
        for (value, found) in [
            (min, 1),
            (min.next_down(), 0),
            (max.next_down(), 1),
            (max, 0),
        ] {
            let mut point = [0.0; 3];
            point[axis] = value;
            let cells = stage.check(&cloud([point]), "at an edge").cells;
            assert_eq!(cells.len(), found);
        }
    }
}

#[test]
fn a_quotient_that_rounds_up_stays_in_the_last_cell() {
    let device = emulation::device(0);
    let mut model = model();
    set_autoware_grid(&mut model);
    let mut stage = Stage::new(model, &device);
    let edge = 76.799995f32;
    let found = stage.check(&cloud([[edge, 0.0, 0.0], [0.0, edge, 0.0]]), "edge");
    assert_eq!(found.cells, [240 * 480 + 479, 479 * 480 + 240]);
}

/// 480 × 480 cells of 0.32 m.
fn set_autoware_grid(model: &mut Model) {
    let grid = &mut model.grid;
    (grid.min, grid.max) = ([-76.8, -76.8, -3.0], [76.8, 76.8, 5.0]);
    (grid.voxel, grid.nx, grid.ny) = ([0.32, 0.32, 8.0], 480, 480);
    (grid.max_pillars, grid.max_points_per_pillar) = (40_000, 32);
}

/// The demo model, and one of 480 × 480 cells whose caps real frames reach.
fn real_models() -> [Model; 2] {
    let demo = Model::read(&repository().join("engines/demo/model.toml")).unwrap();
    let mut tight = demo.clone();
    set_autoware_grid(&mut tight);
    tight.grid.max_pillars = 6000;
    tight.grid.max_points_per_pillar = 8;
    [demo, tight]
}

/// Runs a check in eight schedules, four with each model.
pub(crate) fn under_schedules(check: impl Fn(&mut Stage)) {
    let models = real_models();
    for seed in 0..emulation::cases(8) {
        let device = emulation::device(seed as u64);
        let model = models[seed % models.len()].clone();
        check(&mut Stage::new(model, &device));
    }
}

/// Compares consecutive frames on the same buffers.
pub(crate) fn check_in_a_row(frames: &[RealFrame]) {
    under_schedules(|stage| {
        for frame in frames {
            stage.check(&frame.cloud, &frame.name);
        }
    });
}

#[test]
fn demo_frames_equal_the_cpu() {
    check_in_a_row(&demo_frames()[..4]);
}
