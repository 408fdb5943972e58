//! `cp-build qat`: from a float model folder and frames to an INT8 plan whose weights were trained in INT8.

use std::path::PathBuf;

use crate::build::config::{Config, QatConfig};
use crate::build::folder::Folder;
use crate::build::recipe::TrainingFiles;
use crate::build::sensitivity::Report;
use crate::cli::build::quantize::{self, Options, TrainingPaths};
use crate::draw::plot::{self, Panel, Panels, Plot};
use crate::plan::Training;

/// Arguments of `cp-build qat`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model folder (model.toml and two ONNX files).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    training: TrainingArgs,
}

/// How to train; flags override the table [qat] of --config.
#[derive(clap::Args)]
#[command(next_help_heading = "Training")]
struct TrainingArgs {
    /// Labels of the frames; without --loss, their loss is added to the distillation.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Compare the outputs with those of the float network, with labels, or with both [default: distil, with --labels both].
    #[arg(long, value_enum)]
    loss: Option<Loss>,
    /// Options of a known training: NVIDIA's CUDA-CenterPoint.
    #[arg(long, value_enum)]
    schedule: Option<ScheduleArg>,
    /// Weight of a loss on the map that all heads read, beside that of the outputs [default: 0].
    #[arg(long, value_name = "WEIGHT")]
    feature_weight: Option<f64>,
    /// Number of steps [default: 500].
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Frames of a step [default: 4].
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Greatest learning rate [default: 0.0001].
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// Rate of the activations' scales, relative to that of the weights; 0 keeps them [default: 0.1].
    #[arg(long, value_name = "FACTOR")]
    scale_rate: Option<f64>,
    /// Train only layers with this name; `*` matches any text.
    #[arg(long, value_name = "GLOB", conflicts_with = "sensitivity")]
    train_layers: Vec<String>,
    /// Train only the layers that this report of `cp-build sensitivity` finds least sensitive; see --train-share.
    #[arg(long, value_name = "FILE.json")]
    sensitivity: Option<PathBuf>,
    /// Share of the report's layers to train.
    #[arg(long, value_name = "0..1", default_value_t = 0.5, requires = "sensitivity", value_parser = share)]
    train_share: f64,
    /// Leave layers with this name as they are; `*` matches any text.
    #[arg(long, value_name = "GLOB")]
    freeze: Vec<String>,
    /// Train the pillar feature network, too.
    #[arg(long)]
    train_pfn: bool,
    /// Steps between two measurements on the held-out frames [default: 100].
    #[arg(long, value_name = "N")]
    check: Option<u32>,
    /// Stop after this many measurements without a better one; 0 never stops [default: 0].
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
    /// What to measure: the error against the float network, or the precision on labels [default: sqnr].
    #[arg(long, value_enum)]
    select: Option<Select>,
    /// Seed of the order of frames [default: 0].
    #[arg(long, value_name = "N")]
    train_seed: Option<u32>,
    /// State of an interrupted training: continued if the file exists, written at every measurement, removed at the end.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Write a table of all steps: rate, loss, norm of the gradients, measurements.
    #[arg(long, value_name = "FILE.csv")]
    log: Option<PathBuf>,
    /// Draw loss and measurements over the steps, as PNG or SVG by the extension.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Parses a share above 0 and at most 1.
fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.parse().ok();
    let share = share.filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Loss {
    /// The float network's outputs.
    Distil,
    /// Labelled boxes.
    Labels,
    /// The sum of both.
    Both,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ScheduleArg {
    /// Labels, one cycle of the rate, decay 0.01, fixed ranges.
    Nvidia,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Select {
    /// Signal-to-noise ratio.
    Sqnr,
    /// Mean average precision (nuScenes).
    Map,
}

/// Runs `cp-build qat`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let training = &args.training;
    let mut overrides = quantize::overrides(&args.options)?;
    let base = match training.schedule {
        Some(ScheduleArg::Nvidia) => Config::nvidia_training(),
        None => QatConfig::default(),
    };
    overrides.complete("qat", &base);
    let loss = training.loss.map(|loss| match loss {
        Loss::Distil => "distil",
        Loss::Labels => "labels",
        Loss::Both => "both",
    });
    let with_labels = training.labels.is_some() && training.schedule.is_none();
    if let Some(loss) = loss.or(with_labels.then_some("both")) {
        overrides.set("qat.loss", loss);
    }
    if let Some(select) = training.select {
        let name = match select {
            Select::Sqnr => "sqnr",
            Select::Map => "map",
        };
        overrides.set("qat.select", name);
    }
    if training.train_pfn {
        overrides.set("qat.train_pfn", true);
    }
    for (key, value) in [
        ("qat.steps", training.steps),
        ("qat.batch", training.batch),
        ("qat.check", training.check),
        ("qat.patience", training.patience),
        ("qat.seed", training.train_seed),
    ] {
        if let Some(value) = value {
            overrides.set(key, i64::from(value));
        }
    }
    for (key, value) in [
        ("qat.rate", training.rate),
        ("qat.scale_rate", training.scale_rate),
        ("qat.feature_weight", training.feature_weight),
    ] {
        if let Some(value) = value {
            overrides.set(key, value);
        }
    }
    for (key, globs) in [
        ("qat.train_layers", &training.train_layers),
        ("qat.freeze", &training.freeze),
    ] {
        if !globs.is_empty() {
            overrides.set(key, globs.clone());
        }
    }
    let paths = TrainingPaths {
        files: TrainingFiles {
            labels: training.labels.as_deref(),
            state: training.state.as_deref(),
            log: training.log.as_deref(),
        },
        plot: training.plot.as_deref(),
        sensitivity: training.sensitivity.as_deref(),
    };
    let mut folder = Folder::read(&args.model)?;
    if let Some(path) = &training.sensitivity {
        let report = Report::read(path, &folder.hashes()?)?;
        let layers = report.least_sensitive(training.train_share);
        overrides.set("qat.train_layers", layers);
    }
    let outcome = quantize::write(&mut folder, &args.options, &overrides, Some(paths))?;
    if let (Some(path), Some(training)) = (paths.plot, &outcome.record.training) {
        plot(training, &outcome.steps_trained).write(path)?;
    }
    Ok(())
}

/// Draws a training. `rows` are those of its table.
fn plot(training: &Training, rows: &[[f64; 5]]) -> Plot {
    let column = |i: usize| -> Vec<[f64; 2]> { rows.iter().map(|row| [row[0], row[i]]).collect() };
    let Training {
        frames,
        steps,
        figure,
        before,
        best,
        best_step,
        kept,
        layers,
    } = training;
    let title = format!(
        "Training of {} layers, {steps} steps on {frames} frames",
        layers.len()
    );
    let verdict = if *kept {
        format!("{figure} {before:.4} before (line), {best:.4} after step {best_step}")
    } else {
        format!("{figure} {before:.4} before (line), no better after any step")
    };
    let unit = if figure == "SQNR" { "SQNR dB" } else { figure };
    let (losses, figures) = (column(2), column(4));
    let panel = |y, points, dots, level| Panel {
        y,
        points,
        dots,
        level,
    };
    plot::panels(&Panels {
        title: &title,
        subtitle: &verdict,
        x: "step",
        panels: &[
            panel("loss", &losses, false, None),
            panel(unit, &figures, true, Some(*before)),
        ],
    })
}
