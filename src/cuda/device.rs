//! What a frame needs of a device: memory, copies, kernel launches, and graphs of them, in the order of
//! one stream.
//!
//! The trait speaks in plain numbers, so that an implementation is small. Owners of those numbers, which
//! free them when dropped, are [`Buffer`] for device memory, and [`Pinned`](super::Pinned) and
//! [`Graph`](super::Graph) in `graph.rs`.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use super::CudaError;

/// A device: the CUDA driver, or in the tests an emulation of it. All calls take effect in the order in
/// which they are made.
///
/// A kernel works on device memory by address, which no type checks: as with any driver, a wrong address in
/// a launch's parameters is a bug that only the tests of the stages can find.
pub trait Device: Send + Sync {
    /// Its name, for reports.
    fn name(&self) -> &str;

    /// Bytes of the device's memory that are taken, by whatever program; `None` where it cannot tell.
    fn memory_used(&self) -> Option<u64>;

    /// Allocates zeroed memory, aligned to 256 bytes. `what` names it in errors.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError>;

    /// Frees what [`Device::alloc`] gave.
    fn free(&self, address: u64);

    /// Copies to the device. `bytes` may be reused at once.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    fn upload(&self, what: &'static str, to: u64, bytes: &[u8]) -> Result<(), CudaError>;

    /// Copies from the device, and waits for it.
    ///
    /// # Errors
    /// [`CudaError::Copy`]; also for a kernel that failed before.
    fn download(&self, what: &'static str, from: u64, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Launches a kernel with its parameter struct.
    ///
    /// # Errors
    /// [`CudaError::Kernel`].
    fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError>;

    /// Puts somebody else's work on the stream, such as a run of an engine: `work` is called with the
    /// stream's handle, and must only enqueue. What it enqueues is recorded like a launch; a device that
    /// records calls itself calls `work` again at every replay.
    ///
    /// # Errors
    /// Those of `work`, after which the device is lost.
    fn enqueue(&self, what: &'static str, work: &Work) -> Result<(), CudaError>;

    /// Allocates zeroed pinned memory of the host, which the device copies from and to by itself. Gives its
    /// handle.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn alloc_host(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError>;

    /// Frees what [`Device::alloc_host`] gave, once no graph uses it.
    fn free_host(&self, memory: u64);

    /// Waits for the device, then writes to pinned memory from byte `at` on.
    ///
    /// # Errors
    /// [`CudaError::Copy`]; also for a range outside the memory.
    fn write_host(&self, memory: u64, at: usize, bytes: &[u8]) -> Result<(), CudaError>;

    /// Waits for the device, then reads pinned memory from byte `at` on.
    ///
    /// # Errors
    /// [`CudaError::Copy`]; also for a range outside the memory, and for a kernel that failed before.
    fn read_host(&self, memory: u64, at: usize, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Copies between pinned and device memory or inside of the latter, without waiting.
    ///
    /// # Errors
    /// [`CudaError::Copy`]; also between two places of the host.
    fn copy(
        &self,
        what: &'static str,
        from: Place,
        to: Place,
        bytes: usize,
    ) -> Result<(), CudaError>;

    /// From here on launches, copies and marks are recorded instead of done; nothing else may be asked for.
    ///
    /// # Errors
    /// [`CudaError::Graph`], where something is being recorded already.
    fn begin(&self) -> Result<(), CudaError>;

    /// Ends what [`Device::begin`] began. Gives the graph's handle.
    ///
    /// # Errors
    /// [`CudaError::Graph`]; also where one of the recorded calls failed.
    fn end(&self) -> Result<u64, CudaError>;

    /// Does what a graph recorded, without waiting.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    fn replay(&self, graph: u64) -> Result<(), CudaError>;

    /// Frees what [`Device::end`] gave.
    fn free_graph(&self, graph: u64);

    /// Notes the time at this point of the stream as mark `mark`, below [`MARKS`].
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    fn mark(&self, mark: usize) -> Result<(), CudaError>;

    /// Waits for the device; milliseconds from one mark to another.
    ///
    /// # Errors
    /// [`CudaError::Graph`], where one of them was not set.
    fn elapsed(&self, from: usize, to: usize) -> Result<f64, CudaError>;
}

/// What [`Device::enqueue`] calls with the stream's handle (a `CUstream`).
pub type Work = Arc<dyn Fn(u64) -> Result<(), CudaError> + Send + Sync>;

/// How many marks of time a device keeps.
pub const MARKS: usize = 16;

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Pinned memory of the host, from byte `at` on.
    Host {
        /// Its handle.
        memory: u64,
        /// Offset in bytes.
        at: usize,
    },
    /// An address on the device.
    Device(u64),
}

/// A kernel and its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Name of the kernel, `<stage>_<what>`.
    pub kernel: &'static str,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
}

impl Launch {
    /// As many blocks of `block` threads as `threads` need, at least one.
    pub fn of(kernel: &'static str, threads: usize, block: u32) -> Self {
        let blocks = threads.div_ceil(block as usize).max(1);
        Self {
            kernel,
            grid: [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1],
            block,
            shared: 0,
        }
    }
}

/// Device memory that holds `len` values of `T`; freed when dropped.
pub struct Buffer<T> {
    device: Arc<dyn Device>,
    what: &'static str,
    address: u64,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Zeroed memory for `len` values.
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
            address: device.alloc(what, len.max(1) * size_of::<T>())?,
            len,
            values: PhantomData,
        })
    }

    /// Memory that holds `values`.
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(
        device: &Arc<dyn Device>,
        what: &'static str,
        values: &[T],
    ) -> Result<Self, CudaError> {
        let buffer = Self::zeroed(device, what, values.len())?;
        buffer.upload(values)?;
        Ok(buffer)
    }

    /// Its address on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the first values; those past the buffer's end are not written.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn upload(&self, values: &[T]) -> Result<(), CudaError> {
        let values = &values[..values.len().min(self.len)];
        self.device
            .upload(self.what, self.address, bytemuck::cast_slice(values))
    }

    /// Reads the first `len` values and waits for them: for tests, and for what is read once.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self, len: usize) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::zeroed(); len.min(self.len)];
        self.device.download(
            self.what,
            self.address,
            bytemuck::cast_slice_mut(&mut values),
        )?;
        Ok(values)
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.device.free(self.address);
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Buffer({}: {} at {:#x})",
            self.what, self.len, self.address
        )
    }
}
