//! External data: tensors whose bytes lie in other files of the model's folder.
//!
//! Such a tensor names the file (`location`, relative to the `.onnx` file), where its bytes begin (`offset`, 0
//! if missing) and how many they are (`length`, all that its dimensions need if missing). Everything behind
//! this module sees tensors with their bytes inside.
//!
//! A model is made by others, so neither its paths nor its sizes are trusted:
//!
//! - A location is a relative path of plain names. The file that it leads to, through links, is regular and lies
//!   in the model's folder.
//! - The bytes lie within the file, and are as many as dimensions and element type need.
//! - Tensors may use the same bytes, but each gets a copy of them, here and in later passes. What all tensors of
//!   a file use together is therefore bounded by the file's length.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use prost::bytes::Bytes;

use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, StringStringEntryProto,
    TensorProto,
};
use super::tensor;
use crate::build::{BuildError, Result};

/// ONNX's number for a tensor with external data (`TensorProto.DataLocation`).
const EXTERNAL: i32 = 1;
/// Largest sum of all external tensors of a network, in bytes; CenterPoint networks have below 1 GiB.
const MAX_BYTES: u64 = 8 << 30;
/// How often tensors may use each byte of a file, on average.
const MAX_USES: u64 = 4;
/// Bytes that tensors may use beyond [`MAX_USES`]: small files of constants are shared more often.
const SPARE_BYTES: u64 = 1 << 20;

/// Tensors of at least this many bytes move to the external file, as ONNX's own writer does.
const MIN_MOVED: usize = 1024;
/// Tensors in an external file begin at multiples of this, so that readers can map them into memory.
const ALIGNMENT: u64 = 4096;

/// Reads the external data of all tensors of the network at `path` into the tensors.
///
/// # Errors
/// [`BuildError::Tensor`] or [`BuildError::ExternalData`] for the first tensor whose data is invalid.
pub(super) fn load(path: &Path, model: &mut ModelProto) -> Result<()> {
    let mut sources = Sources::new(path);
    visit(model, &mut |tensor| {
        let bytes = sources.read(tensor)?;
        tensor.raw_data = Some(bytes.into());
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    })
}

/// The files with external data of the network at `path`, by their location.
///
/// # Errors
/// As [`load`], for paths.
pub(super) fn files(path: &Path, model: &mut ModelProto) -> Result<BTreeMap<String, PathBuf>> {
    let mut sources = Sources::new(path);
    let mut files = BTreeMap::new();
    visit(model, &mut |tensor| {
        let location = Entry::read(path, tensor)?.location;
        let source = sources.open(tensor, location)?;
        files.insert(location.to_owned(), source.path.clone());
        Ok(())
    })?;
    Ok(files)
}

/// Calls `change` with each tensor that has external data, wherever in the model it is. The reader of the format
/// has limited the depth of nested graphs.
fn visit(
    model: &mut ModelProto,
    change: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    let training = model.training_info.iter_mut();
    let training = training.flat_map(|t| t.initialization.iter_mut().chain(&mut t.algorithm));
    for graph in model.graph.iter_mut().chain(training) {
        visit_graph(graph, change)?;
    }
    for function in &mut model.functions {
        visit_attributes(&mut function.attribute_proto, change)?;
        visit_nodes(&mut function.node, change)?;
    }
    Ok(())
}

fn visit_graph(
    graph: &mut GraphProto,
    change: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    visit_tensors(&mut graph.initializer, change)?;
    visit_sparse(&mut graph.sparse_initializer, change)?;
    visit_nodes(&mut graph.node, change)
}

fn visit_nodes(
    nodes: &mut [NodeProto],
    change: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    nodes
        .iter_mut()
        .try_for_each(|node| visit_attributes(&mut node.attribute, change))
}

fn visit_attributes(
    attributes: &mut [AttributeProto],
    change: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    for attribute in attributes {
        visit_tensors(attribute.t.as_deref_mut(), change)?;
        visit_tensors(&mut attribute.tensors, change)?;
        visit_sparse(attribute.sparse_tensor.as_deref_mut(), change)?;
        visit_sparse(&mut attribute.sparse_tensors, change)?;
        for graph in attribute
            .g
            .as_deref_mut()
            .into_iter()
            .chain(&mut attribute.graphs)
        {
            visit_graph(graph, change)?;
        }
    }
    Ok(())
}

