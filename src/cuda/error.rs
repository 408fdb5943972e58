//! What can go wrong on a GPU.

use crate::points::FrameError;

/// Why a stage on a GPU failed. After a failed launch, copy or graph the device is lost: every further call
/// says so with [`CudaError::Lost`], and the detector has to be made anew.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No usable driver or GPU.
    #[error("CUDA is not available: {reason}")]
    Unavailable {
        /// Why not, and what to do.
        reason: String,
    },
    /// Device memory could not be had.
    #[error("no device memory for {what} ({bytes} bytes): {reason}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The driver's reason.
        reason: String,
    },
    /// A kernel could not be loaded or launched, or failed.
    #[error("kernel `{kernel}`: {reason}")]
    Kernel {
        /// The kernel; its stage is what comes before the first underscore.
        kernel: String,
        /// The driver's reason.
        reason: String,
    },
    /// A copy between host and device failed; often an earlier kernel is to blame.
    #[error("copy of {what} ({bytes} bytes): {reason}")]
    Copy {
        /// What was copied.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The driver's reason.
        reason: String,
    },
    /// A frame's graph could not be recorded or replayed, or its time not be taken.
    #[error("the frame's CUDA graph: {reason}")]
    Graph {
        /// The reason.
        reason: String,
    },
    /// An earlier call failed, and with it all that follow.
    #[error("the GPU was lost in an earlier call: {first}; load the detector anew")]
    Lost {
        /// The call that failed first.
        first: Box<CudaError>,
    },
    /// Points on a GPU for stages on the CPU.
    #[error(
        "the points lie on a GPU, but the detector runs on the CPU; give them in host memory, or load the plan \
         for the GPU"
    )]
    HostStages,
    /// The model needs more of something than the kernels can number or hold.
    #[error("the model has {count} {what}; the GPU stages take at most {limit}: {advice}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much the model has.
        count: usize,
        /// How much is taken.
        limit: usize,
        /// What to change.
        advice: &'static str,
    },
    /// The engine did not run.
    #[error("the engine did not run: {reason}")]
    Engine {
        /// The library's reason.
        reason: String,
    },
    /// The PFN is not the model's.
    #[error(transparent)]
    Pfn(#[from] crate::model::PfnError),
    /// An engine's map cannot be read or written by the kernels.
    #[error("map `{map}`: {problem}")]
    Map {
        /// The map.
        map: String,
        /// What is wrong with it, and what is supported.
        problem: String,
    },
}

/// Why a frame cannot be processed on a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The points lack a column; the stages stay usable.
    #[error(transparent)]
    Points(#[from] FrameError),
    /// The device failed, and is lost.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}
