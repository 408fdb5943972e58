//! The manifest's record of a TensorRT engine: the library that built it, its GPUs, its options, its inputs and outputs,
//! and the fate of the quantised layers.

use serde::{Deserialize, Serialize};

use super::version::Version;
use crate::map::Element;

/// The engine of a TensorRT plan. For a bare engine that another program built, unknown fields are empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRtTarget {
    /// The library that built the engine; it also runs it.
    pub library: Version,
    /// The GPU that it was built on; `None` if TensorRT-RTX built it without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_on: Option<BuiltOn>,
    /// Compute capabilities that it was built for, such as 89 for 8.9; empty for that of the GPU it was built on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compute_capabilities: Vec<u32>,
    /// Its build options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<TensorRtOptions>,
    /// Its input and outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorDesc>,
    /// Counts of layers; the whole table is in section `layers`.
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
    /// The newest CUDA version that its driver supports, such as `12.6`.
    pub driver: String,
}

/// An engine's build options, named like those of `cp-build compile`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRtOptions {
    /// Most scratch memory in MiB; `None` for the library's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<u64>,
    /// SHA-256 of the timing cache used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing_cache: Option<String>,
    /// 0 to 5; `None` for the library's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimization_level: Option<u8>,
    /// The DLA core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dla: Option<u32>,
    /// Whether layers that the DLA cannot run may run on the GPU.
    #[serde(default)]
    pub gpu_fallback: bool,
    /// Whether later versions of the library can run the engine.
    #[serde(default)]
    pub version_compatible: bool,
    /// Whether a version-compatible engine lacks the lean runtime.
    #[serde(default)]
    pub exclude_lean_runtime: bool,
    /// The GPUs that it runs on.
    #[serde(default)]
    pub hardware_compatible: HardwareCompatibility,
    /// Element type of the network's input.
    pub input_type: Element,
    /// Element type of the network's outputs.
    pub output_type: Element,
    /// Layouts that the library may choose from, for inputs and outputs.
    #[serde(default)]
    pub io_formats: IoFormats,
}

/// The library's defaults, with FP16 inputs and outputs in linear layouts.
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

/// Memory layouts of inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoFormats {
    /// \[C, H, W\], element by element.
    #[default]
    Linear,
    /// The engine's fastest layout that this crate's kernels read and write.
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

/// Counts of an engine's layers.
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
    /// Quantised layers that do not read INT8 in the engine.
    pub fallbacks: usize,
}

/// The GPUs that an engine runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HardwareCompatibility {
    /// GPUs equal to the one it was built on.
    #[default]
    None,
    /// Ampere and newer; slower.
    AmperePlus,
    /// GPUs of the same compute capability.
    SameComputeCapability,
}
