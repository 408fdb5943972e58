//! `.npy` frames: a 2-D array `[points, columns]` of 4- or 8-byte floats.
//!
//! Versions 1 to 3, either byte order, C or Fortran order. Source: NumPy's NEP 1, "A Simple File
//! Format for NumPy Arrays": magic, version, header length, a Python dictionary, the values. The
//! columns have no names in the file; they come from the layout.

use std::io::Read;

use super::bin::read_f32_le;
use super::{Layout, PointCloud};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read; NumPy's own limit is 10 000.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Bytes of values converted at a time.
const BLOCK_BYTES: usize = 64 << 10;

/// A `.npy` file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// An I/O error while reading.
    #[error("cannot read the frame")]
    Io(#[from] std::io::Error),
    /// The file does not start with NumPy's magic, or ends within its header.
    #[error("no complete NumPy header; is this a .npy file?")]
    NoHeader,
    /// An unknown version of the format.
    #[error("NumPy format version {0}.{1}; supported are 1.0, 2.0 and 3.0")]
    Version(u8, u8),
    /// The header claims an implausible length.
    #[error("the NumPy header claims {0} bytes; the limit is {MAX_HEADER_BYTES}")]
    HeaderLength(u32),
    /// The dictionary is malformed.
    #[error("NumPy header: expected {expected}, found `{found}`")]
    Header {
        /// The expected text.
        expected: &'static str,
        /// The text in the file, shortened.
        found: String,
    },
    /// An unsupported value type.
    #[error(
        "NumPy dtype `{0}` is not supported; save the points as float32: `points.astype('<f4')`"
    )]
    Dtype(String),
    /// The array does not consist of rows.
    #[error("the NumPy array has shape {0:?}; expected [points, columns]")]
    Shape(Vec<u64>),
    /// The rows do not match the layout.
    #[error(
        "the NumPy array has {found} columns, but the layout `{layout}` has {}; name the file's \
         columns with --layout",
        .layout.stride()
    )]
    Columns {
        /// Columns of the array.
        found: u64,
        /// The expected columns.
        layout: Layout,
    },
    /// The number of values does not match the shape.
    #[error(
        "an array of {points} × {columns} needs {expected} bytes after the header, but the file has {found}"
    )]
    Length {
        /// Rows according to the header.
        points: u64,
        /// Columns according to the header.
        columns: u64,
        /// Bytes that they need.
        expected: u128,
        /// Bytes after the header.
        found: u64,
    },
}

/// A checked header.
struct Header {
    big_endian: bool,
    /// 4 or 8.
    value_bytes: usize,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// Reads a file of `bytes` bytes with the columns `layout`.
pub(super) fn parse(
    reader: &mut impl Read,
    bytes: u64,
    layout: Layout,
) -> Result<PointCloud, NpyError> {
    let (text, body) = header_text(reader, bytes)?;
    let header = Header::parse(&text)?;
    let &[points, columns] = header.shape.as_slice() else {
        return Err(NpyError::Shape(header.shape));
    };
    if columns != layout.stride() as u64 {
        return Err(NpyError::Columns {
            found: columns,
            layout,
        });
    }
    let expected = u128::from(points) * u128::from(columns) * header.value_bytes as u128;
    if expected != u128::from(body) {
        return Err(NpyError::Length {
            points,
            columns,
            expected,
            found: body,
        });
    }
    let mut data = vec![0f32; body as usize / header.value_bytes];
    read_values(reader, &header, &mut data)?;
    if header.fortran_order {
        data = transposed(&data, layout.stride());
    }
    Ok(PointCloud { layout, data })
}

/// The dictionary's text, and the number of bytes after it.
fn header_text(reader: &mut impl Read, bytes: u64) -> Result<(String, u64), NpyError> {
    let mut prefix = [0u8; 8];
    if bytes < 10 || reader.read_exact(&mut prefix).is_err() || !prefix.starts_with(MAGIC) {
        return Err(NpyError::NoHeader);
    }
    let (length, before) = match [prefix[6], prefix[7]] {
        [1, 0] => {
            let mut length = [0u8; 2];
            reader.read_exact(&mut length)?;
            (u32::from(u16::from_le_bytes(length)), 10)
        }
        [2 | 3, 0] => {
            let mut length = [0u8; 4];
            reader
                .read_exact(&mut length)
                .map_err(|_| NpyError::NoHeader)?;
            (u32::from_le_bytes(length), 12)
        }
        [major, minor] => return Err(NpyError::Version(major, minor)),
    };
    if length > MAX_HEADER_BYTES {
        return Err(NpyError::HeaderLength(length));
    }
    let body = bytes
        .checked_sub(before + u64::from(length))
        .ok_or(NpyError::NoHeader)?;
    let mut text = vec![0u8; length as usize];
    reader.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| NpyError::NoHeader)?;
    Ok((text, body))
}

