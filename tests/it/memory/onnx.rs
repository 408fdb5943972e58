//! Untrusted ONNX files: broken ones cause an error that names the file, in little memory.

use std::path::Path;

use centerpoint::build::BuildError;
use centerpoint::internals::build::compile;
use centerpoint::internals::build::fuse::fuse;
use centerpoint::internals::build::import::read_pfe;
use centerpoint::internals::build::onnx::proto::{AttributeProto, GraphProto, ModelProto};
use centerpoint::internals::build::onnx::tensor::{from_floats, from_integers};
use centerpoint::internals::build::onnx::{Graph, decode, encode};
use proptest::prelude::*;

use super::{alone, measure};
use crate::nets::{ints, model, node, value};

/// A network that uses every part of the reader: Pad, Conv, BatchNormalization, Relu, Reshape,
/// ConvTranspose, Concat.
fn network() -> ModelProto {
    let values = |n: usize| -> Vec<f32> { (0..n).map(|i| (i % 7) as f32 - 2.5).collect() };
    let ones = vec![1.5_f32; 8];
    let mut conv = node("Conv", &["p", "w"], &["y"]);
    conv.attribute = vec![ints("strides", &[2, 2]), ints("kernel_shape", &[3, 3])];
    let mut up = node("ConvTranspose", &["z", "u"], &["up"]);
    up.attribute = vec![ints("strides", &[2, 2])];
    let mut concat = node("Concat", &["up", "x"], &["out"]);
    concat.attribute = vec![AttributeProto {
        name: Some("axis".to_owned()),
        r#type: Some(2),
        i: Some(1),
        ..Default::default()
    }];
    model(GraphProto {
        node: vec![
            node("Pad", &["x", "pads"], &["p"]),
            conv,
            node("BatchNormalization", &["y", "s", "b", "m", "v"], &["n"]),
            node("Relu", &["n"], &["r"]),
            node("Reshape", &["r", "shape"], &["z"]),
            up,
            concat,
        ],
        initializer: vec![
            from_integers("pads", &[8], &[0, 0, 1, 1, 0, 0, 0, 0]),
            from_floats("w", &[8, 4, 3, 3], &values(8 * 36)),
            from_floats("s", &[8], &ones),
            from_floats("b", &[8], &values(8)),
            from_floats("m", &[8], &values(8)),
            from_floats("v", &[8], &ones),
            from_integers("shape", &[4], &[0, -1, 8, 8]),
            from_floats("u", &[8, 4, 2, 2], &values(8 * 16)),
        ],
        input: vec![value("x", &[1, 4, 16, 16])],
        output: vec![value("out", &[1, 8, 16, 16])],
        ..Default::default()
    })
}

/// Runs every step that a file goes through.
fn everything(bytes: &[u8]) -> Result<(), BuildError> {
    let path = Path::new("broken.onnx");
    let mut graph = Graph::new(path, decode(path, bytes.to_vec().into())?)?;
    fuse(&mut graph, &[])?;
    compile::cpu(&graph)?;
    Ok(())
}

/// Runs `everything` and checks its memory and its error message; the caller checks whether it failed.
fn survives(bytes: &[u8]) -> Result<(), BuildError> {
    let (result, usage) = measure(|| everything(bytes));
    let allowed = 4 * bytes.len() + (2 << 20);
    assert!(
        usage.peak <= allowed,
        "{} bytes for a file of {}",
        usage.peak,
        bytes.len()
    );
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(message.starts_with("broken.onnx: "), "{message}");
    }
    result
}

#[test]
fn the_network_of_these_tests_is_valid() {
    alone(|| survives(&encode(&network())).unwrap());
}

/// Cuts files at every 64th of their length: each reader refuses the rest.
pub(crate) fn assert_cut_files_are_refused(files: &[Vec<u8>]) {
    for bytes in files {
        for part in 0..64 {
            let cut = &bytes[..bytes.len() * part / 64];
            survives(cut).unwrap_err();
        }
    }
    // A PFN, through the file system.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.onnx");
    for bytes in files {
        for part in 0..64 {
            std::fs::write(&path, &bytes[..bytes.len() * part / 64]).unwrap();
            let message = read_pfe(&path).unwrap_err().to_string();
            assert!(message.contains("cut.onnx: "), "{message}");
        }
    }
}

#[test]
fn truncated_files_are_refused() {
    alone(|| assert_cut_files_are_refused(&[encode(&network())]));
}

