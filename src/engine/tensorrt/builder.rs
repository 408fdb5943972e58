//! Builds engines: a [`BuildRequest`] to the shim, and what the library says on the way back.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ffi::{self, text};
use super::listen::{Heard, Listener};
use super::loader::{Function, Opened};
use super::{
    BuildRequest, Built, Family, HardwareCompatibility, Monitor, ParserError, Progress,
    TensorRtError, advice,
};

/// What a build's callbacks are given. The library calls from several threads.
struct Sink<'a> {
    monitor: &'a dyn Monitor,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// Whether the monitor said to stop.
    stopped: bool,
    /// What the monitor panicked with.
    panic: Option<Box<dyn Any + Send>>,
    errors: Vec<ParserError>,
    plan: Vec<u8>,
    timing_cache: Option<Vec<u8>>,
}

impl Sink<'_> {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds an engine, as [`Library::build`](super::Library::build) says, with the functions that make the
/// library's builder and parser. The driver is initialised where the library needs it.
pub(super) fn build(
    library: &Opened,
    (create_builder, create_parser): (Function, Function),
    request: &BuildRequest<'_>,
    monitor: &dyn Monitor,
) -> Result<Built, TensorRtError> {
    let sink = Sink {
        monitor,
        told: Mutex::default(),
    };
    let capabilities: Vec<i32> = request
        .compute_capabilities
        .iter()
        .map(|capability| i32::try_from(*capability).unwrap_or(i32::MAX))
        .collect();
    let call = ffi::Build {
        create_builder: create_builder.address(),
        create_parser: create_parser.address(),
        onnx: request.onnx.as_ptr().cast(),
        onnx_bytes: request.onnx.len(),
        workspace: request.workspace.unwrap_or(0),
        timing_cache: request
            .timing_cache
            .map_or(ptr::null(), |c| c.as_ptr().cast()),
        timing_cache_bytes: request.timing_cache.map_or(0, <[u8]>::len),
        optimization_level: request.optimization_level.map_or(-1, i32::from),
        dla_core: request
            .dla_core
            .map_or(-1, |core| i32::try_from(core).unwrap_or(i32::MAX)),
        flags: flags(request),
        hardware_compatibility: match request.hardware_compatibility {
            HardwareCompatibility::None => 0,
            HardwareCompatibility::AmperePlus => 1,
            HardwareCompatibility::SameComputeCapability => 2,
        },
        compute_capabilities: capabilities.as_ptr(),
        compute_capability_count: i32::try_from(capabilities.len()).unwrap_or(i32::MAX),
        input_formats: request.input_formats,
        output_formats: request.output_formats,
        user: (&raw const sink).cast_mut().cast(),
        progress,
        parser_error,
        take_plan,
        take_timing_cache,
    };
    let mut refused = ptr::null();
    let listener = Listener::new();
    // SAFETY: the functions are those of a library, and of its parser, that fit the shim. All that `call`
    // points to outlives it, and its callbacks are given the sink that they want.
    let ended = unsafe { (library.shim.build)(&raw const call, &mut refused) };
    let heard = listener.finish();
    let mut told = sink
        .told
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(panic) = told.panic.take() {
        resume_unwind(panic);
    }
    // SAFETY: a constant of the shim's, or null.
    let refused = unsafe { text(refused) };
    finish(library, request, ended, &refused, told, heard)
}

