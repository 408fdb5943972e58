//! One GPU: its primary context, a stream of our own, and events that record times on it.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::ptr;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute as Attribute, CUevent, CUevent_flags,
    CUevent_record_flags, CUstream, CUstream_flags,
};

use super::calls::{self, DriverError, describe, written};
use super::error::CudaError;
use super::library::{self, unavailable};

/// An opened GPU; released when dropped.
pub(super) struct Context {
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    name: String,
    architecture: u32,
    multiprocessors: u32,
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
        // SAFETY: writes an int.
        let count = written(0, |count| unsafe { calls::cuDeviceGetCount(count) });
        if count.map_err(failed("counting GPUs"))? == 0 {
            return Err(unavailable(
                "no NVIDIA GPU was found; check that `nvidia-smi` works",
            ));
        }
        // SAFETY: writes a device.
        let device = written(0, |device| unsafe { calls::cuDeviceGet(device, 0) })
            .map_err(failed("the first GPU"))?;
        let name = name(device).map_err(failed("the GPU's name"))?;
        let architecture = architecture(device)?;
        let multiprocessors = number(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let context = written(ptr::null_mut(), |context| {
            // SAFETY: writes a context; the driver returned the device.
            unsafe { calls::cuDevicePrimaryCtxRetain(context, device) }
        })
        .map_err(failed("a context on the GPU"))?;
        // From here on, dropping releases what has been acquired.
        let mut opened = Self {
            device,
            context,
            stream: ptr::null_mut(),
            name,
            architecture,
            multiprocessors,
            cuda,
        };
        opened
            .make_current()
            .map_err(failed("a context on the GPU"))?;
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        opened.stream = written(ptr::null_mut(), |stream| {
            // SAFETY: writes a stream.
            unsafe { calls::cuStreamCreate(stream, flags) }
        })
        .map_err(failed("a stream on the GPU"))?;
        Ok(opened)
    }

    /// Makes the context current to the calling thread, as most driver calls require.
    pub(super) fn make_current(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { calls::cuCtxSetCurrent(self.context) }
    }

    /// Waits for everything on the stream.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream is ours and alive.
        unsafe { calls::cuStreamSynchronize(self.stream) }
    }

    pub(super) fn stream(&self) -> CUstream {
        self.stream
    }

    /// Records the time at this point of the stream in an event of this context.
    pub(super) fn mark(&self, event: &Event, recording: bool) -> Result<(), DriverError> {
        use CUevent_record_flags as Flags;
        let flags = if recording {
            // By default a recorded event only orders the graph's nodes and takes no time.
            Flags::CU_EVENT_RECORD_EXTERNAL
        } else {
            Flags::CU_EVENT_RECORD_DEFAULT
        };
        // SAFETY: event and stream are ours and alive.
        unsafe { calls::cuEventRecordWithFlags(event.0, self.stream, flags as u32) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability: 87 for Orin.
    pub(super) fn architecture(&self) -> u32 {
        self.architecture
    }

    pub(super) fn multiprocessors(&self) -> u32 {
        self.multiprocessors
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
        if !self.stream.is_null() {
            // SAFETY: the stream is ours and nobody uses it any more.
            let _ = unsafe { calls::cuStreamDestroy_v2(self.stream) };
        }
        // Whoever asks for the current context next, as TensorRT does, must not find one that is gone.
        // SAFETY: no context is always valid.
        let _ = unsafe { calls::cuCtxSetCurrent(ptr::null_mut()) };
        // SAFETY: `open` retained it once.
        let _ = unsafe { calls::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A point in time of a stream. Its context must be current when it is dropped.
pub(super) struct Event(CUevent);

// SAFETY: any thread may use the driver's handles; the owner's lock orders the calls.
unsafe impl Send for Event {}

impl Event {
    /// An event of the current context.
    pub(super) fn new() -> Result<Self, DriverError> {
        let flags = CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: writes an event.
        written(ptr::null_mut(), |event| unsafe {
            calls::cuEventCreate(event, flags)
        })
        .map(Self)
    }

    /// Milliseconds from this event until another one; both have been recorded and waited for.
    pub(super) fn until(&self, other: &Self) -> Result<f32, DriverError> {
        // SAFETY: writes a float; both events are alive.
        written(0.0, |ms| unsafe {
            calls::cuEventElapsedTime(ms, self.0, other.0)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours; the driver keeps what work that is under way needs.
        let _ = unsafe { calls::cuEventDestroy_v2(self.0) };
    }
}

/// Turns a driver error into one that says what failed.
fn failed(what: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| unavailable(&format!("{what}: {}", describe(error)))
}

/// The GPU's name, of at most 127 bytes.
fn name(device: CUdevice) -> Result<String, DriverError> {
    let mut name = [0; 128];
    // SAFETY: writes at most so many bytes, the last one a 0.
    unsafe { calls::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), 128, device) }?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// A property of the GPU that is a number.
fn number(device: CUdevice, attribute: Attribute) -> Result<u32, CudaError> {
    // SAFETY: writes an int; the driver returned the device.
    let written = written(0, |value| unsafe {
        calls::cuDeviceGetAttribute(value, attribute, device)
    });
    written
        .map(i32::unsigned_abs)
        .map_err(failed("the GPU's properties"))
}

fn architecture(device: CUdevice) -> Result<u32, CudaError> {
    let major = number(
        device,
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
    )?;
    let minor = number(
        device,
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )?;
    Ok(major * 10 + minor)
}
