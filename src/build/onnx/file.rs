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
pub const MAX_FILE_BYTES: u64 = (1 << 31) - 1;

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
