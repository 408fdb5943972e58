//! `sensor_msgs/PointCloud2` to a [`PointCloud`]: fields by name, any step, both byte orders.

use super::messages::PointCloud2;
use crate::points::{Extent, FieldType, PointCloud, RecordError, Records};

/// Reads `message` into `out`, replacing its columns and points. Skips fields with a count other than 1, an unknown
/// type or an unknown name.
///
/// # Errors
/// `RecordError` if x, y or z is missing, a field does not fit into a point, or the data are too short; `out` is then
/// unchanged.
pub fn read(message: &PointCloud2, out: &mut PointCloud) -> Result<(), RecordError> {
    let fields = message.fields.iter().filter(|field| field.count == 1);
    let fields = fields.filter_map(|field| {
        let kind = FieldType::from_ros(field.datatype)?;
        Some((field.name.as_str(), kind, field.offset as usize))
    });
    let records = Records::new(
        &Records::select_fields(fields),
        message.point_step as usize,
        message.is_bigendian,
    )?;
    let extent = Extent {
        width: message.width as usize,
        height: message.height as usize,
        row_step: message.row_step as usize,
    };
    records.read(&message.data, extent, out)
}

#[cfg(test)]
mod tests {
    use super::super::messages::PointField;
    use super::*;
    use crate::points::Layout;

    fn field(name: &str, offset: u32, datatype: u8, count: u32) -> PointField {
        PointField {
            name: name.into(),
            offset,
            datatype,
            count,
        }
    }

    /// Autoware's `PointXYZIRC`: 16 bytes, with one byte of intensity.
    fn message() -> PointCloud2 {
        let mut data = Vec::new();
        for (x, intensity) in [(1.0f32, 200u8), (2.0, 7)] {
            data.extend([x, x + 0.5, -x].iter().flat_map(|v| v.to_le_bytes()));
            data.extend([intensity, 1, 3, 0]);
        }
        PointCloud2 {
            height: 1,
            width: 2,
            fields: vec![
                field("x", 0, 7, 1),
                field("y", 4, 7, 1),
                field("z", 8, 7, 1),
                field("intensity", 12, 2, 1),
                field("return_type", 13, 2, 1),
                field("channel", 14, 4, 1),
            ],
            point_step: 16,
            row_step: 32,
            data,
            is_dense: true,
            ..PointCloud2::default()
        }
    }

    #[test]
    fn fields_are_found_by_name() {
        let mut cloud = PointCloud::empty(Layout::KITTI);
        read(&message(), &mut cloud).unwrap();
        assert_eq!(cloud.layout().to_string(), "x,y,z,intensity,ring");
        assert_eq!(
            cloud.data(),
            [1.0, 1.5, -1.0, 200.0, 3.0, 2.0, 2.5, -2.0, 7.0, 3.0]
        );
    }

    #[test]
    fn a_malformed_message_is_rejected_and_changes_nothing() {
        let broken: [fn(&mut PointCloud2); 7] = [
            |m| m.fields.retain(|field| field.name != "z"),
            |m| m.fields.clear(),
            |m| m.fields[0].count = 2,
            |m| m.fields[0].datatype = 9,
            |m| m.fields[3].offset = 16,
            |m| m.width = u32::MAX,
            |m| m.data.truncate(31),
        ];
        let mut cloud = PointCloud::empty(Layout::KITTI);
        read(&message(), &mut cloud).unwrap();
        let before = cloud.clone();
        for (number, break_it) in broken.iter().enumerate() {
            let mut message = message();
            break_it(&mut message);
            assert!(read(&message, &mut cloud).is_err(), "case {number}");
            assert_eq!(cloud, before, "case {number}");
        }
    }
}
