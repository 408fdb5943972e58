//! The driver's functions. Names, arguments and errors are those of CUDA's driver API.
#![allow(non_snake_case, missing_docs, unreachable_pub)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use crate::calls::{enter, fault, number, reset, write_report};
use crate::code::Code;
use crate::nvrtc;
use crate::work::Work;
use crate::world::{Capture, Event, Function, Module, Stream, World, error, world};

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// Most bytes of shared memory of a block, and without asking for more.
const MAX_SHARED: u32 = 227 << 10;
const DEFAULT_SHARED: u32 = 48 << 10;
/// Threads of a block.
const MAX_THREADS: u32 = 1024;

/// `CU_EVENT_RECORD_EXTERNAL`.
const EXTERNAL: c_uint = 1;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: c_int = 8;

/// The errors' names and meanings.
const ERRORS: [(u32, &CStr, &CStr); 18] = [
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (
        100,
        c"CUDA_ERROR_NO_DEVICE",
        c"no CUDA-capable device is detected",
    ),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (
        201,
        c"CUDA_ERROR_INVALID_CONTEXT",
        c"invalid device context",
    ),
    (
        209,
        c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        c"no kernel image is available for execution on the device",
    ),
    (
        400,
        c"CUDA_ERROR_INVALID_HANDLE",
        c"invalid resource handle",
    ),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (
        700,
        c"CUDA_ERROR_ILLEGAL_ADDRESS",
        c"an illegal memory access was encountered",
    ),
    (
        709,
        c"CUDA_ERROR_CONTEXT_IS_DESTROYED",
        c"context is destroyed",
    ),
    (
        719,
        c"CUDA_ERROR_LAUNCH_FAILED",
        c"unspecified launch failure",
    ),
    (
        900,
        c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        c"operation not permitted when stream is capturing",
    ),
    (
        901,
        c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        c"operation failed due to a previous error during capture",
    ),
    (
        908,
        c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        c"attempt to terminate a thread-local capture sequence from another thread",
    ),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

/// Counts a call, fails it if it is to fail, and otherwise runs `body`.
fn call(function: &'static str, body: impl FnOnce() -> Result<(), u32>) -> u32 {
    match enter(function).and_then(|()| body()) {
        Ok(()) => 0,
        Err(code) => code,
    }
}

/// Writes a result; null pointers are invalid values.
///
/// # Safety
/// `to` is null or points to a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Result<(), u32> {
    if to.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: this function's contract.
    unsafe { to.write(value) };
    Ok(())
}

extern "C" fn at_exit() {
    let world = world();
    let mut leaks = world.leaks();
    if world.retained > 0 {
        leaks.push(format!(
            "the primary context, retained {} times",
            world.retained
        ));
    }
    write_report(&leaks);
}

/// For tests in the same process, while nothing is open: forgets everything, and sets the call to fail: `function:number:error`, or null.
///
/// # Safety
/// `failure` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_reset(failure: *const c_char) {
    world().destroy();
    // SAFETY: this function's contract.
    let failure = (!failure.is_null()).then(|| unsafe { CStr::from_ptr(failure) });
    reset(failure.and_then(|failure| failure.to_str().ok()));
}

/// For tests in the same process: writes the report so far, as at the end of the program. Returns its length, which may be
/// more than `bytes`.
///
/// # Safety
/// `to` points to `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_report(to: *mut c_char, bytes: usize) -> usize {
    let text = crate::calls::report(&world().leaks());
    let count = text.len().min(bytes);
    // SAFETY: this function's contract.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), count) };
    text.len()
}

