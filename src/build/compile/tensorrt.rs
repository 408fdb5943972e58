//! From a network to a TensorRT engine.
//!
//! The network goes to TensorRT strongly typed (see [`half`]): FP16, and INT8 exactly where Q/DQ pairs are.
//! So there is no flag for a precision. What the library made of the pairs is looked up in its layer table.
//!
//! Inputs and outputs are linear by default. That is the one layout which every library has for every type;
//! vectorised ones may spare a copy of the BEV map and of each head map, but which of them is chosen differs
//! from library to library, and a layout is nothing to find out about on the vehicle. `--io-formats any`
//! lets the library choose, and the layer table shows the reformats that this spares.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::build::half::{self, Io};
use crate::build::hash;
use crate::build::onnx::{Graph, Shapes, encode};
use crate::cuda::{self, CudaError, Element};
use crate::engine::tensorrt::layers::{LayerTable, inspector, log};
use crate::engine::tensorrt::{
    BuildRequest, Built, Family, HardwareCompatibility, Library, Monitor, TensorRtError, Version,
};
use crate::error::Result;
use crate::files::{self, FileError};
use crate::plan::{BuiltOn, IoFormats, Target, TensorDesc, TensorRtOptions, TensorRtTarget};

/// Compute capabilities that TensorRT-RTX builds for.
pub const RTX_COMPUTE_CAPABILITIES: [u32; 6] = [75, 80, 86, 89, 120, 121];

/// What to build with.
pub struct Request<'a> {
    /// The library.
    pub library: &'a Library,
    /// How; `timing_cache` is filled in here.
    pub options: TensorRtOptions,
    /// TensorRT-RTX: for which GPUs, as 89 for 8.9; empty: for the one that is there.
    pub compute_capabilities: Vec<u32>,
    /// Read if it is there, written after the build.
    pub timing_cache: Option<PathBuf>,
}

/// A built engine.
pub struct Compiled {
    /// The library's bytes.
    pub engine: Vec<u8>,
    /// What it runs on.
    pub target: Target,
    /// Its layers, where the library tells.
    pub layers: Option<LayerTable>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Builds the engine of `graph`, a network in FP32, with Q/DQ pairs or without.
///
/// # Errors
/// [`TensorRtError`]; [`crate::build::BuildError`] for a network that FP16 cannot hold; [`FileError`] where
/// the timing cache cannot be read or written.
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

/// Checks that the library has the options, before it is asked to build for minutes. Gives the option that
/// it has not, and what to do.
fn check(
    options: &TensorRtOptions,
    compute_capabilities: &[u32],
    timing_cache: bool,
    version: Version,
    quantized: bool,
) -> Result<(), (&'static str, &'static str)> {
    let rtx = version.family == Family::TensorRtRtx;
    let at_least = |major, minor| (version.major, version.minor) >= (major, minor);
    let refuse = |wrong: bool, option, advice| match wrong {
        true => Err((option, advice)),
        false => Ok(()),
    };
    refuse(
        options.exclude_lean_runtime && !options.version_compatible,
        "--exclude-lean-runtime",
        "only an engine with --version-compatible holds a lean runtime; give that, too, or neither",
    )?;
    refuse(
        options.gpu_fallback && options.dla.is_none(),
        "--gpu-fallback",
        "it is for engines on the DLA; give --dla, too, or neither",
    )?;
    let dla = options.dla.is_some();
    refuse(dla && rtx, "--dla", "RTX cards have no DLA; leave it out")?;
    refuse(
        dla && at_least(10, 8) && !at_least(11, 4),
        "--dla",
        "TensorRT 10.8 to 11.3 have no DLA; leave it out, or use a TensorRT that has (10.7 and older, as in \
         JetPack 6; 11.4 and newer)",
    )?;
    refuse(
        dla && quantized && !at_least(11, 0),
        "--dla",
        "TensorRT 10 runs no networks with Q/DQ pairs on the DLA; leave it out, or compile the float model",
    )?;
    refuse(
        options.version_compatible && rtx,
        "--version-compatible",
        "TensorRT-RTX comes without the lean runtime that this needs; leave it out",
    )?;
    refuse(
        options.hardware_compatible != HardwareCompatibility::None && rtx,
        "--hardware-compatible",
        "name the GPUs with --compute-capability instead",
    )?;
    refuse(
        timing_cache && rtx,
        "--timing-cache",
        "TensorRT-RTX times no kernels when it builds: it chooses them on the GPU; leave it out",
    )?;
    refuse(
        !compute_capabilities.is_empty() && !rtx,
        "--compute-capability",
        "it builds for the GPU of the machine that it runs on; leave it out, and see \
         --hardware-compatible",
    )?;
    let unknown = |cc: &u32| !RTX_COMPUTE_CAPABILITIES.contains(cc);
    refuse(
        compute_capabilities.iter().any(unknown),
        "--compute-capability",
        "it builds for 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1; for others, such as Orin (8.7), compile with \
         TensorRT on a machine that has the GPU",
    )?;
    refuse(
        options.hardware_compatible == HardwareCompatibility::SameComputeCapability
            && !at_least(10, 9),
        "--hardware-compatible same-compute-capability",
        "it came with TensorRT 10.9; leave it out, or give `ampere-plus`",
    )
}

/// Layouts that a type can have and this crate's kernels read and write, as bits of TensorRT's
/// `TensorFormat`. The library refuses a mask with a layout that the type cannot have.
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

/// A timing cache; `None` where there is none yet.
fn read_cache(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new(path, "read")(error).into()),
    }
}