impl Header {
    /// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str) -> Result<Header, NpyError> {
        let mut scan = Scan(text);
        let (mut dtype, mut fortran_order, mut shape) = (None, None, None);
        scan.expect('{', "`{`")?;
        while !scan.eat('}') {
            let key = scan.string("a key")?;
            scan.expect(':', "`:`")?;
            match key {
                "descr" => dtype = Some(scan.string("a plain dtype such as '<f4'")?),
                "fortran_order" => fortran_order = Some(scan.boolean()?),
                "shape" => shape = Some(scan.tuple()?),
                other => return Err(scan.error("descr, fortran_order or shape", other)),
            }
            if !scan.eat(',') {
                scan.expect('}', "`,` or `}`")?;
                break;
            }
        }
        if !scan.rest().is_empty() {
            return Err(scan.error("nothing after `}`", scan.rest()));
        }
        let (Some(dtype), Some(fortran_order), Some(shape)) = (dtype, fortran_order, shape) else {
            return Err(scan.error("descr, fortran_order and shape", text));
        };
        let (big_endian, value_bytes) = match dtype {
            "<f4" => (false, 4),
            "<f8" => (false, 8),
            ">f4" => (true, 4),
            ">f8" => (true, 8),
            other => return Err(NpyError::Dtype(other.chars().take(40).collect())),
        };
        Ok(Header {
            big_endian,
            value_bytes,
            fortran_order,
            shape,
        })
    }
}

/// The rest of the header's dictionary.
struct Scan<'a>(&'a str);

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        self.0.trim_ascii_start()
    }

    fn error(&self, expected: &'static str, found: &str) -> NpyError {
        NpyError::Header {
            expected,
            found: found.chars().take(40).collect(),
        }
    }

    fn eat(&mut self, mark: char) -> bool {
        let found = self.rest().strip_prefix(mark);
        self.0 = found.unwrap_or(self.0);
        found.is_some()
    }

    fn expect(&mut self, mark: char, expected: &'static str) -> Result<(), NpyError> {
        if self.eat(mark) {
            return Ok(());
        }
        Err(self.error(expected, self.rest()))
    }

    /// A string in single or double quotes; supported headers have no escapes.
    fn string(&mut self, expected: &'static str) -> Result<&'a str, NpyError> {
        for quote in ['\'', '"'] {
            let inner = self.rest().strip_prefix(quote);
            if let Some((string, rest)) = inner.and_then(|inner| inner.split_once(quote)) {
                self.0 = rest;
                return Ok(string);
            }
        }
        Err(self.error(expected, self.rest()))
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest().strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        Err(self.error("True or False", self.rest()))
    }

    /// A tuple of at most 8 whole numbers.
    fn tuple(&mut self) -> Result<Vec<u64>, NpyError> {
        const EXPECTED: &str = "a shape such as (100, 4)";
        let mut numbers = Vec::new();
        self.expect('(', EXPECTED)?;
        while !self.eat(')') {
            let rest = self.rest();
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            match digits.parse() {
                Ok(number) if numbers.len() < 8 => numbers.push(number),
                _ => return Err(self.error(EXPECTED, rest)),
            }
            self.0 = after;
            if !self.eat(',') {
                self.expect(')', EXPECTED)?;
                break;
            }
        }
        Ok(numbers)
    }
}

