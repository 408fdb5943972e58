//! Builds a TensorRT engine from a network.
//!
//! TensorRT gets a strongly typed network (see [`half`]): FP16, and INT8 exactly where there are Q/DQ pairs. No
//! precision flag is needed. The library's layer table shows how it built the quantised layers.
//!
//! Inputs and outputs are linear by default, the only layout that every library supports for every type.
//! Vectorised layouts may save a copy of the BEV map and of each head map. Which one a library picks varies,
//! though, and the vehicle is the wrong place to find out. `--io-formats any` lets the library pick, and the layer
//! table shows the remaining reformats.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::build::engine_layers::{LayerTable, inspector, log};
use crate::build::half::{self, Io};
use crate::build::hash;
use crate::build::onnx::{Graph, Shapes, encode};
use crate::build::{BuildError, Result};
use crate::cuda::{self, CudaError};
use crate::engine::tensorrt::{
    BuildRequest, Built, Family, HardwareCompatibility, Library, Monitor, TensorRtError, Version,
};
use crate::files;
use crate::map::Element;
use crate::plan::{BuiltOn, IoFormats, Target, TensorDesc, TensorRtOptions, TensorRtTarget};

/// Compute capabilities supported by TensorRT-RTX.
pub(crate) const RTX_COMPUTE_CAPABILITIES: [u32; 6] = [75, 80, 86, 89, 120, 121];

/// How to build an engine.
pub struct Request<'a> {
    /// The library.
    pub library: &'a Library,
    /// Build options; [`build`] sets `timing_cache`.
    pub options: TensorRtOptions,
    /// For TensorRT-RTX: the target GPUs, with 8.9 as 89; empty means the GPU present.
    pub compute_capabilities: Vec<u32>,
    /// Timing cache, read if it exists and written after the build.
    pub timing_cache: Option<PathBuf>,
}

