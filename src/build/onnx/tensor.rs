//! Constant tensors as vectors and arrays.
//!
//! ONNX stores a tensor either as little-endian bytes (`raw_data`) or in a field for its element
//! type. This module reads both and checks the number of elements against the dimensions before it
//! allocates anything. It rejects tensors in external files: `external` has read those of a file before.

use std::path::Path;

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayRef, Dimension};
use prost::bytes::Bytes;

use super::proto::TensorProto;
use crate::build::{BuildError, Result};

/// ONNX's numbers for the element types that CenterPoint networks use (`TensorProto.DataType`).
pub(crate) mod element {
    /// 32-bit float.
    pub(crate) const FLOAT: i32 = 1;
    /// 8-bit unsigned integer.
    pub(crate) const UINT8: i32 = 2;
    /// 8-bit signed integer.
    pub(crate) const INT8: i32 = 3;
    /// 32-bit signed integer.
    pub(crate) const INT32: i32 = 6;
    /// 64-bit signed integer.
    pub(crate) const INT64: i32 = 7;
    /// Boolean, one byte.
    pub(crate) const BOOL: i32 = 9;
    /// IEEE 16-bit float.
    pub(crate) const FLOAT16: i32 = 10;
    /// 64-bit float.
    pub(crate) const DOUBLE: i32 = 11;
    /// Brain float: the upper 16 bits of a 32-bit float.
    pub(crate) const BFLOAT16: i32 = 16;

    /// Whether the type is a float of a width that is read.
    pub(crate) fn is_float(element: i32) -> bool {
        matches!(element, FLOAT | FLOAT16 | DOUBLE | BFLOAT16)
    }

    /// Whether type `to` can represent every value of type `from`.
    pub(crate) fn holds(from: i32, to: i32) -> bool {
        let held_by: &[i32] = match from {
            FLOAT16 | BFLOAT16 => &[FLOAT, DOUBLE],
            FLOAT | INT32 => &[DOUBLE],
            INT8 | UINT8 => &[INT32, INT64, FLOAT16, BFLOAT16, FLOAT, DOUBLE],
            _ => &[],
        };
        from == to || held_by.contains(&to)
    }

    /// Bytes of an element in `raw_data`; `None` for a type that CenterPoint networks do not use.
    pub(crate) fn size(element: i32) -> Option<u64> {
        Some(match element {
            UINT8 | INT8 | BOOL => 1,
            FLOAT16 | BFLOAT16 => 2,
            FLOAT | INT32 => 4,
            INT64 | DOUBLE => 8,
            _ => return None,
        })
    }

    /// ONNX's name for an element type, for messages.
    pub(crate) fn name(element: i32) -> String {
        match element {
            FLOAT => "FLOAT".to_owned(),
            UINT8 => "UINT8".to_owned(),
            INT8 => "INT8".to_owned(),
            INT32 => "INT32".to_owned(),
            INT64 => "INT64".to_owned(),
            BOOL => "BOOL".to_owned(),
            FLOAT16 => "FLOAT16".to_owned(),
            DOUBLE => "DOUBLE".to_owned(),
            BFLOAT16 => "BFLOAT16".to_owned(),
            8 => "STRING".to_owned(),
            other => format!("type {other}"),
        }
    }
}

/// A dense tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    /// Length of each axis; empty for a scalar.
    pub dims: Vec<usize>,
    /// The elements; their number is the product of `dims`.
    pub data: Vec<T>,
}

/// The dimensions of a tensor and its number of elements.
///
/// # Errors
/// [`BuildError::Tensor`] if a dimension is negative or the product overflows.
pub(crate) fn dims(path: &Path, tensor: &TensorProto) -> Result<(Vec<usize>, usize)> {
    let bad = || {
        fail(
            path,
            tensor,
            format!("invalid dimensions {:?}", tensor.dims),
        )
    };
    // Zeros are left out of the product, so the product of any subset of the axes fits, too.
    let mut count = 1_usize;
    let mut dims = Vec::with_capacity(tensor.dims.len());
    for &dim in &tensor.dims {
        let dim = usize::try_from(dim).map_err(|_| bad())?;
        count = count.checked_mul(dim.max(1)).ok_or_else(bad)?;
        dims.push(dim);
    }
    let count = if dims.contains(&0) { 0 } else { count };
    Ok((dims, count))
}

