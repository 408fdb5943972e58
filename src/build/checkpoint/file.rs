//! The tensors of a checkpoint by name: files of `torch.save` (ZIP, legacy, tar) and safetensors.
//!
//! Nothing of a pickle runs: what it calls besides the functions that rebuild tensors stays a name. No tensor is read
//! before it is asked for, and none that claims more bytes than its file has.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use pytorch_reader::{DType, PickleValue, PytorchReader};
use safetensors::{Dtype, SafeTensors};
use tempfile::NamedTempFile;

use super::CheckpointError;
use crate::build::onnx::tensor::Tensor;
use crate::build::{BuildError, Result};
use crate::files;

/// Keys under which a file may hold its state dict.
const WRAPPERS: [&str; 2] = ["state_dict", "model_state_dict"];
/// Keys of `meta` that hold the configuration's text: of mmengine, and of mmcv before it.
const CONFIGS: [&str; 2] = ["cfg", "config"];
/// Longest header of a safetensors file, as the format defines.
const MAX_HEADER: u64 = 100_000_000;
/// How often the bytes of a file may be read: tensors may share them, and some are read twice.
const MAX_SHARING: u64 = 4;
/// Modules that no checkpoint calls.
const FORBIDDEN_MODULES: [&str; 12] = [
    "commands",
    "ctypes",
    "importlib",
    "nt",
    "os",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
];
/// Functions of Python itself that no checkpoint calls.
const FORBIDDEN_BUILTINS: [&str; 6] = ["__import__", "compile", "eval", "exec", "input", "open"];

/// A file's tensors.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// Bytes of the file.
    len: u64,
    /// Bytes of tensors that were read so far.
    read: Cell<u64>,
    tensors: BTreeMap<String, Stored>,
    /// The text of the configuration that mmengine saves.
    pub(super) config: Option<String>,
    /// Keys of the root beside the state dict.
    pub(super) beside: Vec<String>,
    /// What the tensors are read from, if not from the file itself.
    _copy: Option<NamedTempFile>,
}

/// A tensor that was not read yet.
#[derive(Debug)]
enum Stored {
    Pickled(pytorch_reader::Tensor),
    Safe {
        dtype: Dtype,
        dims: Vec<usize>,
        bytes: Vec<u8>,
    },
}

impl Stored {
    fn dims(&self) -> &[usize] {
        match self {
            Self::Pickled(tensor) => tensor.shape(),
            Self::Safe { dims, .. } => dims,
        }
    }
}

/// The forms of numbers that become f32.
#[derive(Clone, Copy)]
enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