/// A built engine.
pub struct Compiled {
    /// The serialised engine.
    pub engine: Vec<u8>,
    /// The target it runs on.
    pub target: Target,
    /// Its layers, if the library reports them.
    pub layers: Option<LayerTable>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// Builds the engine of `graph`, an FP32 network with or without Q/DQ pairs.
///
/// # Errors
/// [`TensorRtError`]; [`BuildError`] for a network that FP16 cannot represent, or a timing cache that cannot be read
/// or written.
pub fn build(graph: &Graph, request: Request<'_>, monitor: &dyn Monitor) -> Result<Compiled> {
    let Request {
        library,
        mut options,
        mut compute_capabilities,
        timing_cache,
    } = request;
    let version = library.version();
    let quantized = graph.nodes().any(|n| n.op() == "DequantizeLinear");
    let refused = |(option, advice): (&str, &str)| TensorRtError::Option {
        option: option.to_owned(),
        library: version,
        advice: advice.to_owned(),
    };
    check(
        &options,
        &compute_capabilities,
        timing_cache.is_some(),
        version,
        quantized,
    )
    .map_err(refused)?;
    let mut built_on = None;
    if version.family == Family::TensorRt || compute_capabilities.is_empty() {
        let gpu = gpu(version)?;
        if version.family == Family::TensorRtRtx {
            compute_capabilities.push(gpu.compute_capability);
        }
        built_on = Some(gpu);
    }
    let io = Io {
        input: options.input_type,
        outputs: options.output_type,
    };
    let network = half::strongly_typed(graph, &io)?;
    let cache = timing_cache
        .as_deref()
        .map(read_cache)
        .transpose()?
        .flatten();
    options.timing_cache = cache.as_deref().map(hash::sha256);
    let tensors = tensors(&network.graph, &io, network.input_scale)?;
    let onnx = encode(&network.graph.to_model());
    let formats = |element| match options.io_formats {
        IoFormats::Linear => 0,
        IoFormats::Any => formats(element),
    };
    let built = library.build(
        &BuildRequest {
            workspace: options
                .workspace
                .map(|mib| (mib as usize).saturating_mul(1 << 20)),
            timing_cache: cache.as_deref(),
            optimization_level: options.optimization_level,
            dla_core: options.dla,
            gpu_fallback: options.gpu_fallback,
            version_compatible: options.version_compatible,
            exclude_lean_runtime: options.exclude_lean_runtime,
            hardware_compatibility: options.hardware_compatible,
            compute_capabilities: &compute_capabilities,
            input_formats: formats(options.input_type),
            output_formats: formats(options.output_type),
            ..BuildRequest::new(&onnx, graph.path())
        },
        monitor,
    )?;
    if let (Some(path), Some(bytes)) = (&timing_cache, &built.timing_cache) {
        files::write(path, bytes)?;
    }
    let mut warnings = Vec::new();
    let layers = table(&built, &network.graph, &mut warnings);
    if let Some(table) = &layers {
        warnings.extend(table.warnings(version));
    }
    check_tensors(&built, &tensors, graph.path())?;
    let target = Target {
        engine: "tensorrt".into(),
        precision: if quantized { "int8" } else { "fp16" }.into(),
        version: format!("{}.{}.{}", version.major, version.minor, version.patch),
        tensorrt: Some(TensorRtTarget {
            library: version,
            built_on,
            compute_capabilities,
            options: Some(options),
            tensors,
            layers: layers.as_ref().map(|table| table.counts),
        }),
    };
    Ok(Compiled {
        engine: built.plan,
        target,
        layers,
        warnings,
    })
}

/// Checks that the library supports the options, before a build that takes minutes. The error is the unsupported
/// option and what to do.
fn check(
    options: &TensorRtOptions,
    compute_capabilities: &[u32],
    timing_cache: bool,
    version: Version,
    quantized: bool,
) -> Result<(), (&'static str, &'static str)> {
    let rtx = version.family == Family::TensorRtRtx;
    let at_least = |major, minor| (version.major, version.minor) >= (major, minor);
    let refuse = |wrong: bool, option, advice| {
        if wrong { Err((option, advice)) } else { Ok(()) }
    };
    refuse(
        options.exclude_lean_runtime && !options.version_compatible,
        "--exclude-lean-runtime",
        "only engines built with --version-compatible include a lean runtime; add that option or remove this one",
    )?;
    refuse(
        options.gpu_fallback && options.dla.is_none(),
        "--gpu-fallback",
        "it applies only to the DLA; add --dla or remove this option",
    )?;
    let dla = options.dla.is_some();
    refuse(
        dla && rtx,
        "--dla",
        "RTX GPUs have no DLA; remove the option",
    )?;
    refuse(
        dla && at_least(10, 8) && !at_least(11, 4),
        "--dla",
        "TensorRT 10.8 to 11.3 do not support the DLA; remove the option, or use another version (10.7 and \
         older, as in JetPack 6; 11.4 and newer)",
    )?;
    refuse(
        dla && quantized && !at_least(11, 0),
        "--dla",
        "TensorRT 10 cannot run networks with Q/DQ pairs on the DLA; remove the option, or compile the float \
         model",
    )?;
    refuse(
        options.version_compatible && rtx,
        "--version-compatible",
        "TensorRT-RTX does not include the lean runtime that this needs; remove the option",
    )?;
    refuse(
        options.hardware_compatible != HardwareCompatibility::None && rtx,
        "--hardware-compatible",
        "name the GPUs with --compute-capability instead",
    )?;
    refuse(
        timing_cache && rtx,
        "--timing-cache",
        "TensorRT-RTX does not time kernels during the build, it selects them at run time; remove the option",
    )?;
    refuse(
        !compute_capabilities.is_empty() && !rtx,
        "--compute-capability",
        "TensorRT builds for the GPU of this machine; remove the option, and see --hardware-compatible",
    )?;
    let unknown = |cc: &u32| !RTX_COMPUTE_CAPABILITIES.contains(cc);
    refuse(
        compute_capabilities.iter().any(unknown),
        "--compute-capability",
        "TensorRT-RTX supports 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1; for others, such as Orin (8.7), compile with \
         TensorRT on a machine with that GPU",
    )?;
    refuse(
        options.hardware_compatible == HardwareCompatibility::SameComputeCapability
            && !at_least(10, 9),
        "--hardware-compatible same-compute-capability",
        "it requires TensorRT 10.9; remove the option, or use `ampere-plus`",
    )
}

/// Layouts of a type that TensorRT allows and this crate's kernels support, as bits of `TensorFormat`. The library
/// refuses a mask that contains a layout the type does not allow.
fn formats(element: Element) -> u32 {
    const LINEAR: u32 = 1 << 0;
    const CHW2: u32 = 1 << 1;
    const HWC8: u32 = 1 << 2;
    const CHW4: u32 = 1 << 3;
    const CHW16: u32 = 1 << 4;
    const CHW32: u32 = 1 << 5;
    const HWC: u32 = 1 << 8;
    const HWC16: u32 = 1 << 11;
    match element {
        Element::F32 => LINEAR | CHW32 | HWC,
        Element::F16 => LINEAR | CHW2 | HWC8 | CHW4 | CHW16 | CHW32 | HWC16,
        Element::I8 => LINEAR | CHW4 | CHW32,
    }
}

/// Reads a timing cache; `None` if it does not exist yet.
fn read_cache(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BuildError::io(path)(error)),
    }
}