fn visit_sparse<'a>(
    tensors: impl IntoIterator<Item = &'a mut SparseTensorProto>,
    change: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    let parts = tensors.into_iter();
    visit_tensors(
        parts.flat_map(|t| t.values.iter_mut().chain(&mut t.indices)),
        change,
    )
}

fn visit_tensors<'a>(
    tensors: impl IntoIterator<Item = &'a mut TensorProto>,
    change: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    let mut external = tensors
        .into_iter()
        .filter(|tensor| tensor.data_location == Some(EXTERNAL));
    external.try_for_each(change)
}

/// The checked entries of a tensor's `external_data`.
struct Entry<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl<'a> Entry<'a> {
    fn read(path: &Path, tensor: &'a TensorProto) -> Result<Self> {
        let fail = |what| {
            let what = format!("{what} in its external data; export the network again");
            tensor::fail(path, tensor, what)
        };
        let [mut location, mut offset, mut length] = [None; 3];
        for entry in &tensor.external_data {
            let slot = match entry.key() {
                "location" => &mut location,
                "offset" => &mut offset,
                "length" => &mut length,
                // Such as `checksum`, which no exporter writes.
                _ => continue,
            };
            if slot.replace(entry.value()).is_some() {
                return Err(fail(format!("two entries `{}`", entry.key())));
            }
        }
        let number = |key: &str, text: Option<&str>| {
            let number = text.map(|text| {
                let bad = |_| fail(format!("`{key}` is {text:?}, expected a number of bytes,"));
                text.parse::<u64>().map_err(bad)
            });
            number.transpose()
        };
        Ok(Self {
            location: location.ok_or_else(|| fail("no `location`".to_owned()))?,
            offset: number("offset", offset)?.unwrap_or(0),
            length: number("length", length)?,
        })
    }
}

/// The files that the tensors of a network lie in.
struct Sources<'a> {
    /// The network.
    path: &'a Path,
    /// Its folder without links, once it is needed.
    folder: Option<PathBuf>,
    opened: HashMap<PathBuf, Source>,
    /// Bytes that tensors use so far.
    total: u64,
    /// What is left of [`SPARE_BYTES`].
    spare: u64,
}

/// A file with external data.
struct Source {
    /// Its path without links.
    path: PathBuf,
    file: File,
    len: u64,
    /// Bytes that tensors may still use.
    left: u64,
}

impl<'a> Sources<'a> {
    fn new(path: &'a Path) -> Self {
        Self {
            path,
            folder: None,
            opened: HashMap::new(),
            total: 0,
            spare: SPARE_BYTES,
        }
    }

    /// The bytes of a tensor.
    fn read(&mut self, tensor: &TensorProto) -> Result<Vec<u8>> {
        let path = self.path;
        let fail = |what| tensor::fail(path, tensor, what);
        let Entry {
            location,
            offset,
            length,
        } = Entry::read(path, tensor)?;
        if tensor::has_own_data(tensor) {
            return Err(fail(format!(
                "it has data in the network's file and in {location:?}, expected one of them; export the \
                 network again"
            )));
        }
        let needed = tensor::byte_len(path, tensor)?;
        if let Some(length) = length.filter(|&length| length != needed) {
            return Err(fail(format!(
                "its dimensions {:?} of {} need {needed} bytes, but it has {length} in {location:?}; export \
                 the network again",
                tensor.dims,
                tensor::element::name(tensor.data_type()),
            )));
        }
        self.total = self.total.saturating_add(needed);
        if self.total > MAX_BYTES {
            return Err(fail(format!(
                "with it, the network has {} bytes of external data, more than the supported {MAX_BYTES}",
                self.total
            )));
        }
        let spare = self.spare;
        let source = self.open(tensor, location)?;
        if offset
            .checked_add(needed)
            .is_none_or(|end| end > source.len)
        {
            return Err(fail(format!(
                "its data are {needed} bytes at offset {offset} of {location:?}, which has {} bytes; copy the \
                 whole file that was exported with this network",
                source.len
            )));
        }
        let beyond = needed.saturating_sub(source.left);
        if beyond > spare {
            return Err(fail(format!(
                "tensors use the {} bytes of {location:?} more than {MAX_USES} times; save the network as one \
                 file (onnx.save with save_as_external_data=False)",
                source.len
            )));
        }
        source.left = source.left.saturating_sub(needed);
        let bytes = source.read(offset, needed);
        let bytes = bytes.map_err(failed(path, tensor, &source.path))?;
        self.spare = spare - beyond;
        Ok(bytes)
    }

