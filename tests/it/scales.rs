//! Scales of networks that are quantised already: `--scales`, and `import --scales none`, on a small network.

use std::collections::BTreeMap;
use std::path::Path;

use centerpoint::internals::build::onnx::Graph;

use crate::qat;
use crate::toy::{built, refused};

/// Exit code for input that does not fit.
const BAD_INPUT: i32 = 4;

/// The INT8 constants of a folder's network, by name.
fn codes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let graph = Graph::read(&folder.join("pts_backbone_neck_head.onnx")).unwrap();
    let tensors = graph.proto().initializer.iter();
    let codes = tensors.filter(|t| t.data_type() == 3);
    codes
        .map(|t| (t.name().to_owned(), t.raw_data().to_vec()))
        .collect()
}

/// Imports the quantised folder `q` as the float folder `f`.
fn import(folder: &Path) {
    let [pfe, rpn] = ["q/pts_voxel_encoder.onnx", "q/pts_backbone_neck_head.onnx"];
    let args = [
        "import",
        "--pfe",
        pfe,
        "--rpn",
        rpn,
        "--model",
        "q/model.toml",
        "--scales",
        "none",
        "--out",
        "f",
    ];
    built(folder, &args);
}

fn quantize<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = [
        "quantize",
        "--model",
        model,
        "--pcd",
        "frames",
        "--allow-low-sqnr",
        "--out",
        "x.plan",
    ];
    [&base[..], more].concat()
}

#[test]
fn the_scales_of_a_quantised_folder_are_taken_as_they_are() {
    let folder = qat::folder();
    let path = folder.path();
    // Other scales than the calibration of `nvidia` makes.
    let max = ["--config", "max.toml", "--onnx", "q"];
    let config = "[calibration]\nmethod = \"max\"\ncells = \"all\"\n[equalize]\nalpha = 0\nbackground = false\n[placement]\nheads = false\n";
    std::fs::write(path.join("max.toml"), config).unwrap();
    built(path, &quantize("model", &max));
    let wanted = codes(&path.join("q"));
    assert!(wanted.len() > 10, "{:?}", wanted.keys());
    import(path);
    let manifest = std::fs::read_to_string(path.join("f/manifest.json")).unwrap();
    assert!(manifest.contains("dropped the scales of"), "{manifest}");
    for (model, out) in [("model", "r"), ("f", "s")] {
        let given = ["--scales", "q", "--onnx", out];
        let (text, said) = built(path, &quantize(model, &given));
        assert!(text.contains("options: given scales"), "{text}");
        assert!(!said.contains("scale was given"), "{said}");
        assert_eq!(codes(&path.join(out)), wanted, "{model}");
    }
}

#[test]
fn a_training_starts_from_given_scales_and_leaves_those_of_weights() {
    let folder = qat::folder();
    let path = folder.path();
    qat::quantized(path, "model", &["--out", "q.plan", "--onnx", "q"]);
    let train = [
        "qat",
        "--model",
        "model",
        "--scales",
        "q",
        "--pcd",
        "frames",
        "--allow-low-sqnr",
        "--out",
        "a.plan",
        "--steps",
        "40",
        "--check",
        "20",
        "--rate",
        "0.00001",
        "--onnx",
        "r",
    ];
    let (text, _) = built(path, &train);
    assert!(
        text.contains("trained weights") && text.contains("options: given scales"),
        "{text}"
    );
    let [before, after] = ["q", "r"].map(|folder| codes(&path.join(folder)));
    assert!(before != after && before.keys().eq(after.keys()));
    let scale = |folder: &str| {
        let graph = Graph::read(&path.join(folder).join("pts_backbone_neck_head.onnx")).unwrap();
        graph.floats("wide.weight_scale").unwrap().unwrap().data
    };
    let [before, after] = ["q", "r"].map(scale);
    for (before, after) in before.iter().zip(&after) {
        assert!((before - after).abs() <= 2e-7 * before, "{before} {after}");
    }
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let folder = qat::folder();
    let path = folder.path();
    built(
        path,
        &quantize(
            "model",
            &["--recipe", "best", "--equalize", "1", "--onnx", "q"],
        ),
    );
    for (args, expected) in [
        // Equalised, so its weights are others.
        (quantize("model", &["--scales", "q"]), "--scales none"),
        (
            quantize("model", &["--scales", "model"]),
            "has no Q/DQ pairs",
        ),
        (
            quantize("q", &[]),
            "import what it came from once more with `--scales none`",
        ),
    ] {
        let message = refused(path, &args, BAD_INPUT);
        assert!(message.contains(expected), "{message}");
    }
    import(path);
    let (text, _) = built(path, &quantize("f", &["--scales", "q"]));
    assert!(text.contains("given scales"), "{text}");
    std::fs::write(path.join("given.toml"), "recipe = \"given\"\n").unwrap();
    let message = refused(path, &quantize("model", &["--config", "given.toml"]), 2);
    assert!(
        message.contains("`recipe` is given") && message.contains("--scales"),
        "{message}"
    );
    std::fs::write(path.join("bits.toml"), "[weights]\nbits = 4\n").unwrap();
    let bits = ["--config", "bits.toml", "--scales", "q"];
    let message = refused(path, &quantize("f", &bits), 2);
    assert!(message.contains("`weights.bits`"), "{message}");
}

