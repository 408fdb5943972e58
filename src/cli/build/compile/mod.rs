//! `cp-build compile`: from a model folder to a plan, or to a folder for trtexec.

mod onnx;
mod tensorrt;

use std::path::PathBuf;

use crate::build::folder::Folder;
use crate::files;
use crate::plan::Accuracy;
use clap::CommandFactory;
use clap::error::ErrorKind;

/// Arguments of `cp-build compile`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model folder (model.toml and two ONNX files).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What the plan will run on.
    #[arg(long, value_enum, default_value_t = TargetArg::Cpu)]
    target: TargetArg,
    /// The plan to write; for `--target onnx`, the folder.
    #[arg(long, value_name = "FILE.plan")]
    out: PathBuf,
    /// With `--target onnx`: replace a model that is already in the folder.
    #[arg(long)]
    force: bool,
    /// Measured accuracy to store in the plan: the output of `cp-build eval --format json`.
    #[arg(long, value_name = "FILE.json")]
    accuracy: Option<PathBuf>,
    #[command(flatten, next_help_heading = "TensorRT")]
    tensorrt: tensorrt::EngineArgs,
}

/// Targets of `cp-build compile`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum TargetArg {
    /// The CPU engine: FP32, and INT8 where the network has Q/DQ pairs.
    Cpu,
    /// TensorRT: FP16, and INT8 where the network has Q/DQ pairs.
    Tensorrt,
    /// A folder for trtexec: the network, and the commands that build an engine from it.
    Onnx,
}

/// Runs `cp-build compile`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    if let Some(message) = conflict(&args) {
        super::Cli::command()
            .error(ErrorKind::ArgumentConflict, message)
            .exit();
    }
    super::check_outputs(&[Some(&args.out)], &args.model, args.accuracy.as_deref())?;
    let accuracy = args.accuracy.as_deref().map(Accuracy::read).transpose()?;
    let folder = Folder::read(&args.model)?;
    match args.target {
        TargetArg::Cpu => {
            folder.compile_cpu(&args.out, accuracy)?;
            let bytes = files::len(&args.out)?;
            let precision = if folder.is_quantized() {
                "int8"
            } else {
                "fp32"
            };
            println!(
                "{}: cpu {precision}, {:.1} MB",
                args.out.display(),
                bytes as f64 / 1e6
            );
            Ok(())
        }
        TargetArg::Tensorrt => tensorrt::run(&folder, args.tensorrt, &args.out, accuracy),
        TargetArg::Onnx => onnx::run(&folder, &args.tensorrt.io(), &args.out, args.force),
    }
}

/// The error message if an argument does not apply to the target.
fn conflict(args: &Args) -> Option<&'static str> {
    let onnx = matches!(args.target, TargetArg::Onnx);
    let cpu = matches!(args.target, TargetArg::Cpu);
    if cpu && args.tensorrt.any() {
        Some("TensorRT options require `--target tensorrt`")
    } else if onnx && args.tensorrt.more_than_types() {
        Some(
            "`--target onnx` accepts only --input-type and --output-type; pass the others to trtexec",
        )
    } else if onnx && args.accuracy.is_some() {
        Some("`--target onnx` writes no plan; pass --accuracy to `cp-build pack`")
    } else if !onnx && args.force {
        Some("`--force` applies only to `--target onnx`; plans are always replaced")
    } else {
        None
    }
}
