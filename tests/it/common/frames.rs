//! Writers of every frame format for tests of the readers. They follow the formats' descriptions and share no code
//! with the crate.

use std::collections::HashMap;

/// Little-endian bytes of `values`.
pub(crate) fn bin(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A `.npy` of version 1, `<f4`, C order.
pub(crate) fn npy(values: &[f32], columns: usize) -> Vec<u8> {
    let shape = (values.len() / columns, columns);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(bin(values));
    bytes
}

/// `DATA` of a `.pcd`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Encoding {
    Ascii,
    Binary,
    Compressed,
}

pub(crate) const ENCODINGS: [Encoding; 3] =
    [Encoding::Ascii, Encoding::Binary, Encoding::Compressed];

/// A field: name, TYPE, SIZE, COUNT.
pub(crate) type Field<'a> = (&'a str, char, usize, usize);

/// x, y, z, intensity, each `F 4`.
pub(crate) const XYZI: [Field<'_>; 4] = [
    ("x", 'F', 4, 1),
    ("y", 'F', 4, 1),
    ("z", 'F', 4, 1),
    ("intensity", 'F', 4, 1),
];

/// A `.pcd` whose rows hold as many values as the counts of `fields` add up to.
pub(crate) fn pcd(fields: &[Field<'_>], values: &[f64], encoding: Encoding) -> Vec<u8> {
    let per_row: usize = fields.iter().map(|f| f.3).sum();
    let points = values.len() / per_row;
    let join =
        |part: &dyn Fn(&Field<'_>) -> String| fields.iter().map(part).collect::<Vec<_>>().join(" ");
    let data = match encoding {
        Encoding::Ascii => "ascii",
        Encoding::Binary => "binary",
        Encoding::Compressed => "binary_compressed",
    };
    let mut bytes = format!(
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {}\nSIZE {}\nTYPE {}\n\
         COUNT {}\nWIDTH {points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {data}\n",
        join(&|f| f.0.to_string()),
        join(&|f| f.2.to_string()),
        join(&|f| f.1.to_string()),
        join(&|f| f.3.to_string()),
    )
    .into_bytes();
    let rows = || values.chunks_exact(per_row);
    // The field of each value in a row.
    let of_value: Vec<Field<'_>> = fields
        .iter()
        .flat_map(|field| std::iter::repeat_n(*field, field.3))
        .collect();
    match encoding {
        Encoding::Ascii => {
            for row in rows() {
                let text: Vec<String> = row.iter().map(f64::to_string).collect();
                bytes.extend(text.join(" ").bytes());
                bytes.push(b'\n');
            }
        }
        Encoding::Binary => {
            for (value, field) in rows().flat_map(|row| row.iter().zip(&of_value)) {
                bytes.extend(encoded(*value, *field));
            }
        }
        Encoding::Compressed => {
            let mut body = Vec::new();
            let mut at = 0;
            for field in fields {
                for row in rows() {
                    for value in &row[at..at + field.3] {
                        body.extend(encoded(*value, *field));
                    }
                }
                at += field.3;
            }
            let packed = lzf(&body);
            bytes.extend((packed.len() as u32).to_le_bytes());
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(packed);
        }
    }
    bytes
}

fn encoded(value: f64, (_, kind, size, _): Field<'_>) -> Vec<u8> {
    match (kind, size) {
        ('F', 4) => (value as f32).to_le_bytes().to_vec(),
        ('F', _) => value.to_le_bytes().to_vec(),
        ('U', _) => (value as u64).to_le_bytes()[..size].to_vec(),
        _ => (value as i64).to_le_bytes()[..size].to_vec(),
    }
}

/// Compresses `data` by LZF, greedily: looks up the last position of every three bytes.
pub(crate) fn lzf(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seen: HashMap<&[u8], usize> = HashMap::new();
    let mut literals = 0;
    let mut at = 0;
    let flush = |out: &mut Vec<u8>, literals: &[u8]| {
        for part in literals.chunks(32) {
            out.push(part.len() as u8 - 1);
            out.extend(part);
        }
    };
    while at < data.len() {
        let old = data.get(at..at + 3).and_then(|key| seen.insert(key, at));
        let Some(old) = old.filter(|old| at - old <= 8192) else {
            at += 1;
            continue;
        };
        let same = data[old..].iter().zip(&data[at..]).take(264);
        let length = same.take_while(|(a, b)| a == b).count();
        flush(&mut out, &data[literals..at]);
        let distance = at - old - 1;
        if length < 9 {
            out.push(((length - 2) << 5 | distance >> 8) as u8);
        } else {
            out.push((7 << 5 | distance >> 8) as u8);
            out.push((length - 9) as u8);
        }
        out.push(distance as u8);
        at += length;
        literals = at;
    }
    flush(&mut out, &data[literals..]);
    out
}

/// `points` rows of x, y, z, intensity that resemble a scan: rings on a plane.
pub(crate) fn scan(points: usize) -> Vec<f32> {
    let point = |i: usize| {
        let (angle, range) = (i as f32 * 0.0037, 3.0 + (i % 64) as f32);
        [
            range * angle.cos(),
            range * angle.sin(),
            -1.8,
            (i % 97) as f32,
        ]
    };
    (0..points).flat_map(point).collect()
}
