//! `cp-build inspect`: shows the content of a plan, in the style of `polygraphy inspect model`, and the
//! quantisers of a plan, a calibration or an ONNX file with Q/DQ pairs.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::build::calibrate::Calibration;
use crate::build::engine_layers::LayerTable;
use crate::build::folder::{CheckpointOrigin, FolderManifest};
use crate::build::onnx::Graph;
use crate::build::quantize;
use crate::build::status::{self, engine};
use crate::plan::{Plan, PlanError, Quantization, TensorRtTarget};
use crate::program::{Program, ProgramLayer, ProgramTensor, Tensor};

/// Arguments of `cp-build inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A plan, a calibration (*.calib.json) or an ONNX file.
    file: PathBuf,
    /// Parts of a plan to list in addition to its summary.
    #[arg(long, value_enum, num_args = 1.., value_name = "WHAT")]
    show: Vec<Show>,
    /// For a calibration: ranges over the cells with a pillar instead of all cells.
    #[arg(long)]
    occupied: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Show {
    /// Every layer with its tensors, arithmetic and weights.
    Layers,
    /// The model description.
    Model,
    /// Every quantiser: range, channels, origin.
    Quantizers,
}

/// Runs `cp-build inspect`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let mut text = String::new();
    match FileKind::detect(&args.file) {
        FileKind::Plan => plan(&mut text, &args)?,
        FileKind::Calibration => {
            text = status::calibration(&Calibration::read(&args.file)?, args.occupied);
        }
        FileKind::Onnx => network(&mut text, &args.file)?,
    }
    super::print(&text)
}

enum FileKind {
    Plan,
    Calibration,
    Onnx,
}

impl FileKind {
    /// Detects the kind by the first byte, then by the extension. An unreadable file counts as a plan,
    /// whose reader reports the error.
    fn detect(path: &Path) -> Self {
        let mut first = [0];
        // Opening a pipe would wait for its writer.
        let file = path.is_file().then(|| std::fs::File::open(path));
        let read = file.and_then(|file| file.ok()?.read_exact(&mut first).ok());
        match (read, first) {
            (Some(()), [b'{']) => Self::Calibration,
            _ if path.extension().is_some_and(|e| e == "onnx") => Self::Onnx,
            _ => Self::Plan,
        }
    }
}

/// Lists the quantisers of an ONNX file.
fn network(text: &mut String, path: &Path) -> crate::Result<()> {
    let graph = Graph::read(path)?;
    let pairs = quantize::read(&graph)?;
    writeln!(
        text,
        "[I] ==== ONNX ====\n{} nodes, operator set {}, ranges from the scales in the file\n",
        graph.nodes().count(),
        graph.opset()
    )?;
    if pairs.quantizers.is_empty() && pairs.left_out.is_empty() {
        text.push_str("no Q/DQ pairs: a float network\n");
        return Ok(());
    }
    text.push_str(&status::quantizers(&pairs.quantizers));
    for left_out in pairs.left_out {
        writeln!(text, "not listed: {left_out}")?;
    }
    // A file without its folder has the same pairs.
    let manifest = FolderManifest::read(path.parent().unwrap_or(Path::new("")));
    let manifest = manifest.ok().flatten();
    if let Some(CheckpointOrigin { file, scales }) = manifest.and_then(|m| m.checkpoint) {
        writeln!(text, "\n---- Scales from {file} ----")?;
        for (layer, [input, weight]) in scales {
            writeln!(text, "{layer}: input {input}, weight {weight}")?;
        }
    }
    Ok(())
}

fn plan(text: &mut String, args: &Args) -> crate::Result<()> {
    let plan = Plan::open(&args.file)?;
    header(text, &plan)?;
    let show_layers = args.show.contains(&Show::Layers);
    match &plan.manifest().target.tensorrt {
        Some(target) => tensorrt_engine(text, &plan, target, show_layers)?,
        None => cpu_engine(text, &plan, show_layers)?,
    }
    if args.show.contains(&Show::Model) {
        let section = plan.section("model")?;
        writeln!(
            text,
            "\n---- Model ----\n{}",
            String::from_utf8_lossy(section.as_ref()).trim_end()
        )?;
    }
    if args.show.contains(&Show::Quantizers) {
        match &plan.manifest().quantization {
            Some(quantization) => quantizers(text, quantization)?,
            None => text.push_str("\nno quantisers: a float plan\n"),
        }
    }
    Ok(())
}

fn cpu_engine(text: &mut String, plan: &Plan, show_layers: bool) -> crate::Result<()> {
    let program = plan.section("program")?;
    let program = Program::from_json(program.as_ref())?;
    program.validate(plan.section("weights")?.as_ref().len())?;
    let map = |name: &str, t: &Tensor| {
        let shape = [t.channels, t.height, t.width];
        describe(name, shape, t.scale, t.zero_point)
    };
    let layers = program.layers();
    let macs: u64 = layers.iter().map(|layer| layer.macs).sum();
    let weights: u64 = layers.iter().map(|layer| layer.weight_bytes).sum();
    tensors(
        text,
        "Engine Input",
        [&program.tensors[program.input]]
            .into_iter()
            .map(|t| map(&t.name, t)),
    )?;
    tensors(
        text,
        "Engine Output",
        program
            .outputs
            .iter()
            .map(|output| map(&output.name, &program.tensors[output.tensor])),
    )?;
    writeln!(
        text,
        "---- {} Layers ----\n{:.2} GMAC, {:.2} MB of weights",
        layers.len(),
        macs as f64 / 1e9,
        weights as f64 / 1e6
    )?;
    if show_layers {
        for (i, layer) in layers.iter().enumerate() {
            write_layer(text, i, layer)?;
        }
    }
    Ok(())
}

