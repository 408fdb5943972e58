//! Sensitivity: the error of each layer in INT8, and the fastest mix of INT8 and float layers within a budget.
//!
//! ```text
//! calibrate once ─ every layer alone in INT8 ─┬─ ranking
//!                  every layer left in float ─┴─ budget: leave out, put back ─ skip list
//! ```
//!
//! A *mix* states for every quantisable layer whether it is in INT8. [`Evaluate`] measures a mix; the real
//! implementation is in [`network`]. The [`report`] keeps every measurement, and its file is rewritten after each
//! one, so a later run with the same inputs continues where the first one stopped. The order of measurements
//! depends only on their results, so an interrupted and an uninterrupted run produce the same report.
//!
//! Metrics: nuScenes mAP (0 to 1) if there are labels, and always the signal-to-quantisation-noise ratio (SQNR,
//! dB) of the raw head outputs against the float network's (see [`super::sqnr`]).

pub(crate) mod budget;
pub(crate) mod network;
pub(crate) mod report;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use budget::{Cost, Goal};
pub use report::Report;

use self::budget::LayerCost;
use self::report::{QuantizableLayer, Recorder};
use crate::build::Result;

/// Which layers are in INT8, in the order of [`Report::layers`]. As text, one character per layer: `8` for INT8,
/// `f` for float.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mix(Vec<bool>);

impl Mix {
    /// All layers in INT8.
    pub fn int8(layers: usize) -> Self {
        Self(vec![true; layers])
    }

    /// All layers in float.
    pub fn float(layers: usize) -> Self {
        Self(vec![false; layers])
    }

    /// This mix with layer `index` in INT8 or in float.
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

    /// Whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether layer `index` is in INT8.
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
            _ => Err(format!("a mix consists of `8` and `f`, found `{c}`")),
        };
        text.chars()
            .map(layer)
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }
}

/// The measurement of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// nuScenes mAP, 0 to 1; only with labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ap: Option<f64>,
    /// SQNR over all cells in dB, from the mean noise-to-signal ratio of the outputs.
    pub all: f64,
    /// SQNR over object cells in dB, computed likewise.
    pub objects: f64,
}

impl Measurement {
    /// Noise power at object cells relative to the signal power.
    pub fn noise(&self) -> f64 {
        10_f64.powf(-self.objects / 10.0)
    }

    /// Loss of mAP against `float`, if both were measured; negative for a gain.
    pub fn drop_from(&self, float: &Measurement) -> Option<f64> {
        Some(float.mean_ap? - self.mean_ap?)
    }
}

/// Measures mixes.
pub(crate) trait Evaluate {
    /// Builds the network with the layers of `mix` in INT8 and measures it.
    ///
    /// # Errors
    /// If the network cannot be built or run.
    fn evaluate(&mut self, mix: &Mix) -> Result<Measurement>;
}

/// Measures the float network, all layers in INT8, each single layer in INT8, and each single layer in float.
///
/// # Errors
/// The first failed measurement.
pub(crate) fn ablate(layers: usize, measure: &mut dyn Evaluate) -> Result<()> {
    let (float, int8) = (Mix::float(layers), Mix::int8(layers));
    measure.evaluate(&float)?;
    measure.evaluate(&int8)?;
    for layer in 0..layers {
        measure.evaluate(&float.with(layer, true))?;
        measure.evaluate(&int8.with(layer, false))?;
    }
    Ok(())
}

/// What to do in addition to the ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// Search for the cheapest mix that meets this goal.
    pub goal: Option<Goal>,
    /// Cost of a layer in float, for the search.
    pub cost: Cost,
}

/// Makes all measurements that `report` lacks, searches for a mix if there is a goal, and ranks the layers. Writes
/// the report to `path`, if any, after each measurement.
///
/// # Errors
/// The first failed measurement, and the errors of [`budget::search`].
pub(crate) fn run(
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
        let cost = |layer: &QuantizableLayer| match (options.cost, layer.times_ms) {
            (Cost::Time, Some([float, int8])) => float - int8,
            _ => layer.macs as f64,
        };
        let costs = layers.iter().map(|layer| LayerCost {
            name: &layer.name,
            cost: cost(layer),
        });
        let costs: Vec<LayerCost<'_>> = costs.collect();
        let found = budget::search(&costs, goal, options.cost, &mut recorder)?;
        report.search = Some(found);
    }
    report.rank();
    match path {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

/// Why the analysis failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SensitivityError {
    /// The report of an earlier run could not be read.
    #[error("{path}: cannot read the report")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not a report.
    #[error("{path}: not a report of `cp-build sensitivity`: {what}; name another file")]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// The problem and its position.
        what: String,
    },
    /// The report was made with other inputs.
    #[error(
        "{path}: this report was made with other inputs: {}; use another `--out`, or delete the file to start \
         again",
        differences.join("; ")
    )]
    OtherInputs {
        /// The file.
        path: PathBuf,
        /// The differences, with both values.
        differences: Vec<String>,
    },
    /// A report to choose layers by is of another model.
    #[error("{path}: this report is of another model: {}; run `cp-build sensitivity` on this one", differences.join("; "))]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The differences, with both values.
        differences: Vec<String>,
    },
    /// A report to choose layers by lacks measurements.
    #[error("{path}: the report is incomplete; continue `cp-build sensitivity` with it as --out")]
    Incomplete {
        /// The file.
        path: PathBuf,
    },
    /// No layer of the network can be quantised.
    #[error(
        "{path}: no layer is left to quantise: the placement options and the skip list exclude all of them"
    )]
    NoLayers {
        /// The network's file.
        path: PathBuf,
    },
    /// A single frame to measure on.
    #[error(
        "one frame to measure on, where the differences between layers are those of this frame: name at least 8 frames (every \
         fourth is held out and measured), or accept it with --allow-low-sqnr"
    )]
    OneFrame,
    /// No frames to measure on.
    #[error(
        "no frame is left to measure on: all are used for calibration; calibrate on other frames, or set \
         `frames.held_out` in the configuration"
    )]
    NoFrames,
    /// Even the float network misses the goal.
    #[error("{0}")]
    Goal(String),
}

#[cfg(test)]
mod tests;