/// Bytes that the elements of a tensor need in `raw_data`.
///
/// # Errors
/// As [`dims`], and [`BuildError::Tensor`] if the element type is not supported.
pub(super) fn byte_len(path: &Path, tensor: &TensorProto) -> Result<u64> {
    let (dims, count) = dims(path, tensor)?;
    let element = tensor.data_type();
    let Some(size) = element::size(element) else {
        let name = element::name(element);
        let what = format!("has element type {name}, which is not supported in external data");
        return Err(fail(path, tensor, what));
    };
    let bytes = u64::try_from(count).ok().and_then(|n| n.checked_mul(size));
    bytes.ok_or_else(|| fail(path, tensor, format!("invalid dimensions {dims:?}")))
}

/// Whether a tensor has elements inside.
pub(super) fn has_own_data(tensor: &TensorProto) -> bool {
    !(tensor.raw_data().is_empty()
        && tensor.float_data.is_empty()
        && tensor.int32_data.is_empty()
        && tensor.string_data.is_empty()
        && tensor.int64_data.is_empty()
        && tensor.double_data.is_empty()
        && tensor.uint64_data.is_empty())
}

/// Reads a tensor of floats of any width as f32.
///
/// # Errors
/// [`BuildError::Tensor`] if the elements are not floats, lie in another file, or do not match the
/// dimensions.
pub(crate) fn floats(path: &Path, tensor: &TensorProto) -> Result<Tensor<f32>> {
    let bits = |v: &i32| u16::try_from(*v).unwrap_or(0);
    let source = Source::new(path, tensor)?;
    let data = match source.element {
        element::FLOAT => source.read(&tensor.float_data, |v| *v, f32::from_le_bytes)?,
        element::DOUBLE => source.read(
            &tensor.double_data,
            |v| *v as f32,
            |b| f64::from_le_bytes(b) as f32,
        )?,
        element::FLOAT16 => source.read(
            &tensor.int32_data,
            |v| f16::from_bits(bits(v)).to_f32(),
            |b| f16::from_le_bytes(b).to_f32(),
        )?,
        element::BFLOAT16 => source.read(
            &tensor.int32_data,
            |v| bf16::from_bits(bits(v)).to_f32(),
            |b| bf16::from_le_bytes(b).to_f32(),
        )?,
        other => {
            let found = element::name(other);
            return Err(fail(
                path,
                tensor,
                format!("has element type {found}, expected floats"),
            ));
        }
    };
    Ok(Tensor {
        dims: source.dims,
        data,
    })
}

/// Reads a tensor of floats as an f32 array.
///
/// # Errors
/// As [`floats`].
pub(crate) fn array(path: &Path, tensor: &TensorProto) -> Result<ArrayD<f32>> {
    let Tensor { dims, data } = floats(path, tensor)?;
    ArrayD::from_shape_vec(dims, data).map_err(|e| fail(path, tensor, e.to_string()))
}

/// Reads a tensor of integers or booleans as i64.
///
/// # Errors
/// As [`floats`].
pub(crate) fn integers(path: &Path, tensor: &TensorProto) -> Result<Tensor<i64>> {
    let source = Source::new(path, tensor)?;
    let narrow = &tensor.int32_data;
    let data = match source.element {
        element::INT64 => source.read(&tensor.int64_data, |v| *v, i64::from_le_bytes)?,
        element::INT32 => {
            source.read(narrow, |v| i64::from(*v), |b| i32::from_le_bytes(b).into())?
        }
        element::INT8 => source.read(narrow, |v| i64::from(*v), |b| i8::from_le_bytes(b).into())?,
        element::UINT8 | element::BOOL => {
            source.read(narrow, |v| i64::from(*v), |b| u8::from_le_bytes(b).into())?
        }
        other => {
            let found = element::name(other);
            return Err(fail(
                path,
                tensor,
                format!("has element type {found}, expected integers"),
            ));
        }
    };
    Ok(Tensor {
        dims: source.dims,
        data,
    })
}

/// A FLOAT tensor with the shape and elements of `array`.
pub(crate) fn from_array<D: Dimension>(name: &str, array: &ArrayRef<f32, D>) -> TensorProto {
    let bytes: Vec<u8> = array.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw(name, array.shape(), element::FLOAT, bytes)
}

