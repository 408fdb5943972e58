//! What the manifest of a TensorRT plan keeps: which library built the engine, for which GPUs, with which
//! options, its inputs and outputs, and what became of the quantised layers.

use serde::{Deserialize, Serialize};

use super::version::Version;
use crate::map::Element;

/// The engine of a TensorRT plan. What is not known of a bare engine that another program built is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRtTarget {
    /// The library that built the engine, and that runs it.
    pub library: Version,
    /// The GPU that it was built on; `None` where TensorRT-RTX built it without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_on: Option<BuiltOn>,
    /// Compute capabilities that it was built for, such as 89 for 8.9; empty: that of the GPU it was built
    /// on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compute_capabilities: Vec<u32>,
    /// How it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<TensorRtOptions>,
    /// Its input and outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorDesc>,
    /// What the network's layers became; the table itself is in section `layers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<LayerCounts>,
}

/// A GPU that an engine was built on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltOn {
    /// Its name, such as `Orin`.
    pub gpu: String,
    /// Its compute capability, such as 87 for 8.7.
    pub compute_capability: u32,
    /// The newest CUDA that its driver knows, such as `12.6`.
    pub driver: String,
}

/// How an engine was built; the names are those of `cp-build compile`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRtOptions {
    /// Most scratch memory in MiB; `None`: the library's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<u64>,
    /// SHA-256 of the timing cache that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing_cache: Option<String>,
    /// 0 to 5; `None`: the library's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimization_level: Option<u8>,
    /// The DLA core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dla: Option<u32>,
    /// Whether what the DLA cannot run may run on the GPU.
    #[serde(default)]
    pub gpu_fallback: bool,
    /// Whether later versions of the library run the engine.
    #[serde(default)]
    pub version_compatible: bool,
    /// Whether a version-compatible engine goes without the lean runtime within it.
    #[serde(default)]
    pub exclude_lean_runtime: bool,
    /// On which GPUs it runs.
    #[serde(default)]
    pub hardware_compatible: HardwareCompatibility,
    /// The network's input.
    pub input_type: Element,
    /// The network's outputs.
    pub output_type: Element,
    /// Layouts that the library could choose from for both.
    #[serde(default)]
    pub io_formats: IoFormats,
}

/// The library's defaults, and FP16 inputs and outputs in linear layouts.
impl Default for TensorRtOptions {
    fn default() -> Self {
        Self {
            workspace: None,
            timing_cache: None,
            optimization_level: None,
            dla: None,
            gpu_fallback: false,
            version_compatible: false,
            exclude_lean_runtime: false,
            hardware_compatible: HardwareCompatibility::None,
            input_type: Element::F16,
            output_type: Element::F16,
            io_formats: IoFormats::Linear,
        }
    }
}

/// Layouts of inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoFormats {
    /// \[C, H, W\], element by element.
    #[default]
    Linear,
    /// Whichever the engine is fastest with, of those that this crate's kernels read and write.
    Any,
}

/// An input or output of an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorDesc {
    /// Its name in the engine.
    pub name: String,
    /// Whether it is an input.
    pub input: bool,
    /// How its values are stored.
    pub element: Element,
    /// Value of code 1 of an INT8 input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Its shape, [1, C, H, W].
    pub dims: Vec<usize>,
}

/// How many layers became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCounts {
    /// Layers of the engine.
    pub engine: usize,
    /// Those that read INT8.
    pub int8: usize,
    /// Those that only change types or layouts.
    pub reformats: usize,
    /// The network's layers whose inputs are quantised.
    pub quantized: usize,
    /// Those of them that do not read INT8 in the engine.
    pub fallbacks: usize,
}

/// On which GPUs an engine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HardwareCompatibility {
    /// On that which it was built on, and equal ones.
    #[default]
    None,
    /// On Ampere and all that came after; slower.
    AmperePlus,
    /// On all of the same compute capability.
    SameComputeCapability,
}
