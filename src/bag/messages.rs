//! The ROS 2 messages that bags are read from, as serde structs: the fields of the `.msg` files, in their order,
//! which is all that CDR needs.
//!
//! Names, units and meanings are those of ROS's
//! [common_interfaces](https://github.com/ros2/common_interfaces): metres, radians, seconds.

use serde::{Deserialize, Serialize};

/// `builtin_interfaces/Time`: time since an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Seconds.
    pub sec: i32,
    /// Nanoseconds, 0 to 999 999 999.
    pub nanosec: u32,
}

impl Time {
    /// Converts `nanoseconds` since the epoch; saturates at the limits of `sec`.
    pub fn from_nanoseconds(nanoseconds: i64) -> Self {
        const SECOND: i64 = 1_000_000_000;
        match i32::try_from(nanoseconds.div_euclid(SECOND)) {
            Ok(sec) => Self {
                sec,
                nanosec: nanoseconds.rem_euclid(SECOND) as u32,
            },
            Err(_) if nanoseconds < 0 => Self {
                sec: i32::MIN,
                nanosec: 0,
            },
            Err(_) => Self {
                sec: i32::MAX,
                nanosec: 999_999_999,
            },
        }
    }

    /// Nanoseconds since the epoch.
    pub fn nanoseconds(self) -> i64 {
        i64::from(self.sec) * 1_000_000_000 + i64::from(self.nanosec)
    }
}

/// `std_msgs/Header`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When the data were measured.
    pub stamp: Time,
    /// The coordinate frame of the data.
    pub frame_id: String,
}

/// `sensor_msgs/PointField`: one field of a point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointField {
    /// Name.
    pub name: String,
    /// Byte offset from the start of the point.
    pub offset: u32,
    /// Type of its values: INT8 is 1, then UINT8, INT16, UINT16, INT32, UINT32, FLOAT32 (7), FLOAT64.
    pub datatype: u8,
    /// Number of values.
    pub count: u32,
}

/// `sensor_msgs/PointCloud2`: `height` rows of `width` points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointCloud2 {
    /// Time and coordinate frame.
    pub header: Header,
    /// Rows; 1 for an unordered cloud.
    pub height: u32,
    /// Points in a row.
    pub width: u32,
    /// The fields of a point.
    pub fields: Vec<PointField>,
    /// Whether numbers are big-endian.
    pub is_bigendian: bool,
    /// Bytes of a point.
    pub point_step: u32,
    /// Bytes of a row.
    pub row_step: u32,
    /// The points.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// Whether all points are finite.
    pub is_dense: bool,
}

/// `geometry_msgs/Vector3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vector3 {
    /// Along x.
    pub x: f64,
    /// Along y.
    pub y: f64,
    /// Along z.
    pub z: f64,
}

/// `geometry_msgs/Quaternion`: a rotation, real part last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quaternion {
    /// Imaginary, i.
    pub x: f64,
    /// Imaginary, j.
    pub y: f64,
    /// Imaginary, k.
    pub z: f64,
    /// Real.
    pub w: f64,
}

impl Default for Quaternion {
    /// No rotation.
    fn default() -> Self {
        Self {
            x: 0.0,
            y: 0.0,
            z: 0.0,
            w: 1.0,
        }
    }
}

impl Quaternion {
    /// The rotation by `yaw` about z.
    pub fn from_yaw(yaw: f64) -> Self {
        let (z, w) = (yaw * 0.5).sin_cos();
        Self {
            z,
            w,
            ..Self::default()
        }
    }
}

/// `geometry_msgs/Transform`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transform {
    /// The child's origin in the parent.
    pub translation: Vector3,
    /// The child's rotation in the parent.
    pub rotation: Quaternion,
}

/// `geometry_msgs/TransformStamped`: the pose of a frame in its parent, `header.frame_id`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransformStamped {
    /// Time and parent frame.
    pub header: Header,
    /// The child frame.
    pub child_frame_id: String,
    /// Child to parent.
    pub transform: Transform,
}

/// `tf2_msgs/TFMessage`, the type of the topics `/tf` and `/tf_static`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TFMessage {
    /// The transforms, one for each child.
    pub transforms: Vec<TransformStamped>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for nanoseconds in [
            0,
            1,
            -1,
            1_700_000_000_123_456_789,
            -5_000_000_000,
            i64::from(i32::MAX) * 1_000_000_000,
        ] {
            let time = Time::from_nanoseconds(nanoseconds);
            assert_eq!(time.nanoseconds(), nanoseconds);
            assert!(time.nanosec < 1_000_000_000);
        }
        assert_eq!(Time::from_nanoseconds(i64::MAX).sec, i32::MAX);
        assert_eq!(Time::from_nanoseconds(i64::MIN).sec, i32::MIN);
    }

    #[test]
    fn yaw_is_a_rotation_about_z() {
        let quaternion = Quaternion::from_yaw(std::f64::consts::FRAC_PI_2);
        assert_eq!((quaternion.x, quaternion.y), (0.0, 0.0));
        let half = std::f64::consts::FRAC_1_SQRT_2;
        assert!((quaternion.z - half).abs() < 1e-15 && (quaternion.w - half).abs() < 1e-15);
    }
}