/// Inputs and outputs of the network as it goes to the library.
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

/// The engine's layers, from the inspector or else from the log.
fn table(built: &Built, graph: &Graph, warnings: &mut Vec<String>) -> Option<LayerTable> {
    let told = built.inspector.as_deref().map(inspector::read);
    let layers = match told {
        Some(Ok(layers)) => layers,
        Some(Err(error)) => {
            warnings.push(format!(
                "the engine inspector's JSON cannot be read: {error}"
            ));
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
            "the library told nothing about the engine's layers: whether quantised layers are INT8 is not \
             known"
                .into(),
        );
        return None;
    }
    Some(LayerTable::new(layers, graph))
}

/// Checks the inputs and outputs that the builder tells of against those that were asked for.
fn check_tensors(built: &Built, tensors: &[TensorDesc], path: &Path) -> Result<(), TensorRtError> {
    let told = built
        .layer_log
        .as_deref()
        .map(log::io_tensors)
        .unwrap_or_default();
    for found in told {
        let wrong = |problem: String| TensorRtError::Binding {
            path: path.into(),
            tensor: found.tensor.name.clone(),
            problem,
        };
        let Some(asked) = tensors
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
        // What a library says in other words is checked when the engine is loaded.
        let element = &found.tensor.element;
        let other_type = !element.is_empty() && *element != asked.element.to_string();
        let other_shape = !found.tensor.dims.is_empty() && !dims.eq(asked.dims.iter().copied());
        if other_type || other_shape {
            return Err(wrong(format!(
                "it is {} of {:?}, the network says {} of {:?}",
                found.tensor.element, found.tensor.dims, asked.element, asked.dims
            )));
        }
    }
    Ok(())
}

/// The GPU that an engine is built for. Asked for before the build, which wants it, too.
fn gpu(library: Version) -> Result<BuiltOn, TensorRtError> {
    let gpu = cuda::gpu().map_err(|error| {
        let reason = match error {
            CudaError::Unavailable { reason } => reason,
            error => error.to_string(),
        };
        let advice = match library.family {
            Family::TensorRt => "compile on the machine that has it",
            Family::TensorRtRtx => {
                "name those to build for with --compute-capability, such as 8.6,8.9,12.0"
            }
        };
        TensorRtError::Unavailable {
            reason: format!("no GPU to build for was found: {reason}; or {advice}"),
        }
    })?;
    Ok(BuiltOn {
        gpu: gpu.name,
        compute_capability: gpu.architecture,
        driver: format!("{}.{}", gpu.cuda / 1000, gpu.cuda % 1000 / 10),
    })
}