/// A FLOAT tensor. The number of elements in `data` must be the product of `dims`.
pub fn from_floats(name: &str, dims: &[usize], data: &[f32]) -> TensorProto {
    let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw(name, dims, element::FLOAT, bytes)
}

/// An INT64 tensor. The number of elements in `data` must be the product of `dims`.
pub fn from_integers(name: &str, dims: &[usize], data: &[i64]) -> TensorProto {
    let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw(name, dims, element::INT64, bytes)
}

/// An INT8 tensor. The number of elements in `data` must be the product of `dims`.
pub fn from_codes(name: &str, dims: &[usize], data: &[i8]) -> TensorProto {
    let bytes: Vec<u8> = data.iter().map(|v| v.cast_unsigned()).collect();
    raw(name, dims, element::INT8, bytes)
}

/// A FLOAT16 tensor, each element rounded half to even. The number of elements in `data` must be the
/// product of `dims`.
pub(crate) fn from_halves(name: &str, dims: &[usize], data: &[f32]) -> TensorProto {
    let bytes = data.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
    raw(name, dims, element::FLOAT16, bytes.collect())
}

fn raw(name: &str, dims: &[usize], element: i32, bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(element),
        raw_data: Some(Bytes::from(bytes)),
        ..Default::default()
    }
}

/// A tensor whose data lies in this file, with its checked dimensions.
struct Source<'a> {
    path: &'a Path,
    tensor: &'a TensorProto,
    element: i32,
    dims: Vec<usize>,
    count: usize,
}

impl<'a> Source<'a> {
    fn new(path: &'a Path, tensor: &'a TensorProto) -> Result<Self> {
        if tensor.data_location() != 0 || !tensor.external_data.is_empty() {
            return Err(fail(
                path,
                tensor,
                "its data is in another file, and was not read; save the network as one file (onnx.save with \
                 save_as_external_data=False)"
                    .to_owned(),
            ));
        }
        if tensor.segment.is_some() {
            return Err(fail(
                path,
                tensor,
                "stored in segments, which is not supported".to_owned(),
            ));
        }
        let (dims, count) = dims(path, tensor)?;
        Ok(Self {
            path,
            tensor,
            element: tensor.data_type.unwrap_or_default(),
            dims,
            count,
        })
    }

    /// Reads the elements from `typed` or from the raw bytes, whichever the tensor has.
    fn read<T, U, const N: usize>(
        &self,
        typed: &[T],
        from_typed: impl Fn(&T) -> U,
        from_bytes: impl Fn([u8; N]) -> U,
    ) -> Result<Vec<U>> {
        let raw = match &self.tensor.raw_data {
            Some(raw) if typed.is_empty() => raw,
            _ => {
                self.check(typed.len(), typed.len() == self.count)?;
                return Ok(typed.iter().map(from_typed).collect());
            }
        };
        let found = raw.len() / N;
        self.check(found, found == self.count && raw.len() % N == 0)?;
        let (elements, _) = raw.as_chunks::<N>();
        Ok(elements.iter().map(|&bytes| from_bytes(bytes)).collect())
    }

    fn check(&self, found: usize, ok: bool) -> Result<()> {
        if ok {
            return Ok(());
        }
        Err(fail(
            self.path,
            self.tensor,
            format!(
                "its dimensions {:?} need {} elements of {}, its data has {found}",
                self.dims,
                self.count,
                element::name(self.element)
            ),
        ))
    }
}

