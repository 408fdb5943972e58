//! `foxglove.PointCloud` messages, which this program's own MCAP files have, as `sensor_msgs/PointCloud2`.

use foxglove::Decode;
use foxglove::messages::packed_element_field::NumericType;
use foxglove::messages::{PointCloud, Pose};

use super::messages::{Header, PointCloud2, PointField, Time};

/// Decodes a message; a cloud with a pose of its own is refused, because nothing here would apply it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<PointCloud2, String> {
    let cloud = PointCloud::decode(bytes).map_err(|error| error.to_string())?;
    if !cloud.pose.as_ref().is_none_or(is_identity) {
        return Err("the cloud has a pose of its own, which is not supported".into());
    }
    let stamp = cloud.timestamp.map_or(0, |t| {
        i64::from(t.sec()) * 1_000_000_000 + i64::from(t.nsec())
    });
    let fields = cloud.fields.iter().map(|field| PointField {
        name: field.name.clone(),
        offset: field.offset,
        datatype: datatype(field.r#type),
        count: 1,
    });
    let step = cloud.point_stride;
    let points = cloud.data.len().checked_div(step as usize).unwrap_or(0);
    Ok(PointCloud2 {
        header: Header {
            stamp: Time::from_nanoseconds(stamp),
            frame_id: cloud.frame_id,
        },
        height: 1,
        width: u32::try_from(points).map_err(|_| format!("{points} points"))?,
        fields: fields.collect(),
        is_bigendian: false,
        point_step: step,
        row_step: 0,
        data: cloud.data.to_vec(),
        is_dense: false,
    })
}

fn is_identity(pose: &Pose) -> bool {
    let still = pose.position.is_none_or(|p| [p.x, p.y, p.z] == [0.0; 3]);
    let straight = |q: foxglove::messages::Quaternion| [q.x, q.y, q.z] == [0.0; 3];
    still && pose.orientation.is_none_or(straight)
}

/// The number of `sensor_msgs/PointField` for a type; 0, which is none, if it is unknown.
fn datatype(kind: i32) -> u8 {
    match NumericType::try_from(kind) {
        Ok(NumericType::Int8) => 1,
        Ok(NumericType::Uint8) => 2,
        Ok(NumericType::Int16) => 3,
        Ok(NumericType::Uint16) => 4,
        Ok(NumericType::Int32) => 5,
        Ok(NumericType::Uint32) => 6,
        Ok(NumericType::Float32) => 7,
        Ok(NumericType::Float64) => 8,
        Ok(NumericType::Unknown) | Err(_) => 0,
    }
}
