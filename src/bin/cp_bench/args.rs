//! The command line of `cp-bench`: raw arguments, and their check.

use std::path::PathBuf;

use centerpoint::Layout;
use centerpoint::bench::stats::PERCENTILES;
use centerpoint::bench::{Input, Settings};
use clap::Parser;

use crate::common::{self, DeviceArg};

/// Measures the latency of a plan, from points in memory to boxes in memory, in the manner of trtexec.
///
/// Exit status: 0 done; 1 a file could not be written; 2 wrong usage; 3 a frame could not be read; 4 a plan
/// cannot be used; 5 the device is not available.
#[derive(Parser)]
#[command(name = "cp-bench", version)]
pub(crate) struct Args {
    /// Plans, measured one after the other.
    #[arg(long, alias = "loadEngine", value_name = "PLAN", num_args = 1.., required_unless_present = "compare")]
    engine: Vec<PathBuf>,

    /// Plans, measured in turn frame by frame; each is compared with the first.
    #[arg(long, value_name = "PLAN", num_args = 2.., conflicts_with_all = ["engine", "rate"])]
    compare: Vec<PathBuf>,

    /// Frames: .bin, .pcd.bin, .pcd, .npy files, or folders of them. They are read before, and taken in turn
    /// [default: a made-up street].
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["points", "sweeps"])]
    pcd: Vec<PathBuf>,

    /// Columns of .bin and .npy files, as cp-infer takes them.
    #[arg(long, value_name = "COLUMNS", value_parser = common::layout, requires = "pcd")]
    layout: Option<Layout>,

    /// Points of a made-up sweep, as 50000 or 50k; with several numbers a run for each [default: what a scanner of
    /// 32 × 900 rays sees].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = points)]
    points: Vec<usize>,

    /// Sweeps of a made-up frame; with several numbers a run for each [default: those that the model was trained
    /// with].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=50))]
    sweeps: Vec<u16>,

    /// Run for at least so long before it counts, in ms.
    #[arg(long, alias = "warmUp", value_name = "MS", default_value_t = 200.0, value_parser = time)]
    warm_up: f64,

    /// Measure each plan for at least so long, in seconds.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = time)]
    duration: f64,

    /// Measure at least so many frames of each plan.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,

    /// Percentages to report.
    #[arg(long, value_name = "P", value_delimiter = ',', default_values_t = PERCENTILES, value_parser = percent)]
    pub(crate) percentile: Vec<f64>,

    /// Frames a second, as a scanner sends them: a busy detector skips to the newest [default: one frame after the
    /// other].
    #[arg(long, value_name = "HZ", value_parser = rate)]
    rate: Option<f64>,

    /// Count the frames that take longer, and the most of them one after the other.
    #[arg(long, value_name = "MS", value_parser = time)]
    deadline_ms: Option<f64>,

    /// Where to run.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub(crate) device: DeviceArg,

    /// TensorRT's library, or the folder that holds it [default: CENTERPOINT_TENSORRT in the environment, else
    /// the one that the system finds].
    #[arg(long, value_name = "PATH")]
    pub(crate) library: Option<PathBuf>,

    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,

    /// Write all that is reported as JSON.
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

    /// Afterwards run the network layer by layer, and report the layers' times.
    #[arg(long, alias = "dumpProfile")]
    pub(crate) dump_profile: bool,

    /// As --dump-profile, as JSON.
    #[arg(long, alias = "exportProfile", value_name = "FILE")]
    pub(crate) export_profile: Option<PathBuf>,
}

/// What is measured at a time: plans that take turns, mostly one, on an input.
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

    /// All combinations of plans, points and sweeps.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let plans: Vec<Vec<PathBuf>> = match self.compare.is_empty() {
            true => self.engine.iter().map(|plan| vec![plan.clone()]).collect(),
            false => vec![self.compare.clone()],
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
        if !self.pcd.is_empty() {
            return vec![Input::Files {
                paths: self.pcd.clone(),
                layout: self.layout,
            }];
        }
        let points = or_default(self.points.iter().copied());
        let sweeps = or_default(self.sweeps.iter().map(|&sweeps| sweeps.into()));
        let all = sweeps.iter().flat_map(|&sweeps| {
            points
                .iter()
                .map(move |&points| Input::Synthetic { points, sweeps })
        });
        all.collect()
    }
}

/// The numbers that were given, else one that stands for the default.
fn or_default(numbers: impl Iterator<Item = usize>) -> Vec<Option<usize>> {
    let numbers: Vec<Option<usize>> = numbers.map(Some).collect();
    if numbers.is_empty() {
        vec![None]
    } else {
        numbers
    }
}

/// A number of points, `k` for a thousand.
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
    // A day.
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