    /// The file at `location`.
    fn open(&mut self, tensor: &TensorProto, location: &str) -> Result<&mut Source> {
        let path = self.path;
        let fail = |what: &str| {
            let what = format!(
                "its data is in {location:?}, {what}; put the file into the model's folder and name it by a \
                 relative path, or save the network as one file (onnx.save with save_as_external_data=False)"
            );
            Err(tensor::fail(path, tensor, what))
        };
        let Some(relative) = relative(location) else {
            return fail("which is not a path within the model's folder");
        };
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let place = folder.join(relative);
        let root = match &mut self.folder {
            Some(root) => root,
            none => none.insert(fs::canonicalize(folder).map_err(BuildError::io(folder))?),
        };
        let resolved = fs::canonicalize(&place).map_err(failed(path, tensor, &place))?;
        if !resolved.starts_with(root) {
            return fail("a link that leaves the model's folder");
        }
        if !self.opened.contains_key(&resolved) {
            // Opening a pipe would wait for its writer.
            let metadata = fs::metadata(&resolved).map_err(failed(path, tensor, &place))?;
            if !metadata.is_file() {
                return fail("which is not a regular file");
            }
            let source = Source::open(&resolved).map_err(failed(path, tensor, &place))?;
            self.opened.insert(resolved.clone(), source);
        }
        let opened = self.opened.get_mut(&resolved);
        opened.ok_or_else(|| failed(path, tensor, &place)(io::ErrorKind::NotFound.into()))
    }
}

