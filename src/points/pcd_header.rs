//! The checked text header of a `.pcd` file: fields with their offsets, number of points and encoding. Source:
//! the Point Cloud Library's "The PCD file format", version 0.7.
//!
//! The header's numbers allocate nothing; only its own lines are kept.

use std::io::{BufRead, Read};

use super::field::{FieldType, column_of};
use super::lzf::LzfError;
use super::{Column, LayoutError, MAX_POINTS};

/// Longest header that is read, in bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// Most fields of a point.
const MAX_FIELDS: usize = 256;

/// A `.pcd` file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PcdError {
    /// An I/O error while reading.
    #[error("cannot read the frame")]
    Io(#[from] std::io::Error),
    /// The file is not a PCD, or ends within its header.
    #[error("no PCD header with a DATA line in the first 64 KiB; is this a .pcd file?")]
    NoDataLine,
    /// A header line is missing.
    #[error("the PCD header has no line {0}")]
    MissingLine(&'static str),
    /// A header line has an invalid value.
    #[error("PCD {line}: expected {expected}, found `{found}`")]
    Value {
        /// Keyword of the line.
        line: &'static str,
        /// The valid values.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// POINTS and WIDTH × HEIGHT disagree.
    #[error("PCD POINTS is {points}, but WIDTH × HEIGHT is {width} × {height}")]
    Points {
        /// POINTS.
        points: u64,
        /// WIDTH.
        width: u64,
        /// HEIGHT.
        height: u64,
    },
    /// More points than a frame may have.
    #[error("{0} points; the limit is {MAX_POINTS}")]
    TooManyPoints(u64),
    /// A coordinate is missing.
    #[error("no field {column}, which is required; the file's fields are {fields}")]
    MissingField {
        /// The coordinate.
        column: Column,
        /// All fields, with commas.
        fields: String,
    },
    /// The fields do not form a layout.
    #[error("PCD FIELDS")]
    Fields(#[from] LayoutError),
    /// The body's length does not match the header.
    #[error("{points} points need {expected} bytes after the header, but the file has {found}")]
    Length {
        /// Points according to the header.
        points: usize,
        /// Bytes they need; "at least …" for ASCII.
        expected: String,
        /// Bytes after the header.
        found: u64,
    },
    /// An ASCII body is not UTF-8.
    #[error("the ascii body is not text: {0}")]
    NotText(std::str::Utf8Error),
    /// An ASCII line has too few or too many values.
    #[error("point {point}: the line has {found} values, but FIELDS and COUNT make {expected}")]
    Values {
        /// Index of the point, from 0.
        point: usize,
        /// Values according to the header.
        expected: usize,
        /// Values on the line.
        found: usize,
    },
    /// An ASCII value is not a number.
    #[error("point {point}, field {field}: `{text}` is not a number")]
    Number {
        /// Index of the point, from 0.
        point: usize,
        /// Name of the field.
        field: String,
        /// The invalid text, shortened.
        text: String,
    },
    /// An ASCII body has fewer lines than the header claims.
    #[error("the header claims {expected} points, but the file has {found}")]
    Count {
        /// Points according to the header.
        expected: usize,
        /// Lines in the file.
        found: usize,
    },
    /// A compressed body is invalid.
    #[error(transparent)]
    Lzf(#[from] LzfError),
}

impl PcdError {
    pub(super) fn value(line: &'static str, expected: &str, found: &str) -> PcdError {
        PcdError::Value {
            line,
            expected: expected.to_owned(),
            found: shortened(found),
        }
    }
}

/// At most 40 characters of `text`, for a message.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// How the points are stored after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Ascii,
    Binary,
    Compressed,
}

/// The type named by TYPE and SIZE.
fn field_type(kind: &str, size: &str) -> Option<FieldType> {
    Some(match (kind, size) {
        ("F", "4") => FieldType::F32,
        ("F", "8") => FieldType::F64,
        ("I", "1") => FieldType::I8,
        ("I", "2") => FieldType::I16,
        ("I", "4") => FieldType::I32,
        ("I", "8") => FieldType::I64,
        ("U", "1") => FieldType::U8,
        ("U", "2") => FieldType::U16,
        ("U", "4") => FieldType::U32,
        ("U", "8") => FieldType::U64,
        _ => return None,
    })
}

/// A field that becomes a column of the cloud. All others are skipped.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PcdField {
    pub(super) column: Column,
    pub(super) name: String,
    pub(super) kind: FieldType,
    /// Byte offset in a point.
    pub(super) offset: usize,
    /// Index among a point's values, which is its position on an ASCII line.
    pub(super) index: usize,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    /// The fields that become columns, in the file's order.
    pub(super) fields: Vec<PcdField>,
    /// Bytes of a point, including skipped fields.
    pub(super) stride: usize,
    /// Values of a point, including skipped fields.
    pub(super) values: usize,
    /// Number of points.
    pub(super) points: usize,
    pub(super) encoding: Encoding,
    /// Names of the skipped fields.
    pub(super) unused: Vec<String>,
    /// The pose that VIEWPOINT has, unless it is the identity.
    pub(super) viewpoint: Option<String>,
    /// Bytes of the header itself.
    pub(super) bytes: u64,
}

/// The header's lines, each without its keyword.
#[derive(Default)]
struct Lines {
    fields: Option<String>,
    size: Option<String>,
    kind: Option<String>,
    count: Option<String>,
    width: Option<String>,
    height: Option<String>,
    points: Option<String>,
    viewpoint: Option<String>,
}

impl Header {
    /// Reads up to and including the `DATA` line.
    pub(super) fn parse(reader: &mut impl BufRead) -> Result<Header, PcdError> {
        let mut reader = reader.take(MAX_HEADER_BYTES);
        let mut lines = Lines::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Err(PcdError::NoDataLine);
            }
            let text = std::str::from_utf8(&line).map_err(|_| PcdError::NoDataLine)?;
            let text = text.trim();
            let (key, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let slot = match key {
                "FIELDS" | "COLUMNS" => &mut lines.fields,
                "SIZE" => &mut lines.size,
                "TYPE" => &mut lines.kind,
                "COUNT" => &mut lines.count,
                "WIDTH" => &mut lines.width,
                "HEIGHT" => &mut lines.height,
                "POINTS" => &mut lines.points,
                "VIEWPOINT" => &mut lines.viewpoint,
                "DATA" => {
                    let bytes = MAX_HEADER_BYTES - reader.limit();
                    return Header::check(&lines, rest.trim(), bytes);
                }
                _ if key.is_empty() || key.starts_with('#') => continue,
                "VERSION" => continue,
                _ => return Err(PcdError::value("header", "a keyword of PCD 0.7", key)),
            };
            if slot.is_some() {
                return Err(PcdError::value("header", "each keyword once", text));
            }
            *slot = Some(rest.to_owned());
        }
    }

    fn check(lines: &Lines, data: &str, bytes: u64) -> Result<Header, PcdError> {
        let encoding = match data {
            "ascii" => Encoding::Ascii,
            "binary" => Encoding::Binary,
            "binary_compressed" => Encoding::Compressed,
            other => {
                let expected = "ascii, binary or binary_compressed";
                return Err(PcdError::value("DATA", expected, other));
            }
        };
        let points = points(lines)?;
        let (fields, unused, stride, values) = fields(lines)?;
        Ok(Header {
            fields,
            unused,
            viewpoint: lines.viewpoint.clone().filter(|text| !is_identity(text)),
            stride,
            values,
            points,
            encoding,
            bytes,
        })
    }
}

/// The number of points from POINTS and WIDTH × HEIGHT, which must agree if both are given.
fn points(lines: &Lines) -> Result<usize, PcdError> {
    let number = |key, line: &Option<String>| match line {
        None => Ok(None),
        Some(text) => match text.trim().parse::<u32>() {
            Ok(value) => Ok(Some(u64::from(value))),
            Err(_) => Err(PcdError::value(key, "a whole number below 2^32", text)),
        },
    };
    let width = number("WIDTH", &lines.width)?;
    let height = number("HEIGHT", &lines.height)?;
    let claimed = number("POINTS", &lines.points)?;
    let points = match (width, height, claimed) {
        (Some(width), Some(height), Some(points)) if width * height != points => {
            return Err(PcdError::Points {
                points,
                width,
                height,
            });
        }
        (_, _, Some(points)) => points,
        (Some(width), Some(height), None) => width * height,
        _ => return Err(PcdError::MissingLine("POINTS (or WIDTH and HEIGHT)")),
    };
    if points > MAX_POINTS {
        return Err(PcdError::TooManyPoints(points));
    }
    Ok(points as usize)
}

/// Whether a pose of 7 numbers (x y z, quaternion w x y z) moves nothing.
fn is_identity(viewpoint: &str) -> bool {
    let numbers = viewpoint.split_whitespace().map(str::parse::<f32>);
    numbers.eq([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0].map(Ok))
}

/// The fields that become columns, in the file's order; the names of the others, the bytes of a point and its number
/// of values.
#[allow(clippy::type_complexity)]
fn fields(lines: &Lines) -> Result<(Vec<PcdField>, Vec<String>, usize, usize), PcdError> {
    let required = |key, line: &Option<String>| line.clone().ok_or(PcdError::MissingLine(key));
    let names = required("FIELDS", &lines.fields)?;
    let sizes = required("SIZE", &lines.size)?;
    let kinds = required("TYPE", &lines.kind)?;
    let total = names.split_whitespace().count();
    if !(1..=MAX_FIELDS).contains(&total) {
        return Err(PcdError::value(
            "FIELDS",
            "1 to 256 names",
            &total.to_string(),
        ));
    }
    for (key, line) in [
        ("SIZE", Some(&sizes)),
        ("TYPE", Some(&kinds)),
        ("COUNT", lines.count.as_ref()),
    ] {
        let found = line.map_or(total, |line| line.split_whitespace().count());
        if found != total {
            let expected = format!("{total} values, one for each field");
            return Err(PcdError::value(key, &expected, &found.to_string()));
        }
    }
    let counts = lines.count.as_deref().unwrap_or_default();
    let counts = counts.split_whitespace().chain(std::iter::repeat("1"));

    let mut found: Vec<(PcdField, usize)> = Vec::new();
    let (mut stride, mut values) = (0u64, 0u64);
    let described = names
        .split_whitespace()
        .zip(sizes.split_whitespace())
        .zip(kinds.split_whitespace())
        .zip(counts);
    for (((name, size), kind), count) in described {
        let Some(kind) = field_type(kind, size) else {
            let text = format!("{kind} {size} of field `{name}`");
            return Err(PcdError::value(
                "TYPE and SIZE",
                "F 4, F 8, or I or U of 1, 2, 4 or 8",
                &text,
            ));
        };
        let Some(count) = count.parse::<u32>().ok().filter(|&count| count > 0) else {
            let text = format!("{count} of field `{name}`");
            return Err(PcdError::value(
                "COUNT",
                "a whole number from 1 to 2^32 − 1",
                &text,
            ));
        };
        // A field of several values, such as a histogram, is no column.
        if let Some((column, rank)) = column_of(name, kind).filter(|_| count == 1) {
            let field = PcdField {
                column,
                name: name.to_owned(),
                kind,
                offset: stride as usize,
                index: values as usize,
            };
            match found.iter().position(|(other, _)| other.column == column) {
                None => found.push((field, rank)),
                Some(at) if found[at].1 == rank => {
                    return Err(PcdError::value("FIELDS", "each field once", name));
                }
                // If several names map to one column, the one with the lowest rank wins.
                Some(at) if rank < found[at].1 => {
                    found.remove(at);
                    found.push((field, rank));
                }
                Some(_) => {}
            }
        }
        // At most 256 × 2^32 × 8, far below 2^64.
        stride += kind.size() as u64 * u64::from(count);
        values += u64::from(count);
    }
    let fields: Vec<PcdField> = found.into_iter().map(|(field, _)| field).collect();
    if let Some(column) = Column::missing_from(fields.iter().map(|field| field.column)) {
        return Err(PcdError::MissingField {
            column,
            fields: names.split_whitespace().collect::<Vec<_>>().join(","),
        });
    }
    let unused = names.split_whitespace().map(str::to_owned);
    let unused = unused.filter(|name| fields.iter().all(|field| field.name != *name));
    let unused = unused.collect();
    Ok((fields, unused, stride as usize, values as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Header, PcdError> {
        Header::parse(&mut text.as_bytes())
    }

    /// A header of `fields` ("name type size count" each) over 6 points.
    fn with(fields: &[&str]) -> String {
        let part = |at: usize| {
            let parts = fields.iter().map(|f| f.split(' ').nth(at).unwrap());
            parts.collect::<Vec<_>>().join(" ")
        };
        format!(
            "# .PCD v0.7\nVERSION 0.7\nFIELDS {}\nSIZE {}\nTYPE {}\nCOUNT {}\nWIDTH 3\nHEIGHT 2\n\
             VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 6\nDATA binary\n",
            part(0),
            part(2),
            part(1),
            part(3)
        )
    }

    const XYZ: [&str; 3] = ["x F 4 1", "y F 4 1", "z F 4 1"];

    fn columns(extra: &[&str]) -> Vec<(Column, usize, usize)> {
        let header = parse(&with(&[&XYZ, extra].concat())).unwrap();
        let fields = header.fields.iter();
        fields
            .map(|f| (f.column, f.offset, f.index))
            .skip(3)
            .collect()
    }

    #[test]
    fn fields_are_found_by_name_and_offsets_include_skipped_ones() {
        use Column::*;
        assert_eq!(
            columns(&["_ U 1 4", "normal F 4 3", "intensity U 1 1", "ring U 2 1"]),
            [(Intensity, 28, 10), (Ring, 29, 11)]
        );
        let text = with(&XYZ);
        let header = parse(&text).unwrap();
        assert_eq!((header.stride, header.values, header.points), (12, 3, 6));
        assert_eq!(header.encoding, Encoding::Binary);
        assert_eq!(header.bytes, text.len() as u64);
        // COUNT may be left out, as may POINTS or both of WIDTH and HEIGHT; lines may end in \r\n.
        for without in ["COUNT", "POINTS", "WIDTH", "VERSION"] {
            let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with(without)).collect();
            let again = parse(&(lines.join("\r\n") + "\r\n")).unwrap();
            assert_eq!(again.fields, header.fields);
            assert_eq!(again.points, 6, "{without}");
        }
    }

    #[test]
    fn the_highest_ranked_name_of_a_column_wins() {
        use Column::*;
        assert_eq!(
            columns(&["reflectivity U 2 1", "intensity F 4 1"]),
            [(Intensity, 14, 4)]
        );
        assert_eq!(columns(&["channel U 2 1", "laser U 2 1"]), [(Ring, 12, 3)]);
    }

    #[test]
    fn a_clock_is_not_an_age() {
        assert_eq!(columns(&["t F 4 1"]), [(Column::T, 12, 3)]);
        assert_eq!(columns(&["time_lag F 8 1"]), [(Column::T, 12, 3)]);
        for clock in [
            "t U 4 1",
            "time F 4 1",
            "timestamp F 8 1",
            "time_stamp U 4 1",
        ] {
            assert_eq!(columns(&[clock]), [], "{clock}");
        }
    }

    #[test]
    fn each_broken_line_is_named() {
        let good = with(&[&XYZ[..], &["intensity U 1 1"]].concat());
        for (from, to, expected) in [
            ("SIZE 4 4 4 1", "SIZE 4 4 4", "SIZE"),
            ("SIZE 4 4 4 1", "", "no line SIZE"),
            ("SIZE 4 4 4 1", "SIZE 4 4 4 3", "`U 3 of field `intensity`"),
            ("TYPE F F F U", "TYPE F F F Q", "TYPE"),
            ("COUNT 1 1 1 1", "COUNT 1 0 1 1", "`0 of field `y`"),
            ("COUNT 1 1 1 1", "COUNT 1 1 1 99999999999", "COUNT"),
            (
                "COUNT 1 1 1 1",
                "COUNT 1 2 1 1",
                "no field y, which is required; the file's fields are x,y,z,intensity",
            ),
            ("FIELDS x y z", "FIELDS x y y", "each field once"),
            ("FIELDS x y z intensity", "FIELDS", "FIELDS"),
            ("POINTS 6", "POINTS 7", "7"),
            ("POINTS 6", "POINTS -6", "-6"),
            (
                "WIDTH 3\nHEIGHT 2",
                "WIDTH 4294967295\nHEIGHT 4294967295",
                "4294967295",
            ),
            ("POINTS 6", "POINTS 6\nPOINTS 6", "each keyword once"),
            ("VERSION", "VERSIONS", "VERSIONS"),
            ("DATA binary", "DATA zip", "zip"),
            ("DATA binary", "", "DATA"),
        ] {
            let message = parse(&good.replace(from, to)).unwrap_err().to_string();
            assert!(message.contains(expected), "{to}: {message}");
        }
        let huge = good
            .replace("POINTS 6\n", "")
            .replace("H 3", "H 4294967295");
        assert!(matches!(
            parse(&huge),
            Err(PcdError::TooManyPoints(8_589_934_590))
        ));
        assert!(matches!(
            parse(&"#".repeat(1 << 20)),
            Err(PcdError::NoDataLine)
        ));
    }
}