impl File {
    /// Lists the tensors of the file at `path`.
    ///
    /// # Errors
    /// [`BuildError::Io`], or [`CheckpointError`] if it is no checkpoint.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let io = BuildError::io(path);
        let len = files::len(path)?;
        // Opening a pipe would wait for its writer.
        if !path.is_file() {
            return Err(unreadable(path, "not a file").into());
        }
        let mut start = Vec::new();
        let file = std::fs::File::open(path).map_err(io)?;
        file.take(9).read_to_end(&mut start).map_err(io)?;
        let header = start.first_chunk().map(|n| u64::from_le_bytes(*n));
        if header.is_some_and(|n| n <= MAX_HEADER) && start.get(8) == Some(&b'{') {
            return Self::safetensors(path, len);
        }
        Self::pickled(path, len)
    }

    fn safetensors(path: &Path, len: u64) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(BuildError::io(path))?;
        let read = SafeTensors::deserialize(&bytes).map_err(|error| unreadable(path, error))?;
        let tensors = read.iter().map(|(name, tensor)| {
            let stored = Stored::Safe {
                dtype: tensor.dtype(),
                dims: tensor.shape().to_vec(),
                bytes: tensor.data().to_vec(),
            };
            (name.to_owned(), stored)
        });
        Ok(Self {
            path: path.into(),
            len,
            read: Cell::new(0),
            tensors: tensors.collect(),
            config: None,
            beside: Vec::new(),
            _copy: None,
        })
    }

    fn pickled(path: &Path, len: u64) -> Result<Self> {
        let copy = without_zip64(path, len).map_err(BuildError::io(path))?;
        let source = copy.as_ref().map_or(path, NamedTempFile::path);
        let root = PytorchReader::read_pickle_data(source, None);
        let root = root.map_err(|error| unreadable(path, error))?;
        if let Some((place, name)) = forbidden(&root, &mut Vec::new()) {
            return Err(CheckpointError::Code {
                path: path.into(),
                place,
                name,
            }
            .into());
        }
        let no_dictionary = |place: &str, value: &PickleValue| CheckpointError::NoStateDict {
            path: path.into(),
            place: place.into(),
            found: kind(value).into(),
        };
        let PickleValue::Dict(entries) = &root else {
            return Err(no_dictionary("its root", &root).into());
        };
        let wrapper = WRAPPERS.into_iter().find(|key| entries.contains_key(*key));
        let (read, beside) = match wrapper {
            None => (PytorchReader::new(source), Vec::new()),
            Some(key) => {
                if let Some(value) = entries.get(key)
                    && !matches!(value, PickleValue::Dict(_))
                {
                    return Err(no_dictionary(&format!("`{key}`"), value).into());
                }
                let mut beside: Vec<String> = entries.keys().cloned().collect();
                beside.retain(|other| other != key);
                beside.sort();
                (PytorchReader::with_top_level_key(source, key), beside)
            }
        };
        let tensors = read
            .map_err(|error| unreadable(path, error))?
            .into_tensors();
        let config = match entries.get("meta") {
            Some(PickleValue::Dict(meta)) => {
                CONFIGS.into_iter().find_map(|key| match meta.get(key) {
                    Some(PickleValue::String(text)) => Some(text.clone()),
                    _ => None,
                })
            }
            _ => None,
        };
        Ok(Self {
            path: path.into(),
            len,
            read: Cell::new(0),
            tensors: tensors
                .into_iter()
                .map(|(name, tensor)| (name, Stored::Pickled(tensor)))
                .collect(),
            config,
            beside,
            _copy: copy,
        })
    }

    /// The keys in alphabetical order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file has this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// The axes of a tensor.
    pub(super) fn dims(&self, key: &str) -> Option<&[usize]> {
        self.tensors.get(key).map(Stored::dims)
    }

    /// A tensor of finite floats as f32; `None` if there is none.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for other numbers, for one that is not finite, and for more than the file holds.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Tensor<f32>>> {
        let Some(stored) = self.tensors.get(key) else {
            return Ok(None);
        };
        let error = |found: String, expected: &str| CheckpointError::Tensor {
            path: self.path.clone(),
            key: key.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        let float = match stored {
            Stored::Pickled(tensor) => match tensor.dtype() {
                DType::F16 => Ok(Float::F16),
                DType::BF16 => Ok(Float::Bf16),
                DType::F32 => Ok(Float::F32),
                DType::F64 => Ok(Float::F64),
                other => Err(format!("{other:?}")),
            },
            Stored::Safe { dtype, .. } => match dtype {
                Dtype::F16 => Ok(Float::F16),
                Dtype::BF16 => Ok(Float::Bf16),
                Dtype::F32 => Ok(Float::F32),
                Dtype::F64 => Ok(Float::F64),
                other => Err(format!("{other:?}")),
            },
        };
        let float = float.map_err(|other| {
            error(
                format!("has elements of type {other}"),
                "F32, F16, BF16 or F64",
            )
        })?;
        let read;
        let bytes = match stored {
            Stored::Safe { bytes, .. } => bytes,
            Stored::Pickled(tensor) => {
                // A view may repeat its elements, and many may have the same, so the file does not bound them.
                let claimed = tensor.byte_len() as u64;
                let total = self.read.get().saturating_add(claimed);
                self.read.set(total);
                if claimed > self.len || total > self.len.saturating_mul(MAX_SHARING) {
                    let found = format!("claims {:?} elements, {claimed} bytes", tensor.shape());
                    let expected = format!("no more than the {} bytes of the file", self.len);
                    return Err(error(found, &expected).into());
                }
                read = tensor
                    .read()
                    .map_err(|e| error(format!("cannot be read: {e}"), "a complete file"))?;
                &read
            }
        };
        let data = widened(bytes, float);
        if let Some(value) = data.iter().find(|value| !value.is_finite()) {
            return Err(error(format!("has the value {value}"), "finite numbers").into());
        }
        Ok(Some(Tensor {
            dims: stored.dims().to_vec(),
            data,
        }))
    }
}

