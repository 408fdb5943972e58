//! Recipes: from a float network and frames to an INT8 network with measured accuracy.
//!
//! ```text
//! float network ─┬───────────────────── calibrate ─┐
//!                └─ equalize (by alpha) calibrate ─┴─ for each candidate: ranges ─ align background
//!                       ─ codes of weights ─ mean errors ─ bias correction ─ quantize ─ compile
//!                       ─ SQNR on held-out frames
//! ```
//!
//! | recipe | |
//! |---|---|
//! | `nvidia` | [`nvidia`]: the recipe of pytorch-quantization and the detectors that use it |
//! | `best` | the one of [`candidates`] with the highest [`Sqnr::figure`](super::sqnr::Sqnr::figure) |
//! | `custom` | the configuration as it is |
//! | `given` | the scales of [`Job::scales`], a network that is quantised already |
//!
//! The candidates of `best` have nearest codes; the chosen one is then rounded as the configuration says.
//!
//! Every k-th frame is held out of calibration, to measure on. Network, frames and configuration determine the
//! result to the last byte, for any number of threads. The network is calibrated only once for each alpha. Only
//! the current and the best candidate are in memory.

pub(crate) mod float;
mod frames;
mod given;
mod qat;
mod rounding;
mod split;
mod training;
mod workbench;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use self::workbench::Trial;
pub(crate) use self::workbench::Workbench;
use super::calibrate::{self, CalibrationError};
use super::config::{
    BiasCorrection, CalibrationConfig, CalibrationMethod, Cells, Config, ConfigError,
    ConfigOverrides, EqualizeConfig, PlacementConfig, Recipe, Rounding,
};
use super::folder::Folder;
use super::quantize::Quantized;
use super::{BuildError, Result};
use crate::model::Pfn;
use crate::plan::{Candidate, Quantization};
use crate::points::Layout;
use crate::program::Payload;

/// The recipe of NVIDIA's pytorch-quantization and of the detectors quantised with it. Activations use a
/// histogram of 2048 bins over all cells and the least mean squared error; weights use the greatest absolute
/// value per output channel; deconvolutions stay in float. No other techniques apply.
pub(crate) fn nvidia() -> Config {
    Config {
        recipe: Recipe::Nvidia,
        bias_correction: BiasCorrection::Off,
        calibration: CalibrationConfig {
            method: CalibrationMethod::Mse,
            cells: Cells::All,
            bins: calibrate::BINS,
            ..Default::default()
        },
        equalize: EqualizeConfig {
            alpha: 0.0,
            background: false,
        },
        placement: PlacementConfig {
            deconvolutions: false,
            ..PlacementConfig::default()
        },
        ..Config::default()
    }
}

/// Takes all scales as they are: no technique that would need others.
pub(crate) fn given() -> Config {
    let mut config = nvidia();
    config.recipe = Recipe::Given;
    config.placement.deconvolutions = true;
    config
}

/// The candidates of `best`, all with every convolution in INT8. These settings measured well on the demo model.
/// They cover several exponents, because channels are more uneven in some networks than in others. The last two
/// are common recipes, for comparison.
pub(crate) fn candidates() -> Vec<Config> {
    let candidate = |alpha, method, cells| Config {
        recipe: Recipe::Best,
        calibration: CalibrationConfig {
            method,
            cells,
            ..Default::default()
        },
        equalize: EqualizeConfig {
            alpha,
            ..EqualizeConfig::default()
        },
        ..Config::default()
    };
    let mut all = Vec::new();
    for alpha in [0.5, 0.3, 0.75, 0.0] {
        for (method, cells) in [
            (CalibrationMethod::Percentile, Cells::Occupied),
            (CalibrationMethod::Max, Cells::All),
            (CalibrationMethod::Mse, Cells::Occupied),
        ] {
            all.push(candidate(alpha, method, cells));
        }
    }
    for (alpha, method) in [(0.5, CalibrationMethod::Max), (0.0, CalibrationMethod::Mse)] {
        let mut common = candidate(alpha, method, Cells::All);
        common.equalize.background = false;
        common.bias_correction = BiasCorrection::Off;
        all.push(common);
    }
    all
}

