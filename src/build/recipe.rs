//! Recipes: from a float network and frames to the INT8 network, with its accuracy measured.
//!
//! ```text
//! float network ─┬───────────────────── calibrate ─┐
//!                └─ equalize (by alpha) calibrate ─┴─ for each candidate: ranges ─ align background
//!                       ─ mean errors ─ bias correction ─ quantize ─ compile ─ SQNR on held-out frames
//! ```
//!
//! | recipe | |
//! |---|---|
//! | `nvidia` | [`nvidia`]: what pytorch-quantization and the detectors that use it do |
//! | `best` | of [`candidates`] the one with the highest [`Sqnr::figure`](super::sqnr::Sqnr::figure) |
//! | `custom` | the configuration as it is |
//!
//! Every k-th frame is held out of calibration and measured on. Network, frames and configuration
//! decide the result to the last byte, whatever the number of threads. A network is calibrated once for
//! each alpha, whatever the number of candidates; one candidate at a time is in memory, beside the best.

mod bench;
mod split;

use std::path::{Path, PathBuf};

pub(crate) use self::bench::Bench;
use self::bench::Trial;
use super::calibrate::{self, CalibrationError};
use super::config::{
    BiasCorrection, Calibration, Cells, Config, ConfigError, Equalize, Given, Method, Placement,
    Recipe,
};
use super::folder::Folder;
use super::quantize::Quantized;
use super::{BuildError, Result as BuildResult};
use crate::error::Result;
use crate::model::Pfn;
use crate::plan::{Candidate, Quantization};
use crate::program::Payload;

/// The recipe of NVIDIA's pytorch-quantization and of the detectors that are quantised with it: a
/// histogram of 2048 bins over all cells and the least mean squared error for activations, the largest
/// weight per output channel, deconvolutions in float, and nothing else.
pub fn nvidia() -> Config {
    Config {
        recipe: Recipe::Nvidia,
        bias_correction: BiasCorrection::Off,
        calibration: Calibration {
            method: Method::Mse,
            cells: Cells::All,
            bins: calibrate::BINS,
            ..Default::default()
        },
        equalize: Equalize {
            alpha: 0.0,
            background: false,
        },
        placement: Placement {
            deconvolutions: false,
            ..Placement::default()
        },
        ..Config::default()
    }
}

/// What `best` chooses from, all with every convolution in INT8. The list is what measured well on the
/// demo model, at several exponents because networks differ in how uneven their channels are; the last
/// two are common recipes, for comparison.
pub fn candidates() -> Vec<Config> {
    let candidate = |alpha, method, cells| Config {
        recipe: Recipe::Best,
        calibration: Calibration {
            method,
            cells,
            ..Default::default()
        },
        equalize: Equalize {
            alpha,
            ..Equalize::default()
        },
        ..Config::default()
    };
    let mut all = Vec::new();
    for alpha in [0.5, 0.3, 0.75, 0.0] {
        for (method, cells) in [
            (Method::Percentile, Cells::Occupied),
            (Method::Max, Cells::All),
            (Method::Mse, Cells::Occupied),
        ] {
            all.push(candidate(alpha, method, cells));
        }
    }
    for (alpha, method) in [(0.5, Method::Max), (0.0, Method::Mse)] {
        let mut common = candidate(alpha, method, Cells::All);
        common.equalize.background = false;
        common.bias_correction = BiasCorrection::Off;
        all.push(common);
    }
    all
}

/// What is quantised, and how.
pub struct Job<'a> {
    /// The float model.
    pub folder: &'a Folder,
    /// Frames to calibrate and to measure on, in their order.
    pub frames: &'a [PathBuf],
    /// The options that were given.
    pub given: &'a Given,
    /// Calibration of the network as it is, to read, or to write if it is not there.
    pub calibration: Option<&'a Path>,
    /// CPU threads; 0 is one per core.
    pub threads: usize,
}

/// An INT8 network, ready for a plan.
pub struct Outcome {
    /// The Q/DQ network.
    pub quantized: Quantized,
    /// The pillar feature network that belongs to it.
    pub pfn: Pfn,
    /// The CPU engine's payload.
    pub payload: Payload,
    /// What was done and measured, for the plan's manifest.
    pub record: Quantization,
    /// What equalisation did, a line each.
    pub steps: Vec<String>,
}

/// Is told how far a long job is.
pub trait Progress: Sync {
    /// A step of `total` parts begins.
    fn begin(&self, step: &str, total: usize);
    /// One part is done.
    fn advance(&self);
}

/// Runs the recipe that was given.
///
/// # Errors
/// [`super::config::ConfigError`] for options that cannot be, [`CalibrationError`] and
/// [`crate::points::FrameError`] for frames, [`BuildError`] for the network.
pub fn run(job: &Job<'_>, progress: &dyn Progress) -> Result<Outcome> {
    let configs = configs(job.given)?;
    let frames = configs.first().map(|c| c.frames.clone());
    let mut bench = Bench::new(job, &frames.unwrap_or_default(), progress)?;
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
        })
        .into());
    }
    let mut best: Option<Trial> = None;
    let mut candidates = Vec::with_capacity(configs.len());
    for config in &configs {
        let mut trial = bench.trial(config)?;
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
        // The first of equals.
        if best
            .as_ref()
            .is_none_or(|best| figure(&trial) > figure(best))
        {
            best = Some(trial);
        }
    }
    let Some(best) = best else {
        return Err(CalibrationError::NoFrames.into());
    };
    for candidate in &mut candidates {
        candidate.chosen = candidate.name == best.config.label();
    }
    if configs.len() == 1 {
        candidates.clear();
    }
    bench.finish(best, candidates)
}

/// The configurations to try.
pub(crate) fn configs(given: &Given) -> BuildResult<Vec<Config>> {
    let recipe = given.recipe()?;
    let mut configs: Vec<Config> = Vec::new();
    match recipe {
        Recipe::Nvidia => configs.push(given.over_fixed(&nvidia())?),
        Recipe::Custom => configs.push(given.over(&Config::default())?),
        Recipe::Best => {
            for candidate in candidates() {
                let config = given.over(&candidate)?;
                // A given key makes candidates alike.
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