/// A copy of an archive without its ZIP64 records, where they mislead crate `zip` (9.8); `None` for all other files.
///
/// torch.save ends an archive with such records even if they are not needed: central directory, 76 bytes of records, end.
/// `zip` expects the directory to touch the end. It checks whether an entry begins at that place, and one does if the first
/// entry takes 76 bytes itself, which is the case for names of 21 letters.
fn without_zip64(path: &Path, len: u64) -> io::Result<Option<NamedTempFile>> {
    const END: u64 = 22;
    let Some(end) = len.checked_sub(END) else {
        return Ok(None);
    };
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(end))?;
    let mut record = [0_u8; END as usize];
    file.read_exact(&mut record)?;
    let number = |at: usize| match record.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => u64::from(u32::from_le_bytes(*bytes)),
        None => 0,
    };
    let (size, start) = (number(12), number(16));
    let Some(wrong_start) = end.checked_sub(size).filter(|wrong| *wrong > start) else {
        return Ok(None);
    };
    let mut magic = [0_u8; 4];
    file.seek(SeekFrom::Start(wrong_start))?;
    file.read_exact(&mut magic)?;
    if !record.starts_with(b"PK\x05\x06") || magic != *b"PK\x01\x02" {
        return Ok(None);
    }
    let mut copy = NamedTempFile::new()?;
    file.seek(SeekFrom::Start(0))?;
    io::copy(&mut file.take(start + size), copy.as_file_mut())?;
    copy.as_file_mut().write_all(&record)?;
    Ok(Some(copy))
}

/// Little-endian bytes (of both formats, on machines that this program runs on) as f32.
fn widened(bytes: &[u8], float: Float) -> Vec<f32> {
    match float {
        Float::F16 => {
            let (all, _) = bytes.as_chunks::<2>();
            all.iter()
                .map(|b| f16::from_le_bytes(*b).to_f32())
                .collect()
        }
        Float::Bf16 => {
            let (all, _) = bytes.as_chunks::<2>();
            all.iter()
                .map(|b| bf16::from_le_bytes(*b).to_f32())
                .collect()
        }
        Float::F32 => {
            let (all, _) = bytes.as_chunks::<4>();
            all.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        Float::F64 => {
            let (all, _) = bytes.as_chunks::<8>();
            all.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()
        }
    }
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Unreadable {
        path: path.into(),
        what: error.to_string(),
    }
}

/// The first call that no checkpoint makes, and where it is.
fn forbidden(value: &PickleValue, place: &mut Vec<String>) -> Option<(String, String)> {
    match value {
        PickleValue::Unsupported(name) => {
            let (module, function) = name.rsplit_once('.').unwrap_or(("", name));
            let top = module.split('.').next().unwrap_or_default();
            let is_forbidden = FORBIDDEN_MODULES.contains(&top)
                || (matches!(top, "builtins" | "__builtin__")
                    && FORBIDDEN_BUILTINS.contains(&function));
            let place = match &place[..] {
                [] => "its root".to_owned(),
                keys => format!("`{}`", keys.join(".")),
            };
            is_forbidden.then(|| (place, name.clone()))
        }
        PickleValue::Dict(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries.into_iter().find_map(|(key, value)| {
                place.push(key.clone());
                let found = forbidden(value, place);
                place.pop();
                found
            })
        }
        PickleValue::List(items) => items.iter().find_map(|item| forbidden(item, place)),
        _ => None,
    }
}

/// What a value is, for messages.
fn kind(value: &PickleValue) -> &str {
    match value {
        PickleValue::None => "None",
        PickleValue::Bool(_) => "a bool",
        PickleValue::Int(_) | PickleValue::Float(_) => "a number",
        PickleValue::String(_) => "a text",
        PickleValue::List(_) => "a list",
        PickleValue::Dict(_) => "a dictionary",
        PickleValue::Bytes(_) => "bytes",
        PickleValue::Unsupported(name) => name,
    }
}
