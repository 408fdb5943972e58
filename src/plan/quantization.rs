//! What the manifest of an INT8 plan keeps of its making.

use serde::{Deserialize, Serialize};

use crate::build::calibrate::Key;
use crate::build::config::Config;
use crate::build::quantize::Quantizer;
use crate::build::sqnr::Sqnr;

/// How an INT8 network was made, and what it costs in accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// All options, those of the chosen candidate under the recipe `best`.
    pub config: Config,
    /// What the ranges were found on.
    pub calibration: Calibrated,
    /// Signal-to-noise ratio of the outputs on the held-out frames; `None` if none were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqnr: Option<Sqnr>,
    /// What the recipe `best` chose from; empty under the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// Layers that compute in INT8.
    pub int8: Vec<String>,
    /// Layers that compute in float.
    pub float: Vec<String>,
    /// Every quantised tensor with its range.
    pub quantizers: Vec<Quantizer>,
}

/// What ranges were found on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// Number of frames.
    pub frames: usize,
    /// SHA-256 of network, frames and options, as in the calibration's own file. The network is the
    /// equalised one, if it was.
    pub key: Key,
}

/// A configuration that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The options in which candidates differ; see [`Config::label`].
    pub name: String,
    /// Whether the plan was made by it.
    pub chosen: bool,
    /// Its accuracy.
    pub sqnr: Sqnr,
}
