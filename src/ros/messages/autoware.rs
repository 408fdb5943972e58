//! `autoware_perception_msgs` and `autoware_internal_debug_msgs`: detected objects, and numbers with a time.
//!
//! Names and meanings are those of [autoware_msgs](https://github.com/autowarefoundation/autoware_msgs) and
//! [autoware_internal_msgs](https://github.com/autowarefoundation/autoware_internal_msgs).

use serde::{Deserialize, Serialize};

use super::geometry::{Polygon, PoseWithCovariance, TwistWithCovariance, Vector3};
use super::header::{Header, Time};

/// `autoware_perception_msgs/ObjectClassification`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectClassification {
    /// One of its constants.
    pub label: u8,
    /// Probability of the label, 0..=1.
    pub probability: f32,
}

impl ObjectClassification {
    /// Something.
    pub const UNKNOWN: u8 = 0;
    /// A car.
    pub const CAR: u8 = 1;
    /// A truck.
    pub const TRUCK: u8 = 2;
    /// A bus.
    pub const BUS: u8 = 3;
    /// A trailer.
    pub const TRAILER: u8 = 4;
    /// A motorcycle.
    pub const MOTORCYCLE: u8 = 5;
    /// A bicycle.
    pub const BICYCLE: u8 = 6;
    /// A pedestrian.
    pub const PEDESTRIAN: u8 = 7;
}

/// `autoware_perception_msgs/DetectedObjectKinematics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DetectedObjectKinematics {
    /// Where and how turned.
    pub pose_with_covariance: PoseWithCovariance,
    /// Whether the pose's covariance is known.
    pub has_position_covariance: bool,
    /// One of its constants.
    pub orientation_availability: u8,
    /// How it moves, in its own frame.
    pub twist_with_covariance: TwistWithCovariance,
    /// Whether the twist is known.
    pub has_twist: bool,
    /// Whether the twist's covariance is known.
    pub has_twist_covariance: bool,
}

impl DetectedObjectKinematics {
    /// The orientation says nothing.
    pub const UNAVAILABLE: u8 = 0;
    /// Front and back may be exchanged.
    pub const SIGN_UNKNOWN: u8 = 1;
    /// The orientation is known.
    pub const AVAILABLE: u8 = 2;
}

/// `autoware_perception_msgs/Shape`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// One of its constants; `type` in the definition.
    pub kind: u8,
    /// Outline on the ground, of polygons.
    pub footprint: Polygon,
    /// Length, width and height in metres.
    pub dimensions: Vector3,
}

impl Shape {
    /// A box.
    pub const BOUNDING_BOX: u8 = 0;
    /// A cylinder.
    pub const CYLINDER: u8 = 1;
    /// A polygon with a height.
    pub const POLYGON: u8 = 2;
}

/// `autoware_perception_msgs/DetectedObject`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DetectedObject {
    /// Confidence, 0..=1.
    pub existence_probability: f32,
    /// What it may be.
    pub classification: Vec<ObjectClassification>,
    /// Where it is and how it moves.
    pub kinematics: DetectedObjectKinematics,
    /// How large it is.
    pub shape: Shape,
}

/// `autoware_perception_msgs/DetectedObjects`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DetectedObjects {
    /// When and in which frame.
    pub header: Header,
    /// What was found.
    pub objects: Vec<DetectedObject>,
}

/// `autoware_internal_debug_msgs/Float64Stamped`: what Autoware's debug topics carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Float64Stamped {
    /// When.
    pub stamp: Time,
    /// The number.
    pub data: f64,
}
