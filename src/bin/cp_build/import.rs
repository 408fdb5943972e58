//! `cp-build import`: from exported ONNX files to a model folder.

use std::path::PathBuf;

use centerpoint::build::folder::{self, Sources};

/// Arguments of `cp-build import`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pillar feature network (AWML, mmdetection3d: pts_voxel_encoder.onnx).
    #[arg(long, value_name = "FILE.onnx")]
    pfe: PathBuf,
    /// Backbone, neck and head (pts_backbone_neck_head.onnx).
    #[arg(long, value_name = "FILE.onnx")]
    rpn: PathBuf,
    /// The model description: one model.toml, or Autoware's *.param.yaml files.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    model: Vec<PathBuf>,
    /// The model folder to create.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a model that is already in the folder.
    #[arg(long)]
    force: bool,
}

/// Runs `cp-build import`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let sources = Sources {
        pfe: &args.pfe,
        rpn: &args.rpn,
        model: &args.model,
    };
    let folder = folder::import(&sources, &args.out, args.force)?;
    let model = &folder.model;
    println!(
        "{}: {} classes, {} × {} cells, PFN of {} layers, {} outputs by {}",
        args.out.display(),
        model.classes.len(),
        model.grid.nx,
        model.grid.ny,
        folder.pfe.pfn.layers.len(),
        6 * model.head.tasks.len(),
        folder.rpn.matching,
    );
    for step in folder.steps() {
        log::info!("{step}");
    }
    for name in &folder.rpn.unused {
        println!("removed output `{name}`, which the model description does not list");
    }
    Ok(())
}
