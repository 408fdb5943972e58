//! A small model folder and frames, in the form that an exporter writes, to run the programs on.
//!
//! ```text
//! x ─ blocks.0 ─ norm ─ Relu ─┬─ wide (16 channels) ─ norm ─ Relu ─┬ Concat ─ deblocks.0 ─ norm ─ Relu ─ heads
//!                             └─ narrow (8)         ─ norm ─ Relu ─┘         (ConvTranspose)
//! ```
//! The file lists `narrow` after `wide`, but the norm of `narrow` before that of `wide`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use centerpoint::internals::build::onnx::encode;
use centerpoint::internals::build::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto,
};
use centerpoint::internals::build::onnx::tensor::from_floats;

use crate::common::MODEL;
use crate::frames::bin;
use crate::nets::{ints, model, node, value};

/// The heads and their channels.
const HEADS: [(&str, usize); 6] = [
    ("heatmap", 2),
    ("reg", 2),
    ("height", 1),
    ("dim", 3),
    ("rot", 2),
    ("vel", 2),
];

/// Pseudo-random values between −1 and 1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let value = |i: usize| {
        let mut x = (i as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        (x ^ (x >> 16)) as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(value).collect()
}

/// The network, node by node.
pub(crate) struct Net {
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) tensors: Vec<TensorProto>,
}

impl Net {
    /// The network in the head of this file.
    pub(crate) fn new() -> Self {
        let mut net = Self {
            nodes: Vec::new(),
            tensors: Vec::new(),
        };
        net.conv("blocks.0", "x", "a0", [8, 2, 3, 3], 1);
        net.norm("norm.0", "a0", "a1", 8);
        net.push(node("Relu", &["a1"], &["a"]));
        net.conv("wide", "a", "w0", [16, 8, 3, 3], 2);
        net.conv("narrow", "a", "n0", [8, 8, 3, 3], 2);
        net.norm("norm.narrow", "n0", "n1", 8);
        net.norm("norm.wide", "w0", "w1", 16);
        net.push(node("Relu", &["w1"], &["w"]));
        net.push(node("Relu", &["n1"], &["n"]));
        let mut concat = node("Concat", &["w", "n"], &["c"]);
        concat.attribute.push(AttributeProto {
            name: Some("axis".into()),
            r#type: Some(2),
            i: Some(1),
            ..Default::default()
        });
        net.push(concat);
        net.weight("deblocks.0.weight", &[24, 8, 2, 2], 0.25);
        let mut up = node("ConvTranspose", &["c", "deblocks.0.weight"], &["u0"]);
        up.attribute = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        net.push(up);
        net.norm("norm.up", "u0", "u1", 8);
        net.push(node("Relu", &["u1"], &["u"]));
        for (name, channels) in HEADS {
            net.conv(&format!("heads.{name}"), "u", name, [channels, 8, 1, 1], 1);
        }
        net
    }

    pub(crate) fn push(&mut self, mut node: NodeProto) {
        node.name = Some(format!("node.{}", self.nodes.len()));
        self.nodes.push(node);
    }

    fn weight(&mut self, name: &str, dims: &[usize], factor: f32) {
        let values = noise(dims.iter().product(), self.tensors.len() as u32);
        let values: Vec<f32> = values.iter().map(|v| v * factor).collect();
        self.tensors.push(from_floats(name, dims, &values));
    }

    fn conv(&mut self, name: &str, from: &str, to: &str, dims: [usize; 4], stride: i64) {
        let weight = format!("{name}.weight");
        self.weight(&weight, &dims, 0.5);
        let mut conv = node("Conv", &[from, &weight], &[to]);
        let pad = (dims[2] / 2) as i64;
        conv.attribute = vec![
            ints("kernel_shape", &[dims[2] as i64; 2]),
            ints("strides", &[stride; 2]),
            ints("pads", &[pad; 4]),
        ];
        self.push(conv);
    }

    fn norm(&mut self, name: &str, from: &str, to: &str, channels: usize) {
        let inputs = ["weight", "bias", "running_mean", "running_var"];
        let names = inputs.map(|input| format!("{name}.{input}"));
        for (i, name) in names.iter().enumerate() {
            let values = noise(channels, 100 + self.tensors.len() as u32);
            let values: Vec<f32> = match i {
                0 | 3 => values.iter().map(|v| 1.0 + 0.5 * v).collect(),
                _ => values.iter().map(|v| 0.2 * v).collect(),
            };
            self.tensors.push(from_floats(name, &[channels], &values));
        }
        let [scale, bias, mean, var] = &names;
        self.push(node(
            "BatchNormalization",
            &[from, scale, bias, mean, var],
            &[to],
        ));
    }

