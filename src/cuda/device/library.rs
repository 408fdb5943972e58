//! The driver's library: checks that it is present and usable.
#![allow(unsafe_code)]

use cudarc::driver::sys::CUresult;

use super::calls::{self, Missing, describe};
use super::error::CudaError;

/// Oldest driver: CUDA 11.4, which JetPack 5 and the 470 series provide.
const OLDEST: i32 = 11040;

/// Opens the library and initialises the driver; returns the driver's CUDA version, 12060 for 12.6. Every
/// other driver call comes after this.
///
/// # Errors
/// [`CudaError::Unavailable`], with advice.
pub(super) fn init() -> Result<i32, CudaError> {
    calls::load().map_err(|missing| match missing {
        Missing::Library => unavailable("libcuda was not found; install the NVIDIA driver"),
        Missing::Function(name) => unavailable(&format!(
            "the NVIDIA driver is too old, it lacks {name}; install one for CUDA 11.4 or newer (470)"
        )),
    })?;
    let mut version = 0;
    // SAFETY: writes one int; allowed before `cuInit`.
    let asked = unsafe { calls::cuDriverGetVersion(&mut version) };
    if asked.is_ok() && version != 0 && version < OLDEST {
        return Err(unavailable(&format!(
            "the NVIDIA driver is for CUDA {}.{}; install one for 11.4 or newer (470)",
            version / 1000,
            version % 1000 / 10
        )));
    }
    // SAFETY: takes no pointer.
    unsafe { calls::cuInit(0) }.map_err(|error| {
        let advice = if error.is(CUresult::CUDA_ERROR_NO_DEVICE) {
            "this machine has no visible NVIDIA GPU"
        } else if error.is(CUresult::CUDA_ERROR_STUB_LIBRARY) {
            "the libcuda that was found is the toolkit's stub; remove its folder from LD_LIBRARY_PATH"
        } else if error.is(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH) {
            "libcuda and the kernel module have different versions; restart the machine"
        } else {
            "check that `nvidia-smi` works"
        };
        unavailable(&format!("{}: {advice}", describe(error)))
    })?;
    Ok(version)
}

pub(super) fn unavailable(reason: &str) -> CudaError {
    CudaError::Unavailable {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_is_told_what_to_install() {
        let present = calls::load().is_ok();
        let message = init().map_or_else(|error| error.to_string(), |_| String::new());
        let told = message.contains("libcuda was not found; install the NVIDIA driver");
        assert_eq!(told, !present, "{message}");
    }
}
