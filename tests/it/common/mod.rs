//! Helpers of the tests; in this file, a tiny model whose boxes are known, and access to what a test needs.
//!
//! The tiny model's BEV map is 16 × 16 cells of 1 m around the origin. The heads are 1 × 1 convolutions of that map:
//! every pillar becomes one box at the centre of its cell, of class `tall` (z > 1) or `low`.

#[cfg(feature = "mcap")]
pub(crate) mod bag;
pub(crate) mod bev;
pub(crate) mod emulation;
pub(crate) mod engine_net;
pub(crate) mod frames;
pub(crate) mod npz;
pub(crate) mod oracle;
pub(crate) mod real;
pub(crate) mod recorded;
#[cfg(feature = "tensorrt")]
pub(crate) mod standin;
pub(crate) mod toy;

use std::path::{Path, PathBuf};

use centerpoint::internals::build::lower::{ConvSpec, ConvWeight, Direction, ProgramBuilder};
use centerpoint::internals::plan::{self, Contents, Manifest, Target};
use centerpoint::internals::program::Payload;
pub(crate) use centerpoint::internals::testing::{TINY as MODEL, tiny_pfn as pfn};

/// The variances of the network with variance heads: centre, size, sine and cosine of the yaw, velocity.
pub(crate) const VARIANCES: [f32; 10] = [0.5, 0.25, 0.125, 0.1, 0.2, 0.3, 0.01, 0.04, 2.0, 3.0];

/// Heatmap logits: 4 (z − 1) for `tall` and 4 (1 − z) for `low` in cells with a pillar, −4 elsewhere.
pub(crate) fn network() -> Payload {
    build(false)
}

/// A 1 × 1 convolution.
fn pointwise<'a>(weight: ConvWeight<'a>, bias: &'a [f32]) -> ConvSpec<'a> {
    ConvSpec {
        direction: Direction::Forward,
        out_channels: bias.len(),
        kernel: [1, 1],
        stride: [1, 1],
        pad: [0; 4],
        dilation: [1, 1],
        groups: 1,
        weight,
        bias: Some(bias),
        relu: false,
    }
}

/// The network, with the logarithms of [`VARIANCES`] after the values if it has variance heads.
fn build(variance: bool) -> Payload {
    let mut variances = VARIANCES.into_iter().map(f32::ln);
    let mut net = ProgramBuilder::new();
    let x = net.input("spatial_features", 2, 16, 16).unwrap();
    let mut head = |name: &str, weight: &[f32], bias: &[f32]| {
        let (mut weight, mut bias) = (weight.to_vec(), bias.to_vec());
        if variance && name != "heatmap" {
            bias.extend(variances.by_ref().take(bias.len()));
            weight.resize(2 * bias.len(), 0.0);
        }
        let spec = pointwise(ConvWeight::F32(&weight), &bias);
        let y = net.conv(name, x, &spec).unwrap();
        net.output(y, name).unwrap();
    };
    head("heatmap", &[4.0, 0.0, -4.0, 8.0], &[-4.0, -4.0]);
    head("reg", &[0.0; 4], &[0.5, 0.5]);
    head("height", &[1.0, 0.0], &[0.0]);
    head("dim", &[0.0; 6], &[1.0, 0.5, 0.25]);
    head("rot", &[0.0; 4], &[1.0, 0.0]);
    head("vel", &[0.0; 4], &[3.0, -2.0]);
    net.finish().unwrap()
}

/// The network in INT8, by way of a convolution of its own.
fn build_int8() -> Payload {
    let mut net = ProgramBuilder::new();
    let x = net.input("spatial_features", 2, 16, 16).unwrap();
    let mut conv = |name: &str, x, codes: &[i8], bias: &[f32], relu: bool| {
        let scales = vec![1.0 / 16.0; bias.len()];
        let q = net
            .quantize(&format!("{name}.q"), x, 1.0 / 16.0, 0)
            .unwrap();
        let x = net.dequantize(&format!("{name}.dq"), q).unwrap();
        let weight = ConvWeight::I8 {
            codes,
            scales: &scales,
        };
        let spec = ConvSpec {
            relu,
            ..pointwise(weight, bias)
        };
        net.conv(name, x, &spec).unwrap()
    };
    let x = conv("own", x, &[16, 0, 0, 16], &[0.0; 2], true);
    let heads = [
        conv("heatmap", x, &[64, 0, -64, 127], &[-4.0, -4.0], false),
        conv("reg", x, &[0; 4], &[0.5, 0.5], false),
        conv("height", x, &[16, 0], &[0.0], false),
        conv("dim", x, &[0; 6], &[1.0, 0.5, 0.25], false),
        conv("rot", x, &[0; 4], &[1.0, 0.0], false),
        conv("vel", x, &[0; 4], &[3.0, -2.0], false),
    ];
    for (y, name) in heads
        .into_iter()
        .zip(["heatmap", "reg", "height", "dim", "rot", "vel"])
    {
        net.output(y, name).unwrap();
    }
    net.finish().unwrap()
}

/// Like [`write_plan`], for the network in INT8.
pub(crate) fn write_int8_plan(folder: &Path, model: &str) -> PathBuf {
    write_plan_of(folder, model, &build_int8())
}

/// Writes the plan of the tiny model. `model` is [`MODEL`] or an edit of it.
pub(crate) fn write_plan(folder: &Path, model: &str) -> PathBuf {
    write_plan_of(folder, model, &build(false))
}

/// Like [`write_plan`], for a network with variance heads.
pub(crate) fn write_variance_plan(folder: &Path, model: &str) -> PathBuf {
    write_plan_of(folder, model, &build(true))
}

fn write_plan_of(folder: &Path, model: &str, payload: &Payload) -> PathBuf {
    let path = folder.join("tiny.plan");
    let program = serde_json::to_vec(&payload.program).unwrap();
    plan::write(
        &path,
        Contents {
            manifest: Manifest {
                producer: "tests".into(),
                target: Target {
                    engine: "cpu".into(),
                    precision: "fp32".into(),
                    version: "1".into(),
                    tensorrt: None,
                },
                ..Manifest::default()
            },
            model_text: model,
            pfn: &pfn(),
            engine: vec![("program", &program), ("weights", &payload.weights)],
        },
    )
    .unwrap();
    path
}

/// Writes a KITTI file of these points.
pub(crate) fn write_kitti(path: &Path, points: &[[f32; 4]]) {
    let bytes: Vec<u8> = points
        .iter()
        .flatten()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    std::fs::write(path, bytes).unwrap();
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The value of an environment variable that the test's `#[ignore = "needs …"]` names.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("this test needs {name}; `.ci/run` shows how to set it"))
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
