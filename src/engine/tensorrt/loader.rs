//! Finds and opens TensorRT's libraries, and picks the shim that matches each one's version.
//!
//! An opened library is never closed: it owns threads and a driver context, and no NVIDIA document says that it can be
//! unloaded. Its functions therefore stay valid until the process ends.
#![allow(unsafe_code)]

use std::env;
use std::ffi::c_void;
use std::mem;
use std::path::{Path, PathBuf, absolute};

use super::choice::choose;
use super::ffi::{self, Shim};
use super::{Family, TensorRtError, Version};

/// Environment variable that names the library or its folder.
pub(super) const VARIABLE: &str = "CENTERPOINT_TENSORRT";

/// File names of libraries, in order of preference.
const NAMES: [(&str, Family, u32); 5] = [
    ("libnvinfer.so.11", Family::TensorRt, 11),
    ("libnvinfer.so.10", Family::TensorRt, 10),
    ("libnvinfer_lean.so.11", Family::TensorRt, 11),
    ("libnvinfer_lean.so.10", Family::TensorRt, 10),
    ("libtensorrt_rtx.so.1", Family::TensorRtRtx, 1),
];

/// A function of a library.
#[derive(Clone, Copy)]
pub(super) struct Function(*mut c_void);

// SAFETY: this is the address of a function in a library that stays open. Callers ensure correct calls.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    pub(super) fn address(self) -> *mut c_void {
        self.0
    }
}

/// An opened library with its shim.
#[derive(Clone)]
pub(super) struct Opened {
    /// The path used to open it, for errors and to find files beside it.
    pub(super) path: PathBuf,
    pub(super) version: Version,
    pub(super) shim: &'static Shim,
    pub(super) create_runtime: Function,
    /// `None` for lean runtimes.
    pub(super) create_builder: Option<Function>,
}

/// Opens the library that `path`, the environment or the system names; see [`Library::open`](super::Library::open).
pub(super) fn open(path: Option<&Path>) -> Result<Opened, TensorRtError> {
    if ffi::shims().is_empty() {
        return Err(TensorRtError::Unavailable {
            reason: format!(
                "this program was built without TensorRT's headers: {}",
                ffi::problems()
            ),
        });
    }
    let named = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    match path.map(Path::to_path_buf).or(named.map(PathBuf::from)) {
        Some(path) => load(&file(&path)?),
        None => search(),
    }
}

/// The absolute path of the library that `path` names. The loader would search for a bare file name.
fn file(path: &Path) -> Result<PathBuf, TensorRtError> {
    let error = |reason: String| TensorRtError::Library {
        path: path.to_path_buf(),
        reason,
    };
    let path = absolute(path).map_err(|e| error(e.to_string()))?;
    if path.is_file() {
        return Ok(path);
    }
    if !path.is_dir() {
        return Err(error("there is no such file or folder".into()));
    }
    NAMES
        .iter()
        .map(|(name, ..)| path.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| error(format!("this folder contains none of {}", names(&NAMES))))
}

fn names(list: &[(&str, Family, u32)]) -> String {
    let names: Vec<&str> = list.iter().map(|(name, ..)| *name).collect();
    names.join(", ")
}

/// Opens the first library that the system's loader finds.
fn search() -> Result<Opened, TensorRtError> {
    let known: Vec<_> = NAMES
        .into_iter()
        .filter(|(_, family, major)| {
            let same = |shim: &Version| shim.family == *family && shim.major == *major;
            ffi::shims().iter().any(|(version, _)| same(version))
        })
        .collect();
    let mut refused = None;
    for (name, ..) in &known {
        match load(Path::new(name)) {
            Ok(opened) => return Ok(opened),
            Err(error @ TensorRtError::Version { .. }) => {
                refused.get_or_insert(error);
            }
            Err(error) => log::debug!("{error}"),
        }
    }
    Err(refused.unwrap_or_else(|| TensorRtError::Unavailable {
        reason: format!(
            "found none of {}; install TensorRT (on JetPack, the package `nvidia-tensorrt`), or set {VARIABLE} to \
            the library or its folder",
            names(&known)
        ),
    }))
}

