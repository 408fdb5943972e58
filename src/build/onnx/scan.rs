//! Measures how much memory a file's messages take, before anything is decoded.
//!
//! A decoded message is larger than its bytes: an empty node takes two bytes in the file and several
//! hundred in memory. A file of such nodes would cost a hundred times its length, so this walk adds up
//! what decoding will allocate and stops at [`budget`]. Tensor bytes do not count, because they share
//! the file's memory. The messages and their fields are one table, below.

use std::mem::size_of;

use super::proto::*;

/// Deepest nesting of messages: model, graph, node, attribute, graph, … A graph without subgraphs
/// needs six levels.
const MAX_DEPTH: usize = 32;

/// Memory in bytes that decoding a file of `len` bytes may take in addition to the file: three times its
/// length, plus one MiB so that small files with many attributes pass.
pub(crate) fn budget(len: usize) -> usize {
    len.saturating_mul(3).saturating_add(1 << 20)
}

/// The result of a walk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Bytes that decoding will allocate, without tensor bytes.
    pub(crate) memory: usize,
    /// Number of fields that `proto` does not declare; writing the file would lose them.
    pub(crate) unknown_fields: usize,
}

/// Walks `bytes` as a `ModelProto`.
///
/// # Errors
/// A sentence, if the bytes are truncated, nested too deeply, use a wire type that ONNX does not use, or
/// would take more memory than [`budget`].
pub(crate) fn scan_model(bytes: &[u8]) -> Result<Scan, String> {
    let mut walk = Walk {
        budget: budget(bytes.len()),
        scan: Scan::default(),
    };
    walk.message(Reader { bytes, at: 0 }, &MODEL, 0)?;
    Ok(walk.scan)
}

/// A message type of `proto`.
struct Message {
    /// Bytes of one decoded message; 0 if it only occurs inside its parent, whose size includes it.
    size: usize,
    /// Its fields by number.
    fields: &'static [(u64, Field)],
}

