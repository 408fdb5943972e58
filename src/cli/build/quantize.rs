//! `cp-build quantize`: from a float model folder and frames to an INT8 plan.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::build::BuildError;
use crate::build::config::{ConfigError, ConfigOverrides};
use crate::build::export;
use crate::build::folder::{self, Folder, Network};
use crate::build::recipe::{self, Job, Outcome, TrainingFiles};
use crate::files;
use crate::plan::{Accuracy, Candidate};

use crate::cli::build::progress::Bars;
use crate::cli::input::InputArgs;

/// Arguments of `cp-build quantize`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model folder (model.toml and two ONNX files).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// Everything but the model folder.
#[derive(Default, clap::Args)]
pub(super) struct Options {
    /// The frames to calibrate on; by default, every 4th one is held out to measure on.
    #[command(flatten)]
    pub(super) input: InputArgs,
    /// The plan to write.
    #[arg(long, value_name = "FILE.plan")]
    pub(super) out: PathBuf,
    /// Recipe: that of NVIDIA's tools, the best of several candidates, or the configuration [default: the
    /// recipe in --config, or best without --config].
    #[arg(long, value_enum)]
    pub(super) recipe: Option<RecipeArg>,
    /// Configuration file (quantize.toml); flags override its keys.
    #[arg(long, value_name = "FILE.toml")]
    pub(super) config: Option<PathBuf>,
    /// Take the scales of this quantised model folder, whose float network is --model, instead of calibrating.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["recipe", "method", "percentile", "cells", "equalize", "bias_correction", "weight_bits", "deconvolution_scale", "calibration"],
    )]
    pub(super) scales: Option<PathBuf>,
    /// Keep layers with this name in float; `*` matches any text.
    #[arg(long, value_name = "GLOB")]
    pub(super) skip: Vec<String>,
    /// Calibration method: max, mse, entropy or percentile.
    #[arg(long, value_name = "NAME")]
    pub(super) method: Option<String>,
    /// Percentile for --method percentile, in percent.
    #[arg(long, value_name = "PERCENT")]
    pub(super) percentile: Option<f64>,
    /// Cells to calibrate over: all or occupied.
    #[arg(long, value_name = "NAME")]
    pub(super) cells: Option<String>,
    /// Strength of cross-layer equalisation, from 0 (off) to 1.
    #[arg(long, value_name = "0..1")]
    pub(super) equalize: Option<f64>,
    /// Cells for bias correction: off, all, occupied or background.
    #[arg(long, value_name = "NAME")]
    pub(super) bias_correction: Option<String>,
    /// Bits of the weights' codes, 8 or 4; BITS=GLOB sets those of layers with this name, and 8 wins.
    #[arg(long, value_name = "BITS[=GLOB]")]
    pub(super) weight_bits: Vec<String>,
    /// One scale for each deconvolution's weight, instead of one for each output channel.
    #[arg(long)]
    pub(super) deconvolution_scale: bool,
    /// How to choose the codes of weights: nearest, gptq or adaround.
    #[arg(long, value_name = "NAME")]
    pub(super) rounding: Option<String>,
    /// Maximum number of frames.
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<u32>,
    /// Seed for choosing --limit frames.
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u32>,
    /// Calibration of the float network: read if the file exists, otherwise written.
    #[arg(long, value_name = "FILE.calib.json")]
    pub(super) calibration: Option<PathBuf>,
    /// Also write a model folder with Q/DQ pairs, to compile for other targets or to run in ONNX Runtime.
    #[arg(long, value_name = "DIR")]
    pub(super) onnx: Option<PathBuf>,
    /// Replace a model that is already in that folder.
    #[arg(long, requires = "onnx")]
    pub(super) force: bool,
    /// Measured accuracy to store in the plan: the output of `cp-build eval --plan --format json`.
    #[arg(long, value_name = "FILE.json")]
    pub(super) accuracy: Option<PathBuf>,
    /// Write the plan even if the frames are few or differ, or if its error is large.
    #[arg(long)]
    pub(super) allow_low_sqnr: bool,
    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) threads: usize,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum RecipeArg {
    /// Histograms with MSE, deconvolutions in float.
    Nvidia,
    /// The candidate with the least error on held-out frames.
    Best,
    /// The configuration as it is.
    Custom,
}

