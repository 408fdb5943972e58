//! Engines of the demo's network and of one of Autoware's size, built by the real TensorRT-RTX without a GPU: layer
//! tables, inputs and outputs, options.
//!
//! TensorRT-RTX chooses its kernels on the GPU. For INT8, these tests therefore only show which maps of the engine are
//! INT8, and that a warning says so; only libnvinfer is sure to compute in INT8.

use std::collections::BTreeSet;
use std::path::Path;

use centerpoint::build::BuildError;
use centerpoint::engine::TensorRtError;
use centerpoint::internals::build::compile::tensorrt::{Compiled, Request, build};
use centerpoint::internals::build::deconv;
use centerpoint::internals::build::engine_layers::{Outcome, log};
use centerpoint::internals::build::fuse::fuse;
use centerpoint::internals::build::half::{Io, strongly_typed};
use centerpoint::internals::build::onnx::{Graph, encode};
use centerpoint::internals::engine::tensorrt::{
    BuildRequest, HardwareCompatibility, Library, Version,
};
use centerpoint::internals::plan::{IoFormats, TensorRtOptions};
use centerpoint::internals::testing::Random;
use centerpoint::internals::testing::networks::{Network, quantized};
use centerpoint::map::Element;
use centerpoint::{Error, Model};

use super::library_folder;
use crate::nets::{int, model, node, value};

pub(super) const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/demo");

fn rtx() -> Library {
    Library::open(Some(&library_folder("rtx"))).unwrap()
}

fn compile(
    library: &Library,
    graph: &Graph,
    compute_capabilities: &[u32],
    options: TensorRtOptions,
) -> Result<Compiled, Error> {
    let request = Request {
        library,
        options,
        compute_capabilities: compute_capabilities.to_vec(),
        timing_cache: None,
    };
    Ok(build(graph, request, &())?)
}

/// Makes a BEV map with a pillar in every fourth cell.
pub(super) fn map(model: &Model) -> Vec<f32> {
    let mut random = Random(7);
    let cells = model.grid.ny * model.grid.nx;
    (0..model.bev_channels() * cells)
        .map(|i| match i % cells % 4 {
            0 => 2.0 * random.next(),
            _ => 0.0,
        })
        .collect()
}

/// Each network twice: with transposed convolutions, and with these rewritten as convolutions.
fn networks() -> Vec<(String, Model, Graph)> {
    let demo = Network::demo().unwrap();
    let mut plain = Graph::read(demo.graph.path()).unwrap();
    fuse(&mut plain, &[]).unwrap();
    let base = Network::autoware_base(0.0).unwrap();
    let mut rewritten = base.graph.clone();
    deconv::rewrite(&mut rewritten).unwrap();
    vec![
        ("demo".into(), demo.model.clone(), plain),
        ("demo, rewritten".into(), demo.model, demo.graph),
        ("autoware-base".into(), base.model.clone(), base.graph),
        ("autoware-base, rewritten".into(), base.model, rewritten),
    ]
}

fn nodes<'a>(graph: &'a Graph, operators: &[&str]) -> BTreeSet<&'a str> {
    let all = graph.nodes().filter(|n| operators.contains(&n.op()));
    all.map(|n| n.proto.name()).collect()
}

/// Checks that the table lists every convolution, and that input and outputs match the model.
fn check(name: &str, model: &Model, graph: &Graph, compiled: &Compiled) {
    let table = compiled.layers.as_ref().unwrap();
    let listed: BTreeSet<&str> = table
        .layers
        .iter()
        .flat_map(|l| &l.nodes)
        .map(String::as_str)
        .collect();
    let convolutions = nodes(graph, &["Conv", "ConvTranspose"]);
    let missing: Vec<&&str> = convolutions.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "{name}: {missing:?} are not in the table"
    );
    assert_eq!(table.counts.engine, table.layers.len());
    let target = compiled.target.tensorrt.as_ref().unwrap();
    assert_eq!(target.layers, Some(table.counts));
    let (height, width) = model.head_size();
    let mut expected = vec![(
        "spatial_features".to_owned(),
        true,
        vec![1, model.bev_channels(), model.grid.ny, model.grid.nx],
    )];
    let task = &model.head.tasks[0];
    let outputs = task.outputs.each_ref().zip(model.head_channels(task));
    for (name, channels) in outputs.into_array() {
        expected.push((name.clone(), false, vec![1, channels, height, width]));
    }
    let found = target.tensors.iter();
    let found: Vec<_> = found
        .map(|t| (t.name.clone(), t.input, t.dims.clone()))
        .collect();
    assert_eq!(found, expected, "{name}");
    assert!(target.tensors.iter().all(|t| t.element == Element::F16));
}

