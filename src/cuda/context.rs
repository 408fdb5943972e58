//! One GPU: its primary context, one stream of our own, and the events that mark times on it.
#![allow(unsafe_code)]

use std::ptr;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute as Attribute, CUevent, CUresult, CUstream,
};

use super::CudaError;
use super::device::MARKS;
use super::library::{self, check, unavailable, words};

/// An opened GPU; given back when dropped.
pub(super) struct Context {
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    marks: Vec<CUevent>,
    name: String,
    architecture: u32,
    cuda: i32,
}

// SAFETY: the driver's handles may be used by any thread; the owner's lock gives the calls an order.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the first GPU that can be seen and makes its context current to this thread.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`], where there is no driver or no GPU.
    pub(super) fn open() -> Result<Self, CudaError> {
        let cuda = library::init()?;
        let mut count = 0;
        // SAFETY: writes one number.
        check(unsafe { sys::cuDeviceGetCount(&mut count) }).map_err(failed("counting GPUs"))?;
        if count == 0 {
            return Err(unavailable(
                "no NVIDIA GPU was found; see whether `nvidia-smi` works",
            ));
        }
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: each writes its first argument; the device is the driver's.
        unsafe {
            check(sys::cuDeviceGet(&mut device, 0)).map_err(failed("the first GPU"))?;
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device))
                .map_err(failed("a context on the GPU"))?;
        }
        // From here on dropping gives back what was had.
        let mut opened = Self {
            device,
            context,
            stream: ptr::null_mut(),
            marks: Vec::with_capacity(MARKS),
            name: name(device)?,
            architecture: architecture(device)?,
            cuda,
        };
        opened
            .make_current()
            .map_err(failed("a context on the GPU"))?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes the stream's handle; a context is current.
        check(unsafe { sys::cuStreamCreate(&mut opened.stream, flags) })
            .map_err(failed("a stream on the GPU"))?;
        for _ in 0..MARKS {
            let mut event = ptr::null_mut();
            // SAFETY: writes the event's handle; a context is current.
            check(unsafe { sys::cuEventCreate(&mut event, 0) })
                .map_err(failed("an event on the GPU"))?;
            opened.marks.push(event);
        }
        Ok(opened)
    }

    /// Makes the context current to the calling thread, as most calls of the driver want it.
    pub(super) fn make_current(&self) -> Result<(), CUresult> {
        // SAFETY: the context is retained as long as `self` lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Waits for all that the stream was given.
    pub(super) fn wait(&self) -> Result<(), CUresult> {
        // SAFETY: the stream is ours.
        check(unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    pub(super) fn stream(&self) -> CUstream {
        self.stream
    }

    /// The event of a mark below [`MARKS`].
    pub(super) fn mark(&self, mark: usize) -> Option<CUevent> {
        self.marks.get(mark).copied()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As 87 for Orin.
    pub(super) fn architecture(&self) -> u32 {
        self.architecture
    }

    /// The newest CUDA that the driver knows, as 12060 for 12.6.
    pub(super) fn cuda(&self) -> i32 {
        self.cuda
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // What the driver answers changes nothing: a lost context gives errors here, and so does a driver
        // that has been shut down at the program's end.
        let _ = self.make_current();
        // SAFETY: all handles are ours and are not used any more.
        unsafe {
            for event in self.marks.drain(..) {
                let _ = sys::cuEventDestroy_v2(event);
            }
            if !self.stream.is_null() {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// Turns the driver's answer into a sentence about what was being done.
fn failed(what: &'static str) -> impl Fn(CUresult) -> CudaError {
    move |code| unavailable(&format!("{what}: {}", words(code)))
}

fn name(device: CUdevice) -> Result<String, CudaError> {
    let mut name = [0u8; 128];
    // SAFETY: writes at most as many bytes as said, the last of them 0.
    check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device) })
        .map_err(failed("the GPU's name"))?;
    let end = name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

fn architecture(device: CUdevice) -> Result<u32, CudaError> {
    let number = |what| {
        let mut value = 0;
        // SAFETY: writes one number.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, what, device) })
            .map(|()| value.unsigned_abs())
            .map_err(failed("the GPU's architecture"))
    };
    let major = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(major * 10 + minor)
}
