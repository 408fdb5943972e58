//! `vision_msgs`: detections, as of version 4 (Humble and later).
//!
//! Names and meanings are those of [vision_msgs](https://github.com/ros-perception/vision_msgs).

use serde::{Deserialize, Serialize};

use super::geometry::{Pose, PoseWithCovariance, Vector3};
use super::header::Header;

/// `vision_msgs/ObjectHypothesis`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectHypothesis {
    /// Name of the class.
    pub class_id: String,
    /// Confidence, 0..=1.
    pub score: f64,
}

/// `vision_msgs/ObjectHypothesisWithPose`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectHypothesisWithPose {
    /// What it is.
    pub hypothesis: ObjectHypothesis,
    /// Where it is.
    pub pose: PoseWithCovariance,
}

/// `vision_msgs/BoundingBox3D`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoundingBox3D {
    /// Its centre.
    pub center: Pose,
    /// Its length, width and height in metres.
    pub size: Vector3,
}

/// `vision_msgs/Detection3D`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detection3D {
    /// When and in which frame.
    pub header: Header,
    /// What it may be.
    pub results: Vec<ObjectHypothesisWithPose>,
    /// Its box.
    pub bbox: BoundingBox3D,
    /// Name over time; empty where nothing is tracked.
    pub id: String,
}

/// `vision_msgs/Detection3DArray`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detection3DArray {
    /// When and in which frame.
    pub header: Header,
    /// What was found.
    pub detections: Vec<Detection3D>,
}
