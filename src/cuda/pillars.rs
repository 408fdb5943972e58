//! Voxelisation on the device: [`crate::cpu::pillars`] by the kernels of `kernels/pillars.cu`, with the same pillars,
//! points and counters.

use std::sync::Arc;

use bytemuck::{NoUninit, Pod, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::input::{FrameHeader, Input, Sizes};
use crate::detection::Dropped;
use crate::model::Model;

/// Points of a block; `TILE` in the kernels.
const TILE: u32 = 512;
/// No point, no cell; `NONE` in the kernels.
const NONE: u32 = u32::MAX;

/// The mirror of `PillarsParams` in `kernels/pillars.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    frame: DevicePtr<FrameHeader>,
    first: DevicePtr<u32>,
    point_cells: DevicePtr<u32>,
    pillar_of_cell: DevicePtr<u32>,
    tile_firsts: DevicePtr<u32>,
    slots: DevicePtr<u32>,
    counts: DevicePtr<u32>,
    cells: DevicePtr<u32>,
    totals: DevicePtr<Totals>,
    min: [f32; 3],
    max: [f32; 3],
    /// Points from `ignore[0]` to `ignore[1]` are dropped; of no size if none are.
    ignore: [[f32; 3]; 2],
    voxel: [f32; 2],
    nx: u32,
    ny: u32,
    max_points: u32,
    max_pillars: u32,
    capacity: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 152);

// SAFETY: the addresses are those of the buffers of a `Pillars`, which `Pillars::new` allocates for the numbers
// beside them, and of an `Input` that `voxelize` borrows and that was made for the same model.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] = &["pillars_cells", "pillars_number", "pillars_fill"];
}

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
    _first: Buffer<u32>,
    _point_cells: Buffer<u32>,
    pillar_of_cell: Buffer<u32>,
    _tile_firsts: Buffer<u32>,
    slots: Buffer<u32>,
    counts: Buffer<u32>,
    cells: Buffer<u32>,
    totals: Buffer<Totals>,
    /// Everything but the address of the frame.
    params: Params,
    sizes: Sizes,
}

/// The pillars of one frame on the host: for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownloadedPillars {
    /// Cell of each pillar, `y · nx + x`.
    pub cells: Vec<u32>,
    /// Indices of the points that each pillar kept, in input order.
    pub points: Vec<Vec<u32>>,
    /// What voxelisation dropped: `non_finite`, `out_of_range`, `pillar_points` and `pillars`.
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
        let zeroed = |what, len| Buffer::<u32>::zeroed(device, what, len);
        let first = Buffer::new(device, "first points of cells", &vec![NONE; grid.cells()])?;
        let point_cells = zeroed("cells of points", capacity)?;
        let pillar_of_cell = zeroed("pillars of cells", grid.cells())?;
        let tile_firsts = zeroed("pillars of tiles", capacity.div_ceil(TILE as usize))?;
        let slots = zeroed(
            "points of pillars",
            grid.max_pillars * grid.max_points_per_pillar,
        )?;
        let counts = zeroed("points per pillar", grid.max_pillars)?;
        let cells = zeroed("cells of pillars", grid.max_pillars)?;
        let totals = Buffer::zeroed(device, "totals of pillars", 1)?;
        Ok(Self {
            params: Params {
                frame: DevicePtr::NULL,
                first: first.ptr(),
                point_cells: point_cells.ptr(),
                pillar_of_cell: pillar_of_cell.ptr(),
                tile_firsts: tile_firsts.ptr(),
                slots: slots.ptr(),
                counts: counts.ptr(),
                cells: cells.ptr(),
                totals: totals.ptr(),
                min: grid.min,
                max: grid.max,
                ignore: grid.ignore_box.unwrap_or_default(),
                voxel: [grid.voxel[0], grid.voxel[1]],
                nx: grid.nx as u32,
                ny: grid.ny as u32,
                max_points: grid.max_points_per_pillar as u32,
                max_pillars: grid.max_pillars as u32,
                capacity: capacity as u32,
                reserved: 0,
            },
            _first: first,
            _point_cells: point_cells,
            pillar_of_cell,
            _tile_firsts: tile_firsts,
            slots,
            counts,
            cells,
            totals,
            sizes: Sizes::new(model),
        })
    }

    /// Address of the number of pillars.
    pub(super) fn count(&self) -> DevicePtr<u32> {
        self.totals.ptr().cast()
    }

    /// The totals of the frame, one value.
    pub(super) fn totals(&self) -> &Buffer<Totals> {
        &self.totals
    }

    /// The cell of each pillar, `y · nx + x` (`[max_pillars]`).
    pub(super) fn cells_buffer(&self) -> &Buffer<u32> {
        &self.cells
    }

    /// Address of the cell of each pillar, `y · nx + x` (`[max_pillars]`).
    pub(super) fn cells(&self) -> DevicePtr<u32> {
        self.cells.ptr()
    }

    /// Address of the number of kept points of each pillar, 1 to `max_points_per_pillar` (`[max_pillars]`).
    pub(super) fn counts(&self) -> DevicePtr<u32> {
        self.counts.ptr()
    }

    /// Address of the points that each pillar kept, in input order (`[max_pillars][max_points_per_pillar]`);
    /// undefined past a pillar's count.
    pub(super) fn slots(&self) -> DevicePtr<u32> {
        self.slots.ptr()
    }

    /// Address of the pillar of each cell (`[ny · nx]`): valid if [`Pillars::cells`] of that pillar is the cell,
    /// undefined otherwise.
    pub(super) fn pillar_of_cell(&self) -> DevicePtr<u32> {
        self.pillar_of_cell.ptr()
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Reads the pillars back, and waits for them.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self) -> Result<DownloadedPillars, CudaError> {
        let totals = self.totals.download(1)?.first().copied();
        let totals = totals.unwrap_or(Totals::zeroed());
        let count = totals.pillars();
        let max_points = self.params.max_points as usize;
        let slots = self.slots.download(count * max_points)?;
        let counts = self.counts.download(count)?;
        let kept = slots.chunks_exact(max_points).zip(counts);
        Ok(DownloadedPillars {
            cells: self.cells.download(count)?,
            points: kept
                .map(|(slots, count)| slots.iter().copied().take(count as usize).collect())
                .collect(),
            dropped: totals.dropped(),
        })
    }
}

/// Finds the pillars of a frame.
///
/// # Errors
/// [`CudaError::Kernel`], also if `input` and `out` were made for different models.
pub fn voxelize(input: &Input, out: &mut Pillars) -> Result<(), CudaError> {
    out.sizes.check(input.sizes(), "pillars_cells")?;
    let params = Params {
        frame: input.header(),
        ..out.params
    };
    for kernel in Params::KERNELS {
        let shape = Launch::for_threads(kernel, params.capacity as usize, TILE);
        launch(&**out.totals.device(), &shape, &params)?;
    }
    Ok(())
}
