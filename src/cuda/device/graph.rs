//! A frame's launches, recorded once and replayed for every frame.
//!
//! A recording is the same for every frame: sizes of copies, shapes and parameters of launches. What differs
//! lies in memory. Only the copy of the input has the frame's own size: it runs on the same stream ahead of the
//! graph. That costs one driver call, as resizing it inside the graph would.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::error::CudaError;
use super::interface::Device;

/// Recorded launches and copies, to be replayed; freed when dropped. It keeps the pinned memory that it copies
/// from and to, but not the device memory.
pub(crate) struct Graph {
    device: Arc<dyn Device>,
    graph: u64,
}

impl Graph {
    /// Records the launches, copies and marks that `calls` makes, without running them. Run `calls` once before
    /// this: a driver may load kernels at their first launch, which it cannot record.
    ///
    /// # Errors
    /// Those of `calls`, or [`CudaError::Graph`]. Nothing has run, so the device is still there.
    pub(crate) fn record<E: From<CudaError>>(
        device: &Arc<dyn Device>,
        calls: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        device.begin()?;
        let recording = Recording(device);
        let called = calls();
        // The first error is the one that explains the failure.
        let ended = recording.end().map(|graph| Self {
            device: device.clone(),
            graph,
        });
        called?;
        Ok(ended?)
    }

    /// Runs what was recorded, without waiting.
    ///
    /// # Safety
    /// The device memory that the recorded calls use is still allocated, and stays so until they have run.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    pub(crate) unsafe fn launch(&mut self) -> Result<(), CudaError> {
        // SAFETY: this function's contract.
        unsafe { self.device.replay(self.graph) }
    }
}

/// A recording that is under way. It must end in any case, also if a panic passes: other threads wait for that.
struct Recording<'a>(&'a Arc<dyn Device>);

impl Recording<'_> {
    fn end(self) -> Result<u64, CudaError> {
        let device = self.0;
        std::mem::forget(self);
        device.end()
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Ok(graph) = self.0.end() {
            self.0.free_graph(graph);
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.free_graph(self.graph);
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({})", self.graph)
    }
}
