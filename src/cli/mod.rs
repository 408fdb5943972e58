//! The programs: arguments to work, and one table of exit codes. `src/bin` only calls them.

pub(crate) mod bench;
#[cfg(feature = "build")]
pub(crate) mod build;
pub(crate) mod exit;
mod generate;
pub(crate) mod infer;
pub(crate) mod input;
pub(crate) mod interrupt;

pub use generate::parse;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::detector::Device;
use crate::points::LayoutError;
use crate::{Error, Layout};

/// Why a build without the feature `mcap` refuses bags and MCAP files.
const NO_MCAP: &str = "this program was built without MCAP; build it with `--features mcap`";

/// The device to run on.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    /// A GPU if the plan is built for it, or if there is one that has the CPU's results; else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// What runs the network of a plan for the CPU on a GPU.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GpuEngineArg {
    /// The CUDA engine for a plan with layers in INT8, with the CPU's results; else the CPU.
    Auto,
    /// The CUDA engine for every plan: FP16 for one without layers in INT8.
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

/// Refuses outputs that are inputs, too, and outputs that are one file: an input would be lost, or a result.
///
/// # Errors
/// [`Error::Usage`] with the file.
pub(crate) fn check_outputs<'a>(
    outputs: impl IntoIterator<Item = &'a Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), Error> {
    // A file that does not exist yet is known by its folder; a device may be named twice.
    let resolve = |path: &Path| match std::fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => None,
        Ok(_) => std::fs::canonicalize(path).ok(),
        Err(_) => {
            let folder = path.parent().filter(|folder| *folder != Path::new(""));
            let folder = std::fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?;
            Some(folder.join(path.file_name()?))
        }
    };
    let inputs: HashSet<PathBuf> = inputs.into_iter().filter_map(resolve).collect();
    let mut seen = HashSet::new();
    for output in outputs {
        let Some(path) = resolve(output) else {
            continue;
        };
        let problem = if inputs.contains(&path) {
            "is an input, too; name another output"
        } else if !seen.insert(path) {
            "is named for two outputs"
        } else {
            continue;
        };
        return Err(Error::Usage(format!("{} {problem}", output.display())));
    }
    Ok(())
}

/// Refuses a picture whose name ends like another format than those of `endings`.
///
/// # Errors
/// [`Error::Usage`] with the file.
pub(crate) fn check_picture(path: &Path, endings: &[&str]) -> Result<(), Error> {
    let known = |found: &OsStr| {
        endings
            .iter()
            .any(|ending| found.eq_ignore_ascii_case(ending))
    };
    if path.extension().is_none_or(known) {
        return Ok(());
    }
    let endings = endings.join(" or ");
    Err(Error::Usage(format!(
        "{}: pictures are written as {endings}",
        path.display()
    )))
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

/// Parses `N` numbers with commas between them.
pub(crate) fn numbers<const N: usize>(text: &str) -> Result<[f64; N], String> {
    let numbers = text.split(',').map(|number| number.trim().parse::<f64>());
    let numbers: Vec<f64> = numbers
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    numbers
        .try_into()
        .map_err(|found: Vec<f64>| format!("{} numbers, expected {N}", found.len()))
}

/// Parses a score.
pub(crate) fn score(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err("not within 0 to 1".into())
    }
}

/// What programs log: warnings, and on which device a network runs that could run on two.
pub(crate) const LOG: &str = "warn,centerpoint::detector::load=info";

/// Logs to standard error what `default` selects, unless `RUST_LOG` says otherwise.
pub fn init_log(default: &str) {
    let env = env_logger::Env::default().default_filter_or(default);
    env_logger::Builder::from_env(env).init();
}
