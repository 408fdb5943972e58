//! Reads ONNX files from disk, with their external data, and writes them back.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

use super::proto::ModelProto;
use super::{external, scan};
use crate::build::{BuildError, Result};
use crate::files;

/// Largest file that is read and written, in bytes: the limit of the protobuf format itself. Larger networks
/// keep their weights in external files.
pub(crate) const MAX_FILE_BYTES: u64 = (1 << 31) - 1;

/// Reads the file at `path` and its external data. Needs memory for the files, and at most three times the
/// file's length plus one MiB for the messages; tensors inside share the file's memory.
pub(super) fn read(path: &Path) -> Result<ModelProto> {
    let mut model = decode(path, bytes(path)?)?;
    external::load(path, &mut model)?;
    Ok(model)
}

/// The files that hold external data of the network at `path`, by the location that the network names.
///
/// # Errors
/// [`BuildError`] if the network is unreadable, or names a file that does not exist or is not in its folder.
pub(crate) fn data_files(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let (mut model, _) = parse(path, bytes(path)?)?;
    external::files(path, &mut model)
}

fn bytes(path: &Path) -> Result<Bytes> {
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
        return Err(too_large(path, len, MAX_FILE_BYTES));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    // Ignores what is appended while the file is read.
    file.take(len).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes.into())
}

fn too_large(path: &Path, bytes: u64, limit: u64) -> BuildError {
    BuildError::TooLarge {
        path: path.to_path_buf(),
        bytes,
        limit,
    }
}

/// Writes `model` to `path`. Fields are ordered by number, as other writers do, so an unchanged file is
/// written byte for byte. A model that is too large for one file gets its weights in a second one, whose name
/// ends with `.data`.
pub(super) fn write(path: &Path, model: &ModelProto) -> Result<()> {
    write_up_to(MAX_FILE_BYTES, path, model)
}

