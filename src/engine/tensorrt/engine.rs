//! A TensorRT engine on the device: the counterpart of the CPU engine.
//!
//! All memory is on the device: a buffer for each input and output, and the scratch memory of the only execution context.
//! The context receives it once, before the first frame, and it never moves. A run is therefore one call, which a CUDA
//! graph can record.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::binding::{self, Bindings};
use super::runtime::{ExecutionContext, Runtime};
use super::{LoadRequest, TensorRtError};
use crate::cuda::{Buffer, CudaError, Device, Work};
use crate::engine::{EngineError, LayerTime};
use crate::map::{MapDesc, MapMut, MapRef, Memory};

/// Name of the engine's work in device errors.
const WHAT: &str = "TensorRT engine";

/// An engine that is ready to run.
pub(super) struct Engine {
    bindings: Bindings,
    /// Descriptions of the outputs.
    descs: Vec<MapDesc>,
    state: Arc<RunState>,
    work: Work,
    device: Arc<dyn Device>,
}

/// Everything a run needs, shared with recorded work.
struct RunState {
    // Freed before its memory, because fields drop in order of declaration.
    context: Mutex<ExecutionContext>,
    _memory: Vec<Buffer<u8>>,
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
        let nothing: Work = Arc::new(|_| Ok(()));
        device.enqueue(WHAT, &nothing)?;

        let engine = runtime.engine(request.path, request.plan, request.host_code)?;
        let (model, scale) = (request.model, request.input_scale);
        let mut bindings = binding::bind(request.path, &engine.tensors(), model, scale)?;
        let scratch = engine.scratch_bytes();
        let mut context = engine.context(request.path)?;

        let mut memory = Vec::new();
        // Allocate even if no bytes are needed: the library takes null for missing.
        let buffer = Buffer::zeroed(device, "TensorRT scratch memory", scratch)?;
        context.set_scratch(buffer.address(), scratch);
        memory.push(buffer);
        let mut place = |name: &str, what, bytes| {
            let buffer = Buffer::zeroed(device, what, bytes)?;
            let address = buffer.address();
            memory.push(buffer);
            let refused = |problem| TensorRtError::Binding {
                path: request.path.into(),
                tensor: name.into(),
                problem: format!("TensorRT refused its memory: {problem}"),
            };
            context.set_address(name, address).map_err(refused)?;
            Ok::<_, TensorRtError>(address)
        };
        let Bindings {
            input,
            outputs,
            others,
        } = &mut bindings;
        input.map.address = place(&input.desc.name, "BEV map", input.bytes)?;
        for output in outputs {
            output.map.address = place(&output.desc.name, "head map", output.bytes)?;
        }
        for (name, bytes) in others {
            place(name, "unused output", *bytes)?;
        }

        let state = Arc::new(RunState {
            context: Mutex::new(context),
            _memory: memory,
        });
        let run = state.clone();
        Ok(Self {
            descs: bindings.outputs.iter().map(|o| o.desc.clone()).collect(),
            bindings,
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

    fn memory(&self) -> Memory {
        Memory::Device
    }

    fn input_map(&mut self) -> MapMut<'_> {
        MapMut::Device(self.bindings.input.map)
    }

    fn output_map(&self, index: usize) -> Option<MapRef<'_>> {
        let output = self.bindings.outputs.get(index)?;
        Some(MapRef::Device(output.map))
    }

    fn run(&mut self) -> Result<(), EngineError> {
        Ok(self.device.enqueue(WHAT, &self.work)?)
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        let layers = Arc::new(Mutex::new(Vec::new()));
        let (state, times) = (self.state.clone(), layers.clone());
        let work: Work = Arc::new(move |stream| {
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
        let address = self.bindings.input.map.address;
        let _ = self.device.download(WHAT, address, &mut []);
    }
}
