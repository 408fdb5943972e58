//! `.npy` frames: a 2-D array `[points, columns]` of numbers, or a structured array `[points]` with named fields.
//!
//! Versions 1 to 3, either byte order, C or Fortran order. Source: NumPy's NEP 1, "A Simple File Format for NumPy
//! Arrays": magic, version, header length, a Python dictionary, the values. The columns of a plain array have no
//! names in the file; they come from the layout. Those of a structured array come from its fields, as in a `.pcd`.

use std::io::Read;
#[cfg(feature = "build")]
use std::{io::Write, path::Path};

use super::bin::read_f32_le;
use super::field::{self, FieldType, Values};
use super::{Column, Layout, LayoutError, PointCloud, Records};
#[cfg(feature = "build")]
use crate::files::{self, FileError};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read; NumPy's own limit is 10 000.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Bytes of values converted at a time.
const BLOCK_BYTES: usize = 64 << 10;
/// Most fields of a structured array.
const MAX_FIELDS: usize = 256;
/// Most bytes of a record of a structured array.
const MAX_RECORD_BYTES: usize = 1 << 16;

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
    /// A structured array has too many fields, or too long records.
    #[error(
        "the NumPy dtype has {fields} fields of {bytes} bytes; the limits are {MAX_FIELDS} and {MAX_RECORD_BYTES}"
    )]
    Record {
        /// Fields.
        fields: usize,
        /// Bytes of a record.
        bytes: usize,
    },
    /// A coordinate is missing.
    #[error("no field {column}, which is required; the array's fields are {fields}")]
    MissingField {
        /// The coordinate.
        column: Column,
        /// All fields, with commas.
        fields: String,
    },
    /// The fields do not form a layout.
    #[error("fields of the NumPy array")]
    Fields(#[from] LayoutError),
    /// The array does not consist of rows.
    #[error(
        "the NumPy array has shape {0:?}; expected [points, columns], or [points] with named fields"
    )]
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
    dtype: Dtype,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// The type of an array's elements.
enum Dtype {
    /// Numbers of one type.
    Plain(Number),
    /// Records with named fields.
    Record {
        fields: Vec<RecordField>,
        bytes: usize,
    },
}

/// A number as NumPy stores it.
#[derive(Clone, Copy)]
struct Number {
    kind: FieldType,
    big_endian: bool,
}

/// A field of a record.
struct RecordField {
    name: String,
    /// `None` for what is no single number, which is skipped.
    number: Option<Number>,
    offset: usize,
}

/// Reads a file of `bytes` bytes; `layout` names the columns of an array without names.
pub(super) fn parse(
    reader: &mut impl Read,
    bytes: u64,
    layout: Layout,
) -> Result<PointCloud, NpyError> {
    let (text, body) = header_text(reader, bytes)?;
    let header = Header::parse(&text)?;
    match header.dtype {
        Dtype::Plain(number) => plain(reader, body, number, &header, layout),
        Dtype::Record { ref fields, bytes } => records(reader, body, fields, bytes, &header),
    }
}

fn plain(
    reader: &mut impl Read,
    body: u64,
    number: Number,
    header: &Header,
    layout: Layout,
) -> Result<PointCloud, NpyError> {
    let &[points, columns] = header.shape.as_slice() else {
        return Err(NpyError::Shape(header.shape.clone()));
    };
    if columns != layout.stride() as u64 {
        return Err(NpyError::Columns {
            found: columns,
            layout,
        });
    }
    check_length(points, columns, number.kind.size(), body)?;
    let mut data = vec![0f32; body as usize / number.kind.size()];
    if number.kind == FieldType::F32 && !number.big_endian {
        read_f32_le(reader, &mut data)?;
    } else {
        let column = (Some(number), 0);
        read_records(reader, number.kind.size(), [column].into_iter(), &mut data)?;
    }
    if header.fortran_order {
        data = transposed(&data, layout.stride());
    }
    Ok(PointCloud::from_parts(layout, data))
}

