//! The ROS 2 messages that the node publishes, as serde structs: the fields of the `.msg` files, in their order,
//! which is all that CDR needs.
//!
//! Names, units and meanings are those of ROS's
//! [common_interfaces](https://github.com/ros2/common_interfaces),
//! [vision_msgs](https://github.com/ros-perception/vision_msgs) 4 (Humble and later),
//! [autoware_msgs](https://github.com/autowarefoundation/autoware_msgs) and
//! [autoware_internal_msgs](https://github.com/autowarefoundation/autoware_internal_msgs): metres, radians, seconds.

use centerpoint::internals::bag::messages::{Header, Quaternion, Time, Vector3};
use serde::{Serialize, Serializer};

/// `geometry_msgs/Point`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) z: f64,
}

/// `geometry_msgs/Point32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Point32 {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) z: f32,
}

/// `geometry_msgs/Polygon`: corners in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Polygon {
    pub(crate) points: Vec<Point32>,
}

/// `geometry_msgs/Pose`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pose {
    pub(crate) position: Point,
    pub(crate) orientation: Quaternion,
}

/// The covariance of x, y, z and the rotations about them, row by row: `float64[36]`. All zeros mean unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Covariance(pub(crate) [f64; 36]);

impl Default for Covariance {
    fn default() -> Self {
        Self([0.0; 36])
    }
}

impl Serialize for Covariance {
    /// Serde implements arrays of up to 32 values. Three times 12 are the same bytes in CDR.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows: [[f64; 12]; 3] =
            std::array::from_fn(|r| std::array::from_fn(|c| self.0[r * 12 + c]));
        rows.serialize(serializer)
    }
}

/// `geometry_msgs/PoseWithCovariance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct PoseWithCovariance {
    pub(crate) pose: Pose,
    pub(crate) covariance: Covariance,
}

/// `geometry_msgs/Twist`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Twist {
    /// Velocity in m/s.
    pub(crate) linear: Vector3,
    /// Rotation rates in rad/s.
    pub(crate) angular: Vector3,
}

/// `geometry_msgs/TwistWithCovariance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct TwistWithCovariance {
    pub(crate) twist: Twist,
    pub(crate) covariance: Covariance,
}

/// `vision_msgs/ObjectHypothesis`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ObjectHypothesis {
    /// Name of the class.
    pub(crate) class_id: String,
    /// Confidence, 0..=1.
    pub(crate) score: f64,
}

/// `vision_msgs/ObjectHypothesisWithPose`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ObjectHypothesisWithPose {
    pub(crate) hypothesis: ObjectHypothesis,
    pub(crate) pose: PoseWithCovariance,
}

/// `vision_msgs/BoundingBox3D`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct BoundingBox3D {
    pub(crate) center: Pose,
    /// Length, width and height in metres.
    pub(crate) size: Vector3,
}

/// `vision_msgs/Detection3D`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Detection3D {
    pub(crate) header: Header,
    pub(crate) results: Vec<ObjectHypothesisWithPose>,
    pub(crate) bbox: BoundingBox3D,
    /// Identity over time; empty because nothing is tracked.
    pub(crate) id: String,
}

/// `vision_msgs/Detection3DArray`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Detection3DArray {
    pub(crate) header: Header,
    pub(crate) detections: Vec<Detection3D>,
}

/// `autoware_perception_msgs/ObjectClassification`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ObjectClassification {
    /// Index into [`AUTOWARE_LABELS`](centerpoint::model::AUTOWARE_LABELS).
    pub(crate) label: u8,
    /// Probability of the label, 0..=1.
    pub(crate) probability: f32,
}

/// `autoware_perception_msgs/DetectedObjectKinematics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct DetectedObjectKinematics {
    pub(crate) pose_with_covariance: PoseWithCovariance,
    pub(crate) has_position_covariance: bool,
    /// [`UNAVAILABLE`](Self::UNAVAILABLE) or [`SIGN_UNKNOWN`](Self::SIGN_UNKNOWN).
    pub(crate) orientation_availability: u8,
    /// The motion in the object's own frame.
    pub(crate) twist_with_covariance: TwistWithCovariance,
    pub(crate) has_twist: bool,
    pub(crate) has_twist_covariance: bool,
}

impl DetectedObjectKinematics {
    /// The orientation means nothing.
    pub(crate) const UNAVAILABLE: u8 = 0;
    /// Front and rear may be swapped.
    pub(crate) const SIGN_UNKNOWN: u8 = 1;
}

/// `autoware_perception_msgs/Shape`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Shape {
    /// `type` in the definition: [`Shape::BOUNDING_BOX`].
    pub(crate) shape_type: u8,
    /// Outline of a polygon on the ground.
    pub(crate) footprint: Polygon,
    /// Length, width and height in metres.
    pub(crate) dimensions: Vector3,
}

