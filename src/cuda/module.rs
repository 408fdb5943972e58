//! The kernels' code: embedded by build.rs, or compiled here for the GPU that is present.
//!
//! ```text
//! fatbin of nvcc, if embedded and the driver takes it ─┐
//! cache on disk ───────────────────────────────────────┼─ module, one per stage ─ kernels by name
//! NVRTC, from the embedded source ─ cache on disk ─────┘
//! ```
//! A driver does not take the code of a newer major version of CUDA than its own, so even a program that
//! holds fatbins may need NVRTC.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CString, c_void};

use cudarc::driver::sys::{self, CUfunction, CUmodule, CUresult};

use super::cache::Cache;
use super::library::{check, words};
use super::nvrtc::{Nvrtc, Target};
use super::{CudaError, Launch};

/// What a kernel may use of dynamic shared memory without being allowed more.
const SHARED_DEFAULT: u32 = 48 * 1024;

/// A kernel file as build.rs embeds it.
pub(super) struct Source {
    /// The stage, which is the file's stem and the first word of its kernels' names.
    pub(super) stage: &'static str,
    /// Its text.
    pub(super) text: &'static str,
    /// What nvcc made of it.
    pub(super) fatbin: Option<&'static [u8]>,
}

/// All kernel files.
pub(super) static SOURCES: &[Source] = &include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// What they include.
pub(super) const COMMON: &str = include_str!("../../kernels/common.cuh");

