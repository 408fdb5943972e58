//! Shared by the programs: the device option, exit statuses, man pages and completions.
#![allow(dead_code)] // Each program uses a part of it.

mod generate;

#[allow(unused_imports)] // As above.
pub(crate) use generate::parse;

use centerpoint::detector::Device;
use centerpoint::engine::EngineError;
use centerpoint::engine::tensorrt::TensorRtError;
use centerpoint::points::LayoutError;
use centerpoint::results::ResultsError;
use centerpoint::{Error, Layout};
use clap::ValueEnum;

/// The device to run on.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceArg {
    /// The device that the plan was made for.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl From<DeviceArg> for Device {
    fn from(arg: DeviceArg) -> Self {
        match arg {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Cuda => Self::Cuda,
        }
    }
}

/// Parses the columns of files that do not name theirs.
pub(crate) fn layout(text: &str) -> Result<Layout, String> {
    text.parse().map_err(|e: LayoutError| e.to_string())
}

/// Exit status of a program that runs plans on frames: 1 a result could not be written; 2 invalid usage; 3 a
/// frame could not be read; 4 the plan is unusable; 5 the device is not available.
pub(crate) fn status(error: &Error) -> u8 {
    match error {
        Error::Frame(_) => 3,
        #[cfg(feature = "mcap")]
        Error::Bag(error) if error.is_usage() => 2,
        #[cfg(feature = "mcap")]
        Error::Bag(_) => 3,
        Error::Plan(_) | Error::Model(_) => 4,
        Error::Engine(EngineError::Device { .. }) | Error::Cuda(_) => 5,
        Error::TensorRt(TensorRtError::Unavailable { .. } | TensorRtError::Cuda(_)) => 5,
        Error::Engine(_) | Error::TensorRt(_) => 4,
        Error::Results(ResultsError::SameName { .. }) => 2,
        _ => 1,
    }
}

/// Parses a number above 0.
pub(crate) fn positive(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|e| format!("{e}"))?;
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err("not above 0".into())
    }
}
