//! NVRTC, NVIDIA's compiler as a library: compiles kernels for one architecture. It needs no GPU.
//!
//! The library is opened at run time. `CENTERPOINT_NVRTC` names it; otherwise the system's loader searches for it,
//! the driver's own CUDA version first: a driver rejects the code of a newer compiler. cudarc's `nvrtc` module
//! cannot replace this: it panics where the library is missing, opens no library by name, and passes no headers.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use libloading::Library;

use super::error::CudaError;
use super::library::unavailable;

/// As build.rs passes them to nvcc; NVRTC optimises by default.
pub(super) const FLAGS: [&CStr; 2] = [c"--std=c++17", c"--fmad=false"];

type Program = *mut c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The functions of NVRTC that this file calls, all from CUDA 11.2 or older. They return 0 for success.
struct Functions {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log_size: Size,
    log: Bytes,
    cubin_size: Size,
    cubin: Bytes,
    ptx_size: Size,
    ptx: Bytes,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
}

/// The compiler.
pub(super) struct Nvrtc {
    functions: Functions,
    version: (i32, i32),
    architectures: Vec<u32>,
    /// Keeps the functions loaded.
    _library: Library,
}

/// A compiled kernel file.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    /// A cubin, or PTX that ends with a 0.
    pub(super) code: Vec<u8>,
    /// The compiler's output.
    pub(super) log: String,
}

/// What to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Code for an architecture, such as 87.
    Cubin(u32),
    /// PTX for an architecture and all newer ones, compiled further by the driver.
    Ptx(u32),
}

impl Target {
    /// As NVRTC's option spells it.
    fn name(self) -> String {
        match self {
            Self::Cubin(arch) => format!("sm_{arch}"),
            Self::Ptx(arch) => format!("compute_{arch}"),
        }
    }
}

impl Nvrtc {
    /// Opens the library. `cuda` is the driver's major CUDA version.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`] if it is missing.
    pub(super) fn open(cuda: i32) -> Result<Self, CudaError> {
        let names = match std::env::var("CENTERPOINT_NVRTC") {
            Ok(name) if !name.is_empty() => vec![name],
            _ => names(cuda),
        };
        let library = names
            .iter()
            // SAFETY: NVRTC's initialisers only set up the library.
            .find_map(|name| unsafe { Library::new(name) }.ok());
        let library = library.ok_or_else(|| {
            unavailable(&format!(
                "this program contains no kernels that the driver can run, and NVRTC, which compiles them, was \
                 not found ({}); install it (libnvrtc of the driver's CUDA version, {cuda}), or set \
                 CENTERPOINT_NVRTC to it",
                names.join(", ")
            ))
        })?;
        Self::from_library(library).map_err(|problem| unavailable(&format!("NVRTC: {problem}")))
    }

