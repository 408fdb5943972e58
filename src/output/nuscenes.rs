//! The nuScenes result format: what `synth` writes as labels, `cp-infer` as results, and `eval`
//! scores.
//!
//! `{"results": {sample_token: [box…]}}` with the field names of nuscenes-devkit's `DetectionBox`.
//! A sample without boxes is an empty list. Sizes are **width, length, height**; rotations are
//! quaternions w x y z.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A result file or a label file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Free-form remarks (`use_lidar`, how the file was made, …).
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// The boxes of each sample, by its token (the frame's file stem for our own frames).
    pub results: BTreeMap<String, Vec<SampleBox>>,
}

/// One box: a label, or a detection with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleBox {
    /// The sample that the box belongs to.
    pub sample_token: String,
    /// Centre x, y, z in metres.
    pub translation: [f64; 3],
    /// Width, length, height in metres.
    pub size: [f64; 3],
    /// Orientation as a unit quaternion w, x, y, z.
    pub rotation: [f64; 4],
    /// Velocity in m/s; `None` (JSON `null` or `NaN`) where it is not known.
    #[serde(default)]
    pub velocity: [Option<f64>; 2],
    /// Class name.
    pub detection_name: String,
    /// Confidence 0..=1; −1 for a label.
    #[serde(default = "label_score")]
    pub detection_score: f64,
    /// Attribute such as `vehicle.moving`; empty where there is none.
    #[serde(default)]
    pub attribute_name: String,
    /// Centre relative to the ego vehicle in metres; all zero in files that leave it out.
    #[serde(default)]
    pub ego_translation: [f64; 3],
    /// Lidar points inside the box; −1 where it is not known.
    #[serde(default = "unknown_points")]
    pub num_pts: i64,
}

fn label_score() -> f64 {
    -1.0
}

fn unknown_points() -> i64 {
    -1
}
