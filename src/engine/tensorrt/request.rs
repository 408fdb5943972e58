//! Requests to TensorRT's builder and loader, and the builder's result.

use std::path::Path;

use crate::model::Model;
use crate::plan::HardwareCompatibility;

/// A network to build, with the options.
#[derive(Clone, Debug)]
pub struct BuildRequest<'a> {
    /// The network: strongly typed ONNX with fixed shapes.
    pub onnx: &'a [u8],
    /// Its name in errors.
    pub path: &'a Path,
    /// Most bytes of scratch memory; `None` for the library's default.
    pub workspace: Option<usize>,
    /// Kernel timings of an earlier build. An unsuitable cache counts as empty.
    pub timing_cache: Option<&'a [u8]>,
    /// 0 (fastest build) to 5 (fastest engine); `None` for the library's default.
    pub optimization_level: Option<u8>,
    /// The DLA core to run on.
    pub dla_core: Option<u32>,
    /// Whether layers that the DLA cannot run may run on the GPU.
    pub gpu_fallback: bool,
    /// Whether later versions of the library can run the engine.
    pub version_compatible: bool,
    /// Whether to leave the lean runtime out of a version-compatible engine.
    pub exclude_lean_runtime: bool,
    /// The GPUs that it runs on.
    pub hardware_compatibility: HardwareCompatibility,
    /// TensorRT-RTX: compute capabilities such as 89; empty for that of the GPU present.
    pub compute_capabilities: &'a [u32],
    /// Formats that inputs may have, one bit for each of TensorRT's `TensorFormat`s; 0 for linear.
    pub input_formats: u32,
    /// The same for outputs.
    pub output_formats: u32,
}

impl<'a> BuildRequest<'a> {
    /// A request with the library's defaults.
    pub fn new(onnx: &'a [u8], path: &'a Path) -> Self {
        Self {
            onnx,
            path,
            workspace: None,
            timing_cache: None,
            optimization_level: None,
            dla_core: None,
            gpu_fallback: false,
            version_compatible: false,
            exclude_lean_runtime: false,
            hardware_compatibility: HardwareCompatibility::None,
            compute_capabilities: &[],
            input_formats: 0,
            output_formats: 0,
        }
    }
}

/// A built engine.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// The serialised engine.
    pub plan: Vec<u8>,
    /// Kernel timings for the next build; `None` if the library has no timing cache.
    pub timing_cache: Option<Vec<u8>>,
    /// The engine inspector's JSON; `None` without a GPU that could load the engine.
    pub inspector: Option<String>,
    /// The builder's list of layers and tensors, from its log.
    pub layer_log: Option<String>,
}

/// A built engine to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'a> {
    /// Its name in errors.
    pub path: &'a Path,
    /// The serialised engine.
    pub plan: &'a [u8],
    /// The model that its input and outputs must match.
    pub model: &'a Model,
    /// Value of code 1 of an INT8 input.
    pub input_scale: Option<f32>,
    /// Whether it may contain code that runs on the host, as version-compatible engines do.
    pub host_code: bool,
}

/// A step of a builder's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A phase begins, possibly within another.
    Begin {
        /// Its name, unique among running phases.
        phase: &'a str,
        /// The enclosing phase.
        parent: Option<&'a str>,
        /// Number of its steps.
        steps: u64,
    },
    /// A step is done.
    Step {
        /// The phase.
        phase: &'a str,
        /// The step, from 0.
        step: u64,
    },
    /// A phase has ended.
    End {
        /// The phase.
        phase: &'a str,
    },
}

/// Receives a builder's progress, from any of its threads.
pub trait Monitor: Sync {
    /// Handles one step; returns whether to continue.
    fn progress(&self, progress: Progress<'_>) -> bool;
}

/// Ignores progress and continues.
impl Monitor for () {
    fn progress(&self, _: Progress<'_>) -> bool {
        true
    }
}
