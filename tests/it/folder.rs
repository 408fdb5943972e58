//! Quantised model folders: compiling one yields the plan that quantising wrote, and its files only work
//! together.

use std::path::Path;

use centerpoint::Plan;
use centerpoint::build::Folder;

use crate::common;
use crate::toy::{self, Net, built, refused};

const PFE: &str = "pts_voxel_encoder.onnx";
const RPN: &str = "pts_backbone_neck_head.onnx";

/// A folder with a model, frames, the INT8 plan `int8.plan` and the quantised folder `q`.
fn quantized(recipe: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy::write_model(folder.path(), "model", Net::new());
    toy::write_frames(folder.path(), "frames", 8);
    built(folder.path(), &quantize(&["--recipe", recipe]));
    folder
}

/// Arguments of `cp-build quantize` that turn `model` into `int8.plan` and `q`.
fn quantize<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base = ["quantize", "--model", "model", "--frames", "frames"];
    [&base[..], &["--out", "int8.plan", "--onnx", "q"], more].concat()
}

const COMPILE: [&str; 5] = ["compile", "--model", "q", "--out", "again.plan"];

/// Checks that two plans hold the same engine, PFN and record; their input files differ.
fn assert_same_plan(first: &Path, second: &Path) {
    let [first, second] = [first, second].map(|path| Plan::open(path).unwrap());
    for name in ["program", "weights", "pfn", "model"] {
        let [a, b] = [&first, &second].map(|plan| plan.section(name).unwrap());
        assert!(a.as_ref() == b.as_ref(), "section {name} differs");
    }
    let [mut a, b] = [&first, &second].map(|plan| plan.manifest().clone());
    assert!(a.quantization.is_some());
    assert_ne!(a.inputs, b.inputs);
    a.inputs = b.inputs.clone();
    assert_eq!(a, b);
}

#[test]
fn a_quantised_folder_compiles_to_the_plan_of_quantising() {
    for recipe in ["custom", "nvidia"] {
        let folder = quantized(recipe);
        let (said, _) = built(folder.path(), &COMPILE);
        assert!(said.starts_with("again.plan: cpu int8"), "{said}");
        let [first, second] = ["int8.plan", "again.plan"].map(|name| folder.path().join(name));
        assert_same_plan(&first, &second);
    }
}

/// The demo model has more PFN layers and more channels to equalise.
#[test]
fn the_quantised_demo_folder_does_too() {
    let folder = tempfile::tempdir().unwrap();
    let root = crate::common::repository();
    let [model, frames] = ["engines/demo", "calib/demo"].map(|name| root.join(name));
    let config = "recipe = \"custom\"\nframes = { limit = 3, held_out = 2 }";
    std::fs::write(folder.path().join("c.toml"), config).unwrap();
    let args = ["--model", model.to_str().unwrap(), "--config", "c.toml"];
    let frames = ["--frames", frames.to_str().unwrap(), "--onnx", "q"];
    let args = [&["quantize", "--out", "int8.plan"], &args[..], &frames].concat();
    built(folder.path(), &args);
    built(folder.path(), &COMPILE);
    let [first, second] = ["int8.plan", "again.plan"].map(|name| folder.path().join(name));
    assert_same_plan(&first, &second);
}

#[test]
fn files_from_two_folders_are_rejected() {
    let folder = quantized("custom");
    let at = |name: &str| folder.path().join(name);
    let copy = |from: &str, to: &str| {
        std::fs::copy(at(from), at(to)).unwrap();
    };
    // A quantised network without its PFN and its manifest.
    copy(&format!("q/{RPN}"), &format!("model/{RPN}"));
    let message = refused(
        folder.path(),
        &["compile", "--model", "model", "--out", "x.plan"],
        4,
    );
    assert!(
        message.contains("quantised with a different PFN"),
        "{message}"
    );
    assert!(message.contains(PFE), "{message}");

    let whole = std::fs::read(at(&format!("q/{PFE}"))).unwrap();
    copy(&format!("model/{PFE}"), &format!("q/{PFE}"));
    let message = refused(folder.path(), &COMPILE, 4);
    assert!(
        message.contains(&format!("q/{PFE}: does not match manifest.json")),
        "{message}"
    );
    std::fs::write(at(&format!("q/{PFE}")), whole).unwrap();
    built(folder.path(), &COMPILE);
    // The description may change, as in any folder.
    let text = std::fs::read_to_string(at("q/model.toml")).unwrap();
    std::fs::write(at("q/model.toml"), text + "\n").unwrap();
    built(folder.path(), &COMPILE);

    let manifest = std::fs::read_to_string(at("q/manifest.json")).unwrap();
    for (broken, needle) in [
        (
            manifest.replace(RPN, "other.onnx"),
            "`files` has no entry for",
        ),
        (manifest.replace("\"frames\":", "\"pictures\":"), "pictures"),
        (manifest[..manifest.len() / 2].to_owned(), "not valid JSON"),
    ] {
        std::fs::write(at("q/manifest.json"), broken).unwrap();
        let message = refused(folder.path(), &COMPILE, 4);
        assert!(message.contains("q/manifest.json: "), "{message}");
        assert!(message.contains(needle), "{needle}: {message}");
    }
}

/// Without its manifest the network is still INT8, like that of another tool, but its origin is unknown.
#[test]
fn a_quantised_network_without_a_record_is_compiled_as_int8() {
    let folder = quantized("custom");
    std::fs::remove_file(folder.path().join("q/manifest.json")).unwrap();
    let read = Folder::read(&folder.path().join("q")).unwrap();
    assert!(read.is_quantized() && read.quantization.is_none());
    let (said, _) = built(folder.path(), &COMPILE);
    assert!(said.starts_with("again.plan: cpu int8"), "{said}");
    let plan = Plan::open(&folder.path().join("again.plan")).unwrap();
    assert_eq!(plan.manifest().target.precision, "int8");
}

#[test]
fn a_record_without_pairs_is_rejected() {
    let folder = quantized("custom");
    let at = |name: &str| folder.path().join(name);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(at("q/manifest.json")).unwrap()).unwrap();
    for name in [PFE, RPN] {
        let bytes = std::fs::read(at(&format!("model/{name}"))).unwrap();
        manifest["files"][name] = common::sha256(&bytes).into();
    }
    std::fs::write(at("model/manifest.json"), manifest.to_string()).unwrap();
    let message = refused(
        folder.path(),
        &["compile", "--model", "model", "--out", "x.plan"],
        4,
    );
    assert!(message.contains("has no Q/DQ pairs"), "{message}");
}

#[test]
fn a_model_is_not_replaced_or_quantised_twice() {
    let folder = quantized("custom");
    let message = refused(folder.path(), &quantize(&[]), 2);
    assert!(
        message.contains("already exists") && message.contains("--force"),
        "{message}"
    );
    built(folder.path(), &quantize(&["--recipe", "custom", "--force"]));
    let mut args = quantize(&["--recipe", "custom", "--force"]);
    args[2] = "q";
    let message = refused(folder.path(), &args, 4);
    assert!(message.contains("already quantised"), "{message}");
}
