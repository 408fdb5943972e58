//! `shim.h` in Rust, field by field, and what the shims call back.
//!
//! The only callers are `builder.rs` and `runtime.rs`. A callback is given the address of a Rust value as
//! `user`, and must not unwind into C++.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_void};
use std::panic::catch_unwind;
use std::sync::OnceLock;

use super::{Version, listen};

/// `CpLog`.
pub(super) type Log = unsafe extern "C" fn(severity: i32, text: *const c_char);

/// `<prefix>_shim`.
type Start = unsafe extern "C" fn(log: Log) -> *const Shim;

// The list of shims, written by build.rs: the functions, `SHIMS`, and `PROBLEMS`.
include!(concat!(env!("OUT_DIR"), "/tensorrt.rs"));

/// `CpParserError`.
#[repr(C)]
pub(super) struct ParserError {
    pub(super) code: i32,
    pub(super) node: i32,
    pub(super) node_name: *const c_char,
    pub(super) node_operator: *const c_char,
    pub(super) description: *const c_char,
}

/// `CP_VERSION_COMPATIBLE`.
pub(super) const VERSION_COMPATIBLE: u32 = 1;
/// `CP_EXCLUDE_LEAN_RUNTIME`.
pub(super) const EXCLUDE_LEAN_RUNTIME: u32 = 2;
/// `CP_GPU_FALLBACK`.
pub(super) const GPU_FALLBACK: u32 = 4;

/// `CP_BUILT`.
pub(super) const BUILT: i32 = 0;
/// `CP_NO_BUILDER`.
pub(super) const NO_BUILDER: i32 = 1;
/// `CP_OPTION`.
pub(super) const OPTION: i32 = 2;
/// `CP_NO_PARSER`.
pub(super) const NO_PARSER: i32 = 3;
/// `CP_PARSE`.
pub(super) const PARSE: i32 = 4;

/// `CpBuild`.
#[repr(C)]
pub(super) struct Build {
    pub(super) create_builder: *mut c_void,
    pub(super) create_parser: *mut c_void,
    pub(super) onnx: *const c_void,
    pub(super) onnx_bytes: usize,
    pub(super) workspace: usize,
    pub(super) timing_cache: *const c_void,
    pub(super) timing_cache_bytes: usize,
    pub(super) optimization_level: i32,
    pub(super) dla_core: i32,
    pub(super) flags: u32,
    pub(super) hardware_compatibility: i32,
    pub(super) compute_capabilities: *const i32,
    pub(super) compute_capability_count: i32,
    pub(super) input_formats: u32,
    pub(super) output_formats: u32,
    pub(super) user: *mut c_void,
    pub(super) progress: unsafe extern "C" fn(
        *mut c_void,
        event: i32,
        phase: *const c_char,
        parent: *const c_char,
        number: i32,
    ) -> i32,
    pub(super) parser_error: unsafe extern "C" fn(*mut c_void, *const ParserError),
    pub(super) take_plan: Take,
    pub(super) take_timing_cache: Take,
}

/// Takes bytes that are valid during the call.
pub(super) type Take = unsafe extern "C" fn(*mut c_void, bytes: *const c_void, count: usize);

/// `CpTensor`.
#[repr(C)]
pub(super) struct Tensor {
    pub(super) name: *const c_char,
    pub(super) is_input: i32,
    pub(super) r#type: i32,
    pub(super) format: i32,
    pub(super) rank: i32,
    pub(super) dims: [i64; 8],
    pub(super) vector: i32,
    pub(super) vector_axis: i32,
}

/// `CpShim`.
#[repr(C)]
pub(super) struct Shim {
    pub(super) version: i32,
    pub(super) rtx: i32,
    pub(super) build: unsafe extern "C" fn(*const Build, refused: *mut *const c_char) -> i32,
    pub(super) runtime_new: unsafe extern "C" fn(create: *mut c_void) -> *mut c_void,
    pub(super) runtime_free: unsafe extern "C" fn(*mut c_void),
    pub(super) engine_new:
        unsafe extern "C" fn(*mut c_void, bytes: *const c_void, count: usize, i32) -> *mut c_void,
    pub(super) engine_free: unsafe extern "C" fn(*mut c_void),
    pub(super) tensor_count: unsafe extern "C" fn(*mut c_void) -> i32,
    pub(super) tensor: unsafe extern "C" fn(*mut c_void, index: i32, *mut Tensor) -> i32,
    pub(super) scratch_bytes: unsafe extern "C" fn(*mut c_void) -> i64,
    pub(super) layers: unsafe extern "C" fn(*mut c_void, user: *mut c_void, Take) -> i32,
    pub(super) context_new: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    pub(super) context_free: unsafe extern "C" fn(*mut c_void),
    pub(super) set_scratch: unsafe extern "C" fn(*mut c_void, address: u64, bytes: i64),
    pub(super) set_address:
        unsafe extern "C" fn(*mut c_void, name: *const c_char, address: u64) -> i32,
    pub(super) enqueue: unsafe extern "C" fn(*mut c_void, stream: *mut c_void) -> i32,
    pub(super) profile: unsafe extern "C" fn(
        *mut c_void,
        stream: *mut c_void,
        user: *mut c_void,
        layer: unsafe extern "C" fn(*mut c_void, name: *const c_char, ms: f32),
    ) -> i32,
}

