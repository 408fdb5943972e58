//! Scatter on the device: [`crate::cpu::scatter`] by the kernel of `kernels/scatter.cu`, into a map of the
//! engine's own type and layout.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::map::MapParams;
use super::{Buffer, CudaError, Device, DeviceMap, Launch, Pillars};
use crate::model::Model;

/// Threads of a block; `BLOCK` in the kernel.
const BLOCK: u32 = 256;
/// Pillars of a block; `WARP` in the kernel.
const PILLARS_PER_BLOCK: usize = 32;
/// No cell: `NONE` in the kernel.
const NONE: u32 = u32::MAX;

/// The mirror of `ScatterParams` in `kernels/scatter.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Params {
    features: u64,
    cells: u64,
    count: u64,
    pillar_of_cell: u64,
    written: u64,
    map: MapParams,
    max_pillars: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 96);

/// The cells that hold values, which the next frame has to clear.
#[derive(Debug)]
pub struct Scatter {
    /// Cells of the last frame, [`NONE`] past them.
    written: Buffer<u32>,
    /// Channels, rows and columns of the map.
    size: [usize; 3],
}

impl Scatter {
    /// For a map of the model's size that is all zero.
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        Ok(Self {
            written: Buffer::new(device, "written cells", &vec![NONE; model.grid.max_pillars])?,
            size: [model.bev_channels(), model.grid.ny, model.grid.nx],
        })
    }

    /// Checks that a map has the model's size and that all of it is within reach of the kernel.
    fn check(&self, map: &DeviceMap) -> Result<(), CudaError> {
        let layout = &map.layout;
        let problem = |problem| {
            Err(CudaError::Map {
                map: "the network's input".into(),
                problem,
            })
        };
        let found = [layout.channels, layout.height, layout.width];
        if found != self.size {
            let wanted = self.size;
            return problem(format!(
                "it is {found:?} (C, H, W), the model description gives {wanted:?}"
            ));
        }
        map.problem().map_or(Ok(()), problem)
    }
}

/// Writes the features of each pillar at its cell, as the map stores values, and clears the cells of the
/// last frame. `features` is the address of `[max_pillars][channels]` f32.
///
/// `map` must be the one of the last call.
///
/// # Errors
/// [`CudaError::Map`] for a map of another size or of a layout that is not supported,
/// [`CudaError::Kernel`].
pub fn scatter(
    features: u64,
    pillars: &Pillars,
    state: &mut Scatter,
    map: &DeviceMap,
) -> Result<(), CudaError> {
    state.check(map)?;
    let max_pillars = state.written.len();
    let params = Params {
        features,
        cells: pillars.cells(),
        count: pillars.count(),
        pillar_of_cell: pillars.pillar_of_cell(),
        written: state.written.address(),
        map: map.params(),
        max_pillars: max_pillars as u32,
        reserved: 0,
    };
    let blocks = max_pillars.div_ceil(PILLARS_PER_BLOCK);
    let launch = Launch::of("scatter_write", blocks * BLOCK as usize, BLOCK);
    state
        .written
        .device()
        .launch(&launch, bytemuck::bytes_of(&params))
}
