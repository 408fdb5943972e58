//! `cp-build autoware`: from a folder of Autoware's model repository and frames to an INT8 plan.

use std::path::PathBuf;

use super::quantize::{self, Options};
use crate::build::folder::{Folder, Sources};
use crate::cli::input::InputArgs;

/// Arguments of `cp-build autoware`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder (ml_package.param.yaml and two ONNX files).
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The frames to calibrate on; by default, every 4th one is held out to measure on.
    #[command(flatten)]
    input: InputArgs,
    /// The plan to write.
    #[arg(long, value_name = "FILE.plan")]
    out: PathBuf,
    /// Further parameter files, such as centerpoint_common.param.yaml, instead of what Autoware ships.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    params: Vec<PathBuf>,
    /// Also write a model folder with Q/DQ pairs, to compile for other targets or to run in ONNX Runtime.
    #[arg(long, value_name = "DIR")]
    onnx: Option<PathBuf>,
    /// Replace a model that is already in that folder.
    #[arg(long, requires = "onnx")]
    force: bool,
    /// Write the plan even if the frames are few or differ, or if its error is large.
    #[arg(long)]
    allow_low_sqnr: bool,
    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// Runs `cp-build autoware`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let mut model = vec![args.dir];
    model.extend(args.params);
    let mut folder = Folder::from_sources(&Sources {
        pfe: None,
        rpn: None,
        model: &model,
    })?;
    for assumed in &folder.assumed {
        println!("{assumed}");
    }
    let options = Options {
        input: args.input,
        allow_low_sqnr: args.allow_low_sqnr,
        out: args.out,
        onnx: args.onnx,
        force: args.force,
        threads: args.threads,
        ..Options::default()
    };
    quantize::quantize(&mut folder, &options)
}