/// Runs `cp-build quantize`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    quantize(&mut Folder::read(&args.model)?, &args.options)
}

/// Quantises a model and writes its plan.
pub(super) fn quantize(folder: &mut Folder, args: &Options) -> crate::Result<()> {
    let mut overrides = overrides(args)?;
    // A configuration may serve `cp-build qat`, too.
    overrides.remove("qat");
    write(folder, args, &overrides, None)?;
    Ok(())
}

/// What a training reads and writes.
#[derive(Clone, Copy, Default)]
pub(super) struct TrainingPaths<'a> {
    pub(super) files: TrainingFiles<'a>,
    /// Picture of the training, which the caller of [`write`] writes.
    pub(super) plot: Option<&'a Path>,
    /// Report that chose the layers to train.
    pub(super) sensitivity: Option<&'a Path>,
}

/// Quantises a model, trains it if `training` is set, and writes its plan.
pub(super) fn write(
    folder: &mut Folder,
    args: &Options,
    overrides: &ConfigOverrides,
    training: Option<TrainingPaths<'_>>,
) -> crate::Result<Outcome> {
    let accuracy = args.accuracy.as_deref().map(Accuracy::read).transpose()?;
    args.input.check()?;
    let TrainingPaths {
        files,
        plot,
        sensitivity,
    } = training.unwrap_or_default();
    let options = args
        .config
        .iter()
        .chain(&args.accuracy)
        .map(PathBuf::as_path)
        .chain(files.labels)
        .chain(sensitivity)
        .chain(args.scales.as_deref());
    let written = [files.state, files.log, plot];
    let [state, log, picture] = written.map(|path| path.map(Path::to_path_buf));
    super::check_outputs(
        &[
            Some(&args.out),
            args.calibration.as_ref(),
            state.as_ref(),
            log.as_ref(),
            picture.as_ref(),
        ],
        folder.path(),
        args.input.paths().chain(options),
    )?;
    args.input.apply_to(&mut folder.model);
    if !folder.is_quantized() {
        // Quantised models are refused for what they are.
        super::check_outputs(&[args.onnx.as_ref(), Some(&args.out)], folder.path(), None)?;
    }
    if let Some(dir) = &args.onnx {
        // Fail now, not after the work.
        folder::make(dir, args.force)?;
    }
    let frames = args.input.files(&folder.model)?;
    let scales = args.scales.as_deref().map(Folder::read).transpose()?;
    let bars = Bars::new();
    let job = Job {
        folder,
        frames: &frames.paths,
        layout: args.input.layout,
        overrides,
        scales: scales.as_ref(),
        calibration: args.calibration.as_deref(),
        training: training.is_some().then_some(&files),
        allow_low_sqnr: args.allow_low_sqnr,
        threads: args.threads,
    };
    let outcome = recipe::quantize(&job, &bars)?;
    bars.finish();
    for warning in &outcome.quantized.warnings {
        log::warn!("{warning}");
    }
    if let Some(dir) = &args.onnx {
        export::write_quantized(folder, &outcome, dir)?;
    }
    let mut steps = folder.steps();
    steps.extend(outcome.steps.iter().cloned());
    let network = Network {
        payload: &outcome.payload,
        pfn: &outcome.pfn,
        steps,
        quantization: Some(outcome.record.clone()),
    };
    folder.write_cpu(&args.out, network, accuracy)?;
    super::print(&summary(&args.out, &outcome)?)?;
    Ok(outcome)
}

