//! How much memory a file's messages take, found by walking the bytes before anything is decoded.
//!
//! A decoded message is larger than its bytes: two bytes can declare an empty node, which takes
//! several hundred bytes of memory. A file made of such declarations would cost a hundred times its
//! length, so the walk adds up what decoding will allocate and stops at [`budget`]. Tensor bytes are
//! not counted: they share the file's own memory.

use std::mem::size_of;

use super::proto::*;

/// Deepest nesting of messages: model, graph, node, attribute, graph, … A graph without subgraphs
/// needs six.
const MAX_DEPTH: usize = 32;

/// Memory that decoding a file of `len` bytes may take beside the file itself, in bytes: three times
/// the file, and one MiB so that small files with many attributes pass.
pub(crate) fn budget(len: usize) -> usize {
    len.saturating_mul(3).saturating_add(1 << 20)
}

/// What the walk found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Bytes that decoding will allocate, tensor bytes apart.
    pub(crate) memory: usize,
    /// Number of fields that are in no message of `proto`; they would be lost on writing.
    pub(crate) unknown_fields: usize,
}

/// Walks `bytes` as a `ModelProto`.
///
/// # Errors
/// A sentence: cut short, nested too deeply, of a wire type that ONNX has not, or too costly.
pub(crate) fn scan_model(bytes: &[u8]) -> Result<Scan, String> {
    let mut walk = Walk {
        budget: budget(bytes.len()),
        found: Scan::default(),
    };
    walk.message(Reader { bytes, at: 0 }, Kind::Model, 0)?;
    Ok(walk.found)
}

/// A message type, as far as the walk must tell them apart.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Training,
    Device,
    Function,
    Graph,
    Node,
    NodeDevice,
    Sharding,
    ShardedDim,
    SimpleDim,
    IntList,
    Attribute,
    Tensor,
    Segment,
    Sparse,
    Annotation,
    ValueInfo,
    Type,
    TensorType,
    BoxedType,
    Opaque,
    Shape,
    Dimension,
    Opset,
    Pair,
}

/// What a field is, as far as memory goes.
#[derive(Clone, Copy)]
enum Field {
    Number,
    Text,
    Blob,
    Message(Kind),
    /// Varints that decode to so many bytes each, packed or not.
    Numbers(usize),
    /// Numbers of so many bytes each, packed or not.
    Fixed(usize),
    Texts,
    Blobs,
    /// Elements of so many bytes.
    Messages(Kind, usize),
    Unknown,
}