fn flags(request: &BuildRequest<'_>) -> u32 {
    [
        (request.version_compatible, ffi::VERSION_COMPATIBLE),
        (request.exclude_lean_runtime, ffi::EXCLUDE_LEAN_RUNTIME),
        (request.gpu_fallback, ffi::GPU_FALLBACK),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// The result of a build that ended as `ended`.
fn finish(
    library: &Opened,
    request: &BuildRequest<'_>,
    ended: i32,
    refused: &str,
    told: Told,
    heard: Heard,
) -> Result<Built, TensorRtError> {
    let path = request.path.to_path_buf();
    let said = advice::said(&heard.errors);
    match ended {
        ffi::BUILT if !told.plan.is_empty() => Ok(Built {
            plan: told.plan,
            timing_cache: told.timing_cache,
            inspector: None,
            layer_log: heard.layers,
        }),
        ffi::NO_BUILDER => Err(TensorRtError::Unavailable {
            reason: format!("{} makes no builder: {said}", library.version),
        }),
        ffi::NO_PARSER => Err(TensorRtError::Unavailable {
            reason: format!(
                "the ONNX parser beside {} makes no parser: {said}",
                library.path.display()
            ),
        }),
        ffi::PARSE => Err(TensorRtError::Parse {
            path,
            errors: told.errors,
        }),
        ffi::OPTION => {
            let (option, advice) = option(refused, library.version.family);
            Err(TensorRtError::Option {
                option: option.into(),
                library: library.version,
                advice: match heard.errors.is_empty() {
                    true => advice.into(),
                    false => format!("{advice} ({said})"),
                },
            })
        }
        _ => Err(TensorRtError::Build {
            path,
            library: library.version,
            reason: match told.stopped {
                true => "it was told to stop".into(),
                false => advice::build(&heard.errors),
            },
        }),
    }
}

/// An option of shim.cpp's as on the command line, and what to do without it.
fn option(name: &str, family: Family) -> (&'static str, &'static str) {
    match (name, family) {
        ("DLA", Family::TensorRtRtx) => ("--dla", "RTX cards have no DLA; leave it out"),
        ("DLA", Family::TensorRt) => (
            "--dla",
            "this machine has no such DLA core; on a Jetson the cores are 0 and 1",
        ),
        ("hardware compatibility", _) => (
            "--hardware-compatible",
            "leave it out, or use a newer library",
        ),
        ("timing cache", _) => ("--timing-cache", "this library keeps none; leave it out"),
        ("compute capability", Family::TensorRt) => (
            "--compute-capability",
            "this library builds for the GPU that is present; leave it out",
        ),
        ("compute capability", Family::TensorRtRtx) => (
            "--compute-capability",
            "give compute capabilities that this version of TensorRT-RTX knows, such as 86, 89 or 120",
        ),
        _ => ("(of an unknown name)", "leave it out"),
    }
}

/// The sink that `user` is.
///
/// # Safety
/// `user` is that of a [`ffi::Build`] whose build has not ended.
unsafe fn sink<'a>(user: *mut c_void) -> &'a Sink<'a> {
    // SAFETY: as promised.
    unsafe { &*user.cast_const().cast() }
}

unsafe extern "C" fn progress(
    user: *mut c_void,
    event: i32,
    phase: *const c_char,
    parent: *const c_char,
    number: i32,
) -> i32 {
    // SAFETY: shim.h: `user` of the build; strings that are valid during the call, `parent` perhaps null.
    let (sink, phase, parent) = unsafe {
        let named = (!parent.is_null()).then(|| text(parent));
        (sink(user), text(phase), named)
    };
    let number = u64::try_from(number).unwrap_or(0);
    let news = match event {
        0 => Progress::Begin {
            phase: &phase,
            parent: parent.as_deref(),
            steps: number,
        },
        1 => Progress::Step {
            phase: &phase,
            step: number,
        },
        _ => Progress::End { phase: &phase },
    };
    if sink.told().stopped {
        return 0;
    }
    // Nothing may unwind into the library: a panic stops the build, and goes on after it.
    match catch_unwind(AssertUnwindSafe(|| sink.monitor.progress(news))) {
        Ok(true) => 1,
        Ok(false) => {
            sink.told().stopped = true;
            0
        }
        Err(panic) => {
            let mut told = sink.told();
            told.stopped = true;
            told.panic.get_or_insert(panic);
            0
        }
    }
}

unsafe extern "C" fn parser_error(user: *mut c_void, error: *const ffi::ParserError) {
    // SAFETY: shim.h: `user` of the build; a struct whose strings are valid during the call.
    let (sink, told, code, node) = unsafe {
        let error = &*error;
        let told = ParserError {
            node: text(error.node_name).into_owned(),
            operator: text(error.node_operator).into_owned(),
            what: text(error.description).into_owned(),
        };
        (sink(user), told, error.code, error.node)
    };
    sink.told().errors.push(advice::parser(code, node, told));
}

unsafe extern "C" fn take_plan(user: *mut c_void, bytes: *const c_void, count: usize) {
    // SAFETY: shim.h: `user` of the build; the vector is the sink's, the bytes are valid during the call.
    unsafe { ffi::take_bytes((&raw mut sink(user).told().plan).cast(), bytes, count) }
}

unsafe extern "C" fn take_timing_cache(user: *mut c_void, bytes: *const c_void, count: usize) {
    let mut cache: Vec<u8> = Vec::new();
    // SAFETY: as in `take_plan`.
    unsafe {
        ffi::take_bytes((&raw mut cache).cast(), bytes, count);
        sink(user).told().timing_cache = Some(cache);
    }
}