/// A model to quantise, with frames and options.
pub struct Job<'a> {
    /// The float model.
    pub folder: &'a Folder,
    /// Frames to calibrate and measure on, in order.
    pub frames: &'a [PathBuf],
    /// Columns of the frames whose files do not name them; `None` uses the model's.
    pub layout: Option<Layout>,
    /// The user's options.
    pub overrides: &'a ConfigOverrides,
    /// Quantised model with the same network, whose scales the recipe `given` takes.
    pub scales: Option<&'a Folder>,
    /// Calibration file of the unmodified network: read if it exists, otherwise written.
    pub calibration: Option<&'a Path>,
    /// Trains after the quantisation, if the configuration says so.
    pub training: Option<&'a TrainingFiles<'a>>,
    /// Accept few or mixed frames and a large error, which are errors otherwise.
    pub allow_low_sqnr: bool,
    /// CPU threads; 0 is one per core.
    pub threads: usize,
}

/// What a training reads and writes beside the frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainingFiles<'a> {
    /// Labels of the frames, in the nuScenes format.
    pub labels: Option<&'a Path>,
    /// State of an interrupted training: read if the file exists, written at every measurement, removed at the end.
    pub state: Option<&'a Path>,
    /// Table of steps, rates, losses and figures to write, as CSV.
    pub log: Option<&'a Path>,
}

/// Smallest SQNR of a plan, in dB: at 10 dB the noise has a third of the signal's amplitude. Good plans have 20 and more.
const LEAST_SQNR: f64 = 10.0;

impl Job<'_> {
    /// Returns `problem` as an error, or warns of it if it is to be accepted.
    ///
    /// # Errors
    /// `problem`.
    pub(crate) fn accept(&self, problem: impl Into<BuildError> + Display) -> Result<()> {
        if !self.allow_low_sqnr {
            return Err(problem.into());
        }
        log::warn!("{problem}");
        Ok(())
    }
}

/// An INT8 network, ready for a plan.
pub struct Outcome {
    /// The Q/DQ network.
    pub quantized: Quantized,
    /// Its pillar feature network.
    pub pfn: Pfn,
    /// The CPU engine's payload.
    pub payload: Payload,
    /// Configuration and measurements, for the plan's manifest.
    pub record: Quantization,
    /// The transformations of the network, one line each.
    pub steps: Vec<String>,
    /// The steps of the training, if there was one: number, rate, loss, norm of the gradients, and the figure or NaN.
    pub steps_trained: Vec<[f64; 5]>,
}

/// Receives the progress of a long job.
pub trait Progress: Sync {
    /// Starts a step of `total` parts.
    fn begin(&self, step: &str, total: usize) {
        self.begin_at(step, 0, total);
    }
    /// Starts, or continues, a step of which `done` parts are complete.
    fn begin_at(&self, step: &str, done: usize, total: usize);
    /// Completes one part.
    fn advance(&self);
    /// Describes the state of the step.
    fn note(&self, _text: &str) {}
}

