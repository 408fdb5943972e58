//! The compiler's functions (NVRTC). Its code names a copy of the source, which the driver compiles as C++, or is the PTX that
//! nvcc makes of it.
#![allow(non_snake_case, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::calls::{enter, number};

/// The first bytes of the code.
pub(crate) const MAGIC: &[u8; 8] = b"STAND-IN";

/// NVRTC's errors.
const INVALID_INPUT: c_int = 3;
const INVALID_PROGRAM: c_int = 4;
const COMPILATION: c_int = 6;

/// Architectures that programs can be compiled for.
const ARCHITECTURES: [c_int; 5] = [75, 80, 86, 87, 90];

/// A program: its name, text, and headers by name.
struct Program {
    name: String,
    text: String,
    headers: Vec<(String, String)>,
    code: Vec<u8>,
    log: String,
}

static PROGRAMS: LazyLock<Mutex<BTreeMap<usize, Program>>> = LazyLock::new(Mutex::default);

/// The folder for compiled kernels.
pub(crate) fn cache() -> PathBuf {
    let named = std::env::var_os("CENTERPOINT_STANDIN_CACHE").map(PathBuf::from);
    named
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tmp/emulation"))
}

/// The source that code names.
pub(crate) fn source(code: &CStr) -> Option<PathBuf> {
    let text = code.to_str().ok()?;
    Some(PathBuf::from(text.strip_prefix("STAND-IN ")?))
}

/// Calls `body` with a program.
fn with(
    function: &'static str,
    program: *mut c_void,
    body: impl FnOnce(&mut Program) -> Result<(), c_int>,
) -> c_int {
    if let Err(code) = enter(function) {
        return code as c_int;
    }
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = programs.get_mut(&(program as usize));
    match found.ok_or(INVALID_PROGRAM).and_then(body) {
        Ok(()) => 0,
        Err(code) => code,
    }
}

impl Program {
    /// Stores the source and its headers under their hash.
    fn compile(&mut self, options: &[String]) -> std::io::Result<()> {
        let mut hash = Sha256::new();
        hash.update(&self.text);
        for option in options {
            hash.update(option);
        }
        for (name, text) in &self.headers {
            hash.update(name);
            hash.update(text);
        }
        let hash: String = hash.finalize()[..8]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let folder = cache().join(format!("source-{hash}"));
        std::fs::create_dir_all(&folder)?;
        let source = folder.join(format!("{}.cu", self.name.trim_end_matches(".cu")));
        let own = (source.clone(), &self.text);
        let headers = self.headers.iter();
        let headers = headers.map(|(name, text)| (folder.join(name), text));
        for (path, text) in headers.chain([own]) {
            // Written under a name of this process: another one may be doing the same.
            let temporary = path.with_extension(format!("{}", std::process::id()));
            std::fs::write(&temporary, text)?;
            std::fs::rename(&temporary, &path)?;
        }
        self.code = match number("CENTERPOINT_STANDIN_PTX", 0) {
            0 => format!("STAND-IN {}", source.display()).into_bytes(),
            architecture => ptx(&source, &folder, options, architecture)?,
        };
        self.code.push(0);
        Ok(())
    }
}

/// The PTX that nvcc makes of a source with the options that NVRTC was given.
fn ptx(
    source: &Path,
    include: &Path,
    options: &[String],
    architecture: u64,
) -> std::io::Result<Vec<u8>> {
    let file = source.with_extension(format!("compute_{architecture}.ptx"));
    if let Ok(known) = std::fs::read(&file) {
        return Ok(known);
    }
    let named = PathBuf::from(std::env::var_os("CENTERPOINT_NVCC").unwrap_or("nvcc".into()));
    let nvcc = match named.is_dir() {
        true => named.join("nvidia/cu13/bin/nvcc"),
        false => named,
    };
    let temporary = file.with_extension(std::process::id().to_string());
    let done = Command::new(nvcc)
        .args(["-O3", "-ptx"])
        .args(options)
        .arg(format!("-arch=compute_{architecture}"))
        .arg("-I")
        .arg(include)
        .arg(source)
        .arg("-o")
        .arg(&temporary)
        .output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(std::io::Error::other(said));
    }
    std::fs::rename(&temporary, &file)?;
    std::fs::read(file)
}

