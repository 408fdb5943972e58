//! A plan's manifest: its origin, its target, and measurements.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{PlanError, Quantization, TensorRtTarget};

/// A plan's origin, target and measurements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Program and version that wrote the plan, such as `centerpoint 0.1.0`.
    pub producer: String,
    /// The platform that runs the engine payload.
    pub target: Target,
    /// Sizes of the PFN's layers, in order.
    pub pfn: Vec<PfnShape>,
    /// SHA-256 of each input file, by file name.
    pub inputs: BTreeMap<String, String>,
    /// Steps that transformed the network, as a list for users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// How the network was quantised, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// Measured accuracy, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
}

/// The platform that runs an engine payload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `cpu` or `tensorrt`.
    pub engine: String,
    /// `fp32`, `fp16` or `int8`; `unknown` if another program built the engine.
    pub precision: String,
    /// Version of the payload's format, or of the library that built it.
    pub version: String,
    /// Details of a TensorRT engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensorrt: Option<TensorRtTarget>,
}

/// Sizes of one PFN layer's Linear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PfnShape {
    /// Columns of a row.
    pub in_features: usize,
    /// Outputs of a row.
    pub out_features: usize,
}

/// Accuracy on labelled frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    /// How it was measured, such as `nuScenes mAP, 500 frames`.
    pub metric: String,
    /// Mean average precision, 0..=1.
    pub mean_ap: f64,
    /// Average precision by class.
    pub ap: BTreeMap<String, f64>,
}

impl Accuracy {
    /// Reads the fields that a plan keeps from the output of `cp-build eval --format json`.
    ///
    /// # Errors
    /// [`PlanError::Accuracy`] if the file is not such an output.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        #[derive(Deserialize)]
        struct Scores {
            mean_ap: f64,
            mean_dist_aps: BTreeMap<String, f64>,
            metric: String,
        }
        let error = |what: String| PlanError::Accuracy {
            path: path.into(),
            what,
        };
        let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
        let scores: Scores = serde_json::from_slice(&bytes).map_err(|e| error(e.to_string()))?;
        Ok(Self {
            metric: scores.metric,
            mean_ap: scores.mean_ap,
            ap: scores.mean_dist_aps,
        })
    }
}
