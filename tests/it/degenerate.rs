//! Degenerate inputs, each with its own message and exit status (see `cp-build --help`).
#![allow(clippy::unwrap_used)]

use std::path::Path;

use centerpoint::internals::build::onnx::tensor::from_floats;

use crate::common::MODEL;
use crate::frames::{Encoding, XYZI, bin, pcd};
use crate::nets::node;
use crate::toy::{self, Net, built, refused};

const QUANTIZE: [&str; 9] = [
    "quantize",
    "--recipe",
    "custom",
    "--model",
    "model",
    "--frames",
    "frames",
    "--out",
    "int8.plan",
];

fn folder(net: Net) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy::write_model(folder.path(), "model", net);
    toy::write_frames(folder.path(), "frames", 8);
    folder
}

/// The network with all values of one weight replaced.
fn with_weight(name: &str, dims: &[usize], value: f32) -> Net {
    let mut net = Net::new();
    let values = vec![value; dims.iter().product()];
    let mut tensors = net.tensors.iter_mut();
    let tensor = tensors.find(|t| t.name() == name).unwrap();
    *tensor = from_floats(name, dims, &values);
    net
}

fn help_says(status: i32) {
    let (help, _) = built(Path::new("."), &["--help"]);
    assert!(help.contains(&format!("{status} ")), "{help}");
}

