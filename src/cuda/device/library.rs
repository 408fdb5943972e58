//! The driver's library: checks that it is present and usable, and explains its errors.
//!
//! cudarc opens libcuda at the first call, and panics if the library or a function is missing. So this file
//! looks up everything that its neighbours call before the first call: that cannot be left to cudarc.
#![allow(unsafe_code)]

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use super::error::CudaError;

/// Oldest driver: CUDA 11.4, which JetPack 5 and the 470 series provide.
const OLDEST: i32 = 11040;

/// Every driver call in `src/cuda/device/`, as the sources spell it, with the function of libcuda behind it.
/// Tests compare both columns with the sources and with cudarc.
const CALLS: &[(&str, &str)] = &[
    (".error_name", "cuGetErrorName"),
    (".error_string", "cuGetErrorString"),
    ("result::ctx::set_current", "cuCtxSetCurrent"),
    ("result::device::get", "cuDeviceGet"),
    ("result::device::get_attribute", "cuDeviceGetAttribute"),
    ("result::device::get_count", "cuDeviceGetCount"),
    ("result::device::get_name", "cuDeviceGetName"),
    ("result::event::create", "cuEventCreate"),
    ("result::event::destroy", "cuEventDestroy_v2"),
    ("result::event::elapsed", "cuEventElapsedTime"),
    ("result::free_host", "cuMemFreeHost"),
    ("result::free_sync", "cuMemFree_v2"),
    (
        "result::function::set_function_attribute",
        "cuFuncSetAttribute",
    ),
    ("result::graph::destroy", "cuGraphDestroy"),
    ("result::graph::exec_destroy", "cuGraphExecDestroy"),
    ("result::graph::instantiate", "cuGraphInstantiateWithFlags"),
    ("result::graph::launch", "cuGraphLaunch"),
    ("result::graph::upload", "cuGraphUpload"),
    ("result::init", "cuInit"),
    ("result::malloc_host", "cuMemHostAlloc"),
    ("result::malloc_sync", "cuMemAlloc_v2"),
    ("result::mem_get_info", "cuMemGetInfo_v2"),
    ("result::memcpy_dtod_async", "cuMemcpyDtoDAsync_v2"),
    ("result::memcpy_dtoh_async", "cuMemcpyDtoHAsync_v2"),
    ("result::memcpy_htod_async", "cuMemcpyHtoDAsync_v2"),
    ("result::memset_d8_async", "cuMemsetD8Async"),
    ("result::module::get_function", "cuModuleGetFunction"),
    ("result::module::load_data", "cuModuleLoadData"),
    ("result::module::unload", "cuModuleUnload"),
    (
        "result::primary_ctx::release",
        "cuDevicePrimaryCtxRelease_v2",
    ),
    ("result::primary_ctx::retain", "cuDevicePrimaryCtxRetain"),
    ("result::stream::begin_capture", "cuStreamBeginCapture_v2"),
    ("result::stream::create", "cuStreamCreate"),
    ("result::stream::destroy", "cuStreamDestroy_v2"),
    ("result::stream::end_capture", "cuStreamEndCapture"),
    ("result::stream::synchronize", "cuStreamSynchronize"),
    ("sys::cuDriverGetVersion", "cuDriverGetVersion"),
    ("sys::cuEventRecordWithFlags", "cuEventRecordWithFlags"),
    ("sys::cuLaunchKernel", "cuLaunchKernel"),
    ("sys::cuMemcpyDtoHAsync_v2", "cuMemcpyDtoHAsync_v2"),
    ("sys::cuMemcpyHtoDAsync_v2", "cuMemcpyHtoDAsync_v2"),
];

