//! What the driver keeps under its lock: the first failure, the kernels, pinned memory and graphs.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraphExec, CUresult};

use crate::cuda::CudaError;
use crate::cuda::device::MARKS;
use crate::cuda::library::{check, words};
use crate::cuda::module::Modules;

/// See the module's head.
pub(super) struct State {
    /// The first failure.
    pub(super) lost: Option<CudaError>,
    pub(super) modules: Modules,
    /// The kernel that was launched last, unless a graph was.
    pub(super) last: Option<&'static str>,
    pub(super) recording: bool,
    /// Pinned memory by handle - 1, that which the recording uses, and that which is freed once the stream
    /// has been waited for.
    pub(super) host: Vec<Option<Arc<HostMemory>>>,
    pub(super) used: Vec<Arc<HostMemory>>,
    pub(super) retired: Vec<Arc<HostMemory>>,
    /// By handle - 1.
    pub(super) graphs: Vec<Option<RecordedGraph>>,
    pub(super) marked: [bool; MARKS],
    /// Addresses of device memory.
    pub(super) allocated: Vec<u64>,
}

/// Pinned memory: freed when its handle and all graphs that use it are gone, with the context current.
pub(super) struct HostMemory {
    pub(super) memory: *mut u8,
    pub(super) bytes: usize,
}

// SAFETY: the memory is only touched under the state's lock, or by the device.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Where `bytes` from `at` on lie, if they are inside.
    pub(super) fn range(&self, at: usize, bytes: usize) -> Option<*mut u8> {
        let end = at.checked_add(bytes)?;
        (end <= self.bytes).then(|| self.memory.wrapping_add(at))
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: the driver gave it; the last copy from or to it has been waited for.
        let _ = unsafe { sys::cuMemFreeHost(self.memory.cast()) };
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
        // SAFETY: the driver gave it, and it is not launched again.
        let _ = unsafe { sys::cuGraphExecDestroy(self.exec) };
    }
}

impl State {
    /// Notes the error that loses the device, and gives it back.
    pub(super) fn lose(&mut self, error: CudaError) -> CudaError {
        self.lost.get_or_insert_with(|| error.clone());
        error
    }

    /// A driver's answer; a failure loses the device.
    pub(super) fn check(
        &mut self,
        code: CUresult,
        error: impl Fn(String) -> CudaError,
    ) -> Result<(), CudaError> {
        check(code).map_err(|code| self.lose(error(words(code))))
    }

    /// The pinned memory of a handle, and where a range of it lies.
    pub(super) fn host(
        &self,
        what: &'static str,
        memory: u64,
        at: usize,
        bytes: usize,
    ) -> Result<(&Arc<HostMemory>, *mut u8), CudaError> {
        let found = usize::try_from(memory)
            .ok()
            .and_then(|handle| self.host.get(handle.checked_sub(1)?)?.as_ref());
        found
            .and_then(|found| Some((found, found.range(at, bytes)?)))
            .ok_or_else(|| copy_error(what, bytes)("not within its pinned memory".into()))
    }

    /// As [`State::host`], for a copy: memory that a recording uses is kept for its graph.
    pub(super) fn host_for_copy(
        &mut self,
        what: &'static str,
        memory: u64,
        at: usize,
        bytes: usize,
    ) -> Result<*mut u8, CudaError> {
        let (memory, place) = self.host(what, memory, at, bytes)?;
        if self.recording {
            let memory = memory.clone();
            self.used.push(memory);
        }
        Ok(place)
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