/// Builds every form of every network for three generations of RTX cards.
#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn networks_become_the_same_engines_each_time() {
    let library = rtx();
    for (name, model, graph) in networks() {
        let pairs = quantized(&graph, &map(&model)).unwrap();
        for (graph, int8) in [(&graph, false), (&pairs, true)] {
            let mut sizes = Vec::new();
            for capability in [86, 89, 120] {
                let once =
                    || compile(&library, graph, &[capability], TensorRtOptions::default()).unwrap();
                let first = once();
                let name = format!("{name}, int8 {int8}, {capability}");
                // The large network twice for one card only: it takes as long as all the rest.
                if name.starts_with("demo") || capability == 89 {
                    let again = once();
                    assert!(first.engine == again.engine, "{name}: another engine");
                    assert_eq!(first.layers, again.layers, "{name}");
                }
                assert_eq!(
                    Version::from_plan_header(&first.engine),
                    Some(library.version())
                );
                check(&name, &model, graph, &first);
                check_int8(&name, graph, &first, int8);
                sizes.push(first.engine.len());
            }
            println!("{name}, int8 {int8}: {sizes:?} bytes");
        }
    }
}

fn check_int8(name: &str, graph: &Graph, compiled: &Compiled, int8: bool) {
    let table = compiled.layers.as_ref().unwrap();
    let precision = &compiled.target.precision;
    if !int8 {
        assert_eq!(precision, "fp16");
        assert!(
            table.quantized.is_empty() && compiled.warnings.is_empty(),
            "{name}"
        );
        assert_eq!(table.counts.int8, 0, "{name}");
        return;
    }
    assert_eq!(precision, "int8");
    // The table has every layer of the network, and each of them reads INT8 maps.
    let found: BTreeSet<&str> = table.quantized.iter().map(|l| l.node.as_str()).collect();
    let convolutions = nodes(graph, &["Conv", "ConvTranspose"]);
    let missing: Vec<&&str> = convolutions.difference(&found).collect();
    assert!(missing.is_empty(), "{name}: {missing:?} are not quantised");
    for layer in &table.quantized {
        let reads = match layer.operator.as_str() {
            "Conv" => layer.outcome == Outcome::Int8,
            // TensorRT-RTX has no INT8 kernel for these, which is why `cp-build import` rewrites them.
            "ConvTranspose" => layer.outcome == Outcome::Fallback("fp16".into()),
            _ => matches!(layer.outcome, Outcome::Int8 | Outcome::Unlisted),
        };
        assert!(reads, "{name}: {layer:?}");
    }
    let transposed = nodes(graph, &["ConvTranspose"]).len();
    assert_eq!(table.counts.fallbacks, transposed, "{name}");
    // Yet no kernel has been chosen for any of them.
    for layer in table
        .layers
        .iter()
        .filter(|l| l.reads_int8() && l.kind == "correlation")
    {
        assert_eq!(layer.tactic, "__myelin_CASK_STUB", "{name}: {layer:?}");
    }
    let [warning] = &compiled.warnings[..] else {
        panic!("{name}: {:?}", compiled.warnings);
    };
    assert!(warning.contains("emulates INT8"), "{warning}");
}

/// On Turing, TensorRT-RTX converts codes to halves before each convolution, and the table says so.
#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn fallbacks_are_found() {
    let library = rtx();
    let demo = Network::demo().unwrap();
    let graph = demo.quantized(&map(&demo.model)).unwrap();
    let compiled = compile(&library, &graph, &[75], TensorRtOptions::default()).unwrap();
    let table = compiled.layers.unwrap();
    let convolutions = nodes(&graph, &["Conv"]).len();
    assert_eq!(table.counts.fallbacks, convolutions);
    let fell = Outcome::Fallback("fp16".into());
    assert!(
        table.quantized.iter().all(|l| l.outcome == fell),
        "{:?}",
        table.quantized
    );
    let [warning] = &compiled.warnings[..] else {
        panic!("{:?}", compiled.warnings);
    };
    let count = format!(" 0 of {convolutions} quantised layers read INT8");
    assert!(warning.contains(&count), "{warning}");
    // For libnvinfer there would be a line for each.
    let version = Version {
        family: centerpoint::internals::engine::tensorrt::Family::TensorRt,
        ..library.version()
    };
    assert_eq!(table.warnings(version).len(), convolutions);
}

