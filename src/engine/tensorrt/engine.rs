//! A TensorRT engine between the stages on the device: the counterpart of the CPU engine.
//!
//! All memory is the device's own: a buffer for each input and output, and the scratch memory of the one
//! context. It is given to the context once, before the first frame, and never moves, so that a run is one
//! call that can be recorded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::binding::{self, Bindings};
use super::runtime::{Context, Runtime};
use super::{LoadRequest, TensorRtError};
use crate::cuda::{Buffer, CudaError, Device, Work};
use crate::engine::{EngineError, LayerTime};
use crate::map::{MapDesc, MapMut, MapRef, Memory};

/// What the device is told that it runs.
const WHAT: &str = "TensorRT engine";

/// An engine that is ready to run.
pub(super) struct Engine {
    bindings: Bindings,
    /// Of the outputs.
    descs: Vec<MapDesc>,
    running: Arc<Running>,
    work: Work,
    device: Arc<dyn Device>,
}

/// What a run needs; held by whoever may run it.
struct Running {
    // Freed before the memory that it works in.
    context: Mutex<Context>,
    _memory: Vec<Buffer<u8>>,
}

impl Engine {
    /// Loads an engine, checks its inputs and outputs, and gives it all its memory.
    ///
    /// # Errors
    /// [`TensorRtError::Load`], [`TensorRtError::Binding`], and [`TensorRtError::Cuda`] for memory.
    pub(super) fn new(
        runtime: Runtime,
        request: &LoadRequest<'_>,
        device: &Arc<dyn Device>,
    ) -> Result<Self, TensorRtError> {
        // The library works in the context that is current to the thread: with this call it is the device's.
        let nothing: Work = Arc::new(|_| Ok(()));
        device.enqueue(WHAT, &nothing)?;

        let engine = runtime.engine(request.path, request.plan, request.host_code)?;
        let (model, scale) = (request.model, request.input_scale);
        let mut bindings = binding::bind(request.path, &engine.tensors(), model, scale)?;
        let scratch = engine.scratch_bytes();
        let mut context = engine.context(request.path)?;

        let mut memory = Vec::new();
        // Also where none is needed: null would read as not given.
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
                problem: format!("its memory was refused: {problem}"),
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
            place(name, "an output that is not read", *bytes)?;
        }

        let running = Arc::new(Running {
            context: Mutex::new(context),
            _memory: memory,
        });
        let run = running.clone();
        Ok(Self {
            descs: bindings.outputs.iter().map(|o| o.desc.clone()).collect(),
            bindings,
            work: Arc::new(move |stream| run.context().enqueue(stream).map_err(failed)),
            running,
            device: device.clone(),
        })
    }
}

impl Running {
    fn context(&self) -> MutexGuard<'_, Context> {
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
        let (running, told) = (self.running.clone(), layers.clone());
        let work: Work = Arc::new(move |stream| {
            let mut layers = told.lock().unwrap_or_else(PoisonError::into_inner);
            let mut add = |name: &str, ms| {
                layers.push(LayerTime {
                    name: name.into(),
                    ms: f64::from(ms),
                });
            };
            running.context().profile(stream, &mut add).map_err(failed)
        });
        self.device.enqueue(WHAT, &work)?;
        let mut layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *layers))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A context must not go while it runs. What this answers, an earlier call has answered already.
        let address = self.bindings.input.map.address;
        let _ = self.device.download(WHAT, address, &mut []);
    }
}
