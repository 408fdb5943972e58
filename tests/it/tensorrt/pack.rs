//! Building with trtexec: the folder with the network and command lines, and the plan of the resulting engine.

use std::path::Path;

use centerpoint::Plan;
use centerpoint::build::Folder;
use centerpoint::internals::build::onnx::Graph;
use centerpoint::internals::plan::TensorDesc;
use centerpoint::map::Element;

use crate::toy::{self, Net, built, refused};

const RPN: &str = "pts_backbone_neck_head.onnx";
const PFE: &str = "pts_voxel_encoder.onnx";

/// Makes a folder with a float model `model` and its quantised form `q`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy::write_model(folder.path(), "model", Net::new());
    toy::write_frames(folder.path(), "frames", 8);
    let args = [
        "quantize", "--model", "model", "--frames", "frames", "--recipe", "custom",
    ];
    built(
        folder.path(),
        &[&args[..], &["--out", "int8.plan", "--onnx", "q"]].concat(),
    );
    folder
}

/// Arguments of `cp-build compile --target onnx` from `model` to `out`.
fn typed<'a>(model: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = [
        "compile", "--target", "onnx", "--model", model, "--out", out,
    ];
    [&base[..], more].concat()
}

/// Arguments of `cp-build pack` from `engine` and `model` to `packed.plan`.
fn pack<'a>(engine: &'a str, model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = [
        "pack",
        "--engine",
        engine,
        "--model",
        model,
        "--out",
        "packed.plan",
    ];
    [&base[..], more].concat()
}

/// Bytes that begin like an engine of TensorRT 10.3.0.
fn engine() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..100_003_u32).map(|i| (i * 7 % 251) as u8).collect();
    bytes[..4].copy_from_slice(b"ftrt");
    bytes[24..28].copy_from_slice(&[10, 3, 0, 26]);
    bytes
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_folder_for_trtexec_has_the_typed_network_and_the_command_lines() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    for (model, out, more, precision, input) in [
        ("model", "f", &[][..], "fp16", "fp16"),
        ("q", "h", &[], "int8", "fp16"),
        (
            "q",
            "c",
            &["--input-type", "int8", "--output-type", "fp32"],
            "int8",
            "int8",
        ),
    ] {
        let (said, _) = built(folder.path(), &typed(model, out, more));
        let manifest = json(&at(out).join("manifest.json"));
        let typed = &manifest["typed"];
        assert_eq!(typed["precision"], precision);
        assert_eq!(manifest["quantization"].is_null(), model == "model");
        let graph = Graph::read(&at(out).join(RPN)).unwrap();
        let types = [graph.inputs().unwrap(), graph.outputs().unwrap()].map(|v| v[0].element);
        // ONNX numbers FLOAT 1, INT8 3 and FLOAT16 10.
        let (output, expected) = match out {
            "c" => ("fp32", [3, 1]),
            _ => ("fp16", [10; 2]),
        };
        assert_eq!(types, expected);
        let commands = &typed["commands"];
        for name in ["trtexec_10", "trtexec_11", "pack"] {
            assert!(
                said.contains(commands[name].as_str().unwrap()),
                "{name}: {said}"
            );
        }
        let ten = commands["trtexec_10"].as_str().unwrap();
        let outputs = [format!("{output}:chw").as_str()].repeat(6).join(",");
        for option in [
            "--stronglyTyped".to_owned(),
            format!("--inputIOFormats={input}:chw"),
            format!("--outputIOFormats={outputs} "),
        ] {
            assert!(ten.contains(&option), "{option}: {ten}");
        }
        let eleven = commands["trtexec_11"].as_str().unwrap();
        assert!(
            !eleven.contains("stronglyTyped") && !eleven.contains(input),
            "{eleven}"
        );
        // Everything but the network is unchanged, and the manifest contains no path.
        for name in [PFE, "model.toml"] {
            let [from, to] = [model, out].map(|dir| std::fs::read(at(dir).join(name)).unwrap());
            assert!(from == to, "{name}");
        }
        let whole = std::fs::read_to_string(at(out).join("manifest.json")).unwrap();
        assert!(!whole.contains(folder.path().to_str().unwrap()));
        // Only TensorRT's builder reads it.
        let message = refused(
            folder.path(),
            &["compile", "--model", out, "--out", "x.plan"],
            4,
        );
        assert!(message.contains("for TensorRT's builder"), "{message}");
    }
    let message = refused(folder.path(), &typed("q", "h", &[]), 2);
    assert!(message.contains("already exists"), "{message}");
    let before = std::fs::read(at("h/manifest.json")).unwrap();
    built(folder.path(), &typed("q", "h", &["--force"]));
    assert!(
        before == std::fs::read(at("h/manifest.json")).unwrap(),
        "the bytes differ"
    );
    let message = refused(
        folder.path(),
        &typed("model", "n", &["--input-type", "int8"]),
        4,
    );
    assert!(message.contains("the input cannot be INT8"), "{message}");
    assert!(!at("n").join("manifest.json").exists());
}

#[test]
fn options_of_other_targets_are_refused() {
    let folder = folder();
    for args in [
        typed("q", "x", &["--workspace", "100"]),
        typed("q", "x", &["--accuracy", "a.json"]),
        vec!["compile", "--model", "q", "--out", "x", "--force"],
    ] {
        let run = toy::build(folder.path(), &args);
        assert_eq!(run.status.code(), Some(2), "{args:?}");
        assert!(!folder.path().join("x").exists());
    }
}

