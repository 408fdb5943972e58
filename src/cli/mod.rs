//! The programs: arguments to work, and one table of exit codes. `src/bin` only calls them.

pub(crate) mod bench;
#[cfg(feature = "build")]
pub(crate) mod build;
pub(crate) mod exit;
mod generate;
pub(crate) mod infer;

pub use generate::parse;

use clap::ValueEnum;

use crate::Layout;
use crate::detector::Device;
use crate::points::LayoutError;

/// The device to run on.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
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

/// Parses a number above 0.
pub fn positive(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|e| format!("{e}"))?;
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err("not above 0".into())
    }
}

/// Logs to standard error, warnings and above unless `RUST_LOG` says otherwise.
pub fn init_log(default: &str) {
    let env = env_logger::Env::default().default_filter_or(default);
    env_logger::Builder::from_env(env).init();
}