/// Inputs and outputs of the network passed to the library.
pub(in crate::build) fn tensors(
    graph: &Graph,
    io: &Io,
    scale: Option<f32>,
) -> Result<Vec<TensorDesc>> {
    let shapes = Shapes::infer(graph, &[])?;
    let desc = |name: String, input: bool| TensorDesc {
        dims: shapes.get(&name).unwrap_or_default().to_vec(),
        element: if input { io.input } else { io.outputs },
        scale: scale.filter(|_| input),
        name,
        input,
    };
    let inputs = graph.inputs()?.into_iter().map(|v| desc(v.name, true));
    let outputs = graph.outputs()?.into_iter().map(|v| desc(v.name, false));
    Ok(inputs.chain(outputs).collect())
}

/// The engine's layers from the inspector, or else from the log.
fn table(built: &Built, graph: &Graph, warnings: &mut Vec<String>) -> Option<LayerTable> {
    let inspected = built.inspector.as_deref().map(inspector::read);
    let layers = match inspected {
        Some(Ok(layers)) => layers,
        Some(Err(error)) => {
            warnings.push(format!("the engine inspector's JSON is invalid: {error}"));
            Vec::new()
        }
        None => Vec::new(),
    };
    let layers = match (layers.is_empty(), &built.layer_log) {
        (true, Some(text)) => log::layers(text),
        _ => layers,
    };
    if layers.is_empty() {
        warnings.push(
            "the library did not report the engine's layers, so it is unknown whether quantised layers run in \
             INT8"
                .into(),
        );
        return None;
    }
    Some(LayerTable::new(layers, graph))
}

/// Checks the inputs and outputs reported by the builder against the requested ones.
fn check_tensors(built: &Built, tensors: &[TensorDesc], path: &Path) -> Result<(), TensorRtError> {
    let reported = built
        .layer_log
        .as_deref()
        .map(log::io_tensors)
        .unwrap_or_default();
    for found in reported {
        let wrong = |problem: String| TensorRtError::Binding {
            path: path.into(),
            tensor: found.tensor.name.clone(),
            problem,
        };
        let Some(requested) = tensors
            .iter()
            .find(|t| t.name == found.tensor.name && t.input == found.input)
        else {
            return Err(wrong("the network has no such input or output".into()));
        };
        let dims = found
            .tensor
            .dims
            .iter()
            .map(|&n| usize::try_from(n).unwrap_or(0));
        // Anything the log states in another form is checked when the engine is loaded.
        let element = &found.tensor.element;
        let other_type = !element.is_empty() && *element != requested.element.to_string();
        let other_shape = !found.tensor.dims.is_empty() && !dims.eq(requested.dims.iter().copied());
        if other_type || other_shape {
            return Err(wrong(format!(
                "it is {} {:?}, but the network has {} {:?}",
                found.tensor.element, found.tensor.dims, requested.element, requested.dims
            )));
        }
    }
    Ok(())
}

/// The GPU to build for. Queried before the build, which also needs it.
fn gpu(library: Version) -> Result<BuiltOn, TensorRtError> {
    let gpu = cuda::gpu().map_err(|error| {
        let reason = match error {
            CudaError::Unavailable { reason } => reason,
            error => error.to_string(),
        };
        let advice = match library.family {
            Family::TensorRt => "compile on a machine with the target GPU",
            Family::TensorRtRtx => {
                "name the target GPUs with --compute-capability, such as 8.6,8.9,12.0"
            }
        };
        TensorRtError::Unavailable {
            reason: format!("found no GPU to build for: {reason}; or {advice}"),
        }
    })?;
    Ok(BuiltOn {
        gpu: gpu.name,
        compute_capability: gpu.architecture,
        driver: format!("{}.{}", gpu.cuda / 1000, gpu.cuda % 1000 / 10),
    })
}
