//! `cp-build`: the offline side of centerpoint, one subcommand per step.
//!
//! Each subcommand's file only defines its arguments and prints its result. The library does the work.

mod amax;
mod autoware;
mod compile;
mod eval;
mod import;
mod inspect;
mod install;
mod new_model;
mod pack;
mod progress;
mod qat;
mod quantize;
mod sensitivity;
mod synth;
mod train;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::build::folder::{MODEL, PFE, RPN};
use crate::cli::interrupt::{self, First};
use crate::cli::{self, exit};
use crate::files::FileError;
use crate::plan::Training;

/// Builds, inspects and evaluates CenterPoint plans.
#[derive(Parser)]
#[command(name = "cp-build", version, about, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write synthetic lidar frames with labels.
    Synth(synth::Args),
    /// Write a commented model.toml from exported networks or a training configuration.
    NewModel(new_model::Args),
    /// Create a model folder from exported ONNX files, or from a PyTorch checkpoint.
    Import(import::Args),
    /// Make an INT8 plan of a folder of Autoware's model repository, using frames.
    Autoware(autoware::Args),
    /// Compile a model folder to a plan for a target.
    Compile(compile::Args),
    /// Train a model folder in float, from its weights or from nothing, on labelled frames.
    Train(train::Args),
    /// Quantise a model folder to an INT8 plan, using frames.
    Quantize(quantize::Args),
    /// Quantise a model folder and train it, until its plan is as close to the float network as it gets.
    Qat(Box<qat::Args>),
    /// Pack a bare TensorRT engine, for example from trtexec, into a plan.
    Pack(pack::Args),
    /// Show the content of a plan, a calibration or an ONNX file.
    Inspect(inspect::Args),
    /// Score a plan on labelled frames, or result files against labels.
    Eval(eval::Args),
    /// Measure the error of each layer in INT8, and search for the fastest mix within a budget.
    Sensitivity(sensitivity::Args),
    /// Print the range that a calibration method picks for a raw tensor.
    Amax(amax::Args),
    /// Install the C library, its headers and the programs.
    Install(install::Args),
}

/// Runs `cp-build`.
pub fn main() -> ExitCode {
    cli::init_log(cli::LOG);
    interrupt::handle("cp-build", First::Exit);
    let done = match cli::parse::<Cli>(std::env::args_os()).command {
        Command::Synth(args) => synth::run(args),
        Command::NewModel(args) => new_model::run(args),
        Command::Import(args) => import::run(args),
        Command::Autoware(args) => autoware::run(args),
        Command::Compile(args) => compile::run(args),
        Command::Train(args) => train::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Qat(args) => qat::run(*args),
        Command::Pack(args) => pack::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Sensitivity(args) => sensitivity::run(args),
        Command::Amax(args) => amax::run(args),
        Command::Install(args) => install::run(args),
    };
    exit::finish("cp-build", done)
}

/// Refuses outputs that are inputs: of `model`, a folder, the files in it.
fn check_outputs<'a>(
    outputs: &[Option<&'a PathBuf>],
    model: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> crate::Result<()> {
    let files: Vec<PathBuf> = [MODEL, PFE, RPN].map(|name| model.join(name)).into();
    let files = files.iter().map(PathBuf::as_path).chain([model]);
    let outputs = outputs.iter().flatten().map(|path| path.as_path());
    let inputs: Vec<&Path> = inputs.into_iter().collect();
    cli::check_outputs(outputs, files.chain(inputs))
}

/// What came of a training.
fn verdict(training: &Training) -> String {
    let Training {
        figure,
        before,
        best,
        best_step,
        kept,
        steps,
        ..
    } = training;
    let after = if *kept {
        format!("{best:.4} after step {best_step}: trained weights")
    } else {
        format!("no better in {steps} steps: the weights before the training")
    };
    format!("{figure} {before:.4} before, {after}")
}

/// Writes to standard output.
fn print(text: &str) -> crate::Result<()> {
    let written = std::io::stdout().write_all(text.as_bytes());
    Ok(written.map_err(FileError::new(Path::new("standard output"), "write"))?)
}
