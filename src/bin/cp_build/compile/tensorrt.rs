//! `cp-build compile --target tensorrt`: its options and its report on the engine.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use centerpoint::build::compile::tensorrt::Request;
use centerpoint::build::folder::Folder;
use centerpoint::build::half::Io;
use centerpoint::build::status::engine;
use centerpoint::engine::tensorrt::{HardwareCompatibility, Library};
use centerpoint::map::Element;
use centerpoint::plan::{Accuracy, IoFormats, TensorRtOptions};

use crate::progress::Phases;

/// TensorRT options, named as in trtexec where it has them.
#[derive(clap::Args, Debug, Default, PartialEq)]
pub(super) struct EngineArgs {
    /// TensorRT's library, or the folder with it and its ONNX parser [default: the system's].
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// Maximum scratch memory of a layer, in MiB [default: the library's, all of the GPU's memory].
    #[arg(long, value_name = "MIB")]
    workspace: Option<u64>,
    /// Cache of kernel timings: read if it exists, written after the build. Makes the next build faster and
    /// lets it choose the same kernels. Not for TensorRT-RTX.
    #[arg(long, value_name = "FILE")]
    timing_cache: Option<PathBuf>,
    /// From 0, the fastest build, to 5, the longest search for a fast engine [default: the library's, 3].
    #[arg(long, value_name = "0..5", value_parser = clap::value_parser!(u8).range(0..=5))]
    optimization_level: Option<u8>,
    /// Run on this DLA core of a Jetson. Not with TensorRT 10.8 to 11.3, and not with Q/DQ pairs before 11.
    #[arg(long, value_name = "CORE")]
    dla: Option<u32>,
    /// With --dla: run layers that the DLA does not support on the GPU.
    #[arg(long)]
    gpu_fallback: bool,
    /// Build an engine that later versions of the same major version can also run.
    #[arg(long)]
    version_compatible: bool,
    /// With --version-compatible: leave out the lean runtime, which must then be installed.
    #[arg(long)]
    exclude_lean_runtime: bool,
    /// Build an engine that other GPUs can also run; slower.
    #[arg(long, value_enum)]
    hardware_compatible: Option<HardwareArg>,
    /// TensorRT-RTX: compute capabilities to build for, as `nvidia-smi --query-gpu=compute_cap` prints
    /// them; such a GPU need not be present [default: that of the GPU present].
    #[arg(long, value_name = "8.6,8.9,…", value_delimiter = ',', value_parser = compute_capability)]
    compute_capability: Vec<u32>,
    /// Type of the network's input, the BEV map [default: fp16]. int8 requires quantised first layers.
    #[arg(long, value_enum)]
    input_type: Option<InputArg>,
    /// Type of the network's outputs, the head maps [default: fp16].
    #[arg(long, value_enum)]
    output_type: Option<OutputArg>,
    /// Layout of the input and output maps [default: linear].
    #[arg(long, value_enum)]
    io_formats: Option<FormatsArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum HardwareArg {
    /// Ampere and newer.
    AmperePlus,
    /// All GPUs with the compute capability of this one; since TensorRT 10.9.
    SameComputeCapability,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum InputArg {
    Fp16,
    Fp32,
    Int8,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum OutputArg {
    Fp16,
    Fp32,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum FormatsArg {
    /// [C, H, W]; every library supports it.
    Linear,
    /// Whichever is fastest for the library, including vectorised layouts.
    Any,
}

/// Parses `8.9` as 89.
fn compute_capability(text: &str) -> Result<u32, String> {
    let parts = text.split_once('.').and_then(|(major, minor)| {
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        (major < 100 && minor < 10).then_some(major * 10 + minor)
    });
    parts.ok_or_else(|| "expected two numbers, such as 8.9".into())
}

impl EngineArgs {
    /// Whether any option is set.
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether any option other than the types of input and outputs is set.
    pub(super) fn more_than_types(&self) -> bool {
        let types = Self {
            input_type: self.input_type,
            output_type: self.output_type,
            ..Self::default()
        };
        *self != types
    }

    /// The types of input and outputs.
    pub(super) fn io(&self) -> Io {
        Io {
            input: match self.input_type {
                None | Some(InputArg::Fp16) => Element::F16,
                Some(InputArg::Fp32) => Element::F32,
                Some(InputArg::Int8) => Element::I8,
            },
            outputs: match self.output_type {
                None | Some(OutputArg::Fp16) => Element::F16,
                Some(OutputArg::Fp32) => Element::F32,
            },
        }
    }

    fn options(&self) -> TensorRtOptions {
        let io = self.io();
        TensorRtOptions {
            workspace: self.workspace,
            timing_cache: None,
            optimization_level: self.optimization_level,
            dla: self.dla,
            gpu_fallback: self.gpu_fallback,
            version_compatible: self.version_compatible,
            exclude_lean_runtime: self.exclude_lean_runtime,
            hardware_compatible: match self.hardware_compatible {
                None => HardwareCompatibility::None,
                Some(HardwareArg::AmperePlus) => HardwareCompatibility::AmperePlus,
                Some(HardwareArg::SameComputeCapability) => {
                    HardwareCompatibility::SameComputeCapability
                }
            },
            input_type: io.input,
            output_type: io.outputs,
            io_formats: match self.io_formats {
                None | Some(FormatsArg::Linear) => IoFormats::Linear,
                Some(FormatsArg::Any) => IoFormats::Any,
            },
        }
    }
}

/// Builds the engine, writes the plan, and prints how the layers were built.
pub(super) fn run(
    folder: &Folder,
    args: EngineArgs,
    out: &Path,
    accuracy: Option<Accuracy>,
) -> anyhow::Result<()> {
    let library = Library::open(args.library.as_deref())?;
    let request = Request {
        library: &library,
        options: args.options(),
        compute_capabilities: args.compute_capability,
        timing_cache: args.timing_cache,
    };
    let phases = Phases::new();
    let compiled = folder.compile_tensorrt(out, request, &phases, accuracy)?;
    phases.finish();
    let mut text = String::new();
    writeln!(
        text,
        "{}: tensorrt {}, {:.1} MB",
        out.display(),
        compiled.target.precision,
        std::fs::metadata(out)?.len() as f64 / 1e6
    )?;
    if let Some(target) = &compiled.target.tensorrt {
        engine::target(&mut text, target)?;
        engine::counts(&mut text, target)?;
    }
    crate::print(&text)?;
    for warning in &compiled.warnings {
        log::warn!("{warning}");
    }
    Ok(())
}
