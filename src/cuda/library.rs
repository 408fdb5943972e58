//! The driver's library: whether it is there and usable, and what its errors mean.
//!
//! cudarc opens libcuda when first asked, and panics where the library or one of its functions is missing.
//! So everything that this module's neighbours call is looked up here once, before the first call.
#![allow(unsafe_code)]

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUresult};

use super::CudaError;

/// Oldest driver: CUDA 11.4, which JetPack 5 and the 470 series have.
const OLDEST: i32 = 11040;

/// All functions of libcuda that `src/cuda/` calls; a test compares.
const FUNCTIONS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecordWithFlags",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// Opens the library and initialises the driver; gives the CUDA version of the driver, as 12060 for 12.6.
/// Every other call of the driver comes after this.
///
/// # Errors
/// [`CudaError::Unavailable`], with what to do.
pub(super) fn init() -> Result<i32, CudaError> {
    // SAFETY: opens libcuda, whose initialisers are the driver's.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable(
            "libcuda was not found; install the NVIDIA driver",
        ));
    }
    // SAFETY: as above; it is there, so this does not panic.
    let library = unsafe { sys::culib() };
    for name in FUNCTIONS {
        // SAFETY: the function is only looked up, not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(unavailable(&format!(
                "the NVIDIA driver is too old, it has no {name}; install one for CUDA 11.4 or newer \
                 (470)"
            )));
        }
    }
    let mut version = 0;
    // SAFETY: writes one int; may be called before `cuInit`.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    if asked == CUresult::CUDA_SUCCESS && version != 0 && version < OLDEST {
        return Err(unavailable(&format!(
            "the NVIDIA driver is for CUDA {}.{}; install one for 11.4 or newer (470)",
            version / 1000,
            version % 1000 / 10
        )));
    }
    // SAFETY: takes no memory.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => Ok(version),
        code => {
            let advice = match code {
                CUresult::CUDA_ERROR_NO_DEVICE => "this machine has no NVIDIA GPU that can be seen",
                CUresult::CUDA_ERROR_STUB_LIBRARY => {
                    "the libcuda that was found is the toolkit's stub; take its folder out of \
                     LD_LIBRARY_PATH"
                }
                CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
                    "libcuda and the kernel's module are of two versions; restart the machine"
                }
                _ => "see whether `nvidia-smi` works",
            };
            Err(unavailable(&format!("{}: {advice}", words(code))))
        }
    }
}

pub(super) fn unavailable(reason: &str) -> CudaError {
    CudaError::Unavailable {
        reason: reason.into(),
    }
}

/// The driver's answer as a result.
pub(super) fn check(code: CUresult) -> Result<(), CUresult> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(code),
    }
}

/// Name and meaning of an error, such as `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
pub(super) fn words(code: CUresult) -> String {
    let mut name = std::ptr::null();
    let mut text = std::ptr::null();
    // SAFETY: each writes a pointer: null, or a string of the library's that stays.
    unsafe {
        let _ = sys::cuGetErrorName(code, &mut name);
        let _ = sys::cuGetErrorString(code, &mut text);
    }
    let string = |pointer: *const std::ffi::c_char| {
        // SAFETY: null was asked for, and otherwise it is such a string.
        (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy())
    };
    match (string(name), string(text)) {
        (Some(name), Some(text)) => format!("{name} ({text})"),
        _ => format!("CUDA error {}", code as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_that_is_called_is_looked_up_first() {
        let mut called: Vec<&str> = Vec::new();
        for source in [
            include_str!("library.rs"),
            include_str!("module.rs"),
            include_str!("context.rs"),
            include_str!("driver.rs"),
            include_str!("driver/state.rs"),
        ] {
            // In two parts, so that this line is not one of those that it finds.
            for (at, _) in source.match_indices(concat!("sys::", "cu")) {
                let name = source[at + 5..]
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap();
                if name != "culib" {
                    called.push(name);
                }
            }
        }
        called.sort_unstable();
        called.dedup();
        assert_eq!(called, FUNCTIONS);
    }

    #[test]
    fn a_machine_without_a_driver_gets_a_sentence() {
        // SAFETY: opens libcuda if it is there.
        if unsafe { sys::is_culib_present() } {
            println!("skipped: this machine has libcuda");
            return;
        }
        let sentence = init().unwrap_err().to_string();
        assert!(sentence.contains("install the NVIDIA driver"), "{sentence}");
    }
}