/// For tests in the same process: whether the context that is current to this thread was released.
#[unsafe(no_mangle)]
pub extern "C" fn standin_stale() -> bool {
    world().is_stale()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: u32, text: *mut *const c_char) -> u32 {
    let found = ERRORS.iter().find(|(number, ..)| *number == code);
    // SAFETY: the caller's pointer, as CUDA documents it.
    call("cuGetErrorName", || unsafe {
        put(text, found.ok_or(error::INVALID_VALUE)?.1.as_ptr())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: u32, text: *mut *const c_char) -> u32 {
    let found = ERRORS.iter().find(|(number, ..)| *number == code);
    // SAFETY: the caller's pointer, as CUDA documents it.
    call("cuGetErrorString", || unsafe {
        put(text, found.ok_or(error::INVALID_VALUE)?.2.as_ptr())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> u32 {
    call("cuInit", || {
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        let mut world = world();
        if !std::mem::replace(&mut world.initialised, true) {
            // SAFETY: the function lives as long as the program: the library is never unloaded.
            unsafe { atexit(at_exit) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer, as CUDA documents it.
    call("cuDriverGetVersion", || unsafe {
        put(version, number("CENTERPOINT_STANDIN_CUDA", 12060) as c_int)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer, as CUDA documents it.
    call("cuDeviceGetCount", || unsafe {
        put(count, number("CENTERPOINT_STANDIN_GPUS", 1) as c_int)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32 {
    call("cuDeviceGet", || match ordinal {
        // SAFETY: the caller's pointer, as CUDA documents it.
        0 => unsafe { put(device, 0) },
        _ => Err(error::INVALID_DEVICE),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, bytes: c_int, _device: c_int) -> u32 {
    call("cuDeviceGetName", || {
        let text = c"stand-in".to_bytes_with_nul();
        if name.is_null() || usize::try_from(bytes).unwrap_or(0) < text.len() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: `name` has room for `bytes` bytes, as CUDA documents it.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), text.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    _device: c_int,
) -> u32 {
    let architecture = number("CENTERPOINT_STANDIN_ARCH", 87) as c_int;
    call("cuDeviceGetAttribute", || {
        let found = match attribute {
            // Threads of a block, bytes of shared memory, lanes of a warp, multiprocessors.
            1 => MAX_THREADS as c_int,
            8 => DEFAULT_SHARED as c_int,
            10 => 32,
            16 => 16,
            75 => architecture / 10,
            76 => architecture % 10,
            97 => MAX_SHARED as c_int,
            _ => return Err(error::INVALID_VALUE),
        };
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(value, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut u64, _device: c_int) -> u32 {
    call("cuDevicePrimaryCtxRetain", || {
        let mut world = world();
        if world.retained == 0 {
            world.context = world.handle();
        }
        world.retained += 1;
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(context, world.context) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> u32 {
    call("cuDevicePrimaryCtxRelease_v2", || {
        let mut world = world();
        let Some(retained) = world.retained.checked_sub(1) else {
            fault("the primary context was released more often than retained".into());
            return Err(error::INVALID_CONTEXT);
        };
        world.retained = retained;
        if retained == 0 {
            world.destroy();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: u64) -> u32 {
    call("cuCtxSetCurrent", || world().set_current(context))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    call("cuMemGetInfo_v2", || {
        let mut world = world();
        world.check("cuMemGetInfo_v2")?;
        let used: usize = world.memory.values().map(|memory| memory.bytes).sum();
        let all = number("CENTERPOINT_STANDIN_MEMORY", 8 << 30) as usize;
        // SAFETY: the caller's pointers, as CUDA documents them.
        unsafe {
            put(free, all.saturating_sub(used))?;
            put(total, all)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32 {
    call("cuMemAlloc_v2", || {
        let mut world = world();
        world.check_uncaptured("cuMemAlloc_v2")?;
        let memory = world.allocate(bytes, false)?;
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(address, memory) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    call("cuMemFree_v2", || {
        let mut world = world();
        // CUDA waits for the work before.
        let checked = world.check_uncaptured("cuMemFree_v2");
        world.work_all();
        world.free("cuMemFree_v2", address, false)?;
        checked
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(
    address: *mut *mut c_void,
    bytes: usize,
    _flags: c_uint,
) -> u32 {
    call("cuMemHostAlloc", || {
        let mut world = world();
        world.check_uncaptured("cuMemHostAlloc")?;
        let memory = world.allocate(bytes, true)?;
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(address, memory as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(address: *mut c_void) -> u32 {
    call("cuMemFreeHost", || {
        let mut world = world();
        let checked = world.check_uncaptured("cuMemFreeHost");
        world.free("cuMemFreeHost", address as u64, true)?;
        checked
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: u64,
) -> u32 {
    call("cuMemcpyHtoDAsync_v2", || {
        let mut world = world();
        world.check("cuMemcpyHtoDAsync_v2")?;
        world.device_range("cuMemcpyHtoDAsync_v2", to, bytes)?;
        let from_address = from as u64;
        let work = match world.pinned_range("cuMemcpyHtoDAsync_v2", from_address, bytes)? {
            true => Work::Copy {
                from: from_address,
                to,
                bytes,
            },
            false => {
                world.refuse_capture("a copy from memory that is not pinned", stream)?;
                // SAFETY: the caller's bytes, as CUDA documents them; memory that is not pinned is read before the call returns.
                let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
                Work::Bytes {
                    bytes: bytes.to_vec(),
                    to,
                }
            }
        };
        world.enqueue("cuMemcpyHtoDAsync_v2", stream, work)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: u64,
) -> u32 {
    call("cuMemcpyDtoHAsync_v2", || {
        let mut world = world();
        world.check("cuMemcpyDtoHAsync_v2")?;
        world.device_range("cuMemcpyDtoHAsync_v2", from, bytes)?;
        let to_address = to as u64;
        if world.pinned_range("cuMemcpyDtoHAsync_v2", to_address, bytes)? {
            let work = Work::Copy {
                from,
                to: to_address,
                bytes,
            };
            return world.enqueue("cuMemcpyDtoHAsync_v2", stream, work);
        }
        // Memory that is not pinned is complete when the call returns.
        world.refuse_capture("a copy to memory that is not pinned", stream)?;
        world.work_stream(stream);
        if let Some(sticky) = world.sticky {
            return Err(sticky);
        }
        // SAFETY: the source is inside an allocation; the target is the caller's, as CUDA documents it.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.cast::<u8>(), bytes) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    stream: u64,
) -> u32 {
    call("cuMemcpyDtoDAsync_v2", || {
        let mut world = world();
        world.check("cuMemcpyDtoDAsync_v2")?;
        for end in [from, to] {
            world.device_range("cuMemcpyDtoDAsync_v2", end, bytes)?;
        }
        world.enqueue(
            "cuMemcpyDtoDAsync_v2",
            stream,
            Work::Copy { from, to, bytes },
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: u64) -> u32 {
    call("cuMemsetD8Async", || {
        let mut world = world();
        world.check("cuMemsetD8Async")?;
        world.device_range("cuMemsetD8Async", to, bytes)?;
        world.enqueue("cuMemsetD8Async", stream, Work::Set { to, value, bytes })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut u64, _flags: c_uint) -> u32 {
    call("cuStreamCreate", || {
        let mut world = world();
        world.check("cuStreamCreate")?;
        let handle = world.handle();
        world.streams.insert(handle, Stream::default());
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(stream, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: u64) -> u32 {
    call("cuStreamDestroy_v2", || {
        let mut world = world();
        let checked = world.check("cuStreamDestroy_v2");
        world.work_stream(stream);
        let gone = world.streams.remove(&stream);
        known("cuStreamDestroy_v2", stream, gone.map(|_| ()))?;
        checked
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: u64) -> u32 {
    call("cuStreamSynchronize", || {
        let mut world = world();
        world.check("cuStreamSynchronize")?;
        world.refuse_capture("cuStreamSynchronize", stream)?;
        world.work_stream(stream);
        world.sticky.map_or(Ok(()), Err)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: u64, _mode: c_uint) -> u32 {
    call("cuStreamBeginCapture_v2", || {
        let mut world = world();
        world.check("cuStreamBeginCapture_v2")?;
        world.refuse_capture("cuStreamBeginCapture_v2", stream)?;
        let found = world.streams.get_mut(&stream);
        known("cuStreamBeginCapture_v2", stream, found)?.capture = Some(Capture {
            thread: std::thread::current().id(),
            work: Vec::new(),
            invalid: false,
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: u64, graph: *mut u64) -> u32 {
    let entered = enter("cuStreamEndCapture");
    // It ends the capture, whatever it returns.
    let ended = || {
        let mut world = world();
        let checked = world.check("cuStreamEndCapture").and(entered);
        let found = world.streams.get_mut(&stream);
        let found = known("cuStreamEndCapture", stream, found)?;
        let own = std::thread::current().id();
        match &found.capture {
            None => {
                fault("cuStreamEndCapture without a capture".into());
                return Err(error::INVALID_VALUE);
            }
            Some(capture) if capture.thread != own => {
                fault("cuStreamEndCapture by another thread than the one that began".into());
                return Err(error::CAPTURE_WRONG_THREAD);
            }
            Some(_) => {}
        }
        let capture = found.capture.take();
        checked?;
        match capture {
            Some(capture) if !capture.invalid => {
                let handle = world.handle();
                world.graphs.insert(handle, capture.work);
                // SAFETY: the caller's pointer, as CUDA documents it.
                unsafe { put(graph, handle) }
            }
            _ => Err(error::CAPTURE_INVALIDATED),
        }
    };
    ended().err().unwrap_or(0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut u64,
    graph: u64,
    _flags: u64,
) -> u32 {
    call("cuGraphInstantiateWithFlags", || {
        let mut world = world();
        world.check("cuGraphInstantiateWithFlags")?;
        let found = world.graphs.get(&graph).cloned();
        let work = known("cuGraphInstantiateWithFlags", graph, found)?;
        let handle = world.handle();
        world.executables.insert(handle, work);
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(executable, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: u64) -> u32 {
    call("cuGraphDestroy", || {
        let gone = world().graphs.remove(&graph);
        known("cuGraphDestroy", graph, gone.map(|_| ()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(executable: u64) -> u32 {
    call("cuGraphExecDestroy", || {
        let gone = world().executables.remove(&executable);
        known("cuGraphExecDestroy", executable, gone.map(|_| ()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphUpload(executable: u64, stream: u64) -> u32 {
    call("cuGraphUpload", || {
        let mut world = world();
        world.check("cuGraphUpload")?;
        known("cuGraphUpload", stream, world.streams.get(&stream))?;
        known(
            "cuGraphUpload",
            executable,
            world.executables.get(&executable),
        )
        .map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(executable: u64, stream: u64) -> u32 {
    call("cuGraphLaunch", || {
        let mut world = world();
        world.check("cuGraphLaunch")?;
        let found = world.executables.get(&executable).cloned();
        let work = known("cuGraphLaunch", executable, found)?;
        world.enqueue("cuGraphLaunch", stream, Work::Graph(work))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut u64, _flags: c_uint) -> u32 {
    call("cuEventCreate", || {
        let mut world = world();
        world.check("cuEventCreate")?;
        let handle = world.handle();
        world.events.insert(handle, Event::default());
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(event, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: u64) -> u32 {
    call("cuEventDestroy_v2", || {
        let mut world = world();
        let checked = world.check("cuEventDestroy_v2");
        let gone = world.events.remove(&event);
        known("cuEventDestroy_v2", event, gone.map(|_| ()))?;
        checked
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecordWithFlags(event: u64, stream: u64, flags: c_uint) -> u32 {
    call("cuEventRecordWithFlags", || {
        let mut world = world();
        world.check("cuEventRecordWithFlags")?;
        let captures = world
            .streams
            .get(&stream)
            .is_some_and(|s| s.capture.is_some());
        if flags & EXTERNAL != 0 && !captures {
            fault("an external event outside of a capture".into());
            return Err(error::INVALID_VALUE);
        }
        let timed = !captures || flags & EXTERNAL != 0;
        let found = world.events.get_mut(&event);
        let found = known("cuEventRecordWithFlags", event, found)?;
        // A capture records it at each launch of the graph.
        found.recorded = true;
        found.internal = !timed;
        found.time = found.time.filter(|_| captures && timed);
        world.enqueue(
            "cuEventRecordWithFlags",
            stream,
            Work::Event { event, timed },
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, from: u64, to: u64) -> u32 {
    call("cuEventElapsedTime", || {
        let mut world = world();
        world.check("cuEventElapsedTime")?;
        let mut times = [None; 2];
        for (time, event) in times.iter_mut().zip([from, to]) {
            let found = known("cuEventElapsedTime", event, world.events.get(&event))?;
            if !found.recorded || found.internal {
                fault("the time of an event that was not recorded, or in a graph".into());
                return Err(error::INVALID_HANDLE);
            }
            *time = found.time;
        }
        match times {
            [Some(from), Some(to)] => {
                let elapsed = to.saturating_duration_since(from).as_secs_f32() * 1e3;
                // SAFETY: the caller's pointer, as CUDA documents it.
                unsafe { put(ms, elapsed) }
            }
            _ => Err(error::NOT_READY),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut u64, image: *const c_void) -> u32 {
    call("cuModuleLoadData", || {
        let mut world = world();
        world.check_uncaptured("cuModuleLoadData")?;
        if image.is_null() || !(image as usize).is_multiple_of(8) {
            fault("cuModuleLoadData: the image is not aligned to 8 bytes".into());
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: fatbins and what our compiler makes have at least 8 bytes.
        let first = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 8) };
        let is_ptx = first.starts_with(b"//") || first.starts_with(b".version");
        if first != nvrtc::MAGIC && !is_ptx {
            // Code for a GPU.
            return Err(error::NO_BINARY_FOR_GPU);
        }
        // SAFETY: both texts end with a 0.
        let text = unsafe { CStr::from_ptr(image.cast()) };
        let code = if is_ptx {
            let code = Code::ptx(&text.to_string_lossy());
            code.map_err(|problem| fault(format!("cuModuleLoadData: {problem}")))
                .ok()
        } else {
            nvrtc::source(text).and_then(Code::cpp)
        };
        let code = code.ok_or(error::INVALID_VALUE)?;
        let handle = world.handle();
        world.modules.insert(handle, Module { code });
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(module, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: u64) -> u32 {
    call("cuModuleUnload", || {
        let mut world = world();
        let checked = world.check_uncaptured("cuModuleUnload");
        world.work_all();
        if world.graphs_use(module) {
            fault("cuModuleUnload: a graph still has kernels of the module".into());
        }
        let gone = world.modules.remove(&module);
        known("cuModuleUnload", module, gone.map(|_| ()))?;
        world
            .functions
            .retain(|_, function| function.module != module);
        checked
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut u64,
    module: u64,
    name: *const c_char,
) -> u32 {
    call("cuModuleGetFunction", || {
        let mut world = world();
        world.check("cuModuleGetFunction")?;
        // SAFETY: a C string, as CUDA documents it.
        let name = unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned();
        let found = world.modules.get(&module);
        let found = known("cuModuleGetFunction", module, found)?;
        let code = found.code.clone();
        let param_bytes = code.param_bytes(&name).ok_or(error::NOT_FOUND)?;
        let handle = world.handle();
        world.functions.insert(
            handle,
            Function {
                module,
                code,
                name,
                param_bytes,
                shared: DEFAULT_SHARED,
            },
        );
        // SAFETY: the caller's pointer, as CUDA documents it.
        unsafe { put(function, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: u64, attribute: c_int, value: c_int) -> u32 {
    call("cuFuncSetAttribute", || {
        let mut world = world();
        world.check("cuFuncSetAttribute")?;
        let found = world.functions.get_mut(&function);
        let found = known("cuFuncSetAttribute", function, found)?;
        let bytes = u32::try_from(value).map_err(|_| error::INVALID_VALUE)?;
        if attribute != MAX_DYNAMIC_SHARED || bytes > MAX_SHARED {
            return Err(error::INVALID_VALUE);
        }
        found.shared = bytes;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: u64,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    call("cuLaunchKernel", || {
        let mut world = world();
        world.check("cuLaunchKernel")?;
        let found = known("cuLaunchKernel", function, world.functions.get(&function))?;
        if !params.is_null() {
            fault("cuLaunchKernel: the stand-in takes parameters as one block".into());
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: CUDA documents the list.
        let params = unsafe { parameter_block(extra) }?;
        let [blocks, threads] = [[grid_x, grid_y, grid_z], [block_x, block_y, block_z]];
        let problem = if params.len() != found.param_bytes {
            format!(
                "{} bytes of parameters, expected {}",
                params.len(),
                found.param_bytes
            )
        } else if blocks.contains(&0) || threads[1..] != [1, 1] {
            format!("{blocks:?} blocks of {threads:?} threads")
        } else if !(1..=MAX_THREADS).contains(&block_x) {
            format!("{block_x} threads, expected 1 to {MAX_THREADS}")
        } else if shared > found.shared {
            format!(
                "{shared} bytes of shared memory, allowed are {}",
                found.shared
            )
        } else {
            String::new()
        };
        if !problem.is_empty() {
            fault(format!("`{}`: {problem}", found.name));
            return Err(error::INVALID_VALUE);
        }
        if let Ok(only) = std::env::var("CENTERPOINT_STANDIN_ONLY")
            && !found.name.starts_with(&only)
        {
            return Ok(());
        }
        let work = Work::Kernel {
            module: found.module,
            code: found.code.clone(),
            kernel: found.name.clone(),
            grid: blocks,
            block: block_x,
            shared,
            params,
        };
        world.enqueue("cuLaunchKernel", stream, work)
    })
}

/// The parameters in the list `extra` of a launch: `CU_LAUNCH_PARAM_BUFFER_POINTER` (1), `…_SIZE` (2) and `…_END` (0).
///
/// # Safety
/// `extra` is null or a list as CUDA documents it.
unsafe fn parameter_block(extra: *mut *mut c_void) -> Result<Vec<u8>, u32> {
    let (mut start, mut bytes) = (None, None);
    let mut at = extra;
    while !at.is_null() {
        // SAFETY: the list ends with 0; each key before that has a value.
        let (key, value) = unsafe {
            match *at as usize {
                0 => break,
                key => (key, *at.add(1)),
            }
        };
        match key {
            1 => start = Some(value),
            // SAFETY: points to the size.
            2 => bytes = Some(unsafe { *value.cast::<usize>() }),
            _ => return Err(error::INVALID_VALUE),
        }
        // SAFETY: as above.
        at = unsafe { at.add(2) };
    }
    match (start, bytes) {
        (Some(start), Some(bytes)) => {
            // SAFETY: the block has that size.
            Ok(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), bytes) }.to_vec())
        }
        _ => Err(error::INVALID_VALUE),
    }
}

/// What a handle stands for.
fn known<T>(function: &str, handle: u64, found: Option<T>) -> Result<T, u32> {
    found.ok_or_else(|| {
        fault(format!("{function}: there is no {handle:#x}"));
        error::INVALID_HANDLE
    })
}

impl World {
    /// Enqueues work, or adds it to the capture of its stream.
    fn enqueue(&mut self, function: &str, stream: u64, work: Work) -> Result<(), u32> {
        let found = self.streams.get_mut(&stream);
        let found = known(function, stream, found)?;
        match &mut found.capture {
            None => found.pending.push_back(Arc::new(work)),
            Some(capture) if capture.invalid => return Err(error::CAPTURE_INVALIDATED),
            Some(capture) => {
                if capture.thread != std::thread::current().id() {
                    fault(format!(
                        "{function} by another thread than the one that captures"
                    ));
                }
                capture.work.push(Arc::new(work));
            }
        }
        Ok(())
    }

    /// Fails, and ends the capture, if a stream captures.
    fn refuse_capture(&mut self, what: &str, stream: u64) -> Result<(), u32> {
        let found = self.streams.get_mut(&stream);
        match &mut known(what, stream, found)?.capture {
            None => Ok(()),
            Some(capture) => {
                capture.invalid = true;
                fault(format!("{what} while the stream captures"));
                Err(error::CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Fails unless a range is inside device memory.
    fn device_range(&self, function: &str, address: u64, bytes: usize) -> Result<(), u32> {
        match self.find(address, bytes).filter(|memory| !memory.pinned) {
            Some(_) => Ok(()),
            None => {
                fault(format!(
                    "{function}: {bytes} bytes at {address:#x} are no device memory"
                ));
                Err(error::INVALID_VALUE)
            }
        }
    }

    /// Whether a range is pinned memory. Fails if it only begins there.
    fn pinned_range(&self, function: &str, address: u64, bytes: usize) -> Result<bool, u32> {
        let begins = self.find(address, 1).is_some();
        let found = self.find(address, bytes).filter(|memory| memory.pinned);
        if begins && found.is_none() {
            fault(format!(
                "{function}: {bytes} bytes at {address:#x} leave their memory"
            ));
            return Err(error::INVALID_VALUE);
        }
        Ok(begins)
    }

    /// Frees memory.
    fn free(&mut self, function: &str, address: u64, pinned: bool) -> Result<(), u32> {
        let Some(memory) = self.memory.get(&address).filter(|m| m.pinned == pinned) else {
            fault(format!("{function}: {address:#x} is not allocated"));
            return Err(error::INVALID_VALUE);
        };
        let bytes = memory.bytes;
        if self.is_pending(address, bytes) {
            fault(format!(
                "{function}: {bytes} bytes that work on a stream still uses"
            ));
        }
        if !memory.is_intact() {
            fault(format!("{function}: something wrote beside {bytes} bytes"));
        }
        self.forget(address);
        Ok(())
    }
}
