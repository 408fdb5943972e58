//! `cp-build compile`.

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
    /// The plan to write.
    #[arg(long, value_name = "FILE.plan")]
    out: PathBuf,
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
}

/// Runs `cp-build compile`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if matches!(args.target, TargetArg::Cpu) && args.tensorrt.any() {
        let what = "options of TensorRT want `--target tensorrt`";
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
    }
}
