//! One table of exit codes for all programs; `docs/src/exit-codes.md` has it for people.

use std::io::ErrorKind;
use std::process::ExitCode;

use crate::Error;
#[cfg(feature = "build")]
use crate::build::BuildError;
#[cfg(feature = "build")]
use crate::build::calibrate::{CalibrationError, RangeError};
#[cfg(feature = "build")]
use crate::build::sensitivity::SensitivityError;
#[cfg(feature = "build")]
use crate::build::train::TrainingError;
use crate::chain::Chain;
use crate::engine::EngineError;
use crate::engine::tensorrt::TensorRtError;
use crate::eval::EvalError;
use crate::plan::PlanError;
use crate::results::ResultsError;

/// The table, for `--help`.
#[cfg(feature = "build")]
pub(crate) const HELP: &str = "\
Exit status: 0 success; 1 an output could not be written, or another failure; 2 wrong usage, or an invalid option; \
3 input data (frames, bags, labels, results) cannot be used; 4 the plan, the model or the network cannot be used; \
5 the device or TensorRT is not available; 6 calibration or quantisation failed; 7 a required accuracy was not met.";

/// An output could not be written, or another failure.
const FAILURE: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;
/// Input data cannot be used.
pub(crate) const INPUT: u8 = 3;
/// The plan, the model or the network cannot be used.
const MODEL: u8 = 4;
/// The device is not available.
const DEVICE: u8 = 5;
/// Calibration or quantisation failed.
#[cfg(feature = "build")]
const CALIBRATION: u8 = 6;
/// A required accuracy was not met.
#[cfg(feature = "build")]
const REQUIREMENT: u8 = 7;

/// Ends a program: prints an error with its causes. A reader that closes the pipe, such as `head`, is not an error.
pub fn finish(program: &str, done: Result<(), Error>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::File(error)) if error.source.kind() == ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{program}: {}", Chain(&error));
            ExitCode::from(code(&error))
        }
    }
}

/// The exit code of an error.
pub fn code(error: &Error) -> u8 {
    match error {
        Error::Usage(_) => USAGE,
        Error::Frame(_) => INPUT,
        #[cfg(feature = "mcap")]
        Error::Bag(error) if error.is_usage() => USAGE,
        #[cfg(feature = "mcap")]
        Error::Bag(_) => INPUT,
        Error::Plan(PlanError::Write { .. }) => FAILURE,
        Error::Plan(_) | Error::Model(_) | Error::Pfn(_) => MODEL,
        Error::Engine(error) => of_engine(error),
        Error::TensorRt(error) => of_tensorrt(error),
        Error::Cuda(_) => DEVICE,
        Error::Results(error) => of_results(error),
        Error::File(_) | Error::Draw(_) => FAILURE,
        #[cfg(feature = "build")]
        Error::Build(error) => of_build(error),
        #[cfg(feature = "build")]
        Error::Calibration(error) => of_calibration(error),
        #[cfg(feature = "build")]
        Error::Sensitivity(error) => of_sensitivity(error),
        Error::Eval(error) => of_eval(error),
        Error::Score { source, .. } => of_eval(source),
    }
}

fn of_results(error: &ResultsError) -> u8 {
    match error {
        ResultsError::SameName { .. } => USAGE,
        ResultsError::Read { .. }
        | ResultsError::TooLarge { .. }
        | ResultsError::Format { .. }
        | ResultsError::BadBox { .. } => INPUT,
        _ => FAILURE,
    }
}

fn of_engine(error: &EngineError) -> u8 {
    match error {
        EngineError::Device { .. } | EngineError::Cuda(_) => DEVICE,
        _ => MODEL,
    }
}

fn of_tensorrt(error: &TensorRtError) -> u8 {
    match error {
        TensorRtError::Option { .. } => USAGE,
        TensorRtError::Unavailable { .. } | TensorRtError::Cuda(_) => DEVICE,
        _ => MODEL,
    }
}

fn of_eval(error: &EvalError) -> u8 {
    match error {
        EvalError::Results(error) => of_results(error),
        _ => INPUT,
    }
}

#[cfg(feature = "build")]
fn of_build(error: &BuildError) -> u8 {
    match error {
        BuildError::Config(_) | BuildError::Exists { .. } => USAGE,
        BuildError::NoRange { .. } | BuildError::BadRange { .. } => CALIBRATION,
        BuildError::Engine { source, .. } => of_engine(source),
        BuildError::Training(error) => match **error {
            TrainingError::Gradients { .. } => CALIBRATION,
            TrainingError::Features { .. } | TrainingError::Variances { .. } => USAGE,
            TrainingError::Output { .. } => MODEL,
        },
        _ => MODEL,
    }
}

#[cfg(feature = "build")]
fn of_calibration(error: &CalibrationError) -> u8 {
    match error {
        CalibrationError::Options(_)
        | CalibrationError::Range {
            source: RangeError::Bins(_) | RangeError::Percentile(_),
            ..
        } => USAGE,
        CalibrationError::Io { .. }
        | CalibrationError::Raw { .. }
        | CalibrationError::NoFrames
        | CalibrationError::NoLabels { .. }
        | CalibrationError::FewFrames { .. }
        | CalibrationError::MixedColumns { .. }
        | CalibrationError::MixedIntensity { .. }
        | CalibrationError::Columns { .. } => INPUT,
        CalibrationError::LowSqnr { .. } => REQUIREMENT,
        _ => CALIBRATION,
    }
}

#[cfg(feature = "build")]
fn of_sensitivity(error: &SensitivityError) -> u8 {
    match error {
        SensitivityError::Goal(_) => REQUIREMENT,
        SensitivityError::NoLayers { .. } => USAGE,
        SensitivityError::Io { .. } | SensitivityError::NoFrames | SensitivityError::OneFrame => {
            INPUT
        }
        _ => CALIBRATION,
    }
}