/// `wide` is always zero, because its weights are: its range is empty.
#[test]
fn all_zero_tensors_are_quantised_and_reported() {
    let mut net = with_weight("wide.weight", &[16, 8, 3, 3], 0.0);
    for tensor in &mut net.tensors {
        if ["norm.wide.bias", "norm.wide.running_mean"].contains(&tensor.name()) {
            *tensor = from_floats(tensor.name(), &[16], &[0.0; 16]);
        }
    }
    // Its own head, which keeps its tensor apart from that of `narrow`.
    let concat = net
        .nodes
        .iter_mut()
        .find(|n| n.op_type() == "Concat")
        .unwrap();
    concat.input = vec!["w".into(), "w".into()];
    let up = net
        .tensors
        .iter_mut()
        .find(|t| t.name() == "deblocks.0.weight")
        .unwrap();
    *up = from_floats("deblocks.0.weight", &[32, 8, 2, 2], &[0.5; 32 * 32]);
    let folder = folder(net);
    let (_, warnings) = built(folder.path(), &QUANTIZE);
    assert!(
        warnings.contains("\"c\" is 0 in every calibration frame"),
        "{warnings}"
    );
    let (text, _) = built(
        folder.path(),
        &["inspect", "int8.plan", "--show", "quantizers"],
    );
    let line = text.lines().find(|l| l.starts_with("c ")).unwrap();
    assert!(line.contains("0.0000"), "{line}");
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .current_dir(folder.path())
        .args(["--engine", "int8.plan", "--pcd", "frames"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{errors}");
}

#[test]
fn an_infinite_activation_is_rejected_with_tensor_and_frame() {
    let folder = folder(with_weight("heads.reg.weight", &[2, 8, 1, 1], 3e38));
    let message = refused(folder.path(), &QUANTIZE, 6);
    for part in ["\"reg\"", "frames000.bin", "inf"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    help_says(6);
}

#[test]
fn a_folder_without_frames_is_rejected() {
    let folder = folder(Net::new());
    std::fs::remove_dir_all(folder.path().join("frames")).unwrap();
    std::fs::create_dir(folder.path().join("frames")).unwrap();
    let message = refused(folder.path(), &QUANTIZE, 3);
    assert!(
        message.contains("frames: no frames in this folder"),
        "{message}"
    );
    // The only frame is used for calibration; none is left to measure on.
    toy::write_frames(folder.path(), "frames", 1);
    let mut args = QUANTIZE.to_vec();
    args[0] = "sensitivity";
    args.retain(|a| !["--recipe", "custom", "--out", "int8.plan"].contains(a));
    let message = refused(folder.path(), &args, 3);
    assert!(
        message.contains("no frame is left to measure on"),
        "{message}"
    );
}

#[test]
fn a_frame_of_another_layout_is_rejected_with_its_columns() {
    let folder = folder(Net::new());
    let ring = MODEL.replace(r#""x", "y", "z""#, r#""x", "y", "z", "ring""#);
    toy::write_description(&folder.path().join("model"), &ring, 4);
    let frame = pcd(&XYZI, &[1.0, 2.0, 3.0, 0.5], Encoding::Ascii);
    // Both among the frames for calibration and among those for measuring.
    for name in ["frames001.pcd", "frames002.pcd"] {
        let path = folder.path().join("frames").join(name);
        std::fs::write(&path, &frame).unwrap();
        let message = refused(folder.path(), &QUANTIZE, 3);
        for part in [name, "ring", "x,y,z,intensity"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        std::fs::remove_file(path).unwrap();
    }
    // A file with a partial row cannot be read at all.
    std::fs::write(folder.path().join("frames/frames002.bin"), bin(&[1.0; 5])).unwrap();
    let message = refused(folder.path(), &QUANTIZE, 3);
    assert!(message.contains("frames002.bin"), "{message}");
}

#[test]
fn an_unknown_operator_is_rejected_with_node_and_file() {
    let mut net = Net::new();
    let relu = net.nodes.iter().position(|n| n.output == ["n"]).unwrap();
    net.nodes[relu] = node("Softplus", &["n1"], &["n"]);
    net.nodes[relu].name = Some("/narrow/Softplus".into());
    let folder = folder(net);
    let message = refused(folder.path(), &QUANTIZE, 4);
    for part in ["pts_backbone_neck_head.onnx", "/narrow/Softplus", "Relu"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_calibration_of_another_model_is_rejected() {
    let folder = folder(Net::new());
    let mut args = QUANTIZE.to_vec();
    args.extend(["--equalize", "0", "--calibration", "x.calib.json"]);
    built(folder.path(), &args);
    toy::write_model(
        folder.path(),
        "model",
        with_weight("narrow.weight", &[8, 8, 3, 3], 0.5),
    );
    let message = refused(folder.path(), &args, 6);
    for part in ["x.calib.json", "from another model"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    std::fs::write(folder.path().join("x.calib.json"), "{}").unwrap();
    let message = refused(folder.path(), &args, 6);
    assert!(message.contains("invalid calibration"), "{message}");
}

#[test]
fn an_invalid_configuration_is_a_usage_error() {
    let folder = folder(Net::new());
    std::fs::write(folder.path().join("q.toml"), "[equalize]\nalpha = 2.0\n").unwrap();
    let mut args = QUANTIZE.to_vec();
    args.extend(["--config", "q.toml"]);
    let message = refused(folder.path(), &args, 2);
    assert!(message.contains("`equalize.alpha` is 2"), "{message}");
    let mut gone = QUANTIZE.to_vec();
    gone[4] = "no/such/model";
    assert!(refused(folder.path(), &gone, 4).contains("no/such/model"));
}

#[test]
fn few_frames_frames_of_two_scales_and_a_large_error_are_refused_unless_accepted() {
    let folder = folder(Net::new());
    let out = folder.path().join("int8.plan");
    let allow = [&QUANTIZE[..], &["--allow-low-sqnr"]].concat();
    for frame in 3..8 {
        let name = format!("frames/frames{frame:03}.bin");
        std::fs::remove_file(folder.path().join(name)).ok();
    }
    let message = refused(folder.path(), &QUANTIZE, 3);
    assert!(
        message.contains("3 frames") && message.contains("at least 4"),
        "{message}"
    );
    assert!(!out.exists());
    let (_, warned) = built(folder.path(), &allow);
    assert!(warned.contains("at least 4") && out.exists(), "{warned}");
    std::fs::remove_file(&out).unwrap();

    // Ranges that cut off nearly everything.
    toy::write_frames(folder.path(), "frames", 8);
    let cut = ["--method", "percentile", "--percentile", "51"];
    let message = refused(folder.path(), &[&QUANTIZE[..], &cut].concat(), 7);
    assert!(
        message.contains("below 10 dB") && message.contains("on 2 frames"),
        "{message}"
    );
    assert!(!out.exists());
    built(folder.path(), &[&allow[..], &cut].concat());

    let bright = MODEL.replace(r#""x", "y", "z""#, r#""x", "y", "z", "intensity""#);
    toy::write_description(&folder.path().join("model"), &bright, 4);
    for frame in 0..8 {
        let most = if frame < 6 { 1.0 } else { 255.0 };
        let points = toy_points(frame, most);
        let name = format!("frames/frames{frame:03}.bin");
        std::fs::write(folder.path().join(name), bin(&points)).unwrap();
    }
    let message = refused(folder.path(), &QUANTIZE, 3);
    for part in [
        "frames000.bin reach 1",
        "frames006.bin 255",
        "different scales",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // A frame without the column that the others have.
    let path = folder.path().join("frames/frames007.pcd");
    std::fs::write(&path, pcd(&XYZI[..3], &[1.0, 2.0, 3.0], Encoding::Ascii)).unwrap();
    for frame in 6..8 {
        let name = format!("frames/frames{frame:03}.bin");
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let message = refused(folder.path(), &QUANTIZE, 3);
    assert!(message.contains("frames007.pcd x,y,z:"), "{message}");
}

/// Points with intensities up to `most`.
fn toy_points(frame: u32, most: f32) -> Vec<f32> {
    let point = |i: u32| {
        let along = |step: u32| ((i * step + frame) % 31) as f32 / 2.0 - 7.7;
        [
            along(7),
            along(11),
            (i % 8) as f32 / 2.0,
            most * (i % 5) as f32 / 4.0,
        ]
    };
    (0..100).flat_map(point).collect()
}
