//! Engines run the backbone-neck-head network, which turns a BEV map into head maps.
//!
//! The batch size is always 1. An engine keeps its maps in its own memory and layout; the stages before and after it
//! read and write them in place ([`MapMut`], [`MapRef`]).

pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod lazy;
mod reach;
pub(crate) mod tensorrt;

pub use tensorrt::TensorRtError;

use crate::cuda::{CudaError, DeviceMap};
use crate::map::{HeadMaps, Location, MapDesc, MapView, MapViewMut};
use crate::model::Model;
use crate::program::ProgramError;

/// A loaded network with its buffers.
///
/// For each frame, write [`Engine::input_map`], call [`Engine::run`], and read [`Engine::output_map`]. The input map
/// keeps its content from frame to frame; the engine never writes it. Maps never move.
pub trait Engine: Send {
    /// The network's input.
    fn input(&self) -> &MapDesc;
    /// The network's outputs, in the network's order.
    fn outputs(&self) -> &[MapDesc];
    /// The memory that holds the maps.
    fn location(&self) -> Location;
    /// The input map. Write only its elements: the memory between them, such as a border, belongs to the engine.
    fn input_map(&mut self) -> MapMut<'_>;
    /// Output `index` of [`Engine::outputs`], valid until the next [`Engine::run`].
    fn output_map(&self, index: usize) -> Option<MapRef<'_>>;
    /// Runs the network on the input. If the maps are on a device, this only enqueues work. A CUDA graph may record
    /// it, so the work must be the same for every frame. Allocates nothing.
    ///
    /// # Errors
    /// [`EngineError`]. If the maps are on a device, the device is unusable afterwards.
    fn run(&mut self) -> Result<(), EngineError>;
    /// Runs the network again on the same input, with the same outputs, and waits. Returns the time of each layer in
    /// execution order. Never recorded.
    ///
    /// # Errors
    /// The same as [`Engine::run`].
    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError>;
}

/// A writable map, in host memory or on a GPU.
#[derive(Debug)]
pub enum MapMut<'a> {
    /// In host memory.
    Host(MapViewMut<'a>),
    /// On a GPU.
    Device(DeviceMap),
}

impl<'a> MapMut<'a> {
    /// The map, if it is in host memory.
    pub fn host(self) -> Option<MapViewMut<'a>> {
        match self {
            Self::Host(map) => Some(map),
            Self::Device(_) => None,
        }
    }
}

/// A readable map, in host memory or on a GPU.
#[derive(Clone, Debug)]
pub enum MapRef<'a> {
    /// In host memory.
    Host(MapView<'a>),
    /// On a GPU.
    Device(DeviceMap),
}

impl<'a> MapRef<'a> {
    /// The map, if it is on a GPU.
    pub fn device(self) -> Option<DeviceMap> {
        match self {
            Self::Host(_) => None,
            Self::Device(map) => Some(map),
        }
    }

    /// The map, if it is in host memory.
    pub fn host(self) -> Option<MapView<'a>> {
        match self {
            Self::Host(map) => Some(map),
            Self::Device(_) => None,
        }
    }
}

/// The engine outputs that hold each task's head maps.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    /// Indices of engine outputs, by task.
    outputs: Vec<HeadMaps<usize>>,
}

impl Heads {
    /// Finds the head maps that `model` describes among the engine's outputs, and checks the sizes of all maps.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] if an output is missing or a map has another size.
    pub(crate) fn find(engine: &dyn Engine, model: &Model) -> Result<Self, EngineError> {
        check_input(engine, model)?;
        let (height, width) = model.head_size();
        let all = engine.outputs();
        let mut outputs = Vec::with_capacity(model.head.tasks.len());
        for task in &model.head.tasks {
            let wanted = task.outputs.each_ref().zip(model.head_channels(task));
            outputs.push(wanted.try_map(|(name, channels)| {
                let Some(index) = all.iter().position(|output| output.name == *name) else {
                    let names: Vec<&str> = all.iter().map(|o| o.name.as_str()).collect();
                    let names = names.join(" ");
                    return Err(mismatch(format!(
                        "no output `{name}`; the network has {names}"
                    )));
                };
                let (found, expected) = (all[index].shape(), [channels, height, width]);
                if found != expected {
                    return Err(mismatch(format!(
                        "output `{name}` is {found:?} (C, H, W), but the model description says {expected:?}"
                    )));
                }
                Ok(index)
            })?);
        }
        Ok(Self { outputs })
    }

    /// Number of tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.outputs.len()
    }

    /// A task's head maps. `engine` must be the one given to [`Heads::find`].
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] if there is no such task, or the engine lacks the output.
    pub(crate) fn maps<'a>(
        &self,
        engine: &'a dyn Engine,
        task: usize,
    ) -> Result<HeadMaps<MapRef<'a>>, EngineError> {
        let outputs = self.outputs.get(task).copied();
        let outputs = outputs.ok_or_else(|| mismatch(format!("no task {task}")))?;
        outputs.try_map(|index| {
            let map = engine.output_map(index);
            map.ok_or_else(|| mismatch(format!("the engine has no output {index}")))
        })
    }
}

/// Checks that the engine's input is the BEV map that `model` describes.
pub(crate) fn check_input(engine: &dyn Engine, model: &Model) -> Result<(), EngineError> {
    let input = engine.input();
    let expected = [model.bev_channels(), model.grid.ny, model.grid.nx];
    let found = input.shape();
    if found == expected {
        return Ok(());
    }
    Err(mismatch(format!(
        "input `{}` is {found:?} (C, H, W), but the model description says {expected:?}",
        input.name
    )))
}

fn mismatch(what: String) -> EngineError {
    EngineError::Mismatch { what }
}

/// The run time of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    /// Its name in the engine: the name of the network's node, or of several fused nodes.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

/// An error from building or running an engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The program or its weights are invalid.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A GPU failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The network does not match the model description.
    #[error("{what}")]
    Mismatch {
        /// The difference, with the values found and expected.
        what: String,
    },
    /// The feature maps exceed the engine's memory limit.
    #[error(
        "feature maps need {bytes} bytes, the limit is {limit}; use a smaller grid or fewer channels"
    )]
    Memory {
        /// Bytes needed.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The requested device cannot be used on this machine.
    #[error("device {device} is not available: {reason}")]
    Device {
        /// The requested device, such as `cuda`.
        device: String,
        /// The reason, and what to do.
        reason: String,
    },
}
