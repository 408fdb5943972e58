//! Sensitivity: what each layer costs in INT8, and the fastest mix of INT8 and float layers within a
//! budget.
//!
//! ```text
//! calibrate once ─ every layer alone in INT8 ─┬─ ranking
//!                  every layer left in float ─┴─ budget: leave out, put back ─ skip list
//! ```
//!
//! A *mix* says of every layer that can be INT8 whether it is. What is measured of a mix comes from
//! [`Evaluate`] (the real one is [`network`]), and every measurement is kept in the [`report`], which is
//! written whole after each: a second run with the same inputs finds them there and goes on where
//! the first one stopped. The order of measurements is a function of their results, so that both
//! runs give the same report.
//!
//! Metrics: nuScenes mAP (0 to 1) where there are labels, and always the signal-to-noise ratio (SQNR,
//! dB) of the raw head outputs against the float network's (see [`super::sqnr`]).

pub mod budget;
pub mod network;
pub mod report;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use budget::{Cost, Goal};
pub use report::Report;

use self::budget::Candidate;
use self::report::Recorder;
use crate::error::Result;

/// Which layers are INT8, in the order of [`Report::layers`]. As text one character a layer: `8` for
/// INT8, `f` for float.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mix(Vec<bool>);

impl Mix {
    /// All of `layers` layers in INT8.
    pub fn int8(layers: usize) -> Self {
        Self(vec![true; layers])
    }

    /// All of `layers` layers in float.
    pub fn float(layers: usize) -> Self {
        Self(vec![false; layers])
    }

    /// This mix with layer `index` in INT8, or in float.
    #[must_use]
    pub fn with(&self, index: usize, int8: bool) -> Self {
        let mut mix = self.clone();
        if let Some(layer) = mix.0.get_mut(index) {
            *layer = int8;
        }
        mix
    }

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether layer `index` is INT8.
    pub fn is_int8(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }

    /// Indices of the layers in INT8.
    pub fn int8_layers(&self) -> impl Iterator<Item = usize> {
        let layers = self.0.iter().enumerate();
        layers.filter(|(_, int8)| **int8).map(|(index, _)| index)
    }

    /// Indices of the layers in float.
    pub fn float_layers(&self) -> impl Iterator<Item = usize> {
        let layers = self.0.iter().enumerate();
        layers.filter(|(_, int8)| !**int8).map(|(index, _)| index)
    }
}

impl From<Mix> for String {
    fn from(mix: Mix) -> Self {
        let layers = mix.0.iter();
        layers.map(|&int8| if int8 { '8' } else { 'f' }).collect()
    }
}

impl TryFrom<String> for Mix {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let layer = |c| match c {
            '8' => Ok(true),
            'f' => Ok(false),
            _ => Err(format!("a mix has `8` and `f`, found `{c}`")),
        };
        text.chars()
            .map(layer)
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }
}

/// What was measured of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// nuScenes mAP, 0 to 1; only where there are labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ap: Option<f64>,
    /// SQNR over all cells in dB; that of the mean of the outputs' noise in parts of their signal.
    pub all: f64,
    /// SQNR over object cells in dB, likewise.
    pub objects: f64,
}

impl Measured {
    /// Power of the noise at object cells, in parts of the signal's.
    pub fn noise(&self) -> f64 {
        10_f64.powf(-self.objects / 10.0)
    }

    /// mAP lost against `float`, where both were measured; below 0 where it rose.
    pub fn drop_from(&self, float: &Measured) -> Option<f64> {
        Some(float.mean_ap? - self.mean_ap?)
    }
}

/// Measures mixes.
pub trait Evaluate {
    /// Builds the network with the layers of `mix` in INT8 and measures it.
    ///
    /// # Errors
    /// What building or running it fails with.
    fn evaluate(&mut self, mix: &Mix) -> Result<Measured>;
}

/// Measures the float network, all layers in INT8, every layer alone in INT8, and every layer alone in
/// float, through `measure`.
///
/// # Errors
/// The first measurement that fails.
pub fn ablate(layers: usize, measure: &mut dyn Evaluate) -> Result<()> {
    let (float, int8) = (Mix::float(layers), Mix::int8(layers));
    measure.evaluate(&float)?;
    measure.evaluate(&int8)?;
    for layer in 0..layers {
        measure.evaluate(&float.with(layer, true))?;
        measure.evaluate(&int8.with(layer, false))?;
    }
    Ok(())
}

/// What to do besides the ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Search the cheapest mix that meets this.
    pub goal: Option<Goal>,
    /// What a layer in float costs the search.
    pub cost: Cost,
}

/// Measures all that is not in `report` yet and ranks the layers; then searches where a goal is given. The
/// report is written to `path`, if there is one, after each measurement.
///
/// # Errors
/// The first measurement that fails, and those of [`budget::search`].
pub fn run(
    report: &mut Report,
    path: Option<&Path>,
    options: &Options,
    measure: &mut dyn Evaluate,
) -> Result<()> {
    let layers = report.layers.clone();
    let mut recorder = Recorder {
        report,
        path,
        measure,
    };
    ablate(layers.len(), &mut recorder)?;
    if let Some(goal) = options.goal {
        let cost = |layer: &report::Layer| match (options.cost, layer.times_ms) {
            (Cost::Time, Some([float, int8])) => float - int8,
            _ => layer.macs as f64,
        };
        let candidates = layers.iter().map(|layer| Candidate {
            name: &layer.name,
            cost: cost(layer),
        });
        let candidates: Vec<Candidate<'_>> = candidates.collect();
        let found = budget::search(&candidates, goal, options.cost, &mut recorder)?;
        report.search = Some(found);
    }
    report.rank();
    match path {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SensitivityError {
    /// The report of an earlier run could not be read.
    #[error("{path}: cannot read the report: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is no report.
    #[error("{path}: no report of `cp-build sensitivity`: {what}; give another `--out`")]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// The file is the report of other inputs.
    #[error(
        "{path}: it was measured with other inputs: {}; give another `--out`, or delete it to begin anew",
        differences.join("; ")
    )]
    OtherInputs {
        /// The file.
        path: PathBuf,
        /// What differs, with both values.
        differences: Vec<String>,
    },
    /// No layer of the network can be INT8.
    #[error(
        "{path}: no layer is left to quantise: the placement's options and its skip list leave out all"
    )]
    NoLayers {
        /// The network's file.
        path: PathBuf,
    },
    /// Nothing to measure on.
    #[error(
        "no frame is left to measure on: all are calibrated on; give other frames to calibrate on, or set \
         `frames.held_out` in the configuration"
    )]
    NoFrames,
    /// A budget that the float network does not meet itself.
    #[error("{0}")]
    Goal(String),
}

#[cfg(test)]
mod tests;
