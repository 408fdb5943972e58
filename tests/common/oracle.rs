//! Networks made by `tests/oracle/onnx_nets.py`, with what ONNX Runtime makes of them.
#![allow(dead_code)] // Each test binary uses its part.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A network with one input and the outputs that ONNX Runtime computed from it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: PathBuf,
    pub(crate) input: Vec<f32>,
    pub(crate) input_shape: Vec<usize>,
    pub(crate) outputs: Vec<Output>,
}

pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// Runs the script with these arguments. `false`, with a line that says so, where there is no Python
/// for it.
pub(crate) fn script(arguments: &[&str]) -> bool {
    let Ok(python) = std::env::var("CENTERPOINT_PYTHON") else {
        println!("skipped: CENTERPOINT_PYTHON is not set");
        return false;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/onnx_nets.py");
    let output = Command::new(python).arg(script).args(arguments).output();
    let output = output.expect("the interpreter of CENTERPOINT_PYTHON runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    true
}

/// The cases that the script wrote to `folder`, by name; those without results are left out.
pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut folders: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    folders.sort();
    let made = folders.iter().filter(|f| f.join("io.json").exists());
    made.map(|folder| case(&folder.join("model.onnx"), folder))
        .collect()
}

/// The case of `model` whose inputs and outputs are in `folder`.
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