    fn graph(self) -> GraphProto {
        let outputs = HEADS.map(|(name, channels)| value(name, &[1, channels as i64, 16, 16]));
        GraphProto {
            node: self.nodes,
            initializer: self.tensors,
            input: vec![value("x", &[1, 2, 16, 16])],
            output: outputs.to_vec(),
            ..Default::default()
        }
    }
}

/// The highest z, and 1 for every pillar: MatMul, Add, Relu, and the maximum over the points. Columns after z have
/// no effect.
fn pfe(columns: usize, points: i64) -> GraphProto {
    let mut weight = vec![0.0; 2 * columns];
    weight[4] = 1.0;
    let mut nodes = vec![
        node("MatMul", &["points", "pfn.weight"], &["p0"]),
        node("Add", &["p0", "pfn.bias"], &["p1"]),
        node("Relu", &["p1"], &["p2"]),
        node("ReduceMax", &["p2"], &["features"]),
    ];
    nodes[3].attribute = vec![ints("axes", &[1])];
    GraphProto {
        node: nodes,
        initializer: vec![
            from_floats("pfn.weight", &[columns, 2], &weight),
            from_floats("pfn.bias", &[2], &[0.0, 1.0]),
        ],
        input: vec![value("points", &[64, points, columns as i64])],
        output: vec![value("features", &[64, 1, 2])],
        ..Default::default()
    }
}

/// Writes the model folder `name` in `folder`.
pub(crate) fn write_model(folder: &Path, name: &str, net: Net) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).unwrap();
    write_description(&path, MODEL, 3);
    let network = encode(&model(net.graph()));
    std::fs::write(path.join("pts_backbone_neck_head.onnx"), network).unwrap();
    path
}

/// Writes the two networks as for Autoware, with these names, into `folder`: 9 columns of 32 points.
pub(crate) fn write_autoware(folder: &Path, pfe_name: &str, rpn_name: &str) {
    let pfe = encode(&model(pfe(9, 32)));
    std::fs::write(folder.join(pfe_name), pfe).unwrap();
    let network = encode(&model(Net::new().graph()));
    std::fs::write(folder.join(rpn_name), network).unwrap();
}

/// Writes a description and the PFN for `columns` columns into a model folder.
pub(crate) fn write_description(path: &Path, description: &str, columns: usize) {
    let pfe = encode(&model(pfe(columns, 4)));
    std::fs::write(path.join("model.toml"), description).unwrap();
    std::fs::write(path.join("pts_voxel_encoder.onnx"), pfe).unwrap();
}

/// Writes `count` frames of 100 points, in the model's columns, into the folder `name` in `folder`.
pub(crate) fn write_frames(folder: &Path, name: &str, count: u32) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).unwrap();
    for frame in 0..count {
        let seed = frame + 1000 * name.len() as u32;
        let points: Vec<f32> = noise(300, seed)
            .chunks_exact(3)
            .flat_map(|p| [7.9 * p[0], 7.9 * p[1], 2.0 + 1.9 * p[2]])
            .collect();
        std::fs::write(path.join(format!("{name}{frame:03}.bin")), bin(&points)).unwrap();
    }
    path
}

/// Runs `cp-build` in `folder`.
pub(crate) fn build(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cp-build"))
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .args(args)
        .output()
        .unwrap()
}

/// Runs `cp-build`, which must succeed. Returns its standard output and standard error.
pub(crate) fn built(folder: &Path, args: &[&str]) -> (String, String) {
    let run = build(folder, args);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(run.stdout), text(run.stderr));
    assert_eq!(run.status.code(), Some(0), "{args:?}: {err}");
    (out, err)
}

/// Runs `cp-build`, which must fail with this exit code. Returns its message.
pub(crate) fn refused(folder: &Path, args: &[&str], status: i32) -> String {
    let run = build(folder, args);
    let err = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(status), "{args:?}: {err}");
    assert!(err.starts_with("cp-build: "), "{err}");
    err
}