/// The library reports the types of inputs and outputs, for every type that is supported.
#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn inputs_and_outputs_have_the_requested_types() {
    let library = rtx();
    let demo = Network::demo().unwrap();
    let graph = demo.quantized(&map(&demo.model)).unwrap();
    for (input, outputs) in [
        (Element::F16, Element::F16),
        (Element::F32, Element::F32),
        (Element::I8, Element::F16),
        (Element::I8, Element::F32),
    ] {
        let typed = strongly_typed(&graph, &Io { input, outputs }).unwrap();
        let onnx = encode(&typed.graph.to_model());
        let request = BuildRequest {
            compute_capabilities: &[89],
            ..BuildRequest::new(&onnx, graph.path())
        };
        let built = library.build(&request, &()).unwrap();
        let reported = log::io_tensors(&built.layer_log.unwrap());
        let names: Vec<&str> = reported.iter().map(|t| t.tensor.name.as_str()).collect();
        let expected = [
            "spatial_features",
            "heatmap",
            "reg",
            "height",
            "dim",
            "rot",
            "vel",
        ];
        assert_eq!(names, expected);
        for (i, found) in reported.iter().enumerate() {
            let element = if i == 0 { input } else { outputs };
            assert_eq!(found.input, i == 0);
            assert_eq!(found.tensor.element, element.to_string(), "{found:?}");
            assert!(found.tensor.format.contains("(kLINEAR)"), "{found:?}");
        }
        assert_eq!(reported[0].tensor.dims, [1, 32, 256, 256]);
        assert_eq!(reported[1].tensor.dims, [1, 5, 128, 128]);

        // The same through the whole step, including where the library may choose the layout.
        for io_formats in [IoFormats::Linear, IoFormats::Any] {
            let options = TensorRtOptions {
                input_type: input,
                output_type: outputs,
                io_formats,
                ..TensorRtOptions::default()
            };
            let compiled = compile(&library, &graph, &[89], options).unwrap();
            let tensors = compiled.target.tensorrt.unwrap().tensors;
            assert_eq!(tensors[0].element, input);
            assert_eq!(tensors[0].scale, typed.input_scale);
            assert_eq!(typed.input_scale.is_some(), input == Element::I8);
            assert!(
                tensors[1..]
                    .iter()
                    .all(|t| t.element == outputs && t.scale.is_none())
            );
            let reader = compiled.layers.unwrap();
            let reads = |l: &&centerpoint::internals::build::engine_layers::EngineLayer| {
                l.inputs.iter().any(|t| t.name == "spatial_features")
            };
            let reader = reader.layers.iter().find(reads).unwrap();
            println!("{input} {outputs} {io_formats:?}: {:?}", reader.inputs[0]);
        }
    }
    // A float network has no input scale.
    let codes = TensorRtOptions {
        input_type: Element::I8,
        ..TensorRtOptions::default()
    };
    let error = compile(&library, &demo.graph, &[89], codes).err().unwrap();
    let expected = matches!(error, Error::Build(BuildError::Graph { .. }));
    assert!(
        expected && error.to_string().contains("cannot be INT8"),
        "{error}"
    );
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn unsupported_options_are_refused_by_name() {
    let library = rtx();
    let graph = Network::demo().unwrap().graph;
    let with = |change: &dyn Fn(&mut TensorRtOptions)| {
        let mut options = TensorRtOptions::default();
        change(&mut options);
        options
    };
    let cases = [
        (
            vec![87],
            TensorRtOptions::default(),
            "--compute-capability",
            "such as Orin (8.7)",
        ),
        (
            vec![90],
            TensorRtOptions::default(),
            "--compute-capability",
            "8.6, 8.9, 12.0",
        ),
        (
            vec![89, 100],
            TensorRtOptions::default(),
            "--compute-capability",
            "8.6, 8.9, 12.0",
        ),
        (vec![89], with(&|o| o.dla = Some(0)), "--dla", "no DLA"),
        (
            vec![89],
            with(&|o| o.gpu_fallback = true),
            "--gpu-fallback",
            "add --dla",
        ),
        (
            vec![89],
            with(&|o| o.version_compatible = true),
            "--version-compatible",
            "lean runtime",
        ),
        (
            vec![89],
            with(&|o| o.hardware_compatible = HardwareCompatibility::AmperePlus),
            "--hardware-compatible",
            "--compute-capability instead",
        ),
    ];
    for (capabilities, options, name, advice) in cases {
        let error = compile(&library, &graph, &capabilities, options)
            .err()
            .unwrap();
        let Error::TensorRt(TensorRtError::Option { option, .. }) = &error else {
            panic!("{name}: {error}");
        };
        assert_eq!(option, name);
        assert!(error.to_string().contains(advice), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let request = Request {
        library: &library,
        options: TensorRtOptions::default(),
        compute_capabilities: vec![89],
        timing_cache: Some(folder.path().join("timing.cache")),
    };
    let error = build(&graph, request, &()).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("--timing-cache: TensorRT-RTX does not time kernels"),
        "{error}"
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

/// A network passes our checks but not the parser's.
#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn parser_errors_name_the_node() {
    let library = rtx();
    let mut cast = node("Cast", &["x"], &["c"]);
    // To STRING.
    cast.attribute.push(int("to", 8));
    cast.name = Some("/strange/Cast".into());
    let mut back = node("Cast", &["c"], &["y"]);
    back.attribute.push(int("to", 1));
    let graph = centerpoint::internals::build::onnx::proto::GraphProto {
        node: vec![cast, back],
        input: vec![value("x", &[1, 2, 4, 4])],
        output: vec![value("y", &[1, 2, 4, 4])],
        ..Default::default()
    };
    let graph = Graph::new(Path::new("strange.onnx"), model(graph)).unwrap();
    let error = compile(&library, &graph, &[89], TensorRtOptions::default())
        .err()
        .unwrap();
    let Error::TensorRt(TensorRtError::Parse { errors, .. }) = &error else {
        panic!("{error}");
    };
    assert!(errors.iter().any(|e| e.node == "/strange/Cast"), "{error}");
    assert!(error.to_string().starts_with("strange.onnx: "), "{error}");
}