#[test]
fn contradictions_are_named() {
    alone(|| {
        type Change = fn(&mut GraphProto);
        let cases: [(Change, &str); 14] = [
            (
                |g| g.node[3].input[0] = "q".into(),
                "node \"/Relu\" (Relu): no node produces its input \"q\"",
            ),
            (
                |g| g.node[3].output[0] = "y".into(),
                "\"y\" is also produced by node \"/Conv\" (Conv)",
            ),
            (
                |g| g.node[0].input[0] = "z".into(),
                "depends on its own output",
            ),
            (
                |g| g.output[0].name = Some("nothing".into()),
                "no node produces output \"nothing\"",
            ),
            (
                |g| g.initializer[7].dims = vec![8, 9, 2, 2],
                "tensor \"u\": its dimensions [8, 9, 2, 2] need 288",
            ),
            (
                |g| g.initializer[1].dims = vec![1 << 40, 1 << 40],
                "invalid dimensions",
            ),
            (|g| g.initializer[1].dims[0] = -8, "invalid dimensions"),
            (
                |g| g.initializer[1].data_type = Some(8),
                "STRING, expected floats",
            ),
            (|g| g.initializer[1].data_location = Some(1), "another file"),
            (
                |g| g.initializer[1].name = Some("s".into()),
                "two initializers are named \"s\"",
            ),
            (
                |g| g.initializer[2].dims = vec![4, 2, 1 << 50],
                "tensor \"s\"",
            ),
            (
                |g| g.node[1].attribute[0].ints = vec![0, 2],
                "strides is [0, 2], expected 2 numbers from 1",
            ),
            (
                |g| g.node[3].op_type = Some("Einsum".into()),
                "node \"/Relu\" (Einsum): unsupported operator",
            ),
            (
                |g| g.node[6].attribute[0].i = Some(i64::MIN),
                "axis -9223372036854775808",
            ),
        ];
        for (change, needle) in cases {
            let mut broken = network();
            change(broken.graph.as_mut().unwrap());
            let message = survives(&encode(&broken)).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}\nexpected: {needle}");
        }
        let mut old = network();
        old.opset_import[0].version = Some(6);
        let message = survives(&encode(&old)).unwrap_err().to_string();
        assert!(
            message.contains("operator set 6 is not supported"),
            "{message}"
        );
    });
}

/// Empty nodes: two bytes each in the file, several hundred in memory.
fn million_nodes() -> Vec<u8> {
    let mut graph = Vec::new();
    for _ in 0..1_000_000 {
        graph.extend([0x0a, 0x00]);
    }
    let mut bytes = vec![0x3a];
    prost::encoding::encode_varint(graph.len() as u64, &mut bytes);
    bytes.extend(graph);
    bytes
}

/// A thousand convolutions that share one weight.
fn thousand_convolutions() -> Vec<u8> {
    let mut shared = network();
    let graph = shared.graph.as_mut().unwrap();
    graph.initializer[1] = from_floats("w", &[64, 4, 32, 32], &vec![0.5; 64 * 4096]);
    graph.node.truncate(1);
    for i in 0..1000 {
        let output = format!("y{i}");
        graph.node.push(node("Conv", &["x", "w"], &[&output]));
        graph.output.push(value(&output, &[1, 64, 14, 14]));
    }
    graph.output.remove(0);
    encode(&shared)
}

#[test]
fn files_that_would_explode_are_refused() {
    alone(|| {
        let message = survives(&million_nodes()).unwrap_err().to_string();
        assert!(message.contains("bytes of memory"), "{message}");
        survives(&thousand_convolutions()).unwrap_err();

        // A length far beyond the end of the file.
        for length in [u64::MAX, 1 << 62, 1 << 33] {
            let mut bytes = vec![0x3a];
            prost::encoding::encode_varint(length, &mut bytes);
            survives(&bytes).unwrap_err();
        }
    });
}

/// A network whose `tensors` lie in `w.data`, of `elements` floats each, all on the same bytes.
fn external(path: &Path, tensors: usize, elements: usize) -> Result<Graph, BuildError> {
    let mut shared = network();
    let graph = shared.graph.as_mut().unwrap();
    for i in 0..tensors {
        let mut tensor = from_floats(&format!("e{i}"), &[elements], &[]);
        tensor.raw_data = None;
        tensor.data_location = Some(1);
        tensor.external_data = vec![Default::default()];
        tensor.external_data[0].key = Some("location".into());
        tensor.external_data[0].value = Some("w.data".into());
        graph.initializer.push(tensor);
    }
    std::fs::write(path, encode(&shared)).unwrap();
    let (result, usage) = measure(|| Graph::read(path));
    let data = std::fs::metadata(path.with_file_name("w.data")).unwrap();
    // Sparse files have no bytes.
    let data = std::os::unix::fs::MetadataExt::blocks(&data) as usize * 512;
    let allowed = 4 * data + (4 << 20);
    assert!(usage.peak <= allowed, "{} bytes, of {allowed}", usage.peak);
    result
}

