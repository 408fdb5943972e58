//! Exit status of each kind of error. `cp-infer` uses its codes with the same meaning.

use centerpoint::Error;
use centerpoint::build::BuildError;
use centerpoint::build::calibrate::{CalibrationError, RangeError};
use centerpoint::build::config::ConfigError;
use centerpoint::build::sensitivity::SensitivityError;
use centerpoint::engine::EngineError;
use centerpoint::engine::tensorrt::TensorRtError;
use centerpoint::eval::EvalError;
use centerpoint::model::ModelError;
use centerpoint::plan::PlanError;
use centerpoint::points::FrameError;
use centerpoint::results::ResultsError;

/// Exit statuses for `--help`.
pub(crate) const HELP: &str = "\
Exit status: 0 success; 1 a file cannot be read or written; 2 invalid usage or configuration, or an option \
that this version of TensorRT does not support; 3 a frame cannot be read, or there are no frames; 4 the \
model, the network or the plan is invalid, or TensorRT cannot build the engine; 5 the device or TensorRT is \
unavailable; 6 the network contains an operator that is unsupported or that TensorRT's parser rejects; 7 a \
frame lacks a column that the model reads; 8 the network produces NaN or infinity; 9 a calibration or \
report is corrupt or belongs to something else; 10 labels or results cannot be scored.";

/// The exit status of an error.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    // The library's functions return their own error type or the umbrella.
    if let Some(error) = error.downcast_ref::<Error>() {
        return of_library(error);
    }
    if let Some(error) = error.downcast_ref::<BuildError>() {
        return of_build(error);
    }
    if let Some(error) = error.downcast_ref::<CalibrationError>() {
        return of_calibration(error);
    }
    if let Some(error) = error.downcast_ref::<FrameError>() {
        return of_frame(error);
    }
    if let Some(error) = error.downcast_ref::<SensitivityError>() {
        return of_sensitivity(error);
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return of_engine(error);
    }
    if let Some(error) = error.downcast_ref::<TensorRtError>() {
        return of_tensorrt(error);
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return of_config(error);
    }
    if let Some(error) = error.downcast_ref::<EvalError>() {
        return of_eval(error);
    }
    if let Some(error) = error.downcast_ref::<ResultsError>() {
        return of_results(error);
    }
    if error.is::<PlanError>() || error.is::<ModelError>() {
        4
    } else {
        1
    }
}

fn of_eval(error: &EvalError) -> u8 {
    match error {
        EvalError::Results(error) => of_results(error),
        _ => 10,
    }
}

fn of_results(error: &ResultsError) -> u8 {
    match error {
        ResultsError::TooLarge { .. }
        | ResultsError::Format { .. }
        | ResultsError::BadBox { .. } => 10,
        _ => 1,
    }
}

fn of_library(error: &Error) -> u8 {
    match error {
        Error::Model(_) | Error::Plan(_) => 4,
        Error::Frame(error) => of_frame(error),
        Error::Engine(error) => of_engine(error),
        Error::TensorRt(error) => of_tensorrt(error),
        Error::Cuda(_) => 5,
        Error::Build(error) => of_build(error),
        Error::Calibration(error) => of_calibration(error),
        Error::Sensitivity(error) => of_sensitivity(error),
        Error::Eval(error) => of_eval(error),
        Error::Results(error) => of_results(error),
        _ => 1,
    }
}

fn of_frame(error: &FrameError) -> u8 {
    match error {
        FrameError::MissingColumn { .. } => 7,
        _ => 3,
    }
}

fn of_engine(error: &EngineError) -> u8 {
    match error {
        EngineError::Device { .. } => 5,
        _ => 4,
    }
}

fn of_tensorrt(error: &TensorRtError) -> u8 {
    match error {
        TensorRtError::Option { .. } => 2,
        TensorRtError::Unavailable { .. } | TensorRtError::Cuda(_) => 5,
        TensorRtError::Parse { .. } => 6,
        _ => 4,
    }
}

fn of_build(error: &BuildError) -> u8 {
    match error {
        BuildError::Io { .. } | BuildError::Write { .. } => 1,
        BuildError::Config(error) => of_config(error),
        BuildError::Exists { .. } => 2,
        BuildError::Operator { .. } => 6,
        BuildError::NoRange { .. } | BuildError::BadRange { .. } => 9,
        BuildError::Engine { source, .. } => of_engine(source),
        _ => 4,
    }
}

fn of_config(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Io { .. } => 1,
        _ => 2,
    }
}

fn of_calibration(error: &CalibrationError) -> u8 {
    match error {
        CalibrationError::Io { .. } | CalibrationError::Raw { .. } => 1,
        CalibrationError::Options(_)
        | CalibrationError::Range {
            source: RangeError::Bins(_) | RangeError::Percentile(_),
            ..
        } => 2,
        CalibrationError::NoFrames => 3,
        CalibrationError::Columns { .. } => 7,
        CalibrationError::NotFinite { .. }
        | CalibrationError::Range {
            source: RangeError::NotFinite { .. },
            ..
        } => 8,
        _ => 9,
    }
}

fn of_sensitivity(error: &SensitivityError) -> u8 {
    match error {
        SensitivityError::Io { .. } => 1,
        SensitivityError::Goal(_) | SensitivityError::NoLayers { .. } => 2,
        SensitivityError::NoFrames => 3,
        _ => 9,
    }
}
