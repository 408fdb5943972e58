//! The library objects that run an engine. Each owns the one it came from:
//!
//! ```text
//! Library::runtime(device) → Runtime → LoadedEngine → ExecutionContext
//! ```
//!
//! They are therefore freed in the order that the library requires, and the device outlives them all. Only one thread at
//! a time may use them.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use super::binding::Tensor;
use super::ffi::{self, Shim};
use super::listen::Listener;
use super::loader::Opened;
use super::{TensorRtError, Version, advice};
use crate::cuda::{Buffer, Device, Stream};

/// Deserialises engines.
pub(crate) struct Runtime {
    raw: NonNull<c_void>,
    shim: &'static Shim,
    version: Version,
    // Dropped last, because fields drop in order of declaration.
    _device: Arc<dyn Device>,
}

/// An engine on the device.
pub(crate) struct LoadedEngine {
    raw: NonNull<c_void>,
    runtime: Runtime,
}

/// An execution context of an engine, with its memory.
pub(crate) struct ExecutionContext {
    raw: NonNull<c_void>,
    engine: LoadedEngine,
    /// Dropped after the library's context.
    memory: Vec<Buffer<u8>>,
}

// SAFETY: any thread may use the library's objects, one thread at a time. None of these types is `Sync`, and
// `ExecutionContext`'s methods that change state take `&mut self`.
unsafe impl Send for Runtime {}
// SAFETY: the same as for `Runtime`.
unsafe impl Send for LoadedEngine {}
// SAFETY: the same as for `Runtime`.
unsafe impl Send for ExecutionContext {}

impl Runtime {
    /// Creates a runtime. The `device` proves that the driver is initialised; without a driver, libraries return broken
    /// objects.
    pub(super) fn new(library: &Opened, device: Arc<dyn Device>) -> Result<Self, TensorRtError> {
        let listener = Listener::new();
        // SAFETY: the address is createInferRuntime_INTERNAL of the library, and `choose` matched the shim to its version.
        let raw = unsafe { (library.shim.runtime_new)(library.create_runtime.address()) };
        let errors = listener.finish().errors;
        match NonNull::new(raw) {
            Some(raw) => Ok(Self {
                raw,
                shim: library.shim,
                version: library.version,
                _device: device,
            }),
            None => Err(TensorRtError::Unavailable {
                reason: format!(
                    "{} created no runtime: {}",
                    library.version,
                    advice::error_text(&errors)
                ),
            }),
        }
    }

    /// Deserialises an engine. `path` names it in errors. `host_code` allows it to contain code that runs on the host, as
    /// version-compatible engines do.
    ///
    /// # Errors
    /// [`TensorRtError::Load`].
    pub(crate) fn engine(
        self,
        path: &Path,
        bytes: &[u8],
        host_code: bool,
    ) -> Result<LoadedEngine, TensorRtError> {
        self.load(path, bytes, host_code, Listener::new())
    }

    /// Like [`Runtime::engine`], but logs the library's errors at debug level.
    pub(super) fn try_engine(
        self,
        path: &Path,
        bytes: &[u8],
        host_code: bool,
    ) -> Result<LoadedEngine, TensorRtError> {
        self.load(path, bytes, host_code, Listener::quiet())
    }

    fn load(
        self,
        path: &Path,
        bytes: &[u8],
        host_code: bool,
        listener: Listener,
    ) -> Result<LoadedEngine, TensorRtError> {
        // SAFETY: the runtime is alive, and the library keeps no reference to the bytes.
        let raw = unsafe {
            (self.shim.engine_new)(
                self.raw.as_ptr(),
                bytes.as_ptr().cast(),
                bytes.len(),
                host_code.into(),
            )
        };
        let errors = listener.finish().errors;
        match NonNull::new(raw) {
            Some(raw) => Ok(LoadedEngine { raw, runtime: self }),
            None => Err(TensorRtError::Load {
                path: path.to_path_buf(),
                library: self.version,
                reason: advice::load(&errors, self.version, Version::from_plan_header(bytes)),
            }),
        }
    }
}

