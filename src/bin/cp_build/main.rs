//! `cp-build`: the offline side of centerpoint, one subcommand per step.
//!
//! Each subcommand's file only defines its arguments and prints its result. The library does the work.

mod amax;
#[path = "../common/mod.rs"]
mod common;
mod compile;
mod eval;
mod import;
mod inspect;
mod install;
mod pack;
mod progress;
mod quantize;
mod sensitivity;
mod status;
mod synth;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, inspects and evaluates CenterPoint plans.
#[derive(Parser)]
#[command(name = "cp-build", version, about, after_help = status::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write synthetic lidar frames with labels.
    Synth(synth::Args),
    /// Create a model folder from exported ONNX files.
    Import(import::Args),
    /// Compile a model folder to a plan for a target.
    Compile(compile::Args),
    /// Quantise a model folder to an INT8 plan, using frames.
    Quantize(quantize::Args),
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

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let done = match common::parse::<Cli>(std::env::args_os()).command {
        Command::Synth(args) => synth::run(args),
        Command::Import(args) => import::run(args),
        Command::Compile(args) => compile::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Sensitivity(args) => sensitivity::run(args),
        Command::Amax(args) => amax::run(args),
        Command::Install(args) => install::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The library's errors include their sources, so the chain would repeat them.
            eprintln!("cp-build: {error}");
            ExitCode::from(status::exit_code(&error))
        }
    }
}

/// Writes to standard output. A reader that stops early (`| head`) is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}
