//! `cp-build eval`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use centerpoint::eval::{EvalError, nuscenes, report, t4};
use centerpoint::output::nuscenes::Results;

/// Arguments of `cp-build eval`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("scored").required(true).args(["pred", "plan"]))]
pub(crate) struct Args {
    /// Result file to score, in the nuScenes format
    #[arg(long, value_name = "FILE", requires = "gt")]
    pred: Option<PathBuf>,
    /// Label file that --pred is scored against, in the same format
    #[arg(long, value_name = "FILE", requires = "pred")]
    gt: Option<PathBuf>,
    /// Plan to run and score
    #[arg(long, value_name = "FILE", requires = "frames")]
    plan: Option<PathBuf>,
    /// Folder with the frames (*.bin) that --plan is run on
    #[arg(long, value_name = "DIR", requires = "plan")]
    frames: Option<PathBuf>,
    /// Labels of the frames [default: labels.json in DIR or beside it]
    #[arg(long, value_name = "FILE", requires = "plan")]
    labels: Option<PathBuf>,
    /// Threads that the plan runs on [default: all cores]
    #[arg(long, value_name = "N", requires = "plan")]
    threads: Option<usize>,
    /// Metric
    #[arg(long, value_enum, default_value_t)]
    metric: Metric,
    /// Classes to score [default: the plan's; for --pred the metric's]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    classes: Vec<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Metric {
    /// nuScenes detection: AP, errors of the true positives, NDS; ten classes
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
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let (Some(pred), Some(gt)) = (&args.pred, &args.gt) else {
        anyhow::bail!("--plan: not built yet");
    };
    let (labels, predictions) = (Results::read(gt)?, Results::read(pred)?);
    let scores = score(&labels, &predictions, &args)
        .with_context(|| format!("cannot score {} against {}", pred.display(), gt.display()))?;
    if args.classes.is_empty() {
        for (class, boxes) in &scores.unscored {
            log::warn!("{boxes} boxes of class `{class}` are left out, name it in --classes");
        }
    }
    if !scores.without_labels.is_empty() {
        let classes = scores.without_labels.join(", ");
        log::warn!("no labels of {classes}: each counts as AP 0, name the others in --classes");
    }
    let has_distances = |r: &Results| r.boxes().any(|b| b.ego_translation != [0.0; 3]);
    for (path, these, those) in [(gt, &labels, &predictions), (pred, &predictions, &labels)] {
        if these.boxes().next().is_some() && !has_distances(these) && has_distances(those) {
            log::warn!(
                "{}: no ego_translation, its boxes count at any distance, the others' do not",
                path.display()
            );
        }
    }
    let text = match args.format {
        Format::Table => scores.table,
        Format::Json => format!("{:#}\n", scores.json),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Scores in both formats, and what to warn of.
struct Scores {
    table: String,
    json: serde_json::Value,
    unscored: BTreeMap<String, usize>,
    without_labels: Vec<String>,
}

/// Scores `predictions` by the metric and the classes that `args` asks for.
fn score(labels: &Results, predictions: &Results, args: &Args) -> Result<Scores, EvalError> {
    match args.metric {
        Metric::Nuscenes => {
            let names = args.classes.iter().map(String::as_str);
            let config = match args.classes.is_empty() {
                true => nuscenes::Config::default(),
                false => nuscenes::Config::for_classes(names),
            };
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
            if !args.classes.is_empty() {
                config.classes.clone_from(&args.classes);
            }
            let metrics = t4::evaluate(labels, predictions, &config)?;
            Ok(Scores {
                table: report::t4_table(&metrics),
                json: metrics.to_json(),
                // They are left out of the mean, so there is nothing to warn of.
                without_labels: vec![],
                unscored: metrics.unscored,
            })
        }
    }
}
