//! `cp-build compile`.

mod onnx;
mod tensorrt;

use std::path::PathBuf;

use centerpoint::build::folder::Folder;
use centerpoint::plan::Accuracy;
use clap::CommandFactory;
use clap::error::ErrorKind;

/// Arguments of `cp-build compile`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model folder (model.toml and two ONNX files).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What the plan is to run on.
    #[arg(long, value_enum, default_value_t = TargetArg::Cpu)]
    target: TargetArg,
    /// The plan to write, for `--target onnx` the folder.
    #[arg(long, value_name = "FILE.plan")]
    out: PathBuf,
    /// For `--target onnx`: replace a model that is in the folder.
    #[arg(long)]
    force: bool,
    /// Put a measured accuracy into the plan: the output of `cp-build eval --format json`.
    #[arg(long, value_name = "FILE.json")]
    accuracy: Option<PathBuf>,
    #[command(flatten, next_help_heading = "TensorRT")]
    tensorrt: tensorrt::EngineArgs,
}

/// What a plan can be made for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum TargetArg {
    /// The CPU engine: FP32, and INT8 where the network has Q/DQ pairs.
    Cpu,
    /// TensorRT: FP16, and INT8 where the network has Q/DQ pairs.
    Tensorrt,
    /// A folder for trtexec: the network that TensorRT builds from, and how to build.
    Onnx,
}

/// Runs `cp-build compile`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(what) = conflict(&args) {
        crate::Cli::command()
            .error(ErrorKind::ArgumentConflict, what)
            .exit();
    }
    let accuracy = args.accuracy.as_deref().map(Accuracy::read).transpose()?;
    let folder = Folder::read(&args.model)?;
    match args.target {
        TargetArg::Cpu => {
            folder.compile_cpu(&args.out, accuracy)?;
            let bytes = std::fs::metadata(&args.out)?.len();
            let precision = match folder.is_quantized() {
                true => "int8",
                false => "fp32",
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

/// What of the arguments the target has no use for.
fn conflict(args: &Args) -> Option<&'static str> {
    let onnx = matches!(args.target, TargetArg::Onnx);
    let cpu = matches!(args.target, TargetArg::Cpu);
    if cpu && args.tensorrt.any() {
        Some("options of TensorRT want `--target tensorrt`")
    } else if onnx && args.tensorrt.more_than_types() {
        Some(
            "`--target onnx` takes --input-type and --output-type only; give the others to trtexec",
        )
    } else if onnx && args.accuracy.is_some() {
        Some("`--target onnx` makes no plan; give --accuracy to `cp-build pack`")
    } else if !onnx && args.force {
        Some("`--force` is for `--target onnx`; plans are replaced without it")
    } else {
        None
    }
}