/// A C string's text.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: this function's contract.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    // SAFETY: the caller's pointers, as NVRTC documents them. No real version, so that no cache mixes their code.
    unsafe {
        major.write(12);
        // Another version for each kind of code.
        minor.write(900 + number("CENTERPOINT_STANDIN_PTX", 99) as c_int);
    }
    enter("nvrtcVersion").map_or_else(|code| code as c_int, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> c_int {
    // SAFETY: the caller's pointer, as NVRTC documents it.
    unsafe { count.write(ARCHITECTURES.len() as c_int) };
    enter("nvrtcGetNumSupportedArchs").map_or_else(|code| code as c_int, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetSupportedArchs(architectures: *mut c_int) -> c_int {
    let (from, count) = (ARCHITECTURES.as_ptr(), ARCHITECTURES.len());
    // SAFETY: the caller's pointer has room for them, as NVRTC documents it.
    unsafe { std::ptr::copy_nonoverlapping(from, architectures, count) };
    enter("nvrtcGetSupportedArchs").map_or_else(|code| code as c_int, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut *mut c_void,
    text: *const c_char,
    name: *const c_char,
    count: c_int,
    headers: *const *const c_char,
    names: *const *const c_char,
) -> c_int {
    if let Err(code) = enter("nvrtcCreateProgram") {
        return code as c_int;
    }
    let Ok(count) = usize::try_from(count) else {
        return INVALID_INPUT;
    };
    // SAFETY: `count` headers with their names, and C strings, as NVRTC documents them.
    let (found, text, name) = unsafe {
        let each = (0..count).map(|i| (text_of(*names.add(i)), text_of(*headers.add(i))));
        (each.collect(), text_of(text), text_of(name))
    };
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let handle = programs.keys().next_back().map_or(0x1000, |last| last + 16);
    programs.insert(
        handle,
        Program {
            name,
            text,
            headers: found,
            code: Vec::new(),
            log: String::new(),
        },
    );
    // SAFETY: the caller's pointer, as NVRTC documents it.
    unsafe { program.write(std::ptr::without_provenance_mut(handle)) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCompileProgram(
    program: *mut c_void,
    count: c_int,
    options: *const *const c_char,
) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: `count` C strings, as NVRTC documents them.
    let options = (0..count).map(|i| unsafe { text_of(*options.add(i)) });
    // The architecture is that of the settings.
    let options: Vec<String> = options.filter(|option| !option.contains("arch")).collect();
    with("nvrtcCompileProgram", program, |program| {
        program.compile(&options).map_err(|error| {
            program.log = error.to_string();
            COMPILATION
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcDestroyProgram(program: *mut *mut c_void) -> c_int {
    if let Err(code) = enter("nvrtcDestroyProgram") {
        return code as c_int;
    }
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller's pointer, as NVRTC documents it.
    let handle = unsafe { program.replace(std::ptr::null_mut()) } as usize;
    match programs.remove(&handle) {
        Some(_) => 0,
        None => INVALID_PROGRAM,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLogSize(program: *mut c_void, bytes: *mut usize) -> c_int {
    with("nvrtcGetProgramLogSize", program, |program| {
        // SAFETY: the caller's pointer, as NVRTC documents it.
        unsafe { bytes.write(program.log.len() + 1) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLog(program: *mut c_void, log: *mut c_char) -> c_int {
    with("nvrtcGetProgramLog", program, |program| {
        let text = program.log.as_bytes();
        // SAFETY: the caller's pointer has room for the log and a 0, as NVRTC documents it.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), log.cast(), text.len());
            log.add(text.len()).write(0);
        }
        Ok(())
    })
}

/// Writes the size of the code.
fn size(function: &'static str, program: *mut c_void, bytes: *mut usize) -> c_int {
    with(function, program, |program| {
        // SAFETY: the caller's pointer, as NVRTC documents it.
        unsafe { bytes.write(program.code.len()) };
        Ok(())
    })
}

/// Writes the code.
fn code(function: &'static str, program: *mut c_void, to: *mut c_char) -> c_int {
    with(function, program, |program| {
        let code = &program.code;
        // SAFETY: the caller's pointer has room for the code, as NVRTC documents it.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), to.cast(), code.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetCUBINSize(program: *mut c_void, bytes: *mut usize) -> c_int {
    size("nvrtcGetCUBINSize", program, bytes)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetCUBIN(program: *mut c_void, to: *mut c_char) -> c_int {
    code("nvrtcGetCUBIN", program, to)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetPTXSize(program: *mut c_void, bytes: *mut usize) -> c_int {
    size("nvrtcGetPTXSize", program, bytes)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetPTX(program: *mut c_void, to: *mut c_char) -> c_int {
    code("nvrtcGetPTX", program, to)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetErrorString(code: c_int) -> *const c_char {
    let text = match code {
        0 => c"NVRTC_SUCCESS",
        INVALID_INPUT => c"NVRTC_ERROR_INVALID_INPUT",
        INVALID_PROGRAM => c"NVRTC_ERROR_INVALID_PROGRAM",
        COMPILATION => c"NVRTC_ERROR_COMPILATION",
        _ => c"NVRTC_ERROR unknown",
    };
    text.as_ptr()
}