// shim.h asserts the same.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(
    size_of::<ParserError>() == 32
        && size_of::<Build>() == 136
        && size_of::<Tensor>() == 96
        && size_of::<Shim>() == 128
);

/// The shims of this program, with the versions of their headers.
pub(super) fn shims() -> &'static [(Version, &'static Shim)] {
    static STARTED: OnceLock<Vec<(Version, &'static Shim)>> = OnceLock::new();
    STARTED.get_or_init(|| {
        let start = |start: &Start| {
            // SAFETY: a shim's function takes a callback that may come from any thread, and gives the
            // address of a constant.
            let shim = unsafe { &*start(log_line) };
            Some((Version::of_library(shim.version)?, shim))
        };
        SHIMS.iter().filter_map(start).collect()
    })
}

/// What was wrong when the shims were compiled; empty where nothing was.
pub(super) fn problems() -> &'static str {
    PROBLEMS
}

/// A string of the library's; "" for null.
///
/// # Safety
/// It is null, or ends with 0 and stays as long as the result is used.
pub(super) unsafe fn text<'a>(string: *const c_char) -> Cow<'a, str> {
    match string.is_null() {
        true => "".into(),
        // SAFETY: as promised.
        false => unsafe { CStr::from_ptr(string) }.to_string_lossy(),
    }
}

unsafe extern "C" fn log_line(severity: i32, line: *const c_char) {
    // SAFETY: shim.h: a string that is valid during the call.
    let line = unsafe { text(line) };
    // A logger that panics loses this line.
    let _ = catch_unwind(|| listen::line(severity, &line));
}

/// Appends to the `Vec<u8>` that `user` is.
pub(super) unsafe extern "C" fn take_bytes(user: *mut c_void, bytes: *const c_void, count: usize) {
    if bytes.is_null() || count == 0 {
        return;
    }
    // SAFETY: whoever gives this function gives a vector that nobody else uses meanwhile; shim.h: the bytes are
    // valid during the call.
    unsafe {
        (*user.cast::<Vec<u8>>())
            .extend_from_slice(std::slice::from_raw_parts(bytes.cast(), count));
    }
}

#[cfg(test)]
mod tests {
    /// Names of the fields of the structs in `source` that `begin` begins, as `Struct.field`, in order.
    fn fields(source: &str, begin: &str, name: impl Fn(&str) -> Vec<String>) -> Vec<String> {
        let mut found = Vec::new();
        for part in source.split(begin).skip(1) {
            let (head, rest) = part.split_once(" {").unwrap();
            let (body, _) = rest.split_once("\n}").unwrap();
            for field in name(body) {
                found.push(format!("{}.{field}", head.trim()));
            }
        }
        found
    }

    /// A declaration of C, without comments and line breaks.
    fn declarations(body: &str) -> Vec<String> {
        let code: Vec<&str> = body
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        code.join(" ").split(';').map(str::to_owned).collect()
    }

    #[test]
    fn the_structs_have_the_fields_of_the_header_in_its_order() {
        let header = fields(include_str!("shim.h"), "\nstruct Cp", |body| {
            let mut names = Vec::new();
            for declaration in declarations(body) {
                // A function's name is in the first parentheses, else it is what commas part.
                let list = match declaration.split_once("(*") {
                    Some((_, rest)) => rest.split(')').next().unwrap_or_default().to_owned(),
                    None => declaration,
                };
                for one in list.split(',') {
                    let last = one.split_whitespace().last().unwrap_or_default();
                    let name = last
                        .trim_start_matches('*')
                        .split('[')
                        .next()
                        .unwrap_or_default();
                    names.extend((!name.is_empty()).then(|| name.to_owned()));
                }
            }
            names
        });
        let here = fields(
            include_str!("ffi.rs"),
            "#[repr(C)]\npub(super) struct ",
            |body| {
                body.lines()
                    .filter_map(|line| line.strip_prefix("    pub(super) "))
                    .filter_map(|line| line.split(':').next())
                    .map(|name| name.trim_start_matches("r#").to_owned())
                    .collect()
            },
        );
        assert_eq!(header, here);
        assert_eq!(header.len(), 5 + 20 + 8 + 17);
    }
}
