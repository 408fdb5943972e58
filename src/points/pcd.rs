//! `.pcd` frames (Point Cloud Library): ascii, binary and binary_compressed, fields of any type.
//!
//! Fields that map to a [`Column`](super::Column) become the cloud's columns in the file's order; other fields
//! are skipped. Numbers become `f32`, integers by their value: nothing is normalised. The body's length is checked
//! against the header before anything is allocated, and binary bodies are converted in blocks: a reader never holds
//! more than the file and its cloud. A longer body is used up to the last point, as PCL does.

use std::io::{BufRead, Read};

use super::bin::read_f32_le;
use super::field::{FieldType, Values, convert};
use super::pcd_header::{Encoding, Header, PcdError, shortened};
use super::{Column, FrameWarning, Layout, PointCloud, lzf};

/// Bytes of a binary body converted at a time.
const BLOCK_BYTES: usize = 64 << 10;
/// Longest line of an ascii body.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Reads a file of `bytes` bytes.
pub(super) fn parse(reader: &mut impl BufRead, bytes: u64) -> Result<PointCloud, PcdError> {
    let header = Header::parse(reader)?;
    let columns: Vec<Column> = header.fields.iter().map(|field| field.column).collect();
    let layout = Layout::new(&columns)?;
    let body = bytes.saturating_sub(header.bytes);
    let data = match header.encoding {
        Encoding::Ascii => ascii(reader, &header, body)?,
        Encoding::Binary => binary(reader, &header, body)?,
        Encoding::Compressed => compressed(reader, &header, body)?,
    };
    let mut cloud = PointCloud::from_parts(layout, data);
    cloud.notes.unused = header.unused;
    cloud
        .notes
        .warnings
        .extend(header.viewpoint.map(FrameWarning::Viewpoint));
    let excess = excess(reader)?;
    if excess > 0 {
        cloud
            .notes
            .warnings
            .push(FrameWarning::Excess { bytes: excess });
    }
    Ok(cloud)
}

/// Bytes that remain, unless all are padding: PCL's writer fills its file up to a whole page with zeros, and
/// editors end a text with blank lines.
fn excess(reader: &mut impl BufRead) -> Result<u64, PcdError> {
    let (mut bytes, mut padding) = (0, true);
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Ok(if padding { 0 } else { bytes });
        }
        padding &= block.iter().all(|&b| b == 0 || b.is_ascii_whitespace());
        let len = block.len();
        bytes += len as u64;
        reader.consume(len);
    }
}

fn ascii(reader: &mut impl BufRead, header: &Header, body: u64) -> Result<Vec<f32>, PcdError> {
    // Each value takes a character and a separator; the last separator may be missing.
    let least = (header.points as u128 * header.values as u128 * 2).saturating_sub(1);
    if u128::from(body) < least {
        return Err(PcdError::Length {
            points: header.points,
            expected: format!("at least {least}"),
            found: body,
        });
    }
    let mut data = Vec::with_capacity(header.points * header.fields.len());
    let (mut line, mut point) = (Vec::new(), 0);
    while point < header.points {
        line.clear();
        if reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Err(PcdError::Count {
                expected: header.points,
                found: point,
            });
        }
        let text = std::str::from_utf8(&line).map_err(PcdError::NotText)?;
        let text = text.trim_ascii();
        if !text.is_empty() {
            parse_line(text, point, header, &mut data)?;
            point += 1;
        }
    }
    Ok(data)
}

/// Appends the columns' values from one line.
fn parse_line(
    line: &str,
    point: usize,
    header: &Header,
    data: &mut Vec<f32>,
) -> Result<(), PcdError> {
    let mut tokens = line.split_ascii_whitespace();
    let mut consumed = 0;
    for field in &header.fields {
        let Some(token) = tokens.nth(field.index - consumed) else {
            break;
        };
        consumed = field.index + 1;
        data.push(token.parse().map_err(|_| PcdError::Number {
            point,
            field: field.name.clone(),
            text: shortened(token),
        })?);
    }
    if consumed + tokens.count() == header.values {
        return Ok(());
    }
    Err(PcdError::Values {
        point,
        expected: header.values,
        found: line.split_ascii_whitespace().count(),
    })
}

fn binary(reader: &mut impl Read, header: &Header, body: u64) -> Result<Vec<f32>, PcdError> {
    let expected = header.points as u128 * header.stride as u128;
    if expected > u128::from(body) {
        return Err(PcdError::Length {
            points: header.points,
            expected: expected.to_string(),
            found: body,
        });
    }
    let columns = header.fields.len();
    let mut data = vec![0f32; header.points * columns];
    let all_f32 = header
        .fields
        .iter()
        .all(|field| field.kind == FieldType::F32);
    if all_f32 && header.stride == columns * size_of::<f32>() {
        read_f32_le(reader, &mut data)?;
        return Ok(data);
    }
    let rows = (BLOCK_BYTES / header.stride).clamp(1, header.points.max(1));
    let mut block = vec![
        0u8;
        if header.points == 0 {
            0
        } else {
            rows * header.stride
        }
    ];
    for out in data.chunks_mut(rows * columns) {
        let bytes = &mut block[..out.len() / columns * header.stride];
        reader.read_exact(bytes)?;
        for (column, field) in header.fields.iter().enumerate() {
            let values = Values {
                bytes: &bytes[field.offset..],
                step: header.stride,
                kind: field.kind,
                big_endian: false,
            };
            convert(values, out, column, columns);
        }
    }
    Ok(data)
}

fn compressed(reader: &mut impl Read, header: &Header, body: u64) -> Result<Vec<f32>, PcdError> {
    if header.points == 0 && body == 0 {
        return Ok(Vec::new());
    }
    let length = |expected: String| PcdError::Length {
        points: header.points,
        expected,
        found: body,
    };
    if body < 8 {
        return Err(length("at least 8".to_owned()));
    }
    let mut sizes = [[0u8; 4]; 2];
    reader.read_exact(sizes.as_flattened_mut())?;
    let [packed, unpacked] = sizes.map(u32::from_le_bytes);
    if body - 8 < u64::from(packed) {
        return Err(length(format!("8 + {packed} (by the compressed size)")));
    }
    let needed = header.points as u128 * header.stride as u128;
    if u128::from(unpacked) != needed {
        let expected = format!("{needed} bytes, POINTS times the bytes of a point");
        return Err(PcdError::value(
            "decompressed size",
            &expected,
            &unpacked.to_string(),
        ));
    }
    let mut input = vec![0u8; packed as usize];
    reader.read_exact(&mut input)?;
    let bytes = lzf::decompress(&input, unpacked as usize)?;
    drop(input);
    // All values of the first field, then all of the second, and so on.
    let columns = header.fields.len();
    let mut data = vec![0f32; header.points * columns];
    for (column, field) in header.fields.iter().enumerate() {
        let start = field.offset * header.points;
        let values = Values {
            bytes: &bytes[start..],
            step: field.kind.size(),
            kind: field.kind,
            big_endian: false,
        };
        convert(values, &mut data, column, columns);
    }
    Ok(data)
}
