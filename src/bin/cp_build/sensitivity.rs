//! `cp-build sensitivity`: what each layer costs in INT8, and the fastest mix within a budget.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use centerpoint::build::config::Given;
use centerpoint::build::folder::{Folder, MODEL, PFE, RPN};
use centerpoint::build::hash::sha256_file;
use centerpoint::build::recipe::{self, Job, Prepared};
use centerpoint::build::sensitivity::budget::{Candidate, search};
use centerpoint::build::sensitivity::network::{Network, Source};
use centerpoint::build::sensitivity::report::Recorder;
use centerpoint::build::sensitivity::{self, Cost, Evaluate, Goal, Measured, Mix, Report};
use centerpoint::eval::frames::labels_of;
use centerpoint::output::nuscenes::Results;
use centerpoint::points;
use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::Bar;

/// Arguments of `cp-build sensitivity`.
///
/// Every layer that `cp-build quantize` would put into INT8 is measured alone in INT8 and alone in
/// float. A run that was stopped goes on where it was if it is given the same --out.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("goal").args(["budget", "min_sqnr"]))]
pub(crate) struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Frames to measure on.
    #[arg(long, value_name = "DIR")]
    frames: PathBuf,
    /// Labels of the frames [default: labels.json in DIR or beside it, if there is one]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Frames to calibrate on [default: those of --frames that are not held out; then only the held-out
    /// ones are measured on]
    #[arg(long, value_name = "DIR")]
    calibrate_on: Option<PathBuf>,
    /// Calibration of the float network, to read, or to write if it is not there
    #[arg(long, value_name = "FILE.calib.json")]
    calibration: Option<PathBuf>,
    /// Options of quantisation, as for `cp-build quantize`
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Measure on at most N frames, spread evenly; 0 is all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// The report, which is also what a later run goes on with
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Search the fastest mix that loses at most so much mAP
    #[arg(long, value_name = "mAP")]
    budget: Option<f64>,
    /// Search the fastest mix that has at least this SQNR at objects, in dB
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    min_sqnr: Option<f64>,
    /// What a layer in float costs the search
    #[arg(long, value_enum, default_value_t, requires = "goal")]
    cost: CostArg,
    /// Write the mix as a configuration for `cp-build quantize --config`
    #[arg(long, value_name = "FILE.toml", requires = "goal")]
    skip_list: Option<PathBuf>,
    /// CPU threads; 0 is one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Default, PartialEq, clap::ValueEnum)]
enum CostArg {
    /// Its multiply-adds
    #[default]
    Macs,
    /// Its measured time in float less that in INT8
    Time,
}

/// Runs `cp-build sensitivity`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let folder = Folder::read(&args.model)?;
    let given = args.config.as_deref().map(Given::read).transpose()?;
    let labels = labels(&args)?;
    let measured_on = points::list_frames(std::slice::from_ref(&args.frames))?;
    let calibrate_on = match &args.calibrate_on {
        Some(dir) => points::list_frames(std::slice::from_ref(dir))?,
        None => measured_on.clone(),
    };
    let bar = Bar::default();
    let prepared = recipe::prepare(
        &Job {
            folder: &folder,
            frames: &calibrate_on,
            given: &given.unwrap_or_default(),
            calibration: args.calibration.as_deref(),
            threads: args.threads,
        },
        &bar,
    )?;
    bar.finish();
    let frames = match args.calibrate_on {
        Some(_) => spread(&measured_on, args.limit),
        None => spread(&prepared.held_out, args.limit),
    };
    if frames.is_empty() {
        anyhow::bail!(
            "no frame is left to measure on: give `--calibrate-on`, more frames, or \
             `frames.held_out` in the configuration"
        );
    }
    measure(&args, &folder, &prepared, &frames, labels)
}

