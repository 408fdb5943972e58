//! `cp-build eval`: scores a plan on labelled frames, or result files against labels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cli;
use crate::cli::input::InputArgs;
use crate::detection::Times;
use crate::detector::{Detector, Options};
use crate::eval::{EvalError, frames, nuscenes, report, t4};
use crate::results::nuscenes::Results;
use indicatif::ProgressBar;

/// Arguments of `cp-build eval`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("scored").required(true).args(["pred", "engine"]))]
pub(crate) struct Args {
    /// Result file to score, in the nuScenes format
    #[arg(long, value_name = "FILE", requires = "gt", conflicts_with_all = ["InputArgs", "labels", "score", "threads"])]
    pred: Option<PathBuf>,
    /// Label file to score --pred against, in the same format
    #[arg(long, value_name = "FILE", requires = "pred")]
    gt: Option<PathBuf>,
    /// Plan to run and score
    #[arg(long, alias = "plan", value_name = "FILE")]
    engine: Option<PathBuf>,
    /// The frames to run --engine on
    #[command(flatten)]
    input: InputArgs,
    /// Labels of the frames [default: labels.json in the folder of --pcd or next to it]
    #[arg(long, value_name = "FILE", requires = "engine")]
    labels: Option<PathBuf>,
    /// Score boxes with at least this score, instead of the plan's thresholds
    #[arg(long, value_name = "0..1", requires = "engine", allow_negative_numbers = true, value_parser = cli::score)]
    score: Option<f32>,
    /// CPU threads; 0 is one per core
    #[arg(long, value_name = "N", requires = "engine", default_value_t = 0)]
    threads: usize,
    /// Metric
    #[arg(long, value_enum, default_value_t)]
    metric: Metric,
    /// Classes to score [default: the plan's, or with --pred the metric's]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    classes: Vec<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, PartialEq, clap::ValueEnum)]
enum Metric {
    /// nuScenes detection: AP, true positive errors, NDS; ten classes
    #[default]
    Nuscenes,
    /// T4 (TIER IV): AP; car, truck, bus, bicycle, pedestrian
    T4,
}

#[derive(Clone, Copy, Default, PartialEq, clap::ValueEnum)]
enum Format {
    /// Aligned text
    #[default]
    Table,
    /// One JSON object with the devkit's keys
    Json,
}

/// Runs `cp-build eval`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let inputs = match (&args.pred, &args.gt, &args.engine) {
        (Some(pred), Some(gt), _) => read(pred, gt)?,
        (None, None, Some(plan)) => detect(plan, &args)?,
        _ => {
            let message = "pass --pred and --gt, or --engine and the frames";
            return Err(Error::Usage(message.into()));
        }
    };
    let classes = if args.classes.is_empty() {
        inputs.classes.as_deref()
    } else {
        Some(&*args.classes)
    };
    let scores = score(&inputs, args.metric, classes).map_err(|error| Error::Score {
        predictions: inputs.prediction_name.clone(),
        labels: inputs.label_name.clone(),
        source: Box::new(error),
    })?;
    warn(&inputs, &scores, args.classes.is_empty());
    let text = match args.format {
        Format::Table => scores.table + &report::times_table(&inputs.times),
        Format::Json => {
            let mut json = scores.json;
            json.extend(report::times_json(&inputs.times));
            // For `cp-build compile --accuracy`. The scores of files have only the devkit's keys.
            if args.engine.is_some() && args.metric == Metric::Nuscenes {
                let frames = inputs.labels.results.len();
                let metric = format!("nuScenes mAP on {frames} frames");
                json.insert("metric".into(), metric.into());
            }
            format!("{:#}\n", serde_json::Value::from(json))
        }
    };
    super::print(&text)
}

/// Labels and predictions, with their names for messages.
struct Inputs {
    labels: Results,
    label_name: String,
    predictions: Results,
    prediction_name: String,
    /// The plan's classes.
    classes: Option<Vec<String>>,
    /// Latency of each frame.
    times: Vec<Times>,
}