/// The type of a field, as far as memory is concerned.
enum Field {
    Number,
    Text,
    Blob,
    One(&'static Message),
    /// Repeated varints that decode to this many bytes each, packed or not.
    Varints(usize),
    /// Repeated numbers of this many bytes each, packed or not.
    Fixed(usize),
    Texts,
    Blobs,
    Many(&'static Message),
}

use Field::{Blob, Blobs, Fixed, Many, Number, One, Text, Texts, Varints};

/// Declares the table: a static for each message, with its decoded size and its fields.
macro_rules! messages {
    ($($name:ident, $size:expr, [$($number:literal: $field:expr),+ $(,)?];)+) => {
        $(static $name: Message = Message { size: $size, fields: &[$(($number, $field)),+] };)+
    };
}

messages! {
    MODEL, size_of::<ModelProto>(), [
        1: Number, 2: Text, 3: Text, 4: Text, 5: Number, 6: Text, 7: One(&GRAPH), 8: Many(&OPSET),
        14: Many(&PAIR), 20: Many(&TRAINING), 25: Many(&FUNCTION), 26: Many(&DEVICE),
    ];
    OPSET, size_of::<OperatorSetIdProto>(), [1: Text, 2: Number];
    PAIR, size_of::<StringStringEntryProto>(), [1: Text, 2: Text];
    TRAINING, size_of::<TrainingInfoProto>(), [
        1: One(&GRAPH), 2: One(&GRAPH), 3: Many(&PAIR), 4: Many(&PAIR),
    ];
    DEVICE, size_of::<DeviceConfigurationProto>(), [1: Text, 2: Number, 3: Texts];
    FUNCTION, size_of::<FunctionProto>(), [
        1: Text, 4: Texts, 5: Texts, 6: Texts, 7: Many(&NODE), 8: Text, 9: Many(&OPSET), 10: Text,
        11: Many(&ATTRIBUTE), 12: Many(&VALUE_INFO), 13: Text, 14: Many(&PAIR),
    ];
    GRAPH, size_of::<GraphProto>(), [
        1: Many(&NODE), 2: Text, 5: Many(&TENSOR), 10: Text, 11: Many(&VALUE_INFO),
        12: Many(&VALUE_INFO), 13: Many(&VALUE_INFO), 14: Many(&ANNOTATION), 15: Many(&SPARSE_TENSOR),
        16: Many(&PAIR),
    ];
    NODE, size_of::<NodeProto>(), [
        1: Texts, 2: Texts, 3: Text, 4: Text, 5: Many(&ATTRIBUTE), 6: Text, 7: Text, 8: Text,
        9: Many(&PAIR), 10: Many(&NODE_DEVICE),
    ];
    NODE_DEVICE, size_of::<NodeDeviceConfigurationProto>(), [
        1: Text, 2: Many(&SHARDING), 3: Number,
    ];
    SHARDING, size_of::<ShardingSpecProto>(), [
        1: Text, 2: Varints(8), 3: Many(&INT_LIST), 4: Many(&SHARDED_DIM),
    ];
    SHARDED_DIM, size_of::<ShardedDimProto>(), [1: Number, 2: Many(&SIMPLE_DIM)];
    SIMPLE_DIM, size_of::<SimpleShardedDimProto>(), [1: Number, 2: Text, 3: Number];
    INT_LIST, size_of::<IntIntListEntryProto>(), [1: Number, 2: Varints(8)];
    ATTRIBUTE, size_of::<AttributeProto>(), [
        1: Text, 2: Number, 3: Number, 4: Blob, 5: One(&TENSOR), 6: One(&GRAPH), 7: Fixed(4),
        8: Varints(8), 9: Blobs, 10: Many(&TENSOR), 11: Many(&GRAPH), 13: Text, 14: One(&TYPE),
        15: Many(&TYPE), 20: Number, 21: Text, 22: One(&SPARSE_TENSOR), 23: Many(&SPARSE_TENSOR),
    ];
    TENSOR, size_of::<TensorProto>(), [
        1: Varints(8), 2: Number, 3: One(&SEGMENT), 4: Fixed(4), 5: Varints(4), 6: Blobs, 7: Varints(8),
        8: Text, 9: Blob, 10: Fixed(8), 11: Varints(8), 12: Text, 13: Many(&PAIR), 14: Number,
        16: Many(&PAIR),
    ];
    SEGMENT, 0, [1: Number, 2: Number];
    SPARSE_TENSOR, size_of::<SparseTensorProto>(), [
        1: One(&TENSOR), 2: One(&TENSOR), 3: Varints(8),
    ];
    ANNOTATION, size_of::<TensorAnnotation>(), [1: Text, 2: Many(&PAIR)];
    VALUE_INFO, size_of::<ValueInfoProto>(), [1: Text, 2: One(&TYPE), 3: Text, 4: Many(&PAIR)];
    TYPE, size_of::<TypeProto>(), [
        1: One(&TENSOR_TYPE), 4: One(&BOXED_TYPE), 5: One(&BOXED_TYPE), 6: Text, 7: One(&OPAQUE),
        8: One(&TENSOR_TYPE), 9: One(&BOXED_TYPE),
    ];
    TENSOR_TYPE, 0, [1: Number, 2: One(&SHAPE)];
    // Sequence and Optional have the type in field 1; Map has its key in 1 and the type in 2. A key is a
    // varint and a type is length-delimited, so one entry serves all three.
    BOXED_TYPE, 0, [1: One(&TYPE), 2: One(&TYPE)];
    OPAQUE, 0, [1: Text, 2: Text];
    SHAPE, 0, [1: Many(&DIMENSION)];
    DIMENSION, size_of::<DimensionProto>(), [1: Number, 2: Text, 3: Text];
}

/// Bytes that a `Vec` holds after `n` pushes of elements of `element` bytes.
fn capacity(n: usize, element: usize) -> usize {
    let least = if element > 1024 { 1 } else { 4 };
    match n {
        0 => 0,
        n => n.next_power_of_two().max(least).saturating_mul(element),
    }
}

struct Walk {
    budget: usize,
    scan: Scan,
}

impl Walk {
    fn message(
        &mut self,
        mut reader: Reader<'_>,
        message: &Message,
        depth: usize,
    ) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("messages are nested more than {MAX_DEPTH} deep"));
        }
        // Elements of each repeated field so far; ONNX's field numbers are below 32.
        let mut counts = [0_usize; 32];
        while reader.at < reader.bytes.len() {
            let (number, wire) = reader.tag()?;
            let field = message.fields.iter().find(|(n, _)| *n == number);
            let payload = reader.payload(wire)?;
            let nested = || Reader {
                bytes: payload.unwrap_or_default(),
                at: 0,
            };
            // The size of an element, and how many this field adds.
            let (element, added) = match field.map(|(_, field)| field) {
                Some(Number | Blob) => (0, 0),
                None => {
                    self.scan.unknown_fields += 1;
                    (0, 0)
                }
                Some(Text) => {
                    self.allocate(payload.map_or(0, <[u8]>::len))?;
                    (0, 0)
                }
                Some(Texts) => {
                    self.allocate(payload.map_or(0, <[u8]>::len))?;
                    (size_of::<String>(), 1)
                }
                Some(Blobs) => (size_of::<prost::bytes::Bytes>(), 1),
                Some(Varints(size)) => (*size, payload.map_or(1, varints)),
                Some(Fixed(size)) => (*size, payload.map_or(1, |p| p.len() / size)),
                Some(One(inner)) => {
                    if payload.is_some() {
                        self.allocate(inner.size)?;
                        self.message(nested(), inner, depth + 1)?;
                    }
                    (0, 0)
                }
                Some(Many(inner)) => {
                    self.message(nested(), inner, depth + 1)?;
                    (inner.size, 1)
                }
            };
            if let Some(count) = counts.get_mut(number as usize) {
                let before = capacity(*count, element);
                *count += added;
                self.allocate(capacity(*count, element) - before)?;
            }
        }
        Ok(())
    }

    fn allocate(&mut self, bytes: usize) -> Result<(), String> {
        self.scan.memory = self.scan.memory.saturating_add(bytes);
        if self.scan.memory > self.budget {
            return Err(format!(
                "its messages would take more than {} bytes of memory, far more than a network of this \
                 file size needs",
                self.budget
            ));
        }
        Ok(())
    }
}