/// As [`write`], with the largest length of the file at `path`.
fn write_up_to(limit: u64, path: &Path, model: &ModelProto) -> Result<()> {
    if model.encoded_len() as u64 <= limit {
        return Ok(files::write(path, &encode(model))?);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let location = format!("{name}.data");
    let split = external::Split::new(model, &location);
    let len = split.model.encoded_len() as u64;
    if len > limit {
        return Err(too_large(path, len, limit));
    }
    // First, so that the network never names a file that is not there.
    files::write_with(&path.with_file_name(&location), |file| {
        split.write_data(file)
    })?;
    Ok(files::write(path, &encode(&split.model))?)
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
    let (model, unknown_fields) = parse(path, bytes)?;
    if unknown_fields > 0 {
        log::warn!(
            "{}: {unknown_fields} fields are unknown to this version of centerpoint; they are dropped when the \
             file is written",
            path.display(),
        );
    }
    Ok(model)
}

/// As [`decode`]; also returns the number of unknown fields.
fn parse(path: &Path, bytes: Bytes) -> Result<(ModelProto, usize)> {
    let not_onnx = |what: String| BuildError::NotOnnx {
        path: path.to_path_buf(),
        what,
    };
    let found = scan::scan_model(&bytes).map_err(not_onnx)?;
    let model = ModelProto::decode(bytes).map_err(|e| not_onnx(e.to_string()))?;
    if model.graph.is_none() {
        return Err(not_onnx("it contains no graph".to_owned()));
    }
    Ok((model, found.unknown_fields))
}

#[cfg(test)]
mod tests {
    use super::*;
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

    /// A network with initializers of 2000, 256 and 255 floats, and one of `float_data`.
    fn weights() -> ModelProto {
        let values = |n: u16| (0..n).map(f32::from).collect::<Vec<f32>>();
        let mut typed = from_floats("typed", &[300], &[]);
        (typed.raw_data, typed.float_data) = (None, values(300));
        model(GraphProto {
            node: vec![node("Relu", &["x"], &["out"])],
            initializer: vec![
                from_floats("a", &[2000], &values(2000)),
                from_floats("b", &[256], &values(256)),
                from_floats("c", &[255], &values(255)),
                typed,
            ],
            input: vec![value("x", &[1, 4, 16, 16])],
            output: vec![value("out", &[1, 4, 16, 16])],
            ..Default::default()
        })
    }

    #[test]
    fn a_model_that_is_too_large_gets_its_weights_in_a_second_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.onnx");
        let data = folder.path().join("net.onnx.data");
        let model = weights();
        let len = model.encoded_len() as u64;
        write_up_to(len, &path, &model).unwrap();
        assert!(!data.exists());
        assert!(std::fs::read(&path).unwrap() == encode(&model));

        write_up_to(len - 1, &path, &model).unwrap();
        let bytes = std::fs::read(&data).unwrap();
        // 8000 bytes, and 1024 at the next multiple of 4096.
        assert_eq!(bytes.len(), 8192 + 1024);
        assert!(bytes[8000..8192].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[8192..][4..8], 1.0_f32.to_le_bytes());
        let small = decode(&path, std::fs::read(&path).unwrap().into()).unwrap();
        let tensors = small.graph.unwrap().initializer;
        let external: Vec<_> = tensors.iter().map(|t| t.data_location()).collect();
        assert_eq!(external, [1, 1, 0, 0]);
        let entries = tensors[1].external_data.iter();
        let entries: Vec<_> = entries.map(|e| (e.key(), e.value())).collect();
        let expected = [
            ("location", "net.onnx.data"),
            ("offset", "8192"),
            ("length", "1024"),
        ];
        assert_eq!(entries, expected);
        assert!(read(&path).unwrap() == model);

        let error = write_up_to(1000, &path, &model).unwrap_err();
        assert!(
            matches!(error, BuildError::TooLarge { limit: 1000, .. }),
            "{error}"
        );
        assert!(
            read(&path).unwrap() == model,
            "the old files are still there"
        );
    }

    /// Writes a network and its external data into `folder`, and runs the readers.
    fn survives(folder: &Path, network: &[u8], data: &[u8]) {
        let path = folder.join("net.onnx");
        std::fs::write(&path, network).unwrap();
        std::fs::write(folder.join("net.onnx.data"), data).unwrap();
        for error in [read(&path).err(), data_files(&path).err()]
            .into_iter()
            .flatten()
        {
            assert!(error.to_string().contains("net.onnx: "), "{error}");
        }
    }

    #[test]
    fn damaged_external_data_never_crashes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let path = folder.join("net.onnx");
        write_up_to(6000, &path, &weights()).unwrap();
        let [network, data] =
            ["net.onnx", "net.onnx.data"].map(|name| std::fs::read(folder.join(name)).unwrap());
        // Everything up to the last entry of external data.
        let location = b"net.onnx.data";
        let mut windows = network.windows(location.len());
        let last = windows.rposition(|window| window == location).unwrap();
        for at in 0..last + 50 {
            for byte in [0, 0x7f, 0xff, network[at] ^ 1] {
                let mut changed = network.clone();
                changed[at] = byte;
                survives(folder, &changed, &data);
            }
        }
        for part in 0..64 {
            survives(folder, &network[..network.len() * part / 64], &data);
            survives(folder, &network, &data[..data.len() * part / 64]);
        }
    }

    #[test]
    #[ignore = "needs CENTERPOINT_PYTHON"]
    fn onnx_runtime_reads_weights_in_a_second_file() {
        let folder = tempfile::tempdir().unwrap();
        let [inside, outside, input] =
            ["inside.onnx", "outside.onnx", "input.f32"].map(|name| folder.path().join(name));
        let weights: Vec<f32> = (0..1600_u16).map(|i| f32::from(i).sin()).collect();
        let model = model(GraphProto {
            name: Some("convolutions".into()),
            node: vec![
                node("Conv", &["x", "a"], &["y"]),
                NodeProto {
                    name: Some("/second".into()),
                    ..node("Conv", &["y", "b"], &["out"])
                },
            ],
            initializer: vec![
                from_floats("a", &[16, 4, 5, 5], &weights),
                from_floats("b", &[4, 16, 5, 5], &weights),
            ],
            input: vec![value("x", &[1, 4, 16, 16])],
            output: vec![value("out", &[1, 4, 8, 8])],
            ..Default::default()
        });
        write(&inside, &model).unwrap();
        write_up_to(1000, &outside, &model).unwrap();
        assert!(folder.path().join("outside.onnx.data").exists());
        let values = (0..1024_u16).flat_map(|i| f32::from(i).cos().to_le_bytes());
        std::fs::write(&input, values.collect::<Vec<u8>>()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/onnx_nets.py");
        let run = std::process::Command::new(std::env::var_os("CENTERPOINT_PYTHON").unwrap())
            .args([script, "compare"])
            .args([inside, outside, input])
            .arg("0")
            .output()
            .unwrap();
        println!("{}", String::from_utf8_lossy(&run.stdout));
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
    }
}