/// The kernels of all stages, loaded into the current context. They must be dropped while it is current.
pub(super) struct Modules {
    modules: Vec<(&'static str, CUmodule)>,
    kernels: HashMap<&'static str, Kernel>,
}

// SAFETY: handles of the driver, used under the owner's lock.
unsafe impl Send for Modules {}

/// A kernel and the dynamic shared memory that it has been allowed.
#[derive(Clone, Copy)]
struct Kernel {
    function: CUfunction,
    shared: u32,
}

impl Modules {
    /// Loads all stages for a GPU of architecture `arch` (87 for Orin). `cuda` is the driver's version of
    /// CUDA, as 12 for 12.6. A context must be current.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`] or [`CudaError::Kernel`], where neither nvcc's nor NVRTC's code can be had.
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
                    let (stage, reason) = (source.stage, words(code));
                    log::info!("kernels `{stage}`: the embedded code does not serve: {reason}");
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
                    let code = compiled(source, nvrtc, target, &Cache::of_user())?;
                    load(&code).map_err(|code| CudaError::Kernel {
                        kernel: format!("{}.cu", source.stage),
                        reason: format!(
                            "the driver does not take what NVRTC {}.{} compiled: {}; name an NVRTC of \
                             the driver's CUDA version in CENTERPOINT_NVRTC",
                            nvrtc.version().0,
                            nvrtc.version().1,
                            words(code)
                        ),
                    })?
                }
            };
            modules.modules.push((source.stage, module));
        }
        Ok(modules)
    }

    /// The kernel of a launch, allowed the shared memory that the launch asks for.
    pub(super) fn kernel(&mut self, launch: &Launch) -> Result<CUfunction, String> {
        let mut kernel = match self.kernels.get(launch.kernel) {
            Some(kernel) => *kernel,
            None => self.find(launch.kernel)?,
        };
        if launch.shared > kernel.shared {
            let what = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a module that is still loaded.
            let set = unsafe {
                sys::cuFuncSetAttribute(kernel.function, what, launch.shared.cast_signed())
            };
            check(set).map_err(|code| {
                format!("{} bytes of shared memory: {}", launch.shared, words(code))
            })?;
            kernel.shared = launch.shared;
        }
        self.kernels.insert(launch.kernel, kernel);
        Ok(kernel.function)
    }

    /// Looks a kernel up in its stage's module.
    fn find(&self, name: &str) -> Result<Kernel, String> {
        let stage = name.split('_').next().unwrap_or(name);
        let module = self.modules.iter().find(|(of, _)| *of == stage);
        let (_, module) = module.ok_or_else(|| format!("there is no `kernels/{stage}.cu`"))?;
        let name = CString::new(name).map_err(|e| e.to_string())?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded; the name ends with 0.
        check(unsafe { sys::cuModuleGetFunction(&mut function, *module, name.as_ptr()) })
            .map_err(words)?;
        Ok(Kernel {
            function,
            shared: SHARED_DEFAULT,
        })
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        for (_, module) in self.modules.drain(..) {
            // SAFETY: it was loaded by `load` and is not used any more. What the driver answers changes
            // nothing.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

/// A file's code for `target`: from the cache, or else from NVRTC.
pub(super) fn compiled(
    source: &Source,
    nvrtc: &Nvrtc,
    target: Target,
    cache: &Cache,
) -> Result<Vec<u8>, CudaError> {
    let (major, minor) = nvrtc.version();
    let key = format!(
        "{target:?} NVRTC {major}.{minor} {}",
        env!("CARGO_PKG_VERSION")
    );
    cache.get_or(
        &[source.text.as_bytes(), COMMON.as_bytes(), key.as_bytes()],
        || {
            log::info!(
                "compiling kernels `{}` for {target:?} by {nvrtc:?}",
                source.stage
            );
            let done = nvrtc.compile(source.stage, source.text, COMMON, target, &[])?;
            log::debug!("{}", done.log);
            Ok(done.code)
        },
    )
}

/// Loads a fatbin, a cubin or PTX.
fn load(code: &[u8]) -> Result<CUmodule, CUresult> {
    // The driver reads headers as numbers, and PTX up to a 0: words, and one more of zeros.
    let mut words = vec![0u64; code.len() / 8 + 2];
    bytemuck::cast_slice_mut(&mut words)[..code.len()].copy_from_slice(code);
    let mut module = std::ptr::null_mut();
    // SAFETY: the code is nvcc's or NVRTC's, whole (the cache checks), and is copied by the driver.
    check(unsafe { sys::cuModuleLoadData(&mut module, words.as_ptr().cast::<c_void>()) })?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NVRTC, where CENTERPOINT_NVRTC names it: no GPU is needed.
    fn nvrtc() -> Option<Nvrtc> {
        if std::env::var_os("CENTERPOINT_NVRTC").is_none() {
            println!("skipped: CENTERPOINT_NVRTC does not name an NVRTC library");
            return None;
        }
        Some(Nvrtc::open(12).unwrap())
    }

    /// Kernels that may use local memory: the first as in `tests/kernels.sh`; of the second NVRTC 12.6 spills
    /// one register at its bound of 80, which nvcc 13 does not.
    const LOCAL: [&str; 2] = ["nms_prepare", "features_pfn"];

    #[test]
    fn nvrtc_compiles_every_stage_for_orin() {
        let Some(nvrtc) = nvrtc() else { return };
        for source in SOURCES {
            let Source { stage, text, .. } = *source;
            let target = nvrtc.target(87).unwrap();
            assert_eq!(target, Target::Cubin(87));
            let verbose = [c"--ptxas-options=-v"];
            let done = nvrtc
                .compile(stage, text, COMMON, target, &verbose)
                .unwrap();
            assert_eq!(&done.code[..4], b"\x7fELF", "{stage}");
            // ptxas names a kernel, and then says what it does with local memory.
            let mut kernel = "";
            let mut kernels = 0;
            for line in done.log.lines() {
                if let Some((_, name)) = line.split_once("Function properties for ") {
                    kernel = name;
                    kernels += 1;
                }
                let none = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
                let local = line.contains("bytes stack frame") && !line.contains(none);
                assert!(!local || LOCAL.contains(&kernel), "{kernel}: {line}");
            }
            assert!(kernels > 0, "{stage}: {}", done.log);
        }
    }

    #[test]
    fn a_gpu_newer_than_nvrtc_gets_ptx_and_an_older_one_a_sentence() {
        let Some(nvrtc) = nvrtc() else { return };
        let Target::Ptx(newest) = nvrtc.target(999).unwrap() else {
            panic!("no architecture 999")
        };
        let source = &SOURCES[0];
        let target = Target::Ptx(newest);
        let done = nvrtc
            .compile(source.stage, source.text, COMMON, target, &[])
            .unwrap();
        assert_eq!(done.code.last(), Some(&0), "the driver reads up to a 0");
        let error = nvrtc.target(20).unwrap_err().to_string();
        assert!(error.contains("sm_20"), "{error}");
    }

    #[test]
    fn what_nvrtc_refuses_is_said_with_its_line() {
        let Some(nvrtc) = nvrtc() else { return };
        let text = "#include \"common.cuh\"\nextern \"C\" __global__ void x_y() { oops; }";
        let error = nvrtc
            .compile("x", text, COMMON, Target::Cubin(87), &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("x.cu(2)") && error.contains("oops"),
            "{error}"
        );
    }

    #[test]
    fn compiled_code_is_kept_by_source_and_target() {
        let Some(nvrtc) = nvrtc() else { return };
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        let source = |text| Source {
            stage: "x",
            text,
            fatbin: None,
        };
        let one = source("extern \"C\" __global__ void x_y(float *a) { *a = 1; }");
        let two = source("extern \"C\" __global__ void x_y(float *a) { *a = 2; }");
        let code = compiled(&one, &nvrtc, Target::Cubin(87), &cache).unwrap();
        assert_eq!(count(), 1);
        assert_eq!(
            compiled(&one, &nvrtc, Target::Cubin(87), &cache).unwrap(),
            code
        );
        assert_eq!(count(), 1);
        assert_ne!(
            compiled(&two, &nvrtc, Target::Cubin(87), &cache).unwrap(),
            code
        );
        assert_ne!(
            compiled(&one, &nvrtc, Target::Cubin(80), &cache).unwrap(),
            code
        );
        assert_eq!(count(), 3);
    }
}