impl Shape {
    /// A box.
    pub(crate) const BOUNDING_BOX: u8 = 0;
}

/// `autoware_perception_msgs/DetectedObject`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct DetectedObject {
    /// Confidence, 0..=1.
    pub(crate) existence_probability: f32,
    pub(crate) classification: Vec<ObjectClassification>,
    pub(crate) kinematics: DetectedObjectKinematics,
    pub(crate) shape: Shape,
}

/// `autoware_perception_msgs/DetectedObjects`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct DetectedObjects {
    pub(crate) header: Header,
    pub(crate) objects: Vec<DetectedObject>,
}

/// `autoware_internal_debug_msgs/Float64Stamped`, the type of Autoware's debug topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Float64Stamped {
    pub(crate) stamp: Time,
    pub(crate) data: f64,
}

/// `diagnostic_msgs/KeyValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// `diagnostic_msgs/DiagnosticStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DiagnosticStatus {
    /// [`OK`](Self::OK), [`WARN`](Self::WARN) or [`ERROR`](Self::ERROR).
    pub(crate) level: u8,
    /// Node and component.
    pub(crate) name: String,
    pub(crate) message: String,
    /// The device that the status belongs to; the node's name here.
    pub(crate) hardware_id: String,
    pub(crate) values: Vec<KeyValue>,
}

impl DiagnosticStatus {
    /// Everything works.
    pub(crate) const OK: u8 = 0;
    /// Something is outside its limits.
    pub(crate) const WARN: u8 = 1;
    /// Something does not work.
    pub(crate) const ERROR: u8 = 2;
}

/// `diagnostic_msgs/DiagnosticArray`, the type of the topic `/diagnostics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DiagnosticArray {
    pub(crate) header: Header,
    pub(crate) status: Vec<DiagnosticStatus>,
}

/// `std_msgs/ColorRGBA`, each channel 0..=1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ColorRGBA {
    pub(crate) r: f32,
    pub(crate) g: f32,
    pub(crate) b: f32,
    /// Opacity.
    pub(crate) a: f32,
}

/// `sensor_msgs/CompressedImage`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct CompressedImage {
    pub(crate) header: Header,
    pub(crate) format: String,
    #[serde(with = "serde_bytes")]
    pub(crate) data: Vec<u8>,
}

/// `visualization_msgs/UVCoordinate`: a position in a texture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct UVCoordinate {
    pub(crate) u: f32,
    pub(crate) v: f32,
}

/// `visualization_msgs/MeshFile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct MeshFile {
    pub(crate) filename: String,
    #[serde(with = "serde_bytes")]
    pub(crate) data: Vec<u8>,
}

/// `visualization_msgs/Marker`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Marker {
    pub(crate) header: Header,
    /// Namespace of the id.
    pub(crate) ns: String,
    /// Unique within the namespace.
    pub(crate) id: i32,
    /// `type` in the definition: [`Marker::CUBE`] or [`Marker::TEXT_VIEW_FACING`].
    pub(crate) marker_type: i32,
    /// [`Marker::ADD`] or [`Marker::DELETEALL`].
    pub(crate) action: i32,
    pub(crate) pose: Pose,
    /// Size in metres.
    pub(crate) scale: Vector3,
    pub(crate) color: ColorRGBA,
    /// How long it stays; 0 is forever. `builtin_interfaces/Duration` has the fields of a time.
    pub(crate) lifetime: Time,
    /// Whether it moves with its frame.
    pub(crate) frame_locked: bool,
    /// Points of lists and strips.
    pub(crate) points: Vec<Point>,
    /// Their colours.
    pub(crate) colors: Vec<ColorRGBA>,
    pub(crate) texture_resource: String,
    pub(crate) texture: CompressedImage,
    pub(crate) uv_coordinates: Vec<UVCoordinate>,
    pub(crate) text: String,
    pub(crate) mesh_resource: String,
    pub(crate) mesh_file: MeshFile,
    pub(crate) mesh_use_embedded_materials: bool,
}

impl Marker {
    /// A box.
    pub(crate) const CUBE: i32 = 1;
    /// A text that faces the viewer.
    pub(crate) const TEXT_VIEW_FACING: i32 = 9;
    /// Add the marker, or replace the one with its namespace and id.
    pub(crate) const ADD: i32 = 0;
    /// Delete all markers of the topic.
    pub(crate) const DELETEALL: i32 = 3;
}

/// `visualization_msgs/MarkerArray`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct MarkerArray {
    pub(crate) markers: Vec<Marker>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_covariance_serializes_row_by_row() {
        let covariance = Covariance(std::array::from_fn(|i| i as f64));
        let rows = serde_json::to_value(covariance).unwrap();
        let values: Vec<f64> = serde_json::from_value::<[[f64; 12]; 3]>(rows)
            .unwrap()
            .concat();
        assert_eq!(values, covariance.0);
    }
}
