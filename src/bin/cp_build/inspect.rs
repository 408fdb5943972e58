//! `cp-build inspect`: what is in a plan, in the manner of `polygraphy inspect model`.

use std::fmt::Write;
use std::path::PathBuf;

use centerpoint::engine::cpu::{Layer, LayerTensor, Program};
use centerpoint::plan::Plan;

/// Arguments of `cp-build inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plan.
    plan: PathBuf,
    /// Also list the layers, or the model description, or both.
    #[arg(long, value_enum, num_args = 1.., value_name = "WHAT")]
    show: Vec<Show>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Show {
    /// Every layer with its tensors, arithmetic and weights.
    Layers,
    /// The model description.
    Model,
}

/// Runs `cp-build inspect`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let plan = Plan::open(&args.plan)?;
    let mut text = String::new();
    header(&mut text, &plan)?;
    let program = plan.section("program")?;
    let program = Program::from_json(program.as_ref())?;
    program.validate(plan.section("weights")?.as_ref().len())?;
    let layers = program.layers();
    let macs: u64 = layers.iter().map(|layer| layer.macs).sum();
    let weights: u64 = layers.iter().map(|layer| layer.weight_bytes).sum();
    tensors(
        &mut text,
        "Engine Input",
        [&program.tensors[program.input]]
            .into_iter()
            .map(|t| describe(&t.name, [t.channels, t.height, t.width], t.scale)),
    )?;
    tensors(
        &mut text,
        "Engine Output",
        program.outputs.iter().map(|output| {
            let t = &program.tensors[output.tensor];
            describe(&output.name, [t.channels, t.height, t.width], t.scale)
        }),
    )?;
    writeln!(
        text,
        "---- {} Layers ----\n{:.2} GMAC, {:.2} MB of weights",
        layers.len(),
        macs as f64 / 1e9,
        weights as f64 / 1e6
    )?;
    if args.show.contains(&Show::Layers) {
        for (i, layer) in layers.iter().enumerate() {
            write_layer(&mut text, i, layer)?;
        }
    }
    if args.show.contains(&Show::Model) {
        let section = plan.section("model")?;
        writeln!(
            text,
            "\n---- Model ----\n{}",
            String::from_utf8_lossy(section.as_ref()).trim_end()
        )?;
    }
    crate::print(&text)
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
    let each: Vec<String> = tensors.collect();
    writeln!(text, "{{{}}}\n", each.join(",\n "))
}

fn describe(name: &str, [c, h, w]: [usize; 3], scale: Option<f32>) -> String {
    match scale {
        None => format!("{name} [dtype=float32, shape=(1, {c}, {h}, {w})]"),
        Some(scale) => format!("{name} [dtype=int8, scale={scale}, shape=(1, {c}, {h}, {w})]"),
    }
}

fn write_layer(text: &mut String, i: usize, layer: &Layer) -> std::fmt::Result {
    let describe = |t: &LayerTensor| describe(&t.name, t.shape, t.scale);
    let inputs: Vec<String> = layer.inputs.iter().map(describe).collect();
    writeln!(text, "Layer {i:<4} | {} [Op: {}]", layer.name, layer.kind)?;
    writeln!(text, "    {{{}}}", inputs.join(",\n     "))?;
    writeln!(text, "     -> {{{}}}", describe(&layer.output))?;
    writeln!(
        text,
        "    {:.1} MMAC, {:.1} kB of weights",
        layer.macs as f64 / 1e6,
        layer.weight_bytes as f64 / 1e3
    )
}