impl LoadedEngine {
    fn shim(&self) -> &'static Shim {
        self.runtime.shim
    }

    /// The library's version.
    pub(crate) fn version(&self) -> Version {
        self.runtime.version
    }

    /// The engine's inputs and outputs, in the library's order.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        // SAFETY: the engine is alive.
        let count = unsafe { (self.shim().tensor_count)(self.raw.as_ptr()) };
        (0..count).filter_map(|index| self.tensor(index)).collect()
    }

    fn tensor(&self, index: i32) -> Option<Tensor> {
        let mut tensor = ffi::Tensor {
            name: std::ptr::null(),
            is_input: 0,
            r#type: 0,
            format: 0,
            rank: 0,
            dims: [0; 8],
            vector: 0,
            vector_axis: 0,
        };
        // SAFETY: the engine is alive, and `tensor` is valid for writing.
        let found = unsafe { (self.shim().tensor)(self.raw.as_ptr(), index, &mut tensor) };
        if found == 0 {
            return None;
        }
        let rank = usize::try_from(tensor.rank).unwrap_or(0).min(8);
        Some(Tensor {
            // SAFETY: the string belongs to the engine, which is alive.
            name: unsafe { ffi::text(tensor.name) }.into_owned(),
            input: tensor.is_input != 0,
            data_type: tensor.r#type,
            format: tensor.format,
            dims: tensor.dims[..rank].to_vec(),
            vector: tensor.vector,
            vector_axis: tensor.vector_axis,
        })
    }

    /// Bytes of scratch memory that a context needs.
    pub(crate) fn scratch_bytes(&self) -> usize {
        // SAFETY: the engine is alive.
        let bytes = unsafe { (self.shim().scratch_bytes)(self.raw.as_ptr()) };
        usize::try_from(bytes).unwrap_or(0)
    }

    /// The engine inspector's JSON.
    pub(crate) fn layers(&self) -> Option<String> {
        let mut bytes: Vec<u8> = Vec::new();
        // SAFETY: the engine is alive, and `take_bytes` receives the `Vec<u8>` that it expects.
        let found = unsafe {
            (self.shim().layers)(self.raw.as_ptr(), (&raw mut bytes).cast(), ffi::take_bytes)
        };
        (found != 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Creates an execution context. `path` names the engine in errors.
    ///
    /// # Errors
    /// [`TensorRtError::Load`].
    pub(crate) fn context(self, path: &Path) -> Result<ExecutionContext, TensorRtError> {
        let listener = Listener::new();
        // SAFETY: the engine is alive.
        let raw = unsafe { (self.shim().context_new)(self.raw.as_ptr()) };
        let errors = listener.finish().errors;
        match NonNull::new(raw) {
            Some(raw) => Ok(ExecutionContext {
                raw,
                engine: self,
                memory: Vec::new(),
            }),
            None => Err(TensorRtError::Load {
                path: path.to_path_buf(),
                library: self.version(),
                reason: advice::load(&errors, self.version(), None),
            }),
        }
    }
}

impl ExecutionContext {
    fn shim(&self) -> &'static Shim {
        self.engine.shim()
    }

    /// Sets the scratch memory, of at least [`LoadedEngine::scratch_bytes`].
    pub(crate) fn set_scratch(&mut self, memory: Buffer<u8>) {
        let bytes = i64::try_from(memory.len()).unwrap_or(i64::MAX);
        // SAFETY: the context is alive, and `self` keeps the memory.
        unsafe { (self.shim().set_scratch)(self.raw.as_ptr(), memory.ptr().address(), bytes) }
        self.memory.push(memory);
    }

    /// Sets the memory of an input or output, which must be as long as the engine's tensor.
    ///
    /// # Errors
    /// The library's error message.
    pub(crate) fn set_memory(&mut self, tensor: &str, memory: Buffer<u8>) -> Result<(), String> {
        let name = CString::new(tensor).map_err(|e| e.to_string())?;
        let listener = Listener::new();
        let address = memory.ptr().address();
        self.memory.push(memory);
        // SAFETY: the context is alive and copies the name, and `self` keeps the memory.
        let set = unsafe { (self.shim().set_address)(self.raw.as_ptr(), name.as_ptr(), address) };
        check(set, listener)
    }

    /// Enqueues a run on a stream. This side allocates nothing.
    ///
    /// # Errors
    /// The library's error message.
    pub(crate) fn enqueue(&mut self, stream: &Stream) -> Result<(), String> {
        let listener = Listener::new();
        // SAFETY: the context and the stream are alive.
        let done = unsafe { (self.shim().enqueue)(self.raw.as_ptr(), stream.as_raw()) };
        check(done, listener)
    }

    /// Like [`ExecutionContext::enqueue`], but waits for the run and calls `layer` with each layer's name and
    /// milliseconds. Must not be called while the stream is recorded.
    ///
    /// # Errors
    /// The library's error message.
    pub(crate) fn profile(
        &mut self,
        stream: &Stream,
        layer: &mut dyn FnMut(&str, f32),
    ) -> Result<(), String> {
        let mut times = LayerTimes { layer, panic: None };
        let listener = Listener::new();
        // SAFETY: the same as in `enqueue`. `report_layer` receives the `LayerTimes` that it expects, within this call.
        let done = unsafe {
            (self.shim().profile)(
                self.raw.as_ptr(),
                stream.as_raw(),
                (&raw mut times).cast(),
                report_layer,
            )
        };
        if let Some(panic) = times.panic {
            resume_unwind(panic);
        }
        check(done, listener)
    }
}

/// The receiver of layer times, and its panic if it panicked.
struct LayerTimes<'a> {
    layer: &'a mut dyn FnMut(&str, f32),
    panic: Option<Box<dyn Any + Send>>,
}

unsafe extern "C" fn report_layer(user: *mut c_void, name: *const c_char, ms: f32) {
    // SAFETY: `profile` passes its `LayerTimes`, which nothing else uses during the call.
    let times = unsafe { &mut *user.cast::<LayerTimes<'_>>() };
    // SAFETY: shim.h guarantees that the string is valid during the call.
    let name = unsafe { ffi::text(name) };
    // A panic must not unwind into the library.
    if times.panic.is_none() {
        let called = catch_unwind(AssertUnwindSafe(|| (times.layer)(&name, ms)));
        times.panic = called.err();
    }
}

fn check(done: i32, listener: Listener) -> Result<(), String> {
    let errors = listener.finish().errors;
    if done == 0 {
        Err(advice::error_text(&errors))
    } else {
        Ok(())
    }
}

impl Drop for ExecutionContext {
    fn drop(&mut self) {
        // SAFETY: the shim created it; it is freed once, before its engine.
        unsafe { (self.shim().context_free)(self.raw.as_ptr()) }
    }
}

impl Drop for LoadedEngine {
    fn drop(&mut self) {
        // SAFETY: the shim created it; it is freed once, before its runtime.
        unsafe { (self.shim().engine_free)(self.raw.as_ptr()) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: the shim created it; it is freed once.
        unsafe { (self.shim.runtime_free)(self.raw.as_ptr()) }
    }
}