    fn from_library(library: Library) -> Result<Self, String> {
        /// Looks up a function.
        ///
        /// # Safety
        /// `T` is the type of NVRTC's function of that name.
        unsafe fn get<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
            // SAFETY: this function's contract.
            unsafe { library.get::<T>(name.as_bytes()) }
                .map(|symbol| *symbol)
                .map_err(|_| format!("it is too old, it lacks {name}; install CUDA 11.2 or newer"))
        }
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
        // SAFETY: the types are those of nvrtc.h, unchanged since CUDA 11.2. Each call writes as many numbers
        // as its arguments hold.
        unsafe {
            let functions = Functions {
                create: get(&library, "nvrtcCreateProgram")?,
                compile: get(&library, "nvrtcCompileProgram")?,
                destroy: get(&library, "nvrtcDestroyProgram")?,
                log_size: get(&library, "nvrtcGetProgramLogSize")?,
                log: get(&library, "nvrtcGetProgramLog")?,
                cubin_size: get(&library, "nvrtcGetCUBINSize")?,
                cubin: get(&library, "nvrtcGetCUBIN")?,
                ptx_size: get(&library, "nvrtcGetPTXSize")?,
                ptx: get(&library, "nvrtcGetPTX")?,
                error: get(&library, "nvrtcGetErrorString")?,
            };
            let (mut major, mut minor, mut count) = (0, 0, 0);
            functions.check(get::<Version>(&library, "nvrtcVersion")?(
                &mut major, &mut minor,
            ))?;
            functions.check(get::<Count>(&library, "nvrtcGetNumSupportedArchs")?(
                &mut count,
            ))?;
            let mut architectures = vec![0; usize::try_from(count).unwrap_or(0)];
            functions.check(get::<Count>(&library, "nvrtcGetSupportedArchs")?(
                architectures.as_mut_ptr(),
            ))?;
            Ok(Self {
                functions,
                version: (major, minor),
                architectures: architectures
                    .into_iter()
                    .map(|a| a.unsigned_abs())
                    .collect(),
                _library: library,
            })
        }
    }

    /// Its CUDA version, such as (12, 6).
    pub(super) fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What to compile for a device of architecture `arch`: its own code, or PTX of the newest architecture that
    /// the compiler knows if the device is newer than the compiler.
    ///
    /// # Errors
    /// [`CudaError::Unavailable`] if the device is too old for this NVRTC.
    pub(super) fn target(&self, arch: u32) -> Result<Target, CudaError> {
        let known = || self.architectures.iter().copied();
        if known().any(|a| a == arch) {
            return Ok(Target::Cubin(arch));
        }
        let newest = known().filter(|&a| a < arch).max();
        newest.map(Target::Ptx).ok_or_else(|| {
            unavailable(&format!(
                "NVRTC {}.{} cannot compile for this GPU (sm_{arch}); set CENTERPOINT_NVRTC to an older one",
                self.version.0, self.version.1
            ))
        })
    }

    /// Compiles the text of `kernels/<stage>.cu`, which may include `headers` (names and texts), with extra
    /// `options`.
    ///
    /// # Errors
    /// [`CudaError::Kernel`] with the compiler's output.
    pub(super) fn compile(
        &self,
        stage: &str,
        text: &str,
        headers: &[(&CStr, &str)],
        target: Target,
        options: &[&CStr],
    ) -> Result<Compiled, CudaError> {
        let refused = |reason: String| CudaError::Kernel {
            kernel: format!("{stage}.cu"),
            reason: format!("NVRTC {}.{}: {reason}", self.version.0, self.version.1),
        };
        let string = |text: String| CString::new(text).map_err(|e| refused(e.to_string()));
        let file = string(format!("{stage}.cu"))?;
        let text = string(text.into())?;
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let headers: Vec<CString> = headers
            .iter()
            .map(|(_, text)| string((*text).into()))
            .collect::<Result<_, _>>()?;
        let texts: Vec<*const c_char> = headers.iter().map(|text| text.as_ptr()).collect();
        let arch = string(format!("--gpu-architecture={}", target.name()))?;
        let options: Vec<*const c_char> = FLAGS
            .iter()
            .chain(options)
            .map(|option| option.as_ptr())
            .chain([arch.as_ptr()])
            .collect();

        let f = &self.functions;
        let mut program = ptr::null_mut();
        // SAFETY: writes `program`; the strings end with 0, and NVRTC copies them.
        let created = unsafe {
            (f.create)(
                &mut program,
                text.as_ptr(),
                file.as_ptr(),
                headers.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        f.check(created).map_err(refused)?;
        // SAFETY: the program is alive, and the number of options is right.
        let compiled = unsafe { (f.compile)(program, options.len() as c_int, options.as_ptr()) };
        let log = f.bytes(program, f.log_size, f.log);
        let code = match target {
            _ if compiled != 0 => Err(f.describe(compiled)),
            Target::Cubin(_) => f.bytes(program, f.cubin_size, f.cubin),
            Target::Ptx(_) => f.bytes(program, f.ptx_size, f.ptx),
        };
        // SAFETY: the program is alive, and nobody uses it any more.
        unsafe { (f.destroy)(&mut program) };
        let log = String::from_utf8_lossy(&log.unwrap_or_default())
            .trim_end_matches('\0')
            .to_owned();
        match code {
            Ok(code) => Ok(Compiled { code, log }),
            Err(problem) => Err(refused(format!("{problem}\n{log}"))),
        }
    }
}

impl Functions {
    fn check(&self, code: c_int) -> Result<(), String> {
        match code {
            0 => Ok(()),
            code => Err(self.describe(code)),
        }
    }

    fn describe(&self, code: c_int) -> String {
        // SAFETY: returns a static string for every number.
        let text = unsafe { (self.error)(code) };
        if text.is_null() {
            return format!("error {code}");
        }
        // SAFETY: not null, and ends with 0.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }

    /// An output of a live program: its size, then its bytes.
    fn bytes(&self, program: Program, size: Size, read: Bytes) -> Result<Vec<u8>, String> {
        let mut len = 0;
        // SAFETY: the program is alive; writes one number.
        self.check(unsafe { size(program, &mut len) })?;
        let mut bytes = vec![0u8; len];
        // SAFETY: writes as many bytes as it reported.
        self.check(unsafe { read(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nvrtc {}.{}", self.version.0, self.version.1)
    }
}

/// File names of the library: the driver's version first, then the name that a toolkit links to, then others.
fn names(cuda: i32) -> Vec<String> {
    let mut names = vec![versioned(cuda), "libnvrtc.so".to_owned()];
    for other in ["13", "12", "11.2"].map(|v| format!("libnvrtc.so.{v}")) {
        if !names.contains(&other) {
            names.push(other);
        }
    }
    names
}

fn versioned(cuda: i32) -> String {
    match cuda {
        // The name of every CUDA 11 since 11.2.
        11 => "libnvrtc.so.11.2".to_owned(),
        cuda => format!("libnvrtc.so.{cuda}"),
    }
}
