//! `cp-build import`: from exported ONNX files to a model folder.

use std::path::PathBuf;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::build::folder::{self, Sources};

/// Arguments of `cp-build import`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pillar feature network (AWML, mmdetection3d: pts_voxel_encoder.onnx) [default: that of Autoware's folder].
    #[arg(long, value_name = "FILE.onnx")]
    pfe: Option<PathBuf>,
    /// Backbone, neck and head (pts_backbone_neck_head.onnx) [default: that of Autoware's folder].
    #[arg(long, value_name = "FILE.onnx")]
    rpn: Option<PathBuf>,
    /// The model description: one model.toml; Autoware's *.param.yaml files; or a folder of Autoware's model repository,
    /// and further *.param.yaml files.
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
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let is_folder = args.model.first().is_some_and(|first| first.is_dir());
    if !is_folder && (args.pfe.is_none() || args.rpn.is_none()) {
        let message = "--pfe and --rpn are required, unless --model names a folder of Autoware's";
        super::Cli::command()
            .error(ErrorKind::MissingRequiredArgument, message)
            .exit();
    }
    let sources = Sources {
        pfe: args.pfe.as_deref(),
        rpn: args.rpn.as_deref(),
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
    for assumed in &folder.assumed {
        println!("{assumed}");
    }
    for name in &folder.rpn.unused {
        println!("removed output `{name}`, which the model description does not list");
    }
    Ok(())
}
