//! TensorRT's libraries: opened at run time, their version asked before anything else.

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

/// An opened TensorRT. It stays open until the process ends.
pub struct Library {
    #[cfg(feature = "tensorrt")]
    opened: Opened,
    #[cfg(not(feature = "tensorrt"))]
    never: std::convert::Infallible,
}

#[cfg(not(feature = "tensorrt"))]
impl Library {
    /// Opens `path`: only with the feature `tensorrt`.
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
    /// Opens `path`: a library, or a folder that holds one. Without it, `CENTERPOINT_TENSORRT` in the
    /// environment says the same; without that, the first is taken that the system's loader finds and this
    /// program has a shim for, of TensorRT 11, 10, their lean runtimes, and TensorRT-RTX.
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

    /// Builds an engine, one at a time. TensorRT needs the GPU that the engine is for; TensorRT-RTX does not,
    /// where compute capabilities are given.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`] without a driver, or for a lean runtime, which builds nothing;
    /// [`TensorRtError::Library`] for the parser beside it;
    /// [`TensorRtError::Parse`], [`TensorRtError::Option`], [`TensorRtError::Build`].
    ///
    /// # Panics
    /// As `monitor` does, once the library has stopped.
    pub fn build(
        &self,
        request: &BuildRequest<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Built, TensorRtError> {
        let library = &self.opened;
        let Some(create_builder) = library.create_builder else {
            return Err(TensorRtError::Unavailable {
                reason: format!(
                    "{} is a lean runtime, which runs engines and builds none; install the whole of \
                     TensorRT, and name it with {}",
                    library.path.display(),
                    loader::VARIABLE
                ),
            });
        };
        let capabilities = request.compute_capabilities;
        // Before the library is called: without a driver it gives objects that are none.
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

    /// What the engine inspector tells of an engine, where this machine's GPU can load it.
    fn inspect(&self, request: &BuildRequest<'_>, plan: &[u8]) -> Option<String> {
        let runtime = self.runtime(crate::cuda::open().ok()?).ok()?;
        let engine = runtime.try_engine(request.path, plan, request.version_compatible);
        engine.ok()?.layers()
    }

    /// Loads an engine for frames on `device`: checks it against the model, and allocates all that its runs
    /// need.
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

/// Held by the build that runs. TensorRT-RTX 1.7 keeps the GPUs that it builds for in one place: a build beside
/// one for other GPUs fails.
#[cfg(feature = "tensorrt")]
static BUILDING: Mutex<()> = Mutex::new(());

/// Why nothing can be built on this machine.
#[cfg(feature = "tensorrt")]
fn no_gpu(error: CudaError) -> TensorRtError {
    match error {
        CudaError::Unavailable { reason } => TensorRtError::Unavailable {
            reason: format!("engines are built on the GPU that they are for, but {reason}"),
        },
        other => other.into(),
    }
}