fn field(kind: Kind, number: u64) -> Field {
    use Field::*;
    let pairs = Messages(Kind::Pair, size_of::<StringStringEntryProto>());
    let nodes = Messages(Kind::Node, size_of::<NodeProto>());
    let tensors = Messages(Kind::Tensor, size_of::<TensorProto>());
    let attributes = Messages(Kind::Attribute, size_of::<AttributeProto>());
    let values = Messages(Kind::ValueInfo, size_of::<ValueInfoProto>());
    let sparse = Messages(Kind::Sparse, size_of::<SparseTensorProto>());
    let opsets = Messages(Kind::Opset, size_of::<OperatorSetIdProto>());
    match (kind, number) {
        (Kind::Model, 1 | 5) => Number,
        (Kind::Model, 2 | 3 | 4 | 6) => Text,
        (Kind::Model, 7) => Message(Kind::Graph),
        (Kind::Model, 8) => opsets,
        (Kind::Model, 14) => pairs,
        (Kind::Model, 20) => Messages(Kind::Training, size_of::<TrainingInfoProto>()),
        (Kind::Model, 25) => Messages(Kind::Function, size_of::<FunctionProto>()),
        (Kind::Model, 26) => Messages(Kind::Device, size_of::<DeviceConfigurationProto>()),
        (Kind::Training, 1 | 2) => Message(Kind::Graph),
        (Kind::Training, 3 | 4) => pairs,
        (Kind::Device, 1) => Text,
        (Kind::Device, 2) => Number,
        (Kind::Device, 3) => Texts,
        (Kind::Function, 1 | 8 | 10 | 13) => Text,
        (Kind::Function, 4..=6) => Texts,
        (Kind::Function, 7) => nodes,
        (Kind::Function, 9) => opsets,
        (Kind::Function, 11) => attributes,
        (Kind::Function, 12) => values,
        (Kind::Function, 14) => pairs,
        (Kind::Graph, 1) => nodes,
        (Kind::Graph, 2 | 10) => Text,
        (Kind::Graph, 5) => tensors,
        (Kind::Graph, 11..=13) => values,
        (Kind::Graph, 14) => Messages(Kind::Annotation, size_of::<TensorAnnotation>()),
        (Kind::Graph, 15) => sparse,
        (Kind::Graph, 16) => pairs,
        (Kind::Node, 1 | 2) => Texts,
        (Kind::Node, 3 | 4 | 6 | 7 | 8) => Text,
        (Kind::Node, 5) => attributes,
        (Kind::Node, 9) => pairs,
        (Kind::Node, 10) => Messages(Kind::NodeDevice, size_of::<NodeDeviceConfigurationProto>()),
        (Kind::NodeDevice, 1) => Text,
        (Kind::NodeDevice, 2) => Messages(Kind::Sharding, size_of::<ShardingSpecProto>()),
        (Kind::NodeDevice, 3) => Number,
        (Kind::Sharding, 1) => Text,
        (Kind::Sharding, 2) => Numbers(8),
        (Kind::Sharding, 3) => Messages(Kind::IntList, size_of::<IntIntListEntryProto>()),
        (Kind::Sharding, 4) => Messages(Kind::ShardedDim, size_of::<ShardedDimProto>()),
        (Kind::ShardedDim, 1) => Number,
        (Kind::ShardedDim, 2) => Messages(Kind::SimpleDim, size_of::<SimpleShardedDimProto>()),
        (Kind::SimpleDim, 1 | 3) => Number,
        (Kind::SimpleDim, 2) => Text,
        (Kind::IntList, 1) => Number,
        (Kind::IntList, 2) => Numbers(8),
        (Kind::Attribute, 1 | 13 | 21) => Text,
        (Kind::Attribute, 2 | 3 | 20) => Number,
        (Kind::Attribute, 4) => Blob,
        (Kind::Attribute, 5) => Message(Kind::Tensor),
        (Kind::Attribute, 6) => Message(Kind::Graph),
        (Kind::Attribute, 7) => Fixed(4),
        (Kind::Attribute, 8) => Numbers(8),
        (Kind::Attribute, 9) => Blobs,
        (Kind::Attribute, 10) => tensors,
        (Kind::Attribute, 11) => Messages(Kind::Graph, size_of::<GraphProto>()),
        (Kind::Attribute, 14) => Message(Kind::Type),
        (Kind::Attribute, 15) => Messages(Kind::Type, size_of::<TypeProto>()),
        (Kind::Attribute, 22) => Message(Kind::Sparse),
        (Kind::Attribute, 23) => sparse,
        (Kind::Tensor, 1 | 7 | 11) => Numbers(8),
        (Kind::Tensor, 10) => Fixed(8),
        (Kind::Tensor, 2 | 14) => Number,
        (Kind::Tensor, 3) => Message(Kind::Segment),
        (Kind::Tensor, 4) => Fixed(4),
        (Kind::Tensor, 5) => Numbers(4),
        (Kind::Tensor, 6) => Blobs,
        (Kind::Tensor, 8 | 12) => Text,
        (Kind::Tensor, 9) => Blob,
        (Kind::Tensor, 13 | 16) => pairs,
        (Kind::Segment, 1 | 2) => Number,
        (Kind::Sparse, 1 | 2) => Message(Kind::Tensor),
        (Kind::Sparse, 3) => Numbers(8),
        (Kind::Annotation, 1) => Text,
        (Kind::Annotation, 2) => pairs,
        (Kind::ValueInfo, 1 | 3) => Text,
        (Kind::ValueInfo, 2) => Message(Kind::Type),
        (Kind::ValueInfo, 4) => pairs,
        (Kind::Type, 1 | 8) => Message(Kind::TensorType),
        (Kind::Type, 4 | 5 | 9) => Message(Kind::BoxedType),
        (Kind::Type, 6) => Text,
        (Kind::Type, 7) => Message(Kind::Opaque),
        (Kind::TensorType, 1) => Number,
        (Kind::TensorType, 2) => Message(Kind::Shape),
        // Sequence and Optional have the type in field 1, Map the key in 1 and the type in 2. A key
        // is a varint, a type is length-delimited, so that one rule serves all three.
        (Kind::BoxedType, 1 | 2) => Message(Kind::Type),
        (Kind::Opaque, 1 | 2) => Text,
        (Kind::Shape, 1) => Messages(Kind::Dimension, size_of::<DimensionProto>()),
        (Kind::Dimension, 1) => Number,
        (Kind::Dimension, 2 | 3) => Text,
        (Kind::Opset, 1) => Text,
        (Kind::Opset, 2) => Number,
        (Kind::Pair, 1 | 2) => Text,
        _ => Unknown,
    }
}

