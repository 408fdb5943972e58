//! The functions of libcuda that this crate calls, by the names that NVIDIA documents, from a table of our own.
//!
//! cudarc's functions return `CUresult`, a Rust enum; a driver that is newer than the enum may return a number that it
//! lacks, which is undefined behaviour. So the functions return the number here. Types and constants are cudarc's.
#![allow(unsafe_code, non_snake_case)]

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction,
    CUfunction_attribute, CUgraph, CUgraphExec, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};

/// The library's file names, in the order of search.
#[cfg(not(windows))]
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
#[cfg(windows)]
const NAMES: [&str; 1] = ["nvcuda.dll"];

/// What the driver returns instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DriverError(u32);

impl DriverError {
    pub(super) fn is(self, code: CUresult) -> bool {
        self.0 == code as u32
    }
}

/// Why there is no table.
#[derive(Debug)]
pub(super) enum Missing {
    Library,
    Function(&'static str),
}

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// Opens libcuda and looks up all functions, unless that has been done. Until then each of them fails.
pub(super) fn load() -> Result<(), Missing> {
    if FUNCTIONS.get().is_some() {
        return Ok(());
    }
    // SAFETY: the initialisers of libcuda are the driver's.
    let mut opened = NAMES
        .iter()
        .map(|name| unsafe { libloading::Library::new(*name) });
    let library = opened.find_map(Result::ok).ok_or(Missing::Library)?;
    let functions = Functions::find(library)?;
    let _ = FUNCTIONS.set(functions);
    Ok(())
}

macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) -> u32,)*
            /// The functions are its own.
            _library: libloading::Library,
        }

        impl Functions {
            fn find(library: libloading::Library) -> Result<Self, Missing> {
                Ok(Self {
                    // SAFETY: the function has this type, as NVIDIA documents it.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                        .map_err(|_| Missing::Function(stringify!($name)))?,)*
                    _library: library,
                })
            }
        }

        $(
            /// # Safety
            /// As NVIDIA documents the function.
            #[allow(clippy::too_many_arguments)]
            pub(super) unsafe fn $name($($argument: $type),*) -> Result<(), DriverError> {
                let Some(functions) = FUNCTIONS.get() else {
                    return Err(DriverError(CUresult::CUDA_ERROR_NOT_INITIALIZED as u32));
                };
                // SAFETY: this function's contract.
                match unsafe { (functions.$name)($($argument),*) } {
                    0 => Ok(()),
                    code => Err(DriverError(code)),
                }
            }
        )*
    };
}

functions! {
    cuCtxSetCurrent(context: CUcontext);
    cuDeviceGet(device: *mut CUdevice, ordinal: i32);
    cuDeviceGetAttribute(value: *mut i32, attribute: CUdevice_attribute, device: CUdevice);
    cuDeviceGetCount(count: *mut i32);
    cuDeviceGetName(name: *mut c_char, bytes: i32, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuDriverGetVersion(version: *mut i32);
    cuEventCreate(event: *mut CUevent, flags: u32);
    cuEventDestroy_v2(event: CUevent);
    cuEventElapsedTime(ms: *mut f32, from: CUevent, to: CUevent);
    cuEventRecordWithFlags(event: CUevent, stream: CUstream, flags: u32);
    cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: i32);
    cuGetErrorName(code: u32, text: *mut *const c_char);
    cuGetErrorString(code: u32, text: *mut *const c_char);
    cuGraphDestroy(graph: CUgraph);
    cuGraphExecDestroy(graph: CUgraphExec);
    cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
    cuGraphLaunch(graph: CUgraphExec, stream: CUstream);
    cuGraphUpload(graph: CUgraphExec, stream: CUstream);
    cuInit(flags: u32);
    cuLaunchKernel(
        function: CUfunction, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: CUstream, params: *mut *mut c_void, extra: *mut *mut c_void
    );
    cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    cuMemFreeHost(memory: *mut c_void);
    cuMemFree_v2(address: CUdeviceptr);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, flags: u32);
    cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    cuMemsetD8Async(to: CUdeviceptr, value: u8, bytes: usize, stream: CUstream);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuModuleLoadData(module: *mut CUmodule, code: *const c_void);
    cuModuleUnload(module: CUmodule);
    cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    cuStreamCreate(stream: *mut CUstream, flags: u32);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    cuStreamSynchronize(stream: CUstream);
}

/// The value after a call that gets its address.
pub(super) fn written<T>(
    mut value: T,
    call: impl FnOnce(*mut T) -> Result<(), DriverError>,
) -> Result<T, DriverError> {
    call(&raw mut value)?;
    Ok(value)
}

/// Name and meaning of an error, such as `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
pub(super) fn describe(error: DriverError) -> String {
    type Text = unsafe fn(u32, *mut *const c_char) -> Result<(), DriverError>;
    let text = |function: Text| {
        let mut text = std::ptr::null();
        // SAFETY: writes a pointer to a string of the driver that ends with 0, or null for an unknown code.
        unsafe { function(error.0, &mut text) }.ok()?;
        // SAFETY: as above.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy())
    };
    match (text(cuGetErrorName), text(cuGetErrorString)) {
        (Some(name), Some(text)) => format!("{name} ({text})"),
        _ => format!("CUDA error {}", error.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_fail_until_they_are_loaded() {
        if load().is_ok() {
            return;
        }
        // SAFETY: takes no pointer.
        let error = unsafe { cuInit(0) }.unwrap_err();
        assert!(error.is(CUresult::CUDA_ERROR_NOT_INITIALIZED));
        assert_eq!(describe(error), "CUDA error 3");
    }
}
