//! `cp-build pack`: from a bare TensorRT engine to a plan.

use std::path::PathBuf;

use crate::build::pack::{Sources, pack};
use crate::engine::tensorrt::Version;
use crate::files;
use crate::plan::Accuracy;

/// Arguments of `cp-build pack`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The engine, as written by trtexec with `--saveEngine`.
    #[arg(long, value_name = "FILE")]
    engine: PathBuf,
    /// The model that the engine was built from: the folder written by `cp-build compile --target onnx`,
    /// another model folder, or model.toml.
    #[arg(long, value_name = "DIR|FILE.toml")]
    model: PathBuf,
    /// With model.toml: the model's pillar feature network.
    #[arg(long, value_name = "FILE.onnx")]
    pfe: Option<PathBuf>,
    /// Scale of an INT8 input (the value of code 1), if the folder does not record it.
    #[arg(long, value_name = "SCALE", value_parser = scale)]
    input_scale: Option<f32>,
    /// Version of TensorRT that built the engine, such as 10.3.0, if the engine's header does not record it.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    built_with: Option<Version>,
    /// Measured accuracy to store in the plan: the output of `cp-build eval --format json`.
    #[arg(long, value_name = "FILE.json")]
    accuracy: Option<PathBuf>,
    /// The plan to write.
    #[arg(long, value_name = "FILE.plan")]
    out: PathBuf,
}

fn scale(text: &str) -> Result<f32, String> {
    let scale: Option<f32> = text.parse().ok();
    scale
        .filter(|s| s.is_finite() && *s > 0.0)
        .ok_or_else(|| "expected a number above 0".into())
}

fn version(text: &str) -> Result<Version, String> {
    Version::parse(text).ok_or_else(|| "expected two or three numbers, such as 10.3.0".into())
}

/// Runs `cp-build pack`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let inputs = [
        Some(&args.engine),
        args.pfe.as_ref(),
        args.accuracy.as_ref(),
    ];
    super::check_outputs(
        &[Some(&args.out)],
        &args.model,
        inputs.into_iter().flatten().map(PathBuf::as_path),
    )?;
    let sources = Sources {
        engine: &args.engine,
        model: &args.model,
        pfe: args.pfe.as_deref(),
        input_scale: args.input_scale,
        built_with: args.built_with,
        accuracy: args.accuracy.as_deref().map(Accuracy::read).transpose()?,
    };
    let target = pack(sources, &args.out)?;
    let library = target.tensorrt.map(|t| t.library.to_string());
    let bytes = files::len(&args.out)?;
    super::print(&format!(
        "{}: tensorrt {}, engine of {}, {:.1} MB\n",
        args.out.display(),
        target.precision,
        library.unwrap_or_default(),
        bytes as f64 / 1e6
    ))
}