/// Opens a library by path or name, and queries its version before anything else.
fn load(path: &Path) -> Result<Opened, TensorRtError> {
    let error = |reason: String| TensorRtError::Library {
        path: path.to_path_buf(),
        reason,
    };
    // SAFETY: the user or a standard file name identifies the file as TensorRT's library. Its initialisers are trusted
    // like the library itself.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|e| error(format!("it cannot be opened: {}", reason(&e))))?;
    let Some(get_version) = function(&library, c"getInferLibVersion") else {
        return Err(error(
            "it is not a TensorRT library: it has no getInferLibVersion".into(),
        ));
    };
    // SAFETY: in all of TensorRT's libraries the function has this type: `int32_t getInferLibVersion()`.
    let get_version: extern "C" fn() -> i32 = unsafe { mem::transmute(get_version.0) };
    let number = get_version();
    let version = Version::from_library_number(number).ok_or_else(|| {
        error(format!(
            "it reports version number {number}, which is not one of TensorRT's"
        ))
    })?;
    let versions: Vec<Version> = ffi::shims().iter().map(|(version, _)| *version).collect();
    let at = choose(version, &versions).map_err(|advice| TensorRtError::Version {
        path: path.to_path_buf(),
        found: version,
        shims: list(&versions),
        advice,
    })?;
    let Some(create_runtime) = function(&library, c"createInferRuntime_INTERNAL") else {
        return Err(error("it has no createInferRuntime_INTERNAL".into()));
    };
    let opened = Opened {
        path: path.to_path_buf(),
        version,
        shim: ffi::shims()[at].1,
        create_runtime,
        create_builder: function(&library, c"createInferBuilder_INTERNAL"),
    };
    // Keep the library open; see the module documentation.
    mem::forget(library);
    log::debug!("{version} from {}", opened.path.display());
    Ok(opened)
}

fn list(versions: &[Version]) -> String {
    let texts: Vec<String> = versions.iter().map(ToString::to_string).collect();
    texts.join(" and of ")
}

impl Opened {
    /// Opens the ONNX parser of the same version, from the library's folder or through the system's loader. Returns its
    /// createNvOnnxParser_INTERNAL.
    pub(super) fn parser(&self) -> Result<Function, TensorRtError> {
        let name = match self.version.family {
            Family::TensorRt => format!("libnvonnxparser.so.{}", self.version.major),
            Family::TensorRtRtx => {
                format!("libtensorrt_onnxparser_rtx.so.{}", self.version.major)
            }
        };
        let path = if self.path.is_absolute() {
            self.path.with_file_name(&name)
        } else {
            PathBuf::from(&name)
        };
        let error = |reason: String| TensorRtError::Library {
            path: path.clone(),
            reason: format!(
                "{reason}; {} needs this parser to build engines",
                self.version
            ),
        };
        if path.is_absolute() && !path.is_file() {
            return Err(error(
                "there is no such file (on Debian, Ubuntu and JetPack it is in the package \
                 libnvonnxparsers10 or libnvonnxparsers11)"
                    .into(),
            ));
        }
        // SAFETY: the parser has its standard name and lies beside the library; it is trusted like the library, see `load`.
        let library = unsafe { libloading::Library::new(&path) }
            .map_err(|e| error(format!("it cannot be opened: {}", reason(&e))))?;
        let create = function(&library, c"createNvOnnxParser_INTERNAL")
            .ok_or_else(|| error("it has no createNvOnnxParser_INTERNAL".into()))?;
        mem::forget(library);
        Ok(create)
    }
}

/// The loader's own message.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn function(library: &libloading::Library, name: &std::ffi::CStr) -> Option<Function> {
    // SAFETY: this only takes the symbol's address, and the library stays open.
    let symbol = unsafe { library.get::<*mut c_void>(name.to_bytes_with_nul()) }.ok()?;
    // SAFETY: this only reads the address.
    let address = unsafe { symbol.try_as_raw_ptr() }?;
    (!address.is_null()).then_some(Function(address))
}
