//! ONNX files from and to disk.

use std::io::Read;
use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;

use super::proto::ModelProto;
use super::scan;
use crate::build::{BuildError, Result};
use crate::files;

/// Longest file that is read, in bytes: the limit of the protobuf format itself. Larger networks keep
/// their weights in external files, which are not read here.
pub const MAX_FILE_BYTES: u64 = (1 << 31) - 1;

/// Reads the file at `path`. Memory: the file once, and at most three times its length (and one MiB)
/// for the messages; the tensors share the file's memory.
pub(super) fn read(path: &Path) -> Result<ModelProto> {
    let io = |source| BuildError::Io {
        path: path.to_path_buf(),
        source,
    };
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
    // A file that grows while it is read is cut at the length that it had.
    file.take(len).read_to_end(&mut bytes).map_err(io)?;
    decode(path, bytes.into())
}

/// Writes `model` to `path`, in the order of the format's field numbers as other writers do: a file
/// that was read and not changed is written byte for byte.
pub(super) fn write(path: &Path, model: &ModelProto) -> Result<()> {
    files::write(path, &encode(model)).map_err(|error| BuildError::Write {
        path: error.path,
        source: error.source,
    })
}

/// The bytes of `model`.
pub fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// The model in `bytes`; `path` is for error messages only.
///
/// # Errors
/// [`BuildError::NotOnnx`] if the bytes are cut short, are not protobuf, hold no graph, or declare
/// more messages than a file of this length should.
pub fn decode(path: &Path, bytes: Bytes) -> Result<ModelProto> {
    let not_onnx = |what: String| BuildError::NotOnnx {
        path: path.to_path_buf(),
        what,
    };
    let found = scan::scan_model(&bytes).map_err(not_onnx)?;
    if found.unknown_fields > 0 {
        log::warn!(
            "{}: {} fields are newer than this program and are left out when the file is written",
            path.display(),
            found.unknown_fields
        );
    }
    let model = ModelProto::decode(bytes).map_err(|e| not_onnx(e.to_string()))?;
    if model.graph.is_none() {
        return Err(not_onnx("it holds no graph".to_owned()));
    }
    Ok(model)
}
