//! Engines run the backbone-neck-head network: a BEV map in, head maps out.
//!
//! Batch is always 1. An engine keeps its maps in a layout of its own and in its own memory; the stages before and
//! after it read and write them in place ([`MapMut`], [`MapRef`]).

pub mod cpu;
pub mod tensorrt;

use crate::cuda::{CudaError, DeviceMap};
use crate::map::{HeadMaps, Location, MapDesc, MapView, MapViewMut};
use crate::model::Model;
use crate::program::ProgramError;

/// A loaded network with its buffers.
///
/// A frame writes [`Engine::input_map`] (its content persists from frame to frame; the engine never writes it), calls
/// [`Engine::run`], and reads [`Engine::output_map`]. Maps never move.
pub trait Engine: Send {
    /// The network's input.
    fn input(&self) -> &MapDesc;
    /// The network's outputs, in the network's order.
    fn outputs(&self) -> &[MapDesc];
    /// Where the maps lie.
    fn location(&self) -> Location;
    /// The input map, to be filled. Only its elements may be written: what lies between them, such as a border, is
    /// the engine's.
    fn input_map(&mut self) -> MapMut<'_>;
    /// Output `index` of [`Engine::outputs`], valid until the next [`Engine::run`].
    fn output_map(&self, index: usize) -> Option<MapRef<'_>>;
    /// Runs the network on the input. With maps on a device it only enqueues, which can be recorded, so it must be
    /// the same for every frame. Allocates nothing.
    ///
    /// # Errors
    /// [`EngineError`], after which a device is lost.
    fn run(&mut self) -> Result<(), EngineError>;
    /// Runs the network on the same input once more, with the same outputs, and waits; returns the time of each
    /// layer in the order in which they ran. Never recorded.
    ///
    /// # Errors
    /// As [`Engine::run`].
    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError>;
}

/// A map to write: in host memory, or on a GPU.
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

/// A map to read: in host memory, or on a GPU.
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

/// An engine's outputs that are the head maps of each task.
#[derive(Clone, Debug)]
pub struct Heads {
    /// Indices of the engine's outputs, by task.
    outputs: Vec<HeadMaps<usize>>,
}

impl Heads {
    /// Finds the maps that `model` describes among the engine's, and checks the sizes of all of them.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] for an output that is missing, or a map of another size.
    pub fn find(engine: &dyn Engine, model: &Model) -> Result<Self, EngineError> {
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
                        "output `{name}` is {found:?} (C, H, W), the model description gives {expected:?}"
                    )));
                }
                Ok(index)
            })?);
        }
        Ok(Self { outputs })
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.outputs.len()
    }

    /// The head maps of a task, from the engine that was searched.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] for a task or an output that another engine lacks.
    pub fn maps<'a>(
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

/// Checks that an engine reads the BEV map that `model` describes.
fn check_input(engine: &dyn Engine, model: &Model) -> Result<(), EngineError> {
    let input = engine.input();
    let expected = [model.bev_channels(), model.grid.ny, model.grid.nx];
    let found = input.shape();
    if found == expected {
        return Ok(());
    }
    Err(mismatch(format!(
        "the network reads `{}` of {found:?} (C, H, W), the model description gives {expected:?}",
        input.name
    )))
}

fn mismatch(what: String) -> EngineError {
    EngineError::Mismatch { what }
}

/// How long a layer of a network took.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    /// Its name in the engine: that of the network's node, or of several that became one.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

/// Why an engine could not be built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The program or its weights are invalid.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A GPU failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The network is not the one that the model describes.
    #[error("{what}")]
    Mismatch {
        /// What differs, with the values found and expected.
        what: String,
    },
    /// The network's feature maps are larger than an engine holds.
    #[error(
        "feature maps need {bytes} bytes, the limit is {limit}; use a smaller grid or fewer channels"
    )]
    Memory {
        /// Bytes needed.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The asked-for device cannot be used on this machine.
    #[error("device {device} is not available: {reason}")]
    Device {
        /// What was asked for, such as `cuda`.
        device: String,
        /// Why not, and what to do.
        reason: String,
    },
}