#[test]
fn external_data_takes_the_memory_of_its_files() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.onnx");
        let data = folder.path().join("w.data");
        std::fs::write(&data, vec![1; 4 << 20]).unwrap();
        external(&path, 4, 1 << 20).unwrap();
        let message = external(&path, 1000, 1 << 20).unwrap_err().to_string();
        assert!(message.contains("more than 4 times"), "{message}");

        let file = std::fs::File::create(&data).unwrap();
        file.set_len(1 << 40).unwrap();
        let message = external(&path, 1, 1 << 38).unwrap_err().to_string();
        assert!(
            message.contains("1099511627776 bytes of external data"),
            "{message}"
        );
        // A tensor beyond the end, whatever the file's length.
        let message = external(&path, 1, (1 << 38) + 1).unwrap_err().to_string();
        assert!(message.contains("net.onnx: tensor \"e0\": "), "{message}");
    });
}

#[test]
fn missing_files_and_folders_are_named() {
    for path in ["no/such.onnx", env!("CARGO_MANIFEST_DIR")] {
        let message = Graph::read(Path::new(path)).unwrap_err().to_string();
        assert!(message.contains(path), "{message}");
    }
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    let build = || {
        let path = Path::new("same.onnx");
        let mut graph = Graph::new(path, network()).unwrap();
        fuse(&mut graph, &[]).unwrap();
        let payload = compile::cpu(&graph).unwrap();
        let program = serde_json::to_vec(&payload.program).unwrap();
        (encode(&graph.to_model()), program, payload.weights)
    };
    let first = build();
    for _ in 0..5 {
        assert!(build() == first);
    }
}

/// Cases of each property.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    }
}

#[test]
fn changed_files_never_crash() {
    alone(|| {
        proptest!(config(), |(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8))| {
            let mut bytes = encode(&network());
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let _ = survives(&bytes);
        });
    });
}

#[test]
fn garbage_never_crashes() {
    alone(|| {
        proptest!(config(), |(bytes in prop::collection::vec(any::<u8>(), 0..400))| {
            let _ = survives(&bytes);
        });
    });
}

#[test]
fn parts_put_together_never_crash() {
    alone(|| {
        proptest!(config(), |(
            a in any::<prop::sample::Index>(),
            b in any::<prop::sample::Index>(),
        )| {
            let bytes = encode(&network());
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let mut spliced = bytes[..a].to_vec();
            spliced.extend(&bytes[b..]);
            let _ = survives(&spliced);
        });
    });
}

#[test]
fn attributes_of_any_value_never_crash() {
    alone(|| {
        proptest!(config(), |(
            node in 0_usize..7,
            name in prop::sample::select(vec![
                "strides", "pads", "dilations", "kernel_shape", "output_padding", "axes", "group",
                "axis", "auto_pad", "blocksize", "perm", "epsilon", "to",
            ]),
            ints in prop::collection::vec(
                prop_oneof![any::<i64>(), -3_i64..70, Just(i64::MAX), Just(i64::MIN)], 0..10,
            ),
            op in prop::sample::select(vec![
                "", "Transpose", "Squeeze", "Unsqueeze", "DepthToSpace", "MaxPool", "ReduceMax", "Slice",
                "Tile", "Expand", "Gather", "Flatten", "Gemm", "MatMul", "Split", "ConvTranspose",
            ]),
        )| {
            let mut changed = network();
            let graph = changed.graph.as_mut().unwrap();
            if !op.is_empty() {
                graph.node[node].op_type = Some(op.to_owned());
            }
            graph.node[node].attribute.retain(|a| a.name() != name);
            graph.node[node].attribute.push(AttributeProto {
                name: Some(name.to_owned()),
                i: ints.first().copied(),
                ints,
                ..Default::default()
            });
            let _ = survives(&encode(&changed));
        });
    });
}

#[test]
fn constants_of_any_value_never_crash() {
    alone(|| {
        proptest!(config(), |(
            which in prop::sample::select(vec![0_usize, 6]),
            values in prop::collection::vec(prop_oneof![any::<i64>(), -3_i64..70], 0..12),
            dims in prop::collection::vec(prop_oneof![any::<i64>(), 0_i64..70], 0..6),
            other in 0_usize..8,
        )| {
            let mut changed = network();
            let graph = changed.graph.as_mut().unwrap();
            let name = graph.initializer[which].name.clone();
            graph.initializer[which] = from_integers(&name.unwrap(), &[values.len()], &values);
            if dims.len() > 2 {
                graph.initializer[other].dims = dims;
            }
            let _ = survives(&encode(&changed));
        });
    });
}