/// Reads both from files.
fn read(pred: &Path, gt: &Path) -> crate::Result<Inputs> {
    Ok(Inputs {
        labels: Results::read(gt)?,
        label_name: gt.display().to_string(),
        predictions: Results::read(pred)?,
        prediction_name: pred.display().to_string(),
        classes: None,
        times: vec![],
    })
}

/// Reads the labels and runs the plan on their frames.
fn detect(plan: &Path, args: &Args) -> crate::Result<Inputs> {
    args.input.check()?;
    let labels = match (&args.labels, args.input.pcd.first()) {
        (Some(labels), _) => labels.clone(),
        (None, Some(frames)) => frames::labels_path(frames),
        (None, None) => return Err(Error::Usage("name the labels with --labels".into())),
    };
    let options = args.input.apply(Options {
        threads: args.threads,
        score: args.score,
        stage_times: true,
        ..Options::default()
    });
    // Read now: an error after running all frames would waste the work.
    let read_labels = Results::read(&labels)?;
    let mut detector = Detector::load(plan, &options)?;
    let files = args.input.files(detector.model())?;
    let bar = ProgressBar::new(files.paths.len() as u64);
    let (paths, layout) = (&files.paths, args.input.layout);
    let run = frames::run(&mut detector, paths, layout, nuscenes::MAX_BOXES, || {
        bar.inc(1)
    })?;
    bar.finish_and_clear();
    Ok(Inputs {
        labels: read_labels,
        label_name: labels.display().to_string(),
        predictions: run.results,
        prediction_name: format!("{} on {} frames", plan.display(), files.paths.len()),
        classes: Some(detector.model().classes.clone()),
        times: run.times,
    })
}

/// Warns about inputs that the user may not have intended.
fn warn(inputs: &Inputs, scores: &Scores, default_classes: bool) {
    if default_classes && !scores.unscored.is_empty() {
        let counts = scores.unscored.iter();
        let counts: Vec<_> = counts
            .map(|(class, boxes)| format!("{class} ({boxes})"))
            .collect();
        log::warn!("ignored boxes of {}: see --classes", counts.join(", "));
    }
    if !scores.without_labels.is_empty() {
        let classes = scores.without_labels.join(", ");
        log::warn!("no labels for {classes}: each counts as AP 0; see --classes");
    }
    let (labels, predictions) = (&inputs.labels, &inputs.predictions);
    let has_distances = |r: &Results| r.boxes().any(|b| b.ego_translation != [0.0; 3]);
    for (name, these, those) in [
        (&inputs.label_name, labels, predictions),
        (&inputs.prediction_name, predictions, labels),
    ] {
        if these.boxes().next().is_some() && !has_distances(these) && has_distances(those) {
            log::warn!("{name}: no ego_translation, so its boxes count at any distance");
        }
    }
}

/// Scores in both formats, and the causes of warnings.
struct Scores {
    table: String,
    json: serde_json::Map<String, serde_json::Value>,
    unscored: BTreeMap<String, usize>,
    without_labels: Vec<String>,
}

/// Scores the inputs over `classes`, by default the metric's own.
fn score(inputs: &Inputs, metric: Metric, classes: Option<&[String]>) -> Result<Scores, EvalError> {
    let (labels, predictions) = (&inputs.labels, &inputs.predictions);
    match metric {
        Metric::Nuscenes => {
            let config = classes.map_or_else(nuscenes::Config::default, |classes| {
                nuscenes::Config::for_classes(classes.iter().map(String::as_str))
            });
            let metrics = nuscenes::evaluate(labels, predictions, &config)?;
            let without_labels = metrics.classes.iter().filter(|c| c.labels == 0);
            Ok(Scores {
                table: report::nuscenes_table(&metrics),
                json: metrics.to_json(),
                without_labels: without_labels.map(|c| c.name.clone()).collect(),
                unscored: metrics.unscored,
            })
        }
        Metric::T4 => {
            let mut config = t4::Config::default();
            if let Some(classes) = classes {
                config.classes = classes.to_vec();
            }
            let metrics = t4::evaluate(labels, predictions, &config)?;
            Ok(Scores {
                table: report::t4_table(&metrics),
                json: metrics.to_json(),
                // The mean excludes them, so there is nothing to warn about.
                without_labels: vec![],
                unscored: metrics.unscored,
            })
        }
    }
}