/// Size of a message that is stored behind a pointer.
fn boxed_size(kind: Kind) -> usize {
    match kind {
        Kind::Tensor => size_of::<TensorProto>(),
        Kind::Graph => size_of::<GraphProto>(),
        Kind::Sparse => size_of::<SparseTensorProto>(),
        Kind::Type => size_of::<TypeProto>(),
        // Stored inside their parents.
        _ => 0,
    }
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
    found: Scan,
}

impl Walk {
    fn message(&mut self, mut reader: Reader<'_>, kind: Kind, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("messages are nested more than {MAX_DEPTH} deep"));
        }
        // Elements so far of each repeated field; ONNX's field numbers are below 32.
        let mut counts = [0_usize; 32];
        while reader.at < reader.bytes.len() {
            let (number, wire) = reader.tag()?;
            let field = field(kind, number);
            let payload = reader.payload(wire)?;
            let nested = || Reader {
                bytes: payload.unwrap_or_default(),
                at: 0,
            };
            let (element, added) = match field {
                Field::Number | Field::Blob => (0, 0),
                Field::Unknown => {
                    self.found.unknown_fields += 1;
                    (0, 0)
                }
                Field::Text => {
                    self.allocate(payload.map_or(0, <[u8]>::len))?;
                    (0, 0)
                }
                Field::Texts => {
                    self.allocate(payload.map_or(0, <[u8]>::len))?;
                    (size_of::<String>(), 1)
                }
                Field::Blobs => (size_of::<prost::bytes::Bytes>(), 1),
                Field::Numbers(size) => (size, payload.map_or(1, varints)),
                Field::Fixed(size) => (size, payload.map_or(1, |p| p.len() / size)),
                Field::Message(inner) => {
                    if payload.is_some() {
                        self.allocate(boxed_size(inner))?;
                        self.message(nested(), inner, depth + 1)?;
                    }
                    (0, 0)
                }
                Field::Messages(inner, size) => {
                    self.message(nested(), inner, depth + 1)?;
                    (size, 1)
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
        self.found.memory = self.found.memory.saturating_add(bytes);
        if self.found.memory > self.budget {
            return Err(format!(
                "its messages would take more than {} bytes of memory, which no network of this \
                 length needs",
                self.budget
            ));
        }
        Ok(())
    }
}

/// Number of varints in a packed field: each ends with a byte below 128.
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
            let byte = *self.bytes.get(self.at).ok_or("the file is cut short")?;
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

    /// Steps over one value; the bytes of a length-delimited one are returned.
    fn payload(&mut self, wire: u64) -> Result<Option<&'a [u8]>, String> {
        let len = match wire {
            0 => {
                self.varint()?;
                return Ok(None);
            }
            1 => 8,
            2 => usize::try_from(self.varint()?).map_err(|e| e.to_string())?,
            5 => 4,
            other => return Err(format!("wire type {other} does not occur in ONNX files")),
        };
        let left = self.bytes.len() - self.at;
        let bytes = self
            .at
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| format!("a field has {len} bytes and the file only {left} more"))?;
        self.at += len;
        Ok((wire == 2).then_some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn empty_nodes_are_counted_at_their_decoded_size() {
        let graph = GraphProto {
            node: vec![NodeProto::default(); 5],
            ..Default::default()
        };
        let bytes = ModelProto {
            graph: Some(graph),
            ..Default::default()
        }
        .encode_to_vec();
        let scan = scan_model(&bytes).unwrap();
        assert_eq!(
            scan.memory,
            8 * size_of::<NodeProto>() + size_of::<GraphProto>()
        );
        assert_eq!(scan.unknown_fields, 0);
    }

    #[test]
    fn a_file_of_empty_nodes_is_refused() {
        let graph = GraphProto {
            node: vec![NodeProto::default(); 100_000],
            ..Default::default()
        };
        let bytes = ModelProto {
            graph: Some(graph),
            ..Default::default()
        }
        .encode_to_vec();
        let error = scan_model(&bytes).unwrap_err();
        assert!(error.contains("bytes of memory"), "{error}");
    }

    #[test]
    fn deep_nesting_is_refused() {
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
        let bytes = ModelProto {
            graph: Some(graph),
            ..Default::default()
        }
        .encode_to_vec();
        let error = scan_model(&bytes).unwrap_err();
        assert!(error.contains("deep"), "{error}");
    }

    #[test]
    fn unknown_fields_are_counted() {
        // Field 30 of the model, a varint.
        let scan = scan_model(&[0xf0, 0x01, 0x05]).unwrap();
        assert_eq!(scan.unknown_fields, 1);
    }
}
