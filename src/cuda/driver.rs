//! The CUDA driver as a [`Device`].
//!
//! Every call holds one lock, so that the calls of several threads have an order, and makes the context
//! current to its thread. The first call that fails loses the device: all later ones answer
//! [`CudaError::Lost`] with that first error, and freeing ignores what the driver says.
//!
//! Kernels run long after their launch, so an error often shows at a later call. It then names what was
//! launched last; with `CUDA_LAUNCH_BLOCKING=1` in the environment, that is the one to blame.
#![allow(unsafe_code)]

mod state;

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUresult};

use self::state::{HostMemory, RecordedGraph, State, copy_error, graph_error};
use super::context::Context;
use super::device::MARKS;
use super::library::{check, words};
use super::module::Modules;
use super::{CudaError, Device, Gpu, Launch, Place, Work};

/// The first GPU, without loading kernels.
pub(super) fn gpu() -> Result<Gpu, CudaError> {
    let context = Context::open()?;
    Ok(Gpu {
        name: context.name().to_owned(),
        architecture: context.architecture(),
        cuda: context.cuda().unsigned_abs(),
    })
}

/// A GPU with all kernels loaded.
pub struct Driver {
    state: Mutex<State>,
    // Dropped last: what the state owns is the context's.
    context: Context,
}

impl Driver {
    /// Opens the first GPU (`CUDA_VISIBLE_DEVICES` chooses which that is) and loads all kernels.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`] where there is no driver, no GPU or no code for it.
    pub fn open() -> Result<Self, CudaError> {
        let context = Context::open()?;
        let modules = Modules::load(context.architecture(), context.cuda() / 1000)?;
        Ok(Self {
            state: Mutex::new(State {
                lost: None,
                modules,
                last: None,
                recording: false,
                host: Vec::new(),
                used: Vec::new(),
                retired: Vec::new(),
                graphs: Vec::new(),
                marked: [false; MARKS],
                allocated: Vec::new(),
            }),
            context,
        })
    }

    /// The GPU's architecture, as 87 for Orin.
    pub fn architecture(&self) -> u32 {
        self.context.architecture()
    }

