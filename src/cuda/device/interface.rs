//! What the stages need of a device: memory, copies, kernel launches and graphs.
//!
//! The trait works with addresses and handles, so that an implementation stays small. [`Buffer`], [`Pinned`]
//! and [`Graph`] own them and free them when dropped.
//!
//! [`Buffer`]: super::Buffer
//! [`Pinned`]: super::Pinned
//! [`Graph`]: super::Graph
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use bytemuck::NoUninit;

use super::error::CudaError;
use super::ptr::DevicePtr;

/// A device: the CUDA driver, or the tests' emulation of one. Calls take effect in the order they are made.
pub trait Device: Send + Sync {
    /// Its name, for reports.
    fn name(&self) -> &str;

    /// Bytes of device memory that all programs together use; `None` if unknown.
    fn memory_used(&self) -> Option<u64>;

    /// Its multiprocessors: how many times the blocks that one holds run at once.
    fn multiprocessors(&self) -> u32;

    /// Allocates zeroed memory, aligned to 256 bytes. `what` names it in errors.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr<u8>, CudaError>;

    /// Frees memory once the device has finished with it.
    ///
    /// # Safety
    /// [`Device::alloc`] of this device returned `memory`, and nothing uses it from here on: neither a later
    /// call nor a graph.
    unsafe fn free(&self, memory: DevicePtr<u8>);

    /// Copies to the device. The caller may reuse `bytes` at once.
    ///
    /// # Safety
    /// `to` points to at least `bytes.len()` bytes of this device's memory.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    unsafe fn upload(
        &self,
        what: &'static str,
        to: DevicePtr<u8>,
        bytes: &[u8],
    ) -> Result<(), CudaError>;

    /// Copies from the device, and waits for the copy.
    ///
    /// # Safety
    /// `from` points to at least `bytes.len()` bytes of this device's memory.
    ///
    /// # Errors
    /// [`CudaError::Copy`]; the error of an earlier kernel that failed.
    unsafe fn download(
        &self,
        what: &'static str,
        from: DevicePtr<u8>,
        bytes: &mut [u8],
    ) -> Result<(), CudaError>;

    /// Launches a kernel with its parameter struct.
    ///
    /// # Safety
    /// `params` are the bytes of the struct that the kernel takes. Each address in it points to as much of this
    /// device's memory as the kernel reaches with the numbers beside it, and stays valid until the kernel has
    /// run.
    ///
    /// # Errors
    /// [`CudaError::Kernel`].
    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError>;

    /// Calls `work` with the device's stream, to enqueue foreign work such as a run of an engine. `work` must
    /// only enqueue. The device records this like a launch; a device that records calls itself calls `work`
    /// again at every replay.
    ///
    /// # Errors
    /// Those of `work`, after which the device is lost; while it records, only the recording is.
    fn enqueue(&self, what: &'static str, work: &StreamWork) -> Result<(), CudaError>;

    /// Waits for everything on the stream.
    ///
    /// # Errors
    /// The error of an earlier kernel or copy that failed.
    fn wait(&self) -> Result<(), CudaError>;

    /// Allocates zeroed pinned host memory, which the device copies from and to by itself. Returns a handle.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn alloc_host(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError>;

    /// Frees pinned memory once no graph uses it.
    fn free_host(&self, memory: u64);

    /// Waits for copies that use these bytes of pinned memory, then writes to it, starting at byte `at`.
    ///
    /// # Errors
    /// [`CudaError::Copy`], also if the range is outside the memory.
    fn write_host(&self, memory: u64, at: usize, bytes: &[u8]) -> Result<(), CudaError>;

    /// Waits for the device, then reads pinned memory, starting at byte `at`.
    ///
    /// # Errors
    /// [`CudaError::Copy`], also if the range is outside the memory; the error of an earlier kernel that
    /// failed.
    fn read_host(&self, memory: u64, at: usize, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Copies between pinned and device memory or within device memory, without waiting.
    ///
    /// # Safety
    /// Each end on the device points to at least `bytes` bytes of this device's memory, which stay valid until
    /// the copy has run.
    ///
    /// # Errors
    /// [`CudaError::Copy`], also between two ends on the host.
    unsafe fn copy(
        &self,
        what: &'static str,
        from: CopyEnd,
        to: CopyEnd,
        bytes: usize,
    ) -> Result<(), CudaError>;

    /// Starts to record launches, copies and marks instead of running them. No other call is allowed until
    /// [`Device::end`].
    ///
    /// # Errors
    /// [`CudaError::Graph`] if a recording is under way.
    fn begin(&self) -> Result<(), CudaError>;

    /// Ends the recording. Returns the graph's handle.
    ///
    /// # Errors
    /// [`CudaError::Graph`], also if one of the recorded calls failed.
    fn end(&self) -> Result<u64, CudaError>;

    /// Runs a graph, without waiting.
    ///
    /// # Safety
    /// The device memory that the recorded calls use stays valid until they have run.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    unsafe fn replay(&self, graph: u64) -> Result<(), CudaError>;

    /// Frees a graph.
    fn free_graph(&self, graph: u64);

    /// Creates a mark of time. Returns its handle.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    fn create_mark(&self) -> Result<u64, CudaError>;

    /// Frees a mark. No graph that sets it may run again.
    fn free_mark(&self, mark: u64);

    /// Sets a mark to the time at this point of the stream.
    ///
    /// # Errors
    /// [`CudaError::Graph`].
    fn mark(&self, mark: u64) -> Result<(), CudaError>;

    /// Waits for the device. Returns the milliseconds between two marks.
    ///
    /// # Errors
    /// [`CudaError::Graph`] if one of them was never set.
    fn elapsed(&self, from: u64, to: u64) -> Result<f64, CudaError>;
}

/// Enqueues foreign work on a device's stream; see [`Device::enqueue`].
pub type StreamWork = Arc<dyn Fn(&Stream) -> Result<(), CudaError> + Send + Sync>;

/// A device's stream (a `CUstream`), lent for one call.
#[derive(Debug)]
pub struct Stream(*mut c_void);

impl Stream {
    /// CUDA's default stream, for devices without one of their own.
    pub const DEFAULT: Self = Self(std::ptr::null_mut());

    /// Wraps a raw stream.
    ///
    /// # Safety
    /// `stream` is null or a stream of the current context that lives as long as the result.
    pub unsafe fn from_raw(stream: *mut c_void) -> Self {
        Self(stream)
    }

    /// The raw stream.
    pub fn as_raw(&self) -> *mut c_void {
        self.0
    }
}

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// Pinned host memory, starting at byte `at`.
    Host {
        /// The memory's handle.
        memory: u64,
        /// Offset in bytes.
        at: usize,
    },
    /// Device memory.
    Device(DevicePtr<u8>),
}