/// A [`BuildError::Tensor`] about `tensor`.
pub(super) fn fail(path: &Path, tensor: &TensorProto, what: String) -> BuildError {
    BuildError::Tensor {
        path: path.to_path_buf(),
        tensor: tensor.name.clone().unwrap_or_default(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("net.onnx")
    }

    fn tensor(element: i32, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: Some("w".to_owned()),
            dims: dims.to_vec(),
            data_type: Some(element),
            ..Default::default()
        }
    }

    /// What a tensor of one 16-bit element with these bits reads as.
    fn read_16_bit(element: i32, bits: u16) -> f32 {
        let mut tensor = tensor(element, &[1]);
        tensor.raw_data = Some(Bytes::copy_from_slice(&bits.to_le_bytes()));
        floats(path(), &tensor).unwrap().data[0]
    }

    #[test]
    fn half_precision_is_read_exactly() {
        // numpy: np.array([0x3555, 0x0001, 0x7bff, 0xc000, 0x7c00], np.uint16).view(np.float16)
        let expected = [0.333_251_95, 5.960_464_5e-8, 65504.0, -2.0, f32::INFINITY];
        for (bits, value) in [0x3555, 0x0001, 0x7bff, 0xc000, 0x7c00]
            .into_iter()
            .zip(expected)
        {
            assert_eq!(read_16_bit(element::FLOAT16, bits), value, "{bits:#x}");
        }
        assert!(read_16_bit(element::FLOAT16, 0x7e00).is_nan());
        assert_eq!(read_16_bit(element::BFLOAT16, 0x3fc0), 1.5);
    }

    /// Expected values: `numpy.float32(v).astype(numpy.float16).view(numpy.uint16)`.
    #[test]
    fn floats_are_rounded_to_the_nearest_half() {
        let written = |value: f32| {
            let bytes = from_halves("w", &[1], &[value]).raw_data.unwrap();
            u16::from_le_bytes(bytes[..].try_into().unwrap())
        };
        for (value, bits) in [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (0.333_333_34, 0x3555),
            (65504.0, 0x7bff),
            (65519.99, 0x7bff),
            (65520.0, 0x7c00),
            (f32::INFINITY, 0x7c00),
            (6.103_515_6e-5, 0x0400),
            (6.1e-5, 0x03ff),
            (6.102e-5, 0x0400),
            (5.960_464_5e-8, 0x0001),
            (2.980_232_2e-8, 0x0000),
            (2.980_232_6e-8, 0x0001),
            (1e-10, 0x0000),
            (2049.0, 0x6800),
            (2051.0, 0x6802),
            (0.999_9, 0x3c00),
        ] {
            assert_eq!(written(value), bits, "{value}");
        }
        assert_eq!(written(f32::NAN), 0x7e00);
        for bits in (0..0x7c00).chain(0x8000..0xfc00) {
            assert_eq!(written(read_16_bit(element::FLOAT16, bits)), bits);
        }
    }

    #[test]
    fn raw_and_typed_data_read_alike() {
        let mut typed = tensor(element::FLOAT, &[2, 1]);
        typed.float_data = vec![1.5, -2.0];
        let raw = from_floats("w", &[2, 1], &[1.5, -2.0]);
        assert_eq!(
            floats(path(), &typed).unwrap(),
            floats(path(), &raw).unwrap()
        );

        let mut half = tensor(element::FLOAT16, &[1]);
        half.int32_data = vec![0xc000];
        assert_eq!(floats(path(), &half).unwrap().data, [-2.0]);
        half.int32_data.clear();
        half.raw_data = Some(Bytes::from_static(&[0x00, 0xc0]));
        assert_eq!(floats(path(), &half).unwrap().data, [-2.0]);

        let mut byte = tensor(element::INT8, &[2]);
        byte.raw_data = Some(Bytes::from_static(&[0xff, 0x7f]));
        assert_eq!(integers(path(), &byte).unwrap().data, [-1, 127]);
    }

    #[test]
    fn a_scalar_has_one_element() {
        let scalar = from_integers("s", &[], &[7]);
        let read = integers(path(), &scalar).unwrap();
        assert_eq!((read.dims.len(), read.data), (0, vec![7]));
    }

    #[test]
    fn errors_name_file_tensor_and_counts() {
        let huge = tensor(element::FLOAT, &[1 << 40, 1 << 40]);
        let negative = tensor(element::FLOAT, &[-1, 3]);
        let short = from_floats("w", &[4], &[0.0; 3]);
        let mut odd = tensor(element::FLOAT, &[1]);
        odd.raw_data = Some(Bytes::from_static(&[0; 5]));
        let mut external = tensor(element::FLOAT, &[1]);
        external.data_location = Some(1);
        let wrong = from_integers("w", &[1], &[1]);
        for (tensor, needle) in [
            (huge, "invalid dimensions"),
            (negative, "[-1, 3]"),
            (short, "need 4 elements of FLOAT, its data has 3"),
            (odd, "need 1 elements"),
            (external, "another file"),
            (wrong, "INT64, expected floats"),
        ] {
            let message = floats(path(), &tensor).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
            assert!(message.starts_with("net.onnx: tensor \"w\""), "{message}");
        }
    }
}
