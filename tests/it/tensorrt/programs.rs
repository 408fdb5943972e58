//! The programs with the real TensorRT-RTX: from a model folder to a plan, and its inspection.

use std::path::Path;
use std::process::Command;

use centerpoint::Plan;
use centerpoint::internals::build::engine_layers::LayerTable;
use centerpoint::internals::engine::tensorrt::Version;
use centerpoint::internals::plan::TensorRtOptions;
use centerpoint::internals::testing::networks::Network;
use centerpoint::map::Element;

use super::compile::{DEMO, map};
use super::library_folder;
use crate::toy;

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn the_programs_compile_inspect_and_name_what_is_missing() {
    let library = library_folder("rtx");
    let folder = tempfile::tempdir().unwrap();
    let args = |out: &'static str| {
        let library = library.to_str().unwrap();
        [
            "compile",
            "--model",
            DEMO,
            "--target",
            "tensorrt",
            "--library",
        ]
        .into_iter()
        .chain([
            library,
            "--compute-capability",
            "8.6,8.9,12.0",
            "--out",
            out,
        ])
        .map(str::to_owned)
        .collect::<Vec<_>>()
    };
    let run = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        toy::built(folder.path(), &args)
    };
    let (said, warned) = run(&args("demo.plan"));
    assert!(said.contains("demo.plan: tensorrt fp16, "), "{said}");
    assert!(
        said.contains("Library: TensorRT-RTX 1.7.1\nBuilt for: 8.6, 8.9, 12.0\n"),
        "{said}"
    );
    assert!(said.contains("layers  read int8  reformats"), "{said}");
    assert_eq!(warned, "");
    run(&args("again.plan"));
    let [first, again] =
        ["demo.plan", "again.plan"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    assert!(first == again, "another plan");

    let plan = Plan::open(&folder.path().join("demo.plan")).unwrap();
    let target = &plan.manifest().target;
    assert_eq!(
        (target.engine.as_str(), target.version.as_str()),
        ("tensorrt", "1.7.1")
    );
    let of_engine = target.tensorrt.as_ref().unwrap();
    assert_eq!(of_engine.compute_capabilities, [86, 89, 120]);
    assert_eq!(of_engine.built_on, None);
    assert_eq!(of_engine.options, Some(TensorRtOptions::default()));
    let engine = plan.section("engine").unwrap();
    assert_eq!(
        Version::from_plan_header(engine.as_ref()),
        Some(of_engine.library)
    );
    let table = plan.section("layers").unwrap();
    let table: LayerTable = serde_json::from_slice(table.as_ref()).unwrap();
    assert_eq!(of_engine.layers, Some(table.counts));

    // These need neither the library nor a GPU.
    let (text, _) = toy::built(folder.path(), &["inspect", "demo.plan"]);
    for words in [
        "Target: tensorrt fp16",
        "Library: TensorRT-RTX 1.7.1",
        "{spatial_features [dtype=fp16, shape=(1, 32, 256, 256)]}",
        "vel [dtype=fp16, shape=(1, 2, 128, 128)]}",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (text, _) = toy::built(folder.path(), &["inspect", "demo.plan", "--show", "layers"]);
    assert!(
        text.contains("Nodes: /pts_backbone/blocks.0/blocks.0.0/Conv, "),
        "{text}"
    );

    // Exit code 2: wrong options. 5: no GPU to build for, or to run on.
    let more = |more: &[&'static str]| {
        let mut all = args("x.plan");
        all.extend(more.iter().map(|&s| s.to_owned()));
        all
    };
    for (args, status, words) in [
        (more(&["--dla", "0"]), 2, "--dla: RTX GPUs have no DLA"),
        (more(&["--timing-cache", "t"]), 2, "--timing-cache: "),
        (
            more(&["--input-type", "int8"]),
            4,
            "reads \"spatial_features\" in float",
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = toy::refused(folder.path(), &args, status);
        assert!(said.contains(words), "{said}");
    }
    if centerpoint::internals::cuda::gpu().is_ok() {
        return;
    }
    let mut here = args("x.plan");
    here.retain(|arg| !arg.starts_with("--compute-cap") && !arg.starts_with("8.6"));
    let here: Vec<&str> = here.iter().map(String::as_str).collect();
    let said = toy::refused(folder.path(), &here, 5);
    assert!(
        said.contains("name the target GPUs with --compute-capability"),
        "{said}"
    );
    let frames = concat!(env!("CARGO_MANIFEST_DIR"), "/calib/demo/frames");
    let run = Command::new(env!("CARGO_BIN_EXE_cp-infer"))
        .args(["--engine", "demo.plan", "--pcd", frames])
        .env("CENTERPOINT_TENSORRT", &library)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(5), "{said}");
    assert!(said.contains("install the NVIDIA driver"), "{said}");
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn a_quantised_folder_becomes_an_engine_that_reads_codes() {
    let library = library_folder("rtx");
    let folder = tempfile::tempdir().unwrap();
    let demo = Network::demo().unwrap();
    let graph = demo.quantized(&map(&demo.model)).unwrap();
    for name in ["model.toml", "pts_voxel_encoder.onnx"] {
        std::fs::copy(Path::new(DEMO).join(name), folder.path().join(name)).unwrap();
    }
    graph
        .write(&folder.path().join("pts_backbone_neck_head.onnx"))
        .unwrap();
    let compile = [
        "compile",
        "--model",
        ".",
        "--target",
        "tensorrt",
        "--compute-capability",
        "8.9",
        "--input-type",
        "int8",
        "--io-formats",
        "any",
        "--out",
        "int8.plan",
        "--library",
    ];
    let compile = [&compile[..], &[library.to_str().unwrap()]].concat();
    let (said, warned) = toy::built(folder.path(), &compile);
    assert!(said.contains("int8.plan: tensorrt int8, "), "{said}");
    // The library also warns about scales that it keeps in FP32.
    let ours = warned
        .lines()
        .filter(|line| line.contains("centerpoint::cli"));
    assert_eq!(ours.count(), 1, "{warned}");
    assert!(
        warned.contains("28 of 28 quantised layers read INT8"),
        "{warned}"
    );

    let plan = Plan::open(&folder.path().join("int8.plan")).unwrap();
    let target = &plan.manifest().target;
    assert_eq!(target.precision, "int8");
    let target = target.tensorrt.as_ref().unwrap();
    let scale = target.tensors[0].scale.unwrap();
    assert!(scale > 0.0 && target.tensors[0].element == Element::I8);
    let (text, _) = toy::built(folder.path(), &["inspect", "int8.plan", "--show", "layers"]);
    let input =
        format!("{{spatial_features [dtype=int8, scale={scale}, shape=(1, 32, 256, 256)]}}");
    assert!(text.contains(&input), "{text}");
    assert!(
        text.contains("---- 28 Quantised Layer(s) of the Network ----"),
        "{text}"
    );
    let (said, _) = toy::built(folder.path(), &["inspect", "int8.plan"]);
    let options = "Options: --input-type int8 --output-type fp16 --io-formats any";
    assert!(said.contains(options), "{said}");
}
