//! Raw `.bin` frames: little-endian `f32` rows without a header (KITTI, nuScenes, Waymo, `cp-build synth`).

use std::io::Read;

use super::{Layout, PointCloud};

/// A `.bin` file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BinError {
    /// An I/O error while reading.
    #[error("cannot read the frame")]
    Io(#[from] std::io::Error),
    /// The file is empty: nothing tells a frame without points from a write that failed.
    #[error("the file is empty; a .pcd or .npy file can declare a frame without points")]
    Empty,
    /// The file does not hold a whole number of rows.
    #[error(
        "{bytes} bytes are not a multiple of {stride}, the bytes per row of the layout `{layout}`; \
         name the file's columns with --layout"
    )]
    Stride {
        /// Bytes in the file.
        bytes: u64,
        /// Bytes per row.
        stride: usize,
        /// The columns used to read it.
        layout: Layout,
    },
}

/// Reads `bytes` bytes of rows.
pub(super) fn parse(
    reader: &mut impl Read,
    bytes: u64,
    layout: Layout,
) -> Result<PointCloud, BinError> {
    if bytes == 0 {
        return Err(BinError::Empty);
    }
    let stride = layout.stride() * size_of::<f32>();
    if !bytes.is_multiple_of(stride as u64) {
        return Err(BinError::Stride {
            bytes,
            stride,
            layout,
        });
    }
    let mut data = vec![0f32; bytes as usize / size_of::<f32>()];
    read_f32_le(reader, &mut data)?;
    Ok(PointCloud::from_parts(layout, data))
}

/// Fills `values` from little-endian bytes, without a copy.
pub(super) fn read_f32_le(reader: &mut impl Read, values: &mut [f32]) -> std::io::Result<()> {
    reader.read_exact(bytemuck::cast_slice_mut(values))?;
    if cfg!(target_endian = "big") {
        for value in values {
            *value = f32::from_bits(value.to_bits().swap_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_bit_for_bit() {
        let values = [1.5f32, -2.0, f32::NAN, 255.0, f32::INFINITY, 0.0, -0.0, 3.0];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let cloud = parse(&mut &bytes[..], 32, Layout::KITTI).unwrap();
        assert_eq!(cloud.len(), 2);
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(cloud.data()), bits(&values));
    }

    #[test]
    fn a_partial_row_is_an_error_with_both_numbers() {
        let text = parse(&mut &[0u8; 36][..], 36, Layout::KITTI)
            .unwrap_err()
            .to_string();
        assert!(text.contains("36") && text.contains("16"), "{text}");
        let empty = parse(&mut &[][..], 0, Layout::KITTI);
        assert!(matches!(empty, Err(BinError::Empty)));
        // The file shrank after its length was read.
        assert!(matches!(
            parse(&mut &[0u8; 16][..], 32, Layout::KITTI),
            Err(BinError::Io(_))
        ));
    }
}
