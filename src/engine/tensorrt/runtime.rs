//! The library's objects that run an engine, each the owner of what it came from:
//!
//! ```text
//! Library::runtime(device) → Runtime → LoadedEngine → Context
//! ```
//!
//! So they are freed in the order that the library wants, and the device outlives them all. One thread at a
//! time may use them.
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

/// Loads engines.
pub(crate) struct Runtime {
    raw: NonNull<c_void>,
    shim: &'static Shim,
    version: Version,
    // Dropped last.
    _device: Arc<dyn Device>,
}

/// An engine on the device.
pub(crate) struct LoadedEngine {
    raw: NonNull<c_void>,
    runtime: Runtime,
}

/// Runs an engine, in memory that the caller hands over.
pub(crate) struct Context {
    raw: NonNull<c_void>,
    engine: LoadedEngine,
    /// Dropped after the library's context.
    memory: Vec<Buffer<u8>>,
}

// SAFETY: the library's objects may be used by any thread, by one at a time; none of these is `Sync`, and
// `Context`'s calls that change something take `&mut self`.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Send for LoadedEngine {}
// SAFETY: as above.
unsafe impl Send for Context {}

impl Runtime {
    /// Makes a runtime of a library. That there is a `device` says that the driver has been initialised:
    /// without it libraries give objects that are none.
    pub(super) fn new(library: &Opened, device: Arc<dyn Device>) -> Result<Self, TensorRtError> {
        let listener = Listener::new();
        // SAFETY: the function is createInferRuntime_INTERNAL of a library that fits the shim.
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
                    "{} makes no runtime: {}",
                    library.version,
                    advice::said(&errors)
                ),
            }),
        }
    }

    /// Loads an engine. `path` names it in errors. `host_code` allows it to bring code for the host, which is
    /// run: version-compatible engines do.
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

    /// As [`Runtime::engine`]; what the library says against it is logged as a detail.
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
        // SAFETY: the runtime is alive; the library keeps nothing of the bytes.
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
                reason: advice::load(&errors, self.version, Version::of_plan(bytes)),
            }),
        }
    }
}

impl LoadedEngine {
    fn shim(&self) -> &'static Shim {
        self.runtime.shim
    }

    /// Version of the library.
    pub(crate) fn version(&self) -> Version {
        self.runtime.version
    }

    /// Its inputs and outputs, in the library's order.
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
        // SAFETY: the engine is alive, and the struct is written.
        let found = unsafe { (self.shim().tensor)(self.raw.as_ptr(), index, &mut tensor) };
        if found == 0 {
            return None;
        }
        let rank = usize::try_from(tensor.rank).unwrap_or(0).min(8);
        Some(Tensor {
            // SAFETY: the engine's string.
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
        // SAFETY: the engine is alive; `take_bytes` is given the vector that it wants.
        let given = unsafe {
            (self.shim().layers)(self.raw.as_ptr(), (&raw mut bytes).cast(), ffi::take_bytes)
        };
        (given != 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A context of it. `path` names the engine in errors.
    ///
    /// # Errors
    /// [`TensorRtError::Load`].
    pub(crate) fn context(self, path: &Path) -> Result<Context, TensorRtError> {
        let listener = Listener::new();
        // SAFETY: the engine is alive.
        let raw = unsafe { (self.shim().context_new)(self.raw.as_ptr()) };
        let errors = listener.finish().errors;
        match NonNull::new(raw) {
            Some(raw) => Ok(Context {
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

impl Context {
    fn shim(&self) -> &'static Shim {
        self.engine.shim()
    }

    /// Sets the scratch memory, of at least [`LoadedEngine::scratch_bytes`].
    pub(crate) fn set_scratch(&mut self, memory: Buffer<u8>) {
        let bytes = i64::try_from(memory.len()).unwrap_or(i64::MAX);
        // SAFETY: the context is alive, and keeps the memory.
        unsafe { (self.shim().set_scratch)(self.raw.as_ptr(), memory.ptr().address(), bytes) }
        self.memory.push(memory);
    }

    /// Sets the memory of an input or output, which is as long as the engine's tensor.
    ///
    /// # Errors
    /// What the library reported.
    pub(crate) fn set_memory(&mut self, tensor: &str, memory: Buffer<u8>) -> Result<(), String> {
        let name = CString::new(tensor).map_err(|e| e.to_string())?;
        let listener = Listener::new();
        let address = memory.ptr().address();
        self.memory.push(memory);
        // SAFETY: the context is alive, copies the name, and keeps the memory.
        let set = unsafe { (self.shim().set_address)(self.raw.as_ptr(), name.as_ptr(), address) };
        answer(set, listener)
    }

    /// Enqueues a run on a stream. Allocates nothing here.
    ///
    /// # Errors
    /// What the library said.
    pub(crate) fn enqueue(&mut self, stream: &Stream) -> Result<(), String> {
        let listener = Listener::new();
        // SAFETY: context and stream are alive.
        let done = unsafe { (self.shim().enqueue)(self.raw.as_ptr(), stream.as_raw()) };
        answer(done, listener)
    }

    /// As [`Context::enqueue`], but waits for the run, and tells the milliseconds of each layer. Not while the
    /// stream is recorded.
    ///
    /// # Errors
    /// What the library said.
    pub(crate) fn profile(
        &mut self,
        stream: &Stream,
        layer: &mut dyn FnMut(&str, f32),
    ) -> Result<(), String> {
        let mut told = Told { layer, panic: None };
        let listener = Listener::new();
        // SAFETY: as in `enqueue`; `told_layer` is given the `Told` that it wants, within this call.
        let done = unsafe {
            (self.shim().profile)(
                self.raw.as_ptr(),
                stream.as_raw(),
                (&raw mut told).cast(),
                told_layer,
            )
        };
        if let Some(panic) = told.panic {
            resume_unwind(panic);
        }
        answer(done, listener)
    }
}

/// Who is told of layers, and what it panicked with.
struct Told<'a> {
    layer: &'a mut dyn FnMut(&str, f32),
    panic: Option<Box<dyn Any + Send>>,
}

unsafe extern "C" fn told_layer(user: *mut c_void, name: *const c_char, ms: f32) {
    // SAFETY: `profile` gives its `Told`, which nobody else uses meanwhile.
    let told = unsafe { &mut *user.cast::<Told<'_>>() };
    // SAFETY: shim.h: a string that is valid during the call.
    let name = unsafe { ffi::text(name) };
    // Nothing may unwind into the library.
    if told.panic.is_none() {
        let called = catch_unwind(AssertUnwindSafe(|| (told.layer)(&name, ms)));
        told.panic = called.err();
    }
}

fn answer(done: i32, listener: Listener) -> Result<(), String> {
    let errors = listener.finish().errors;
    match done {
        0 => Err(advice::said(&errors)),
        _ => Ok(()),
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and freed once, before its engine.
        unsafe { (self.shim().context_free)(self.raw.as_ptr()) }
    }
}

impl Drop for LoadedEngine {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and freed once, before its runtime.
        unsafe { (self.shim().engine_free)(self.raw.as_ptr()) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and freed once.
        unsafe { (self.shim.runtime_free)(self.raw.as_ptr()) }
    }
}
