//! `cp-build train`: from a float model folder, frames and labels to a trained model folder.

use std::path::PathBuf;

use crate::build::export;
use crate::build::folder::{self, Folder};
use crate::build::recipe::float::{self, FloatConfig, FloatJob};
use crate::cli::build::progress::Bars;
use crate::cli::input::InputArgs;
use crate::plan::config::Curve;

/// Arguments of `cp-build train`.
///
/// Trains both networks of a model folder in float, on labelled frames, from the folder's weights or from nothing. The
/// networks keep their BatchNormalization, so the new folder can be trained on, quantised and compiled.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model folder (model.toml and two ONNX files).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The frames to train on; every 4th one is held out to measure on.
    #[command(flatten)]
    input: InputArgs,
    /// Labels of the frames, in the nuScenes format.
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// The model folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a model that is already in that folder.
    #[arg(long)]
    force: bool,
    /// Start with random weights.
    #[arg(long)]
    from_nothing: bool,
    /// Number of steps [default: 1000].
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Frames of a step [default: 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Frames that share the statistics of BatchNormalization; memory grows with it [default: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,
    /// Greatest learning rate [default: 0.0001, with --from-nothing 0.003].
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// How the rate changes over the steps.
    #[arg(long, value_enum, default_value_t)]
    curve: CurveArg,
    /// Leave scenes as they are, instead of flipping, turning, scaling and shifting them at random.
    #[arg(long)]
    no_augment: bool,
    /// Train only layers with this name, the PFN's are `pfn_layers.0` and so on; `*` matches any text.
    #[arg(long, value_name = "GLOB")]
    train_layers: Vec<String>,
    /// Leave layers with this name as they are; `*` matches any text.
    #[arg(long, value_name = "GLOB")]
    freeze: Vec<String>,
    /// Steps between two measurements on the held-out frames [default: 100].
    #[arg(long, value_name = "N")]
    check: Option<u32>,
    /// Stop after this many measurements without a better one; 0 never stops [default: 0].
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
    /// Hold every Nth frame out [default: 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    held_out: Option<u32>,
    /// Maximum number of frames [default: all].
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Seed of random weights, of the order of frames and of their moves [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// State of an interrupted training: continued if the file exists, written at every measurement, removed at the end.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Write a table of all steps: rate, loss, norm of the gradients, measurements.
    #[arg(long, value_name = "FILE.csv")]
    log: Option<PathBuf>,
    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum CurveArg {
    /// Up over a twentieth of the steps, then down as half a cosine.
    Cosine,
    /// Up over 40 % of the steps, then down, with the momentum the other way.
    #[default]
    OneCycle,
    /// The same at every step.
    Constant,
}

/// Runs `cp-build train`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    args.input.check()?;
    let [state, log] = [&args.state, &args.log].map(Option::as_ref);
    super::check_outputs(
        &[Some(&args.out), state, log],
        &args.model,
        args.input.paths().chain([args.labels.as_path()]),
    )?;
    let mut folder = Folder::read(&args.model)?;
    args.input.apply_to(&mut folder.model);
    // Fail now, not after the work.
    folder::make(&args.out, args.force)?;
    let frames = args.input.files(&folder.model)?;
    let config = config(&args);
    let bars = Bars::new();
    let job = FloatJob {
        folder: &folder,
        frames: &frames.paths,
        layout: args.input.layout,
        labels: &args.labels,
        config: &config,
        state: state.map(PathBuf::as_path),
        log: log.map(PathBuf::as_path),
        threads: args.threads,
    };
    let outcome = float::train(&job, &bars)?;
    bars.finish();
    export::write_trained(&folder, &outcome, &args.out)?;
    let result = &outcome.record.result;
    super::print(&format!(
        "{}: {} layers trained on {} frames, {}\n",
        args.out.display(),
        result.layers.len(),
        result.frames,
        super::verdict(result)
    ))
}

fn config(args: &Args) -> FloatConfig {
    let mut config = FloatConfig::new(args.from_nothing);
    let set = |to: &mut usize, from: Option<u32>| {
        if let Some(value) = from {
            *to = value as usize;
        }
    };
    set(&mut config.steps, args.steps);
    set(&mut config.batch, args.batch);
    set(&mut config.micro_batch, args.micro_batch);
    set(&mut config.check, args.check);
    set(&mut config.patience, args.patience);
    set(&mut config.frames.held_out, args.held_out);
    set(&mut config.frames.limit, args.limit);
    config.rate = args.rate.unwrap_or(config.rate);
    config.seed = args.seed.map_or(config.seed, u64::from);
    config.frames.seed = config.seed;
    config.curve = match args.curve {
        CurveArg::Cosine => Curve::Cosine,
        CurveArg::OneCycle => Curve::OneCycle,
        CurveArg::Constant => Curve::Constant,
    };
    config.augment = !args.no_augment;
    config.train_layers.clone_from(&args.train_layers);
    config.freeze.clone_from(&args.freeze);
    config
}
