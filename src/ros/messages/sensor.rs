//! `sensor_msgs`: point clouds.

use serde::{Deserialize, Serialize};

use super::header::Header;

/// `sensor_msgs/PointField`: where a field is in a point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointField {
    /// Its name.
    pub name: String,
    /// Byte offset from the begin of the point.
    pub offset: u32,
    /// Type of its values: INT8 is 1, then UINT8, INT16, UINT16, INT32, UINT32, FLOAT32 (7), FLOAT64.
    pub datatype: u8,
    /// Number of values.
    pub count: u32,
}

/// `sensor_msgs/PointCloud2`: `height` rows of `width` points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointCloud2 {
    /// When and in which frame.
    pub header: Header,
    /// Rows; 1 where points have no order.
    pub height: u32,
    /// Points in a row.
    pub width: u32,
    /// What a point is made of.
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
