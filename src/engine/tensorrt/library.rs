//! TensorRT's libraries: opened at run time, their version asked before anything else.

use std::path::Path;

use super::{BuildRequest, Built, Monitor, TensorRtError, Version};

/// An opened TensorRT.
pub struct Library {
    version: Version,
}

impl Library {
    /// Opens `path`: a library, or a folder that holds one. Without it, `CENTERPOINT_TENSORRT` in the
    /// environment says the same; without that, the first is taken that the system's loader finds and this
    /// program has a shim for, of TensorRT 11, 10, their lean runtimes, and TensorRT-RTX.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`], [`TensorRtError::Library`], [`TensorRtError::Version`].
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
        self.version
    }

    /// Builds an engine. TensorRT needs the GPU that the engine is for; TensorRT-RTX does not, where compute
    /// capabilities are given.
    ///
    /// # Errors
    /// [`TensorRtError::Unavailable`] without a driver, or for a lean runtime, which builds nothing;
    /// [`TensorRtError::Parse`], [`TensorRtError::Option`], [`TensorRtError::Build`].
    pub fn build(
        &self,
        request: &BuildRequest<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Built, TensorRtError> {
        let _ = (request, monitor);
        Err(TensorRtError::Unavailable {
            reason: "this program was built without the feature `tensorrt`".into(),
        })
    }
}