/// Fills `data` in the order of the file.
fn read_values(
    reader: &mut impl Read,
    header: &Header,
    data: &mut [f32],
) -> Result<(), std::io::Error> {
    if header.value_bytes == 4 {
        read_f32_le(reader, data)?;
        if header.big_endian {
            for value in data {
                *value = f32::from_bits(value.to_bits().swap_bytes());
            }
        }
        return Ok(());
    }
    let number = if header.big_endian {
        f64::from_be_bytes
    } else {
        f64::from_le_bytes
    };
    let mut block = [0u8; BLOCK_BYTES];
    for out in data.chunks_mut(BLOCK_BYTES / 8) {
        let bytes = &mut block[..out.len() * 8];
        reader.read_exact(bytes)?;
        let (values, _) = bytes.as_chunks::<8>();
        for (out, value) in out.iter_mut().zip(values) {
            *out = number(*value) as f32;
        }
    }
    Ok(())
}

/// Column-major → row-major.
fn transposed(data: &[f32], columns: usize) -> Vec<f32> {
    let points = data.len() / columns;
    let mut rows = vec![0f32; data.len()];
    for (column, values) in data.chunks(points.max(1)).enumerate() {
        for (row, value) in rows.chunks_exact_mut(columns).zip(values) {
            row[column] = *value;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, values: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(values);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<PointCloud, NpyError> {
        parse(&mut &bytes[..], bytes.len() as u64, Layout::KITTI)
    }

    #[test]
    fn all_types_orders_and_versions_are_read() {
        let rows = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, f32::NAN];
        let by_column = [1.0f32, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, f32::NAN];
        let le4 = |v: f32| v.to_le_bytes().to_vec();
        let be4 = |v: f32| v.to_be_bytes().to_vec();
        let le8 = |v: f32| f64::from(v).to_le_bytes().to_vec();
        let be8 = |v: f32| f64::from(v).to_be_bytes().to_vec();
        type Encode = fn(f32) -> Vec<u8>;
        let types = [
            ("<f4", le4 as Encode),
            (">f4", be4),
            ("<f8", le8),
            (">f8", be8),
        ];
        for (descr, encode) in types {
            for (order, values) in [("False", &rows), ("True", &by_column)] {
                for version in 1..=3 {
                    let header = format!(
                        "{{'descr': '{descr}', 'fortran_order': {order}, 'shape': (2, 4), }}   \n"
                    );
                    let body: Vec<u8> = values.iter().flat_map(|v| encode(*v)).collect();
                    let cloud = read(&file(version, &header, &body)).unwrap();
                    assert_eq!(cloud.data()[..7], rows[..7], "{descr} {order} {version}");
                    assert!(cloud.data()[7].is_nan());
                }
            }
        }
        let header = r#"{"shape":(0,4),"fortran_order":True,"descr":"<f4"}"#;
        assert!(read(&file(1, header, &[])).unwrap().is_empty());
    }

    #[test]
    fn errors_quote_the_file() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4), }\n";
        for (from, to, expected) in [
            ("<f4", "|u1", "|u1"),
            ("'<f4'", "[('x', '<f4')]", "[('x'"),
            ("'<f4'", "'<f4", "`,` or `}`"),
            ("False", "Maybe", "Maybe"),
            ("(1, 4)", "(4,)", "[4]"),
            ("(1, 4)", "(1, 4", "a shape such as"),
            ("(1, 4)", "(1, -4)", "-4"),
            ("(1, 4)", "(99999999999999999999, 4)", "9999"),
            (
                "(1, 4)",
                "(2, 4)",
                "32 bytes after the header, but the file has 16",
            ),
            (
                "(1, 4)",
                "(1, 5)",
                "5 columns, but the layout `x,y,z,intensity` has 4",
            ),
            (
                "(1, 4)",
                "(18446744073709551615, 4)",
                "295147905179352825840 bytes",
            ),
            ("'shape'", "'shapes'", "shapes"),
            (", 'shape': (1, 4)", "", "descr, fortran_order and shape"),
            ("}", "} x", "nothing after"),
        ] {
            let bytes = file(1, &good.replace(from, to), &[0; 16]);
            let text = read(&bytes).unwrap_err().to_string();
            assert!(text.contains(expected), "{to}: {text}");
        }
        assert!(matches!(
            read(&file(4, good, &[])),
            Err(NpyError::Version(4, 0))
        ));
        assert!(matches!(
            read(b"PK\x03\x04 not numpy"),
            Err(NpyError::NoHeader)
        ));
        let mut long = file(2, good, &[0; 16]);
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&long), Err(NpyError::HeaderLength(u32::MAX))));
    }
}