    /// The state, unless the device is lost; its context is made current.
    fn enter(&self) -> Result<MutexGuard<'_, State>, CudaError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = &state.lost {
            return Err(CudaError::Lost {
                first: Box::new(first.clone()),
            });
        }
        match self.context.make_current() {
            Ok(()) => Ok(state),
            Err(code) => Err(state.lose(graph_error(&words(code)))),
        }
    }

    /// As [`Driver::enter`], for what cannot be recorded.
    fn enter_unless_recording(&self, what: &str) -> Result<MutexGuard<'_, State>, CudaError> {
        let state = self.enter()?;
        match state.recording {
            false => Ok(state),
            true => Err(graph_error(&format!("{what} cannot be recorded"))),
        }
    }

    /// Waits for the stream. An error is that of a kernel or copy that the stream was given before.
    fn wait(&self, state: &mut State) -> Result<(), CudaError> {
        match self.context.wait() {
            Ok(()) => {
                state.retired.clear();
                Ok(())
            }
            Err(code) => {
                let reason = words(code);
                let error = match state.last {
                    Some(kernel) => CudaError::Kernel {
                        kernel: kernel.into(),
                        reason: format!(
                            "{reason}; it or one before it is to blame, CUDA_LAUNCH_BLOCKING=1 tells which"
                        ),
                    },
                    None => graph_error(&format!("one of its kernels: {reason}")),
                };
                Err(state.lose(error))
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // So that the state's memory, graphs and modules can be given back after this.
        let _ = self.context.make_current();
        let _ = self.context.wait();
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({}, sm_{})", self.name(), self.architecture())
    }
}

impl Device for Driver {
    fn name(&self) -> &str {
        self.context.name()
    }

    fn memory_used(&self) -> Option<u64> {
        let _state = self.enter().ok()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers; a context is current.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }).ok()?;
        total.checked_sub(free)?.try_into().ok()
    }

    fn alloc(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        let error = |reason| CudaError::Memory {
            what,
            bytes,
            reason,
        };
        let mut address = 0;
        // SAFETY: writes the address. The driver aligns to 256 bytes at least.
        match check(unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) }) {
            Ok(()) => {}
            // Nothing is broken by that.
            Err(code @ CUresult::CUDA_ERROR_OUT_OF_MEMORY) => return Err(error(words(code))),
            Err(code) => return Err(state.lose(error(words(code)))),
        }
        state.allocated.push(address);
        // SAFETY: the memory was just allocated, of that size.
        let zeroed =
            unsafe { sys::cuMemsetD8Async(address, 0, bytes.max(1), self.context.stream()) };
        state.check(zeroed, error)?;
        Ok(address)
    }

    fn free(&self, address: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = state.allocated.iter().position(|a| *a == address) else {
            return;
        };
        state.allocated.swap_remove(at);
        let _ = self.context.make_current();
        // SAFETY: the driver gave the address; it waits for what uses it.
        let _ = unsafe { sys::cuMemFree_v2(address) };
    }

    fn upload(&self, what: &'static str, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the bytes stay until the copy has been waited for.
        let copied = unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                to,
                bytes.as_ptr().cast(),
                bytes.len(),
                self.context.stream(),
            )
        };
        state.check(copied, copy_error(what, bytes.len()))?;
        self.wait(&mut state)
    }

    fn download(&self, what: &'static str, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        if bytes.is_empty() {
            return self.wait(&mut state);
        }
        // SAFETY: the bytes stay, and are nobody else's, until the copy has been waited for.
        let copied = unsafe {
            sys::cuMemcpyDtoHAsync_v2(
                bytes.as_mut_ptr().cast(),
                from,
                bytes.len(),
                self.context.stream(),
            )
        };
        state.check(copied, copy_error(what, bytes.len()))?;
        self.wait(&mut state)
    }

    fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError> {
        let mut state = self.enter()?;
        let error = |reason| CudaError::Kernel {
            kernel: launch.kernel.into(),
            reason,
        };
        let function = match state.modules.kernel(launch) {
            Ok(function) => function,
            Err(reason) => return Err(state.lose(error(reason))),
        };
        state.last = Some(launch.kernel);
        // The parameters as one block with its size: the driver reads no further than that.
        let mut bytes = params.len();
        let mut extra = [
            ptr::without_provenance_mut::<c_void>(
                sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize,
            ),
            params.as_ptr().cast_mut().cast(),
            ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize),
            (&raw mut bytes).cast(),
            ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_END_AS_INT as usize),
        ];
        let [x, y, z] = launch.grid;
        // SAFETY: the function is of a loaded module; parameters and their list are read during the call.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                launch.block,
                1,
                1,
                launch.shared,
                self.context.stream(),
                ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        state.check(launched, |reason| {
            error(format!(
                "grid {:?}, {} threads, {} bytes of shared memory, {} of parameters: {reason}",
                launch.grid,
                launch.block,
                launch.shared,
                params.len()
            ))
        })
    }

    fn enqueue(&self, what: &'static str, work: &Work) -> Result<(), CudaError> {
        let mut state = self.enter()?;
        state.last = Some(what);
        work(self.context.stream() as u64).map_err(|error| state.lose(error))
    }

    fn alloc_host(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        let bytes = bytes.max(1);
        let mut memory = ptr::null_mut();
        // SAFETY: writes the address.
        check(unsafe { sys::cuMemHostAlloc(&mut memory, bytes, 0) }).map_err(|code| {
            CudaError::Memory {
                what,
                bytes,
                reason: format!("pinned memory of the host: {}", words(code)),
            }
        })?;
        let memory = memory.cast::<u8>();
        // SAFETY: it was just allocated, of that size.
        unsafe { memory.write_bytes(0, bytes) };
        state
            .host
            .push(Some(Arc::new(HostMemory { memory, bytes })));
        Ok(state.host.len() as u64)
    }

    fn free_host(&self, memory: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = usize::try_from(memory).unwrap_or(0).wrapping_sub(1);
        if let Some(memory) = state.host.get_mut(handle).and_then(Option::take) {
            // A copy may still be under way.
            state.retired.push(memory);
        }
    }

    fn write_host(&self, memory: u64, at: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a write to pinned memory")?;
        self.wait(&mut state)?;
        let (_, to) = state.host("pinned memory", memory, at, bytes.len())?;
        // SAFETY: the range is inside of the memory; the device has been waited for, and the lock keeps
        // others away. No reference into pinned memory exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn read_host(&self, memory: u64, at: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a read of pinned memory")?;
        self.wait(&mut state)?;
        let (_, from) = state.host("pinned memory", memory, at, bytes.len())?;
        // SAFETY: as in `write_host`; all of the memory was set when it was allocated.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(
        &self,
        what: &'static str,
        from: Place,
        to: Place,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let mut state = self.enter()?;
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.context.stream();
        let copied = match (from, to) {
            (Place::Host { memory, at }, Place::Device(to)) => {
                let from = state.host_for_copy(what, memory, at, bytes)?;
                // SAFETY: the range is inside of the memory, which stays until the stream has been
                // waited for, or the graph is gone.
                unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, stream) }
            }
            (Place::Device(from), Place::Host { memory, at }) => {
                let to = state.host_for_copy(what, memory, at, bytes)?;
                // SAFETY: as above; it is read only after the stream has been waited for.
                unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, stream) }
            }
            (Place::Device(from), Place::Device(to)) => {
                // SAFETY: no memory of the host.
                unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream) }
            }
            (Place::Host { .. }, Place::Host { .. }) => {
                return Err(copy_error(what, bytes)(
                    "one end must be on the device".into(),
                ));
            }
        };
        state.check(copied, copy_error(what, bytes))
    }

    fn begin(&self) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a second graph")?;
        // Other threads may allocate and load meanwhile, on other streams.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours and records nothing yet.
        let begun = unsafe { sys::cuStreamBeginCapture_v2(self.context.stream(), mode) };
        state.check(begun, |reason| graph_error(&reason))?;
        state.recording = true;
        Ok(())
    }

    fn end(&self) -> Result<u64, CudaError> {
        // Also of a device that was lost while it recorded: the stream must not stay as it is.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut state.recording) {
            return Err(graph_error("nothing was recorded"));
        }
        let host = std::mem::take(&mut state.used);
        let _ = self.context.make_current();
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is ours and records; writes the graph's handle, null on failure.
        let ended = unsafe { sys::cuStreamEndCapture(self.context.stream(), &mut graph) };
        let result = match state.lost.clone() {
            Some(first) => Err(CudaError::Lost {
                first: Box::new(first),
            }),
            None => state.check(ended, |reason| graph_error(&reason)),
        };
        let mut exec = ptr::null_mut();
        let result = result.and_then(|()| {
            // SAFETY: the graph is whole; writes the handle of what can be launched.
            let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) };
            state.check(made, |reason| graph_error(&reason))
        });
        if !graph.is_null() {
            // SAFETY: what can be launched is a copy of its own.
            let _ = unsafe { sys::cuGraphDestroy(graph) };
        }
        result?;
        state.graphs.push(Some(RecordedGraph { exec, host }));
        // SAFETY: the graph was just made. Done here, it does not cost the first launch its time.
        let uploaded = unsafe { sys::cuGraphUpload(exec, self.context.stream()) };
        state.check(uploaded, |reason| graph_error(&reason))?;
        Ok(state.graphs.len() as u64)
    }

    fn replay(&self, graph: u64) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a graph")?;
        let recorded = usize::try_from(graph)
            .ok()
            .and_then(|handle| state.graphs.get(handle.checked_sub(1)?)?.as_ref());
        let exec = recorded
            .map(|recorded| recorded.exec)
            .ok_or_else(|| graph_error("there is no such graph"))?;
        state.last = None;
        // SAFETY: the graph is alive, and so is the pinned memory that it uses.
        let launched = unsafe { sys::cuGraphLaunch(exec, self.context.stream()) };
        state.check(launched, |reason| graph_error(&reason))
    }

    fn free_graph(&self, graph: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = usize::try_from(graph).unwrap_or(0).wrapping_sub(1);
        if let Some(mut graph) = state.graphs.get_mut(handle).and_then(Option::take) {
            // It may still be under way.
            state.retired.append(&mut graph.host);
            let _ = self.context.make_current();
        }
    }

    fn mark(&self, mark: usize) -> Result<(), CudaError> {
        let mut state = self.enter()?;
        let event = self
            .context
            .mark(mark)
            .ok_or_else(|| graph_error("there is no such mark"))?;
        use sys::CUevent_record_flags as Flags;
        let flags = match state.recording {
            false => Flags::CU_EVENT_RECORD_DEFAULT,
            // Otherwise it would stand for an order of the graph's nodes, not for a time.
            true => Flags::CU_EVENT_RECORD_EXTERNAL,
        };
        // SAFETY: event and stream are ours.
        let marked =
            unsafe { sys::cuEventRecordWithFlags(event, self.context.stream(), flags as u32) };
        state.check(marked, |reason| graph_error(&reason))?;
        state.marked[mark] = true;
        Ok(())
    }

    fn elapsed(&self, from: usize, to: usize) -> Result<f64, CudaError> {
        let mut state = self.enter_unless_recording("a time")?;
        self.wait(&mut state)?;
        let marked = |mark: usize| state.marked.get(mark).is_some_and(|set| *set);
        let (Some(start), Some(end), true) = (
            self.context.mark(from),
            self.context.mark(to),
            marked(from) && marked(to),
        ) else {
            return Err(graph_error("a mark was not set"));
        };
        let mut ms = 0.0f32;
        // SAFETY: both events are ours; writes one number.
        check(unsafe { sys::cuEventElapsedTime(&mut ms, start, end) })
            .map_err(|code| graph_error(&words(code)))?;
        Ok(f64::from(ms))
    }
}
