//! Builds engines: passes a [`BuildRequest`] to the shim and collects the library's answers.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ffi::{self, text};
use super::listen::{CapturedLog, Listener};
use super::loader::{Function, Opened};
use super::{
    BuildRequest, Built, Family, HardwareCompatibility, Monitor, ParserError, Progress,
    TensorRtError, advice,
};

/// The receiver of a build's callbacks. The library calls from several threads.
struct Sink<'a> {
    monitor: &'a dyn Monitor,
    output: Mutex<Output>,
}

#[derive(Default)]
struct Output {
    /// Whether the monitor cancelled the build.
    stopped: bool,
    /// The monitor's panic, if it panicked.
    panic: Option<Box<dyn Any + Send>>,
    errors: Vec<ParserError>,
    plan: Vec<u8>,
    timing_cache: Option<Vec<u8>>,
}

impl Sink<'_> {
    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds an engine; see [`Library::build`](super::Library::build). The functions create the library's builder and
/// parser. The driver must be initialised if the library needs it.
pub(super) fn build(
    library: &Opened,
    (create_builder, create_parser): (Function, Function),
    request: &BuildRequest<'_>,
    monitor: &dyn Monitor,
) -> Result<Built, TensorRtError> {
    let sink = Sink {
        monitor,
        output: Mutex::default(),
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
    // SAFETY: the functions come from a library and its parser that match the shim. Everything that `call` points to
    // outlives the call, and its callbacks receive the sink that they expect.
    let ended = unsafe { (library.shim.build)(&raw const call, &mut refused) };
    let log = listener.finish();
    let mut output = sink
        .output
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(panic) = output.panic.take() {
        resume_unwind(panic);
    }
    // SAFETY: the shim sets a constant string, or null.
    let refused = unsafe { text(refused) };
    finish(library, request, ended, &refused, output, log)
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

/// Converts the status `ended` and the collected output to a result.
fn finish(
    library: &Opened,
    request: &BuildRequest<'_>,
    ended: i32,
    refused: &str,
    output: Output,
    log: CapturedLog,
) -> Result<Built, TensorRtError> {
    let path = request.path.to_path_buf();
    let text = advice::error_text(&log.errors);
    match ended {
        ffi::BUILT if !output.plan.is_empty() => Ok(Built {
            plan: output.plan,
            timing_cache: output.timing_cache,
            inspector: None,
            layer_log: log.layers,
        }),
        ffi::NO_BUILDER => Err(TensorRtError::Unavailable {
            reason: format!("{} created no builder: {text}", library.version),
        }),
        ffi::NO_PARSER => Err(TensorRtError::Unavailable {
            reason: format!(
                "the ONNX parser beside {} could not be created: {text}",
                library.path.display()
            ),
        }),
        ffi::PARSE => Err(TensorRtError::Parse {
            path,
            errors: output.errors,
        }),
        ffi::OPTION => {
            let (option, advice) = option(refused, library.version.family);
            Err(TensorRtError::Option {
                option: option.into(),
                library: library.version,
                advice: if log.errors.is_empty() {
                    advice.into()
                } else {
                    format!("{advice} ({text})")
                },
            })
        }
        _ => Err(TensorRtError::Build {
            path,
            library: library.version,
            reason: if output.stopped {
                "the build was cancelled".into()
            } else {
                advice::build(&log.errors)
            },
        }),
    }
}

/// Maps an option of shim.cpp to its command-line name and advice.
fn option(name: &str, family: Family) -> (&'static str, &'static str) {
    match (name, family) {
        ("DLA", Family::TensorRtRtx) => ("--dla", "RTX cards have no DLA; leave it out"),
        ("DLA", Family::TensorRt) => (
            "--dla",
            "this machine has no such DLA core; Jetsons with a DLA have cores 0 and 1",
        ),
        ("hardware compatibility", _) => (
            "--hardware-compatible",
            "leave it out, or use a newer library",
        ),
        ("timing cache", _) => (
            "--timing-cache",
            "this library has no timing cache; leave it out",
        ),
        ("compute capability", Family::TensorRt) => (
            "--compute-capability",
            "this library builds for the GPU that is present; leave it out",
        ),
        ("compute capability", Family::TensorRtRtx) => (
            "--compute-capability",
            "use compute capabilities that this version of TensorRT-RTX knows, such as 86, 89 or 120",
        ),
        _ => ("(unknown)", "leave it out"),
    }
}

/// Converts `user` back to the sink.
///
/// # Safety
/// `user` belongs to a [`ffi::Build`] whose build has not ended.
unsafe fn sink<'a>(user: *mut c_void) -> &'a Sink<'a> {
    // SAFETY: the caller guarantees that `user` is the sink of a running build.
    unsafe { &*user.cast_const().cast() }
}

unsafe extern "C" fn progress(
    user: *mut c_void,
    event: i32,
    phase: *const c_char,
    parent: *const c_char,
    number: i32,
) -> i32 {
    // SAFETY: shim.h guarantees the build's `user` and strings that are valid during the call; `parent` may be null.
    let (sink, phase, parent) = unsafe {
        let named = (!parent.is_null()).then(|| text(parent));
        (sink(user), text(phase), named)
    };
    let number = u64::try_from(number).unwrap_or(0);
    let progress = match event {
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
    if sink.output().stopped {
        return 0;
    }
    // A panic must not unwind into the library. It stops the build and resumes afterwards.
    match catch_unwind(AssertUnwindSafe(|| sink.monitor.progress(progress))) {
        Ok(true) => 1,
        Ok(false) => {
            sink.output().stopped = true;
            0
        }
        Err(panic) => {
            let mut output = sink.output();
            output.stopped = true;
            output.panic.get_or_insert(panic);
            0
        }
    }
}

unsafe extern "C" fn parser_error(user: *mut c_void, error: *const ffi::ParserError) {
    // SAFETY: shim.h guarantees the build's `user`, and a struct whose strings are valid during the call.
    let (sink, error, code, node) = unsafe {
        let error = &*error;
        let parsed = ParserError {
            node: text(error.node_name).into_owned(),
            operator: text(error.node_operator).into_owned(),
            what: text(error.description).into_owned(),
        };
        (sink(user), parsed, error.code, error.node)
    };
    sink.output().errors.push(advice::parser(code, node, error));
}

unsafe extern "C" fn take_plan(user: *mut c_void, bytes: *const c_void, count: usize) {
    // SAFETY: shim.h guarantees the build's `user` and bytes that are valid during the call; the vector is the sink's.
    unsafe { ffi::take_bytes((&raw mut sink(user).output().plan).cast(), bytes, count) }
}

unsafe extern "C" fn take_timing_cache(user: *mut c_void, bytes: *const c_void, count: usize) {
    let mut cache: Vec<u8> = Vec::new();
    // SAFETY: the same as in `take_plan`; the vector is local.
    unsafe {
        ffi::take_bytes((&raw mut cache).cast(), bytes, count);
        sink(user).output().timing_cache = Some(cache);
    }
}