impl Source {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            path: path.to_path_buf(),
            file,
            len,
            left: len.saturating_mul(MAX_USES),
        })
    }

    fn read(&mut self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let size = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(size)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.file.seek(SeekFrom::Start(offset))?;
        (&self.file).take(len).read_to_end(&mut bytes)?;
        if bytes.len() != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

/// The path that a location names, if it cannot leave the model's folder on any operating system.
fn relative(location: &str) -> Option<&Path> {
    let path = Path::new(location);
    let mut names = path.components();
    let plain = !location.is_empty() && !location.contains(['\\', ':', '\0']);
    let below = names.all(|name| matches!(name, Component::Normal(_) | Component::CurDir));
    (plain && below).then_some(path)
}

/// A [`BuildError::ExternalData`], for `map_err`.
fn failed(path: &Path, tensor: &TensorProto, file: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let (path, file) = (path.to_path_buf(), file.to_path_buf());
    let tensor = tensor.name().to_owned();
    move |source| BuildError::ExternalData {
        path,
        tensor,
        file,
        source,
    }
}

/// A model without the bytes of its larger tensors, and those bytes.
pub(super) struct Split {
    pub(super) model: ModelProto,
    /// Offset and bytes of each tensor, in order.
    parts: Vec<(u64, Bytes)>,
}

impl Split {
    /// Moves the initializers of `model` to the external file `location`. Smaller ones stay, and so do the
    /// constants in nodes.
    pub(super) fn new(model: &ModelProto, location: &str) -> Self {
        // Cheap, because tensor bytes are shared.
        let mut model = model.clone();
        let mut parts = Vec::new();
        let mut end = 0_u64;
        for tensor in model.graph.iter_mut().flat_map(|g| &mut g.initializer) {
            let Some(bytes) = tensor.raw_data.take_if(|raw| raw.len() >= MIN_MOVED) else {
                continue;
            };
            let offset = end.next_multiple_of(ALIGNMENT);
            end = offset + bytes.len() as u64;
            let entries = [
                ("location", location.to_owned()),
                ("offset", offset.to_string()),
                ("length", bytes.len().to_string()),
            ];
            tensor.data_location = Some(EXTERNAL);
            tensor.external_data = entries
                .map(|(key, value)| StringStringEntryProto {
                    key: Some(key.to_owned()),
                    value: Some(value),
                })
                .into();
            parts.push((offset, bytes));
        }
        Self { model, parts }
    }

    /// Writes the external file.
    pub(super) fn write_data(&self, out: &mut impl Write) -> io::Result<()> {
        let mut end = 0;
        for (offset, bytes) in &self.parts {
            io::copy(&mut io::repeat(0).take(offset - end), out)?;
            out.write_all(bytes)?;
            end = offset + bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::onnx::file::{data_files, read};
    use crate::build::onnx::tensor::{element, floats, from_floats};
    use crate::testing::nets;

    /// The bytes of the external file: 0.0, 1.0, …
    fn data(count: u16) -> Vec<u8> {
        let values = (0..count).map(f32::from);
        values.flat_map(f32::to_le_bytes).collect()
    }

    /// A FLOAT tensor with these entries of external data.
    fn tensor(dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value.to_owned()),
        };
        TensorProto {
            name: Some("w".to_owned()),
            dims: dims.to_vec(),
            data_type: Some(element::FLOAT),
            data_location: Some(EXTERNAL),
            external_data: entries.iter().map(entry).collect(),
            ..Default::default()
        }
    }

    fn model(tensors: Vec<TensorProto>) -> ModelProto {
        nets::model(GraphProto {
            initializer: tensors,
            ..Default::default()
        })
    }

    /// A folder `model` with the file `w.data` of 100 floats, beside a file that does not belong to it.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("model/below")).unwrap();
        for file in ["model/w.data", "model/below/w.data", "secret"] {
            fs::write(folder.path().join(file), data(100)).unwrap();
        }
        folder
    }

    /// What reading a network of these tensors in `folder/model` gives.
    fn read_in(folder: &Path, tensors: Vec<TensorProto>) -> Result<ModelProto> {
        let path = folder.join("model/net.onnx");
        fs::write(&path, prost::Message::encode_to_vec(&model(tensors))).unwrap();
        read(&path)
    }

    /// The message of the error that reading this tensor gives, with its causes.
    fn refused(folder: &Path, tensor: TensorProto) -> String {
        let error = read_in(folder, vec![tensor]).unwrap_err();
        let message = crate::chain::Chain(&error).to_string();
        assert!(message.contains("net.onnx: tensor \"w\": "), "{message}");
        message
    }

    #[test]
    fn external_data_is_read() {
        let folder = folder();
        for (dims, entries, first) in [
            (&[2, 3][..], &[("location", "w.data")][..], 0.0),
            (
                &[6],
                &[("location", "./below/w.data"), ("offset", "8")],
                2.0,
            ),
            (
                &[6],
                &[("offset", "376"), ("length", "24"), ("location", "w.data")],
                94.0,
            ),
            // The sum is not checked.
            (
                &[6],
                &[("location", "w.data"), ("checksum", "no"), ("length", "24")],
                0.0,
            ),
        ] {
            let model = read_in(folder.path(), vec![tensor(dims, entries)]).unwrap();
            let found = &model.graph.unwrap().initializer[0];
            assert!(found.external_data.is_empty() && found.data_location.is_none());
            let values = floats(Path::new(""), found).unwrap().data;
            let expected: Vec<f32> = (0..6_u8).map(|i| first + f32::from(i)).collect();
            assert_eq!(values, expected, "{entries:?}");
        }
    }

    #[test]
    fn tensors_in_nodes_functions_and_training_are_read() {
        let folder = folder();
        let all = || tensor(&[1], &[("location", "w.data"), ("offset", "20")]);
        let attribute = || AttributeProto {
            t: Some(Box::new(all())),
            tensors: vec![all()],
            sparse_tensor: Some(Box::new(SparseTensorProto {
                values: Some(all()),
                indices: Some(all()),
                ..Default::default()
            })),
            g: Some(Box::new(GraphProto {
                initializer: vec![all()],
                ..Default::default()
            })),
            ..Default::default()
        };
        let node = || NodeProto {
            attribute: vec![attribute()],
            ..Default::default()
        };
        let mut nested = model(vec![all()]);
        nested.graph.as_mut().unwrap().node = vec![node()];
        nested.functions = vec![super::super::proto::FunctionProto {
            node: vec![node()],
            attribute_proto: vec![attribute()],
            ..Default::default()
        }];
        nested.training_info = vec![super::super::proto::TrainingInfoProto {
            algorithm: nested.graph.clone(),
            ..Default::default()
        }];
        let path = folder.path().join("model/net.onnx");
        fs::write(&path, prost::Message::encode_to_vec(&nested)).unwrap();
        let mut found = read(&path).unwrap();
        let mut left = 0;
        visit(&mut found, &mut |_| {
            left += 1;
            Ok(())
        })
        .unwrap();
        let inside = prost::Message::encode_to_vec(&found);
        // 5.0, once for each tensor: two graphs of 1 + 5, a function of 5 + 5.
        let count = inside
            .windows(4)
            .filter(|w| *w == 5.0_f32.to_le_bytes())
            .count();
        assert_eq!((left, count), (0, 22));
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let folder = folder();
        let absolute = folder.path().join("model/w.data");
        for location in [
            "../secret",
            "below/../../secret",
            "below/../w.data",
            "..",
            "",
            absolute.to_str().unwrap(),
            "..\\secret",
            "below\\w.data",
            "C:w.data",
            "C:\\w.data",
            "\\\\host\\share",
            "w.data:stream",
            "w.data\0",
        ] {
            let message = refused(folder.path(), tensor(&[6], &[("location", location)]));
            assert!(
                message.contains("not a path within the model's folder"),
                "{message}"
            );
            assert!(message.contains(&format!("{location:?}")), "{message}");
            assert!(
                message.contains("put the file into the model's folder"),
                "{message}"
            );
        }
    }

    #[test]
    #[cfg(unix)]
    fn links_must_stay_in_the_folder() {
        use std::os::unix::fs::symlink;
        let folder = folder();
        let at = |name: &str| folder.path().join("model").join(name);
        symlink("../secret", at("out")).unwrap();
        symlink("out", at("twice")).unwrap();
        symlink("..", at("up")).unwrap();
        symlink("below/w.data", at("in")).unwrap();
        symlink("../model/w.data", at("around")).unwrap();
        symlink("round", at("round")).unwrap();
        for (location, needle) in [
            ("out", "a link that leaves the model's folder"),
            ("twice", "a link that leaves"),
            ("up/secret", "a link that leaves"),
            ("round", "cannot read its data in"),
        ] {
            let message = refused(folder.path(), tensor(&[6], &[("location", location)]));
            assert!(message.contains(needle), "{message}");
        }
        for location in ["in", "around", "up/model/w.data"] {
            read_in(folder.path(), vec![tensor(&[6], &[("location", location)])]).unwrap();
        }
        // A link to the model itself: its folder is the one that it was named in.
        symlink("model/net.onnx", folder.path().join("link.onnx")).unwrap();
        let error = read(&folder.path().join("link.onnx")).unwrap_err();
        assert!(matches!(error, BuildError::ExternalData { .. }), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_regular_file_is_refused() {
        let folder = folder();
        let fifo = folder.path().join("model/fifo");
        let made = std::process::Command::new("mkfifo").arg(fifo).status();
        assert!(made.unwrap().success());
        for location in [".", "below", "fifo"] {
            let message = refused(folder.path(), tensor(&[6], &[("location", location)]));
            assert!(message.contains("not a regular file"), "{message}");
        }
        for location in ["absent", "absent/w.data", "w.data/below"] {
            let message = refused(folder.path(), tensor(&[6], &[("location", location)]));
            assert!(message.contains("cannot read its data in"), "{message}");
            assert!(message.contains(location), "{message}");
            assert!(
                message.contains("copy all files of the export"),
                "{message}"
            );
        }
    }

    #[test]
    fn bytes_outside_of_the_file_are_refused() {
        let folder = folder();
        let max = u64::MAX.to_string();
        for (offset, needle) in [
            (
                "377",
                "its data are 24 bytes at offset 377 of \"w.data\", which has 400 bytes",
            ),
            ("400", "at offset 400"),
            ("401", "at offset 401"),
            (&max, "at offset 18446744073709551615 of"),
            ("18446744073709551592", "at offset 18446744073709551592 of"),
        ] {
            let entries = [("location", "w.data"), ("offset", offset), ("length", "24")];
            let message = refused(folder.path(), tensor(&[6], &entries));
            assert!(message.contains(needle), "{message}");
            assert!(message.contains("copy the whole file"), "{message}");
        }
        read_in(
            folder.path(),
            vec![tensor(&[6], &[("location", "w.data"), ("offset", "376")])],
        )
        .unwrap();
        for cut in [0, 1, 399] {
            fs::write(folder.path().join("model/w.data"), &data(100)[..cut]).unwrap();
            let message = refused(folder.path(), tensor(&[100], &[("location", "w.data")]));
            assert!(
                message.contains(&format!("which has {cut} bytes")),
                "{message}"
            );
        }
    }

    #[test]
    fn entries_that_contradict_the_tensor_are_refused() {
        let folder = folder();
        let at = |more: &[(&str, &str)]| {
            let entries = [&[("location", "w.data")], more].concat();
            tensor(&[2, 3], &entries)
        };
        let mut both = at(&[]);
        both.float_data = vec![0.0; 6];
        let mut text = at(&[]);
        text.data_type = Some(8);
        let mut negative = at(&[]);
        negative.dims = vec![-6];
        let mut huge = at(&[]);
        huge.dims = vec![1 << 62];
        for (tensor, needle) in [
            (
                at(&[("length", "20")]),
                "its dimensions [2, 3] of FLOAT need 24 bytes, but it has 20 in \"w.data\"",
            ),
            (at(&[("length", "28")]), "need 24 bytes, but it has 28"),
            (at(&[("length", "0")]), "need 24 bytes, but it has 0"),
            (at(&[("length", "-1")]), "`length` is \"-1\""),
            (at(&[("offset", "1e3")]), "`offset` is \"1e3\""),
            (
                at(&[("offset", "99999999999999999999")]),
                "expected a number of bytes",
            ),
            (
                at(&[("location", "below/w.data")]),
                "two entries `location`",
            ),
            (tensor(&[6], &[("offset", "0")]), "no `location`"),
            (both, "data in the network's file and in \"w.data\""),
            (text, "STRING, which is not supported in external data"),
            (negative, "invalid dimensions [-6]"),
            (huge, "invalid dimensions [4611686018427387904]"),
        ] {
            let message = refused(folder.path(), tensor);
            assert!(message.contains(needle), "{message}");
        }
    }

    #[test]
    fn tensors_on_the_same_bytes_are_bounded() {
        let folder = folder();
        fs::write(folder.path().join("model/w.data"), vec![0; 1 << 18]).unwrap();
        let all = tensor(&[1 << 16], &[("location", "w.data")]);
        // Four times the file and 1 MiB.
        let model = read_in(folder.path(), vec![all.clone(); 8]).unwrap();
        assert_eq!(model.graph.unwrap().initializer.len(), 8);
        let one = tensor(&[1], &[("location", "w.data")]);
        let error = read_in(folder.path(), [vec![all; 8], vec![one]].concat()).unwrap_err();
        let needle = "tensors use the 262144 bytes of \"w.data\" more than 4 times";
        assert!(error.to_string().contains(needle), "{error}");
    }

    #[test]
    fn all_tensors_together_are_bounded() {
        let folder = folder();
        // A hole of 9 GiB takes no room on the disk.
        let file = File::create(folder.path().join("model/hole")).unwrap();
        file.set_len(9 << 30).unwrap();
        let hole = tensor(&[9 << 28], &[("location", "hole")]);
        let message = refused(folder.path(), hole);
        let needle = "has 9663676416 bytes of external data, more than the supported 8589934592";
        assert!(message.contains(needle), "{message}");
    }

    #[test]
    fn files_are_listed_by_location() {
        let folder = folder();
        let tensors = ["w.data", "below/w.data", "w.data"];
        let tensors = tensors.map(|location| tensor(&[6], &[("location", location)]));
        let tensors = [&tensors[..], &[from_floats("inside", &[1], &[0.0])]].concat();
        read_in(folder.path(), tensors).unwrap();
        let root = folder.path().canonicalize().unwrap().join("model");
        let expected = ["below/w.data", "w.data"].map(|name| (name.to_owned(), root.join(name)));
        let path = folder.path().join("model/net.onnx");
        assert_eq!(data_files(&path).unwrap(), expected.into());
    }
}