fn records(
    reader: &mut impl Read,
    body: u64,
    fields: &[RecordField],
    bytes: usize,
    header: &Header,
) -> Result<PointCloud, NpyError> {
    let &[points] = header.shape.as_slice() else {
        return Err(NpyError::Shape(header.shape.clone()));
    };
    check_length(points, 1, bytes, body)?;
    let names = || fields.iter().map(|field| field.name.as_str());
    let numbers = fields.iter().filter_map(|f| Some((f, f.number?)));
    let selected = Records::select_fields(
        numbers.map(|(field, number)| (field.name.as_str(), number.kind, field.offset)),
    );
    if let Some(column) = Column::missing_from(selected.iter().map(|field| field.column)) {
        return Err(NpyError::MissingField {
            column,
            fields: names().collect::<Vec<_>>().join(","),
        });
    }
    let columns: Vec<Column> = selected.iter().map(|field| field.column).collect();
    let layout = Layout::new(&columns)?;
    let source = |offset| {
        fields
            .iter()
            .find(|f| f.offset == offset && f.number.is_some())
    };
    let mut data = vec![0f32; points as usize * columns.len()];
    let places = selected.iter().map(|field| {
        let number = source(field.offset).and_then(|field| field.number);
        (number, field.offset)
    });
    read_records(reader, bytes, places, &mut data)?;
    let mut cloud = PointCloud::from_parts(layout, data);
    let used = |field: &&RecordField| selected.iter().any(|s| s.offset == field.offset);
    let unused = fields
        .iter()
        .filter(|field| !used(field) && !field.name.is_empty());
    cloud.notes.unused = unused.map(|field| field.name.clone()).collect();
    Ok(cloud)
}

/// Refuses a body whose length is not that of `points` rows.
fn check_length(points: u64, columns: u64, bytes: usize, found: u64) -> Result<(), NpyError> {
    let expected = u128::from(points) * u128::from(columns) * bytes as u128;
    if expected == u128::from(found) {
        return Ok(());
    }
    Err(NpyError::Length {
        points,
        columns,
        expected,
        found,
    })
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
                "descr" => dtype = Some(scan.dtype()?),
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
        Ok(Header {
            dtype,
            fortran_order,
            shape,
        })
    }
}

/// The number that `<f4`, `>u2` or `|i1` names.
fn number(dtype: &str) -> Option<Number> {
    let mut text = dtype.chars();
    let order = text.next()?;
    let kind = match text.as_str() {
        "f2" => FieldType::F16,
        "f4" => FieldType::F32,
        "f8" => FieldType::F64,
        "i1" => FieldType::I8,
        "i2" => FieldType::I16,
        "i4" => FieldType::I32,
        "i8" => FieldType::I64,
        "u1" | "b1" => FieldType::U8,
        "u2" => FieldType::U16,
        "u4" => FieldType::U32,
        "u8" => FieldType::U64,
        _ => return None,
    };
    let big_endian = match order {
        '<' => false,
        '>' => true,
        '|' if kind.size() == 1 => false,
        _ => return None,
    };
    Some(Number { kind, big_endian })
}

