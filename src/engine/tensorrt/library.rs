//! TensorRT's libraries, opened at run time; their version is queried before anything else.

use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "tensorrt")]
use std::sync::{Mutex, PoisonError};

use super::{BuildRequest, Built, LoadRequest, Monitor, TensorRtError, Version};
#[cfg(feature = "tensorrt")]
use super::{Family, builder, engine::Engine, loader, loader::Opened, runtime::Runtime};
#[cfg(feature = "tensorrt")]
use crate::cuda::CudaError;
use crate::cuda::Device;

/// An opened TensorRT library. It stays open until the process ends.
pub struct Library {
    #[cfg(feature = "tensorrt")]
    opened: Opened,
    #[cfg(not(feature = "tensorrt"))]
    never: std::convert::Infallible,
}

#[cfg(not(feature = "tensorrt"))]
impl Library {
    /// Fails: opening a library needs the feature `tensorrt`.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`].
    pub fn open(path: Option<&Path>) -> Result<Self, TensorRtError> {
        let _ = path;
        Err(TensorRtError::Unavailable {
            reason: "this program was built without the feature `tensorrt`; build it with \
                     `--features tensorrt`"
                .into(),
        })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        match self.never {}
    }

    /// Builds an engine.
    ///
    /// # Errors
    /// None without the feature: there is no library.
    pub fn build(&self, _: &BuildRequest<'_>, _: &dyn Monitor) -> Result<Built, TensorRtError> {
        match self.never {}
    }

    /// Loads an engine.
    ///
    /// # Errors
    /// None without the feature: there is no library.
    pub fn load(
        &self,
        _: &LoadRequest<'_>,
        _: &Arc<dyn Device>,
    ) -> Result<Box<dyn crate::engine::Engine>, TensorRtError> {
        match self.never {}
    }
}

#[cfg(feature = "tensorrt")]
impl Library {
    /// Opens `path`, a library or a folder that contains one. If `path` is `None`, uses the environment variable
    /// `CENTERPOINT_TENSORRT` in the same way. If that is unset, opens the first library that the system's loader finds and
    /// this program has a shim for, in the order TensorRT 11, TensorRT 10, their lean runtimes, TensorRT-RTX.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`], [`TensorRtError::Library`], [`TensorRtError::Version`].
    pub fn open(path: Option<&Path>) -> Result<Self, TensorRtError> {
        let opened = loader::open(path)?;
        Ok(Self { opened })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.opened.version
    }

    /// Builds an engine; concurrent calls wait for each other. TensorRT needs the GPU that the engine is for. TensorRT-RTX
    /// does not if compute capabilities are given.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`] if there is no driver, or the library is a lean runtime, which cannot build;
    /// [`TensorRtError::Library`] if the parser beside it cannot be used;
    /// [`TensorRtError::Parse`], [`TensorRtError::Option`], [`TensorRtError::Build`].
    ///
    /// # Panics
    /// If `monitor` panics; the panic resumes once the library has stopped.
    pub fn build(
        &self,
        request: &BuildRequest<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Built, TensorRtError> {
        let library = &self.opened;
        let Some(create_builder) = library.create_builder else {
            return Err(TensorRtError::Unavailable {
                reason: format!(
                    "{} is a lean runtime, which runs engines but cannot build them; install the full TensorRT, and \
                    set {} to its library or folder",
                    library.path.display(),
                    loader::VARIABLE
                ),
            });
        };
        let capabilities = request.compute_capabilities;
        // Check before calling the library: without a driver it returns broken objects.
        let gpu = crate::cuda::gpu();
        let here = match library.version.family {
            Family::TensorRtRtx if !capabilities.is_empty() => {
                gpu.is_ok_and(|gpu| capabilities.contains(&gpu.architecture))
            }
            _ => {
                gpu.map_err(no_gpu)?;
                true
            }
        };
        let functions = (create_builder, library.parser()?);
        let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut built = builder::build(library, functions, request, monitor)?;
        if here {
            built.inspector = self.inspect(request, &built.plan);
        }
        Ok(built)
    }

    /// The engine inspector's JSON, if this machine's GPU can load the engine.
    fn inspect(&self, request: &BuildRequest<'_>, plan: &[u8]) -> Option<String> {
        let runtime = self.runtime(crate::cuda::open().ok()?).ok()?;
        let engine = runtime.try_engine(request.path, plan, request.version_compatible);
        engine.ok()?.layers()
    }

    /// Loads an engine for frames on `device`: checks it against the model, and allocates everything that runs need.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`], [`TensorRtError::Load`], [`TensorRtError::Binding`];
    /// [`TensorRtError::Cuda`] for device memory.
    pub fn load(
        &self,
        request: &LoadRequest<'_>,
        device: &Arc<dyn Device>,
    ) -> Result<Box<dyn crate::engine::Engine>, TensorRtError> {
        let runtime = self.runtime(device.clone())?;
        Ok(Box::new(Engine::new(runtime, request, device)?))
    }

    /// A runtime for engines on `device`.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`].
    pub(crate) fn runtime(&self, device: Arc<dyn Device>) -> Result<Runtime, TensorRtError> {
        Runtime::new(&self.opened, device)
    }
}

/// Held during a build. TensorRT-RTX 1.7 keeps the target GPUs in global state, so concurrent builds for different GPUs
/// fail.
#[cfg(feature = "tensorrt")]
static BUILDING: Mutex<()> = Mutex::new(());

/// Explains that building needs a GPU.
#[cfg(feature = "tensorrt")]
fn no_gpu(error: CudaError) -> TensorRtError {
    match error {
        CudaError::Unavailable { reason } => TensorRtError::Unavailable {
            reason: format!("TensorRT builds engines on the GPU that they are for, but {reason}"),
        },
        other => other.into(),
    }
}
