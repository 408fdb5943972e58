//! Quantised model folders: compiling one yields the plan that quantising wrote, and its files only work
//! together.

use std::path::Path;

use centerpoint::Plan;
use centerpoint::build::Folder;
use centerpoint::internals::build::onnx::{decode, encode};

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

/// Moves the tensors of the network at `path` to a file beside it, whose name it returns.
fn externalise(path: &Path) -> String {
    let location = format!("{}.data", path.file_name().unwrap().to_str().unwrap());
    let mut model = decode(path, std::fs::read(path).unwrap().into()).unwrap();
    let mut data = Vec::new();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let bytes = tensor.raw_data.take().unwrap();
        let entries = [
            ("location", location.clone()),
            ("offset", data.len().to_string()),
            ("length", bytes.len().to_string()),
        ];
        tensor.data_location = Some(1);
        tensor.external_data = vec![Default::default(); entries.len()];
        for (to, (key, value)) in tensor.external_data.iter_mut().zip(entries) {
            (to.key, to.value) = (Some(key.to_owned()), Some(value));
        }
        data.extend(bytes);
    }
    std::fs::write(path, encode(&model)).unwrap();
    std::fs::write(path.with_file_name(&location), data).unwrap();
    location
}

/// Inverts the first byte of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 0xff;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn external_data_is_imported_and_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    toy::write_model(folder.path(), "model", Net::new());
    let compile = |model: &str, out: &str| {
        built(folder.path(), &["compile", "--model", model, "--out", out]);
        Plan::open(&at(out)).unwrap()
    };
    let inside = compile("model", "inside.plan");
    for name in [PFE, RPN] {
        externalise(&at("model").join(name));
    }
    let outside = compile("model", "outside.plan");

    let [pfe, rpn] = [PFE, RPN].map(|name| format!("model/{name}"));
    let files = ["--pfe", &pfe, "--rpn", &rpn, "--model", "model/model.toml"];
    built(
        folder.path(),
        &[&["import"][..], &files, &["--out", "in"]].concat(),
    );
    let imported = compile("in", "imported.plan");
    for plan in [&outside, &imported] {
        for name in ["program", "weights", "pfn", "model"] {
            let [a, b] = [&inside, plan].map(|plan| plan.section(name).unwrap());
            assert!(a.as_ref() == b.as_ref(), "section {name} differs");
        }
    }
    // The weights are inside, and the network can be moved alone.
    let mut names: Vec<_> = std::fs::read_dir(at("in"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "model.toml", RPN, PFE]);

    let manifest = std::fs::read(at("in/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for name in [PFE, RPN] {
        let key = format!("{name}:{name}.data");
        let data = std::fs::read(at("model").join(format!("{name}.data"))).unwrap();
        let hash = common::sha256(&data);
        assert_eq!(manifest["inputs"][&key], hash);
        assert_eq!(outside.manifest().inputs[&key], hash);
        assert!(!imported.manifest().inputs.contains_key(&key));
    }

    // The first value of the network's first weight.
    damage(&at("model").join(format!("{RPN}.data")));
    let changed = compile("model", "changed.plan");
    let differ: Vec<_> = changed
        .manifest()
        .inputs
        .iter()
        .filter(|(name, hash)| outside.manifest().inputs[*name] != **hash)
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(differ, [format!("{RPN}:{RPN}.data")]);
    assert!(
        changed.section("weights").unwrap().as_ref()
            != outside.section("weights").unwrap().as_ref()
    );
}

#[test]
fn a_quantised_folder_is_bound_to_its_external_data() {
    let folder = quantized("custom");
    let at = |name: &str| folder.path().join("q").join(name);
    let data = at(&externalise(&at(RPN)));
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(at("manifest.json")).unwrap()).unwrap();
    let mut record = |name: &str, path: &Path| {
        manifest["files"][name] = common::sha256(&std::fs::read(path).unwrap()).into();
        std::fs::write(at("manifest.json"), manifest.to_string()).unwrap();
    };
    record(RPN, &at(RPN));
    let key = format!("{RPN}:{RPN}.data");
    let message = refused(folder.path(), &COMPILE, 4);
    assert!(
        message.contains(&format!("`files` has no entry for `{key}`")),
        "{message}"
    );
    record(&key, &data);
    built(folder.path(), &COMPILE);
    damage(&data);
    let message = refused(folder.path(), &COMPILE, 4);
    assert!(
        message.contains(&format!("{RPN}.data: does not match manifest.json")),
        "{message}"
    );
    std::fs::remove_file(data).unwrap();
    let message = refused(folder.path(), &COMPILE, 4);
    assert!(
        message.contains("copy all files of the export into one folder"),
        "{message}"
    );
}
