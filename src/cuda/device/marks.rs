//! Marks of time on a device's stream, each owner's own: detectors that share a device do not set each other's.

use std::sync::Arc;

use super::error::CudaError;
use super::interface::Device;

/// Marks by number, or none; freed when dropped. Graphs that set them must be gone by then.
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

    /// Sets a mark, if there are any, to the time at this point of the stream.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    pub(crate) fn set(&self, mark: usize) -> Result<(), CudaError> {
        match self.handles.get(mark) {
            Some(mark) => self.device.mark(*mark),
            None => Ok(()),
        }
    }

    /// Waits for the device. Returns the milliseconds between two marks, 0 if there are none.
    ///
    /// # Errors
    /// [`CudaError::Graph`] if one of them was never set.
    pub(crate) fn between(&self, from: usize, to: usize) -> Result<f64, CudaError> {
        match (self.handles.get(from), self.handles.get(to)) {
            (Some(from), Some(to)) => self.device.elapsed(*from, *to),
            _ => Ok(0.0),
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        for mark in &self.handles {
            self.device.free_mark(*mark);
        }
    }
}
