//! `geometry_msgs`: places, rotations and motions. Metres, radians, seconds.

use serde::{Deserialize, Serialize};

use super::header::Header;

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

/// `geometry_msgs/Point`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Forward.
    pub x: f64,
    /// To the left.
    pub y: f64,
    /// Up.
    pub z: f64,
}

/// `geometry_msgs/Point32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point32 {
    /// Forward.
    pub x: f32,
    /// To the left.
    pub y: f32,
    /// Up.
    pub z: f32,
}

/// `geometry_msgs/Polygon`: corners in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Polygon {
    /// The corners.
    pub points: Vec<Point32>,
}

/// `geometry_msgs/Quaternion`: a rotation, its real part last.
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

/// `geometry_msgs/Pose`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pose {
    /// Where.
    pub position: Point,
    /// How turned.
    pub orientation: Quaternion,
}

/// A covariance of six values (x, y, z, and the rotations about them), row by row: `float64[36]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Covariance(pub [f64; 36]);

impl Default for Covariance {
    /// All 0, which says that it is not known.
    fn default() -> Self {
        Self([0.0; 36])
    }
}

/// Serde knows arrays of up to 32 values; this one goes as three times 12, which is the same in CDR.
type Rows = [[f64; 12]; 3];

impl Serialize for Covariance {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows: Rows = std::array::from_fn(|r| std::array::from_fn(|c| self.0[r * 12 + c]));
        rows.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Covariance {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = Rows::deserialize(deserializer)?;
        Ok(Self(std::array::from_fn(|i| rows[i / 12][i % 12])))
    }
}

/// `geometry_msgs/PoseWithCovariance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoseWithCovariance {
    /// Where and how turned.
    pub pose: Pose,
    /// Its uncertainty.
    pub covariance: Covariance,
}

/// `geometry_msgs/Twist`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Twist {
    /// Velocity in m/s.
    pub linear: Vector3,
    /// Rates of rotation in rad/s.
    pub angular: Vector3,
}

/// `geometry_msgs/TwistWithCovariance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TwistWithCovariance {
    /// The motion.
    pub twist: Twist,
    /// Its uncertainty.
    pub covariance: Covariance,
}

/// `geometry_msgs/Transform`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transform {
    /// Where the child's origin is in the parent.
    pub translation: Vector3,
    /// How the child is turned in the parent.
    pub rotation: Quaternion,
}

/// `geometry_msgs/TransformStamped`: where a frame is in its parent, `header.frame_id`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransformStamped {
    /// The parent frame, and when.
    pub header: Header,
    /// The child frame.
    pub child_frame_id: String,
    /// Child to parent.
    pub transform: Transform,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covariances_go_there_and_back() {
        let covariance = Covariance(std::array::from_fn(|i| i as f64));
        let text = serde_json::to_string(&covariance).unwrap();
        assert_eq!(
            serde_json::from_str::<Covariance>(&text).unwrap(),
            covariance
        );
    }

    #[test]
    fn yaw_is_a_rotation_about_z() {
        let quaternion = Quaternion::from_yaw(std::f64::consts::FRAC_PI_2);
        assert_eq!((quaternion.x, quaternion.y), (0.0, 0.0));
        let half = std::f64::consts::FRAC_1_SQRT_2;
        assert!((quaternion.z - half).abs() < 1e-15 && (quaternion.w - half).abs() < 1e-15);
    }
}
