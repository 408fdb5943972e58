//! The manifest's record of how an INT8 network was quantised.

use serde::{Deserialize, Serialize};

use crate::build::calibrate::Key;
use crate::build::config::Config;
use crate::build::quantize::Quantizer;
use crate::build::sqnr::Sqnr;

/// How an INT8 network was quantised, and its accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// All options; with the recipe `best`, those of the chosen candidate.
    pub config: Config,
    /// The data that determined the ranges.
    pub calibration: Calibrated,
    /// Signal-to-noise ratio of the outputs on the held-out frames; `None` if none were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqnr: Option<Sqnr>,
    /// The candidates of the recipe `best`; empty for other recipes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// Layers that compute in INT8.
    pub int8: Vec<String>,
    /// Layers that compute in float.
    pub float: Vec<String>,
    /// All quantised tensors with their ranges.
    pub quantizers: Vec<Quantizer>,
}

/// The data that determined ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// Number of frames.
    pub frames: usize,
    /// SHA-256 of the network, frames and options, as in the calibration file. The network is the equalised one, if
    /// equalisation was applied.
    pub key: Key,
}

/// A configuration that was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The options that distinguish candidates; see [`Config::label`].
    pub name: String,
    /// Whether the plan uses it.
    pub chosen: bool,
    /// Its accuracy.
    pub sqnr: Sqnr,
}
