//! What can go wrong on a GPU.

use crate::points::FrameError;

/// Why a stage on a GPU failed. After a failed launch, copy or graph the device is lost: every later call
/// returns [`CudaError::Lost`], and the caller must load the detector again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No usable driver or GPU.
    #[error("CUDA is not available: {reason}")]
    Unavailable {
        /// Why not, and what to do.
        reason: String,
    },
    /// An allocation of device memory failed.
    #[error("no device memory for {what} ({bytes} bytes): {reason}")]
    Memory {
        /// Purpose of the memory.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The driver's reason.
        reason: String,
    },
    /// A kernel failed to load, to launch or to run.
    #[error("kernel `{kernel}`: {reason}")]
    Kernel {
        /// The kernel; the word before its first underscore is its stage.
        kernel: String,
        /// The driver's reason.
        reason: String,
    },
    /// A copy between host and device failed, often because an earlier kernel did.
    #[error("copy of {what} ({bytes} bytes): {reason}")]
    Copy {
        /// What was copied.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The driver's reason.
        reason: String,
    },
    /// The frame's graph failed to record or to replay, or its time could not be measured.
    #[error("the frame's CUDA graph: {reason}")]
    Graph {
        /// The reason.
        reason: String,
    },
    /// An earlier call failed, so every later one does.
    #[error("an earlier call lost the GPU: {first}; load the detector again")]
    Lost {
        /// The call that failed first.
        first: Box<CudaError>,
    },
    /// The points are on a GPU, the stages on the CPU.
    #[error(
        "the points are in GPU memory, but the detector runs on the CPU; pass points in host memory, or load \
         the plan for the GPU"
    )]
    HostStages,
    /// The model exceeds what the kernels can index or hold.
    #[error("the model has {count} {what}; the GPU stages take at most {limit}: {advice}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The model's number.
        count: usize,
        /// The largest supported number.
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
    /// The PFN does not match the model.
    #[error(transparent)]
    Pfn(#[from] crate::model::PfnError),
    /// The kernels cannot read or write an engine's map.
    #[error("map `{map}`: {problem}")]
    Map {
        /// The map.
        map: String,
        /// What is wrong with it, and what is supported.
        problem: String,
    },
}

/// Why a stage cannot process a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The points lack a column; the stages stay usable.
    #[error(transparent)]
    Points(#[from] FrameError),
    /// The device failed, and is lost.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The engine has its maps in another memory than the stages were made for.
    #[error("the engine's maps lie in another memory than its stages were made for")]
    Location,
}
