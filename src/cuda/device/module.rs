//! The kernels' code: embedded by build.rs, or compiled here for the GPU at hand.
//!
//! ```text
//! nvcc's fatbin, if embedded and accepted by the driver ─┐
//! cache on disk ─────────────────────────────────────────┼─ module, one per stage ─ kernels by name
//! NVRTC, from the embedded source ─ cache on disk ───────┘
//! ```
//! A driver rejects code of a newer major CUDA version than its own, so even a program with fatbins may need
//! NVRTC.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString};

use cudarc::driver::sys::{CUfunction, CUfunction_attribute as Attribute, CUmodule};

use super::cache::KernelCache;
use super::calls::{self, DriverError, describe, written};
use super::error::CudaError;
use super::interface::Launch;
use super::nvrtc::{FLAGS, Nvrtc, Target};

/// Dynamic shared memory in bytes that a kernel may use without asking for more.
const SHARED_DEFAULT: u32 = 48 * 1024;

/// A kernel file as build.rs embeds it.
pub(super) struct KernelSource {
    /// The stage: the file's stem and the first word of its kernels' names.
    pub(super) stage: &'static str,
    /// Its text.
    pub(super) text: &'static str,
    /// nvcc's output.
    pub(super) fatbin: Option<&'static [u8]>,
}

/// All kernel files.
pub(super) static SOURCES: &[KernelSource] = &include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Names and texts of the headers that they include.
pub(super) const HEADERS: [(&CStr, &str); 3] = [
    (c"common.cuh", include_str!("../../../kernels/common.cuh")),
    (
        c"elementary.cuh",
        include_str!("../../../kernels/elementary.cuh"),
    ),
    (c"mma.cuh", include_str!("../../../kernels/mma.cuh")),
];

/// The kernels of all stages, loaded into the current context. It must be current when they are dropped.
pub(super) struct Modules {
    modules: Vec<(&'static str, CUmodule)>,
    kernels: HashMap<&'static str, Kernel>,
}

// SAFETY: driver handles, used under the owner's lock.
unsafe impl Send for Modules {}

/// A kernel and its limit of dynamic shared memory in bytes.
#[derive(Clone, Copy)]
struct Kernel {
    function: CUfunction,
    shared: u32,
}

impl Modules {
    /// Loads all stages for a GPU of architecture `arch` (87 for Orin). `cuda` is the driver's major CUDA
    /// version. A context must be current.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`] or [`CudaError::Kernel`] if neither nvcc nor NVRTC provides usable code.
    pub(super) fn load(arch: u32, cuda: i32) -> Result<Self, CudaError> {
        let mut modules = Self {
            modules: Vec::with_capacity(SOURCES.len()),
            kernels: HashMap::new(),
        };
        let mut nvrtc = None;
        for source in SOURCES {
            let embedded = source.fatbin.and_then(|fatbin| match load(fatbin) {
                Ok(module) => Some(module),
                Err(code) => {
                    let (stage, reason) = (source.stage, describe(code));
                    log::info!("kernels `{stage}`: the driver rejects the embedded code: {reason}");
                    None
                }
            });
            let module = match embedded {
                Some(module) => module,
                None => {
                    let nvrtc = match &nvrtc {
                        Some(nvrtc) => nvrtc,
                        None => nvrtc.insert(Nvrtc::open(cuda)?),
                    };
                    let target = nvrtc.target(arch)?;
                    let code = compile(source, nvrtc, target, &KernelCache::in_user_folder())?;
                    load(&code).map_err(|code| CudaError::Kernel {
                        kernel: format!("{}.cu", source.stage),
                        reason: format!(
                            "the driver rejects the code that NVRTC {}.{} compiled: {}; set \
                             CENTERPOINT_NVRTC to an NVRTC of the driver's CUDA version",
                            nvrtc.version().0,
                            nvrtc.version().1,
                            describe(code)
                        ),
                    })?
                }
            };
            modules.modules.push((source.stage, module));
        }
        Ok(modules)
    }

    /// The kernel of a launch, with its shared memory limit raised to what the launch needs.
    pub(super) fn kernel(&mut self, launch: &Launch) -> Result<CUfunction, String> {
        let mut kernel = match self.kernels.get(launch.kernel) {
            Some(kernel) => *kernel,
            None => self.find(launch.kernel)?,
        };
        if launch.shared > kernel.shared {
            let limit = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = launch.shared.cast_signed();
            // SAFETY: the function's module is still loaded.
            unsafe { calls::cuFuncSetAttribute(kernel.function, limit, bytes) }
                .map_err(|code| format!("{bytes} bytes of shared memory: {}", describe(code)))?;
            kernel.shared = launch.shared;
        }
        self.kernels.insert(launch.kernel, kernel);
        Ok(kernel.function)
    }

