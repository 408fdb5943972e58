//! `cp-build import`: from exported ONNX files, or from a PyTorch checkpoint, to a model folder.

use std::path::PathBuf;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::build::Folder;
use crate::build::checkpoint::{Report, Request, ScaleUse};
use crate::build::folder::{self, Sources};

/// Arguments of `cp-build import`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pillar feature network (AWML, mmdetection3d: pts_voxel_encoder.onnx) [default: that of Autoware's folder].
    #[arg(long, value_name = "FILE.onnx", conflicts_with = "checkpoint")]
    pfe: Option<PathBuf>,
    /// Backbone, neck and head (pts_backbone_neck_head.onnx) [default: that of Autoware's folder]. With a checkpoint: a float
    /// export that lends its graph [default: SECOND, SECONDFPN and CenterHead, built from the checkpoint].
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
    /// PyTorch checkpoint of mmdetection3d, AWML or det3d (*.pth, *.safetensors) instead of exported networks, also one that
    /// pytorch-quantization or ModelOpt has quantised. Nothing of it runs.
    #[arg(long, value_name = "FILE.pth")]
    checkpoint: Option<PathBuf>,
    /// With a checkpoint: its ranges by quantiser (torch.save), if it has none itself.
    #[arg(long, value_name = "FILE.calib", requires = "checkpoint")]
    calib: Option<PathBuf>,
    /// With a checkpoint: flattened mmengine configuration, for strides and the ε of BatchNormalization [default: that in the
    /// checkpoint, or strides by head.downsample].
    #[arg(long, value_name = "FILE.py", requires = "checkpoint")]
    network_config: Option<PathBuf>,
    /// With a quantised checkpoint: layers whose quantisers were off, as patterns: `*` matches any characters, `?` one.
    #[arg(long, value_name = "PATTERN", num_args = 1.., requires = "checkpoint")]
    skip: Vec<String>,
    /// With a quantised checkpoint or network: what becomes of its scales [default: keep].
    #[arg(long, value_enum)]
    scales: Option<ScalesArg>,
    /// With a checkpoint: ε of the head's BatchNormalizations, if its configuration does not state it [default: 0.001; for
    /// det3d 0.00001].
    #[arg(long, value_name = "EPS", requires = "checkpoint", value_parser = epsilon)]
    head_eps: Option<f64>,
    /// With a checkpoint: leave out tensors that are no part of the network.
    #[arg(long, requires = "checkpoint")]
    allow_unmatched: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ScalesArg {
    /// The network is quantised with them, as they are
    Keep,
    /// The network is the float one, to be calibrated
    None,
}

/// A small positive number.
fn epsilon(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number < 1.0 {
        Ok(number)
    } else {
        Err("expected a number between 0 and 1".into())
    }
}

/// Runs `cp-build import`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let scales = args.scales.map(|scales| match scales {
        ScalesArg::Keep => ScaleUse::Keep,
        ScalesArg::None => ScaleUse::Drop,
    });
    if let Some(checkpoint) = args.checkpoint {
        let request = Request {
            checkpoint,
            calib: args.calib,
            graph: args.rpn,
            config: args.network_config,
            skip: args.skip,
            scales,
            head_eps: args.head_eps,
            allow_unmatched: args.allow_unmatched,
        };
        let (folder, report) =
            folder::import_checkpoint(&request, &args.model, &args.out, args.force)?;
        summary(&folder);
        tensors(&report);
        return Ok(());
    }
    let is_folder = args.model.first().is_some_and(|first| first.is_dir());
    if !is_folder && (args.pfe.is_none() || args.rpn.is_none()) {
        let message = "--pfe and --rpn are required, unless --model names a folder of Autoware's or there is a --checkpoint";
        super::Cli::command()
            .error(ErrorKind::MissingRequiredArgument, message)
            .exit();
    }
    let sources = Sources {
        pfe: args.pfe.as_deref(),
        rpn: args.rpn.as_deref(),
        model: &args.model,
    };
    let folder = folder::import_with(
        &sources,
        scales.unwrap_or(ScaleUse::Keep),
        &args.out,
        args.force,
    )?;
    summary(&folder);
    Ok(())
}

/// Prints what a folder holds, and what was changed.
fn summary(folder: &Folder) {
    let model = &folder.model;
    println!(
        "{}: {} classes, {} × {} cells, PFN of {} layers, {} outputs by {}",
        folder.path().display(),
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
}

/// Prints what became of a checkpoint's tensors.
fn tensors(report: &Report) {
    println!("read {} tensors", report.matched);
    for step in &report.steps {
        println!("{step}");
    }
    for ignored in &report.ignored {
        println!("ignored {ignored}");
    }
    for key in &report.unmatched {
        println!("left out `{key}`, which is no part of the network");
    }
}
