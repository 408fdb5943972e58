//! Histograms of raw tensors (files of little-endian f32), to compare with other tools.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::{CalibrationError, Histogram, RangeError};

/// Values read at once.
const PIECE: usize = 1 << 16;

/// Counts the file at `path` in consecutive batches of the given lengths; `bins` is the number of bins of the
/// first. Without lengths the file is one batch.
///
/// # Errors
/// [`CalibrationError::Io`], [`CalibrationError::Raw`] if the lengths do not add up to the file's,
/// [`CalibrationError::Range`] for a value that is not finite, with its index in the file.
pub fn read(path: &Path, batches: &[u64], bins: usize) -> Result<Histogram, CalibrationError> {
    let io = |source| CalibrationError::Io {
        path: path.into(),
        source,
    };
    let raw = |what| CalibrationError::Raw {
        path: path.into(),
        what,
    };
    let range = |source| CalibrationError::Range {
        path: path.into(),
        source,
    };
    let mut histogram = Histogram::new(bins).map_err(range)?;
    // Checked before opening, because opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(raw("not a regular file".into()));
    }
    let bytes = metadata.len();
    if !bytes.is_multiple_of(4) {
        return Err(raw(format!(
            "{bytes} bytes, expected a multiple of 4 (f32 values)"
        )));
    }
    let values = bytes / 4;
    let whole = [values];
    let batches = if batches.is_empty() { &whole } else { batches };
    let sum = batches.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
    if sum != Some(values) {
        let sum = sum.map_or("more than 2⁶⁴".to_owned(), |n| n.to_string());
        return Err(raw(format!(
            "the batches have {sum} values, but the file has {values}"
        )));
    }

    let mut file = File::open(path).map_err(io)?;
    let mut first = 0;
    let mut batch = Vec::new();
    for &length in batches {
        batch.clear();
        read_batch(&mut file, length, &mut batch).map_err(io)?;
        histogram.add(&batch).map_err(|source| {
            range(match source {
                RangeError::NotFinite { index, value } => RangeError::NotFinite {
                    index: first + index,
                    value,
                },
                other => other,
            })
        })?;
        first += batch.len();
    }
    Ok(histogram)
}

/// Appends `length` values. Allocates only as it reads, in case the file has shrunk.
fn read_batch(file: &mut File, length: u64, batch: &mut Vec<f32>) -> std::io::Result<()> {
    let mut piece = [0_u8; PIECE];
    let mut left = length.saturating_mul(4);
    while left > 0 {
        let take = left.min(PIECE as u64);
        let part = piece.get_mut(..take as usize);
        let part = part.ok_or(ErrorKind::InvalidInput)?;
        file.read_exact(part)?;
        let values = part.as_chunks::<4>().0.iter();
        batch.extend(values.map(|&bytes| f32::from_le_bytes(bytes)));
        left -= take;
    }
    Ok(())
}