    /// Looks up a kernel in its stage's module.
    fn find(&self, name: &str) -> Result<Kernel, String> {
        let stage = name.split('_').next().unwrap_or(name);
        let module = self.modules.iter().find(|(name, _)| *name == stage);
        let (_, module) = module.ok_or_else(|| format!("there is no `kernels/{stage}.cu`"))?;
        let name = CString::new(name).map_err(|e| e.to_string())?;
        let function = written(std::ptr::null_mut(), |function| {
            // SAFETY: writes a function; the module is loaded, and the name ends with 0.
            unsafe { calls::cuModuleGetFunction(function, *module, name.as_ptr()) }
        })
        .map_err(describe)?;
        Ok(Kernel {
            function,
            shared: SHARED_DEFAULT,
        })
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        for (_, module) in self.modules.drain(..) {
            // SAFETY: `load` loaded it, and nobody uses it any more. An error is of no use here.
            let _ = unsafe { calls::cuModuleUnload(module) };
        }
    }
}

/// A file's code for `target`: from the cache, or else from NVRTC.
pub(super) fn compile(
    source: &KernelSource,
    nvrtc: &Nvrtc,
    target: Target,
    cache: &KernelCache,
) -> Result<Vec<u8>, CudaError> {
    let (major, minor) = nvrtc.version();
    let key = format!(
        "{target:?} NVRTC {major}.{minor} {FLAGS:?} {}",
        env!("CARGO_PKG_VERSION")
    );
    let mut parts = vec![key.as_bytes(), source.text.as_bytes()];
    parts.extend(HEADERS.iter().map(|(_, text)| text.as_bytes()));
    cache.get_or(&parts, || {
        log::info!(
            "compiling kernels `{}` for {target:?} with {nvrtc:?}",
            source.stage
        );
        let compiled = nvrtc.compile(source.stage, source.text, &HEADERS, target, &[])?;
        log::debug!("{}", compiled.log);
        Ok(compiled.code)
    })
}

/// Loads a fatbin, a cubin or PTX.
fn load(code: &[u8]) -> Result<CUmodule, DriverError> {
    // The driver reads headers as aligned numbers, and PTX up to a 0: so copy to u64s, and append one of zeros.
    let mut words = vec![0u64; code.len() / 8 + 2];
    bytemuck::cast_slice_mut(&mut words)[..code.len()].copy_from_slice(code);
    // SAFETY: the code is nvcc's or NVRTC's and complete (the cache checks), and the driver copies it.
    written(std::ptr::null_mut(), |module| unsafe {
        calls::cuModuleLoadData(module, words.as_ptr().cast())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The NVRTC that CENTERPOINT_NVRTC names: it needs no GPU.
    fn nvrtc() -> Nvrtc {
        assert!(std::env::var_os("CENTERPOINT_NVRTC").is_some());
        Nvrtc::open(12).unwrap()
    }

    /// Kernels that may use local memory: NVRTC 12.6 spills one register at its bound of 80, unlike nvcc 13.
    const LOCAL: [&str; 1] = ["features_pfn"];

    #[test]
    #[ignore = "needs CENTERPOINT_NVRTC"]
    fn nvrtc_compiles_every_stage_for_orin() {
        let nvrtc = nvrtc();
        for source in SOURCES {
            let KernelSource { stage, text, .. } = *source;
            let target = nvrtc.target(87).unwrap();
            assert_eq!(target, Target::Cubin(87));
            let verbose = [c"--ptxas-options=-v"];
            let compiled = nvrtc
                .compile(stage, text, &HEADERS, target, &verbose)
                .unwrap();
            assert_eq!(&compiled.code[..4], b"\x7fELF", "{stage}");
            // ptxas names a kernel, then reports its local memory.
            let mut kernel = "";
            let mut kernels = 0;
            for line in compiled.log.lines() {
                if let Some((_, name)) = line.split_once("Function properties for ") {
                    kernel = name;
                    kernels += 1;
                }
                let none = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
                let local = line.contains("bytes stack frame") && !line.contains(none);
                assert!(!local || LOCAL.contains(&kernel), "{kernel}: {line}");
            }
            assert!(kernels > 0, "{stage}: {}", compiled.log);
        }
    }

    #[test]
    #[ignore = "needs CENTERPOINT_NVRTC"]
    fn a_gpu_newer_than_nvrtc_gets_ptx_and_an_older_one_an_error() {
        let nvrtc = nvrtc();
        let Target::Ptx(newest) = nvrtc.target(999).unwrap() else {
            panic!("no architecture 999")
        };
        let source = &SOURCES[0];
        let target = Target::Ptx(newest);
        let compiled = nvrtc
            .compile(source.stage, source.text, &HEADERS, target, &[])
            .unwrap();
        assert_eq!(compiled.code.last(), Some(&0), "the driver reads up to a 0");
        let error = nvrtc.target(20).unwrap_err().to_string();
        assert!(error.contains("sm_20"), "{error}");
    }

    #[test]
    #[ignore = "needs CENTERPOINT_NVRTC"]
    fn an_nvrtc_error_names_its_line() {
        let nvrtc = nvrtc();
        let text = "#include \"common.cuh\"\nextern \"C\" __global__ void x_y() { oops; }";
        let error = nvrtc
            .compile("x", text, &HEADERS, Target::Cubin(87), &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("x.cu(2)") && error.contains("oops"),
            "{error}"
        );
    }

    #[test]
    #[ignore = "needs CENTERPOINT_NVRTC"]
    fn compiled_code_is_cached_by_source_and_target() {
        let nvrtc = nvrtc();
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::in_folder(folder.path());
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        let source = |text| KernelSource {
            stage: "x",
            text,
            fatbin: None,
        };
        let one = source("extern \"C\" __global__ void x_y(float *a) { *a = 1; }");
        let two = source("extern \"C\" __global__ void x_y(float *a) { *a = 2; }");
        let code = compile(&one, &nvrtc, Target::Cubin(87), &cache).unwrap();
        assert_eq!(count(), 1);
        assert_eq!(
            compile(&one, &nvrtc, Target::Cubin(87), &cache).unwrap(),
            code
        );
        assert_eq!(count(), 1);
        assert_ne!(
            compile(&two, &nvrtc, Target::Cubin(87), &cache).unwrap(),
            code
        );
        assert_ne!(
            compile(&one, &nvrtc, Target::Cubin(80), &cache).unwrap(),
            code
        );
        assert_eq!(count(), 3);
    }
}
