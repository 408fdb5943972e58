//! A TensorRT engine on the device: the counterpart of the CPU engine.
//!
//! All memory is on the device: a buffer for each input and output, and the scratch memory of the only execution context.
//! The context receives it once, before the first frame, and it never moves. A run is therefore one call, which a CUDA
//! graph can record.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::binding::{self, Bindings};
use super::runtime::{ExecutionContext, Runtime};
use super::{LoadRequest, TensorRtError};
use crate::cuda::{Buffer, CudaError, Device, DeviceMap, StreamWork};
use crate::engine::{EngineError, LayerTime, MapMut, MapRef};
use crate::map::{Location, MapDesc, MapFormat};

/// Name of the engine's work in device errors.
const WHAT: &str = "TensorRT engine";

/// An engine that is ready to run.
pub(super) struct Engine {
    bindings: Bindings,
    /// Descriptions of the outputs.
    descs: Vec<MapDesc>,
    state: Arc<RunState>,
    /// The memory of the input, then of the outputs.
    maps: Vec<DeviceMap>,
    work: StreamWork,
    device: Arc<dyn Device>,
}

/// Everything a run needs, shared with recorded work.
struct RunState {
    context: Mutex<ExecutionContext>,
}

impl Engine {
    /// Loads an engine, checks its inputs and outputs, and allocates its memory.
    ///
    /// # Errors
    /// [`TensorRtError::Load`], [`TensorRtError::Binding`], or [`TensorRtError::Cuda`] for device memory.
    pub(super) fn new(
        runtime: Runtime,
        request: &LoadRequest<'_>,
        device: &Arc<dyn Device>,
    ) -> Result<Self, TensorRtError> {
        // The library uses the thread's current CUDA context. This call makes the device's context current.
        let nothing: StreamWork = Arc::new(|_| Ok(()));
        device.enqueue(WHAT, &nothing)?;

        let engine = runtime.engine(request.path, request.plan, request.host_code)?;
        let (model, scale) = (request.model, request.input_scale);
        let bindings = binding::bind(request.path, &engine.tensors(), model, scale)?;
        let scratch = engine.scratch_bytes();
        let mut context = engine.context(request.path)?;

        // Allocate even if no bytes are needed: the library takes null for missing.
        context.set_scratch(Buffer::zeroed(device, "TensorRT scratch memory", scratch)?);
        let mut maps = Vec::new();
        let mut allocate = |name: &str, what, bytes, map: Option<MapFormat>| {
            let buffer = Buffer::<u8>::zeroed(device, what, bytes)?;
            if let Some(format) = map {
                maps.push(DeviceMap::new(&buffer, format)?);
            }
            let refused = |problem| TensorRtError::Binding {
                path: request.path.into(),
                tensor: name.into(),
                problem: format!("TensorRT refused its memory: {problem}"),
            };
            context.set_memory(name, buffer).map_err(refused)
        };
        let Bindings {
            input,
            outputs,
            others,
        } = &bindings;
        allocate(&input.desc.name, "BEV map", input.bytes, Some(input.map))?;
        for output in outputs {
            allocate(
                &output.desc.name,
                "head map",
                output.bytes,
                Some(output.map),
            )?;
        }
        for (name, bytes) in others {
            allocate(name, "an unused output", *bytes, None)?;
        }

        let state = Arc::new(RunState {
            context: Mutex::new(context),
        });
        let run = state.clone();
        Ok(Self {
            descs: bindings.outputs.iter().map(|o| o.desc.clone()).collect(),
            bindings,
            maps,
            work: Arc::new(move |stream| run.context().enqueue(stream).map_err(failed)),
            state,
            device: device.clone(),
        })
    }
}

impl RunState {
    fn context(&self) -> MutexGuard<'_, ExecutionContext> {
        self.context.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(reason: String) -> CudaError {
    CudaError::Engine { reason }
}

impl crate::engine::Engine for Engine {
    fn input(&self) -> &MapDesc {
        &self.bindings.input.desc
    }

    fn outputs(&self) -> &[MapDesc] {
        &self.descs
    }

    fn location(&self) -> Location {
        Location::Device
    }

    fn input_map(&mut self) -> MapMut<'_> {
        MapMut::Device(self.maps[0].clone())
    }

    fn output_map(&self, index: usize) -> Option<MapRef<'_>> {
        self.maps.get(index + 1).cloned().map(MapRef::Device)
    }

    fn run(&mut self) -> Result<(), EngineError> {
        Ok(self.device.enqueue(WHAT, &self.work)?)
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        let layers = Arc::new(Mutex::new(Vec::new()));
        let (state, times) = (self.state.clone(), layers.clone());
        let work: StreamWork = Arc::new(move |stream| {
            let mut layers = times.lock().unwrap_or_else(PoisonError::into_inner);
            let mut add = |name: &str, ms| {
                layers.push(LayerTime {
                    name: name.into(),
                    ms: f64::from(ms),
                });
            };
            state.context().profile(stream, &mut add).map_err(failed)
        });
        self.device.enqueue(WHAT, &work)?;
        let mut layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *layers))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Wait for the last run before the context is freed. Earlier calls have reported any error.
        let _ = self.device.wait();
    }
}