/// The options of the configuration file, overridden by flags.
pub(super) fn overrides(args: &Options) -> crate::Result<ConfigOverrides> {
    let mut overrides = match &args.config {
        Some(path) => ConfigOverrides::read(path)?,
        None => ConfigOverrides::default(),
    };
    let recipe = args.recipe.map(|recipe| match recipe {
        RecipeArg::Nvidia => "nvidia",
        RecipeArg::Best => "best",
        RecipeArg::Custom => "custom",
    });
    // Without --recipe and --config, the default is `best`.
    let recipe = recipe.or(args.config.is_none().then_some("best"));
    let recipe = args.scales.as_ref().map(|_| "given").or(recipe);
    if let Some(recipe) = recipe {
        overrides.set("recipe", recipe);
    }
    let texts = [
        ("calibration.method", &args.method),
        ("calibration.cells", &args.cells),
        ("bias_correction", &args.bias_correction),
        ("weights.rounding", &args.rounding),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            overrides.set(key, value.as_str());
        }
    }
    let numbers = [
        ("calibration.percentile", args.percentile),
        ("equalize.alpha", args.equalize),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            overrides.set(key, value);
        }
    }
    for (key, value) in [("frames.limit", args.limit), ("frames.seed", args.seed)] {
        if let Some(value) = value {
            overrides.set(key, i64::from(value));
        }
    }
    if !args.skip.is_empty() {
        overrides.set("placement.skip", args.skip.clone());
    }
    if args.deconvolution_scale {
        overrides.set("weights.deconvolution_scales", "tensor");
    }
    weight_bits(&args.weight_bits, &mut overrides)?;
    Ok(overrides)
}

/// Sets the bits of weights: `4` for all layers, `4=GLOB` for some.
fn weight_bits(args: &[String], overrides: &mut ConfigOverrides) -> crate::Result<()> {
    let mut globs = [("4", "weights.four_bits"), ("8", "weights.eight_bits")]
        .map(|(bits, key)| (bits, key, Vec::new()));
    for arg in args {
        let (bits, glob) = match arg.split_once('=') {
            Some((bits, glob)) => (bits, Some(glob)),
            None => (arg.as_str(), None),
        };
        let Some((_, _, known)) = globs.iter_mut().find(|(known, ..)| *known == bits) else {
            return Err(BuildError::from(ConfigError::Value {
                origin: "command line".to_owned(),
                key: "weights.bits",
                found: arg.clone(),
                expected: "4 or 8, or 4=GLOB or 8=GLOB",
            })
            .into());
        };
        match glob {
            Some(glob) => known.push(glob.to_owned()),
            None => overrides.set("weights.bits", if bits == "4" { 4 } else { 8 }),
        }
    }
    for (_, key, globs) in globs {
        if !globs.is_empty() {
            overrides.set(key, globs);
        }
    }
    Ok(())
}

fn summary(out: &Path, outcome: &Outcome) -> crate::Result<String> {
    let mut text = String::new();
    let record = &outcome.record;
    if !record.candidates.is_empty() {
        table(&mut text, &record.candidates)?;
    }
    let bytes = files::len(out)?;
    let (int8, float) = (record.int8.len(), record.float.len());
    write!(
        text,
        "{}: cpu int8, {int8} layers in INT8, {float} in float",
        out.display()
    )?;
    if let Some(sqnr) = &record.sqnr {
        write!(
            text,
            ", SQNR {:.1} dB on {} frames",
            sqnr.figure, sqnr.frames
        )?;
    }
    writeln!(text, ", {:.2} MB", bytes as f64 / 1e6)?;
    if let Some(training) = &record.training {
        let (count, frames) = (training.layers.len(), training.frames);
        let verdict = super::verdict(training);
        writeln!(
            text,
            "training: {count} layers on {frames} frames, {verdict}"
        )?;
    }
    writeln!(text, "options: {}", record.config.label())?;
    Ok(text)
}

/// The candidates, best first.
fn table(text: &mut String, candidates: &[Candidate]) -> std::fmt::Result {
    let mut candidates: Vec<&Candidate> = candidates.iter().collect();
    candidates.sort_by(|a, b| b.sqnr.figure.total_cmp(&a.sqnr.figure));
    let width = candidates.iter().map(|c| c.name.len()).max().unwrap_or(0);
    writeln!(text, "{:width$}  SQNR dB", "candidate")?;
    for candidate in candidates {
        let chosen = if candidate.chosen { "  <- chosen" } else { "" };
        let figure = candidate.sqnr.figure;
        writeln!(text, "{:width$}  {figure:7.2}{chosen}", candidate.name)?;
    }
    writeln!(text)
}
