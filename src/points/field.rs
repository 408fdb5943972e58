//! Fields of a stored point: the columns that their names map to, and conversion of any number type to `f32`.

use half::f16;

use super::Column;

/// Type of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the documentation
pub enum FieldType {
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl FieldType {
    /// The type of a `sensor_msgs/PointField::datatype`: INT8 is 1, then UINT8, INT16, UINT16, INT32,
    /// UINT32, FLOAT32 (7), FLOAT64.
    pub fn from_ros(datatype: u8) -> Option<Self> {
        Some(match datatype {
            1 => Self::I8,
            2 => Self::U8,
            3 => Self::I16,
            4 => Self::U16,
            5 => Self::I32,
            6 => Self::U32,
            7 => Self::F32,
            8 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
}

/// The column that a field's name maps to, in any case, and the name's rank among those of the same column.
///
/// `t` and `time_lag` are the age of a point's sweep in seconds, and must be floats. `time`, `timestamp`,
/// `time_stamp` and an integer `t` (Ouster: nanoseconds) are clocks within the scan or since an epoch, never
/// ages.
pub(super) fn column_of(name: &str, kind: FieldType) -> Option<(Column, usize)> {
    Some(match name.to_ascii_lowercase().as_str() {
        "x" => (Column::X, 0),
        "y" => (Column::Y, 0),
        "z" => (Column::Z, 0),
        "intensity" => (Column::Intensity, 0),
        "i" => (Column::Intensity, 1),
        "reflectivity" => (Column::Intensity, 2),
        "ring" => (Column::Ring, 0),
        "channel" => (Column::Ring, 1),
        "laser" => (Column::Ring, 2),
        "elongation" => (Column::Elongation, 0),
        "t" if kind.is_float() => (Column::T, 0),
        "time_lag" if kind.is_float() => (Column::T, 1),
        _ => return None,
    })
}

/// Values of one field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    /// Starts at the first value.
    pub(super) bytes: &'a [u8],
    /// Bytes from one value to the next.
    pub(super) step: usize,
    pub(super) kind: FieldType,
    pub(super) big_endian: bool,
}

/// Writes `values` to the column `column` of `out`, whose rows have `columns` values.
pub(super) fn convert(values: Values<'_>, out: &mut [f32], column: usize, columns: usize) {
    fn each<const N: usize>(
        values: Values<'_>,
        out: std::slice::ChunksExactMut<'_, f32>,
        column: usize,
        number: impl Fn([u8; N]) -> f32,
    ) {
        for (value, row) in values.bytes.chunks(values.step).zip(out) {
            if let Some(&value) = value.first_chunk() {
                row[column] = number(value);
            }
        }
    }
    let out = out.chunks_exact_mut(columns);
    /// Calls `each` for the byte order of `values`.
    macro_rules! each {
        ($number:ty) => {
            each!($number, |value| value as f32)
        };
        ($number:ty, $to_f32:expr) => {
            if values.big_endian {
                each(values, out, column, |b| {
                    $to_f32(<$number>::from_be_bytes(b))
                })
            } else {
                each(values, out, column, |b| {
                    $to_f32(<$number>::from_le_bytes(b))
                })
            }
        };
    }
    match values.kind {
        FieldType::F16 => each!(f16, f16::to_f32),
        FieldType::F32 => each!(f32),
        FieldType::F64 => each!(f64),
        FieldType::I8 => each!(i8),
        FieldType::I16 => each!(i16),
        FieldType::I32 => each!(i32),
        FieldType::I64 => each!(i64),
        FieldType::U8 => each!(u8),
        FieldType::U16 => each!(u16),
        FieldType::U32 => each!(u32),
        FieldType::U64 => each!(u64),
    }
}