/// A kernel and the shape of its grid.
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
    /// Enough blocks of `block` threads for `threads`, at least one.
    pub fn for_threads(kernel: &'static str, threads: usize, block: u32) -> Self {
        let blocks = threads.div_ceil(block as usize).max(1);
        Self {
            kernel,
            grid: [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1],
            block,
            shared: 0,
        }
    }
}

/// The parameter struct of a stage's kernels, which the stage alone can build.
///
/// It moves the proof that a launch is sound from every launch to the struct, so that [`launch()`] is safe.
///
/// # Safety
/// The struct mirrors the one that each of [`KernelParams::KERNELS`] takes. The implementing stage passes
/// [`launch()`] only values whose addresses come from live buffers that are as long as the kernel reaches with
/// the numbers beside them, and grids that the kernel supports.
pub(in crate::cuda) unsafe trait KernelParams: NoUninit {
    /// The kernels that take it.
    const KERNELS: &'static [&'static str];
}

/// Launches a kernel of this crate.
///
/// # Errors
/// [`CudaError::Kernel`].
pub(in crate::cuda) fn launch<P: KernelParams>(
    device: &dyn Device,
    launch: &Launch,
    params: &P,
) -> Result<(), CudaError> {
    if !P::KERNELS.contains(&launch.kernel) {
        return Err(CudaError::Kernel {
            kernel: launch.kernel.into(),
            reason: format!("its parameters are those of {:?}", P::KERNELS),
        });
    }
    // SAFETY: the kernel takes `P`, whose implementation vouches for the addresses in it. Buffers that are
    // dropped meanwhile are freed only after the kernel has run, see `Device::free`.
    unsafe { device.launch(launch, bytemuck::bytes_of(params)) }
}

/// A GPU, described without loading kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name, such as `Orin`.
    pub name: String,
    /// Its compute capability: 87 stands for 8.7.
    pub architecture: u32,
    /// The newest CUDA version that its driver supports: 12060 stands for 12.6.
    pub cuda: u32,
}
