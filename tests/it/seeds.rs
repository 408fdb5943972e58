//! Failures of the INT8 flows that this project started from ("the seeds"), tested on a small model through the
//! program: norms paired by order, ConvTranspose with a norm, a quantiser whose amax per channel could not be printed,
//! deconvolutions that could not be quantised, a calibration that only worked in its original location, and a skip
//! list that silently matched nothing.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use centerpoint::Plan;
use centerpoint::build::Folder;

use crate::toy::{self, Net, built, refused};

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy::write_model(folder.path(), "model", Net::new());
    toy::write_frames(folder.path(), "frames", 8);
    folder
}

/// Arguments of `cp-build quantize` for a plan at `out`.
fn quantize<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["quantize", "--model", "model", "--frames", "frames"];
    args.extend(["--out", out]);
    args.extend(more);
    args
}

fn int8_layers(plan: &Path) -> Vec<String> {
    let plan = Plan::open(plan).unwrap();
    plan.manifest().quantization.clone().unwrap().int8
}

/// "The size of tensor a (256) must match the size of tensor b (128)": in the file, the norms are not in the order of
/// their layers. The unit tests of `fuse` cover the seeds' sizes and the values.
#[test]
fn norms_are_fused_by_data_flow_even_into_deconvolutions() {
    let folder = folder();
    let model = Folder::read(&folder.path().join("model")).unwrap();
    let fused = &model.rpn.fused;
    assert_eq!(fused.kept.len(), 0);
    assert_eq!(fused.fused.len(), 4);
    for (norm, layer) in [(5, 4), (6, 3), (11, 10)] {
        let name = |n: usize| format!("node.{n}");
        let found = fused.fused.iter().find(|f| f.node.contains(&name(norm)));
        let into = &found.unwrap().into;
        assert!(into.contains(&name(layer)), "{norm} was fused into {into}");
    }
}

/// "a Tensor with 16 elements cannot be converted to Scalar".
#[test]
fn an_amax_per_channel_is_listed_in_a_plan_and_in_onnx() {
    let folder = folder();
    let args = quantize("int8.plan", &["--recipe", "custom", "--onnx", "onnx"]);
    built(folder.path(), &args);
    let show = ["inspect", "int8.plan", "--show", "quantizers"];
    let (plan, _) = built(folder.path(), &show);
    let onnx = ["inspect", "onnx/pts_backbone_neck_head.onnx"];
    let (onnx, _) = built(folder.path(), &onnx);
    for text in [&plan, &onnx] {
        let line = |name: &str| {
            let mut lines = text
                .lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>());
            let found = lines.find(|cells| cells.first() == Some(&name));
            found.unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        let wide = line("wide");
        assert_eq!(wide[1..3], ["0", "16"], "axis and channels");
        let [min, median, max] = [3, 4, 5].map(|i| wide[i].parse::<f64>().unwrap());
        assert!(0.0 < min && min < median && median < max, "{wide:?}");
        // The network's input is an activation, per tensor.
        assert!(line("x")[1].parse::<f64>().unwrap() > 0.0);
    }
    assert!(plan.contains("from 6 frames"), "{plan}");
}

#[test]
fn a_deconvolution_is_quantised_unless_the_recipe_excludes_it() {
    let folder = folder();
    built(
        folder.path(),
        &quantize("ours.plan", &["--recipe", "custom"]),
    );
    built(
        folder.path(),
        &quantize("theirs.plan", &["--recipe", "nvidia"]),
    );
    let layers = |plan: &str| int8_layers(&folder.path().join(plan));
    assert!(layers("ours.plan").contains(&"deblocks.0".to_owned()));
    assert_eq!(layers("ours.plan").len(), 10);
    assert!(!layers("theirs.plan").contains(&"deblocks.0".to_owned()));
    let args = ["inspect", "theirs.plan", "--show", "quantizers"];
    let (text, _) = built(folder.path(), &args);
    assert!(text.contains("Float: deblocks.0"), "{text}");
}

/// Calibrates in one place and builds in another: different folders yield the same bytes; different frames are refused.
#[test]
fn a_calibration_moves_to_another_machine() {
    let (here, there) = (folder(), tempfile::tempdir().unwrap());
    let args = ["--recipe", "custom", "--equalize", "0"];
    let calibration = ["--calibration", "x.calib.json"];
    let all = [&args[..], &calibration].concat();
    built(here.path(), &quantize("int8.plan", &all));
    for part in ["model", "frames"] {
        let to = there.path().join("deep").join(part);
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(here.path().join(part)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let deep = there.path().join("deep");
    std::fs::copy(here.path().join("x.calib.json"), deep.join("moved.json")).unwrap();
    let moved = ["--calibration", "moved.json"];
    built(&deep, &quantize("int8.plan", &[&args[..], &moved].concat()));
    let bytes = |folder: &Path| std::fs::read(folder.join("int8.plan")).unwrap();
    assert!(bytes(here.path()) == bytes(&deep));
    // The cache was really used: with another frame it is refused.
    toy::write_frames(&deep, "frames", 9);
    let message = refused(
        &deep,
        &quantize("int8.plan", &[&args[..], &moved].concat()),
        6,
    );
    assert!(
        message.contains("moved.json") && message.contains("frames"),
        "{message}"
    );
}

#[test]
fn a_skip_list_without_matches_causes_a_warning() {
    let folder = folder();
    let skip = ["--recipe", "custom", "--skip", "pts_neck.deblocks.*"];
    let (_, warnings) = built(folder.path(), &quantize("a.plan", &skip));
    assert!(warnings.contains("pts_neck.deblocks.*"), "{warnings}");
    let skip = ["--recipe", "custom", "--skip", "deblocks.*"];
    let (_, warnings) = built(folder.path(), &quantize("b.plan", &skip));
    assert_eq!(warnings, "");
    assert_eq!(int8_layers(&folder.path().join("b.plan")).len(), 9);
}
