//! Voxelisation on the device: [`crate::cpu::pillars`] by the kernels of `kernels/pillars.cu`, with the same
//! pillars, points and counters.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::{Buffer, CudaError, Device, Input, Launch};
use crate::detection::Dropped;
use crate::model::Model;

/// Points of a block; `TILE` in the kernels.
const TILE: u32 = 512;
/// No point, no cell: `NONE` in the kernels.
const NONE: u32 = u32::MAX;

/// The mirror of `PillarsParams` in `kernels/pillars.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Params {
    frame: u64,
    first: u64,
    point_cells: u64,
    pillar_of_cell: u64,
    tile_firsts: u64,
    slots: u64,
    counts: u64,
    cells: u64,
    totals: u64,
    min: [f32; 3],
    max: [f32; 3],
    voxel: [f32; 2],
    nx: u32,
    ny: u32,
    max_points: u32,
    max_pillars: u32,
    capacity: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 128);

/// The mirror of `Totals` in `kernels/pillars.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Totals {
    pillars: u32,
    dropped: [u32; 4],
    found: [u32; 2],
    reserved: u32,
}

const _: () = assert!(size_of::<Totals>() == 32);

impl Totals {
    /// Number of pillars.
    pub(super) fn pillars(&self) -> usize {
        self.pillars as usize
    }

    /// `non_finite`, `out_of_range`, `pillar_points` and `pillars`.
    pub(super) fn dropped(&self) -> Dropped {
        let [non_finite, out_of_range, pillar_points, pillars] = self.dropped.map(u64::from);
        Dropped {
            non_finite,
            out_of_range,
            pillar_points,
            pillars,
            ..Dropped::default()
        }
    }
}

/// The pillars of one frame on the device, and the buffers to find them. Allocated once.
#[derive(Debug)]
pub struct Pillars {
    first: Buffer<u32>,
    point_cells: Buffer<u32>,
    pillar_of_cell: Buffer<u32>,
    tile_firsts: Buffer<u32>,
    slots: Buffer<u32>,
    counts: Buffer<u32>,
    cells: Buffer<u32>,
    totals: Buffer<Totals>,
    /// All but the address of the frame.
    params: Params,
}

/// The pillars of one frame, read back: for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Cell of each pillar, `y · nx + x`.
    pub cells: Vec<u32>,
    /// Indices of the points that each pillar kept, in input order.
    pub points: Vec<Vec<u32>>,
    /// What the frame lost here: `non_finite`, `out_of_range`, `pillar_points` and `pillars`.
    pub dropped: Dropped,
}

impl Pillars {
    /// Buffers for the model's grid and the capacity of its [`Input`].
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let grid = &model.grid;
        let capacity = model.points.capacity;
        let zeroed = |what, len| Buffer::zeroed(device, what, len);
        let mut pillars = Self {
            first: Buffer::new(device, "first points of cells", &vec![NONE; grid.cells()])?,
            point_cells: zeroed("cells of points", capacity)?,
            pillar_of_cell: zeroed("pillars of cells", grid.cells())?,
            tile_firsts: zeroed("pillars of tiles", capacity.div_ceil(TILE as usize))?,
            slots: zeroed(
                "points of pillars",
                grid.max_pillars * grid.max_points_per_pillar,
            )?,
            counts: zeroed("points per pillar", grid.max_pillars)?,
            cells: zeroed("cells of pillars", grid.max_pillars)?,
            totals: Buffer::zeroed(device, "totals of pillars", 1)?,
            params: Params::zeroed(),
        };
        pillars.params = Params {
            frame: 0,
            first: pillars.first.address(),
            point_cells: pillars.point_cells.address(),
            pillar_of_cell: pillars.pillar_of_cell.address(),
            tile_firsts: pillars.tile_firsts.address(),
            slots: pillars.slots.address(),
            counts: pillars.counts.address(),
            cells: pillars.cells.address(),
            totals: pillars.totals.address(),
            min: grid.min,
            max: grid.max,
            voxel: [grid.voxel[0], grid.voxel[1]],
            nx: grid.nx as u32,
            ny: grid.ny as u32,
            max_points: grid.max_points_per_pillar as u32,
            max_pillars: grid.max_pillars as u32,
            capacity: capacity as u32,
            reserved: 0,
        };
        Ok(pillars)
    }

    /// Address of the number of pillars (one u32).
    pub fn count(&self) -> u64 {
        self.totals.address()
    }

    /// Address of four u32 counters: `non_finite`, `out_of_range`, `pillar_points` and `pillars` of
    /// [`Dropped`].
    pub fn dropped(&self) -> u64 {
        self.totals.address() + size_of::<u32>() as u64
    }

    /// The totals of the frame, one value.
    pub(super) fn totals(&self) -> &Buffer<Totals> {
        &self.totals
    }

    /// What [`Pillars::cells`] is the address of.
    pub(super) fn cells_buffer(&self) -> &Buffer<u32> {
        &self.cells
    }

    /// Address of the cell of each pillar, `y · nx + x` (`[max_pillars]` u32).
    pub fn cells(&self) -> u64 {
        self.cells.address()
    }

    /// Address of the number of kept points of each pillar, 1 to `max_points_per_pillar` (`[max_pillars]`
    /// u32).
    pub fn counts(&self) -> u64 {
        self.counts.address()
    }

    /// Address of the points that each pillar kept, in input order (`[max_pillars][max_points_per_pillar]`
    /// u32); undefined past a pillar's count.
    pub fn slots(&self) -> u64 {
        self.slots.address()
    }

    /// Address of the pillar of each cell (`[ny · nx]` u32): right where [`Pillars::cells`] of that pillar
    /// is the cell, undefined elsewhere.
    pub fn pillar_of_cell(&self) -> u64 {
        self.pillar_of_cell.address()
    }

    /// Reads the pillars back, and waits for them.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self) -> Result<Found, CudaError> {
        let totals = self.totals.download(1)?.first().copied();
        let totals = totals.unwrap_or(Totals::zeroed());
        let count = totals.pillars();
        let max_points = self.params.max_points as usize;
        let slots = self.slots.download(count * max_points)?;
        let counts = self.counts.download(count)?;
        let kept = slots.chunks_exact(max_points).zip(counts);
        Ok(Found {
            cells: self.cells.download(count)?,
            points: kept
                .map(|(slots, count)| slots.iter().copied().take(count as usize).collect())
                .collect(),
            dropped: totals.dropped(),
        })
    }
}

/// Finds the pillars of a frame. `input` and `out` were made for one model.
///
/// # Errors
/// [`CudaError::Kernel`].
pub fn voxelize(input: &Input, out: &mut Pillars) -> Result<(), CudaError> {
    let params = Params {
        frame: input.address(),
        ..out.params
    };
    for kernel in ["pillars_cells", "pillars_number", "pillars_fill"] {
        let launch = Launch::of(kernel, params.capacity as usize, TILE);
        out.totals
            .device()
            .launch(&launch, bytemuck::bytes_of(&params))?;
    }
    Ok(())
}
