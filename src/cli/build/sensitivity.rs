//! `cp-build sensitivity`: the error of each layer in INT8, and the fastest mix within a budget.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::build::calibrate::frames_hash;
use crate::build::config::ConfigOverrides;
use crate::build::folder::Folder;
use crate::build::hash::sha256_file;
use crate::build::recipe::Job;
use crate::build::sensitivity::network::{Network, Subject};
use crate::build::sensitivity::{self, Cost, Goal, Report, report};
use crate::eval::frames::labels_path;
use crate::points;
use crate::results::nuscenes::Results;

use crate::cli::build::progress::Bars;
use crate::cli::input::InputArgs;

/// Arguments of `cp-build sensitivity`.
///
/// Measures every layer that `cp-build quantize` would quantise, once with only this layer in INT8 and once
/// with only this layer in float. An interrupted run continues if it gets the same --out.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("goal").args(["budget", "min_sqnr"]))]
pub(crate) struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The frames to measure on
    #[command(flatten)]
    input: InputArgs,
    /// Labels of the frames [default: labels.json in the folder of --pcd or next to it, if it exists]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Frames to calibrate on [default: the frames of --pcd that are not held out; only the held-out
    /// ones are then measured]
    #[arg(long, value_name = "DIR")]
    calibrate_on: Option<PathBuf>,
    /// Calibration of the float network: read if the file exists, otherwise written
    #[arg(long, value_name = "FILE.calib.json")]
    calibration: Option<PathBuf>,
    /// Quantisation options, as for `cp-build quantize`
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Measure at most N frames, evenly spaced; 0 is all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// Report to write; a later run continues from it
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Search for the fastest mix that loses at most this much mAP
    #[arg(long, value_name = "mAP")]
    budget: Option<f64>,
    /// Search for the fastest mix with at least this SQNR at objects, in dB
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    min_sqnr: Option<f64>,
    /// Cost of a layer in float, for the search
    #[arg(long, value_enum, default_value_t, requires = "goal")]
    cost: CostArg,
    /// Write the mix as a configuration for `cp-build quantize --config`
    #[arg(long, value_name = "FILE.toml", requires = "goal")]
    skip_list: Option<PathBuf>,
    /// Measure even on one frame, or calibrate on frames that are few or differ
    #[arg(long)]
    allow_low_sqnr: bool,
    /// CPU threads; 0 is one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Default, PartialEq, clap::ValueEnum)]
enum CostArg {
    /// Its multiply-accumulates
    #[default]
    Macs,
    /// Its measured time in float minus its time in INT8
    Time,
}

impl From<CostArg> for Cost {
    fn from(cost: CostArg) -> Self {
        match cost {
            CostArg::Macs => Cost::Macs,
            CostArg::Time => Cost::Time,
        }
    }
}

/// Runs `cp-build sensitivity`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    args.input.check()?;
    let options = args.config.iter().chain(&args.labels).map(PathBuf::as_path);
    super::check_outputs(
        &[
            args.out.as_ref(),
            args.skip_list.as_ref(),
            args.calibration.as_ref(),
        ],
        &args.model,
        args.input.paths().chain(options),
    )?;
    let mut folder = Folder::read(&args.model)?;
    args.input.apply_to(&mut folder.model);
    let overrides = args
        .config
        .as_deref()
        .map(ConfigOverrides::read)
        .transpose()?;
    let labels = labels(&args)?;
    let frames = args.input.files(&folder.model)?;
    let (calibrate_on, measure_on) = match &args.calibrate_on {
        Some(dir) => (
            points::list_frames(std::slice::from_ref(dir), args.input.recursive),
            Some(frames.paths.clone()),
        ),
        None => (frames.paths.clone(), None),
    };
    let job = Job {
        folder: &folder,
        frames: &calibrate_on,
        layout: args.input.layout,
        overrides: &overrides.unwrap_or_default(),
        scales: None,
        calibration: args.calibration.as_deref(),
        training: None,
        allow_low_sqnr: args.allow_low_sqnr,
        threads: args.threads,
    };
    let bars = Bars::new();
    let mut network = Network::new(Subject {
        job: &job,
        frames: measure_on,
        limit: args.limit,
        labels: labels.as_ref().map(|(_, labels)| labels.clone()),
        progress: &bars,
    })?;
    for warning in network.warnings() {
        log::warn!("{warning}");
    }
    let inputs = inputs(&folder, &network, labels.as_ref().map(|(path, _)| &**path))?;
    let layers = network.layers().to_vec();
    let mut report = match &args.out {
        Some(path) => Report::open(path, inputs, layers)?,
        None => Report::new(inputs, layers),
    };
    if args.cost == CostArg::Time && report.layers.iter().any(|l| l.times_ms.is_none()) {
        let times = network.times()?;
        for (layer, times) in report.layers.iter_mut().zip(times) {
            layer.times_ms = Some(times);
        }
    }
    let options = sensitivity::Options {
        goal: goal(&args),
        cost: args.cost.into(),
    };
    sensitivity::run(&mut report, args.out.as_deref(), &options, &mut network)?;
    bars.finish();
    if let Some(path) = &args.skip_list {
        report.write_skip_list(network.config(), path)?;
    }
    let frames = network.frames().len();
    let search = report.search_text();
    let between = if search.is_empty() { "" } else { "\n" };
    let table = report.table();
    super::print(&format!("{frames} frames\n{table}{between}{search}"))
}

fn goal(args: &Args) -> Option<Goal> {
    let drop = args.budget.map(Goal::MeanApDrop);
    drop.or(args.min_sqnr.map(Goal::ObjectSqnr))
}

/// The labels passed as an argument, or the default labels of the frames.
fn labels(args: &Args) -> crate::Result<Option<(PathBuf, Results)>> {
    let path = match (&args.labels, args.input.pcd.first()) {
        (Some(path), _) => path.clone(),
        (None, Some(frames)) => labels_path(frames),
        (None, None) => return Ok(None),
    };
    if args.labels.is_none() && !path.exists() {
        return Ok(None);
    }
    let labels = Results::read(&path)?;
    Ok(Some((path, labels)))
}

/// Everything that the measurements depend on.
fn inputs(
    folder: &Folder,
    network: &Network<'_>,
    labels: Option<&Path>,
) -> crate::Result<BTreeMap<String, String>> {
    let mut inputs = folder.hashes()?;
    let labels = labels.map(sha256_file).transpose()?;
    inputs.insert("labels".into(), labels.unwrap_or_else(|| "none".into()));
    inputs.insert("frames".into(), frames_hash(network.frames())?);
    let key = network.key();
    inputs.insert("calibration network".into(), key.model.clone());
    inputs.insert("calibration frames".into(), key.frames.clone());
    inputs.insert("calibration options".into(), key.options.clone());
    inputs.extend(report::options(network.config()));
    Ok(inputs)
}
