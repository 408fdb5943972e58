//! LZF, the compression inside `binary_compressed` PCD files.
//!
//! A stream is a sequence of two kinds of pieces, distinguished by their first byte `c`:
//! `c < 32` copies the next `c + 1` bytes; otherwise `c >> 5` (7: plus the next byte) plus 2 bytes are copied
//! from `(c & 31) · 256 + next byte + 1` bytes back in the output, which may overlap the bytes being written.
//! So 3 bytes expand to at most 264, and no stream to more than 88 times its size.
//!
//! Before any output is allocated, the stream is walked once without output: a false claim about its length
//! costs no memory.

/// A stream is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LzfError {
    /// The stream ends within a piece.
    #[error("the compressed data end within a piece at byte {at}")]
    Truncated {
        /// Byte offset of the piece in the stream.
        at: usize,
    },
    /// A piece refers to bytes before the start of the output.
    #[error(
        "the compressed data refer {distance} bytes back at byte {at}, but only {written} are \
         decompressed"
    )]
    Reference {
        /// Byte offset of the piece in the stream.
        at: usize,
        /// How far back it refers.
        distance: usize,
        /// Output so far.
        written: usize,
    },
    /// The stream does not decompress to the claimed length.
    #[error("the data decompress to {found} bytes, but the header claims {claimed}")]
    Length {
        /// Bytes according to the header.
        claimed: usize,
        /// Bytes in the stream.
        found: usize,
    },
}

/// One piece of a stream.
enum Piece<'a> {
    Literal(&'a [u8]),
    Copy { distance: usize, length: usize },
}

/// Walks the pieces of a stream. `at` is the next piece's first byte.
struct Pieces<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Pieces<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.input.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<usize> {
        self.take(1).and_then(<[u8]>::first).map(|&b| b.into())
    }

    /// The next piece; `None` if the stream ends within it.
    fn next(&mut self) -> Option<Piece<'a>> {
        let control = self.byte()?;
        if control < 32 {
            return self.take(control + 1).map(Piece::Literal);
        }
        let mut length = (control >> 5) + 2;
        if control >> 5 == 7 {
            length += self.byte()?;
        }
        let distance = ((control & 31) << 8) + self.byte()? + 1;
        Some(Piece::Copy { distance, length })
    }
}

/// Decompresses `input`, which must expand to exactly `claimed` bytes.
pub(super) fn decompress(input: &[u8], claimed: usize) -> Result<Vec<u8>, LzfError> {
    check(input, claimed)?;
    let mut output = Vec::with_capacity(claimed);
    let mut pieces = Pieces { input, at: 0 };
    while pieces.at < input.len() {
        let Some(piece) = pieces.next() else { break };
        match piece {
            Piece::Literal(bytes) => output.extend_from_slice(bytes),
            Piece::Copy { distance, length } => {
                // An overlapping copy repeats its first `distance` bytes: copy it in steps of bytes that are
                // already written.
                let end = output.len() + length;
                let start = output.len() - distance;
                while output.len() < end {
                    let step = (output.len() - start).min(end - output.len());
                    output.extend_from_within(start..start + step);
                }
            }
        }
    }
    Ok(output)
}

/// Walks the whole stream without output, and checks that every piece is complete, every reference lies within
/// the output so far, and the length is as claimed.
fn check(input: &[u8], claimed: usize) -> Result<(), LzfError> {
    let mut pieces = Pieces { input, at: 0 };
    let mut written = 0usize;
    while pieces.at < input.len() {
        let at = pieces.at;
        written += match pieces.next() {
            Some(Piece::Literal(bytes)) => bytes.len(),
            Some(Piece::Copy { distance, .. }) if distance > written => {
                return Err(LzfError::Reference {
                    at,
                    distance,
                    written,
                });
            }
            Some(Piece::Copy { length, .. }) => length,
            None => return Err(LzfError::Truncated { at }),
        };
    }
    if written == claimed {
        Ok(())
    } else {
        Err(LzfError::Length {
            claimed,
            found: written,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "abc", then 3 + 9 bytes from 3 back, then "x" and 264 bytes from 1 back.
    const STREAM: [u8; 12] = [2, b'a', b'b', b'c', 0xE0, 3, 2, 0, b'x', 0xE0, 255, 0];

    #[test]
    fn literals_and_overlapping_copies() {
        let expected = ["abc".repeat(5), "x".repeat(265)].concat();
        let output = decompress(&STREAM, expected.len()).unwrap();
        assert_eq!(output, expected.as_bytes());
        assert_eq!(decompress(&[], 0).unwrap(), b"");
        // Length 3 from 2 back, the short form.
        assert_eq!(decompress(&[1, 7, 8, 0x20, 1], 5).unwrap(), [7, 8, 7, 8, 7]);
        // A distance above 256: one literal of 300 bytes in pieces, and 3 from its beginning.
        let mut stream: Vec<u8> = Vec::new();
        let data: Vec<u8> = (0..300u32).map(|i| (i * 7 % 251) as u8).collect();
        for part in data.chunks(32) {
            stream.push(part.len() as u8 - 1);
            stream.extend_from_slice(part);
        }
        stream.extend_from_slice(&[0x21, 43]);
        assert_eq!(decompress(&stream, 303).unwrap()[300..], data[..3]);
    }

    #[test]
    fn errors_name_the_position() {
        for cut in [1, 2, 3, 5, 6, 8, 10, 11] {
            assert!(
                matches!(
                    decompress(&STREAM[..cut], 280),
                    Err(LzfError::Truncated { .. })
                ),
                "{cut}"
            );
        }
        assert_eq!(
            decompress(&[0, 1, 0x20, 1], 4),
            Err(LzfError::Reference {
                at: 2,
                distance: 2,
                written: 1
            })
        );
        assert_eq!(
            decompress(&STREAM, 281),
            Err(LzfError::Length {
                claimed: 281,
                found: 280
            })
        );
    }
}
