//! `cp-build compile`.

use std::path::PathBuf;

use centerpoint::build::folder::Folder;
use centerpoint::plan::Accuracy;

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
}

/// What a plan can be made for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum TargetArg {
    /// The CPU engine, FP32.
    Cpu,
}

/// Runs `cp-build compile`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let TargetArg::Cpu = args.target;
    let accuracy = args.accuracy.as_deref().map(Accuracy::read).transpose()?;
    let folder = Folder::read(&args.model)?;
    folder.compile_cpu(&args.out, accuracy)?;
    let bytes = std::fs::metadata(&args.out)?.len();
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
