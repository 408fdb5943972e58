//! NVIDIA's driver as a [`Device`].
//!
//! Every call takes one lock, which orders the calls of several threads, and makes the context current to its
//! thread. The first call that fails loses the device: all later ones return [`CudaError::Lost`] with that first
//! error, and freeing ignores what the driver returns. A call that cannot be recorded ends only the recording.
//!
//! Kernels run long after their launch, so an error often appears at a later call. It then names the kernel that
//! was launched last; with `CUDA_LAUNCH_BLOCKING=1` in the environment, that kernel is the culprit.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use cudarc::driver::sys::{self, CUresult};

use super::calls::{self, describe, written};
use super::context::{Context, Event};
use super::error::CudaError;
use super::interface::{CopyEnd, Device, Gpu, Launch, Stream, StreamWork};
use super::module::Modules;
use super::ptr::DevicePtr;
use super::state::{HostMemory, RecordedGraph, State, copy_error, graph_error};

/// Describes the first GPU, without loading kernels.
pub(super) fn gpu() -> Result<Gpu, CudaError> {
    let context = Context::open()?;
    Ok(Gpu {
        name: context.name().to_owned(),
        architecture: context.architecture(),
        cuda: context.cuda().unsigned_abs(),
    })
}

/// Room for the copies of a frame.
const BUSY: usize = 256;

/// A GPU with all kernels loaded.
pub(crate) struct Driver {
    state: Mutex<State>,
    /// Told when a recording ends.
    recorded: Condvar,
    // Dropped last: everything in the state belongs to the context.
    context: Context,
}

impl Driver {
    /// Opens the first GPU (`CUDA_VISIBLE_DEVICES` selects it) and loads all kernels.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`] without a driver, a GPU, or code for the GPU.
    pub(crate) fn open() -> Result<Self, CudaError> {
        let context = Context::open()?;
        let modules = Modules::load(context.architecture(), context.cuda() / 1000)?;
        Ok(Self {
            state: Mutex::new(State {
                lost: None,
                last: None,
                recording: None,
                unrecorded: None,
                host: Vec::new(),
                used: Vec::new(),
                pending: false,
                busy: Vec::with_capacity(BUSY),
                retired: Vec::new(),
                graphs: Vec::new(),
                marks: Vec::new(),
                allocated: Vec::new(),
                modules,
            }),
            recorded: Condvar::new(),
            context,
        })
    }

    /// The GPU's compute capability: 87 for Orin.
    pub(crate) fn architecture(&self) -> u32 {
        self.context.architecture()
    }

    /// Locks the state once no other thread records.
    fn lock(&self) -> MutexGuard<'_, State> {
        let own = thread::current().id();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.recording.is_some_and(|thread| thread != own) {
            let waited = self.recorded.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Locks the state and makes the context current. Fails if the device is lost.
    fn enter(&self) -> Result<MutexGuard<'_, State>, CudaError> {
        let mut state = self.lock();
        if let Some(first) = &state.lost {
            return Err(CudaError::Lost {
                first: Box::new(first.clone()),
            });
        }
        let current = self.context.make_current();
        state.check(current, |reason| graph_error(&reason))?;
        Ok(state)
    }

    /// As [`Driver::enter`], for calls that cannot be recorded.
    fn enter_unless_recording(&self, what: &str) -> Result<MutexGuard<'_, State>, CudaError> {
        let state = self.enter()?;
        if state.recording.is_some() {
            return Err(graph_error(&format!("{what} cannot be recorded")));
        }
        Ok(state)
    }

    /// Waits for the stream, if there is work on it. An error is that of an earlier kernel or copy.
    fn wait_for_stream(&self, state: &mut State) -> Result<(), CudaError> {
        if !state.pending {
            return Ok(());
        }
        let waited = self.context.wait();
        let last = state.last;
        state.check(waited, |reason| match last {
            Some(kernel) => CudaError::Kernel {
                kernel: kernel.into(),
                reason: format!(
                    "{reason}; this kernel or an earlier one failed, CUDA_LAUNCH_BLOCKING=1 shows which"
                ),
            },
            None => graph_error(&format!("one of its kernels: {reason}")),
        })?;
        state.pending = false;
        state.busy.clear();
        state.retired.clear();
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The state drops after this and needs a current context to free its memory, graphs and modules.
        let _ = self.context.make_current();
        let _ = self.context.wait();
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({}, sm_{})", self.name(), self.architecture())
    }
}

