//! `cp-build eval`.

use std::io::Write;
use std::path::PathBuf;

use centerpoint::eval::{nuscenes, report, t4};
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
    let text = score(&labels, &predictions, &args)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// The scores as text in the format that `args` asks for.
fn score(labels: &Results, predictions: &Results, args: &Args) -> anyhow::Result<String> {
    let names = args.classes.iter().map(String::as_str);
    let (json, table) = match args.metric {
        Metric::Nuscenes => {
            let config = match args.classes.is_empty() {
                true => nuscenes::Config::default(),
                false => nuscenes::Config::for_classes(names),
            };
            let metrics = nuscenes::evaluate(labels, predictions, &config)?;
            (metrics.to_json(), report::nuscenes_table(&metrics))
        }
        Metric::T4 => {
            let mut config = t4::Config::default();
            if !args.classes.is_empty() {
                config.classes = args.classes.clone();
            }
            let metrics = t4::evaluate(labels, predictions, &config)?;
            (metrics.to_json(), report::t4_table(&metrics))
        }
    };
    Ok(match args.format {
        Format::Table => table,
        Format::Json => format!("{json:#}\n"),
    })
}
