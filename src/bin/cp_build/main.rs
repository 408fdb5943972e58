//! `cp-build`: the offline side of centerpoint, one subcommand per step.
//!
//! Thin: each subcommand's file holds its arguments and prints its result; the work is in the library.

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
    /// Write ray-cast lidar frames with labels.
    Synth(synth::Args),
    /// Turn exported ONNX files into a model folder.
    Import(import::Args),
    /// Turn a model folder into a plan for a target.
    Compile(compile::Args),
    /// Turn a model folder and frames into an INT8 plan.
    Quantize(quantize::Args),
    /// Turn a bare TensorRT engine, such as trtexec writes, into a plan.
    Pack(pack::Args),
    /// Show what is in a plan.
    Inspect(inspect::Args),
    /// Score a plan on labelled frames, or result files against labels.
    Eval(eval::Args),
    /// Measure what each layer costs in INT8, and search the fastest mix within a budget.
    Sensitivity(sensitivity::Args),
    /// Print the range that a calibration method gives a raw tensor.
    Amax(amax::Args),
    /// Install the C library with its headers, and the programs.
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
            // The library's errors say everything in one line; their sources would say it again.
            eprintln!("cp-build: {error}");
            ExitCode::from(status::of(&error))
        }
    }
}

/// Writes to standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}
