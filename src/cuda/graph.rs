//! A frame recorded once and replayed for every frame, and the pinned memory of the host that it copies
//! from and to.
//!
//! What is recorded is always the same: the copies' sizes, the launches' shapes and parameters. What
//! differs from frame to frame lies in memory. Only the copy of the input has a size that is the frame's
//! own: it is made on the same stream in front of the graph, which costs one call of the driver, as changing
//! its size inside the graph would.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use super::{Buffer, CudaError, Device, Place};

/// Launches and copies that were recorded, to be done again and again. Freed when dropped.
///
/// It holds the pinned memory that it copies from and to, but not the device memory: the buffers that its
/// kernels use must live as long as it is launched.
pub struct Graph {
    device: Arc<dyn Device>,
    graph: u64,
}

impl Graph {
    /// Records the launches, copies and marks that `calls` makes, without doing them. `calls` must have been
    /// made once before in earnest: a driver may load kernels at their first launch, which cannot be
    /// recorded.
    ///
    /// # Errors
    /// What `calls` gives, or [`CudaError::Graph`].
    pub fn record<E: From<CudaError>>(
        device: &Arc<dyn Device>,
        calls: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        device.begin()?;
        let called = calls();
        // Recording ends in any case; the first error is the one that says why.
        let ended = device.end().map(|graph| Self {
            device: device.clone(),
            graph,
        });
        called?;
        Ok(ended?)
    }

    /// Does what was recorded, without waiting.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    pub fn launch(&mut self) -> Result<(), CudaError> {
        self.device.replay(self.graph)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.free_graph(self.graph);
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph({})", self.graph)
    }
}

/// Pinned memory of the host that holds `len` values of `T`; freed when dropped. It can only be read and
/// written by copies, which wait for the device first: no reference into it is ever given out.
pub struct Pinned<T> {
    device: Arc<dyn Device>,
    what: &'static str,
    memory: u64,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Pinned<T> {
    /// Zeroed memory for `len` values. `what` names it in errors.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn zeroed(
        device: &Arc<dyn Device>,
        what: &'static str,
        len: usize,
    ) -> Result<Self, CudaError> {
        Ok(Self {
            device: device.clone(),
            what,
            memory: device.alloc_host(what, len.max(1) * size_of::<T>())?,
            len,
            values: PhantomData,
        })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Waits for the device, then writes `values` from value `at` on. They are of any type, so that a block
    /// of bytes can hold a header and what follows it; `at` counts values of `T`.
    ///
    /// # Errors
    /// [`CudaError::Copy`], also where they do not fit.
    pub fn write<U: Pod>(&mut self, at: usize, values: &[U]) -> Result<(), CudaError> {
        self.device.write_host(
            self.memory,
            at.saturating_mul(size_of::<T>()),
            bytemuck::cast_slice(values),
        )
    }

    /// Waits for the device, then reads values from value `at` on. As [`Pinned::write`].
    ///
    /// # Errors
    /// [`CudaError::Copy`], also where there are not as many, and for a kernel that failed before.
    pub fn read<U: Pod>(&self, at: usize, values: &mut [U]) -> Result<(), CudaError> {
        self.device.read_host(
            self.memory,
            at.saturating_mul(size_of::<T>()),
            bytemuck::cast_slice_mut(values),
        )
    }

    /// Copies the first `len` values to a buffer, without waiting; those past the end of either are not
    /// copied.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn copy_to(&self, buffer: &Buffer<T>, len: usize) -> Result<(), CudaError> {
        let len = len.min(self.len).min(buffer.len());
        let to = Place::Device(buffer.address());
        self.device
            .copy(self.what, self.place(), to, len * size_of::<T>())
    }

    /// Copies the first `len` values of a buffer here, without waiting; those past the end of either are
    /// not copied.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn copy_from(&self, buffer: &Buffer<T>, len: usize) -> Result<(), CudaError> {
        let len = len.min(self.len).min(buffer.len());
        let from = Place::Device(buffer.address());
        self.device
            .copy(self.what, from, self.place(), len * size_of::<T>())
    }

    /// Its beginning, as one end of a copy.
    pub fn place(&self) -> Place {
        Place::Host {
            memory: self.memory,
            at: 0,
        }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.device.free_host(self.memory);
    }
}

impl<T> std::fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pinned({}: {})", self.what, self.len)
    }
}