/// Scales of a file can be anything.
#[test]
fn scales_that_are_no_ranges_are_refused() {
    let folder = qat::folder();
    let path = folder.path();
    qat::quantized(path, "model", &["--out", "q.plan", "--onnx", "q"]);
    let network = path.join("q/pts_backbone_neck_head.onnx");
    // It has the hashes of the files.
    std::fs::remove_file(path.join("q/manifest.json")).unwrap();
    let good = Graph::read(&network).unwrap();
    for (tensor, value) in [
        ("wide.weight_scale", f32::NAN),
        ("wide.weight_scale", -0.5),
        ("a_scale", f32::INFINITY),
        ("a_scale", -1.0),
    ] {
        let mut graph = good.clone();
        let edited = graph.edit(|proto| {
            let mut tensors = proto.initializer.iter_mut();
            let scales = tensors.find(|t| t.name() == tensor).unwrap();
            let mut bytes = scales.raw_data().to_vec();
            bytes[..4].copy_from_slice(&value.to_le_bytes());
            scales.raw_data = Some(bytes.into());
        });
        edited.unwrap();
        graph.write(&network).unwrap();
        let message = refused(path, &quantize("model", &["--scales", "q"]), 6);
        assert!(
            message.contains(tensor.trim_end_matches("_scale")),
            "{message}"
        );
    }
}

/// A deconvolution that runs as a 1×1 convolution has one scale for all of its 4 × 8 channels.
#[test]
fn a_deconvolution_has_one_scale_if_it_is_asked_for() {
    let folder = qat::folder();
    let path = folder.path();
    let scales = |folder: &str, weight: &str| {
        let graph = Graph::read(&path.join(folder).join("pts_backbone_neck_head.onnx")).unwrap();
        let scales = graph.floats(&format!("{weight}_scale")).unwrap().unwrap();
        let mut values = scales.data;
        values.sort_by(f32::total_cmp);
        values.dedup();
        values.len()
    };
    let options = ["--recipe", "best", "--deconvolution-scale", "--onnx"];
    let (text, _) = built(path, &quantize("model", &[&options[..], &["q"]].concat()));
    assert!(text.contains("one scale a deconvolution"), "{text}");
    assert_eq!(scales("q", "deblocks.0.weight"), 1);
    assert_eq!(scales("q", "wide.weight"), 16);
    let train = ["--steps", "10", "--check", "5", "--rate", "0.00001"];
    let mut args = quantize("model", &[&options[..], &["r"], &train].concat());
    args[0] = "qat";
    built(path, &args);
    assert_eq!(scales("r", "deblocks.0.weight"), 1);
    let bits = ["--deconvolution-scale", "--weight-bits", "4"];
    let message = refused(path, &quantize("model", &bits), 2);
    assert!(message.contains("8=GLOB"), "{message}");
}
