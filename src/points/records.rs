//! Points as drivers deliver them: records of any length with fields of any type at any offset.
//!
//! `sensor_msgs/PointCloud2`, a C caller's array of structs and IPC buffers have this form. The description is
//! checked once ([`Records::new`]); reading a cloud then only checks a length, and allocates nothing once the
//! cloud has the capacity.

use super::field::{self, FieldType, Values};
use super::{Column, Layout, LayoutError, MAX_POINTS, PointCloud};

/// A column's place in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The cloud's column.
    pub column: Column,
    /// Type of the values.
    pub kind: FieldType,
    /// Byte offset in the record.
    pub offset: usize,
}

/// A checked description of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Records {
    fields: Vec<Field>,
    layout: Layout,
    step: usize,
    big_endian: bool,
}

/// The number of records and their arrangement in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Records in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes from one row to the next, at least the row's records.
    pub row_step: usize,
}

impl Records {
    /// Describes records of `step` bytes; `fields` become the cloud's columns, in this order.
    ///
    /// # Errors
    /// [`RecordError::Layout`] if the columns do not form a layout, [`RecordError::Outside`] if a field ends
    /// past the record.
    pub(crate) fn new(
        fields: &[Field],
        step: usize,
        big_endian: bool,
    ) -> Result<Self, RecordError> {
        if let Some(&field) = fields.iter().find(|field| {
            let end = field.offset.checked_add(field.kind.size());
            end.is_none_or(|end| end > step)
        }) {
            return Err(RecordError::Outside { field, step });
        }
        let columns: Vec<Column> = fields.iter().map(|field| field.column).collect();
        Ok(Self {
            layout: Layout::new(&columns)?,
            fields: fields.to_vec(),
            step,
            big_endian,
        })
    }

    /// Selects the fields that map to a column from all fields of a record (name, type and byte offset). If
    /// several names map to one column (`intensity`, `i`, `reflectivity`), the first in this order wins,
    /// whatever the order of the fields; unknown names are skipped.
    pub(crate) fn select_fields<'a>(
        fields: impl IntoIterator<Item = (&'a str, FieldType, usize)>,
    ) -> Vec<Field> {
        let mut found: Vec<(Field, usize)> = Vec::new();
        for (name, kind, offset) in fields {
            let Some((column, rank)) = field::column_of(name, kind) else {
                continue;
            };
            let field = Field {
                column,
                kind,
                offset,
            };
            match found.iter_mut().find(|(other, _)| other.column == column) {
                Some(known) if rank < known.1 => *known = (field, rank),
                Some(_) => {}
                None => found.push((field, rank)),
            }
        }
        found.into_iter().map(|(field, _)| field).collect()
    }

    /// Columns of the resulting clouds.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Reads the records in `bytes` into `out`, replacing its layout and points.
    ///
    /// # Errors
    /// [`RecordError::TooMany`], or [`RecordError::Length`] if the extent needs more bytes than there are;
    /// `out` is unchanged.
    pub(crate) fn read(
        &self,
        bytes: &[u8],
        extent: Extent,
        out: &mut PointCloud,
    ) -> Result<(), RecordError> {
        let points = self.check(bytes.len(), extent)?;
        let columns = self.fields.len();
        out.layout = self.layout;
        out.notes.clear();
        out.data.clear();
        out.data.resize(points * columns, 0.0);
        if points == 0 {
            return Ok(());
        }
        let row = extent.width * self.step;
        let rows = out.data.chunks_exact_mut(extent.width * columns);
        // The row step of a single row is meaningless, and some drivers leave it 0.
        let row_step = if extent.height == 1 {
            row
        } else {
            extent.row_step
        };
        for (bytes, out) in bytes.chunks(row_step).zip(rows) {
            for (column, field) in self.fields.iter().enumerate() {
                let values = Values {
                    bytes: &bytes[field.offset..row],
                    step: self.step,
                    kind: field.kind,
                    big_endian: self.big_endian,
                };
                field::convert(values, out, column, columns);
            }
        }
        Ok(())
    }