/// Opens the library and initialises the driver; returns the driver's CUDA version, 12060 for 12.6. Every
/// other driver call comes after this.
///
/// # Errors
/// [`CudaError::Unavailable`], with advice.
pub(super) fn init() -> Result<i32, CudaError> {
    // SAFETY: opens libcuda, whose initialisers are the driver's.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable(
            "libcuda was not found; install the NVIDIA driver",
        ));
    }
    // SAFETY: as above; the library is present, so this does not panic.
    let library = unsafe { sys::culib() };
    for (_, symbol) in CALLS {
        // SAFETY: the function is only looked up, not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err() {
            return Err(unavailable(&format!(
                "the NVIDIA driver is too old, it lacks {symbol}; install one for CUDA 11.4 or newer \
                 (470)"
            )));
        }
    }
    let mut version = 0;
    // SAFETY: writes one int; allowed before `cuInit`.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    if asked == CUresult::CUDA_SUCCESS && version != 0 && version < OLDEST {
        return Err(unavailable(&format!(
            "the NVIDIA driver is for CUDA {}.{}; install one for 11.4 or newer (470)",
            version / 1000,
            version % 1000 / 10
        )));
    }
    result::init().map_err(|error| {
        let advice = match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => "this machine has no visible NVIDIA GPU",
            CUresult::CUDA_ERROR_STUB_LIBRARY => {
                "the libcuda that was found is the toolkit's stub; remove its folder from LD_LIBRARY_PATH"
            }
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
                "libcuda and the kernel module have different versions; restart the machine"
            }
            _ => "check that `nvidia-smi` works",
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

/// Name and meaning of an error, such as `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
pub(super) fn describe(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", name.to_string_lossy(), text.to_string_lossy()),
        _ => format!("CUDA error {}", error.0 as u32),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    /// The paths that begin with `prefix` in a source.
    fn paths<'a>(source: &'a str, prefix: &str) -> impl Iterator<Item = &'a str> {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        let starts = source.match_indices(prefix).map(|(at, _)| at);
        starts
            // `result::` is also the end of `CUresult::`.
            .filter(move |&at| prefix.starts_with('.') || !source[..at].ends_with(in_word))
            .map(move |at| {
                let end = source[at + 1..].find(|c| !in_word(c) && c != ':');
                &source[at..end.map_or(source.len(), |end| at + 1 + end)]
            })
    }

    #[test]
    fn every_function_that_is_called_is_looked_up_first() {
        let mut called = BTreeSet::new();
        for source in [
            include_str!("library.rs"),
            include_str!("module.rs"),
            include_str!("context.rs"),
            include_str!("driver.rs"),
            include_str!("state.rs"),
        ] {
            let source = source.split("#[cfg(test)]").next().unwrap();
            let code = |line: &&str| !line.trim_start().starts_with(['/', '(', '"']);
            let code: String = source.lines().filter(code).collect();
            for prefix in [".error_", "result::", "sys::cu"] {
                called.extend(paths(&code, prefix).map(str::to_owned));
            }
        }
        // Not functions of the driver.
        for other in ["sys::culib", "result::stream::StreamKind::NonBlocking"] {
            assert!(called.remove(other), "{other}");
        }
        let listed = CALLS.iter().map(|(call, _)| (*call).to_owned());
        let called: Vec<String> = called
            .into_iter()
            .filter(|call| !call.ends_with("::"))
            .collect();
        assert_eq!(called, listed.collect::<Vec<_>>());
    }

    #[test]
    fn cudarc_calls_the_functions_that_are_listed() {
        let lock = include_str!("../../../Cargo.lock");
        let version = lock
            .split_once("name = \"cudarc\"\nversion = \"")
            .unwrap()
            .1;
        let package = format!("cudarc-{}", version.split('"').next().unwrap());
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.unwrap_or_else(|| std::env::home_dir().unwrap().join(".cargo"));
        let Ok(mut registries) = std::fs::read_dir(home.join("registry/src")) else {
            println!("skipped: cargo has no registry here");
            return;
        };
        let file = registries.find_map(|registry| {
            let file = registry.ok()?.path().join(&package);
            let file = file.join("src/driver/result.rs");
            file.exists().then_some(file)
        });
        let Some(file) = file else {
            println!("skipped: the sources of {package} are not in cargo's registry");
            return;
        };
        let source = std::fs::read_to_string(file).unwrap();
        for (call, symbol) in CALLS {
            let mut parts: Vec<&str> = call.trim_start_matches('.').split("::").collect();
            let name = parts.pop().unwrap();
            if parts == ["sys"] {
                assert_eq!(name, *symbol);
                continue;
            }
            let start = match parts[..] {
                [_, module] => source.find(&format!("pub mod {module} {{")).unwrap(),
                _ => 0,
            };
            let function = &source[start..];
            let function = &function[function.find(&format!("fn {name}")).unwrap()..];
            // Up to the closing brace that is indented as the function is.
            let indent = if call.matches("::").count() == 1 {
                "\n}"
            } else {
                "\n    }"
            };
            let body = &function[..function.find(indent).unwrap()];
            assert!(
                body.contains(&format!("sys::{symbol}(")),
                "{call} does not call {symbol}: {body}"
            );
        }
    }

    #[test]
    fn a_machine_without_a_driver_is_told_what_to_install() {
        // SAFETY: opens libcuda if it is present.
        let present = unsafe { sys::is_culib_present() };
        let message = init().map_or_else(|error| error.to_string(), |_| String::new());
        let told = message.contains("libcuda was not found; install the NVIDIA driver");
        assert_eq!(told, !present, "{message}");
    }
}
