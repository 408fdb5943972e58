//! Readable description of a plan's TensorRT engine. Needs neither TensorRT nor a GPU.

use std::fmt::{Result, Write};

use crate::build::engine_layers::{EngineLayer, LayerTable, LayerTensor};
use crate::engine::tensorrt::HardwareCompatibility;
use crate::eval::report::aligned;
use crate::plan::{IoFormats, TensorDesc, TensorRtOptions, TensorRtTarget};

/// Writes the library, GPUs and options.
///
/// # Errors
/// None in practice: writing to a `String` cannot fail.
pub(crate) fn target(text: &mut String, target: &TensorRtTarget) -> Result {
    writeln!(text, "Library: {}", target.library)?;
    if let Some(on) = &target.built_on {
        writeln!(
            text,
            "Built on: {} ({}), driver for CUDA {}",
            on.gpu,
            compute_capability(on.compute_capability),
            on.driver
        )?;
    }
    if !target.compute_capabilities.is_empty() {
        let all: Vec<String> = target
            .compute_capabilities
            .iter()
            .map(|&cc| compute_capability(cc))
            .collect();
        writeln!(text, "Built for: {}", all.join(", "))?;
    }
    match &target.options {
        Some(recorded) => writeln!(text, "Options: {}", options(recorded)),
        None => writeln!(text, "Options: unknown, another program built the engine"),
    }
}

/// Formats 89 as `8.9`.
fn compute_capability(number: u32) -> String {
    format!("{}.{}", number / 10, number % 10)
}

/// The options as command-line flags, without those left to the library.
fn options(options: &TensorRtOptions) -> String {
    let TensorRtOptions {
        workspace,
        timing_cache,
        optimization_level,
        dla,
        gpu_fallback,
        version_compatible,
        exclude_lean_runtime,
        hardware_compatible,
        input_type,
        output_type,
        io_formats,
    } = options;
    let mut args = vec![
        format!("--input-type {input_type}"),
        format!("--output-type {output_type}"),
        match io_formats {
            IoFormats::Linear => "--io-formats linear".into(),
            IoFormats::Any => "--io-formats any".into(),
        },
    ];
    args.extend(workspace.map(|mib| format!("--workspace {mib}")));
    args.extend(
        timing_cache
            .as_ref()
            .map(|hash| format!("--timing-cache sha256:{hash}")),
    );
    args.extend(optimization_level.map(|level| format!("--optimization-level {level}")));
    args.extend(dla.map(|core| format!("--dla {core}")));
    let flags = [
        (*gpu_fallback, "--gpu-fallback"),
        (*version_compatible, "--version-compatible"),
        (*exclude_lean_runtime, "--exclude-lean-runtime"),
        (
            *hardware_compatible == HardwareCompatibility::AmperePlus,
            "--hardware-compatible ampere-plus",
        ),
        (
            *hardware_compatible == HardwareCompatibility::SameComputeCapability,
            "--hardware-compatible same-compute-capability",
        ),
    ];
    args.extend(
        flags
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, flag)| flag.to_string()),
    );
    args.join(" ")
}

/// Writes the number of layers by outcome.
///
/// # Errors
/// As [`target`].
pub(crate) fn counts(text: &mut String, target: &TensorRtTarget) -> Result {
    let Some(counts) = target.layers else {
        return writeln!(text, "Layers: unknown");
    };
    let columns = [
        ("layers", counts.engine),
        ("read int8", counts.int8),
        ("reformats", counts.reformats),
        ("quantised in the network", counts.quantized),
        ("of these not int8", counts.fallbacks),
    ];
    let (names, numbers) = columns
        .iter()
        .map(|(name, number)| ((*name).to_owned(), number.to_string()))
        .unzip();
    text.push_str(&aligned(&[names, numbers]));
    Ok(())
}

/// Describes an input or output in one line.
pub(crate) fn tensor(tensor: &TensorDesc) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(ToString::to_string).collect();
    let scale = tensor
        .scale
        .map_or(String::new(), |scale| format!(", scale={scale}"));
    format!(
        "{} [dtype={}{scale}, shape=({})]",
        tensor.name,
        tensor.element,
        dims.join(", ")
    )
}

/// Writes every layer of the engine, and every quantised layer of the network.
///
/// # Errors
/// As [`target`].
pub(crate) fn table(text: &mut String, table: &LayerTable) -> Result {
    for (i, layer) in table.layers.iter().enumerate() {
        write_layer(text, i, layer)?;
    }
    if table.quantized.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n---- {} Quantised Layer(s) of the Network ----",
        table.quantized.len()
    )?;
    let mut rows = vec![vec!["node".to_owned(), "op".to_owned(), "reads".to_owned()]];
    rows.extend(table.quantized.iter().map(|layer| {
        let (node, operator) = (layer.node.clone(), layer.operator.clone());
        vec![node, operator, layer.outcome.to_string()]
    }));
    text.push_str(&aligned(&rows));
    Ok(())
}

fn write_layer(text: &mut String, i: usize, layer: &EngineLayer) -> Result {
    let tensors = |all: &[LayerTensor]| -> String {
        let all: Vec<String> = all.iter().map(layer_tensor).collect();
        format!("{{{}}}", all.join(",\n     "))
    };
    writeln!(text, "Layer {i:<4} | {} [Op: {}]", layer.name, layer.kind)?;
    if !(layer.inputs.is_empty() && layer.outputs.is_empty()) {
        writeln!(text, "    {}", tensors(&layer.inputs))?;
        writeln!(text, "     -> {}", tensors(&layer.outputs))?;
    }
    if !layer.tactic.is_empty() {
        writeln!(text, "    Tactic: {}", layer.tactic)?;
    }
    if !layer.nodes.is_empty() {
        writeln!(text, "    Nodes: {}", layer.nodes.join(", "))?;
    }
    Ok(())
}

fn layer_tensor(tensor: &LayerTensor) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(ToString::to_string).collect();
    let LayerTensor {
        name,
        element,
        format,
        ..
    } = tensor;
    format!(
        "{name} [dtype={element}, shape=({}), format={format}]",
        dims.join(", ")
    )
}