    /// The number of points, if they fit into `bytes`.
    fn check(&self, bytes: usize, extent: Extent) -> Result<usize, RecordError> {
        let Extent {
            width,
            height,
            row_step,
        } = extent;
        let points = width as u128 * height as u128;
        if points > u128::from(MAX_POINTS) {
            return Err(RecordError::TooMany { width, height });
        }
        let row = width as u128 * self.step as u128;
        let needed = match height {
            0 => 0,
            _ => (height as u128 - 1) * row_step as u128 + row,
        };
        let overlap = height > 1 && (row_step as u128) < row;
        if points > 0 && (needed > bytes as u128 || overlap) {
            return Err(RecordError::Length {
                extent,
                step: self.step,
                bytes,
            });
        }
        Ok(points as usize)
    }
}

/// Records cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The fields do not form a layout.
    #[error("fields of the points")]
    Layout(#[from] LayoutError),
    /// A field ends past the record.
    #[error(
        "the field {} ({} bytes at offset {}) ends past the {step} bytes of a point",
        .field.column, .field.kind.size(), .field.offset
    )]
    Outside {
        /// The field.
        field: Field,
        /// Bytes of a record.
        step: usize,
    },
    /// Too many points.
    #[error("{width} × {height} points; the limit is {MAX_POINTS}")]
    TooMany {
        /// Records in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The records need more bytes than there are.
    #[error(
        "{} × {} points of {step} bytes, in rows of {} bytes, do not fit into {bytes} bytes",
        .extent.width, .extent.height, .extent.row_step
    )]
    Length {
        /// The claimed extent.
        extent: Extent,
        /// Bytes of a record.
        step: usize,
        /// Bytes available.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const XYZ: [Field; 3] = [
        field(Column::X, FieldType::F32, 4),
        field(Column::Y, FieldType::F32, 8),
        field(Column::Z, FieldType::F64, 12),
    ];

    const fn field(column: Column, kind: FieldType, offset: usize) -> Field {
        Field {
            column,
            kind,
            offset,
        }
    }

    fn record(point: [f32; 3], big_endian: bool) -> Vec<u8> {
        let [x, y, z] = point;
        let mut bytes = vec![0xAA; 4];
        if big_endian {
            bytes.extend([x, y].iter().flat_map(|v| v.to_be_bytes()));
            bytes.extend(f64::from(z).to_be_bytes());
        } else {
            bytes.extend([x, y].iter().flat_map(|v| v.to_le_bytes()));
            bytes.extend(f64::from(z).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn row_steps_and_byte_orders_are_followed() {
        for big_endian in [false, true] {
            let records = Records::new(&XYZ, 20, big_endian).unwrap();
            let mut bytes = Vec::new();
            for row in [[1.0, 2.0], [3.0, 4.0]] {
                for x in row {
                    bytes.extend(record([x, -x, 0.5], big_endian));
                }
                bytes.extend([0xFF; 3]);
            }
            let extent = Extent {
                width: 2,
                height: 2,
                row_step: 43,
            };
            let mut cloud = PointCloud::empty(Layout::KITTI);
            records.read(&bytes, extent, &mut cloud).unwrap();
            let expected: Vec<f32> = [1.0, 2.0, 3.0, 4.0]
                .iter()
                .flat_map(|&x| [x, -x, 0.5])
                .collect();
            assert_eq!(cloud.data(), expected);
            assert_eq!(cloud.layout().to_string(), "x,y,z");
            // The padding after the last row may be missing, but not the last record's last byte.
            records.read(&bytes[..83], extent, &mut cloud).unwrap();
            assert_eq!(cloud.data(), expected);
            let short = records.read(&bytes[..82], extent, &mut cloud).unwrap_err();
            assert!(
                matches!(short, RecordError::Length { bytes: 82, .. }),
                "{short}"
            );
        }
    }

    #[test]
    fn every_type_is_converted_to_f32() {
        let kinds: [(FieldType, Vec<u8>, f32); 10] = [
            (FieldType::F32, (-1.5f32).to_le_bytes().into(), -1.5),
            (FieldType::F64, (-1.5f64).to_le_bytes().into(), -1.5),
            (FieldType::I8, (-2i8).to_le_bytes().into(), -2.0),
            (FieldType::I16, (-2i16).to_le_bytes().into(), -2.0),
            (FieldType::I32, (-2i32).to_le_bytes().into(), -2.0),
            (FieldType::I64, (-2i64).to_le_bytes().into(), -2.0),
            (FieldType::U8, 255u8.to_le_bytes().into(), 255.0),
            (FieldType::U16, 65535u16.to_le_bytes().into(), 65535.0),
            (FieldType::U32, 70000u32.to_le_bytes().into(), 70000.0),
            (FieldType::U64, 70000u64.to_le_bytes().into(), 70000.0),
        ];
        for (kind, value, expected) in kinds {
            let mut fields = XYZ.to_vec();
            fields.push(field(Column::Intensity, kind, 20));
            let step = 20 + kind.size();
            let mut bytes = record([1.0, 2.0, 3.0], false);
            bytes.extend(value);
            let mut cloud = PointCloud::empty(Layout::KITTI);
            let extent = Extent {
                width: 1,
                height: 1,
                row_step: step,
            };
            let records = Records::new(&fields, step, false).unwrap();
            records.read(&bytes, extent, &mut cloud).unwrap();
            assert_eq!(cloud.data(), [1.0, 2.0, 3.0, expected], "{kind:?}");
            assert!(matches!(
                Records::new(&fields, step - 1, false),
                Err(RecordError::Outside { .. })
            ));
        }
    }

    #[test]
    fn extents_that_the_bytes_do_not_cover_are_rejected() {
        let records = Records::new(&XYZ, 20, false).unwrap();
        let mut cloud = PointCloud::empty(Layout::KITTI);
        let mut read = |bytes: usize, width, height, row_step| {
            let extent = Extent {
                width,
                height,
                row_step,
            };
            records.read(&vec![0; bytes], extent, &mut cloud)
        };
        assert_eq!(read(0, 0, 0, 0), Ok(()));
        assert_eq!(read(0, 0, 7, 0), Ok(()));
        assert_eq!(read(0, usize::MAX, 0, 0), Ok(()));
        assert!(matches!(
            read(20, usize::MAX, usize::MAX, usize::MAX),
            Err(RecordError::TooMany { .. })
        ));
        // Rows that would overlap.
        assert!(matches!(
            read(80, 2, 2, 39),
            Err(RecordError::Length { .. })
        ));
        assert_eq!(read(80, 2, 2, 40), Ok(()));
        // Drivers leave the row step of a cloud of one row at 0.
        assert_eq!(read(40, 2, 1, 0), Ok(()));
        assert!(matches!(
            read(79, 2, 2, 40),
            Err(RecordError::Length { .. })
        ));
        let missing = Records::new(&XYZ[..2], 20, false).unwrap_err();
        assert!(matches!(missing, RecordError::Layout(_)), "{missing}");
        let far = field(Column::X, FieldType::F32, usize::MAX);
        assert!(matches!(
            Records::new(&[far], 20, false),
            Err(RecordError::Outside { .. })
        ));
    }

    #[test]
    fn fields_are_selected_in_any_order() {
        let fields = Records::select_fields([
            ("reflectivity", FieldType::U16, 0),
            ("x", FieldType::F32, 4),
            ("time_stamp", FieldType::U32, 8),
            ("t", FieldType::U32, 8),
            ("intensity", FieldType::U8, 12),
            ("i", FieldType::U8, 13),
        ]);
        assert_eq!(
            fields,
            [
                field(Column::Intensity, FieldType::U8, 12),
                field(Column::X, FieldType::F32, 4),
            ]
        );
    }
}