impl Device for Driver {
    fn name(&self) -> &str {
        self.context.name()
    }

    fn multiprocessors(&self) -> u32 {
        self.context.multiprocessors()
    }

    fn memory_used(&self) -> Option<u64> {
        let _state = self.enter().ok()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        unsafe { calls::cuMemGetInfo_v2(&mut free, &mut total) }.ok()?;
        total.checked_sub(free)?.try_into().ok()
    }

    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr<u8>, CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        let error = |reason| CudaError::Memory {
            what,
            bytes,
            reason,
        };
        // SAFETY: writes an address. The memory is zeroed below; the driver aligns to at least 256 bytes.
        let allocated = written(0, |to| unsafe { calls::cuMemAlloc_v2(to, bytes.max(1)) });
        let address = match allocated {
            // The device survives this one.
            Err(code) if code.is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => {
                return Err(error(describe(code)));
            }
            allocated => state.check(allocated, error)?,
        };
        // SAFETY: the memory was just allocated with that size.
        let zeroed =
            unsafe { calls::cuMemsetD8Async(address, 0, bytes.max(1), self.context.stream()) };
        if zeroed.is_err() {
            // SAFETY: the driver allocated it, and nobody knows of it.
            let _ = unsafe { calls::cuMemFree_v2(address) };
        }
        state.check(zeroed, error)?;
        state.pending = true;
        state.allocated.push(address);
        // SAFETY: the memory was just allocated.
        Ok(unsafe { DevicePtr::from_address(address) })
    }

    unsafe fn free(&self, memory: DevicePtr<u8>) {
        let mut state = self.lock();
        let Some(at) = state
            .allocated
            .iter()
            .position(|address| *address == memory.address())
        else {
            return;
        };
        let address = state.allocated.swap_remove(at);
        let _ = self.context.make_current();
        // SAFETY: the driver allocated it; it waits for whatever uses the memory.
        let _ = unsafe { calls::cuMemFree_v2(address) };
    }

    unsafe fn upload(
        &self,
        what: &'static str,
        to: DevicePtr<u8>,
        bytes: &[u8],
    ) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the target is long enough, by this method's contract; the bytes live until the wait below.
        let copied = unsafe {
            let (from, stream) = (bytes.as_ptr().cast(), self.context.stream());
            calls::cuMemcpyHtoDAsync_v2(to.address(), from, bytes.len(), stream)
        };
        state.check(copied, copy_error(what, bytes.len()))?;
        state.pending = true;
        self.wait_for_stream(&mut state)
    }

    unsafe fn download(
        &self,
        what: &'static str,
        from: DevicePtr<u8>,
        bytes: &mut [u8],
    ) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        if !bytes.is_empty() {
            let len = bytes.len();
            // SAFETY: the source is long enough, by this method's contract; the bytes are borrowed until after
            // the wait below.
            let copied = unsafe {
                let (to, stream) = (bytes.as_mut_ptr().cast(), self.context.stream());
                calls::cuMemcpyDtoHAsync_v2(to, from.address(), len, stream)
            };
            state.check(copied, copy_error(what, len))?;
            state.pending = true;
        }
        self.wait_for_stream(&mut state)
    }

    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError> {
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
        state.pending |= state.recording.is_none();
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
        // SAFETY: the function belongs to a loaded module. The driver reads the parameters and their list
        // during the call; the addresses in them are valid by this method's contract.
        let launched = unsafe {
            calls::cuLaunchKernel(
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

    fn enqueue(&self, what: &'static str, work: &StreamWork) -> Result<(), CudaError> {
        let mut state = self.enter()?;
        state.last = Some(what);
        state.pending |= state.recording.is_none();
        // SAFETY: the stream belongs to the current context and outlives the call.
        let stream = unsafe { Stream::from_raw(self.context.stream().cast()) };
        work(&stream).map_err(|error| state.lose(error))
    }

    fn wait(&self) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a wait")?;
        self.wait_for_stream(&mut state)
    }

    fn alloc_host(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        let mut state = self.enter_unless_recording(what)?;
        let bytes = bytes.max(1);
        let error = |reason: String| CudaError::Memory {
            what,
            bytes,
            reason: format!("pinned host memory: {reason}"),
        };
        // SAFETY: writes an address. The memory is zeroed below.
        let allocated = written(ptr::null_mut(), |to| unsafe {
            calls::cuMemHostAlloc(to, bytes, 0)
        });
        let memory = match allocated {
            // The device survives this one.
            Err(code) if code.is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => {
                return Err(error(describe(code)));
            }
            allocated => state.check(allocated, error)?,
        };
        let memory = memory.cast::<u8>();
        // SAFETY: the memory was just allocated with that size.
        unsafe { memory.write_bytes(0, bytes) };
        state
            .host
            .push(Some(Arc::new(HostMemory { memory, bytes })));
        Ok(state.host.len() as u64)
    }

    fn free_host(&self, memory: u64) {
        let mut state = self.lock();
        let handle = usize::try_from(memory).unwrap_or(0).wrapping_sub(1);
        if let Some(memory) = state.host.get_mut(handle).and_then(Option::take) {
            // A copy may still be running.
            state.retired.push(memory);
        }
    }

    fn write_host(&self, memory: u64, at: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a write to pinned memory")?;
        let (_, to) = state.host("pinned memory", memory, at, bytes.len())?;
        let written = to.addr()..to.addr() + bytes.len();
        let meets = |busy: &Range<usize>| busy.start < written.end && written.start < busy.end;
        if state.busy.iter().any(meets) {
            self.wait_for_stream(&mut state)?;
        }
        // SAFETY: the range is inside the memory. No copy that is under way uses it, and the lock is held, so nobody
        // else touches it; no reference into pinned memory exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn read_host(&self, memory: u64, at: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a read of pinned memory")?;
        self.wait_for_stream(&mut state)?;
        let (_, from) = state.host("pinned memory", memory, at, bytes.len())?;
        // SAFETY: as in `write_host`; the whole memory is initialised since its allocation.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn copy(
        &self,
        what: &'static str,
        from: CopyEnd,
        to: CopyEnd,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let mut state = self.enter()?;
        if bytes == 0 {
            return Ok(());
        }
        state.pending |= state.recording.is_none();
        let stream = self.context.stream();
        let copied = match (from, to) {
            (CopyEnd::Host { memory, at }, CopyEnd::Device(to)) => {
                let from = state.host_for_copy(what, memory, at, bytes)?;
                // SAFETY: the source is inside pinned memory, which stays until the stream has been waited
                // for, or the graph is gone; the target is valid by this method's contract.
                unsafe { calls::cuMemcpyHtoDAsync_v2(to.address(), from.cast(), bytes, stream) }
            }
            (CopyEnd::Device(from), CopyEnd::Host { memory, at }) => {
                let to = state.host_for_copy(what, memory, at, bytes)?;
                // SAFETY: as above; reads of the target wait for the stream.
                unsafe { calls::cuMemcpyDtoHAsync_v2(to.cast(), from.address(), bytes, stream) }
            }
            (CopyEnd::Device(from), CopyEnd::Device(to)) => {
                // SAFETY: both ends are valid by this method's contract.
                unsafe { calls::cuMemcpyDtoDAsync_v2(to.address(), from.address(), bytes, stream) }
            }
            (CopyEnd::Host { .. }, CopyEnd::Host { .. }) => {
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
        // SAFETY: the stream is ours and does not record yet.
        let begun = unsafe { calls::cuStreamBeginCapture_v2(self.context.stream(), mode) };
        state.check(begun, |reason| graph_error(&reason))?;
        state.recording = Some(thread::current().id());
        Ok(())
    }

    fn end(&self) -> Result<u64, CudaError> {
        // Even if a call failed: the stream must stop recording.
        let mut state = self.lock();
        if state.recording.take().is_none() {
            return Err(graph_error("nothing was recorded"));
        }
        self.recorded.notify_all();
        let host = std::mem::take(&mut state.used);
        let _ = self.context.make_current();
        // SAFETY: writes a graph; the stream is ours and records.
        let graph = written(ptr::null_mut(), |graph| unsafe {
            calls::cuStreamEndCapture(self.context.stream(), graph)
        });
        if let Some(first) = state.unrecorded.take() {
            if let Ok(graph) = graph
                && !graph.is_null()
            {
                // SAFETY: the driver made the graph, and nobody else has it.
                let _ = unsafe { calls::cuGraphDestroy(graph) };
            }
            return Err(first);
        }
        // Nothing has run, so the device is still there.
        let failed = |code| graph_error(&describe(code));
        let graph = graph.map_err(failed)?;
        // SAFETY: writes an executable graph; the graph is complete.
        let exec = written(ptr::null_mut(), |exec| unsafe {
            calls::cuGraphInstantiateWithFlags(exec, graph, 0)
        });
        // SAFETY: the driver made the graph, and the executable one is a copy.
        let _ = unsafe { calls::cuGraphDestroy(graph) };
        let exec = exec.map_err(failed)?;
        state.graphs.push(Some(RecordedGraph { exec, host }));
        // SAFETY: the graph was just made. Uploading it here keeps that time out of the first launch.
        let uploaded = unsafe { calls::cuGraphUpload(exec, self.context.stream()) };
        state.pending = true;
        state.check(uploaded, |reason| graph_error(&reason))?;
        Ok(state.graphs.len() as u64)
    }

    unsafe fn replay(&self, graph: u64) -> Result<(), CudaError> {
        let mut state = self.enter_unless_recording("a graph")?;
        let State { graphs, busy, .. } = &mut *state;
        let recorded = usize::try_from(graph)
            .ok()
            .and_then(|handle| graphs.get(handle.checked_sub(1)?)?.as_ref());
        let recorded = recorded.ok_or_else(|| graph_error("there is no such graph"))?;
        let exec = recorded.exec;
        busy.extend(recorded.host.iter().map(|memory| memory.addresses()));
        state.last = None;
        state.pending = true;
        // SAFETY: the graph and the pinned memory that it uses are alive; the device memory is by this method's
        // contract.
        let launched = unsafe { calls::cuGraphLaunch(exec, self.context.stream()) };
        state.check(launched, |reason| graph_error(&reason))
    }

    fn free_graph(&self, graph: u64) {
        let mut state = self.lock();
        let handle = usize::try_from(graph).unwrap_or(0).wrapping_sub(1);
        if let Some(mut graph) = state.graphs.get_mut(handle).and_then(Option::take) {
            // It may still be running.
            state.retired.append(&mut graph.host);
            let _ = self.context.make_current();
        }
    }

    fn create_mark(&self) -> Result<u64, CudaError> {
        let mut state = self.enter_unless_recording("a mark")?;
        let event = state.check(Event::new(), |reason| graph_error(&reason))?;
        state.marks.push(Some((event, false)));
        Ok(state.marks.len() as u64)
    }

    fn free_mark(&self, mark: u64) {
        let mut state = self.lock();
        let _ = self.context.make_current();
        if let Some(mark) = state.mark(mark) {
            *mark = None;
        }
    }

    fn mark(&self, mark: u64) -> Result<(), CudaError> {
        let mut state = self.enter()?;
        let recording = state.recording.is_some();
        state.pending |= !recording;
        let Some(Some((event, set))) = state.mark(mark) else {
            return Err(graph_error("there is no such mark"));
        };
        let marked = self.context.mark(event, recording);
        *set = true;
        state.check(marked, |reason| graph_error(&reason))
    }

    fn elapsed(&self, from: u64, to: u64) -> Result<f64, CudaError> {
        let mut state = self.enter_unless_recording("a time")?;
        self.wait_for_stream(&mut state)?;
        let (Some(from), Some(to)) = (state.marked(from), state.marked(to)) else {
            return Err(graph_error("a mark was not set"));
        };
        let elapsed = from.until(to);
        Ok(f64::from(
            state.check(elapsed, |reason| graph_error(&reason))?,
        ))
    }
}