fn measure(
    args: &Args,
    folder: &Folder,
    prepared: &Prepared,
    frames: &[PathBuf],
    labels: Option<(PathBuf, Results)>,
) -> anyhow::Result<()> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}, {eta} left") {
        bar.set_style(style);
    }
    let placement = prepared.placement();
    let mut network = Network::new(
        Source {
            model: &folder.model,
            pfn: &prepared.pfn,
            graph: &prepared.graph,
            placement: &placement,
            frames,
            labels: labels.as_ref().map(|(_, labels)| labels),
            threads: args.threads,
        },
        Box::new(|placement| Ok(prepared.quantized(placement)?)),
        Box::new(|| bar.inc(1)),
    )?;
    let layers = network.layers().to_vec();
    let inputs = inputs(args, prepared, frames, labels.as_ref().map(|(path, _)| &**path))?;
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
    let count = report.layers.len();
    let left = (2 + 2 * count).saturating_sub(report.measurements.len());
    bar.set_length((left * frames.len()) as u64);
    let mut shown = Shown {
        network,
        bar: &bar,
        frames: frames.len() as u64,
    };
    let layers = report.layers.clone();
    let mut recorder = Recorder {
        report: &mut report,
        path: args.out.as_deref(),
        measure: &mut shown,
    };
    sensitivity::ablate(count, &mut recorder)?;
    let found = match goal(args) {
        None => None,
        Some(goal) => {
            let candidates: Vec<Candidate<'_>> = layers
                .iter()
                .map(|layer| Candidate {
                    name: &layer.name,
                    cost: match (args.cost, layer.times_ms) {
                        (CostArg::Time, Some([float, int8])) => float - int8,
                        _ => layer.macs as f64,
                    },
                })
                .collect();
            let cost = match args.cost {
                CostArg::Macs => Cost::Macs,
                CostArg::Time => Cost::Time,
            };
            Some(search(&candidates, goal, cost, &mut recorder)?)
        }
    };
    bar.finish_and_clear();
    report.rank();
    if found.is_some() {
        report.search = found;
    }
    if let Some(path) = &args.out {
        report.write(path)?;
    }
    if let Some(path) = &args.skip_list {
        report.write_skip_list(&prepared.config, path)?;
    }
    let search = match report.search_text() {
        text if text.is_empty() => text,
        text => format!("\n{text}"),
    };
    crate::print(&format!("{} frames\n{}{search}", frames.len(), report.table()))
}

fn goal(args: &Args) -> Option<Goal> {
    let drop = args.budget.map(Goal::MeanApDrop);
    drop.or(args.min_sqnr.map(Goal::ObjectSqnr))
}

/// The labels that were given, or those that belong to the frames.
fn labels(args: &Args) -> anyhow::Result<Option<(PathBuf, Results)>> {
    let path = match &args.labels {
        Some(path) => path.clone(),
        None => labels_of(&args.frames),
    };
    if args.labels.is_none() && !path.exists() {
        return Ok(None);
    }
    let labels = Results::read(&path)?;
    Ok(Some((path, labels)))
}

/// At most `limit` of the frames, evenly spread; 0 is all.
fn spread(frames: &[PathBuf], limit: usize) -> Vec<PathBuf> {
    if limit == 0 || limit >= frames.len() {
        return frames.to_vec();
    }
    let indices = (0..limit).map(|i| i * frames.len() / limit);
    indices.filter_map(|i| frames.get(i).cloned()).collect()
}

/// All that the measurements depend on.
fn inputs(
    args: &Args,
    prepared: &Prepared,
    frames: &[PathBuf],
    labels: Option<&Path>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut inputs = BTreeMap::new();
    for name in [MODEL, PFE, RPN] {
        inputs.insert(name.to_owned(), sha256_file(&args.model.join(name))?);
    }
    let labels = labels.map(sha256_file).transpose()?;
    inputs.insert("labels".into(), labels.unwrap_or_else(|| "none".into()));
    inputs.insert("frames".into(), sensitivity::report::frames_hash(frames)?);
    let key = &prepared.calibrated.key;
    inputs.insert("calibration network".into(), key.model.clone());
    inputs.insert("calibration frames".into(), key.frames.clone());
    inputs.insert("calibration options".into(), key.options.clone());
    inputs.extend(sensitivity::report::options(&prepared.config));
    Ok(inputs)
}

/// Shows which mix is measured.
struct Shown<'a> {
    network: Network<'a>,
    bar: &'a ProgressBar,
    frames: u64,
}

impl Evaluate for Shown<'_> {
    fn evaluate(&mut self, mix: &Mix) -> centerpoint::error::Result<Measured> {
        let (int8, all) = (mix.int8_layers().count(), mix.len());
        self.bar.set_message(format!("frames, {int8} of {all} layers in INT8"));
        // The search takes as many as it takes.
        let missing = (self.bar.position() + self.frames).saturating_sub(self.bar.length().unwrap_or(0));
        self.bar.inc_length(missing);
        self.network.evaluate(mix)
    }
}
