//! Voxelisation: assigns the points of a cloud to pillars.
//!
//! A pillar is a BEV cell with at least one point. The stage is deterministic, like mmcv's
//! `deterministic=True`: pillars are numbered in the order of their first points, and a pillar keeps its first
//! points in input order. Points are stored as indices into the cloud, which saves a dense `[pillars, points,
//! columns]` buffer, and only the cells used by the last frame are cleared.
//!
//! Metres, all arithmetic in f32: a point is kept if `min ≤ p < max` on each axis. Its cell is `floor((p − min)
//! / size)`, clamped to the grid because the division can round up (76.799995 with size 0.32 and min −76.8
//! gives column 480 of 480).

use crate::detection::Dropped;
use crate::model::Grid;

/// Marks a cell without a pillar.
const EMPTY: u32 = u32::MAX;
/// Leading columns of every point row: x, y, z.
const XYZ: usize = 3;

/// The pillars of a frame, and the buffers of the stage. Allocated once, for a [`Grid`].
#[derive(Clone, Debug)]
pub struct Pillars {
    /// Cell of each pillar, `y · nx + x`.
    cells: Vec<u32>,
    /// Number of kept points of each pillar.
    counts: Vec<u32>,
    /// Indices of the kept points, `[max_pillars][max_points]`.
    slots: Vec<u32>,
    /// Pillar of each cell, or [`EMPTY`].
    pillar_of_cell: Vec<u32>,
    max_points: usize,
    max_pillars: usize,
    dropped: Dropped,
}

impl Pillars {
    /// Creates buffers for `grid`; nothing is allocated later.
    pub fn new(grid: &Grid) -> Self {
        Self {
            cells: Vec::with_capacity(grid.max_pillars),
            counts: Vec::with_capacity(grid.max_pillars),
            slots: vec![0; grid.max_pillars * grid.max_points_per_pillar],
            pillar_of_cell: vec![EMPTY; grid.cells()],
            max_points: grid.max_points_per_pillar,
            max_pillars: grid.max_pillars,
            dropped: Dropped::default(),
        }
    }

    /// Number of pillars.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are no pillars.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Cell of each pillar, `y · nx + x`.
    pub fn cells(&self) -> &[u32] {
        &self.cells
    }

    /// Number of kept points of each pillar, 1 to `max_points_per_pillar`.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Indices of the kept points of `pillar`, in input order.
    ///
    /// # Panics
    /// If `pillar` is not below [`Pillars::len`].
    pub fn points(&self, pillar: usize) -> &[u32] {
        let start = pillar * self.max_points;
        &self.slots[start..start + self.counts[pillar] as usize]
    }

    /// The losses of this stage: `non_finite`, `out_of_range`, `pillar_points` and `pillars`.
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    fn clear(&mut self) {
        for &cell in &self.cells {
            self.pillar_of_cell[cell as usize] = EMPTY;
        }
        self.cells.clear();
        self.counts.clear();
        self.dropped = Dropped::default();
    }
}

/// Finds the pillars of `points`, whose rows of `stride` values start with x, y, z; an incomplete last row is
/// ignored. `grid` is the one that `out` was created for.
///
/// Rows with a NaN or infinity in any column are dropped.
pub fn voxelize(points: &[f32], stride: usize, grid: &Grid, out: &mut Pillars) {
    debug_assert!(stride >= XYZ);
    debug_assert_eq!(out.pillar_of_cell.len(), grid.cells());
    out.clear();
    let (last_x, last_y) = (grid.nx - 1, grid.ny - 1);
    for (index, point) in points.chunks_exact(stride).enumerate() {
        if !point.iter().all(|value| value.is_finite()) {
            out.dropped.non_finite += 1;
            continue;
        }
        let within = |min: &[f32; 3], max: &[f32; 3]| {
            (0..XYZ).all(|axis| min[axis] <= point[axis] && point[axis] < max[axis])
        };
        let ignored = |[min, max]: &[[f32; 3]; 2]| within(min, max);
        if !within(&grid.min, &grid.max) || grid.ignore_box.as_ref().is_some_and(ignored) {
            out.dropped.out_of_range += 1;
            continue;
        }
        // The conversion to an integer truncates, which equals floor because p − min ≥ 0.
        let x = ((point[0] - grid.min[0]) / grid.voxel[0]) as usize;
        let y = ((point[1] - grid.min[1]) / grid.voxel[1]) as usize;
        let cell = y.min(last_y) * grid.nx + x.min(last_x);
        let mut pillar = out.pillar_of_cell[cell];
        if pillar == EMPTY {
            if out.cells.len() == out.max_pillars {
                out.dropped.pillars += 1;
                continue;
            }
            pillar = out.cells.len() as u32;
            out.pillar_of_cell[cell] = pillar;
            out.cells.push(cell as u32);
            out.counts.push(0);
        }
        let pillar = pillar as usize;
        let count = out.counts[pillar] as usize;
        if count == out.max_points {
            out.dropped.pillar_points += 1;
            continue;
        }
        out.slots[pillar * out.max_points + count] = index as u32;
        out.counts[pillar] += 1;
    }
}
