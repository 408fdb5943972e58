//! Marks of time on a device's stream, each owner's own: detectors that share a device do not set each other's.

use std::sync::Arc;

use super::error::CudaError;
use super::interface::Device;

/// Marks by number; freed when dropped. Graphs that set them must be gone by then.
pub(crate) struct Marks {
    device: Arc<dyn Device>,
    handles: Vec<u64>,
}

impl Marks {
    /// Creates `count` marks.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    pub(crate) fn new(device: &Arc<dyn Device>, count: usize) -> Result<Self, CudaError> {
        let mut marks = Self {
            device: device.clone(),
            handles: Vec::with_capacity(count),
        };
        for _ in 0..count {
            marks.handles.push(device.create_mark()?);
        }
        Ok(marks)
    }

    /// Sets a mark to the time at this point of the stream.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    pub(crate) fn set(&self, mark: usize) -> Result<(), CudaError> {
        self.device.mark(self.handles[mark])
    }

    /// Waits for the device. Returns the milliseconds between two marks.
    ///
    /// # Errors
    /// [`CudaError::Graph`] if one of them was never set.
    pub(crate) fn between(&self, from: usize, to: usize) -> Result<f64, CudaError> {
        self.device.elapsed(self.handles[from], self.handles[to])
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        for mark in &self.handles {
            self.device.free_mark(*mark);
        }
    }
}
