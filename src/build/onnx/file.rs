//! Reads ONNX files from disk and writes them back.

use std::io::Read;
use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;

use super::proto::ModelProto;
use super::scan;
use crate::build::{BuildError, Result};
use crate::files;

/// Largest file that is read, in bytes: the limit of the protobuf format itself. Larger networks keep
/// their weights in external files, which are not supported.
pub(crate) const MAX_FILE_BYTES: u64 = (1 << 31) - 1;

/// Reads the file at `path`. Needs memory for the file itself, and at most three times its length plus
/// one MiB for the messages; tensors share the file's memory.
pub(super) fn read(path: &Path) -> Result<ModelProto> {
    let io = BuildError::io(path);
    let file = std::fs::File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    let len = metadata.len();
    if !metadata.is_file() {
        return Err(BuildError::NotOnnx {
            path: path.to_path_buf(),
            what: "not a regular file".to_owned(),
        });
    }
    if len > MAX_FILE_BYTES {
        return Err(BuildError::TooLarge {
            path: path.to_path_buf(),
            bytes: len,
            limit: MAX_FILE_BYTES,
        });
    }
    let mut bytes = Vec::with_capacity(len as usize);
    // Ignores what is appended while the file is read.
    file.take(len).read_to_end(&mut bytes).map_err(io)?;
    decode(path, bytes.into())
}

/// Writes `model` to `path`. Fields are ordered by number, as other writers do, so an unchanged file is
/// written byte for byte.
pub(super) fn write(path: &Path, model: &ModelProto) -> Result<()> {
    files::write(path, &encode(model)).map_err(|error| BuildError::Write {
        path: error.path,
        source: error.source,
    })
}

/// Encodes `model`.
pub fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// Decodes the model in `bytes`; `path` is only for error messages.
///
/// # Errors
/// [`BuildError::NotOnnx`] if the bytes are truncated, are not protobuf, contain no graph, or would
/// take too much memory for a file of this length.
pub fn decode(path: &Path, bytes: Bytes) -> Result<ModelProto> {
    let not_onnx = |what: String| BuildError::NotOnnx {
        path: path.to_path_buf(),
        what,
    };
    let found = scan::scan_model(&bytes).map_err(not_onnx)?;
    if found.unknown_fields > 0 {
        log::warn!(
            "{}: {} fields are unknown to this version of centerpoint; they are dropped when the file is written",
            path.display(),
            found.unknown_fields
        );
    }
    let model = ModelProto::decode(bytes).map_err(|e| not_onnx(e.to_string()))?;
    if model.graph.is_none() {
        return Err(not_onnx("it contains no graph".to_owned()));
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prost::Message as _;

    use super::{decode, encode};
    use crate::build::onnx::Graph;
    use crate::build::onnx::proto::*;
    use crate::build::onnx::tensor::from_floats;
    use crate::testing::nets::{model, node, value};

    #[test]
    fn every_field_survives_reading_and_writing() {
        let pair = StringStringEntryProto {
            key: Some("k".into()),
            value: Some("v".into()),
        };
        let mut full = model(GraphProto {
            node: vec![node("Relu", &["x"], &["out"])],
            initializer: vec![from_floats("w", &[2, 2], &[0.5, -1.0, 2.0, -0.0])],
            input: vec![value("x", &[1, 4, 16, 16])],
            output: vec![value("out", &[1, 4, 16, 16])],
            ..Default::default()
        });
        full.metadata_props = vec![pair.clone()];
        full.functions = vec![FunctionProto {
            name: Some("f".into()),
            attribute: vec!["a".into()],
            metadata_props: vec![pair.clone()],
            ..Default::default()
        }];
        let graph = full.graph.as_mut().unwrap();
        graph.quantization_annotation = vec![TensorAnnotation {
            tensor_name: Some("x".into()),
            quant_parameter_tensor_names: vec![pair.clone()],
        }];
        graph.node[0].attribute.push(AttributeProto {
            name: Some("all".into()),
            r#type: Some(0),
            f: Some(-0.0),
            floats: vec![1.0, f32::NAN],
            strings: vec!["é".as_bytes().to_vec().into()],
            tp: Some(Box::new(TypeProto {
                denotation: Some("d".into()),
                optional_type: Some(OptionalTypeProto {
                    elem_type: Some(Box::default()),
                }),
                ..Default::default()
            })),
            sparse_tensors: vec![SparseTensorProto {
                dims: vec![3],
                ..Default::default()
            }],
            ..Default::default()
        });
        let bytes = full.encode_to_vec();
        let path = Path::new("full.onnx");
        let graph = Graph::new(path, decode(path, bytes.clone().into()).unwrap()).unwrap();
        assert!(encode(&graph.to_model()) == bytes);
    }
}