#[test]
fn a_packed_engine_becomes_a_complete_plan() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("x.engine"), engine()).unwrap();
    built(folder.path(), &typed("q", "c", &["--input-type", "int8"]));
    let (said, _) = built(folder.path(), &pack("x.engine", "c", &[]));
    assert!(
        said.contains("packed.plan: tensorrt int8, engine of TensorRT 10.3.0, 0.1 MB"),
        "{said}"
    );
    let plan = Plan::open(&at("packed.plan")).unwrap();
    assert!(plan.section("engine").unwrap().as_ref() == engine());
    let quantised = Folder::read(&at("q")).unwrap();
    assert_eq!(*plan.pfn(), quantised.pfe.pfn);
    let manifest = plan.manifest();
    assert_eq!(manifest.quantization, quantised.quantization);
    assert_eq!(
        (
            manifest.target.engine.as_str(),
            manifest.target.version.as_str()
        ),
        ("tensorrt", "10.3.0")
    );
    let target = manifest.target.tensorrt.as_ref().unwrap();
    assert_eq!(
        (
            target.library.major,
            target.built_on.is_some(),
            target.options.is_some()
        ),
        (10, false, false)
    );
    let [input, outputs @ ..] = &target.tensors[..] else {
        panic!("no tensors");
    };
    let scale = json(&at("c/manifest.json"))["typed"]["tensors"][0]["scale"]
        .as_f64()
        .unwrap();
    let expected = TensorDesc {
        name: "x".into(),
        input: true,
        element: Element::I8,
        scale: Some(scale as f32),
        dims: vec![1, 2, 16, 16],
    };
    assert_eq!(*input, expected);
    assert_eq!(outputs.len(), 6);
    assert!(
        outputs
            .iter()
            .all(|t| !t.input && t.element == Element::F16 && t.scale.is_none())
    );
    // The library's version is shown verbatim.
    let (shown, _) = built(folder.path(), &["inspect", "packed.plan"]);
    assert!(shown.contains("TensorRT 10.3.0"), "{shown}");
}

#[test]
fn without_the_folder_for_trtexec_the_plan_records_less() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("x.engine"), engine()).unwrap();
    let beside = ["--pfe", "model/pts_voxel_encoder.onnx"];
    let scaled = [&beside[..], &["--input-scale", "0.25"]].concat();
    for (model, more, precision, scale) in [
        ("model/model.toml", &beside[..], "unknown", None),
        ("model/model.toml", &scaled, "unknown", Some(0.25)),
        ("model", &[], "unknown", None),
        ("q", &["--input-scale", "0.25"], "int8", Some(0.25)),
    ] {
        built(folder.path(), &pack("x.engine", model, more));
        let plan = Plan::open(&at("packed.plan")).unwrap();
        let target = &plan.manifest().target;
        assert_eq!(target.precision, precision);
        let tensors = &target.tensorrt.as_ref().unwrap().tensors;
        let found = tensors.iter().find(|t| t.input).and_then(|t| t.scale);
        assert_eq!(
            (found, tensors.len()),
            (scale, usize::from(scale.is_some()))
        );
    }
}

#[test]
fn invalid_engines_and_foreign_files_are_refused() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("x.engine"), engine()).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    std::fs::write(at("short"), &engine()[..20]).unwrap();
    built(folder.path(), &typed("q", "c", &[]));
    let (toml, rpn) = ("model/model.toml", format!("c/{RPN}"));
    let scale = ["--input-scale", "0.5"];
    for (args, status, needle) in [
        (pack("empty", "c", &[]), 4, "the file is empty"),
        (pack("short", "c", &[]), 4, "no known version"),
        (
            pack("int8.plan", "c", &[]),
            4,
            "already a plan of centerpoint",
        ),
        (pack(&rpn, "c", &[]), 4, "looks like an ONNX network"),
        (pack("q/manifest.json", "c", &[]), 4, "this is a text"),
        (pack("gone", "c", &[]), 4, "gone: cannot read"),
        (pack("x.engine", toml, &[]), 4, "--pfe"),
        (
            pack("x.engine", "q", &["--pfe", "q/pts_voxel_encoder.onnx"]),
            4,
            "leave out --pfe",
        ),
        (pack("x.engine", "c", &scale), 4, "leave out --input-scale"),
    ] {
        let message = refused(folder.path(), &args, status);
        assert!(message.contains(needle), "{needle}: {message}");
        assert!(!at("packed.plan").exists(), "{args:?}");
    }
    for scale in ["0", "-1", "nan", "inf", "x"] {
        let scale = format!("--input-scale={scale}");
        let run = toy::build(folder.path(), &pack("x.engine", "q", &[&scale]));
        assert_eq!(run.status.code(), Some(2), "{scale}");
    }
    std::fs::copy(
        at("model/pts_voxel_encoder.onnx"),
        at("c/pts_voxel_encoder.onnx"),
    )
    .unwrap();
    let message = refused(folder.path(), &pack("x.engine", "c", &[]), 4);
    assert!(
        message.contains("does not match manifest.json"),
        "{message}"
    );
}
