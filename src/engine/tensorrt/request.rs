//! What is asked of TensorRT's builder, what comes of it, and what is needed to load that.

use std::path::Path;

use crate::model::Model;
use crate::plan::HardwareCompatibility;

/// A network to build an engine of, and how.
#[derive(Clone, Debug)]
pub struct BuildRequest<'a> {
    /// The network: ONNX, strongly typed, of fixed shapes.
    pub onnx: &'a [u8],
    /// Its name in errors.
    pub path: &'a Path,
    /// Most bytes of scratch memory; `None`: as the library likes.
    pub workspace: Option<usize>,
    /// What an earlier build learned about kernels' speed. One that does not fit counts as empty.
    pub timing_cache: Option<&'a [u8]>,
    /// 0 (quick build) to 5 (quick engine); `None`: the library's default.
    pub optimization_level: Option<u8>,
    /// The DLA core to run on.
    pub dla_core: Option<u32>,
    /// Whether layers that the DLA cannot run may run on the GPU.
    pub gpu_fallback: bool,
    /// Whether later versions of the library can run the engine.
    pub version_compatible: bool,
    /// Whether a version-compatible engine goes without the lean runtime within it.
    pub exclude_lean_runtime: bool,
    /// On which GPUs it runs.
    pub hardware_compatibility: HardwareCompatibility,
    /// TensorRT-RTX: compute capabilities such as 89; empty: that of the GPU present.
    pub compute_capabilities: &'a [u32],
    /// Formats that inputs may have, a bit for each of TensorRT's `TensorFormat`s; 0: linear.
    pub input_formats: u32,
    /// As `input_formats`, for outputs.
    pub output_formats: u32,
}

impl<'a> BuildRequest<'a> {
    /// A network with the library's defaults for everything.
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
    /// What the build learned, to be given to the next; `None` from libraries that keep none.
    pub timing_cache: Option<Vec<u8>>,
    /// The engine inspector's JSON; `None` without a GPU that could load the engine.
    pub inspector: Option<String>,
    /// The builder's own account of layers and tensors, from its log.
    pub layer_log: Option<String>,
}

/// A built engine to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'a> {
    /// Its name in errors.
    pub path: &'a Path,
    /// The serialised engine.
    pub plan: &'a [u8],
    /// What its input and outputs must be.
    pub model: &'a Model,
    /// Value of code 1 of an INT8 input.
    pub input_scale: Option<f32>,
    /// Whether it may bring code for the host, which is run: version-compatible engines do.
    pub host_code: bool,
}

/// What a builder tells of its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A phase begins, perhaps within another.
    Begin {
        /// Its name, unique among those that run.
        phase: &'a str,
        /// The phase that it is a part of.
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

/// Is told of a builder's progress, from any of its threads.
pub trait Monitor: Sync {
    /// Takes the news; says whether to go on.
    fn progress(&self, progress: Progress<'_>) -> bool;
}

/// Goes on, silently.
impl Monitor for () {
    fn progress(&self, _: Progress<'_>) -> bool {
        true
    }
}
