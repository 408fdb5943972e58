//! Messages as ROS 2 stores them in a bag: 4 bytes that name the encoding, then CDR in either byte order.

use byteorder::{BigEndian, LittleEndian};
use serde::de::DeserializeOwned;

/// The first bytes of a zstd frame. rosbag2 can compress whole files and single messages.
pub(super) const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Decodes a message. Trailing bytes are ignored, as in ROS.
///
/// # Errors
/// [`CdrError`].
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CdrError> {
    let Some((&head, body)) = bytes.split_first_chunk::<4>() else {
        return Err(CdrError::Short(bytes.len()));
    };
    let decoded = match head {
        ZSTD => return Err(CdrError::Compressed),
        [0, 0, ..] => cdr_encoding::from_bytes::<T, BigEndian>(body),
        [0, 1, ..] => cdr_encoding::from_bytes::<T, LittleEndian>(body),
        [high, low, ..] => return Err(CdrError::Encoding([high, low])),
    };
    Ok(decoded?.0)
}

/// Why a message cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CdrError {
    /// Too short to name its encoding.
    #[error("a message of {0} bytes is too short")]
    Short(usize),
    /// `ros2 bag record --compression-mode message`.
    #[error(
        "messages are compressed individually; convert the bag with `ros2 bag convert`, without \
         `--compression-mode message` (compressed chunks are supported)"
    )]
    Compressed,
    /// Not plain CDR.
    #[error("unknown encoding {0:02x?}; expected plain CDR, [00, 00] or [00, 01]")]
    Encoding([u8; 2]),
    /// The bytes end early or do not match the type.
    #[error("the message does not match its type: {0}")]
    Body(#[from] cdr_encoding::Error),
}

#[cfg(test)]
mod tests {
    use super::super::messages::Header;
    use super::*;

    #[test]
    fn both_byte_orders_decode_and_other_encodings_are_rejected() {
        let body: [&[u8]; 4] = [&[0, 0, 0, 7], &[0, 0, 0, 8], &[0, 0, 0, 3], b"ab\0"];
        let big = [&[0, 0, 0, 0][..], &body.concat()].concat();
        let header: Header = decode(&big).unwrap();
        assert_eq!((header.stamp.sec, header.stamp.nanosec), (7, 8));
        assert_eq!(header.frame_id, "ab");
        let body: [&[u8]; 4] = [&[7, 0, 0, 0], &[8, 0, 0, 0], &[3, 0, 0, 0], b"ab\0"];
        let little = [&[0, 1, 0, 0][..], &body.concat(), b"more"].concat();
        assert_eq!(decode::<Header>(&little).unwrap(), header);

        let error = |bytes: &[u8]| decode::<Header>(bytes).unwrap_err();
        assert!(matches!(error(&little[..18]), CdrError::Body(_)));
        assert!(matches!(error(&[0, 7, 0, 0]), CdrError::Encoding([0, 7])));
        assert!(matches!(error(&ZSTD), CdrError::Compressed));
        assert!(matches!(error(&[0, 1]), CdrError::Short(2)));
        // A string that claims 4 GiB.
        let claim = [&[0, 1, 0, 0][..], &[0; 8], &[255; 4]].concat();
        assert!(matches!(error(&claim), CdrError::Body(_)));
    }
}