/// Reads only the manifest and the section `layers`, not the engine itself.
fn tensorrt_engine(
    text: &mut String,
    plan: &Plan,
    target: &TensorRtTarget,
    show_layers: bool,
) -> crate::Result<()> {
    engine::target(text, target)?;
    text.push('\n');
    for (what, input) in [("Engine Input", true), ("Engine Output", false)] {
        let side = target.tensors.iter().filter(|t| t.input == input);
        let lines: Vec<String> = side.map(engine::tensor).collect();
        tensors(text, what, lines.into_iter())?;
    }
    let layers = plan.sections().find(|(name, _)| *name == "layers");
    let table: Option<LayerTable> = match layers {
        Some(_) => {
            let section = plan.section("layers")?;
            let read = serde_json::from_slice(section.as_ref());
            Some(read.map_err(|e| PlanError::Broken {
                path: plan.path().into(),
                what: format!("section `layers`: {e}"),
            })?)
        }
        None => None,
    };
    let number = table.as_ref().map_or(0, |table| table.layers.len());
    writeln!(text, "---- {number} Layers ----")?;
    engine::counts(text, target)?;
    if let (true, Some(table)) = (show_layers, &table) {
        engine::table(text, table)?;
    }
    Ok(())
}

/// Lists the quantisers of a plan and the origin of their ranges.
fn quantizers(text: &mut String, quantization: &Quantization) -> std::fmt::Result {
    let Quantization {
        config,
        calibration,
        sqnr,
        int8,
        float,
        ..
    } = quantization;
    writeln!(
        text,
        "\n---- Quantisation ----\n{} layers in INT8, {} in float\nRanges: {}, from {} frames\n\
         Frames: sha256:{}\nNetwork: sha256:{}",
        int8.len(),
        float.len(),
        config.label(),
        calibration.frames,
        calibration.key.frames,
        calibration.key.model,
    )?;
    if let Some(sqnr) = sqnr {
        writeln!(
            text,
            "SQNR: {:.1} dB on {} held-out frames",
            sqnr.figure, sqnr.frames
        )?;
    }
    if !float.is_empty() {
        writeln!(text, "Float: {}", float.join(" "))?;
    }
    text.push('\n');
    text.push_str(&status::quantizers(&quantization.quantizers));
    Ok(())
}

fn header(text: &mut String, plan: &Plan) -> std::fmt::Result {
    let (manifest, model) = (plan.manifest(), plan.model());
    let target = &manifest.target;
    writeln!(text, "[I] ==== Plan ====")?;
    writeln!(
        text,
        "Name: {} | Target: {} {}",
        model.name, target.engine, target.precision
    )?;
    writeln!(text, "Written by: {}", manifest.producer)?;
    for (name, hash) in &manifest.inputs {
        writeln!(text, "Made from: {name} sha256:{hash}")?;
    }
    match &manifest.accuracy {
        Some(accuracy) => {
            write!(
                text,
                "Accuracy: {:.4} {}",
                accuracy.mean_ap, accuracy.metric
            )?;
            for (class, ap) in &accuracy.ap {
                write!(text, " | {class} {ap:.3}")?;
            }
            writeln!(text)?;
        }
        None => writeln!(text, "Accuracy: not measured")?,
    }
    writeln!(text, "Classes: {}", model.classes.join(" "))?;
    writeln!(
        text,
        "Grid: {} × {} cells of {} × {} m, at most {} pillars of {} points",
        model.grid.nx,
        model.grid.ny,
        model.grid.voxel[0],
        model.grid.voxel[1],
        model.grid.max_pillars,
        model.grid.max_points_per_pillar
    )?;
    let layers: Vec<String> = plan
        .pfn()
        .layers
        .iter()
        .map(|layer| format!("{} → {}", layer.in_features, layer.out_features))
        .collect();
    writeln!(text, "PFN: {}", layers.join(", "))?;
    let sections: Vec<String> = plan
        .sections()
        .map(|(name, bytes)| format!("{name} {bytes}"))
        .collect();
    writeln!(text, "Sections (bytes): {}\n", sections.join(" | "))
}

fn tensors(
    text: &mut String,
    what: &str,
    tensors: impl ExactSizeIterator<Item = String>,
) -> std::fmt::Result {
    writeln!(text, "---- {} {what}(s) ----", tensors.len())?;
    let lines: Vec<String> = tensors.collect();
    writeln!(text, "{{{}}}\n", lines.join(",\n "))
}

fn describe(name: &str, [c, h, w]: [usize; 3], scale: Option<f32>, zero_point: i8) -> String {
    let codes = match (scale, zero_point) {
        (None, _) => "dtype=float32".to_owned(),
        (Some(scale), 0) => format!("dtype=int8, scale={scale}"),
        (Some(scale), zero) => format!("dtype=int8, scale={scale}, zero_point={zero}"),
    };
    format!("{name} [{codes}, shape=(1, {c}, {h}, {w})]")
}

fn write_layer(text: &mut String, i: usize, layer: &ProgramLayer) -> std::fmt::Result {
    let describe = |t: &ProgramTensor| describe(&t.name, t.shape, t.scale, t.zero_point);
    let inputs: Vec<String> = layer.inputs.iter().map(describe).collect();
    writeln!(text, "Layer {i:<4} | {} [Op: {}]", layer.name, layer.kind)?;
    writeln!(text, "    {{{}}}", inputs.join(",\n     "))?;
    writeln!(text, "     -> {{{}}}", describe(&layer.output))?;
    let bits = match layer.weight_bits {
        Some(4) => " of 4 bits",
        _ => "",
    };
    writeln!(
        text,
        "    {:.1} MMAC, {:.1} kB of weights{bits}",
        layer.macs as f64 / 1e6,
        layer.weight_bytes as f64 / 1e3
    )
}
