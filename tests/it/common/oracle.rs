//! Networks that `tests/oracle/onnx_nets.py` makes, and ONNX Runtime's outputs for them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use centerpoint::engine::Engine;
use centerpoint::internals::build::compile;
use centerpoint::internals::build::onnx::Graph;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{CpuEngine, Options};
use centerpoint::map::MapView;

use crate::common::variable;

/// A network with one input, and the outputs that ONNX Runtime computed from it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: PathBuf,
    pub(crate) input: Vec<f32>,
    pub(crate) input_shape: Vec<usize>,
    pub(crate) outputs: Vec<Output>,
}

/// A dense tensor.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// The interpreter of the oracles.
pub(crate) fn python() -> String {
    variable("CENTERPOINT_PYTHON")
}

/// Runs the script with these arguments.
pub(crate) fn script(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/onnx_nets.py");
    let output = Command::new(python()).arg(script).args(arguments).output();
    let output = output.expect("the interpreter of CENTERPOINT_PYTHON runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

/// Reads the cases that the script wrote to `folder`, sorted by name, except those without results.
pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut folders: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    folders.sort();
    let made = folders.iter().filter(|f| f.join("io.json").exists());
    made.map(|folder| case(&folder.join("model.onnx"), folder))
        .collect()
}

/// Reads the case of `model` whose inputs and outputs are in `folder`.
pub(crate) fn case(model: &Path, folder: &Path) -> Case {
    let text = std::fs::read(folder.join("io.json")).expect("io.json");
    let io: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let floats = |file: &str| -> Vec<f32> {
        let bytes = std::fs::read(folder.join(file)).expect("numbers");
        let chunks = bytes.chunks_exact(4);
        chunks
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    };
    let shape = |value: &serde_json::Value| -> Vec<usize> {
        serde_json::from_value(value["shape"].clone()).expect("a shape")
    };
    let outputs = io["outputs"]
        .as_array()
        .expect("outputs")
        .iter()
        .enumerate();
    let outputs = outputs.map(|(i, output)| Output {
        name: output["name"].as_str().expect("a name").to_owned(),
        shape: shape(output),
        values: floats(&format!("{i}.f32")),
    });
    Case {
        name: folder
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned(),
        model: model.to_path_buf(),
        input: floats("input.f32"),
        input_shape: shape(&io["input"]),
        outputs: outputs.collect(),
    }
}

/// Makes the CPU engine for a graph.
pub(crate) fn engine(graph: &Graph) -> CpuEngine {
    let payload = compile::cpu(graph).unwrap();
    let pool = Arc::new(Pool::new(2));
    let weights = Arc::new(payload.weights);
    CpuEngine::new(payload.program, weights, pool, &Options::default()).unwrap()
}

/// Writes a dense map to the engine's input.
pub(crate) fn fill(engine: &mut CpuEngine, values: &[f32]) {
    let mut input = engine.input_mut();
    let (height, width) = (input.layout.height, input.layout.width);
    for (i, &value) in values.iter().enumerate() {
        let (row, x) = (i / width, i % width);
        input.set(row / height, row % height, x, value);
    }
}

/// Copies a map into a dense tensor.
pub(crate) fn dense(name: &str, map: MapView<'_>) -> Output {
    let layout = map.layout;
    let mut values = Vec::new();
    for c in 0..layout.channels {
        for y in 0..layout.height {
            values.extend((0..layout.width).map(|x| map.data[layout.index(c, y, x)]));
        }
    }
    Output {
        name: name.to_owned(),
        shape: vec![1, layout.channels, layout.height, layout.width],
        values,
    }
}

/// Runs a graph on the CPU engine.
pub(crate) fn run(graph: &Graph, input: &[f32]) -> Vec<Output> {
    run_on(&mut engine(graph), input)
}

/// Runs an existing engine.
pub(crate) fn run_on(engine: &mut CpuEngine, input: &[f32]) -> Vec<Output> {
    fill(engine, input);
    engine.run().unwrap();
    let names: Vec<String> = engine.outputs().iter().map(|o| o.name.clone()).collect();
    let outputs = names.iter().enumerate();
    outputs
        .map(|(i, name)| dense(name, engine.output(i).unwrap()))
        .collect()
}