/// Number of varints in a packed field. Each ends with a byte below 128.
fn varints(payload: &[u8]) -> usize {
    payload.iter().filter(|&&byte| byte < 0x80).count()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or("the file is truncated")?;
            self.at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is longer than ten bytes".to_owned())
    }

    fn tag(&mut self) -> Result<(u64, u64), String> {
        let tag = self.varint()?;
        if tag >> 3 == 0 || tag > u64::from(u32::MAX) {
            return Err(format!("field number {} does not exist", tag >> 3));
        }
        Ok((tag >> 3, tag & 7))
    }

    /// Skips one value; returns its bytes if it is length-delimited.
    fn payload(&mut self, wire: u64) -> Result<Option<&'a [u8]>, String> {
        let len = match wire {
            0 => {
                self.varint()?;
                return Ok(None);
            }
            1 => 8,
            2 => usize::try_from(self.varint()?).map_err(|e| e.to_string())?,
            5 => 4,
            other => return Err(format!("ONNX files have no wire type {other}")),
        };
        let left = self.bytes.len() - self.at;
        let bytes = self
            .at
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| {
                format!("a field has {len} bytes, but only {left} are left in the file")
            })?;
        self.at += len;
        Ok((wire == 2).then_some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// Scans a file that holds `graph`.
    fn scan(graph: GraphProto) -> Result<Scan, String> {
        let model = ModelProto {
            graph: Some(graph),
            ..Default::default()
        };
        scan_model(&model.encode_to_vec())
    }

    fn empty_nodes(count: usize) -> GraphProto {
        GraphProto {
            node: vec![NodeProto::default(); count],
            ..Default::default()
        }
    }

    #[test]
    fn empty_nodes_count_at_their_decoded_size() {
        let scan = scan(empty_nodes(5)).unwrap();
        assert_eq!(
            scan.memory,
            8 * size_of::<NodeProto>() + size_of::<GraphProto>()
        );
        assert_eq!(scan.unknown_fields, 0);
    }

    #[test]
    fn a_file_of_empty_nodes_is_rejected() {
        let error = scan(empty_nodes(100_000)).unwrap_err();
        assert!(error.contains("bytes of memory"), "{error}");
    }

    #[test]
    fn deep_nesting_is_rejected() {
        let mut graph = GraphProto::default();
        for _ in 0..20 {
            let attribute = AttributeProto {
                g: Some(Box::new(graph)),
                ..Default::default()
            };
            let node = NodeProto {
                attribute: vec![attribute],
                ..Default::default()
            };
            graph = GraphProto {
                node: vec![node],
                ..Default::default()
            };
        }
        let error = scan(graph).unwrap_err();
        assert!(error.contains("deep"), "{error}");
    }

    #[test]
    fn unknown_fields_are_counted() {
        // Field 30 of the model, a varint.
        let scan = scan_model(&[0xf0, 0x01, 0x05]).unwrap();
        assert_eq!(scan.unknown_fields, 1);
    }
}