/// Runs the chosen recipe.
///
/// # Errors
/// `config::ConfigError` for invalid options, [`CalibrationError`] and [`crate::points::FrameError`] for
/// frames, [`BuildError`] for the network.
pub fn quantize(job: &Job<'_>, progress: &dyn Progress) -> Result<Outcome> {
    let configs = configs(job.overrides, job.scales.is_some())?;
    frames::check(job)?.map_or(Ok(()), |problem| job.accept(problem))?;
    let frames = configs.first().map(|c| c.frames.clone());
    let mut bench = Workbench::new(job, &frames.unwrap_or_default(), progress)?;
    let reference = bench.reference()?;
    if let (Some(first), None) = (configs.first(), &reference)
        && first.recipe == Recipe::Best
    {
        return Err(BuildError::from(ConfigError::Value {
            origin: format!("{} frames", job.frames.len()),
            key: "frames.held_out",
            found: first.frames.held_out.to_string(),
            expected: "at most the number of frames: the recipe `best` chooses by the error on \
                       held-out frames",
        }));
    }
    let mut best: Option<Trial> = None;
    let mut candidates = Vec::with_capacity(configs.len());
    let chosen_only = configs.len() > 1;
    for config in &configs {
        let mut config = config.clone();
        if chosen_only {
            // Other codes take minutes, and candidates differ in other things.
            config.weights.rounding = Rounding::Nearest;
        }
        let mut trial = bench.trial(&config)?;
        if let Some(reference) = &reference {
            let sqnr = bench.measure(&trial, reference)?;
            candidates.push(Candidate {
                name: config.label(),
                chosen: false,
                sqnr: sqnr.clone(),
            });
            trial.sqnr = Some(sqnr);
        }
        let figure = |t: &Trial| t.sqnr.as_ref().map_or(f64::NEG_INFINITY, |s| s.figure);
        // The first of equals wins.
        if best
            .as_ref()
            .is_none_or(|best| figure(&trial) > figure(best))
        {
            best = Some(trial);
        }
    }
    let Some(mut best) = best else {
        return Err(CalibrationError::NoFrames.into());
    };
    for candidate in &mut candidates {
        candidate.chosen = candidate.name == best.config.label();
    }
    let rounding = configs
        .first()
        .map_or(Rounding::Nearest, |c| c.weights.rounding);
    if best.config.weights.rounding != rounding {
        let mut config = best.config.clone();
        config.weights.rounding = rounding;
        best = bench.trial(&config)?;
        best.sqnr = match &reference {
            Some(reference) => Some(bench.measure(&best, reference)?),
            None => None,
        };
    }
    if let (Some(files), Some(qat)) = (job.training, best.config.qat.clone()) {
        best = bench.train(best, reference.as_ref(), &qat, files)?;
    }
    if let Some(sqnr) = best.sqnr.as_ref().filter(|sqnr| sqnr.figure < LEAST_SQNR) {
        job.accept(CalibrationError::LowSqnr {
            found: sqnr.figure,
            frames: sqnr.frames,
            least: LEAST_SQNR,
        })?;
    }
    if configs.len() == 1 {
        candidates.clear();
    }
    bench.finish(best, candidates)
}

/// The configurations to try. `scaled` says whether there are [`Job::scales`].
///
/// # Errors
/// [`ConfigError`] for invalid options, and for a recipe other than `given` with scales.
pub(crate) fn configs(overrides: &ConfigOverrides, scaled: bool) -> Result<Vec<Config>> {
    let recipe = overrides.recipe()?;
    let (found, expected) = match (recipe == Recipe::Given, scaled) {
        (true, false) => (
            "given",
            "another recipe, or the scales of a quantised folder (--scales)",
        ),
        (false, true) => ("another one with scales", "given"),
        _ => ("", ""),
    };
    if !found.is_empty() {
        return Err(training::need("options", "recipe", found, expected));
    }
    let mut configs: Vec<Config> = Vec::new();
    match recipe {
        Recipe::Nvidia => configs.push(overrides.apply_to_fixed(&nvidia())?),
        Recipe::Custom => configs.push(overrides.apply_to(&Config::default())?),
        Recipe::Given => configs.push(overrides.apply_to_fixed(&given())?),
        Recipe::Best => {
            for candidate in candidates() {
                let config = overrides.apply_to(&candidate)?;
                // Overrides can make candidates equal.
                if !configs.contains(&config) {
                    configs.push(config);
                }
            }
        }
    }
    Ok(configs)
}

#[cfg(test)]
mod tests;
