//! `cp-build compile --target tensorrt`: its options, and what it tells of the engine.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use centerpoint::build::compile::tensorrt::Request;
use centerpoint::build::folder::Folder;
use centerpoint::build::half::Io;
use centerpoint::build::status::engine;
use centerpoint::cuda::Element;
use centerpoint::engine::tensorrt::{HardwareCompatibility, Library};
use centerpoint::plan::{Accuracy, IoFormats, TensorRtOptions};

use crate::progress::Phases;

/// Options of TensorRT; named as trtexec's where that has them.
#[derive(clap::Args, Debug, Default, PartialEq)]
pub(super) struct EngineArgs {
    /// TensorRT's library, or the folder that holds it and its ONNX parser [default: the system's].
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// Most scratch memory for a layer, in MiB [default: the library's, the GPU's whole memory].
    #[arg(long, value_name = "MIB")]
    workspace: Option<u64>,
    /// Times of kernels: read if it is there, written after the build. Makes the next build quick, and
    /// choose the same kernels. Not for TensorRT-RTX.
    #[arg(long, value_name = "FILE")]
    timing_cache: Option<PathBuf>,
    /// 0 is the quickest build, 5 searches longest for a quick engine [default: the library's, 3].
    #[arg(long, value_name = "0..5", value_parser = clap::value_parser!(u8).range(0..=5))]
    optimization_level: Option<u8>,
    /// Run on this DLA core of the Jetson. Not for TensorRT 10.8 to 11.3, nor with Q/DQ pairs before 11.
    #[arg(long, value_name = "CORE")]
    dla: Option<u32>,
    /// With --dla: run on the GPU what the DLA cannot.
    #[arg(long)]
    gpu_fallback: bool,
    /// Make an engine that later versions of the same major version run, too.
    #[arg(long)]
    version_compatible: bool,
    /// With --version-compatible: leave out the lean runtime, which then must be installed.
    #[arg(long)]
    exclude_lean_runtime: bool,
    /// Make an engine that other GPUs run, too; slower.
    #[arg(long, value_enum)]
    hardware_compatible: Option<HardwareArg>,
    /// TensorRT-RTX: GPUs to build for, none of which must be here, as
    /// `nvidia-smi --query-gpu=compute_cap` prints them [default: the one here].
    #[arg(long, value_name = "8.6,8.9,…", value_delimiter = ',', value_parser = compute_capability)]
    compute_capability: Vec<u32>,
    /// Type of the BEV map that the network reads [default: fp16]. int8 wants a network whose first layers
    /// are quantised.
    #[arg(long, value_enum)]
    input_type: Option<InputArg>,
    /// Type of the head maps that it writes [default: fp16].
    #[arg(long, value_enum)]
    output_type: Option<OutputArg>,
    /// Layouts of these maps [default: linear].
    #[arg(long, value_enum)]
    io_formats: Option<FormatsArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum HardwareArg {
    /// Ampere and newer.
    AmperePlus,
    /// All GPUs of this one's compute capability; from TensorRT 10.9.
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
    /// [C, H, W]: every library has it.
    Linear,
    /// Whichever the library is fastest with, vectorised ones among them.
    Any,
}

/// `8.9` as 89.
fn compute_capability(text: &str) -> Result<u32, String> {
    let parts = text.split_once('.').and_then(|(major, minor)| {
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        (major < 100 && minor < 10).then_some(major * 10 + minor)
    });
    parts.ok_or_else(|| "expected two numbers, such as 8.9".into())
}

impl EngineArgs {
    /// Whether any was given.
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether any was given but the types of input and outputs.
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

/// Builds the engine, writes the plan, and says what became of the layers.
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
