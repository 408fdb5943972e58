//! The command line of `cp-bench`: raw arguments and their validation.

use std::path::{Path, PathBuf};

use crate::bench::stats::PERCENTILES;
use crate::bench::{Input, Settings};
use clap::Parser;

use crate::cli::input::InputArgs;
use crate::cli::{DeviceArg, GpuEngineArg};

/// Measures the latency of plans, from points in memory to boxes in memory, like trtexec.
///
/// Exit status: 0 done; 1 a file could not be written; 2 invalid usage; 3 a frame could not be read; 4 a plan
/// is unusable; 5 the device is not available.
#[derive(Parser)]
#[command(name = "cp-bench", version)]
pub(crate) struct Args {
    /// Plans to measure, one after the other.
    #[arg(long, aliases = ["loadEngine", "plan"], value_name = "PLAN", num_args = 1.., required_unless_present = "compare")]
    engine: Vec<PathBuf>,

    /// Plans that take turns frame by frame; each is compared with the first.
    #[arg(long, value_name = "PLAN", num_args = 2.., conflicts_with_all = ["engine", "rate"])]
    compare: Vec<PathBuf>,

    /// Frames are read before the measurement and used in turn [default: a synthetic street].
    #[command(flatten)]
    pub(crate) input: InputArgs,

    /// Points per synthetic sweep, such as 50000 or 50k; one run for each of several numbers [default: those
    /// seen by a scanner of 32 × 900 rays].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = points, conflicts_with_all = ["pcd", "sweeps", "bag"])]
    points: Vec<usize>,

    /// Sweeps per synthetic frame; one run for each of several numbers [default: the model's].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=50), conflicts_with_all = ["pcd", "sweeps", "bag"])]
    synthetic_sweeps: Vec<u16>,

    /// Minimum warm-up before the measurement, in ms.
    #[arg(long, alias = "warmUp", value_name = "MS", default_value_t = 200.0, value_parser = time)]
    warm_up: f64,

    /// Minimum measurement of each plan, in seconds.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = time)]
    duration: f64,

    /// Minimum number of measured frames of each plan.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,

    /// Percentiles to report.
    #[arg(long, value_name = "P", value_delimiter = ',', default_values_t = PERCENTILES, value_parser = percent)]
    pub(crate) percentile: Vec<f64>,

    /// Frames per second, as sent by a scanner: a busy detector skips to the newest frame [default: frames back
    /// to back].
    #[arg(long, value_name = "HZ", value_parser = rate)]
    rate: Option<f64>,

    /// Count the frames that take longer, and their longest run.
    #[arg(long, value_name = "MS", value_parser = time)]
    deadline_ms: Option<f64>,

    /// The device to run on.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub(crate) device: DeviceArg,

    /// What runs the network of a plan for the CPU on a GPU.
    #[arg(long, value_enum, default_value_t = GpuEngineArg::Auto)]
    pub(crate) gpu_engine: GpuEngineArg,

    /// TensorRT's library or its folder [default: the environment variable CENTERPOINT_TENSORRT, else the
    /// system's library].
    #[arg(long, value_name = "PATH")]
    pub(crate) library: Option<PathBuf>,

    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,

    /// Write the whole report as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write the times of every frame as JSON.
    #[arg(long, alias = "exportTimes", value_name = "FILE")]
    pub(crate) export_times: Option<PathBuf>,

    /// Plot the distribution of latencies as PNG, or as SVG for a file named FILE.svg; with several runs, one plot
    /// each: FILE.1.png, FILE.2.png, …
    #[arg(long, value_name = "FILE.png")]
    pub(crate) histogram: Option<PathBuf>,

    /// Plot the latency over points, sweeps or cells, whichever differ, as PNG, or as SVG for a file named FILE.svg.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) curve: Option<PathBuf>,

    /// Finally run the network layer by layer, and report the layers' times.
    #[arg(long, alias = "dumpProfile")]
    pub(crate) dump_profile: bool,

    /// Write the layers' times as JSON.
    #[arg(long, alias = "exportProfile", value_name = "FILE")]
    pub(crate) export_profile: Option<PathBuf>,
}

/// One measurement: a plan, or several that take turns, on an input.
pub(crate) struct Case {
    pub(crate) plans: Vec<PathBuf>,
    pub(crate) input: Input,
}

impl Args {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            warm_up_ms: self.warm_up,
            duration_s: self.duration,
            iterations: self.iterations as usize,
            rate_hz: self.rate,
            deadline_ms: self.deadline_ms,
        }
    }

    /// The plans.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Path> {
        let plans = self.engine.iter().chain(&self.compare);
        plans.map(PathBuf::as_path)
    }

    /// The files to write.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = &Path> {
        let files = [
            &self.json,
            &self.export_times,
            &self.export_profile,
            &self.histogram,
            &self.curve,
        ];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// All combinations of plans, points and sweeps.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let plans: Vec<Vec<PathBuf>> = if self.compare.is_empty() {
            self.engine.iter().map(|plan| vec![plan.clone()]).collect()
        } else {
            vec![self.compare.clone()]
        };
        let inputs = self.inputs();
        let all = plans.iter().flat_map(|plans| {
            inputs.iter().map(|input| Case {
                plans: plans.clone(),
                input: input.clone(),
            })
        });
        all.collect()
    }

    fn inputs(&self) -> Vec<Input> {
        if self.input.any() {
            return vec![Input::Recorded];
        }
        let points = or_default(self.points.iter().copied());
        let sweeps = or_default(self.synthetic_sweeps.iter().map(|&sweeps| sweeps.into()));
        let all = sweeps.iter().flat_map(|&sweeps| {
            points
                .iter()
                .map(move |&points| Input::Synthetic { points, sweeps })
        });
        all.collect()
    }
}

/// The given numbers, or `None`, which stands for the default.
fn or_default(numbers: impl Iterator<Item = usize>) -> Vec<Option<usize>> {
    let numbers: Vec<Option<usize>> = numbers.map(Some).collect();
    if numbers.is_empty() {
        vec![None]
    } else {
        numbers
    }
}

/// Parses a number of points; `k` stands for thousand.
fn points(text: &str) -> Result<usize, String> {
    const MOST: usize = 4_000_000;
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1000),
        None => (text, 1),
    };
    let number: usize = digits.parse().map_err(|e| format!("{e}"))?;
    match number.checked_mul(factor) {
        Some(points @ 1..=MOST) => Ok(points),
        _ => Err(format!("not within 1 to {MOST}")),
    }
}

fn time(text: &str) -> Result<f64, String> {
    // At most a day.
    within(text, 0.0, 86.4e6)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.01, 1e5)
}

fn percent(text: &str) -> Result<f64, String> {
    within(text, 0.0, 100.0)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("not within {least} to {most}"))
    }
}
