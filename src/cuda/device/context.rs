//! One GPU: its primary context, a stream of our own, and the events that record times on it.
//!
//! The calls are those of cudarc's `result` layer, except where an event is recorded: that layer cannot pass the
//! flag that a recorded graph needs.
#![allow(unsafe_code)]

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute as Attribute, CUevent, CUevent_flags, CUstream,
};

use super::error::CudaError;
use super::interface::MARKS;
use super::library::{self, describe, unavailable};

/// An opened GPU; released when dropped.
pub(super) struct Context {
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    marks: Vec<CUevent>,
    name: String,
    architecture: u32,
    cuda: i32,
}

// SAFETY: any thread may use the driver's handles; the owner's lock orders the calls.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the first visible GPU and makes its context current to this thread.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`] without a driver or a GPU.
    pub(super) fn open() -> Result<Self, CudaError> {
        let cuda = library::init()?;
        if result::device::get_count().map_err(failed("counting GPUs"))? == 0 {
            return Err(unavailable(
                "no NVIDIA GPU was found; check that `nvidia-smi` works",
            ));
        }
        let device = result::device::get(0).map_err(failed("the first GPU"))?;
        let name = result::device::get_name(device).map_err(failed("the GPU's name"))?;
        let architecture = architecture(device)?;
        // SAFETY: the driver returned the device.
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(failed("a context on the GPU"))?;
        // From here on, dropping releases what has been acquired.
        let mut opened = Self {
            device,
            context,
            stream: std::ptr::null_mut(),
            marks: Vec::with_capacity(MARKS),
            name,
            architecture,
            cuda,
        };
        opened
            .make_current()
            .map_err(failed("a context on the GPU"))?;
        opened.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("a stream on the GPU"))?;
        for _ in 0..MARKS {
            let event = result::event::create(CUevent_flags::CU_EVENT_DEFAULT)
                .map_err(failed("an event on the GPU"))?;
            opened.marks.push(event);
        }
        Ok(opened)
    }

    /// Makes the context current to the calling thread, as most driver calls require.
    pub(super) fn make_current(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }
    }

    /// Waits for everything on the stream.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream is ours and alive.
        unsafe { result::stream::synchronize(self.stream) }
    }

    pub(super) fn stream(&self) -> CUstream {
        self.stream
    }

    /// Records the time at this point of the stream as a mark below [`MARKS`]. `None` if there is no such mark.
    pub(super) fn mark(&self, mark: usize, recording: bool) -> Option<Result<(), DriverError>> {
        use sys::CUevent_record_flags as Flags;
        let event = *self.marks.get(mark)?;
        let flags = if recording {
            // By default a recorded event only orders the graph's nodes and takes no time.
            Flags::CU_EVENT_RECORD_EXTERNAL
        } else {
            Flags::CU_EVENT_RECORD_DEFAULT
        };
        // SAFETY: event and stream are ours and alive.
        let marked = unsafe { sys::cuEventRecordWithFlags(event, self.stream, flags as u32) };
        Some(marked.result())
    }

    /// Milliseconds between two marks that are set. `None` if there is no such mark.
    pub(super) fn elapsed(&self, from: usize, to: usize) -> Option<Result<f32, DriverError>> {
        let (from, to) = (*self.marks.get(from)?, *self.marks.get(to)?);
        // SAFETY: both events are ours and alive.
        Some(unsafe { result::event::elapsed(from, to) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability: 87 for Orin.
    pub(super) fn architecture(&self) -> u32 {
        self.architecture
    }

    /// The newest CUDA version that the driver supports: 12060 stands for 12.6.
    pub(super) fn cuda(&self) -> i32 {
        self.cuda
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Errors are of no use here: a lost context returns them, and so does a driver that the end of the
        // program has shut down.
        let _ = self.make_current();
        for event in self.marks.drain(..) {
            // SAFETY: the event is ours and nobody uses it any more.
            let _ = unsafe { result::event::destroy(event) };
        }
        if !self.stream.is_null() {
            // SAFETY: the stream is ours and nobody uses it any more.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        // Whoever asks for the current context next, as TensorRT does, must not find one that is gone.
        // SAFETY: no context is always valid.
        let _ = unsafe { result::ctx::set_current(std::ptr::null_mut()) };
        // SAFETY: `open` retained it once.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Turns a driver error into one that says what failed.
fn failed(what: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| unavailable(&format!("{what}: {}", describe(error)))
}

fn architecture(device: CUdevice) -> Result<u32, CudaError> {
    let number = |attribute| {
        // SAFETY: the driver returned the device.
        unsafe { result::device::get_attribute(device, attribute) }
            .map(i32::unsigned_abs)
            .map_err(failed("the GPU's architecture"))
    };
    let major = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(major * 10 + minor)
}
