//! What the driver keeps under its lock: the first failure, the kernels, pinned memory and graphs.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;
use std::thread::ThreadId;

use cudarc::driver::sys::CUgraphExec;

use super::calls::{self, DriverError, describe};
use super::context::Event;
use super::error::CudaError;
use super::module::Modules;

/// See the file's head. Fields drop in this order: graphs have kernels of the modules.
pub(super) struct State {
    /// The first failure, unless it was one of recording.
    pub(super) lost: Option<CudaError>,
    /// The kernel that was launched last; `None` if that was a graph.
    pub(super) last: Option<&'static str>,
    /// The thread that records. The others wait until it has ended: what they call now would become a part of the graph.
    pub(super) recording: Option<ThreadId>,
    /// The first failure of a call that was to be recorded. Nothing ran, so the device is still there.
    pub(super) unrecorded: Option<CudaError>,
    /// Pinned memory by handle - 1.
    pub(super) host: Vec<Option<Arc<HostMemory>>>,
    /// Pinned memory that the current recording uses.
    pub(super) used: Vec<Arc<HostMemory>>,
    /// Whether work was enqueued since the last wait for the stream.
    pub(super) pending: bool,
    /// Addresses of pinned memory that this work copies from or to.
    pub(super) busy: Vec<Range<usize>>,
    /// Pinned memory to free after the next wait for the stream.
    pub(super) retired: Vec<Arc<HostMemory>>,
    /// By handle - 1.
    pub(super) graphs: Vec<Option<RecordedGraph>>,
    /// Events by handle - 1, and whether they were recorded.
    pub(super) marks: Vec<Option<(Event, bool)>>,
    /// Addresses of device memory.
    pub(super) allocated: Vec<u64>,
    pub(super) modules: Modules,
}

/// Pinned memory: freed once its handle and all graphs that use it are gone, with the context current.
pub(super) struct HostMemory {
    pub(super) memory: *mut u8,
    pub(super) bytes: usize,
}

// SAFETY: only the device touches the memory, or whoever holds the state's lock.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// The addresses of all its bytes.
    pub(super) fn addresses(&self) -> Range<usize> {
        let start = self.memory.addr();
        start..start + self.bytes
    }

    /// The start of `bytes` bytes from `at` on, if they are inside.
    pub(super) fn range(&self, at: usize, bytes: usize) -> Option<*mut u8> {
        let end = at.checked_add(bytes)?;
        (end <= self.bytes).then(|| self.memory.wrapping_add(at))
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: the driver allocated it, and its last copy has finished.
        let _ = unsafe { calls::cuMemFreeHost(self.memory.cast()) };
    }
}

pub(super) struct RecordedGraph {
    pub(super) exec: CUgraphExec,
    pub(super) host: Vec<Arc<HostMemory>>,
}

// SAFETY: a handle of the driver, used under the state's lock.
unsafe impl Send for RecordedGraph {}

impl Drop for RecordedGraph {
    fn drop(&mut self) {
        // SAFETY: the driver made it, and nobody launches it again.
        let _ = unsafe { calls::cuGraphExecDestroy(self.exec) };
    }
}

impl State {
    /// Stores the error that loses the device, or the recording that is under way, and returns it.
    pub(super) fn lose(&mut self, error: CudaError) -> CudaError {
        let first = if self.recording.is_some() {
            &mut self.unrecorded
        } else {
            &mut self.lost
        };
        first.get_or_insert_with(|| error.clone());
        error
    }

    /// Turns a driver error into one of ours, as [`State::lose`] does.
    pub(super) fn check<T>(
        &mut self,
        result: Result<T, DriverError>,
        error: impl Fn(String) -> CudaError,
    ) -> Result<T, CudaError> {
        result.map_err(|code| self.lose(error(describe(code))))
    }

    /// The place of a mark, if there ever was one with this handle.
    pub(super) fn mark(&mut self, mark: u64) -> Option<&mut Option<(Event, bool)>> {
        self.marks
            .get_mut(usize::try_from(mark).ok()?.checked_sub(1)?)
    }

    /// The event of a mark that was set.
    pub(super) fn marked(&self, mark: u64) -> Option<&Event> {
        let place = self
            .marks
            .get(usize::try_from(mark).ok()?.checked_sub(1)?)?;
        place
            .as_ref()
            .filter(|(_, set)| *set)
            .map(|(event, _)| event)
    }

    /// The pinned memory of a handle, and the start of a range in it.
    pub(super) fn host(
        &self,
        what: &'static str,
        memory: u64,
        at: usize,
        bytes: usize,
    ) -> Result<(&Arc<HostMemory>, *mut u8), CudaError> {
        let memory = usize::try_from(memory)
            .ok()
            .and_then(|handle| self.host.get(handle.checked_sub(1)?)?.as_ref());
        memory
            .and_then(|memory| Some((memory, memory.range(at, bytes)?)))
            .ok_or_else(|| copy_error(what, bytes)("not within its pinned memory".into()))
    }

    /// As [`State::host`], for a copy: a recording keeps the memory for its graph; otherwise the range is busy.
    pub(super) fn host_for_copy(
        &mut self,
        what: &'static str,
        memory: u64,
        at: usize,
        bytes: usize,
    ) -> Result<*mut u8, CudaError> {
        let (memory, start) = self.host(what, memory, at, bytes)?;
        if self.recording.is_some() {
            let memory = memory.clone();
            self.used.push(memory);
        } else {
            self.busy.push(start.addr()..start.addr() + bytes);
        }
        Ok(start)
    }
}

pub(super) fn graph_error(reason: &str) -> CudaError {
    CudaError::Graph {
        reason: reason.into(),
    }
}

pub(super) fn copy_error(what: &'static str, bytes: usize) -> impl Fn(String) -> CudaError {
    move |reason| CudaError::Copy {
        what,
        bytes,
        reason,
    }
}