/// Bytes of one value of any dtype that has no fields, such as `|V4` or `<U8`.
fn dtype_bytes(dtype: &str) -> Option<usize> {
    let rest = dtype.strip_prefix(['<', '>', '|', '='])?;
    let (kind, digits) = rest.split_at_checked(1)?;
    let bytes: usize = digits.parse().ok()?;
    bytes.checked_mul(if kind == "U" { 4 } else { 1 })
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

    /// A plain dtype, or a list of fields `('x', '<f4')`, each with an optional shape.
    fn dtype(&mut self) -> Result<Dtype, NpyError> {
        const EXPECTED: &str = "a dtype such as '<f4', or a list of fields";
        let unsupported = |text: &str| NpyError::Dtype(text.chars().take(40).collect());
        if !self.eat('[') {
            let text = self.string(EXPECTED)?;
            return number(text)
                .map(Dtype::Plain)
                .ok_or_else(|| unsupported(text));
        }
        let (mut fields, mut bytes) = (Vec::new(), 0usize);
        while !self.eat(']') {
            let start = self.rest();
            self.expect('(', EXPECTED)?;
            let name = self.string("a field's name")?.to_owned();
            self.expect(',', "`,`")?;
            let text = self.string("a field's dtype")?;
            let shape = if self.eat(',') && !self.rest().starts_with(')') {
                Some(self.tuple()?)
            } else {
                None
            };
            self.expect(')', "`)`")?;
            let size = dtype_bytes(text).ok_or_else(|| unsupported(start))?;
            let values = shape.iter().flatten().try_fold(1usize, |product, &size| {
                product.checked_mul(usize::try_from(size).ok()?)
            });
            let end = values
                .and_then(|values| values.checked_mul(size))
                .and_then(|size| size.checked_add(bytes))
                .filter(|&end| end <= MAX_RECORD_BYTES && fields.len() < MAX_FIELDS);
            let Some(end) = end else {
                return Err(NpyError::Record {
                    fields: fields.len() + 1,
                    bytes,
                });
            };
            fields.push(RecordField {
                name,
                number: number(text).filter(|_| shape.is_none()),
                offset: bytes,
            });
            bytes = end;
            if !self.eat(',') {
                self.expect(']', "`,` or `]`")?;
                break;
            }
        }
        if bytes == 0 {
            return Err(NpyError::Record {
                fields: fields.len(),
                bytes,
            });
        }
        Ok(Dtype::Record { fields, bytes })
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

/// Fills the rows of `data` from records of `bytes` bytes; `places` has the number and the offset of each column.
fn read_records(
    reader: &mut impl Read,
    bytes: usize,
    places: impl ExactSizeIterator<Item = (Option<Number>, usize)> + Clone,
    data: &mut [f32],
) -> Result<(), std::io::Error> {
    let columns = places.len();
    let rows = (BLOCK_BYTES / bytes).max(1).min(data.len() / columns);
    let mut block = vec![0u8; rows * bytes];
    for out in data.chunks_mut((rows * columns).max(1)) {
        let block = &mut block[..out.len() / columns * bytes];
        reader.read_exact(block)?;
        for (column, (number, offset)) in places.clone().enumerate() {
            let Some(Number { kind, big_endian }) = number else {
                continue;
            };
            let values = Values {
                bytes: &block[offset..],
                step: bytes,
                kind,
                big_endian,
            };
            field::convert(values, out, column, columns);
        }
    }
    Ok(())
}

/// Writes a cloud as a structured array, whose fields name the columns.
///
/// # Errors
/// [`FileError`].
#[cfg(feature = "build")]
pub(crate) fn write(path: &Path, cloud: &PointCloud) -> Result<(), FileError> {
    let layout = cloud.layout();
    let fields = layout.columns().iter().map(|column| match column {
        Column::Skip => "('', '|V4')".to_owned(),
        column => format!("('{column}', '<f4')"),
    });
    let fields: Vec<String> = fields.collect();
    let mut header = format!(
        "{{'descr': [{}], 'fortran_order': False, 'shape': ({},), }}",
        fields.join(", "),
        cloud.len()
    );
    // Magic, version, length, header and newline fill whole lines of 64 bytes.
    let end = (header.len() + 11).next_multiple_of(64);
    header.extend(std::iter::repeat_n(' ', end - header.len() - 11));
    header.push('\n');
    files::write_with(path, |file| {
        file.write_all(MAGIC)?;
        file.write_all(&[1, 0])?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        cloud
            .data()
            .iter()
            .try_for_each(|value| file.write_all(&value.to_le_bytes()))
    })
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
    use half::f16;

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
        let (le2, be2) = (f16::to_le_bytes, f16::to_be_bytes);
        for (descr, encode) in [("<f2", le2 as fn(f16) -> [u8; 2]), (">f2", be2)] {
            let header =
                format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 4), }}\n");
            let body = rows.map(|v| encode(f16::from_f32(v)));
            let cloud = read(&file(1, &header, body.as_flattened())).unwrap();
            assert_eq!(cloud.data()[..7], rows[..7], "{descr}");
            assert!(cloud.data()[7].is_nan());
        }
        for (descr, body, expected) in [
            ("|u1", vec![1, 2, 3, 255], 255.0),
            ("|i1", vec![1, 2, 3, 255], -1.0),
            ("<u2", vec![1, 0, 2, 0, 3, 0, 0, 2], 512.0),
            (">i2", vec![0, 1, 0, 2, 0, 3, 255, 0], -256.0),
        ] {
            let header =
                format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1, 4), }}\n");
            let cloud = read(&file(1, &header, &body)).unwrap();
            assert_eq!(cloud.data(), [1.0, 2.0, 3.0, expected], "{descr}");
        }
        let header = r#"{"shape":(0,4),"fortran_order":True,"descr":"<f4"}"#;
        assert!(read(&file(1, header, &[])).unwrap().is_empty());
    }

    #[test]
    fn fields_of_a_structured_array_are_found_by_name() {
        let header = "{'descr': [('X', '<f8'), ('', '|V2'), ('normal', '<f4', (3,)), ('y', '>f4'), \
                      ('Intensity', '|u1'), ('label', '<U2'), ('z', '<f2')], \
                      'fortran_order': False, 'shape': (2,), }\n";
        let mut body = Vec::new();
        for i in [1.0, 2.0] {
            body.extend(f64::to_le_bytes(i));
            body.extend([9; 2 + 12]);
            body.extend(f32::to_be_bytes(10.0 * i as f32));
            body.push(100 + i as u8);
            body.extend([9; 8]);
            body.extend(f16::from_f64(-i).to_le_bytes());
        }
        let cloud = read(&file(1, header, &body)).unwrap();
        assert_eq!(cloud.layout().to_string(), "x,y,intensity,z");
        assert_eq!(cloud.data(), [1., 10., 101., -1., 2., 20., 102., -2.]);
        assert_eq!(cloud.notes.unused, ["normal", "label"]);
        assert!(read(&file(1, header, &body[1..])).is_err());

        let missing = header.replace("'z'", "'height'");
        let error = read(&file(1, &missing, &body)).unwrap_err().to_string();
        assert!(
            error.contains("no field z") && error.contains("label,height"),
            "{error}"
        );
        let long = format!("[{}]", "('x', '<f4'),".repeat(257));
        let header = format!("{{'descr': {long}, 'fortran_order': False, 'shape': (2,), }}\n");
        let error = read(&file(1, &header, &body)).unwrap_err().to_string();
        assert!(error.contains("257 fields"), "{error}");
    }

    #[test]
    fn errors_quote_the_file() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4), }\n";
        for (from, to, expected) in [
            ("<f4", "<c8", "<c8"),
            ("'<f4'", "[('x', '<f4')]", "shape [1, 4]"),
            (
                "'<f4'",
                "[('x', '<f4'), ('y', [('a', '<f4')])]",
                "a field's dtype",
            ),
            (
                "'<f4'",
                "[('x', '<f4', (1, 99999999999))]",
                "the limits are 256 and 65536",
            ),
            ("'<f4'", "[]", "0 fields of 0 bytes"),
            ("'<f4'", "[('x', 'q')]", "('x', 'q')"),
            ("'<f4'", "[('x', '|V')]", "('x', '|V')"),
            ("'<f4'", "'<f4", "dtype `<f4, `"),
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
