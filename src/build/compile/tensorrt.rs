//! From a network to a TensorRT engine.
//!
//! The network goes to TensorRT strongly typed (see [`half`]): FP16, and INT8 exactly where Q/DQ pairs are.
//! So there is no flag for a precision. What the library made of the pairs is looked up in its layer table.
//!
//! Inputs and outputs are linear by default. That is the one layout which every library has for every type;
//! vectorised ones may spare a copy of the BEV map and of each head map, but which of them is chosen differs
//! from library to library, and a layout is nothing to find out about on the vehicle. `--io-formats any`
//! lets the library choose, and the layer table shows the reformats that this spares.

use std::path::{Path, PathBuf};

use crate::build::half::{self, Io};
use crate::build::hash;
use crate::build::onnx::{Graph, Shapes, encode};
use crate::cuda::{self, CudaError, Element};
use crate::engine::tensorrt::layers::{LayerTable, inspector, log};
use crate::engine::tensorrt::{
    BuildRequest, Built, Family, HardwareCompatibility, Library, Monitor, TensorRtError, Version,
};
use crate::error::{Error, Result};
use crate::files::write_whole;
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
/// [`TensorRtError`]; [`crate::build::BuildError`] for a network that FP16 cannot hold; [`Error::Io`] where
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
        write_whole(path, bytes)?;
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
        Err(error) => Err(Error::io(path, "read")(error)),
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
        if found.tensor.element != asked.element.to_string() || !dims.eq(asked.dims.iter().copied())
        {
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
        // There is no such option here.
        let reason = reason.trim_end_matches(", or use `--device cpu`");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> TensorRtOptions {
        TensorRtOptions {
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

    fn tensorrt(major: u32, minor: u32) -> Version {
        Version::new(Family::TensorRt, major, minor, 0)
    }

    /// The option that is refused.
    fn refused(
        options: &TensorRtOptions,
        version: Version,
        quantized: bool,
    ) -> Option<&'static str> {
        check(options, &[], false, version, quantized)
            .err()
            .map(|(option, _)| option)
    }

    #[test]
    fn the_dla_is_for_those_versions_and_networks_that_have_one() {
        let mut options = options();
        options.dla = Some(0);
        options.gpu_fallback = true;
        for (major, minor, float, pairs) in [
            (10, 3, true, false),
            (10, 7, true, false),
            (10, 8, false, false),
            (10, 16, false, false),
            (11, 3, false, false),
            (11, 4, true, true),
            (12, 0, true, true),
        ] {
            let version = tensorrt(major, minor);
            assert_eq!(
                refused(&options, version, false).is_none(),
                float,
                "{version}"
            );
            assert_eq!(
                refused(&options, version, true).is_none(),
                pairs,
                "{version}"
            );
        }
        options.dla = None;
        assert_eq!(
            refused(&options, tensorrt(10, 3), false),
            Some("--gpu-fallback")
        );
    }

    #[test]
    fn options_that_need_others_or_newer_libraries_are_refused() {
        let mut options = options();
        options.exclude_lean_runtime = true;
        let version = tensorrt(10, 3);
        assert_eq!(
            refused(&options, version, true),
            Some("--exclude-lean-runtime")
        );
        options.version_compatible = true;
        assert_eq!(refused(&options, version, true), None);
        options.hardware_compatible = HardwareCompatibility::AmperePlus;
        assert_eq!(refused(&options, version, true), None);
        options.hardware_compatible = HardwareCompatibility::SameComputeCapability;
        let name = "--hardware-compatible same-compute-capability";
        assert_eq!(refused(&options, tensorrt(10, 8), true), Some(name));
        assert_eq!(refused(&options, tensorrt(10, 9), true), None);
        let (option, _) = check(&options, &[87], false, tensorrt(10, 9), true).unwrap_err();
        assert_eq!(option, "--compute-capability");
        check(&options, &[], true, tensorrt(10, 9), true).unwrap();
    }

    #[test]
    fn an_engine_with_other_inputs_or_outputs_is_refused() {
        let tensors = [TensorDesc {
            name: "x".into(),
            input: true,
            element: Element::I8,
            scale: Some(0.5),
            dims: vec![1, 2, 4, 4],
        }];
        let told = |line: &str| Built {
            layer_log: Some(format!("I/O Tensors:\n Name: {line}, ProfileInfo: []")),
            ..Built::default()
        };
        let path = Path::new("net.onnx");
        let right = "x, IOMode: Input, DataType: Int8, Dimensions: [1,2,4,4]";
        check_tensors(&told(right), &tensors, path).unwrap();
        check_tensors(&Built::default(), &tensors, path).unwrap();
        for (from, to, problem) in [
            (
                "x",
                "y",
                "tensor `y` of the engine: the network has no such",
            ),
            (
                "Input",
                "Output",
                "tensor `x` of the engine: the network has no such",
            ),
            (
                "Int8",
                "Half",
                "it is fp16 of [1, 2, 4, 4], the network says int8 of [1, 2, 4, 4]",
            ),
            (
                "4,4",
                "4,8",
                "it is int8 of [1, 2, 4, 8], the network says int8",
            ),
        ] {
            let wrong = told(&right.replacen(from, to, 1));
            let error = check_tensors(&wrong, &tensors, path)
                .unwrap_err()
                .to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn layers_come_from_the_log_where_the_inspector_tells_none() {
        let graph = crate::build::testing::shaped(
            vec![crate::build::testing::node("Relu", &["x"], "out")],
            vec![],
            Some(&[1]),
        );
        let log = "Layers:\nName: a, LayerType: kgen, Inputs: [], Outputs: []".to_owned();
        let names = |inspector: Option<&str>, log: Option<&String>| {
            let built = Built {
                inspector: inspector.map(str::to_owned),
                layer_log: log.cloned(),
                ..Built::default()
            };
            let mut warnings = Vec::new();
            let table = table(&built, &graph, &mut warnings);
            let layers = table.map(|t| t.layers.into_iter().map(|l| l.name).collect::<String>());
            (layers, warnings.len())
        };
        let json = Some("{\"Layers\": [\"b\"]}");
        assert_eq!(names(json, Some(&log)), (Some("b".into()), 0));
        assert_eq!(names(None, Some(&log)), (Some("a".into()), 0));
        assert_eq!(names(Some("?"), Some(&log)), (Some("a".into()), 1));
        assert_eq!(names(Some("{\"Layers\": []}"), None), (None, 1));
        assert_eq!(names(None, None), (None, 1));
    }

    #[test]
    fn a_timing_cache_may_not_be_there_yet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        assert_eq!(read_cache(&path).unwrap(), None);
        std::fs::write(&path, "times").unwrap();
        assert_eq!(read_cache(&path).unwrap().as_deref(), Some(&b"times"[..]));
        let error = read_cache(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}
