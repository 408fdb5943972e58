//! Scatter on the device: [`crate::cpu::scatter`] by the kernel of `kernels/scatter.cu`, into a map of the engine's own
//! type and layout.

use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::input::Sizes;
use super::map::{DeviceMap, MapParams};
use super::pillars::Pillars;
use crate::model::Model;

/// Threads of a block; `BLOCK` in the kernel.
const BLOCK: u32 = 256;
/// Pillars of a block; `WARP` in the kernel.
const PILLARS_PER_BLOCK: usize = 32;
/// No cell; `NONE` in the kernel.
const NONE: u32 = u32::MAX;

/// The mirror of `ScatterParams` in `kernels/scatter.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    features: DevicePtr<f32>,
    cells: DevicePtr<u32>,
    count: DevicePtr<u32>,
    pillar_of_cell: DevicePtr<u32>,
    written: DevicePtr<u32>,
    map: MapParams,
    max_pillars: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 96);

// SAFETY: `scatter` takes the addresses from buffers that it borrows. It checks that the stages were made for one
// model and that the features have its size; the map is as large as the model's, inside its memory.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] = &["scatter_write"];
}

/// The cells that hold values, which the next frame has to clear.
#[derive(Debug)]
pub struct Scatter {
    /// Cells of the last frame, then [`NONE`].
    written: Buffer<u32>,
    /// Channels, rows and columns of the map.
    shape: [usize; 3],
    sizes: Sizes,
}

impl Scatter {
    /// For a map of the model's size that is all zero.
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        Ok(Self {
            written: Buffer::new(device, "written cells", &vec![NONE; model.grid.max_pillars])?,
            shape: [model.bev_channels(), model.grid.ny, model.grid.nx],
            sizes: Sizes::new(model),
        })
    }

    /// Checks that map and features have the model's sizes.
    fn check(&self, map: &DeviceMap, features: &Buffer<f32>) -> Result<(), CudaError> {
        let layout = &map.format().layout;
        let (found, expected) = ([layout.channels, layout.height, layout.width], self.shape);
        if found != expected {
            return Err(CudaError::Map {
                map: "the network's input".into(),
                problem: format!(
                    "its size is {found:?} (C, H, W), the model description gives {expected:?}"
                ),
            });
        }
        let (found, expected) = (features.len(), self.written.len() * self.shape[0]);
        if found != expected {
            return Err(CudaError::Kernel {
                kernel: "scatter_write".into(),
                reason: format!("it gets {found} features instead of {expected}"),
            });
        }
        Ok(())
    }
}

/// Writes the features of each pillar at its cell, in the map's type, and clears the cells of the last frame.
/// `features` is `[max_pillars][channels]`.
///
/// `map` must be the one of the last call.
///
/// # Errors
/// [`CudaError::Map`] if the map's size is not the model's; [`CudaError::Kernel`].
pub fn scatter(
    features: &Buffer<f32>,
    pillars: &Pillars,
    state: &mut Scatter,
    map: &DeviceMap,
) -> Result<(), CudaError> {
    state.check(map, features)?;
    state.sizes.check(pillars.sizes(), "scatter_write")?;
    let max_pillars = state.written.len();
    let params = Params {
        features: features.ptr(),
        cells: pillars.cells(),
        count: pillars.count(),
        pillar_of_cell: pillars.pillar_of_cell(),
        written: state.written.ptr(),
        map: map.params(),
        max_pillars: max_pillars as u32,
        reserved: 0,
    };
    let blocks = max_pillars.div_ceil(PILLARS_PER_BLOCK);
    let shape = Launch::for_threads("scatter_write", blocks * BLOCK as usize, BLOCK);
    launch(&**state.written.device(), &shape, &params)
}
